"""`python -m bench.redis [--quick]`: a turn on Redis against the same writes and reads by `redis.asyncio` alone, at several lengths.

A turn is two requests: begin (store the run's beginning and the question, take the claim, read the state and the newest 20 entries) and
finish (store the answer and the run's end, release). Both sides take turns in short rounds on one server; what is shown are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from holdfast import assistant, user
from holdfast.backend import ClaimAct, Commit, Counts, Create, Head, Key, Put, ReadPlan, Window
from holdfast.backends.redis import RedisBackend, from_url
from holdfast.entries import MESSAGE, RUN, NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.messages import encode_message
from tests.servers.redis import Server, redis8, server, valkey9

QUESTION = encode_message(user("Where is my order? " * 10))
ANSWER = encode_message(assistant("It is on its way and will be there tomorrow. " * 10))
STARTED, FINISHED = b'{"v":1,"status":"running","attempt":1}', b'{"v":1,"status":"completed","attempt":1}'
WINDOW = 20
KEYS = [f"key-{n}" for n in range(10)]
PLAN = ReadPlan(state_since=0, entries=Window(limit=WINDOW))
WARM_UP = 100

Turn = Callable[[], Awaitable[None]]


class Holdfast:
    """A turn as a run makes it: two commits."""

    def __init__(self, url: str) -> None:
        self.backend: RedisBackend = from_url(url)
        self.key = Key("default", new_id())
        self.head = Head(0)

    async def fill(self, turns: int) -> None:
        puts = tuple(Put(name, b'"value"') for name in KEYS)
        create = Create(new_incarnation())
        self._keep((await self.backend.commit(self.key, Commit(id=new_id(), time=now(), create=create, puts=puts))).head)
        for start in range(0, turns, 250):
            entries = tuple(entry for _ in range(start, min(start + 250, turns)) for entry in (*_begun("r"), *_ended("r")))
            self._keep((await self.backend.commit(self.key, self._commit(entries=entries))).head)

    def _commit(self, **parts: object) -> Commit:
        head = self.head
        filled = {"id": new_id(), "time": now(), "incarnation": head.incarnation, "base": head.version, **parts}
        return Commit(**filled)  # pyright: ignore[reportArgumentType]  # named by this file alone

    def _keep(self, head: Head | None) -> None:
        assert head is not None
        self.head = head

    async def turn(self) -> None:
        run = new_id()
        begin = self._commit(entries=_begun(run), counts=Counts(runs=1, messages=1), claim=ClaimAct("take", run), answer=PLAN)
        outcome = await self.backend.commit(self.key, begin)
        assert outcome.snapshot is not None
        assert len(outcome.snapshot.entries or ()) <= WINDOW
        self._keep(outcome.head)
        end = self._commit(entries=_ended(run), counts=Counts(messages=1), fence=self.head.fence, claim=ClaimAct("release"))
        self._keep((await self.backend.commit(self.key, end)).head)

    async def close(self) -> None:
        await self.backend.close()


def _begun(run: str) -> tuple[NewEntry, ...]:
    return NewEntry(new_id(), RUN, STARTED, run, None, now()), NewEntry(new_id(), MESSAGE, QUESTION, run, None, now())


def _ended(run: str) -> tuple[NewEntry, ...]:
    return NewEntry(new_id(), MESSAGE, ANSWER, run, None, now()), NewEntry(new_id(), RUN, FINISHED, run, None, now())


class Raw:
    """The same bytes in the same structures, by pipelines: no conflict is found, no claim is kept, nothing is atomic."""

    def __init__(self, port: int) -> None:
        self.client = Redis(host="127.0.0.1", port=port)
        self.base = f"raw:{new_id()}"
        self.number = 0

    async def fill(self, turns: int) -> None:
        await self.client.hset(f"{self.base}:state", mapping=dict.fromkeys(KEYS, b'"value"'))  # type: ignore[misc]
        for _ in range(turns):
            await self._write(_begun("r") + _ended("r"), read=False)

    async def _write(self, entries: tuple[NewEntry, ...], *, read: bool) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for it in entries:
            self.number += 1
            fields = {"id": it.id, "kind": it.kind, "run": it.run_id or "", "time": it.time, "body": it.body}
            pipeline.xadd(f"{self.base}:log", fields, id=f"{self.number}-0")  # pyright: ignore[reportArgumentType]
        pipeline.hset(f"{self.base}:head", mapping={"version": self.number, "updated": now(), "holder": "me" if read else ""})
        if read:
            pipeline.hgetall(f"{self.base}:state")
            pipeline.xrevrange(f"{self.base}:log", count=WINDOW)
        await pipeline.execute()

    async def turn(self) -> None:
        run = new_id()
        await self._write(_begun(run), read=True)
        await self._write(_ended(run), read=False)

    async def close(self) -> None:
        await self.client.aclose()


async def timed(turn: Turn, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        await turn()
        times.append(time.perf_counter() - start)
    return times


async def measure(server: Server, turns: int, rounds: int) -> tuple[float, float]:
    """The median turn of (Holdfast, redis.asyncio) on a session of so many turns, in seconds."""
    subjects = Holdfast(f"{server.url}?prefix={new_id()}:"), Raw(server.port)
    times: tuple[list[float], list[float]] = ([], [])
    for it in subjects:
        await it.fill(turns)
        await timed(it.turn, WARM_UP)
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            times[place].extend(await timed(subjects[place].turn, 20))
    for it in subjects:
        await it.close()
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 10 if parser.parse_args().quick else 40
    table = Table("server", "turns before", "holdfast", "redis.asyncio", "ratio", title="a turn on Redis, milliseconds (no flushes)")
    for name, binary in (("Redis 8", redis8()), ("Valkey 9", valkey9())):
        with server(binary, "--appendonly", "no") as it:
            for turns in (0, 500, 5000):
                ours, raw = asyncio.run(measure(it, turns, rounds))
                table.add_row(name, f"{turns:,}", f"{1000 * ours:.3f}", f"{1000 * raw:.3f}", f"{ours / raw:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
