"""Lists: one index names sessions in the order of their creation, the table has their heads."""

from __future__ import annotations

import logging

from ...backend import Filter, Head, Page
from ...errors import Corrupt
from ...ids import now
from ...rules import alive, matches, numbered
from . import layout
from .client import Table
from .layout import HEAD, ORDER, PARTITION, Item, address

_PAGE_WORK = 1000
"""How many sessions one page of a list looks at before it gives the next cursor."""
_MOST = (1 << 62) - 1

_log = logging.getLogger("holdfast")


def page(table: Table, filter: Filter, cursor: str | None, limit: int) -> Page:
    """One page, newest created first, from the index that fits; at most about `_PAGE_WORK` sessions are looked at."""
    below, time = numbered(cursor, _MOST), now()
    items, looked = list[tuple[str, Head]](), 0
    for entries in table.listed(*_index(filter), below, min(max(limit + 1, 10), 100)):
        heads = {it[PARTITION]["S"]: it for it in table.get_many([address(it[PARTITION]["S"], HEAD) for it in entries])}
        for entry in entries:
            if len(items) == limit or looked == _PAGE_WORK:
                return Page(items, str(below))
            below, looked = int(entry[ORDER]["N"]), looked + 1
            head = _shown(heads.get(entry[PARTITION]["S"]), below)
            if head and alive(head, time) and matches(filter, head):
                items.append((layout.key_of(heads[entry[PARTITION]["S"]]).session_id, head))
    return Page(items, None)


def _index(filter: Filter) -> tuple[str, str]:
    if filter.user_id is not None:
        return layout.BY_USER, layout.composed(filter.tenant, filter.user_id)
    return (layout.BY_WAITING if filter.waiting else layout.BY_TENANT), layout.composed(filter.tenant)


def _shown(item: Item | None, place: int) -> Head | None:
    """The head, if it is of the session that the index means: entries lag behind. One session's damage is not the others'."""
    if item is None or int(item[ORDER]["N"]) != place:
        return None
    try:
        return layout.stored_of(item).head
    except Corrupt as error:
        _log.warning("left out: %s", error)
        return None
