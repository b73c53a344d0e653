"""The cache changes nothing: every promise of what it wraps holds through it, whoever writes behind its back."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from holdfast.backend import Backend, ReadPlan, Window
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import created, fresh, notes, opened, puts, wrote
from holdfast.wrappers.cache import CachedBackend

KEPT = ReadPlan(state_since=0, entries=Window(limit=10))


def cached_sqlite(path: str) -> Backend:
    return CachedBackend(SQLiteBackend(path), 3)


class TestCachedMemory(BackendSuite):
    capabilities = MemoryBackend.capabilities

    @pytest.fixture
    def opener(self) -> Opener:
        backend = MemoryBackend()
        return lambda: CachedBackend(backend, 3)


class TestCachedSQLite(BackendSuite):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return partial(cached_sqlite, str(tmp_path / "store.db"))


def in_child(work: Callable[[], object]) -> int:
    """The exit code of a forked child that does `work`; a child that hangs is ended by its own alarm."""
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_uses_the_cache_whoever_held_its_lock(tmp_path: Path) -> None:
    backend, key = CachedBackend(SQLiteBackend(str(tmp_path / "store.db")), 3), fresh()
    asyncio.run(created(backend, key, entries=notes("a")))
    asyncio.run(backend.read(key, KEPT))
    lock, held, go = backend._lock, threading.Event(), threading.Event()  # pyright: ignore[reportPrivateUsage]  # a thread in its midst

    def hold() -> None:
        with lock:
            held.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    code = in_child(lambda: asyncio.run(backend.read(key, KEPT)))
    go.set()
    thread.join()
    assert code == 0
    assert asyncio.run(backend.read(key, KEPT)) is not None
    asyncio.run(backend.close())


async def test_state_counts(tmp_path: Path) -> None:
    """Values are counted, and make room for themselves: two sessions of this size are too many for a cache of three."""
    async with opened(lambda: CachedBackend(SQLiteBackend(str(tmp_path / "store.db")), 3)) as backend:
        assert isinstance(backend, CachedBackend)
        keys = fresh(), fresh()
        for key in keys:
            head = await created(backend, key, puts=puts(a="x" * 2_000_000))
            await backend.read(key, KEPT)
            await wrote(backend, key, head, puts=puts(b="y" * 5))
        assert (backend.stats.sessions, backend.stats.evictions, backend.stats.bytes) == (1, 1, 2_000_005)
