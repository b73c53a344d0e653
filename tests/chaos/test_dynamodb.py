"""SIGKILL of writers, before and after each step of a large commit, and of the server itself: what was acknowledged is there, whole."""

import asyncio
from collections.abc import Generator, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from holdfast.backend import Key
from holdfast.backends.dynamodb import DynamoDBBackend, layout
from holdfast.backends.dynamodb import writing as committing
from holdfast.backends.dynamodb.client import Table
from holdfast.backends.dynamodb.layout import Item, Stored
from holdfast.testing import Opener
from holdfast.testing.clauses.crashes import survive_kills
from holdfast.testing.processes import Child, Pipe
from holdfast.testing.tools import blob, bodies, check_gapless, created, fresh, note, notes, opened, puts, read, values, writing

from ..servers import dynamodb, free_port

KILLS = 30
LARGE = 6 << 20


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


async def test_nothing_acknowledged_is_lost_in_kills(server: dynamodb.Server) -> None:
    await survive_kills(partial(dynamodb.backend, server.port), KILLS, writers=2)


# --- killed at a step ------------------------------------------------------------------------------------------------


def _die_at(step: str, port: int, key: Key, pipe: Pipe) -> None:
    """Begin a commit that takes several steps, and stand still before `step` of it."""

    def stand_still(*_: Any) -> None:
        pipe.send("there")
        asyncio.run(asyncio.Event().wait())

    def unless_done(table: Table, key: Key, stored: Stored) -> None:
        if stored.redo is not None:
            stand_still()

    committing.STAGE_SECONDS = 0
    backend = dynamodb.backend(port)
    put_all = backend.table.put_all

    def put_and_stand_still(items: Iterable[Item]) -> None:
        put_all(items)
        stand_still()

    patches: dict[str, tuple[Any, str, Any]] = {
        "the items": (backend.table, "put_all", stand_still),
        "the transaction": (backend.table, "put_all", put_and_stand_still),
        "the redo": (committing, "finish_redo", unless_done),
        "the cleaning": (committing, "clean", stand_still),
    }
    setattr(*patches[step])
    asyncio.run(_commit_large(backend, key, step))


async def _commit_large(backend: DynamoDBBackend, key: Key, step: str) -> None:
    head = (await read(backend, key)).head
    many = tuple(blob(f"b{n}", "new") for n in range(150))
    parts: dict[str, Any] = {"entries": (note(b"x" * LARGE),), "puts": puts(k="new")}
    if step == "the redo":
        parts["blobs"] = many
    if step == "the cleaning":
        parts = {"puts": puts(k="new"), "entries": notes("new")}
    await backend.commit(key, writing(head, **parts))


_STEPS = [("the items", False), ("the transaction", False), ("the redo", True), ("the cleaning", True)]


@pytest.mark.parametrize(("step", "happened"), _STEPS)
async def test_a_writer_killed_between_two_steps(server: dynamodb.Server, step: str, happened: bool) -> None:
    """Before the transaction nothing has happened, after it everything; the next sweep removes what it left."""
    open, key = partial(dynamodb.backend, server.port), fresh()
    async with opened(open) as backend:
        assert isinstance(backend, DynamoDBBackend)
        old = "o" * LARGE if step == "the cleaning" else "old"
        await created(backend, key, entries=notes("old"), puts=puts(k=old))
        before = set(_items(backend, key))
        with Child(_die_at, step, server.port, key) as child:
            async with asyncio.timeout(30):
                assert await child.said() == "there"
            child.kill()
        found = await read(backend, key)
        check_gapless(found)
        assert (values(found)["k"], len(found.entries or [])) == (("new", 2) if happened else (old, 1))
        assert len(found.blobs or []) == (150 if step == "the redo" else 0)
        assert await backend.check() == []
        await backend.sweep(10)
        if not happened:
            assert set(_items(backend, key)) == before
        elif step == "the cleaning":
            assert not [sort for sort in _items(backend, key) if f"/{layout.PARTS}/" in sort]
        await backend.commit(key, writing(found.head, entries=notes("on")))
        assert (await bodies(backend, key))[-1] == "on"
        assert await backend.check() == []


def _items(backend: DynamoDBBackend, key: Key) -> list[str]:
    return [it["key"]["S"] for page in backend.table.query(layout.partition(key), "!", "~", keys_only=True) for it in page]


# --- the server ------------------------------------------------------------------------------------------------------


async def test_a_killed_server_takes_nothing_with_it(tmp_path: Path) -> None:
    """Writers go on over kills and restarts of the server, without an error of their own: each turn is there once."""
    file, port = tmp_path / "table.db", free_port()
    key, open = fresh(), partial(dynamodb.backend, port, patience=30.0)
    acknowledged: list[str] = []
    try:
        with dynamodb.dynoxide(file, port):
            await dynamodb.made(port)
            async with opened(open) as backend:
                await created(backend, key)
    except dynamodb.Missing as missing:
        pytest.skip(f"no DynamoDB to test with: {missing}")
    writers = [asyncio.create_task(_write(open, key, f"w{n}", acknowledged)) for n in range(3)]
    for _ in range(4):
        with dynamodb.dynoxide(file, port) as server:
            seen = len(acknowledged)
            while len(acknowledged) < seen + 15:  # noqa: ASYNC110  # a database has no event to wait for
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.kill)
    with dynamodb.dynoxide(file, port):
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        async with opened(open) as backend:
            log = await bodies(backend, key)
            assert log[::2] == log[1::2]
            assert len(set(log)) == len(log) // 2, "no turn is there twice"
            assert set(acknowledged) <= set(log)
            assert isinstance(backend, DynamoDBBackend)
            assert await backend.check() == []


async def _write(open: Opener, key: Key, name: str, acknowledged: list[str]) -> None:
    async with opened(open) as backend:
        head = (await read(backend, key)).head
        for n in count():
            turn = f"{name} {n}"
            await backend.commit(key, writing(head, base=0, entries=notes(turn, turn), puts=puts(**{name: str(n)})))
            acknowledged.append(turn)
