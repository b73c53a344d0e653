"""Sessions in this process's memory: for tests, first steps and conversations that may be lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

from ..backend import Capabilities, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ..errors import InvalidURL, StoreClosed
from ..forks import Forkable, watch_forks
from ..ledger import Ledger
from ..rules import check_sizes
from .urls import shown


def from_url(url: str) -> MemoryBackend:
    """`memory://`."""
    if url != "memory://":
        raise InvalidURL(f"store URL {shown(url)!r}: memory:// takes nothing after it")
    return MemoryBackend()


class MemoryBackend(Forkable):
    """A ledger under a lock."""

    capabilities = Capabilities(durable=False, multi_process=False, watch=True, in_place=True)

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._lock = threading.Lock()
        self._watchers: dict[Key, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._forked = False
        self._closed = False
        watch_forks(self)

    async def open(self) -> None:
        with self._locked():
            pass

    async def close(self) -> None:
        self._closed = True

    async def migrate(self) -> tuple[int, int]:
        return 1, 1

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        with self._locked() as ledger:
            return ledger.read(key, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        with self._locked() as ledger:
            outcome = ledger.commit(key, commit)
        self._tell(key)
        return outcome

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        with self._locked() as ledger:
            outcome = ledger.copy(source, upto, target, commit)
        self._tell(target)
        return outcome

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        with self._locked() as ledger:
            return ledger.list(filter, cursor, limit)

    async def sweep(self, limit: int) -> int:
        with self._locked() as ledger:
            return ledger.sweep(limit)

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
            if not self._watchers[key]:
                del self._watchers[key]

    @contextmanager
    def _locked(self) -> Generator[Ledger]:
        with self._lock:
            if self._closed:
                raise StoreClosed("this store was closed: open it again with Store.open(...)")
            if self._forked:
                raise StoreClosed("this process was forked: sessions in memory stay with the process that made them; use sqlite:///file.db")
            yield self._ledger

    def _tell(self, key: Key) -> None:
        for loop, event in list(self._watchers.get(key, ())):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def after_fork(self, *, child: bool) -> None:
        if child:  # where every use says so from now on
            self._lock, self._forked = threading.Lock(), True
