"""The SQLite backend keeps every promise, and flushes every commit that it acknowledges: alone its own, in company a shared one."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from holdfast.backend import Backend
from holdfast.backends.sqlite import SQLiteBackend, writer
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import bodies, created, fresh, notes, writing, wrote

from ..disk import Disk, disk


class TestSQLite(BackendSuite):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return partial(SQLiteBackend, str(tmp_path / "store.db"))


async def flushed_commits(backend: Backend, it: Disk) -> list[bool]:
    """Whether each of twenty lone commits was flushed before it was acknowledged."""
    key, flushed = fresh(), list[bool]()
    head = await created(backend, key)
    for _ in range(20):
        before = it.flushes
        head = await wrote(backend, key, head, entries=notes("a"))
        flushed.append(it.flushes > before)
    await backend.close()
    return flushed


async def test_every_commit_is_flushed(tmp_path: Path) -> None:
    with disk() as it:
        assert all(await flushed_commits(SQLiteBackend(str(tmp_path / "store.db"), vfs=it.name), it))


async def test_skipped_flushes_are_found(tmp_path: Path) -> None:
    """The sabotage of the test above: a backend that calls itself durable and leaves flushing to the system."""
    with disk() as it:
        assert not any(await flushed_commits(SQLiteBackend(str(tmp_path / "store.db"), synchronous="off", vfs=it.name), it))


async def test_concurrent_commits_share_their_flushes(tmp_path: Path) -> None:
    with disk(flush_seconds=0.002) as it:
        backend, key = SQLiteBackend(str(tmp_path / "store.db"), vfs=it.name), fresh()
        head = await created(backend, key)
        before = it.flushes

        async def write() -> None:
            for _ in range(10):
                await backend.commit(key, writing(head, base=0, entries=notes("a")))

        await asyncio.gather(*(write() for _ in range(64)))
        flushes = it.flushes - before
        await backend.close()
    assert 10 <= flushes < 640 / 8


async def test_room_ahead_of_the_log_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flushes count, the log's file is longer than the log. What a crash would leave is whole, and whoever reads it sees no zeros."""
    monkeypatch.setattr(writer, "_IN_PLACE_SECONDS", 0.0)
    path, copied = tmp_path / "store.db", tmp_path / "crashed.db"
    backend, other, key = SQLiteBackend(str(path)), SQLiteBackend(str(path)), fresh()
    head = await created(backend, key)
    for number in range(100):
        for writing_backend in (backend, other):
            await writing_backend.commit(key, writing(head, base=0, entries=notes(f"{number}")))
    logs = [path.with_name(f"{it.name}-wal") for it in (path, copied)]
    content = logs[0].read_bytes()
    assert content.endswith(bytes(30 * 4096))
    copied.write_bytes(path.read_bytes())
    logs[1].write_bytes(content)
    for it in (other, backend, SQLiteBackend(str(copied))):
        assert len(await bodies(it, key)) == 200
        assert await it.check() == []
        await it.close()
    assert not logs[0].exists()
