"""The SQLite backend keeps every promise, and flushes every commit that it acknowledges: alone its own, in company a shared one."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from holdfast.backend import Backend, Erase, Filter, HeadPatch, Key, Range, ReadPlan
from holdfast.backends.sqlite import SQLiteBackend, writer
from holdfast.backends.sqlite.connections import connect
from holdfast.errors import Corrupt, StoreUnavailable
from holdfast.ids import now
from holdfast.info import Link, touch
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import SECOND, blob, bodies, created, fresh, listed, notes, opened, puts, read, refused, writing, wrote

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


async def test_a_relative_path_means_the_folder_in_which_the_backend_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that reads is opened by the first read, wherever the process has gone meanwhile."""
    monkeypatch.chdir(tmp_path)
    backend, key = SQLiteBackend("store.db"), fresh()
    await created(backend, key)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (await read(backend, key)).head.version == 1
    await backend.close()
    assert os.listdir() == []


async def test_room_ahead_of_the_log_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flushes count, the log's file is longer than the log. What a crash would leave is whole, and whoever reads it sees no zeros."""
    for name in ("_IN_PLACE_SECONDS", "_SLOW_SECONDS"):
        monkeypatch.setattr(writer, name, 0.0)
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


async def test_a_touch_waits_for_nobody(tmp_path: Path) -> None:
    """While another process writes, a read of a session whose expiry is due to be put off answers at once, and later puts it off."""
    path, key, past = str(tmp_path / "store.db"), fresh(), now() - 50 * SECOND
    async with opened(partial(SQLiteBackend, path, busy_timeout=30)) as backend:
        head = await created(backend, key, time=past, patch=HeadPatch(ttl=100))
        link = Link(backend, key.tenant, True, None)
        other = connect(path, patience=None, synchronous="full", vfs=None, writable=True)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):
            await touch(link, key, head, None)
        with refused(StoreUnavailable):
            await backend.commit(key, writing(head))
        other.execute("ROLLBACK")
        other.close()
        assert (await read(backend, key)).head == head
        await touch(link, key, head, None)
        assert ((await read(backend, key)).head.expires or 0) > (head.expires or 0) + 40 * SECOND


async def test_deleted_text_is_not_in_the_file(tmp_path: Path) -> None:
    """What was deleted, cleared, hidden and then deleted, replaced or dropped can't be read from the bytes of the closed file."""
    path, keys = tmp_path / "store.db", [fresh() for _ in range(12)]
    async with opened(partial(SQLiteBackend, str(path))) as backend:
        kept = await created(backend, keys[0], entries=notes(*["kept" * 50] * 40))
        for n, key in enumerate(keys[1:]):
            secrets = tuple(f"SECRET-{n}-{it} " * (it**3 % 700 + 1) for it in range(60))
            rest = {"puts": puts(a=secrets[-1], b=secrets[3]), "blobs": (blob("b", secrets[9]),)}
            head = await created(backend, key, entries=notes(*secrets), **rest)
            head = await wrote(backend, key, head, hide=(Range(5, 30),), puts=puts(a="x", b=None))
            kept = await wrote(backend, keys[0], kept, entries=notes("kept"))
            await backend.commit(key, writing(head, erase=Erase("session") if n % 2 else Erase("content", n + 1)))
    assert b"SECRET" not in path.read_bytes()
    assert os.listdir(tmp_path) == ["store.db"]


async def test_a_long_commit_is_one_step_of_the_search(tmp_path: Path) -> None:
    """A repetition is found behind commits of many entries, hidden ones too, by as many steps as there are commits."""
    key = fresh()
    async with opened(partial(SQLiteBackend, str(tmp_path / "store.db"))) as backend:
        head = await created(backend, key)
        first = writing(head, base=0, entries=notes(*["a"] * 50))
        done = await backend.commit(key, first)
        head = await wrote(backend, key, head, base=0, hide=(Range(10, 50),))
        for _ in range(20):
            head = await wrote(backend, key, head, base=0, entries=notes(*["b"] * 30))
        head = await wrote(backend, key, head, hide=(Range(60, 400),))
        again = await backend.commit(key, first)
        assert (again.repeated, again.version, again.seq) == (True, done.version, 50)


async def test_a_sweep_goes_in_steps(tmp_path: Path) -> None:
    """Long sessions are removed in several transactions, and nothing is left of them; an unreadable head stays, and is reported."""
    path, past = str(tmp_path / "store.db"), now() - 50 * SECOND
    key, keys = fresh(), [fresh() for _ in range(3)]
    async with opened(partial(SQLiteBackend, path)) as backend:
        assert isinstance(backend, SQLiteBackend)
        for it in keys:
            blobs = tuple(blob(str(n), "b") for n in range(20))
            await created(backend, it, time=past, patch=HeadPatch(ttl=1), entries=notes(*["a"] * 1200), blobs=blobs)
        for name in ("well", "bad"):
            await created(backend, Key(key.tenant, name), time=past, patch=HeadPatch(ttl=1 if name == "bad" else None))
        other = connect(path, patience=None, synchronous="full", vfs=None, writable=True)
        other.execute("UPDATE sessions SET head = x'00' WHERE session_id = 'bad'")
        before = backend.writer.transactions
        assert await backend.sweep(10) == 3
        assert backend.writer.transactions - before >= 9
        assert [other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("entries", "blobs", "sessions")] == [0, 0, 2]
        other.close()
        assert await listed(backend, Filter(tenant=key.tenant)) == ["well"]
        assert ["bad" in problem for problem in await backend.check()] == [True]
        with refused(Corrupt):
            await backend.read(Key(key.tenant, "bad"), ReadPlan())
