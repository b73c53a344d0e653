"""Sessions in this process's memory: for tests, first steps and caches that may be lost.

It keeps encoded bytes, never live objects, so that whatever would go wrong on a disk goes wrong here too.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from operator import attrgetter

import msgspec

from ..backend import (
    COMMITS_KEPT,
    Blob,
    BlobDrop,
    BlobPut,
    BlobRange,
    Capabilities,
    Commit,
    Counts,
    Filter,
    Head,
    Key,
    Outcome,
    Page,
    Put,
    Range,
    ReadPlan,
    Snapshot,
    StateRow,
    Window,
    alive,
    check_sizes,
    digest,
    judge,
    matches,
    repeated,
    select,
)
from ..entries import MESSAGE, Entry, NewEntry
from ..errors import SessionGone, SessionNotFound, StoreClosed
from ..ids import now

_seq = attrgetter("seq")
_decode_head = msgspec.json.Decoder(Head).decode
_PAGE_WORK = 1000
"""How many sessions one page of a list looks at before it gives the next cursor."""


class _Record:
    """All of one session."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._head = b""
        self.entries: list[Entry] = []
        self.hidden: list[Entry] = []
        self.state: dict[str, StateRow] = {}
        self.blobs: dict[tuple[str, str], Blob] = {}
        self.commits: dict[str, tuple[bytes, int, int]] = {}

    @property
    def head(self) -> Head:
        return _decode_head(self._head)

    @head.setter
    def head(self, head: Head) -> None:
        self._head = msgspec.json.encode(head)

    def key_version(self, key: str) -> int:
        row = self.state.get(key)
        return row.version if row and row.value is not None else 0

    def erase(self) -> None:
        self.entries, self.hidden, self.state, self.blobs, self.commits = [], [], {}, {}, {}

    def add(self, entries: Sequence[NewEntry], head: Head) -> None:
        for seq, it in enumerate(entries, head.seq - len(entries) + 1):
            self.entries.append(Entry(seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, head.version))

    def put(self, puts: Iterable[Put], version: int) -> None:
        for put in puts:
            if put.value is not None or put.key in self.state:
                self.state[put.key] = StateRow(put.value, version)

    def put_blobs(self, drops: Iterable[BlobDrop], puts: Iterable[BlobPut]) -> None:
        for drop in drops:
            for place in [p for p in self.blobs if p[0] == drop.namespace and _dropped(drop, p[1])]:
                del self.blobs[place]
        for put in puts:
            if not (put.if_absent and (put.namespace, put.key) in self.blobs):
                self.blobs[put.namespace, put.key] = Blob(put.namespace, put.key, put.type, put.data)

    def hide(self, ranges: Iterable[Range]) -> None:
        for it in ranges:
            low, high = bisect_left(self.entries, it.first, key=_seq), bisect_right(self.entries, it.last, key=_seq)
            self.hidden += [msgspec.structs.replace(entry, hidden=True) for entry in self.entries[low:high]]
            self.hidden.sort(key=_seq)
            del self.entries[low:high]

    def remember(self, commit: Commit) -> None:
        self.commits[commit.id] = (digest(commit), self.head.version, self.head.seq)
        if len(self.commits) > COMMITS_KEPT:
            del self.commits[next(iter(self.commits))]

    def snapshot(self, plan: ReadPlan) -> Snapshot:
        whole = plan.state_since is not None and plan.state_since <= self.head.floor
        return Snapshot(
            self.head,
            None if plan.state_since is None else self.state_since(plan.state_since, whole),
            whole,
            None if plan.entries is None else self.window(plan.entries),
            [blob for it in plan.blobs for blob in self.blob_range(it)] if plan.blobs else None,
        )

    def state_since(self, version: int, whole: bool) -> dict[str, StateRow]:
        if whole:
            return {key: row for key, row in self.state.items() if row.value is not None}
        return {key: row for key, row in self.state.items() if row.version > version}

    def window(self, window: Window) -> list[Entry]:
        return select(sorted(self.entries + self.hidden, key=_seq) if window.hidden else self.entries, window)

    def blob_range(self, it: BlobRange) -> list[Blob]:
        found = [self.blobs[place] for place in sorted(self.blobs) if _asked(it, *place)]
        return found if it.data else [msgspec.structs.replace(blob, data=None) for blob in found]


def _asked(it: BlobRange, namespace: str, key: str) -> bool:
    return it.namespace in (None, namespace) and (key.startswith(it.prefix) if it.keys is None else key in it.keys)


def _dropped(drop: BlobDrop, key: str) -> bool:
    return key == drop.key if drop.key is not None else key.startswith(drop.prefix)


_open: weakref.WeakSet[MemoryBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in _open:
        backend._lock, backend._forked = threading.Lock(), True  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class MemoryBackend:
    """A dict under a lock."""

    capabilities = Capabilities(durable=False, multi_process=False, watch=True, in_place=True)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[Key, _Record] = {}
        self._graves: set[tuple[Key, int]] = set()
        self._watchers: dict[Key, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._numbers = 0
        self._forked = False
        self._closed = False
        _open.add(self)

    async def open(self) -> None:
        self._check_open()

    async def close(self) -> None:
        self._closed = True

    async def migrate(self) -> tuple[int, int]:
        return 1, 1

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        with self._lock:
            self._check_open()
            record = self._living(key)
            return record and record.snapshot(plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        with self._lock:
            self._check_open()
            return self._commit(key, commit, None)

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        with self._lock:
            self._check_open()
            origin = self._living(source)
            if origin is None:
                raise SessionNotFound(f"there is no {source}")
            return self._commit(target, commit, (origin, upto))

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        with self._lock:
            self._check_open()
            below = int(cursor) if cursor else self._numbers + 1
            mine = [(r.number, k, r) for k, r in self._records.items() if k.tenant == filter.tenant and r.number < below]
            mine.sort(reverse=True)
            time = now()
            items: list[tuple[str, Head]] = []
            for place, (number, key, record) in enumerate(mine, 1):
                if alive(record.head, time) and matches(filter, record.head):
                    items.append((key.session_id, record.head))
                if place < len(mine) and (len(items) == limit or place == _PAGE_WORK):
                    return Page(items, str(number))
            return Page(items, None)

    async def sweep(self, limit: int) -> int:
        with self._lock:
            self._check_open()
            time = now()
            gone = [key for key, record in self._records.items() if not alive(record.head, time)][:limit]
            for key in gone:
                self._bury(key)
            return len(gone)

    async def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        mine = (asyncio.get_running_loop(), asyncio.Event())
        self._watchers.setdefault(key, set()).add(mine)
        try:
            while (snapshot := await self.read(key, ReadPlan())) is not None:
                if snapshot.head.version > after:
                    after = snapshot.head.version
                    yield after
                else:
                    await mine[1].wait()
                    mine[1].clear()
        finally:
            self._watchers[key].discard(mine)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this store was closed: open it again with Store.open(...)")
        if self._forked:
            raise StoreClosed("this process was forked: sessions in memory stay with the process that made them; use sqlite:///file.db")

    def _living(self, key: Key) -> _Record | None:
        record = self._records.get(key)
        if record is not None and not alive(record.head, now()):
            self._bury(key)
            return None
        return record

    def _bury(self, key: Key) -> None:
        self._graves.add((key, self._records.pop(key).head.incarnation))

    def _commit(self, key: Key, commit: Commit, copied: tuple[_Record, int | None] | None) -> Outcome:
        record = self._living(key)
        if record is not None and commit.id in record.commits:
            seen, version, seq = record.commits[commit.id]
            repeated(key, commit, seen)
            return Outcome(record.head, version, seq, record.snapshot(commit.answer) if commit.answer else None, repeated=True)
        if commit.create is not None and (key, commit.create.incarnation) in self._graves:
            raise SessionGone(f"{key} is gone: it was deleted or expired since you last saw it")
        head = judge(key, record.head if record else None, commit, record.key_version if record else lambda _: 0)
        if head is None:
            outcome = Outcome(None, self._records[key].head.version + 1, 0)
            self._bury(key)
        else:
            outcome = self._apply(key, record, commit, head, copied)
        self._tell(key)
        return outcome

    def _apply(self, key: Key, record: _Record | None, commit: Commit, head: Head, copied: tuple[_Record, int | None] | None) -> Outcome:
        if record is None:
            self._numbers += 1
            record = self._records[key] = _Record(self._numbers)
        if commit.erase is not None:
            self._graves.add((key, record.head.incarnation))
            record.erase()
        if copied is not None:
            head = _copy_into(record, head, *copied)
        record.put_blobs(commit.drops, commit.blobs)
        record.put(commit.puts, head.version)
        record.add(commit.entries, head)
        record.hide(commit.hide)
        record.head = head
        record.remember(commit)
        return Outcome(head, head.version, head.seq, record.snapshot(commit.answer) if commit.answer else None)

    def _tell(self, key: Key) -> None:
        for loop, event in list(self._watchers.get(key, ())):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


def _copy_into(record: _Record, head: Head, source: _Record, upto: int | None) -> Head:
    taken = [entry for entry in source.entries if upto is None or entry.seq <= upto]
    record.entries = [msgspec.structs.replace(entry, seq=seq, version=head.version) for seq, entry in enumerate(taken, 1)]
    record.state = {key: StateRow(row.value, head.version) for key, row in source.state.items() if row.value is not None}
    record.blobs = dict(source.blobs)
    messages, runs = sum(entry.kind == MESSAGE for entry in taken), {entry.run_id for entry in taken} - {None}
    counts = head.counts + Counts(runs=len(runs), messages=messages, bytes=sum(len(entry.body) for entry in taken))
    return msgspec.structs.replace(head, seq=head.seq + len(taken), counts=counts)
