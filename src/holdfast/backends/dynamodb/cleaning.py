"""What is left behind and how it goes: the items of ended lives, staged items that nobody took, replaced parts, tombstones.

Each of them has a mark in the dirt list before it is left behind, so that whoever dies in between leaves it to the next sweep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from ...backend import Key
from ...ids import now
from ...rules import TOMBSTONES_KEPT, alive
from . import layout
from .client import TRANSACTION_BYTES, TRANSACTION_ITEMS, Op, Refused, Table, where
from .layout import DIRT_LIST, DUE, HEAD, SORT, Item, Stored, address
from .reading import Torn, load_redo
from .writes import condition_on, ended

STAGE_SECONDS = 3600.0
"""How long a commit may take to stage its items: what is older and not taken is removed."""
_PAGES = 20
"""Pages of the index that one sweep of few sessions looks through; the next one goes on from there."""


def clean(table: Table, mark: Item) -> None:
    """Remove what `mark` tells of, and then the mark. A commit that wants the staged items after this is refused, and stages anew."""
    pk, prefix = mark[layout.PARTITION]["S"], mark["prefix"]["S"]
    grave = layout.is_grave(mark)
    if not grave:
        try:
            table.write([Op("Put", mark | {"taken": {"BOOL": True}}, where(f"attribute_exists(#{layout.PARTITION})"))])
        except Refused:
            return
    remove(table, pk, prefix)
    if grave:
        table.write([Op("Put", layout.settled_grave(mark))])
    else:
        table.write([Op("Delete", mark)])


def remove(table: Table, pk: str, prefix: str) -> None:
    """Delete every item whose sort key begins so, from the top down: the state goes first, then the newest entries."""
    for page in table.query(pk, prefix, prefix + "\U0010ffff", backwards=True, keys_only=True):
        table.delete_all(page)


def finish_redo(table: Table, key: Key, stored: Stored) -> None:
    """Carry out what the newest commit has left to do, however many try it at once, and say in the head that it is done."""
    if stored.redo is None:
        return
    pk = layout.partition(key)
    pending = Op("ConditionCheck", address(pk, HEAD), where("#redo = :redo", redo=stored.redo[0]))
    done = replace(stored, redo=None, mark=layout.new_mark())
    try:
        for group in grouped(list(load_redo(table, pk, stored).values())):
            table.write([pending, *group])
        table.write([Op("Put", layout.head_item(key, done), condition_on(stored))])
    except (Refused, Torn):  # somebody else has done it
        return
    remove(table, pk, layout.parts_prefix(stored.life, stored.redo[0]))


def grouped(ops: list[Op]) -> Iterator[list[Op]]:
    """As many at a time as a transaction takes beside a check."""
    group, size = list[Op](), 0
    for op in ops:
        if group and (len(group) == TRANSACTION_ITEMS - 1 or size + op.size > TRANSACTION_BYTES):
            yield group
            group, size = [], 0
        group.append(op)
        size += op.size
    if group:
        yield group


# --- sweeping --------------------------------------------------------------------------------------------------------


class Sweeper:
    """Finds what has expired by going round the index of all sessions, a part of it in each call."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._next: Item | None = None

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` expired sessions, then what lies in the dirt list; how many sessions went."""
        gone = 0
        for page in self._rounds(limit):
            for item in self._table.get_many([address(it[layout.PARTITION]["S"], HEAD) for it in page]):
                if gone < limit and self._end(item):
                    gone += 1
            if gone >= limit:
                break
        self._clean(limit)
        return gone

    def _rounds(self, limit: int) -> Iterator[list[Item]]:
        """Index entries of sessions that may have expired, from where the last call ended and round to there, within limits."""
        left, starts = max(_PAGES, limit), [self._next, None] if self._next else [None]
        condition = {
            "IndexName": layout.BY_TENANT,
            "FilterExpression": "#due <= :today",
            "ExpressionAttributeNames": {"#due": DUE},
            "ExpressionAttributeValues": {":today": {"N": str(layout.today())}},
        }
        for start in starts:
            for page, following in self._table.scan(start, **condition):
                self._next = following
                yield page
                left -= 1
                if left <= 0:
                    return

    def _end(self, item: Item) -> bool:
        stored, key = layout.stored_of(item), layout.key_of(item)
        if alive(stored.head, now()):
            return False
        writes = ended(key, stored)
        try:
            self._table.write(writes.all())
        except Refused:
            return False
        clean(self._table, layout.grave_item(layout.partition(key), stored))
        return True

    def _clean(self, limit: int) -> None:
        pages = self._table.listed(layout.BY_TENANT, DIRT_LIST, int(time.time()) + 1, 100)
        left = max(limit, 100)
        for page in pages:
            for mark in self._table.get_many([address(it[layout.PARTITION]["S"], it[SORT]["S"]) for it in page]):
                if mark["prefix"]["S"] == layout.TOMBSTONES:
                    drop_tombstones(self._table, mark)
                else:
                    clean(self._table, mark)
            left -= len(page)
            if left <= 0:
                return


def drop_tombstones(table: Table, mark: Item) -> None:
    """All of a session's, once the head says so: who last saw the state before the newest one reads it whole."""
    pk = mark[layout.PARTITION]["S"]
    item = table.get(address(pk, HEAD))
    stored = layout.stored_of(item) if item else None
    if item is not None and stored is not None and stored.buried > TOMBSTONES_KEPT:
        key = layout.key_of(item)
        if stored.redo is not None:
            finish_redo(table, key, stored)
            return
        prefix = f"{layout.under(stored.life)}{layout.STATE}/"
        buried = [it for page in table.query(pk, prefix, prefix + "\U0010ffff") for it in page if "gone" in it]
        floor = max([int(it["version"]["N"]) for it in buried], default=0)
        raised = replace(stored, head=replace(stored.head, floor=floor), buried=0, mark=layout.new_mark())
        try:
            table.write([Op("Put", layout.head_item(key, raised), condition_on(stored))])
        except Refused:
            return
        for tombstone in buried:
            _drop(table, tombstone)
    table.write([Op("Delete", mark)])


def _drop(table: Table, tombstone: Item) -> None:
    version = int(tombstone["version"]["N"])
    with suppress(Refused):  # the key has a value again
        table.write([Op("Delete", tombstone, where("#version = :version AND attribute_exists(#gone)", version=version))])
