"""Kills and cuts around PostgreSQL: of writers, of the server with its flushes on, and of the line between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count

import pytest

from holdfast.backend import ClaimAct, Commit, Key, ReadPlan
from holdfast.backends.postgres import PostgresBackend, connections, from_url
from holdfast.errors import OutcomeUnknown, StoreError, StoreUnavailable
from holdfast.ids import new_id
from holdfast.testing import Opener
from holdfast.testing.clauses.crashes import survive_kills
from holdfast.testing.processes import Child, Pipe
from holdfast.testing.tools import (
    EVERYTHING,
    bodies,
    check_gapless,
    created,
    fresh,
    notes,
    opened,
    puts,
    read,
    refused,
    texts,
    values,
    writing,
    wrote,
)

from ..servers.postgres import Server, shared
from ..servers.proxy import TO_CLIENT, TO_SERVER, Proxy

KILLS = 30
WRITERS = 4


@pytest.fixture(scope="module")
def durable() -> Generator[Server]:
    """A server that flushes what it acknowledges."""
    server = Server(durable=True)
    yield server
    server.stop()


@asynccontextmanager
async def backend_of(url: str) -> AsyncGenerator[PostgresBackend]:
    backend = from_url(url)
    try:
        yield backend
    finally:
        await backend.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the server says so, not an event of ours
            await asyncio.sleep(0.01)


# --- writers ---------------------------------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_in_many_kills() -> None:
    name = f"kills-{new_id()}"
    await survive_kills(partial(from_url, shared().fresh(application_name=name)), KILLS, writers=2)
    await until(lambda: shared().ask(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'") == [(0,)])


def contend_until_killed(open: Opener, key: Key, name: str, pipe: Pipe) -> None:
    async def write() -> None:
        backend = open()
        head = await created(backend, key)
        for n in count():
            turn = f"{name} {n}"
            await backend.commit(key, writing(head, base=0, entries=notes(turn, turn), puts=puts(**{name: str(n)})))
            pipe.send(n)

    asyncio.run(write())


def last_said(child: Child) -> int:
    child.kill()
    said = child.rest()
    child.__exit__()
    return said[-1] if said else 0


async def test_killing_writers_of_one_session() -> None:
    """Four processes contend for one session, locks and all; one after another is killed. What each acknowledged is there, and whole."""
    open: Opener = partial(from_url, shared().fresh())
    key, acknowledged = fresh(), dict[str, int]()
    living = {f"w{n}": Child(contend_until_killed, open, key, f"w{n}") for n in range(WRITERS)}
    for number in range(WRITERS, 4 * WRITERS):
        for child in living.values():
            await child.said()
        name = next(iter(living))
        acknowledged[name] = last_said(living.pop(name))
        living[f"w{number}"] = Child(contend_until_killed, open, key, f"w{number}")
    acknowledged |= {name: last_said(child) for name, child in living.items()}
    async with opened(open) as backend:
        snapshot = await read(backend, key)
        check_gapless(snapshot)
        log = texts(snapshot)
        assert log[::2] == log[1::2]
        for name, last in acknowledged.items():
            turns = [int(turn.split()[1]) for turn in log[::2] if turn.startswith(f"{name} ")]
            assert turns == list(range(len(turns)))
            assert not turns or turns[-1] in (last, last + 1) or last == 0
            assert not turns or values(snapshot)[name] == str(turns[-1])


# --- the server ------------------------------------------------------------------------------------------------------


async def turns_until(stop: asyncio.Event, backend: PostgresBackend, key: Key, name: str) -> tuple[list[str], list[str]]:
    """Turns of two entries and a value: those acknowledged, and those whose outcome stayed unknown."""
    done, unknown = list[str](), list[str]()
    head = await created(backend, key)
    for n in count():
        if stop.is_set():
            return done, unknown
        turn = f"{name}-{n}"
        try:
            await backend.commit(key, writing(head, base=0, entries=notes(turn, turn), puts=puts(**{name: str(n)})))
            done.append(turn)
        except OutcomeUnknown:
            unknown.append(turn)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError


async def test_a_server_killed_in_mid_commit(durable: Server) -> None:
    """Killed three times among six writers and started again: every acknowledged turn is there, whole; none is there that was refused."""
    keys = [fresh() for _ in range(3)]
    async with backend_of(durable.fresh()) as backend:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(turns_until(stop, backend, keys[n % 3], f"w{n}")) for n in range(6)]
        for _ in range(3):
            await asyncio.sleep(0.4)
            await asyncio.to_thread(durable.kill)
            await asyncio.to_thread(durable.start)
        await asyncio.sleep(0.3)
        stop.set()
        ended = await asyncio.gather(*tasks)
        logs = [await bodies(backend, key) for key in keys]
        for key in keys:
            check_gapless(await read(backend, key))
        for n, (done, unknown) in enumerate(ended):
            log = logs[n % 3]
            mine = [turn for turn in log[::2] if turn.startswith(f"w{n}-")]
            assert log[::2] == log[1::2]
            assert set(done) <= set(mine) <= set(done) | set(unknown)
            assert len(done) > 10
        assert await backend.check() == []


async def test_a_restart_is_noticed_before_it_is_used(durable: Server) -> None:
    """Connections that lay idle while the server went and came back are not used: nobody is told of a commit that may have happened."""
    key = fresh()
    async with backend_of(durable.fresh()) as backend:
        head = await created(backend, key)
        await asyncio.gather(*(backend.read(key, EVERYTHING) for _ in range(8)))
        await asyncio.to_thread(durable.kill)
        await asyncio.to_thread(durable.start)
        await wrote(backend, key, head, entries=notes("after"))
        assert await bodies(backend, key) == ["after"]


# --- the line --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Generator[Proxy]:
    with Proxy(shared().port) as it:
        yield it


def through(proxy: Proxy, **options: str | int | float) -> str:
    """A store URL by way of the proxy."""
    return shared().fresh(**options).replace(f":{shared().port}/", f":{proxy.port}/")


async def test_a_line_cut_in_mid_commit(proxy: Proxy) -> None:
    """Wherever the cut falls the commit is whole or not there, the error says that nobody knows, and repeating it tells."""
    async with backend_of(through(proxy, pool_size=1)) as backend:  # or a new connection would take the cut
        lost = 0
        for direction, places in ((TO_SERVER, (0, 1, 50, 300, 2000)), (TO_CLIENT, (0, 1, 20, 60))):
            for place in places:
                key = fresh()
                head = await created(backend, key)
                commit = writing(head, entries=notes("a" * 2000, "b"), puts=puts(k="1"), claim=ClaimAct("take", "run"))
                proxy.cut_after(place, direction)
                with refused(OutcomeUnknown) as caught:
                    await backend.commit(key, commit)
                assert "repeat the same commit" in str(caught.error)
                proxy.go_on()
                seq = (await read(backend, key)).head.seq
                assert seq in (0, 2)
                again = await backend.commit(key, commit)
                assert (again.repeated, again.version, again.seq) == (seq == 2, head.version + 1, 2)
                assert await bodies(backend, key) == ["a" * 2000, "b"]
                lost += seq == 0
        assert 0 < lost < 9


async def test_a_line_that_is_cut_for_good(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing gets through, nothing is written and that is said; afterwards all is well."""
    monkeypatch.setattr(connections, "REFUSED_SECONDS", 0.5)
    async with backend_of(through(proxy)) as backend:
        key = fresh()
        head = await created(backend, key)
        proxy.cut(refuse=True)
        for use in (backend.commit(key, writing(head, entries=notes("a"))), backend.read(key, ReadPlan())):
            with refused(StoreUnavailable):
                await use
        proxy.go_on()
        assert (await read(backend, key)).head == head
        await wrote(backend, key, head, entries=notes("b"))


async def test_a_line_that_falls_silent(proxy: Proxy) -> None:
    """A commit that gets no answer ends after `timeout`, with the word that its outcome is unknown; repeated later it is one commit."""
    async with backend_of(through(proxy, timeout=0.3)) as backend:
        key = fresh()
        head = await created(backend, key)
        commit = writing(head, entries=notes("a"))
        proxy.stall()
        async with asyncio.timeout(5):
            with refused(OutcomeUnknown) as caught:
                await backend.commit(key, commit)
        assert "0.3 s" in str(caught.error)
        proxy.go_on()
        assert await eventually(backend, key, commit) == (head.version + 1, 1)
        assert await bodies(backend, key) == ["a"]


async def eventually(backend: PostgresBackend, key: Key, commit: Commit) -> tuple[int, int]:
    """What the commit did, once the line is there again."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreError):
                outcome = await backend.commit(key, commit)
                return outcome.version, outcome.seq


async def test_no_connection_is_left_behind(proxy: Proxy) -> None:
    """After cancelled commits, cuts and errors there are as many connections as the pool has, and after closing none."""
    name = f"leaks-{new_id()}"
    here = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
    backend, key = from_url(through(proxy, application_name=name, pool_size=4)), fresh()
    head = await created(backend, key)
    for n in range(20):
        tasks = [asyncio.create_task(backend.commit(key, writing(head, base=0, entries=notes("a")))) for _ in range(8)]
        await asyncio.sleep(0.001 * (n % 4))
        for task in tasks[::2]:
            task.cancel()
        if n % 5 == 4:
            proxy.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
    check_gapless(await read(backend, key))
    await until(lambda: shared().ask(here)[0][0] <= 4)
    assert shared().ask(f"{here} AND state <> 'idle'") == [(0,)]
    await backend.close()
    await until(lambda: shared().ask(here) == [(0,)])
