"""Disks, locks, permissions and strangers' files: a clear error that names the file and the way out, and nothing half written."""

import os
import resource
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from pathlib import Path

import pytest

from holdfast.backend import Backend, Key
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.errors import NotAStore, SchemaMismatch, StoreError, StoreFull, StoreReadOnly, StoreUnavailable
from holdfast.testing.processes import Child, Pipe, in_processes
from holdfast.testing.tools import EVERYTHING, blob, content, created, creating, fresh, notes, opened, puts, read, refused, writing, wrote

from ..disk import disk

LARGE = bytes(256 * 1024)


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder that another user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


# --- no space --------------------------------------------------------------------------------------------------------


async def fills_up(backend: Backend, key: Key, kind: type[StoreError]) -> str:
    """Write until the disk is full: that commit is refused with `kind` and leaves nothing; the error's words."""
    head = await created(backend, key, entries=notes("a"), puts=puts(n="-1"))
    before = content(await read(backend, key))
    with refused(kind) as caught:
        for n in range(100):
            head = await wrote(backend, key, head, entries=notes(str(n)), puts=puts(n=str(n)), blobs=(blob(str(n), LARGE),))
            before = content(await read(backend, key))
    assert content(await read(backend, key)) == before
    return str(caught.error)


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    path, key = str(tmp_path / "store.db"), fresh()
    with disk() as it:
        async with opened(partial(SQLiteBackend, path, vfs=it.name)) as backend:
            await created(backend, fresh())
            it.room = 2_000_000
            assert path in await fills_up(backend, key, StoreFull)
            it.room = None
            await wrote(backend, key, (await read(backend, key)).head, entries=notes("room again"), blobs=(blob("b", LARGE),))
            assert isinstance(backend, SQLiteBackend)
            assert await backend.check() == []


async def limited(path: str, key: Key) -> str:
    """In a process that may not write files of more than 2 MB."""
    async with opened(partial(SQLiteBackend, path)) as backend:
        await created(backend, fresh())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        words = await fills_up(backend, key, StoreError)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await wrote(backend, key, (await read(backend, key)).head, entries=notes("room again"), blobs=(blob("b", LARGE),))
        return words


async def test_a_file_size_limit_refuses_and_recovers(tmp_path: Path) -> None:
    path, key = str(tmp_path / "store.db"), fresh()
    (words,) = await in_processes(limited, [(path, key)])
    assert path in words
    async with opened(partial(SQLiteBackend, path)) as backend:
        assert (await read(backend, key)).entries is not None
        assert isinstance(backend, SQLiteBackend)
        assert await backend.check() == []


# --- no permission ---------------------------------------------------------------------------------------------------


def forbid(folder: Path) -> None:
    """Nothing in it may be written, by those whom permissions bind."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)


async def as_nobody(path: str, key: Key) -> tuple[str, str, bool]:
    """As a user without rights: what a commit is told, and whether reading works."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    backend = SQLiteBackend(path)
    with refused(StoreError) as writing_it:
        await backend.commit(key, creating(entries=notes("not allowed")))
    try:
        seen = await SQLiteBackend(path).read(key, EVERYTHING) is not None
    except StoreError:
        seen = False
    return type(writing_it.error).__name__, str(writing_it.error), seen


async def test_a_file_that_may_not_be_written(folder: Path) -> None:
    path, key = folder / "store.db", fresh()
    async with opened(partial(SQLiteBackend, str(path))) as backend:
        await created(backend, key, entries=notes("a"))
        before = await read(backend, key)
        forbid(folder)
        ((kind, words, _),) = await in_processes(as_nobody, [(str(path), key)])
        assert await read(backend, key) == before
    assert (kind, str(path) in words, "can't be written" in words) == (StoreReadOnly.__name__, True, True)


async def test_a_folder_that_may_not_be_written(folder: Path) -> None:
    path = folder / "store.db"
    forbid(folder)
    ((kind, words, seen),) = await in_processes(as_nobody, [(str(path), fresh())])
    assert not seen
    assert kind in (StoreReadOnly.__name__, StoreUnavailable.__name__)
    assert str(path) in words
    assert "permission" in words or "can't be written" in words


# --- locked ----------------------------------------------------------------------------------------------------------


def hold_the_lock(path: str, pipe: Pipe) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    pipe.send("locked")
    pipe.recv()
    connection.execute("ROLLBACK")
    pipe.send("free")


async def test_a_locked_database_says_so(tmp_path: Path) -> None:
    """Reading goes on; a commit waits its time, is not applied, and goes through when the lock is gone."""
    path, key = str(tmp_path / "store.db"), fresh()
    async with opened(partial(SQLiteBackend, path, busy_timeout=0.2)) as backend:
        head = await created(backend, key, entries=notes("a"))
        with Child(hold_the_lock, path) as child:
            assert await child.said() == "locked"
            late = writing(head, entries=notes("b"))
            with refused(StoreUnavailable) as caught:
                await backend.commit(key, late)
            assert path in str(caught.error)
            assert "busy_timeout" in str(caught.error)
            assert (await read(backend, key)).head == head
            child.pipe.send("go")
            assert await child.said() == "free"
            assert not (await backend.commit(key, late)).repeated


# --- other people's files --------------------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()


def newer(path: Path) -> None:
    foreign(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 0x48464153")
    connection.execute("PRAGMA user_version = 302")
    connection.close()


STRANGERS: dict[str, tuple[Callable[[Path], object], type[StoreError], str]] = {
    "text": (lambda path: path.write_text("not a database, but long enough to be one\n" * 99), NotAStore, "another file"),
    "foreign": (foreign, NotAStore, "another file"),
    "newer": (newer, SchemaMismatch, "upgrade"),
    "folder": (lambda path: path.mkdir(), StoreError, "folder"),
    "missing": (lambda path: None, StoreError, "make the folder"),
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_what_is_no_store_is_left_alone(tmp_path: Path, name: str) -> None:
    make, kind, way_out = STRANGERS[name]
    path = tmp_path / ("none" if name == "missing" else "") / "store.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    uses: tuple[Callable[[Backend], Awaitable[object]], ...] = (
        lambda it: it.open(),
        lambda it: it.commit(fresh(), creating()),
        lambda it: it.read(fresh(), EVERYTHING),
    )
    for use in uses:
        backend = SQLiteBackend(str(path))
        with refused(kind) as caught:
            await use(backend)
        assert str(path) in str(caught.error)
        assert way_out in str(caught.error)
        await backend.close()
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize(("version", "fine"), [(101, True), (201, True), (501, True), (202, False), (302, False)])
async def test_a_newer_schema_says_who_may_write_it(tmp_path: Path, version: int, fine: bool) -> None:
    """A file says which version it has (the hundreds) and which is the oldest that may write it: nothing else decides."""
    path, key = str(tmp_path / "store.db"), fresh()
    async with opened(partial(SQLiteBackend, path)) as backend:
        await created(backend, key)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    backend = SQLiteBackend(path)
    if fine:
        assert await backend.migrate() == (version // 100, version // 100)
        assert await backend.read(key, EVERYTHING) is not None
    else:
        for use in (backend.migrate(), backend.read(key, EVERYTHING)):
            with refused(SchemaMismatch) as caught:
                await use
            assert "upgrade holdfast" in str(caught.error)
    await backend.close()
