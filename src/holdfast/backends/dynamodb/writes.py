"""What a commit writes, item by item. Nothing here asks the database: what must be known beforehand is handed in."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from ...backend import BlobDrop, BlobPut, Commit, Head, Key, Put, StateRow
from ...entries import Entry
from ...ledger import Record as Content
from ...rules import TOMBSTONES_KEPT, asked
from . import layout
from .client import Op, where
from .layout import PAGE, PARTITION, SORT, Item, Stored, address

_NOT_THERE = f"attribute_not_exists(#{PARTITION})"


class Writes:
    """The items of one try at a commit. `head` comes first among the ops, then what else decides, then what the life holds."""

    def __init__(self, pk: str, stored: Stored) -> None:
        self.pk = pk
        self.stored = stored
        self.deciding: list[Op] = []
        self.held: dict[str, Op] = {}
        """What lies in the life, by sort key: an item is written once."""
        self.parts: list[Item] = []
        self.orphans: list[Item] = []
        """Marks of parts that nobody refers to any more once this is written."""
        self.batch = secrets.token_hex(6)
        self.inline = layout.INLINE_BYTES

    def add(self, act: str, sort: str, attributes: Item | None = None, condition: dict[str, Any] | None = None) -> None:
        self.held[sort] = Op(act, {**address(self.pk, sort), **(attributes or {})}, condition)

    def value(self, data: bytes) -> Item:
        """The attributes that hold `data`: in the item itself, or in parts of its own."""
        if len(data) <= self.inline:
            return {"data": {"B": data}}
        return self.in_parts(data)

    def in_parts(self, data: bytes) -> Item:
        parts = f"{self.batch}{len(self.parts):06x}"
        chunks = [data[start : start + layout.PART_BYTES] for start in range(0, len(data), layout.PART_BYTES)]
        for n, chunk in enumerate(chunks):
            self.parts.append({**address(self.pk, layout.part_key(self.stored.life, parts, n)), "data": {"B": chunk}})
        return {"parts": {"S": parts}, "count": {"N": str(len(chunks))}}

    # --- what a life holds ---

    def entries(self, added: list[Entry], version: int) -> None:
        for first, last, data in layout.packed(added):
            sort = layout.log_key(self.stored.life, first)
            self.add("Put", sort, {"last": {"N": str(last)}, "version": {"N": str(version)}, **self.value(data)})

    def state(self, name: str, row: StateRow, condition: dict[str, Any] | None = None) -> None:
        sort = layout.state_key(self.stored.life, name)
        value = {"gone": {"BOOL": True}} if row.value is None else self.value(row.value)
        full = {} if sort.endswith(f"/{name}") else {"name": {"S": name}}
        self.add("Put", sort, {"version": {"N": str(row.version)}, **full, **value}, condition)

    def blob(self, it: BlobPut, version: int, condition: dict[str, Any] | None = None) -> None:
        place = {"namespace": {"S": it.namespace}, "name": {"S": it.key}, "type": {"S": it.type}, "version": {"N": str(version)}}
        self.add("Put", layout.blob_key(self.stored.life, it.namespace, it.key), {**place, **self.value(it.data)}, condition)

    # --- ops ---

    def all(self) -> list[Op]:
        return [*self.deciding, *self.held.values(), *(Op("Put", item) for item in self.parts)]


def condition_on(stored: Stored | None) -> dict[str, Any]:
    """The head is still the very one that was judged."""
    return where(_NOT_THERE) if stored is None else where("#mark = :mark", mark=stored.mark)


def begun(key: Key, old: Stored | None, head: Head, commit: Commit, content: Content, place: int, copied: list[Entry]) -> Writes:
    """The writes of a commit that begins a life with `content`; `old` is the head that is there, of the life that ends."""
    entries = sorted(content.entries + content.hidden, key=lambda it: it.seq)
    record = layout.record_of(commit, head.seq, copied).pack()
    stored = Stored(
        head,
        place,
        layout.new_life(),
        layout.new_mark(),
        hidden=layout.hide((), commit.hide, head.seq),
        state_at=head.version if content.state else 0,
        blobs_at=head.version if content.blobs else 0,
    )
    writes = Writes(layout.partition(key), stored)
    writes.entries(entries, head.version)
    for name, row in content.state.items():
        writes.state(name, row)
    for it in content.blobs.values():
        writes.blob(BlobPut(it.namespace, it.key, it.type, it.data or b""), head.version)
    _journal(writes, record)
    _decide(writes, key, old)
    if old is not None:
        _bury(writes, old)
    return writes


def ended(key: Key, old: Stored) -> Writes:
    """The writes that delete a session."""
    writes = Writes(layout.partition(key), old)
    writes.deciding.append(Op("Delete", address(writes.pk, layout.HEAD), condition_on(old)))
    _bury(writes, old)
    return writes


def _bury(writes: Writes, old: Stored) -> None:
    writes.deciding.append(Op("Put", layout.grave_item(writes.pk, old)))


def _decide(writes: Writes, key: Key, old: Stored | None) -> None:
    if any("parts" in op.item for op in writes.held.values()):
        writes.stored = replace(writes.stored, large=True)
    writes.deciding.insert(0, Op("Put", layout.head_item(key, writes.stored), condition_on(old)))


def _journal(writes: Writes, record: bytes) -> None:
    """Add the commit's record; with the last one of a page, the page goes into an item of its own."""
    stored, version = writes.stored, writes.stored.head.version
    journal = stored.journal + record
    if version % PAGE == 0:
        writes.add("Put", layout.journal_key(stored.life, version // PAGE), {"data": {"B": journal}})
        journal = b""
    writes.stored = replace(stored, journal=journal)


def changed(key: Key, old: Stored, head: Head, commit: Commit, kept: frozenset[str], found: Iterable[Item]) -> Writes:
    """The writes of a commit to a life that goes on.

    `kept`: sort keys of blobs that are there and that an `if_absent` leaves alone. `found`: the items that are there of what the commit
    replaces, where they had to be looked for: those under a dropped prefix, those whose values may lie in parts.
    """
    version, moved = head.version, head.version > old.head.version
    buried = old.buried + sum([put.value is None for put in commit.puts])
    stored = replace(
        old,
        head=head,
        mark=layout.new_mark(),
        hidden=layout.hide(old.hidden, commit.hide, head.seq) if commit.hide else old.hidden,
        state_at=version if commit.puts else old.state_at,
        blobs_at=version if commit.blobs or commit.drops else old.blobs_at,
        buried=buried,
    )
    writes = Writes(layout.partition(key), stored)
    if _weight(commit) > layout.MUCH_BYTES:
        writes.inline = layout.INLINE_OF_MUCH
    items = list(found)
    _drop(writes, commit.drops, items)
    _put_blobs(writes, commit, kept)
    for put in _last(commit.puts):
        writes.state(put.key, StateRow(put.value, version), _key_condition(put))
    first = head.seq - len(commit.entries) + 1
    added = [Entry(seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, version) for seq, it in enumerate(commit.entries, first)]
    writes.entries(added, version)
    if moved:
        _journal(writes, layout.record_of(commit, head.seq).pack())
    _decide(writes, key, old)
    if old.buried <= TOMBSTONES_KEPT < buried:
        writes.deciding.append(Op("Put", layout.tombstones_item(writes.pk)))
    writes.orphans = list(_orphans(writes, items))
    writes.deciding += [Op("Put", mark) for mark in writes.orphans]
    return writes


def _weight(commit: Commit) -> int:
    bodies = sum([len(it.body) for it in commit.entries]) + sum([len(it.data) for it in commit.blobs])
    return bodies + sum([len(it.value or b"") for it in commit.puts])


def _drop(writes: Writes, drops: Iterable[BlobDrop], found: list[Item]) -> None:
    for drop in drops:
        if drop.key is not None:
            writes.add("Delete", layout.blob_key(writes.stored.life, drop.namespace, drop.key))
        else:
            for item in found:
                if "namespace" in item and asked(drop, item["namespace"]["S"], item["name"]["S"]):
                    writes.add("Delete", item[SORT]["S"])


def _put_blobs(writes: Writes, commit: Commit, kept: frozenset[str]) -> None:
    for it in commit.blobs:
        sort = layout.blob_key(writes.stored.life, it.namespace, it.key)
        there = writes.held.get(sort)
        if not it.if_absent or (there is not None and there.act == "Delete"):
            writes.blob(it, writes.stored.head.version)
        elif there is None and sort not in kept:
            writes.blob(it, writes.stored.head.version, where(_NOT_THERE))


def _last(puts: Iterable[Put]) -> Iterable[Put]:
    """The last put of each key, under what the first asked of it."""
    first = dict[str, Put]()
    for put in puts:
        condition = first[put.key].if_version if put.key in first else None
        first[put.key] = put if condition is None else replace(put, if_version=condition)
    return first.values()


def _key_condition(put: Put) -> dict[str, Any] | None:
    if put.if_version is None:
        return None
    if put.if_version == 0:
        return where(f"{_NOT_THERE} OR attribute_exists(#gone)")
    return where("#version = :version AND attribute_not_exists(#gone)", version=put.if_version)


def checks_of(old: Stored, commit: Commit, pk: str) -> list[Op]:
    """What `if_version` asks of the life that this commit ends."""
    conditions = ((put.key, _key_condition(put)) for put in commit.puts)
    return [Op("ConditionCheck", address(pk, layout.state_key(old.life, name)), it) for name, it in conditions if it is not None]


def grave_check(pk: str, incarnation: int) -> Op:
    """This life has not ended."""
    return Op("ConditionCheck", address(pk, layout.grave_key(incarnation)), where(_NOT_THERE))


def _orphans(writes: Writes, found: list[Item]) -> Iterator[Item]:
    """Marks for the parts of values that these writes replace."""
    for item in found:
        op = writes.held.get(item[SORT]["S"])
        if op is not None and "parts" in item and op.item.get("parts") != item["parts"]:
            yield layout.dirt_item(writes.pk, layout.parts_prefix(int(item[SORT]["S"][:12], 16), item["parts"]["S"]), 0)


def with_redo(key: Key, writes: Writes, old: Stored) -> None:
    """Put the state and blobs of too large a commit into parts, from where they are carried out once the commit has happened."""
    later = [op for sort, op in writes.held.items() if _section(sort) in (layout.STATE, layout.BLOBS)]
    for op in later:
        del writes.held[op.sort]
    data = msgspec.msgpack.encode([(op.act, op.item) for op in later])
    whole = writes.in_parts(data)
    writes.stored = replace(writes.stored, redo=(whole["parts"]["S"], int(whole["count"]["N"])))
    writes.deciding[0] = Op("Put", layout.head_item(key, writes.stored), condition_on(old))


def _section(sort: str) -> str:
    return sort[13:14]


def batch_prefix(writes: Writes) -> str:
    """What the sort keys of this try's parts begin with."""
    return f"{layout.under(writes.stored.life)}{layout.PARTS}/{writes.batch}"
