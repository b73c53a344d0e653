"""`python -m bench.postgres [--quick]`: a turn on PostgreSQL beside raw async psycopg that stores and reads the same, at several lengths.

A turn begins (the run's beginning and the question stored, the claim taken, head, state and the newest 20 entries read) and ends (the
answer and the run's end stored, the claim released). Raw does it with one statement per round trip, and once more with each transaction
sent as one pipeline; it finds no conflict, keeps no commit's id and fences nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import psycopg
from rich.console import Console
from rich.table import Table

from holdfast import assistant, user
from holdfast.backend import ClaimAct, Commit, Counts, Create, Head, Key, Put, ReadPlan, Window
from holdfast.backends.postgres import from_url
from holdfast.entries import MESSAGE, RUN, NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.messages import encode_message
from tests.servers.postgres import Server

ASKED, ANSWERED = encode_message(user("Where is my order? " * 10)), encode_message(assistant("On its way, there tomorrow. " * 16))
BEGUN, ENDED = b'{"v":1,"status":"running","attempt":1}', b'{"v":1,"status":"completed","attempt":1}'
STATE = {f"key-{n}": b'"value"' for n in range(10)}
HEAD = bytes(300)
PLAN = ReadPlan(state_since=0, entries=Window(limit=20))
WARM_UP, ROUND = 100, 20

Written = tuple[tuple[str, bytes], ...]
BEGINNING: Written = ((RUN, BEGUN), (MESSAGE, ASKED))
END: Written = ((MESSAGE, ANSWERED), (RUN, ENDED))


class Subject(Protocol):
    """Somebody who makes turns on one session."""

    async def fill(self, turns: int) -> None: ...

    async def turn(self) -> None: ...

    async def close(self) -> None: ...


class Holdfast:
    """Two commits, the first with an answer."""

    def __init__(self, url: str) -> None:
        self._backend = from_url(url)
        self._key, self._head = Key("default", new_id()), Head(0)

    async def _commit(self, run: str, written: Written, **parts: Any) -> None:
        entries = tuple(NewEntry(new_id(), kind, body, run, None, now()) for kind, body in written)
        seen = {"incarnation": self._head.incarnation, "base": self._head.version} if self._head.incarnation else {}
        outcome = await self._backend.commit(self._key, Commit(id=new_id(), time=now(), entries=entries, **seen, **parts))
        assert outcome.head is not None
        self._head = outcome.head

    async def fill(self, turns: int) -> None:
        await self._commit("r", (), create=Create(new_incarnation()), puts=tuple(Put(key, value) for key, value in STATE.items()))
        for start in range(0, turns, 250):
            await self._commit("r", (BEGINNING + END) * min(250, turns - start))

    async def turn(self) -> None:
        run = new_id()
        await self._commit(run, BEGINNING, counts=Counts(runs=1, messages=1), claim=ClaimAct("take", run), answer=PLAN)
        await self._commit(run, END, counts=Counts(messages=1), fence=self._head.fence, claim=ClaimAct("release"))

    async def close(self) -> None:
        await self._backend.close()


class Raw:
    """A transaction for the beginning and one for the end: statement by statement, or each as one pipeline."""

    _TABLES = """
        CREATE TABLE IF NOT EXISTS raw_sessions (id text PRIMARY KEY, version bigint NOT NULL, holder text, head bytea NOT NULL);
        CREATE TABLE IF NOT EXISTS raw_log
            (id text, seq bigint, entry text, kind text, run text, time bigint, body bytea, PRIMARY KEY (id, seq));
        CREATE TABLE IF NOT EXISTS raw_state (id text, key text, value bytea, PRIMARY KEY (id, key));
    """
    _ADD = b"INSERT INTO raw_log VALUES (%s, %s, %s, %s, %s, %s, %b)"

    def __init__(self, url: str, *, pipelined: bool) -> None:
        self._url, self._pipelined = url, pipelined
        self._id, self._seq, self._version = new_id(), 0, 0

    async def fill(self, turns: int) -> None:
        self._connection = connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        await connection.execute(self._TABLES)
        await connection.execute("INSERT INTO raw_sessions VALUES (%s, 0, NULL, %b)", (self._id, HEAD))
        async with connection.cursor() as cursor:
            await cursor.executemany(b"INSERT INTO raw_state VALUES (%s, %s, %b)", [(self._id, *row) for row in STATE.items()])
            await cursor.executemany(self._ADD, [self._row("r", it) for _ in range(turns) for it in BEGINNING + END])

    def _row(self, run: str, it: tuple[str, bytes]) -> tuple[Any, ...]:
        self._seq += 1
        return self._id, self._seq, new_id(), it[0], run, now(), it[1]

    async def turn(self) -> None:
        run = new_id()
        for written, holder, reads in ((BEGINNING, run, True), (END, None, False)):
            if self._pipelined:
                async with self._connection.pipeline():
                    cursors = await self._transaction(run, written, holder, reads)
            else:
                cursors = await self._transaction(run, written, holder, reads)
            for cursor in cursors:
                await cursor.fetchall()

    async def _transaction(self, run: str, written: Written, holder: str | None, reads: bool) -> list[psycopg.AsyncCursor[Any]]:
        do = self._connection.execute
        await do("BEGIN")
        for it in written:
            await do(self._ADD, self._row(run, it))
        self._version += 1
        await do(
            "UPDATE raw_sessions SET version = %s, holder = %s, head = %b WHERE id = %s AND version = %s",
            (self._version, holder, HEAD, self._id, self._version - 1),
        )
        cursors: list[psycopg.AsyncCursor[Any]] = []
        if reads:
            cursors.append(await do("SELECT head FROM raw_sessions WHERE id = %s", (self._id,), binary=True))
            cursors.append(await do("SELECT key, value FROM raw_state WHERE id = %s", (self._id,), binary=True))
            cursors.append(await do("SELECT * FROM raw_log WHERE id = %s ORDER BY seq DESC LIMIT 20", (self._id,), binary=True))
        await do("COMMIT")
        return cursors

    async def close(self) -> None:
        await self._connection.close()


SUBJECTS: dict[str, Callable[[Server], Subject]] = {
    "holdfast": lambda server: Holdfast(server.fresh()),
    "raw": lambda server: Raw(server.url(), pipelined=False),
    "raw, pipelined": lambda server: Raw(server.url(), pipelined=True),
}


async def measure(server: Server, turns: int, rounds: int) -> list[float]:
    """The median turn of each subject on a session of so many turns, in seconds; they take turns in short rounds."""
    subjects = [make(server) for make in SUBJECTS.values()]
    times: list[list[float]] = [[] for _ in subjects]
    for it in subjects:
        await it.fill(turns)
        await timed(it, WARM_UP)
    for number in range(rounds):
        for step in range(len(subjects)):
            place = (number + step) % len(subjects)
            times[place] += await timed(subjects[place], ROUND)
    for it in subjects:
        await it.close()
    return [statistics.median(mine) for mine in times]


async def timed(subject: Subject, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        await subject.turn()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.postgres", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 10 if parser.parse_args().quick else 30
    table = Table("server", "turns before", *SUBJECTS, "holdfast / raw", title="a turn on PostgreSQL, milliseconds", title_justify="left")
    for flushing in (False, True):
        server = Server(durable=flushing)
        for turns in (0, 500, 5000):
            times = asyncio.run(measure(server, turns, rounds))
            cells = [f"{1000 * it:.2f}" for it in times]
            table.add_row("fsync" if flushing else "no fsync", f"{turns:,}", *cells, f"{times[0] / times[1]:.2f}")
        server.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
