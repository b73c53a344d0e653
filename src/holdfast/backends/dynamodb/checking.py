"""Reading the whole table for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...errors import Corrupt
from . import layout
from .client import Table
from .layout import HEAD, PARTITION, SORT, Item, Stored, address

_LOOKS = 5
"""How often a session that is being written to is looked at before it is left alone."""


def check(table: Table) -> list[str]:
    """Everything that is wrong, session by session. What is left behind and marked for a sweep is not wrong."""
    names = {"#p": PARTITION}
    pages = table.scan(ProjectionExpression="#p", ExpressionAttributeNames=names)
    found: set[str] = {it[PARTITION]["S"] for page, _ in pages for it in page}
    return [problem for pk in sorted(found) if not layout.is_counter(pk) for problem in _problems(table, pk)]


def _problems(table: Table, pk: str) -> list[str]:
    found: list[str] = []
    for _ in range(_LOOKS):
        before = table.get(address(pk, HEAD))
        items = [it for page in table.query(pk, "!", HEAD) for it in page]
        found = [f"{_name(pk, before)}: {problem}" for problem in _wrong(table, pk, before, items)]
        if not found or table.get(address(pk, HEAD)) == before:
            return found
    return []


def _name(pk: str, head: Item | None) -> str:
    return str(layout.key_of(head)) if head else f"partition {pk!r}"


def _wrong(table: Table, pk: str, head: Item | None, items: list[Item]) -> Iterator[str]:
    try:
        stored = layout.stored_of(head) if head else None
    except Corrupt as error:
        yield str(error)
        return
    life = layout.under(stored.life) if stored else None
    marked = tuple(it["prefix"]["S"] for it in items if layout.is_dirty(it) and it["prefix"]["S"] != layout.TOMBSTONES)
    held = [it for it in items if it[SORT]["S"] != HEAD and not it[SORT]["S"].startswith("!") and not it[SORT]["S"].startswith(marked)]
    astray = [it for it in held if life is None or not it[SORT]["S"].startswith(life)]
    if astray:
        yield f"{len(astray)} items that belong to no life, from {astray[0][SORT]['S']} on"
    if stored is not None:
        own = [it for it in held if it not in astray]
        yield from _log(stored, own)
        yield from _versions(stored, own)
        yield from _parts(stored, own)


def _section(items: list[Item], section: str) -> list[Item]:
    return [it for it in items if it[SORT]["S"][13] == section]


def _log(stored: Stored, items: list[Item]) -> Iterator[str]:
    reached = 0
    for item in _section(items, layout.LOG):
        first, last = int(item[SORT]["S"][15:], 16), int(item["last"]["N"])
        if first != reached + 1:
            yield f"the log goes from seq {reached} to {first}"
        reached = last
        try:
            if "data" in item and len(layout.rows_of(item["data"]["B"])) != last - first + 1:
                yield f"the entries {first} to {last} are not all there"
        except msgspec.MsgspecError as error:
            yield f"the entries {first} to {last} are not readable: {error}"
    if reached != stored.head.seq:
        yield f"the log ends at seq {reached}, not at {stored.head.seq}"


def _versions(stored: Stored, items: list[Item]) -> Iterator[str]:
    for item in items:
        if "version" in item and int(item["version"]["N"]) > stored.head.version:
            yield f"{item[SORT]['S']} is of version {item['version']['N']}, the session of {stored.head.version}"


def _parts(stored: Stored, items: list[Item]) -> Iterator[str]:
    """Values without their parts, and parts without a value."""
    wanted = {layout.part_key(stored.life, it["parts"]["S"], n) for it in items if "parts" in it for n in range(int(it["count"]["N"]))}
    redone = stored.redo is not None
    if stored.redo is not None:
        wanted |= {layout.part_key(stored.life, stored.redo[0], n) for n in range(stored.redo[1])}
    there = {it[SORT]["S"] for it in _section(items, layout.PARTS)}
    if missing := wanted - there:
        yield f"{len(missing)} parts of large values are missing, such as {min(missing)}"
    if (spare := there - wanted) and not redone:
        yield f"{len(spare)} parts belong to no value, such as {min(spare)}"
