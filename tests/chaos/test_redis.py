"""Redis in trouble: writers and servers killed, a primary lost, connections that stall or break at any byte of a commit."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count

import pytest

from holdfast import user
from holdfast.backend import Backend, Commit, Key, ReadPlan
from holdfast.backends.redis import RedisBackend, from_url
from holdfast.errors import OutcomeUnknown, StoreClosed, StoreUnavailable
from holdfast.ids import new_id
from holdfast.testing import Opener
from holdfast.testing.clauses.crashes import survive_kills
from holdfast.testing.processes import in_processes
from holdfast.testing.tools import (
    bodies,
    check_gapless,
    created,
    creating,
    fresh,
    notes,
    opened,
    puts,
    read,
    refused,
    stored,
    values,
    writing,
    wrote,
)

from ..servers.proxy import TO_CLIENT, TO_SERVER, Proxy
from ..servers.redis import Server, clients, cluster, redis8, server, valkey9

KILLS = 30
LOSSES = 4


@pytest.fixture(scope="module")
def it() -> Generator[Server]:
    with server(redis8()) as running:
        yield running


def opener(it: Server, options: str = "") -> Opener:
    return partial(from_url, f"{it.url}?appendfsync=always&prefix={new_id()}:{options}")


# --- processes -------------------------------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_when_writers_are_killed(it: Server) -> None:
    await survive_kills(opener(it), KILLS, writers=2)


async def take_turns(open: Opener, key: Key, writer: int, turns: int) -> float:
    """Turns on one session through a store of its own; how long the slowest one took."""
    slowest = 0.0
    async with stored(open, key) as store:
        session = await store.session(key.session_id)
        for turn in range(turns):
            start = time.monotonic()
            session.set(f"writer-{writer}", turn)
            await session.append(user(f"{writer} {turn} asks"), user(f"{writer} {turn} answers"))
            await session.state.increment("counter")
            slowest = max(slowest, time.monotonic() - start)
    return slowest


async def test_eight_processes_on_one_session(it: Server) -> None:
    """400 of 400 turns, a counter at 400, and nobody is left waiting, not even where the machine has other work."""
    open, key = opener(it), fresh()
    slowest = await in_processes(take_turns, [(open, key, writer, 50) for writer in range(8)])
    async with stored(open, key) as store:
        session = await store.session(key.session_id)
        assert len(await session.get_messages()) == 800
        assert session.get("counter") == 400
    assert max(slowest) < 30


async def test_a_writer_far_away_has_its_turn(it: Server) -> None:
    """Four writers beside the server never pause; one whose every request takes ten milliseconds gets its commits through all the same."""
    with Proxy(it.port) as proxy:
        proxy.delay(0.005)
        prefix, key, stop = new_id(), fresh(), asyncio.Event()
        near = [from_url(f"{it.url}?prefix={prefix}:") for _ in range(4)]
        far = from_url(f"redis://127.0.0.1:{proxy.port}/0?prefix={prefix}:")
        head = await created(near[0], key)

        async def hammer(backend: Backend) -> None:
            while not stop.is_set():
                await backend.commit(key, writing(head, base=0, entries=notes("near")))

        tasks = [asyncio.create_task(hammer(backend)) for backend in near]
        async with asyncio.timeout(10):
            for n in range(10):
                await far.commit(key, writing(head, base=0, entries=notes(f"far {n}")))
        stop.set()
        await asyncio.gather(*tasks)
        assert [text for text in await bodies(near[0], key) if text != "near"] == [f"far {n}" for n in range(10)]
        for backend in (*near, far):
            await backend.close()


# --- servers ---------------------------------------------------------------------------------------------------------


async def keep_writing(backend: Backend, key: Key, acknowledged: list[int], stop: asyncio.Event) -> None:
    """Numbered commits; each is tried until its outcome is known, as a caller would."""
    head = await created(backend, key)
    for n in count():
        commit = writing(head, base=0, entries=notes(f"{n}", f"{n}"), puts=puts(n=str(n)))
        await until_known(backend, key, commit)
        acknowledged.append(n)
        if stop.is_set():
            return


async def until(true: Callable[[], bool]) -> None:
    """A server has no event to wait for."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def until_known(backend: Backend, key: Key, commit: Commit) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(StoreUnavailable, OutcomeUnknown):
                await backend.commit(key, commit)
                return
            await asyncio.sleep(0.02)


async def check_written(backend: Backend, key: Key, acknowledged: list[int]) -> None:
    """Every acknowledged commit is there once, whole, in its place."""
    snapshot = await read(backend, key)
    check_gapless(snapshot)
    assert await bodies(backend, key) == [str(n) for n in acknowledged for _ in (0, 1)]
    assert values(snapshot) == {"n": str(acknowledged[-1])}
    assert isinstance(backend, RedisBackend)
    assert await backend.check() == []


@pytest.mark.parametrize("binary", [redis8, valkey9])
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(binary: object) -> None:
    """Killed again and again in the midst of commits and started anew on its files: what was acknowledged is there, once."""
    assert callable(binary)
    with server(str(binary())) as first:
        backend, keys = opener(first)(), [fresh() for _ in range(3)]
        acknowledged, stop = [list[int]() for _ in keys], asyncio.Event()
        tasks = [asyncio.create_task(keep_writing(backend, key, done, stop)) for key, done in zip(keys, acknowledged, strict=True)]
        await asyncio.sleep(0.1)
        running: Server = first
        for _ in range(LOSSES):
            before = [len(done) for done in acknowledged]
            await asyncio.to_thread(running.kill)
            with server(str(binary()), port=first.port, path=first.folder) as running:
                await until(lambda before=before: all(len(done) >= most + 5 for done, most in zip(acknowledged, before, strict=True)))
                running.kill()
        with server(str(binary()), port=first.port, path=first.folder):
            stop.set()
            await asyncio.gather(*tasks)
            for key, done in zip(keys, acknowledged, strict=True):
                await check_written(backend, key, done)
            await backend.close()


async def test_nothing_acknowledged_is_lost_with_a_primary() -> None:
    """A primary is killed and its replica takes its place: with `wait=1` every acknowledged commit is there, once."""
    with cluster(redis8()) as it:
        backend, keys = from_url(f"{it.url}&wait=1&wait_timeout=0.5&timeout=30"), [fresh(f"s{n}") for n in range(6)]
        nodes = [await node_of(backend, key) for key in keys]
        acknowledged, stop = [list[int]() for _ in keys], asyncio.Event()
        tasks = [asyncio.create_task(keep_writing(backend, key, done, stop)) for key, done in zip(keys, acknowledged, strict=True)]
        await until(lambda: all(len(done) > 20 for done in acknowledged))
        next(node for node in it.nodes if node.port == nodes[0]).kill()
        async with asyncio.timeout(30):
            for key in keys:  # waits for the slot to have a node again
                await backend.read(key, ReadPlan())
        stop.set()
        with suppress(TimeoutError):  # the new primary has no replica: what waits for one is written, and never acknowledged
            async with asyncio.timeout(1):
                await asyncio.gather(*tasks, return_exceptions=True)
        for key, node, done in zip(keys, nodes, acknowledged, strict=True):
            found = await bodies(backend, key)
            assert found[: 2 * len(done)] == [str(n) for n in done for _ in (0, 1)]
            assert len(found) in ((2 * len(done), 2 * len(done) + 2) if node == nodes[0] else (2 * len(done),))
        living = next(node for node in it.nodes if node.port != nodes[0])
        await go_on(f"{living.url}?cluster=true", keys)
        await backend.close()


async def go_on(url: str, keys: list[Key]) -> None:
    """Who asks for no replica writes on, on every node, and what is stored is sound."""
    async with opened(partial(from_url, url)) as backend:
        for key in keys:
            await wrote(backend, key, (await read(backend, key)).head, entries=notes("on"))
        assert isinstance(backend, RedisBackend)
        assert await backend.check() == []


async def node_of(backend: RedisBackend, key: Key) -> int:
    loop = await backend.loop()
    return (await loop.nodes.pool_of(backend.layout.place(key).slot)).address[1]


# --- connections -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def behind(proxy: Proxy, options: str = "") -> AsyncGenerator[RedisBackend]:
    backend = from_url(f"redis://127.0.0.1:{proxy.port}/0?prefix={new_id()}:{options}")
    try:
        yield backend
    finally:
        await backend.close()


async def test_a_connection_cut_at_any_byte_of_a_commit(it: Server) -> None:
    """The author is told that the outcome is unknown; the repetition is applied or recognised, never both."""
    with Proxy(it.port) as proxy:
        async with behind(proxy) as backend:
            key, seen = fresh(), dict[str, set[bool]]()
            head = await created(backend, key)
            sizes = {direction: proxy.passed(direction) for direction in (TO_SERVER, TO_CLIENT)}
            await wrote(backend, key, head, base=0, entries=notes("0"), puts=puts(n="0"))
            sizes = {direction: proxy.passed(direction) - before for direction, before in sizes.items()}
            for n in range(1, 80):
                commit = writing(head, base=0, entries=notes(str(n)), puts=puts(n=str(n)))
                direction = (TO_SERVER, TO_CLIENT)[n % 2]
                await backend.read(key, ReadPlan())
                proxy.cut_after(random.randrange(sizes[direction] - 8), direction)
                with refused(OutcomeUnknown) as caught:
                    await backend.commit(key, commit)
                assert str(proxy.port) in str(caught.error)
                proxy.go_on()
                seen.setdefault(direction, set()).add((await backend.commit(key, commit)).repeated)
            assert seen == {TO_SERVER: {False}, TO_CLIENT: {True}}
            assert await bodies(backend, key) == [str(n) for n in range(80)]


async def test_a_stalled_server_is_not_waited_for(it: Server) -> None:
    """Within the time that the URL gives a commit is unknown and a reading unavailable; when the server answers again, both go on."""
    with Proxy(it.port) as proxy:
        async with behind(proxy, "&timeout=0.2&connect_timeout=0.2") as backend:
            key = fresh()
            head = await created(backend, key)
            commit = writing(head, entries=notes("a"))
            proxy.stall()
            start = time.monotonic()
            with refused(OutcomeUnknown) as caught:
                await backend.commit(key, commit)
            assert "timeout" in str(caught.error)
            with refused(StoreUnavailable):
                await backend.read(key, ReadPlan())
            with refused(StoreUnavailable):
                await backend.commit(key, commit)  # on a connection that is not made
            assert time.monotonic() - start < 15
            proxy.go_on()
            await backend.commit(key, commit)
            assert await bodies(backend, key) == ["a"]


async def test_a_connection_that_was_closed_while_idle_is_not_used(it: Server) -> None:
    """A server that was restarted, or has closed what was idle for long, is no error to anybody."""
    with Proxy(it.port) as proxy:
        async with behind(proxy) as backend:
            key = fresh()
            head = await created(backend, key)
            for n in range(10):
                proxy.cut()
                await asyncio.sleep(0.02)
                head = await wrote(backend, key, head, entries=notes(str(n)))
            assert await bodies(backend, key) == [str(n) for n in range(10)]


async def test_no_connection_is_left_by_trouble() -> None:
    with server(redis8()) as it, Proxy(it.port) as proxy:
        async with behind(proxy, "&timeout=0.1&connect_timeout=0.1") as backend:
            head = await created(backend, key := fresh())
            for n in range(20):
                if n % 4:
                    proxy.cut_after(random.randrange(300), (TO_SERVER, TO_CLIENT)[n % 2])
                else:
                    proxy.stall()
                commits = [backend.commit(fresh(), creating()), backend.commit(key, writing(head, base=0, entries=notes("a")))]
                await asyncio.gather(*commits, return_exceptions=True)
                proxy.go_on()
            await wrote(backend, key, head, entries=notes("b"))
            async with asyncio.timeout(5):
                await until(lambda: clients(it.port, "holdfast") <= 2)


async def test_a_watcher_outlives_its_connection(it: Server) -> None:
    with Proxy(it.port) as proxy:
        async with behind(proxy) as backend, asyncio.timeout(20):
            key = fresh()
            head = await created(backend, key)
            versions = backend.watch(key, head.version)
            for n in range(5):
                following = asyncio.ensure_future(anext(versions))
                await asyncio.sleep(0.02)
                proxy.cut()
                await asyncio.sleep(0.02)
                head = await wrote(backend, key, head, entries=notes(str(n)))
                assert await following == head.version


async def test_closed_among_commits_that_are_refused_again_and_again(it: Server) -> None:
    """Writers of one session through two backends, one of which is closed: each of its commits is done or refused, and none hangs."""
    prefix, key = new_id(), fresh()
    one, other = (from_url(f"{it.url}?connections=2&prefix={prefix}:") for _ in range(2))
    head = await created(one, key)
    commits = [[backend.commit(key, writing(head, base=0, entries=notes("a"))) for _ in range(100)] for backend in (one, other)]
    tasks = [[asyncio.create_task(commit) for commit in some] for some in commits]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        await one.close()
        ended, done = await asyncio.gather(asyncio.gather(*tasks[0], return_exceptions=True), asyncio.gather(*tasks[1]))
    assert {type(error) for error in ended if isinstance(error, BaseException)} <= {StoreClosed}
    written = sum(not isinstance(error, BaseException) for error in ended)
    assert len(await bodies(other, key)) == written + len(done)
    await other.close()


async def test_opened_again(it: Server) -> None:
    """A store that could not connect does so at a later use."""
    with Proxy(it.port) as proxy:
        async with behind(proxy) as backend:
            proxy.cut(refuse=True)
            for _ in range(3):
                with refused(StoreUnavailable):
                    await backend.open()
            proxy.go_on()
            async with opened(lambda: backend) as again:
                await created(again, fresh())
