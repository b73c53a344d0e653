"""Forks: what is visible of one session, copied through here into another, which is there only when it is whole.

The two may lie on different nodes. A long log is copied in parts to keys that nobody reads and that go by themselves; the commit that
makes the fork gives them their names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

from ...backend import BlobPut, BlobRange, Commit, Counts, Key, Outcome, ReadPlan, Snapshot, Window
from ...entries import MESSAGE, Entry
from ...errors import SessionExists, SessionNotFound, StoreUnavailable
from ...ids import new_id
from . import layout
from .committing import Committing
from .connections import Packed
from .errors import refused
from .writes import Copied

if TYPE_CHECKING:
    from . import RedisBackend
    from .loops import Loop

_AT_ONCE = 500
"""Entries that are read at once; a log of no more is copied in one request."""
_STAGED_SECONDS = b"600"
_TRIES = 10


async def copy(backend: RedisBackend, loop: Loop, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
    """As `Backend.copy`: the source as it was at one moment. Its log only grows, so that its first part and its length fix the rest."""
    for _ in range(_TRIES):
        origin = await _part(backend, source, 0, upto, first=True)
        if origin is None:
            raise SessionNotFound(f"there is no {source}")
        committing = Committing(backend, loop, target, commit)
        if (before := await committing.ask()) is not None:
            return before
        if (after := committing.target()) is None or after.version != 1:
            raise SessionExists(f"{target} exists already")
        try:
            copied = await _copied(backend, loop, _Source(source, origin, upto), target)
        except _Moved:
            continue
        return await committing.run(copied)
    raise StoreUnavailable(f"{source} was cleared or rewound again and again while it was copied: try again")


class _Moved(Exception):
    """Between two parts of the log some of it was hidden or erased: together they would be of no moment."""


class _Source(NamedTuple):
    """A session to be copied, as it was when its first part was read."""

    key: Key
    first: Snapshot
    upto: int | None


async def _part(backend: RedisBackend, key: Key, after: int, upto: int | None, *, first: bool = False) -> Snapshot | None:
    before = None if upto is None else upto + 1
    window = Window(after=after, before=before, limit=_AT_ONCE, newest=False, hidden=True)
    return await backend.read(key, ReadPlan(state_since=0 if first else None, entries=window, blobs=(BlobRange(),) if first else ()))


async def _copied(backend: RedisBackend, loop: Loop, source: _Source, target: Key) -> Copied:
    first = source.first
    state = {name: row.value for name, row in (first.state or {}).items() if row.value is not None}
    blobs = tuple(BlobPut(it.namespace, it.key, it.type, it.data or b"") for it in first.blobs or [])
    entries = first.entries or []
    if len(entries) < _AT_ONCE:
        visible = tuple(entry for entry in entries if not entry.hidden)
        return Copied(state, blobs, visible, len(visible), _counted(visible, {it.run_id for it in visible} - {None}))
    stage = _Stage(backend, loop, target)
    async for part in _parts(backend, source):
        await stage.add(tuple(entry for entry in part if not entry.hidden))
    return Copied(state, blobs, (), stage.number, stage.counts(), stage.names)


async def _parts(backend: RedisBackend, source: _Source) -> AsyncGenerator[list[Entry]]:
    """The log up to where it went at first."""
    head, entries = source.first.head, source.first.entries or []
    upto = head.seq if source.upto is None else min(source.upto, head.seq)
    yield entries
    while entries and entries[-1].seq < upto:
        part = await _part(backend, source.key, entries[-1].seq, upto)
        if part is None or (part.head.incarnation, part.head.hides) != (head.incarnation, head.hides):
            raise _Moved
        entries = part.entries or []
        yield entries


class _Stage:
    """A log in the making, under names that nobody else has."""

    def __init__(self, backend: RedisBackend, loop: Loop, target: Key) -> None:
        self._loop = loop
        self._place = backend.layout.place(target)
        token = new_id().encode()
        self.names = tuple(self._place.keys[which - 1] + b":" + token for which in (layout.LOG, layout.KINDS, layout.RUNS))
        self.number = 0
        self._counts = Counts()
        self._runs: dict[str, list[int]] = {}

    async def add(self, entries: tuple[Entry, ...]) -> None:
        if entries:
            commands = self._commands(entries)
            for answer in await self._loop.nodes.send(self._place.slot, commands, writing=False):
                if isinstance(answer, Exception):
                    raise refused(self._loop.nodes.where, answer)
            self._counts += _counted(entries, ())
            self.number += len(entries)

    def counts(self) -> Counts:
        return self._counts + Counts(runs=len(self._runs))

    def _commands(self, entries: tuple[Entry, ...]) -> list[Packed]:
        log, kinds, runs = self.names
        commands: list[Packed] = []
        rare: list[bytes] = []
        begun: dict[str, list[int]] = {}
        for seq, it in enumerate(entries, self.number + 1):
            run = (it.run_id or "").encode()
            commands.append([b"XADD", log, b"%d-1" % seq, layout.plain(it.kind), run, b"", layout.packed(it)])
            if it.kind != MESSAGE:
                rare += (b"0", layout.kind_place(it.kind, seq))
            if it.run_id is not None:
                begun[it.run_id] = self._runs.setdefault(it.run_id, [seq, seq])
                begun[it.run_id][1] = seq
        if rare:
            commands.append([b"ZADD", kinds, *rare])
        if begun:
            spans = [word for run, (first, last) in begun.items() for word in (run.encode(), b"%d %d" % (first, last))]
            commands.append([b"HSET", runs, *spans])
        return commands + [[b"EXPIRE", name, _STAGED_SECONDS] for name in self.names]


def _counted(entries: tuple[Entry, ...], runs: set[str | None] | tuple[()]) -> Counts:
    messages = sum(entry.kind == MESSAGE for entry in entries)
    return Counts(runs=len(runs), messages=messages, bytes=sum(len(entry.body) for entry in entries))
