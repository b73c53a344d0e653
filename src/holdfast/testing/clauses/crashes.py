"""Crashes: SIGKILL at any instant loses nothing that was acknowledged and leaves nothing half done."""

from __future__ import annotations

import asyncio
import random
from itertools import count

from ... import user
from ...backend import Backend, Head, Key, Maintenance, Snapshot
from ..processes import Child, Pipe
from ..suite import Opener, clause
from ..tools import blob, check_gapless, contents, created, fresh, notes, opened, puts, read, stored, texts, values, wrote

KILLS = 20


def _write_turns(open: Opener, key: Key, pipe: Pipe) -> None:
    """Commit numbered turns until killed, and say so after each."""

    async def write() -> None:
        backend = open()
        head = await created(backend, key)
        for n in count():
            head = await _turn(backend, key, head, str(n))
            pipe.send(n)

    asyncio.run(write())


async def _turn(backend: Backend, key: Key, head: Head, n: str) -> Head:
    return await wrote(backend, key, head, entries=notes(f"{n} asks", f"{n} answers"), puts=puts(**{n: n}), blobs=(blob(n, n),))


async def survive_kills(open: Opener, kills: int, *, writers: int = 1) -> None:
    """Kill a process in the middle of its turns `kills` times, of `writers` that run beside each other, and look at what is there."""
    lanes = [kills // writers + (n < kills % writers) for n in range(writers)]
    await asyncio.gather(*(_killed(open, number) for number in lanes))
    async with opened(open) as backend:
        if isinstance(backend, Maintenance):
            assert await backend.check() == []


async def _killed(open: Opener, kills: int) -> None:
    for _ in range(kills):
        key = fresh()
        with Child(_write_turns, open, key) as child:
            last = [await child.said() for _ in range(random.randint(1, 6))]
            await asyncio.sleep(random.uniform(0, 0.004))  # any instant of a commit
            child.kill()
            acknowledged = [*last, *child.rest()][-1] + 1
        async with opened(open) as backend:
            _check_survivors(await read(backend, key), acknowledged)


def _check_survivors(snapshot: Snapshot, acknowledged: int) -> None:
    """Every acknowledged turn is there and whole; at most the one that was in flight is there too, whole."""
    check_gapless(snapshot)
    turns = snapshot.head.seq // 2
    assert turns in (acknowledged, acknowledged + 1)
    names = [str(n) for n in range(turns)]
    assert texts(snapshot) == [f"{name} {word}" for name in names for word in ("asks", "answers")]
    assert values(snapshot) == {name: name for name in names}
    assert contents(snapshot) == {("files", name): name.encode() for name in names}
    assert snapshot.head.version == turns + 1


@clause(needs=("durable", "multi_process"))
async def nothing_acknowledged_is_lost_in_a_crash(open: Opener) -> None:
    """A process killed in mid-commit leaves every turn it reported, whole, and no half one; another can go on at once."""
    async with opened(open):
        await survive_kills(open, KILLS)


@clause(needs=("durable", "multi_process"))
async def others_go_on_when_one_is_killed(open: Opener) -> None:
    """Killing one of several writers disturbs neither the others nor what is stored."""
    async with opened(open) as backend:
        key, victim = fresh(), fresh()
        head = await created(backend, key)
        with Child(_write_turns, open, victim) as child:
            first = await child.said()
            for n in range(10):
                head = await _turn(backend, key, head, str(n))
            child.kill()
            acknowledged = [first, *child.rest()][-1] + 1
            head = await _turn(backend, key, head, "10")
        _check_survivors(await read(backend, key), 11)
        _check_survivors(await read(backend, victim), acknowledged)


def _run_until_killed(open: Opener, key: Key, pipe: Pipe) -> None:
    async def run() -> None:
        async with stored(open, key) as store:
            session = await store.session(key.session_id)
            async with session.run(user("input"), run_id="first", lease=0.5) as run:
                await run.append(user("half"))
                pipe.send("running")
                await asyncio.Event().wait()

    asyncio.run(run())


@clause(needs=("durable", "multi_process"))
async def a_killed_run_is_taken_over(open: Opener) -> None:
    """The next run waits one lease, takes over, and the killed one reads as `interrupted`, its input and results there."""
    key = fresh()
    async with stored(open, key) as store:
        session = await store.session(key.session_id)
        with Child(_run_until_killed, open, key) as child:
            assert await child.said() == "running"
            child.kill()
        before = asyncio.get_running_loop().time()
        async with session.run(user("next"), run_id="second", wait=30, lease=0.5):
            assert asyncio.get_running_loop().time() - before >= 0.5
        assert [(run.id, run.status) for run in await session.runs()] == [("first", "interrupted"), ("second", "completed")]
        assert [message.text for message in await session.get_messages()] == ["input", "half", "next"]
