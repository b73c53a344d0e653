"""Backups that are taken while the store is in use hold all that was acknowledged before they began, and can be used at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdfast import Store, assistant, user
from holdfast.backend import Maintenance

from .servers import postgres, redis, wait_until

WRITERS = 4


@asynccontextmanager
async def in_use(url: str) -> AsyncGenerator[dict[str, int]]:
    """A store that four sessions write to all the while; how many turns of each are acknowledged so far."""
    done = {f"s{number}": 0 for number in range(WRITERS)}
    async with Store.open(url) as store, asyncio.TaskGroup() as group:
        writers = [group.create_task(write(store, name, done)) for name in done]
        await asyncio.to_thread(wait_until, lambda: min(done.values()) >= 20, "some turns")
        yield done
        for writer in writers:
            writer.cancel()


async def write(store: Store, name: str, done: dict[str, int]) -> None:
    session = await store.session(name, user_id="ada")
    while True:
        session.state["turn"] = done[name] + 1
        await session.append(user(f"question {done[name]}"), assistant("an answer " * 50))
        done[name] += 1


async def holds(url: str, acknowledged: dict[str, int]) -> None:
    """A store that is whole, has these turns of each session at least, and is written to as ever."""
    async with Store.open(url) as store:
        assert isinstance(store.backend, Maintenance)
        assert await store.backend.check() == []
        for name, turns in acknowledged.items():
            session = await store.get(name, user_id="ada")
            assert session is not None
            said = [message.text for message in await session.get_messages() if message.role == "user"]
            assert said == [f"question {turn}" for turn in range(len(said))]
            assert len(said) == session.state["turn"] >= turns
            await session.append(user("after the restore"))


VACUUM = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', sys.argv[2:])"
BACKUP = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))"


@pytest.mark.parametrize("code", [VACUUM, BACKUP], ids=["vacuum-into", "backup"])
async def test_sqlite(code: str, tmp_path: Path) -> None:
    """From a process of its own, always: two SQLite libraries in one process undo each other's locks."""
    source, target = tmp_path / "chat.db", tmp_path / "backup.db"
    async with in_use(f"sqlite:///{source}") as done:
        before = dict(done)
        await ran([sys.executable, "-c", code, str(source), str(target)])
    await holds(f"sqlite:///{target}", before)


async def test_postgresql(tmp_path: Path) -> None:
    """pg_dump, into another database."""
    server = postgres.shared()
    place = urlsplit(server.url())
    tools = postgres.binaries()
    dump, there = tmp_path / "holdfast.dump", ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres"]
    server.ask("DROP DATABASE IF EXISTS restored")
    server.ask("CREATE DATABASE restored")
    url = server.url(schema="backup")
    async with in_use(url) as done:
        before = dict(done)
        await ran([str(tools / "pg_dump"), *there, "-Fc", "-n", "backup", "-f", str(dump), place.path[1:]])
    await ran([str(tools / "pg_restore"), *there, "--exit-on-error", "-d", "restored", str(dump)])
    await holds(url.replace(place.path + "?", "/restored?"), before)


async def test_redis() -> None:
    """The snapshot of BGSAVE, in a server that begins without an append-only file and makes one."""
    try:
        binary = redis.valkey9()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    with redis.folder() as folder, redis.folder() as other, redis.server(binary, path=folder) as server:
        async with in_use(server.url) as done:
            before = dict(done)
            redis.ask(server.port, "BGSAVE")
            await asyncio.to_thread(wait_until, (folder / "dump.rdb").exists, "the snapshot")
        (other / "dump.rdb").write_bytes((folder / "dump.rdb").read_bytes())
        with redis.server(binary, "--appendonly", "no", path=other) as restored:
            redis.ask(restored.port, "CONFIG", "SET", "appendonly", "yes")
            await asyncio.to_thread(
                wait_until, lambda: b"aof_rewrite_in_progress:0" in redis.ask(restored.port, "INFO", "persistence"), "its append-only file"
            )
            await holds(restored.url, before)


async def ran(command: list[str]) -> None:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
