"""What a session has that its copy has not, read in pages; and what a whole session comes to, as digests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

import msgspec

from ..backend import Backend, Blob, BlobDrop, BlobPut, BlobRange, Head, Key, Put, Range, ReadPlan, Snapshot, Window
from ..entries import Entry
from ..transfer import MARKS
from .marks import Mark

PAGE_BYTES = 4 * 1024 * 1024
"""About how much is held of one session at a time, and written by one commit."""
PAGE_ENTRIES = 1000
_FIRST_BLOBS, _MOST_BLOBS = 16, 1024
_LISTED = BlobRange(data=False)

Name = tuple[str, str]
"""Namespace and key of a blob."""


class Moved(Exception):
    """The session was written to between two reads that must be of one moment: begin again."""


class Gone(Moved):
    """There is no such session any more."""


class TooMuch(Exception):
    """More has changed than one commit should carry: the session has to be staged."""


class Change(msgspec.Struct, frozen=True):
    """What one commit must do to a copy to make it the source as it was at `head`."""

    head: Head
    entries: list[Entry]
    hide: tuple[Range, ...]
    puts: tuple[Put, ...]
    blobs: tuple[BlobPut, ...]
    drops: tuple[BlobDrop, ...]


def page_of(head: Head) -> int:
    """How many entries of this session make a page, by what they take on the average."""
    return PAGE_ENTRIES if not head.counts.bytes else min(PAGE_ENTRIES, max(1, PAGE_BYTES * head.seq // head.counts.bytes))


async def change(source: Backend, key: Key, target: Backend, place: Key | None, base: Mark, page: int) -> Change:
    """What `base`, which is at `place` of the target (None: nowhere yet), lacks, as of one moment.

    `Moved` where that can't be had, `Gone` where there is no session; `TooMuch` where it is more than about `PAGE_BYTES`.
    """
    window = Window(after=base.seq, limit=page + 1, newest=False, hidden=True)
    snapshot = await source.read(key, ReadPlan(state_since=base.version, entries=window, blobs=(_LISTED,)))
    if snapshot is None:
        raise Gone
    if base.incarnation not in (0, snapshot.head.incarnation):
        raise Moved
    head, entries = snapshot.head, snapshot.entries or []
    if head.version < base.version or head.seq < base.seq:
        raise TooMuch  # the source was set back, as by a backup: nothing of the copy is to be relied on
    room = PAGE_BYTES - sum(len(entry.body) for entry in entries)
    if len(entries) > page or (room < 0 and len(entries) > 1):
        raise TooMuch
    hide = base.hidden if head.hides == base.hides or not base.seq else await hidden(source, key, base.seq, head, page)
    puts = await _puts(snapshot, target, place)
    blobs, drops = await _blobs(source, key, snapshot, target, place, room)
    return Change(head, entries, _ranges((*hide, *spans(entries))), puts, blobs, drops)


async def hidden(source: Backend, key: Key, upto: int, head: Head, page: int) -> tuple[tuple[int, int], ...]:
    """The seqs of hidden entries up to `upto`, as they are at `head`; the contract has no shorter way than to read them all."""
    found: tuple[tuple[int, int], ...] = ()
    async for snapshot in pages(source, key, upto, page):
        if (snapshot.head.incarnation, snapshot.head.hides) != (head.incarnation, head.hides):
            raise Moved
        found = joined((*found, *spans(snapshot.entries or [])))
    return found


async def pages(backend: Backend, key: Key, upto: int, page: int) -> AsyncGenerator[Snapshot]:
    """The entries up to `upto`, hidden ones too, in order; `Moved` where the session ends before."""
    after = 0
    while after < upto:
        window = Window(after=after, before=upto + 1, limit=page, newest=False, hidden=True)
        snapshot = await backend.read(key, ReadPlan(entries=window))
        if snapshot is None or not snapshot.entries:
            raise Moved
        after = snapshot.entries[-1].seq
        yield snapshot


def spans(entries: Iterable[Entry]) -> tuple[tuple[int, int], ...]:
    return joined((entry.seq, entry.seq) for entry in entries if entry.hidden)


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same seqs, which are in order, in as few ranges as there can be."""
    found: list[tuple[int, int]] = []
    for first, last in ranges:
        if found and found[-1][1] + 1 == first:
            first = found.pop()[0]
        found.append((first, last))
    return tuple(found)


def _ranges(found: tuple[tuple[int, int], ...]) -> tuple[Range, ...]:
    return tuple(Range(*it) for it in joined(found))


async def _puts(snapshot: Snapshot, target: Backend, place: Key | None) -> tuple[Put, ...]:
    """What changes the state. Where the source no longer knows all that was deleted, what the copy has beyond it goes."""
    rows = snapshot.state or {}
    puts = tuple(Put(name, row.value) for name, row in rows.items())
    if not snapshot.state_whole or place is None:
        return puts
    there = await target.read(place, ReadPlan(state_since=0))
    return puts + tuple(Put(name, None) for name in ((there and there.state) or {}) if name not in rows)


# --- blobs: they have no versions, so that only a comparison tells which are new -------------------------------------


def names(blobs: Iterable[Blob]) -> dict[Name, str]:
    """Which there are, without those that are a copy's own."""
    return {(it.namespace, it.key): it.type for it in blobs if it.namespace != MARKS}


async def names_at(backend: Backend, key: Key | None) -> dict[Name, str]:
    snapshot = await backend.read(key, ReadPlan(blobs=(_LISTED,))) if key is not None else None
    return names(snapshot.blobs or []) if snapshot is not None else {}


async def groups(backend: Backend, key: Key, wanted: Iterable[Name]) -> AsyncGenerator[tuple[Head, list[Blob]]]:
    """These blobs with their bytes, as many at a time as make about a page; `Moved` where the session ends."""
    rest, size = list(wanted), _FIRST_BLOBS
    while rest:
        snapshot = await backend.read(key, ReadPlan(blobs=_exactly(rest[:size])))
        if snapshot is None:
            raise Moved
        found = sorted(snapshot.blobs or [], key=lambda it: (it.namespace, it.key))
        yield snapshot.head, found
        rest = rest[size:]
        taken = sum(len(it.data or b"") for it in found) or 1
        size = max(1, min(_MOST_BLOBS, 4 * size, PAGE_BYTES * size // taken))


def _exactly(wanted: list[Name]) -> tuple[BlobRange, ...]:
    keys: dict[str, list[str]] = {}
    for namespace, key in wanted:
        keys.setdefault(namespace, []).append(key)
    return tuple(BlobRange(namespace=namespace, keys=tuple(them)) for namespace, them in keys.items())


async def new_blobs(
    source: Backend, key: Key, wanted: dict[Name, str], target: Backend, place: Key | None, there: dict[Name, str]
) -> AsyncGenerator[tuple[Head, tuple[BlobPut, ...]]]:
    """Those of `wanted` that the copy, which has those named in `there`, has not or has otherwise, group by group."""
    async for head, group in groups(source, key, sorted(wanted)):
        ours = [it for it in _named(group) if it in there]
        old = await target.read(place, ReadPlan(blobs=_exactly(ours))) if ours and place is not None else None
        same = {(it.namespace, it.key, it.type, it.data) for it in (old.blobs if old and old.blobs else [])}
        changed = [it for it in group if (it.namespace, it.key, it.type, it.data) not in same]
        yield head, tuple(BlobPut(it.namespace, it.key, it.type, it.data or b"") for it in changed)


def _named(blobs: Iterable[Blob]) -> list[Name]:
    return [(it.namespace, it.key) for it in blobs]


async def _blobs(
    source: Backend, key: Key, snapshot: Snapshot, target: Backend, place: Key | None, room: int
) -> tuple[tuple[BlobPut, ...], tuple[BlobDrop, ...]]:
    wanted, there = names(snapshot.blobs or []), await names_at(target, place)
    puts: tuple[BlobPut, ...] = ()
    async for head, found in new_blobs(source, key, wanted, target, place, there):
        if (head.incarnation, head.version) != (snapshot.head.incarnation, snapshot.head.version):
            raise Moved
        puts += found
        room -= sum(len(it.data) for it in found)
        if room < 0 and len(puts) > 1:
            raise TooMuch
    return puts, tuple(BlobDrop(*name) for name in there if name not in wanted)
