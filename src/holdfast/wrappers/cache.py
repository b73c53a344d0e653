"""The cache: the newest part of the sessions used last, checked against the database at every use.

What is kept is valid for one (incarnation, version). Each read asks the backend only for what came after it, deletions included, so the
answer is right whoever else writes: no sticky sessions, no time to live. Known sessions are immutable values, replaced whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import msgspec

from ..backend import Backend, Commit, Head, Key, Outcome, ReadPlan, Snapshot, StateRow, Window
from ..entries import Entry
from ..forks import Forkable, watch_forks
from ..rules import changes, select
from .base import Wrapper

_TAIL_ENTRIES = 1024
_TAIL_BYTES = 1 << 20
_FIRST_READ = 64


class _Known(msgspec.Struct, frozen=True):
    """A session as of `head`: its whole state, and every visible entry from seq `low` on."""

    head: Head
    state: dict[str, StateRow]
    loaded: int
    """The version at which the state was read whole: older tombstones are not known."""
    tail: list[Entry]
    low: int
    tail_bytes: int
    state_bytes: int

    @property
    def bytes(self) -> int:
        return self.tail_bytes + self.state_bytes


class Stats(msgspec.Struct):
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    sessions: int = 0
    bytes: int = 0


class CachedBackend(Wrapper, Forkable):
    """Keeps up to `size` sessions and a mebibyte for each on average, the least recently used going first."""

    def __init__(self, inner: Backend, size: int) -> None:
        super().__init__(inner)
        self.stats = Stats()
        self._size = size
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        watch_forks(self)

    def after_fork(self, *, child: bool) -> None:
        """A thread that is not in the child may have held the lock: what is known was whole all the time, the sums are made anew."""
        if child:
            self._lock = threading.Lock()
            self.stats.sessions, self.stats.bytes = len(self._known), sum(known.bytes for known in self._known.values())

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        if plan.blobs:
            return await self.inner.read(key, plan)
        known = await self._current(key, plan.entries)
        if known is None:
            return None
        answer = _answer(known, plan)
        return answer if answer is not None else await self.inner.read(key, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.answer is not None and not commit.answer.blobs and commit.erase is None:
            return await self._answered(key, commit, commit.answer)
        before = self._known.get(key)
        outcome = await self.inner.commit(key, commit)
        if outcome.head is None:
            self._forget(key)
        elif before is not None and (after := _after(before, commit, outcome)):
            self._keep(key, after)
        return outcome

    async def _answered(self, key: Key, commit: Commit, plan: ReadPlan) -> Outcome:
        """A commit that is to be answered: only what is not known yet is asked for."""
        before = self._known.get(key)
        limit = _first_limit(plan.entries)
        news = _news(before) if before is not None else ReadPlan(state_since=0, entries=Window(limit=limit))
        outcome = await self.inner.commit(key, msgspec.structs.replace(commit, answer=news))
        told = outcome.snapshot
        if told is None:
            return outcome
        if before is not None and told.head.incarnation == before.head.incarnation:
            self.stats.hits += 1
            known = self._keep(key, _merged(before, told))
        elif before is None:
            self.stats.misses += 1
            known = self._keep(key, _fresh(told, limit))
        else:
            self._forget(key)
            known = None
        answer = known and _answer(known, plan)
        return msgspec.structs.replace(outcome, snapshot=answer or await self.inner.read(key, plan))

    async def _current(self, key: Key, window: Window | None) -> _Known | None:
        known = self._known.get(key)
        if known is not None:
            snapshot = await self.inner.read(key, _news(known))
            if snapshot is None:
                self._forget(key)
                return None
            if snapshot.head.incarnation == known.head.incarnation:
                self.stats.hits += 1
                return self._keep(key, _merged(known, snapshot))
        self.stats.misses += 1
        limit = _first_limit(window)
        snapshot = await self.inner.read(key, ReadPlan(state_since=0, entries=Window(limit=limit)))
        if snapshot is None:
            self._forget(key)
            return None
        return self._keep(key, _fresh(snapshot, limit))

    def _keep(self, key: Key, known: _Known) -> _Known:
        with self._lock:
            old = self._known.get(key)
            if old is known:
                self._known.move_to_end(key)
                return known
            if old is None or old.head.incarnation != known.head.incarnation or old.head.version <= known.head.version:
                self._known[key] = known
                self._known.move_to_end(key)
                self.stats.bytes += known.bytes - (old.bytes if old else 0)
            while len(self._known) > self._size or (self.stats.bytes > self._size * _TAIL_BYTES and len(self._known) > 1):
                self.stats.bytes -= self._known.popitem(last=False)[1].bytes
                self.stats.evictions += 1
            self.stats.sessions = len(self._known)
        return known

    def _forget(self, key: Key) -> None:
        with self._lock:
            if (old := self._known.pop(key, None)) is not None:
                self.stats.bytes -= old.bytes
            self.stats.sessions = len(self._known)


def cache_of(backend: Backend) -> CachedBackend | None:
    """The cache among the wrappers, from the outermost in; None where there is none."""
    while isinstance(backend, Wrapper):
        if isinstance(backend, CachedBackend):
            return backend
        backend = backend.inner
    return None


def _news(known: _Known) -> ReadPlan:
    """What has to be asked to bring what is known up to date."""
    return ReadPlan(state_since=known.head.version, entries=Window(after=known.head.seq, limit=_TAIL_ENTRIES))


def _first_limit(window: Window | None) -> int:
    """How many entries the first read of a session takes, so that windows like this one can be answered later."""
    return min(max(_FIRST_READ, 2 * (window.limit or 0) if window else 0), _TAIL_ENTRIES)


def _fresh(snapshot: Snapshot, limit: int) -> _Known:
    tail = snapshot.entries or []
    low = 1 if len(tail) < limit else tail[0].seq
    return _trimmed(_Known(snapshot.head, snapshot.state or {}, snapshot.head.version, tail, low, 0, _weight(snapshot.state or {})))


def _merged(known: _Known, snapshot: Snapshot) -> _Known:
    """What is known now that `snapshot` told what came since."""
    head = snapshot.head
    if head == known.head:
        return known
    state, loaded = known.state, known.loaded
    if snapshot.state_whole:
        state, loaded = snapshot.state or {}, head.version
    elif snapshot.state:
        state = known.state | snapshot.state
    held = known.state_bytes if state is known.state else _weight(state)
    new = snapshot.entries or []
    if head.hides != known.head.hides or len(new) == _TAIL_ENTRIES:
        return _trimmed(_Known(head, state, loaded, new, new[0].seq if len(new) == _TAIL_ENTRIES else known.head.seq + 1, 0, held))
    return _trimmed(_Known(head, state, loaded, known.tail + new if new else known.tail, known.low, known.tail_bytes, held), added=new)


def _after(known: _Known, commit: Commit, outcome: Outcome) -> _Known | None:
    """What is known after our own commit, when nobody came between; None leaves it to the next read."""
    head = outcome.head
    if head is None or outcome.repeated or commit.erase or commit.hide or head.incarnation != known.head.incarnation:
        return None
    moved = known.head.version + changes(commit)
    if not outcome.version == head.version == moved or head.seq != known.head.seq + len(commit.entries) or head.hides != known.head.hides:
        return None
    state = known.state | {put.key: StateRow(put.value, head.version) for put in commit.puts} if commit.puts else known.state
    new = [
        Entry(seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, head.version)
        for seq, it in enumerate(commit.entries, known.head.seq + 1)
    ]
    old = [row.value or b"" for put in commit.puts if (row := known.state.get(put.key))]
    held = known.state_bytes + sum([len(put.value or b"") for put in commit.puts]) - sum([len(value) for value in old])
    size = known.tail_bytes + sum([len(entry.body) for entry in new])
    after = _Known(head, state, known.loaded, known.tail + new, known.low, size, held)
    return after if len(after.tail) <= _TAIL_ENTRIES and size <= _TAIL_BYTES else _trimmed(after, added=[])


def _weight(state: dict[str, StateRow]) -> int:
    return sum([len(row.value) for row in state.values() if row.value is not None])


def _trimmed(known: _Known, added: list[Entry] | None = None) -> _Known:
    size = (known.tail_bytes if added is not None else 0) + sum(len(entry.body) for entry in (known.tail if added is None else added))
    if len(known.tail) > _TAIL_ENTRIES or size > _TAIL_BYTES:
        tail = known.tail[len(known.tail) // 2 :] if len(known.tail) > 1 else []
        low = tail[0].seq if tail else known.head.seq + 1
        return _trimmed(msgspec.structs.replace(known, tail=tail, low=low, tail_bytes=0))
    return msgspec.structs.replace(known, tail_bytes=size)


def _answer(known: _Known, plan: ReadPlan) -> Snapshot | None:
    """The plan's answer if it is all in here."""
    entries = None
    if plan.entries is not None:
        entries = _window(known, plan.entries)
        if entries is None:
            return None
    state, whole = None, True
    if plan.state_since is not None:
        whole = plan.state_since < known.loaded or plan.state_since <= known.head.floor
        state = _state(known, None if whole else plan.state_since)
    return Snapshot(known.head, state, whole, entries)


def _state(known: _Known, since: int | None) -> dict[str, StateRow]:
    if since is None:
        return {key: row for key, row in known.state.items() if row.value is not None}
    return {key: row for key, row in known.state.items() if row.version > since} if since < known.head.version else {}


def _window(known: _Known, window: Window) -> list[Entry] | None:
    if window.after >= known.head.seq and not window.hidden:
        return []
    if window.hidden:
        return None
    found = select(known.tail, window)
    enough = window.newest and window.limit is not None and len(found) == window.limit
    return found if enough or known.low == 1 or window.after >= known.low - 1 else None
