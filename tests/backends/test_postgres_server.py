"""The PostgreSQL backend and its server: loops, pools, watchers, the work a query does, and trouble."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

from holdfast import Store
from holdfast.backend import (
    BlobPut,
    Filter,
    HeadPatch,
    Key,
    Put,
    Range,
    ReadPlan,
    Snapshot,
    Window,
)
from holdfast.backends.postgres import PostgresBackend, from_url, plans
from holdfast.backends.postgres import connections as module
from holdfast.entries import MESSAGE
from holdfast.errors import (
    InvalidValue,
    SchemaMismatch,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    TooLarge,
    Unsupported,
    UsageError,
)
from holdfast.ids import new_id, now
from holdfast.info import Link, touch
from holdfast.testing.processes import in_processes
from holdfast.testing.tools import (
    EVERYTHING,
    SECOND,
    bodies,
    created,
    creating,
    fresh,
    listed,
    note,
    notes,
    puts,
    read,
    refused,
    writing,
    wrote,
)

from ..servers import free_port
from ..servers.postgres import schema_of, shared

PASSWORD = "secret"


@pytest.fixture
def url() -> str:
    """A store of this test's own."""
    return shared().fresh()


@asynccontextmanager
async def backend_of(url: str) -> AsyncGenerator[PostgresBackend]:
    backend = from_url(url)
    try:
        await backend.open()
        yield backend
    finally:
        await backend.close()


# --- loops, pools, connections ---------------------------------------------------------------------------------------


def connections(application: str) -> int:
    return shared().ask(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}'")[0][0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # somebody else's process says so, not an event of ours
            await asyncio.sleep(0.01)


async def test_a_loop_that_ends_takes_its_connections_along(url: str) -> None:
    """Threads that come and go with loops of their own leave no connection behind, though nobody closes the store."""
    name = f"loops-{new_id()}"
    backend, key = from_url(f"{url}&application_name={name}"), fresh()
    head = await created(backend, key)

    async def several(n: int) -> None:
        await asyncio.gather(*(backend.commit(key, writing(head, base=0, entries=notes(f"{n}.{it}"))) for it in range(4)))

    def in_a_loop(n: int) -> None:
        asyncio.run(several(n))

    threads = [threading.Thread(target=in_a_loop, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await until(lambda: connections(name) == 1)
    assert len(await bodies(backend, key)) == 32
    await backend.close()
    await until(lambda: connections(name) == 0)


def test_a_loop_may_end_while_its_pool_grows(url: str) -> None:
    """`asyncio.run` returns although connections are being made at that moment."""
    backend, key = from_url(url), fresh()
    asyncio.run(created(backend, key))

    async def several(number: int) -> None:
        reads = {asyncio.ensure_future(backend.read(key, ReadPlan())) for _ in range(number)}
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)

    def in_a_loop(number: int) -> None:
        asyncio.run(several(number))

    async def all_of_them() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(asyncio.to_thread(in_a_loop, 2 + n % 4) for n in range(60)))

    asyncio.run(all_of_them())


async def test_a_loop_closed_without_a_word_is_noticed(url: str) -> None:
    name = f"silent-{new_id()}"
    backend, key = from_url(f"{url}&application_name={name}"), fresh()

    def silent() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(created(backend, key))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    await asyncio.to_thread(silent)
    assert connections(name) == 1
    assert await backend.read(key, ReadPlan()) is not None
    await until(lambda: connections(name) == 1)
    await backend.close()
    await until(lambda: connections(name) == 0)


async def test_a_pool_that_was_given_is_used_and_left_open(url: str) -> None:
    """Its connections come back as they were, transactions and rows in the caller's ways; other loops are refused."""
    key = fresh()
    options: dict[str, Any] = {"row_factory": dict_row, "autocommit": False}
    async with psycopg_pool.AsyncConnectionPool[Any](shared().url(), min_size=1, max_size=2, kwargs=options, open=False) as pool:
        backend = PostgresBackend(pool=pool, schema=schema_of(url))
        await backend.open()
        head = await created(backend, key, entries=notes("a"))
        await asyncio.gather(*(backend.commit(key, writing(head, base=0, entries=notes("b"))) for _ in range(8)))
        assert len(await bodies(backend, key)) == 9
        with refused(Unsupported):
            await asyncio.to_thread(lambda: asyncio.run(backend.read(key, ReadPlan())))
        async with asyncio.timeout(10):
            assert await anext(backend.watch(key, 0)) == 9
        await backend.close()
        async with pool.connection() as connection:
            assert not connection.autocommit
            assert await (await connection.execute("SELECT 1 AS one")).fetchall() == [{"one": 1}]
        with refused(StoreClosed):
            await backend.read(key, ReadPlan())


async def test_a_pool_and_a_dsn_are_one_too_many() -> None:
    pool = psycopg_pool.AsyncConnectionPool[Any](shared().url(), open=False)
    with refused(InvalidValue):
        PostgresBackend(shared().url(), pool=pool)


# --- watching --------------------------------------------------------------------------------------------------------


async def test_nobody_is_notified_while_nobody_watches(url: str) -> None:
    """A commit notifies only where somebody watches that very session."""
    key, other = fresh(), fresh()
    async with backend_of(url) as backend, await psycopg.AsyncConnection.connect(url.partition("?")[0], autocommit=True) as ear:
        await ear.execute(f"LISTEN holdfast_{schema_of(url)}".encode())
        head, unwatched = await created(backend, key), await created(backend, other)
        watching = backend.watch(key, 0)
        assert await anext(watching) == head.version
        await wrote(backend, other, unwatched, entries=notes("unheard"))
        assert [it async for it in ear.notifies(timeout=0.1)] == []
        next_one = asyncio.ensure_future(anext(watching))
        head = await wrote(backend, key, head, entries=notes("heard"))
        assert await next_one == head.version
        assert len([it async for it in ear.notifies(timeout=0.1)]) == 1
        await watching.aclose()
        await until(lambda: shared().ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'") == [(0,)])
        await wrote(backend, key, head, entries=notes("unheard"))
        assert [it async for it in ear.notifies(timeout=0.1)] == []


async def test_watchers_of_many_sessions_share_a_connection(url: str) -> None:
    name = f"watch-{new_id()}"
    async with backend_of(f"{url}&application_name={name}") as backend:
        keys = [fresh() for _ in range(5)]
        heads = [await created(backend, key) for key in keys]
        watching = [backend.watch(key, head.version) for key, head in zip(keys, heads, strict=True) for _ in range(2)]
        waiting = [asyncio.ensure_future(anext(it)) for it in watching]
        await until(lambda: shared().ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'") == [(5,)])
        ears = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND query ~ 'watch_key_1|pg_advisory'"
        assert shared().ask(ears) == [(1,)]
        for key, head in zip(keys, heads, strict=True):
            await wrote(backend, key, head, entries=notes("x"))
        assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [2] * 10
        for it in watching:
            await it.aclose()
        await until(lambda: shared().ask(ears) == [(0,)])


async def test_a_watcher_outlives_its_connection(url: str) -> None:
    key = fresh()
    async with backend_of(url) as backend:
        head = await created(backend, key)
        watching = backend.watch(key, head.version)
        waiting = asyncio.ensure_future(anext(watching))
        await until(lambda: bool(shared().ask("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_advisory_lock_shared%'")))
        shared().ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_advisory_lock_shared%'")
        head = await wrote(backend, key, head, entries=notes("x"))
        assert await asyncio.wait_for(waiting, 10) == head.version
        await watching.aclose()


# --- bounded work ----------------------------------------------------------------------------------------------------


def met(url: str, text: bytes, values: dict[str, Any]) -> int:
    """How many rows a statement has read, planned once for all values as the backend's connections do."""
    count = (
        f"SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int FROM pg_stat_xact_user_tables WHERE schemaname = '{schema_of(url)}'"
    )
    with psycopg.connect(shared().url(), options="-cplan_cache_mode=force_generic_plan") as connection:
        connection.execute(text, values, prepare=True).fetchall()
        [(read,)] = connection.execute(count.encode()).fetchall()
    return read


@pytest.mark.parametrize("analyzed", [False, True])
async def test_windows_and_lists_read_no_more_than_they_give(url: str, analyzed: bool) -> None:
    """Of 4,000 entries, most of them hidden, and 1,000 sessions, each answer meets about as many rows as it has."""
    key, ada = fresh(), "ada"
    async with backend_of(url) as backend:
        head = await created(backend, key)
        for n in range(8):
            added = tuple(note("x", "summary" if it == 0 and n == 0 else MESSAGE, f"run-{n}") for it in range(500))
            head = await wrote(backend, key, head, entries=added)
        await wrote(backend, key, head, hide=(Range(1000, 3990),))
        name = schema_of(url)
        shared().ask(
            f"INSERT INTO {name}.sessions (tenant, session_id, incarnation, head, user_id, waiting)"
            f" SELECT '{key.tenant}', 'other' || i, 1, '{{}}',"
            f" CASE WHEN i % 500 = 0 THEN '{ada}' END, i % 400 = 0 FROM generate_series(1, 1000) i"
        )
        for table in ("entries", "sessions") if analyzed else ():
            shared().ask(f"ANALYZE {name}.{table}")
        for window in (
            Window(limit=20),
            Window(limit=20, kinds=("summary",)),
            Window(limit=5, run_id="run-1"),
            Window(limit=20, kinds=(MESSAGE,)),
        ):
            assert 0 < met(url, *plans.statement(name, key, ReadPlan(entries=window))) <= 22, window
        for where in (f"user_id = '{ada}'", "waiting", "true"):
            text = f"SELECT n FROM {name}.sessions WHERE tenant = '{key.tenant}' AND n < 99999999 AND {where} ORDER BY n DESC LIMIT 11"
            assert 0 < met(url, text.encode(), {}) <= 12, where


async def test_a_session_made_late_moves_no_page(url: str) -> None:
    """A creation that took its number early and commits late appears in its place, and hides nobody else."""
    key = fresh()
    async with backend_of(url) as backend:
        for n in range(3):
            await created(backend, Key(key.tenant, f"s{n}"))
        with psycopg.connect(shared().url()) as late:
            late.execute(
                f"INSERT INTO {schema_of(url)}.sessions (tenant, session_id, incarnation, head)"
                f" VALUES ('{key.tenant}', 'late', 1, '{{\"incarnation\":1}}')".encode()
            )
            for n in range(3, 6):
                await created(backend, Key(key.tenant, f"s{n}"))
            first = await backend.list(Filter(tenant=key.tenant), None, 2)
            late.commit()
        rest = await backend.list(Filter(tenant=key.tenant), first.cursor, 10)
        assert [name for name, _ in first.items + rest.items] == ["s5", "s4", "s3", "late", "s2", "s1", "s0"]


async def test_a_sweep_leaves_nothing(url: str) -> None:
    past, key = now() - 50 * SECOND, fresh()
    async with backend_of(url) as backend:
        for n in range(45):
            blobs = (BlobPut("s", "b", "t", b"x"),)
            await created(backend, Key(key.tenant, f"s{n}"), time=past, patch=HeadPatch(ttl=1), entries=notes("a", "b"), blobs=blobs)
        await created(backend, key, entries=notes("stays"))
        assert [await backend.sweep(30), await backend.sweep(30)] == [30, 15]
        assert await listed(backend, Filter(tenant=key.tenant)) == [key.session_id]
        counts = [
            shared().ask(f"SELECT count(*) FROM {schema_of(url)}.{table}")[0][0]
            for table in ("sessions", "entries", "commits", "blobs", "graves")
        ]
        assert counts == [1, 1, 1, 0, 45]
        shared().ask(f"UPDATE {schema_of(url)}.graves SET time = 1")
        await backend.sweep(1)
        assert shared().ask(f"SELECT count(*) FROM {schema_of(url)}.graves") == [(0,)]
        assert await backend.check() == []


async def test_commits_are_remembered_and_forgotten(url: str) -> None:
    """The ids of at least 1,024 commits are kept, and not many more."""
    key = fresh()
    async with backend_of(url) as backend:
        head = await created(backend, key)
        for _ in range(24):
            await asyncio.gather(*(backend.commit(key, writing(head, base=0, puts=puts(k="1"))) for _ in range(50)))
        assert 1024 <= shared().ask(f"SELECT count(*) FROM {schema_of(url)}.commits")[0][0] <= 1024 + 65


# --- trouble ---------------------------------------------------------------------------------------------------------


async def failing(url: str, kind: type[StoreError | UsageError], *words: str, reads: bool = False) -> None:
    """A commit, or a read, is refused with `kind`, in words that name the server and no password."""
    backend = from_url(url)
    with refused(kind) as caught:
        await (backend.read(fresh(), ReadPlan()) if reads else backend.commit(fresh(), creating()))
    await backend.close()
    assert PASSWORD not in str(caught.error)
    for word in ("postgresql://127.0.0.1:", *words):
        assert word in str(caught.error)


async def test_a_server_that_is_not_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be reached is said with the reason, and soon."""
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.5)
    began = asyncio.get_running_loop().time()
    await failing(f"postgresql://ada:{PASSWORD}@127.0.0.1:{free_port()}/chats", StoreUnavailable, "refused")
    assert asyncio.get_running_loop().time() - began < 15
    await failing(url.replace("/postgres?", "/nowhere?"), StoreUnavailable, "nowhere", "does not exist")


async def test_a_role_without_rights(url: str) -> None:
    async with backend_of(url) as backend:
        await created(backend, fresh())
    shared().ask("CREATE ROLE reader LOGIN")
    reader = url.replace("postgres:secret@", f"reader:{PASSWORD}@")
    await failing(reader, StoreReadOnly, "grant", reads=True)
    shared().ask(f"GRANT USAGE ON SCHEMA {schema_of(url)} TO reader")
    shared().ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema_of(url)} TO reader")
    async with backend_of(reader) as backend:
        assert await backend.read(fresh(), EVERYTHING) is None
    await failing(reader, StoreReadOnly, "grant")
    await failing(shared().fresh().replace("postgres:secret@", f"reader:{PASSWORD}@"), StoreReadOnly, "grant")


async def test_a_server_that_only_reads(url: str) -> None:
    async with backend_of(url):
        pass
    await failing(f"{url}&options=-cdefault_transaction_read_only%3Don", StoreReadOnly, "primary")


def raising(url: str, state: str) -> None:
    """From now on the server refuses every entry with this SQLSTATE."""
    name = schema_of(url)
    body = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END"
    shared().ask(f"CREATE FUNCTION {name}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    shared().ask(f"CREATE TRIGGER refuse BEFORE INSERT ON {name}.entries FOR EACH ROW EXECUTE FUNCTION {name}.refuse()")


@pytest.mark.parametrize(
    ("state", "kind"), [("53100", StoreFull), ("53300", StoreUnavailable), ("57014", StoreUnavailable), ("40P01", StoreUnavailable)]
)
async def test_what_the_server_refuses_is_not_written(url: str, state: str, kind: type[StoreError]) -> None:
    """No space (as the server reports it), too many connections, a statement cancelled, a deadlock that never ends: in our words."""
    key = fresh()
    async with backend_of(url) as backend:
        head = await created(backend, key, puts=puts(k="1"))
        raising(url, state)
        with refused(kind):
            await backend.commit(key, writing(head, entries=notes("a"), puts=puts(k="2")))
        snapshot: Snapshot = await read(backend, key)
        assert (snapshot.head, snapshot.entries) == (head, [])
        shared().ask(f"DROP TRIGGER refuse ON {schema_of(url)}.entries")
        assert (await wrote(backend, key, head, entries=notes("a"))).seq == 1


async def test_a_statement_timeout_is_said(url: str) -> None:
    key = fresh()
    async with backend_of(f"{url}&options=-cstatement_timeout%3D100") as backend:
        head = await created(backend, key)
        with psycopg.connect(shared().url()) as other:
            other.execute(f"SELECT FROM {schema_of(url)}.sessions FOR UPDATE".encode())
            with refused(StoreUnavailable) as caught:
                await backend.commit(key, writing(head, entries=notes("a")))
        assert "too long" in str(caught.error)
        await wrote(backend, key, head, entries=notes("a"))


async def test_a_touch_waits_for_nobody(url: str) -> None:
    """While another writes the session, a read whose expiry is due to be put off answers at once, and later puts it off."""
    key, past = fresh(), now() - 50 * SECOND
    async with backend_of(url) as backend:
        head = await created(backend, key, time=past, patch=HeadPatch(ttl=100))
        link = Link(backend, key.tenant, True, None)
        with psycopg.connect(shared().url()) as other:
            other.execute(f"SELECT FROM {schema_of(url)}.sessions FOR UPDATE".encode())
            async with asyncio.timeout(5):
                await touch(link, key, head, None)
                with refused(StoreUnavailable):
                    await backend.commit(key, writing(head))
        assert (await read(backend, key)).head == head
        await touch(link, key, head, None)
        assert ((await read(backend, key)).head.expires or 0) > (head.expires or 0) + 40 * SECOND


async def count_up(url: str, key: Key) -> None:
    async with Store.open(url, tenant=key.tenant) as store:
        session = await store.session(key.session_id)
        for _ in range(25):
            await session.state.increment("counter")


@pytest.mark.parametrize("level", ["repeatable%20read", "serializable"])
async def test_a_stricter_server_is_asked_again(url: str, level: str) -> None:
    """Where the database's default is a level that refuses what is not serializable, refused work is done again, and counted once."""
    key, strict = fresh(), f"{url}&options=-cdefault_transaction_isolation%3D{level.replace('%20', '%5C%20')}"
    async with backend_of(url) as backend:
        await in_processes(count_up, [(strict, key)] * 4)
        assert (await read(backend, key)).state is not None
    async with Store.open(url, tenant=key.tenant) as store:
        assert (await store.session(key.session_id)).get("counter") == 100


async def test_a_schema_that_went_is_said(url: str) -> None:
    async with backend_of(url) as backend:
        head = await created(backend, key := fresh())
        shared().ask(f"DROP SCHEMA {schema_of(url)} CASCADE")
        with refused(SchemaMismatch):
            await backend.commit(key, writing(head, entries=notes("a")))
        with refused(SchemaMismatch):
            await backend.read(key, ReadPlan())


async def test_names_the_database_can_t_hold(url: str) -> None:
    """A name with NUL, and one too long for an index, are the caller's to change."""
    async with backend_of(url) as backend:
        head = await created(backend, key := fresh())
        with refused(InvalidValue):
            await backend.commit(key, writing(head, puts=(Put("a\0b", b"1"),)))
        with refused(TooLarge):
            name = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
            await backend.commit(key, writing(head, puts=(Put(name, b"1"),)))
        assert (await read(backend, key)).head == head


async def test_one_bad_head_is_one_session_s_trouble(url: str) -> None:
    key = fresh()
    async with backend_of(url) as backend:
        for name in ("well", "bad"):
            await created(backend, Key(key.tenant, name))
        shared().ask(f"UPDATE {schema_of(url)}.sessions SET head = 'x', rev = rev + 1 WHERE session_id = 'bad'")
        assert await listed(backend, Filter(tenant=key.tenant)) == ["well"]
        assert ["bad" in problem for problem in await backend.check()] == [True]
        with refused(StoreError):
            await backend.read(Key(key.tenant, "bad"), ReadPlan())
