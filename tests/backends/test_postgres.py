"""The PostgreSQL backend keeps every promise, and those that are a network database's own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from holdfast import Store
from holdfast.backend import (
    Backend,
    BlobDrop,
    BlobPut,
    ClaimAct,
    Commit,
    Create,
    Erase,
    Head,
    HeadPatch,
    Key,
    Outcome,
    Put,
    Range,
)
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.postgres import PostgresBackend, from_url, schema
from holdfast.entries import MESSAGE, NOTE, RUN
from holdfast.errors import (
    InvalidURL,
    InvalidValue,
    NotAStore,
    SchemaMismatch,
    UsageError,
)
from holdfast.ids import new_id, new_incarnation, now
from holdfast.rules import changes
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.processes import in_processes
from holdfast.testing.tools import (
    EVERYTHING,
    SECOND,
    bodies,
    created,
    creating,
    fresh,
    note,
    notes,
    opened,
    puts,
    refused,
    wrote,
)

from ..servers.postgres import schema_of, shared

PASSWORD = "secret"


@pytest.fixture
def url() -> str:
    """A store of this test's own."""
    return shared().fresh()


@pytest.fixture
def opener(url: str) -> Opener:
    return partial(from_url, url)


class TestPostgres(BackendSuite):
    capabilities = PostgresBackend.capabilities


@asynccontextmanager
async def backend_of(url: str) -> AsyncGenerator[PostgresBackend]:
    backend = from_url(url)
    try:
        await backend.open()
        yield backend
    finally:
        await backend.close()


# --- the same as the ledger ------------------------------------------------------------------------------------------


def any_commit(dice: random.Random, known: list[Head], used: list[Commit]) -> Commit:
    """A commit of somebody who may have seen the session long ago, or tries again what was done before."""
    if used and dice.random() < 0.1:
        return dice.choice(used)
    head = dice.choice(known[-4:]) if known else None
    parts: dict[str, Any] = {"id": new_id(), "time": now() - dice.choice((0, 0, 50)) * SECOND}
    if head is not None and dice.random() < 0.8:
        parts |= {"incarnation": head.incarnation, "base": dice.choice((0, head.version))}
    if dice.random() < 0.4:
        fresh_one = Create(dice.choice([new_incarnation(), *(it.incarnation for it in known[-2:])]), exclusive=dice.random() < 0.1)
        parts["create"] = fresh_one
    for name, make in _PARTS.items():
        if dice.random() < 0.25:
            parts[name] = make(dice, head or Head(1))
    return Commit(**parts)


_PARTS: dict[str, Callable[[random.Random, Head], Any]] = {
    "user_id": lambda dice, head: dice.choice(("ada", "ada", "bob")),
    "expect": lambda dice, head: head.version,
    "fence": lambda dice, head: head.fence,
    "entries": lambda dice, head: tuple(note(str(n), dice.choice((NOTE, MESSAGE, RUN))) for n in range(dice.randint(1, 4))),
    "hide": lambda dice, head: (Range(dice.randint(0, 6), dice.randint(1, 9)), Range(2, 2)),
    "puts": lambda dice, head: tuple(
        Put(f"k{dice.randrange(3)}", dice.choice((None, b"\0", b"x")), dice.choice((None, None, 0, head.version))) for _ in range(2)
    ),
    "blobs": lambda dice, head: tuple(BlobPut("s", f"b{dice.randrange(3)}", "t", b"%d" % n, dice.random() < 0.5) for n in range(2)),
    "drops": lambda dice, head: (BlobDrop("s", dice.choice((None, "b1")), prefix=dice.choice(("", "b2"))),),
    "patch": lambda dice, head: HeadPatch(
        name=dice.choice(("n", None)), waiting=dice.random() < 0.5, ttl=dice.choice((None, 1000.0, 20.0))
    ),
    "claim": lambda dice, head: ClaimAct(
        dice.choice(("take", "take", "renew", "release")), "h", seen=dice.choice((None, (head.fence, head.claim.beat if head.claim else 0)))
    ),
    "erase": lambda dice, head: dice.choice((Erase("content", new_incarnation()), Erase("session"))) if dice.random() < 0.3 else None,
    "answer": lambda dice, head: EVERYTHING,
}


async def done(backend: Backend, key: Key, commit: Commit) -> Outcome | tuple[str, str]:
    """What a commit did, or how it was refused."""
    try:
        return await backend.commit(key, commit)
    except UsageError as error:
        return type(error).__name__, str(error)


async def test_random_commits_do_what_they_do_to_a_ledger(url: str) -> None:
    """Two backends that know of each other's writes only by what the database says, beside the ledger: the same, commit by commit."""
    dice, model = random.Random(20), MemoryBackend()
    async with backend_of(url) as one, backend_of(url) as other:
        for _ in range(20):
            key, known, used = fresh(), list[Head](), list[Commit]()
            for _ in range(40):
                commit = any_commit(dice, known, used)
                wanted = await done(model, key, commit)
                assert await done(dice.choice((one, other)), key, commit) == wanted, commit
                used += [commit] if changes(commit) else []
                if isinstance(wanted, Outcome) and wanted.head is not None:
                    known.append(wanted.head)
            assert await one.read(key, EVERYTHING) == await model.read(key, EVERYTHING)
        assert await one.check() == []


# --- URLs ------------------------------------------------------------------------------------------------------------


def test_a_url_names_libpq_s_options_and_ours() -> None:
    backend = from_url(
        "postgresql://ada:secret@db.example:5433/chats?sslmode=require&options=-c%20work_mem%3D1MB&schema=mine&pool_size=3&pooler=TRUE"
    )
    assert (backend.schema, backend.where) == ("mine", "postgresql://db.example:5433/chats")
    assert from_url("postgres:///chats?host=/tmp").where == "postgresql:///tmp/chats"


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ("sslmod=require", "sslmod"),
        ("schema=Mine", "schema"),
        ("schema=pg_mine", "schema"),
        ("schema=a&schema=b", "twice"),
        ("pool_size=0", "pool_size"),
        ("pooler=perhaps", "pooler"),
        ("timeout=soon", "timeout"),
    ],
)
def test_a_wrong_option_is_named(options: str, about: str) -> None:
    with refused(InvalidURL) as caught:
        from_url(f"postgresql://ada:{PASSWORD}@db.example/chats?{options}")
    assert about in str(caught.error)
    assert PASSWORD not in str(caught.error)


def test_wrong_arguments_are_named() -> None:
    with refused(InvalidValue):
        PostgresBackend("postgresql://db", schema='a"b')
    with refused(InvalidURL):
        PostgresBackend("not a dsn")


async def test_a_store_opens_by_url(url: str) -> None:
    async with Store.open(url) as store:
        session = await store.session("ada-1", user_id="ada")
        session.set("topic", "\u2603")
        await session.commit()
    async with Store.open(url.replace("postgresql://", "postgres://"), cache=10) as store:
        assert (await store.session("ada-1", user_id="ada")).get("topic") == "\u2603"


# --- the schema ------------------------------------------------------------------------------------------------------


async def open_and_write(url: str, key: Key) -> bool:
    async with backend_of(url) as backend:
        await backend.commit(key, creating(entries=notes("a")))
        return True


async def test_many_processes_make_one_schema(url: str) -> None:
    key = fresh()
    assert await in_processes(open_and_write, [(url, key)] * 6) == [True] * 6
    async with backend_of(url) as backend:
        assert len(await bodies(backend, key)) == 6
    assert shared().ask(f"SELECT count(*) FROM {schema_of(url)}.meta") == [(1,)]


_NEXT = """
ALTER TABLE {schema}.sessions ADD COLUMN colour text DEFAULT 'red';
CREATE FUNCTION {schema}.commit_2() RETURNS void LANGUAGE sql AS 'SELECT';
"""


async def test_one_version_apart_both_ways(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version's code works on this schema until somebody migrates; this version's code works on that schema."""
    key = fresh()
    async with backend_of(url) as old:
        head = await created(old, key, entries=notes("old"))
        monkeypatch.setattr(schema, "VERSION", 2)
        monkeypatch.setattr(schema, "_MIGRATIONS", {1: _NEXT})
        async with backend_of(url) as new:
            head = await wrote(new, key, head, entries=notes("new on old"))
            assert (await new.status())["schema"] == 1
            assert await asyncio.gather(new.migrate(), new.migrate()) in ([(1, 2), (2, 2)], [(2, 2), (1, 2)])
            assert (await new.status())["schema"] == 2
            head = await wrote(new, key, head, entries=notes("new"))
        monkeypatch.undo()
        head = await wrote(old, key, head, entries=notes("old on new"))
        async with backend_of(url) as another:
            assert await another.migrate() == (2, 2)
            assert await bodies(another, key) == ["old", "new on old", "new", "old on new"]
            assert await another.check() == []


@pytest.mark.parametrize(("version", "oldest", "fine"), [(2, 1, True), (5, 1, True), (2, 2, False)])
async def test_a_schema_says_who_may_write_it(url: str, version: int, oldest: int, fine: bool) -> None:
    async with backend_of(url):
        pass
    shared().ask(f"UPDATE {schema_of(url)}.meta SET version = {version}, oldest = {oldest}")
    async with opened(partial(from_url, shared().fresh())):
        pass
    if fine:
        async with backend_of(url) as backend:
            await created(backend, fresh())
    else:
        with refused(SchemaMismatch) as caught:
            await from_url(url).open()
        assert "upgrade holdfast" in str(caught.error)


async def test_too_old_a_schema_asks_for_a_migration(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backend_of(url):
        pass
    monkeypatch.setattr(schema, "VERSION", 3)
    with refused(SchemaMismatch) as caught:
        await from_url(url).open()
    assert "holdfast db migrate" in str(caught.error)


async def test_what_is_no_store_is_left_alone(url: str) -> None:
    shared().ask(f"CREATE SCHEMA {schema_of(url)}")
    shared().ask(f"CREATE TABLE {schema_of(url)}.theirs (a int)")
    with refused(NotAStore) as caught:
        await from_url(url).open()
    assert "?schema=" in str(caught.error)
    assert shared().ask(f"SELECT count(*) FROM pg_class WHERE relnamespace = '{schema_of(url)}'::regnamespace") == [(1,)]


async def test_an_encoding_that_can_t_hold_every_name_is_refused(url: str) -> None:
    shared().ask("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with refused(NotAStore) as caught:
        await from_url(url.replace("/postgres?", "/latin?")).open()
    assert "UTF8" in str(caught.error)


async def test_status_and_check(url: str) -> None:
    key = fresh()
    assert await from_url(url).status() == await from_url(url).status()
    async with backend_of(url) as backend:
        await created(backend, key, entries=notes("a", "b"), puts=puts(k="1"))
        status = await backend.status()
        assert (status["schema"], status["sessions"], status["entries"]) == (1, 1, 2)
        assert status["bytes"] > 8192
        assert await backend.check() == []
        shared().ask(f"DELETE FROM {schema_of(url)}.entries WHERE seq = 1")
        shared().ask(f"UPDATE {schema_of(url)}.sessions SET waiting = true")
        shared().ask(f"INSERT INTO {schema_of(url)}.state VALUES (999, 'k', 1, false, NULL)")
        problems = await backend.check()
    assert ["state" in problems[0], "index columns" in problems[1], "1 entries" in problems[2]] == [True] * 3
