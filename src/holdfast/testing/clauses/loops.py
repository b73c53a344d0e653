"""Loops, threads and forks: one backend object serves them all; cancelling and closing leave nothing half done."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...backend import Backend, Filter, Head, Key, ReadPlan, Window
from ..processes import Child, Pipe
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    bodies,
    check_gapless,
    created,
    creating,
    fresh,
    notes,
    opened,
    puts,
    read,
    texts,
    unopened,
    values,
    writing,
    wrote,
)


async def _add(backend: Backend, key: Key, head: Head, name: str, number: int = 10) -> None:
    """Commits of two entries and a key, reading between them."""
    for n in range(number):
        await backend.commit(key, writing(head, base=0, entries=notes(name, name), puts=puts(**{name: str(n)})))
        assert name in await bodies(backend, key, Window(limit=1000))


@clause()
async def one_backend_serves_many_loops(open: Opener) -> None:
    """Three event loops in three threads at the same time, and one after another in one thread."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)

        def in_a_loop(name: str) -> None:
            for _ in range(3):
                asyncio.run(_add(backend, key, head, name))

        await asyncio.gather(_add(backend, key, head, "mine"), *(asyncio.to_thread(in_a_loop, name) for name in "abc"))
        snapshot = await read(backend, key)
        check_gapless(snapshot)
        assert {name: texts(snapshot).count(name) for name in "abc"} == {"a": 60, "b": 60, "c": 60}


@clause()
async def it_opens_at_its_first_use(open: Opener) -> None:
    """Nobody has to call `open`, and calling it twice does nothing; each verb may be the first."""
    key = fresh()
    async with opened(open) as backend:
        await backend.open()
        await created(backend, key, entries=notes("a"))
        uses: tuple[Callable[[Backend], Awaitable[Any]], ...] = (
            lambda it: it.read(key, EVERYTHING),
            lambda it: it.list(Filter(tenant=key.tenant), None, 10),
            lambda it: it.commit(key, creating(entries=notes("b"))),
            lambda it: it.copy(key, None, fresh(), creating()),
            lambda it: it.sweep(10),
        )
        for use in uses:
            async with unopened(open) as other:
                await use(other)


@clause(needs=("in_place",))
async def it_works_without_a_loop(open: Opener) -> None:
    """Called from plain threads with no event loop, every method ends where it was called."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)

        def in_a_thread(name: str) -> None:
            for n in range(20):
                _drive(backend.commit(key, writing(head, base=0, entries=notes(f"{name}{n}"))))
                assert _drive(backend.read(key, EVERYTHING)) is not None
            assert _drive(backend.list(Filter(tenant=key.tenant), None, 10)).items

        await asyncio.gather(*(asyncio.to_thread(in_a_thread, name) for name in "abc"))
        assert sorted(await bodies(backend, key)) == sorted(f"{name}{n}" for name in "abc" for n in range(20))


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("this backend declares in_place, and suspended on a thread without an event loop")


@clause(needs=("multi_process",))
async def it_works_on_both_sides_of_a_fork(open: Opener) -> None:
    """After `os.fork` the child uses the object it inherited, the parent goes on with it, and nothing of either is lost."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key)
        with Child(_fork, open, key) as child:
            assert await child.said() == [0, 0, 0]
        snapshot = await read(backend, key)
        check_gapless(snapshot)
        counted = {name: texts(snapshot).count(name) for name in ("before", "child", "parent", "loop")}
        assert counted == {"before": 20, "child": 60, "parent": 60, "loop": counted["loop"]}
        assert counted["loop"] > 0
        assert values(snapshot)["parent"] == "9"


def _fork(open: Opener, key: Key, pipe: Pipe) -> None:
    """In a process of its own: write, fork in the midst of a thread's writing, write on both sides."""
    backend = open()
    head = asyncio.run(_head(backend, key))
    asyncio.run(_add(backend, key, head, "before"))
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_write_until(backend, key, head, stop)))
    thread.start()
    codes: list[int] = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            os._exit(_child(backend, key, head))
        asyncio.run(_add(backend, key, head, "parent"))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    thread.join()
    asyncio.run(backend.close())
    pipe.send(codes)


@clause(needs=("multi_process", "in_place"))
async def a_fork_finds_its_moment_among_readers(open: Opener) -> None:
    """A process whose threads read without a pause can still fork, again and again, and they read on."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, entries=notes(*["x" * 200] * 300))
        with Child(_fork_among_readers, open, key) as child:
            async with asyncio.timeout(30):
                assert await child.said() == "done"


def _fork_among_readers(open: Opener, key: Key, pipe: Pipe) -> None:
    backend, stop = open(), threading.Event()
    counted = [0] * 16

    def read_on(place: int) -> None:
        while not stop.is_set():
            counted[place] += len(_drive(bodies(backend, key)))

    threads = [threading.Thread(target=read_on, args=(place,), daemon=True) for place in range(len(counted))]
    for thread in threads:
        thread.start()
    for _ in range(5):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        _until_more(counted)
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send("done")


def _until_more(counted: list[int]) -> None:
    before = sum(counted)
    while sum(counted) == before:
        os.sched_yield()


async def _head(backend: Backend, key: Key) -> Head:
    return (await read(backend, key, ReadPlan())).head


async def _write_until(backend: Backend, key: Key, head: Head, stop: threading.Event) -> None:
    while not stop.is_set():
        await backend.commit(key, writing(head, base=0, entries=notes("loop")))
        await bodies(backend, key)


def _child(backend: Backend, key: Key, head: Head) -> int:
    try:
        asyncio.run(_add(backend, key, head, "child"))
        asyncio.run(backend.close())
    except BaseException:
        return 1
    return 0


@clause()
async def a_cancelled_commit_is_whole_or_not(open: Opener) -> None:
    """Cancelled while it waits, a commit is withdrawn or completed, never half; the backend works on."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        for n in range(60):
            name = str(n)
            commits = [writing(head, base=0, entries=notes(name, name), puts=puts(**{f"{name}.{it}": name})) for it in range(4)]
            tasks = [asyncio.create_task(backend.commit(key, commit)) for commit in commits]
            for _ in range(n % 5):
                await asyncio.sleep(0)
            for task in tasks[n % 2 :]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            done = sum(task.done() and not task.cancelled() for task in tasks)
            snapshot = await read(backend, key)
            check_gapless(snapshot)
            written = sum(1 for it in values(snapshot) if it.startswith(f"{name}."))
            assert written >= done
            assert texts(snapshot).count(name) == 2 * written
        await wrote(backend, key, head, entries=notes("on"))
