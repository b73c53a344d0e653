"""`python -m bench.dynamodb [--quick]`: what a turn costs on DynamoDB at several lengths: time, requests, capacity units.

A turn is begin (store the run's beginning and the question, take the claim, read the state and the newest 20 entries) and finish (store
the answer and the run's end, release). The server is an emulator on this machine: its milliseconds are boto3's and its own, not AWS's;
requests and capacity units are what AWS would count and bill.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast import assistant, user
from holdfast.backend import ClaimAct, Commit, Counts, Create, Head, Key, Put, ReadPlan, Window
from holdfast.backends.dynamodb import DynamoDBBackend
from holdfast.entries import MESSAGE, RUN, NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.messages import encode_message
from tests.servers import dynamodb

QUESTION = encode_message(user("Where is my order? " * 10))
ANSWER = encode_message(assistant("It is on its way and will be there tomorrow. " * 10))
STARTED, FINISHED = b'{"v":1,"status":"running","attempt":1}', b'{"v":1,"status":"completed","attempt":1}'
PLAN = ReadPlan(state_since=0, entries=Window(limit=20))
KEYS = [f"key-{n}" for n in range(10)]
MEASURED = 50


class Meter:
    """Counts a client's requests by name, and the capacity units that the server says they took."""

    def __init__(self, backend: DynamoDBBackend) -> None:
        self.requests = Counter[str]()
        self.units = Counter[str]()
        events = backend.client.meta.events
        events.register("before-parameter-build.dynamodb", self._ask)
        events.register("after-call.dynamodb", self._note)

    def _ask(self, params: dict[str, Any], **_: Any) -> None:
        params["ReturnConsumedCapacity"] = "TOTAL"

    def _note(self, parsed: dict[str, Any], event_name: str, **_: Any) -> None:
        name = event_name.rpartition(".")[2]
        self.requests[name] += 1
        told: Any = parsed.get("ConsumedCapacity") or []
        tables: list[dict[str, Any]] = [told] if "CapacityUnits" in told else told
        for it in tables:
            self.units["read" if name in ("Query", "GetItem", "BatchGetItem") else "write"] += it["CapacityUnits"]

    def reset(self) -> None:
        self.requests.clear()
        self.units.clear()


class Conversation:
    """A session that grows by whole turns."""

    def __init__(self, backend: DynamoDBBackend) -> None:
        self.backend = backend
        self.key = Key("default", new_id())
        self.head = Head(0)
        self.turns = 0

    async def begin(self) -> None:
        puts = tuple(Put(name, b'"value"') for name in KEYS)
        commit = Commit(id=new_id(), time=now(), create=Create(new_incarnation()), puts=puts)
        self._keep((await self.backend.commit(self.key, commit)).head)

    async def turn(self) -> None:
        run = new_id()
        begin = self._commit(
            entries=(_entry(RUN, STARTED, run), _entry(MESSAGE, QUESTION, run)),
            counts=Counts(runs=1, messages=1),
            claim=ClaimAct("take", run),
            answer=PLAN,
        )
        outcome = await self.backend.commit(self.key, begin)
        assert outcome.snapshot is not None
        assert outcome.snapshot.entries is not None
        self._keep(outcome.head)
        ended = (_entry(MESSAGE, ANSWER, run), _entry(RUN, FINISHED, run))
        put = (Put(KEYS[self.turns % 10], b'"%d"' % self.turns),)
        end = self._commit(entries=ended, puts=put, counts=Counts(messages=1), fence=self.head.fence, claim=ClaimAct("release"))
        self._keep((await self.backend.commit(self.key, end)).head)
        self.turns += 1

    def _commit(self, **parts: Any) -> Commit:
        seen: dict[str, Any] = {"id": new_id(), "time": now(), "incarnation": self.head.incarnation, "base": self.head.version}
        return Commit(**seen | parts)

    def _keep(self, head: Head | None) -> None:
        assert head is not None
        self.head = head


def _entry(kind: str, body: bytes, run: str) -> NewEntry:
    return NewEntry(new_id(), kind, body, run, None, now())


async def measured(lengths: list[int]) -> Table:
    table = Table(title="A turn on DynamoDB (dynoxide, in memory), by the turns before it", title_justify="left")
    for column in ("turns", "ms, median", "requests", "write units", "read units", "to open it, by a stranger"):
        table.add_column(column, justify="right")
    with dynamodb.dynoxide() as server:
        await dynamodb.made(server.port)
        backend = dynamodb.backend(server.port)
        await backend.open()
        meter, conversation = Meter(backend), Conversation(backend)
        await conversation.begin()
        for length in lengths:
            while conversation.turns < length:
                await conversation.turn()
            table.add_row(f"{length:,}", *await _row(meter, conversation), await _opened(server, conversation.key))
        await backend.close()
    return table


async def _row(meter: Meter, conversation: Conversation) -> list[str]:
    times: list[float] = []
    meter.reset()
    for _ in range(MEASURED):
        start = time.perf_counter()
        await conversation.turn()
        times.append(time.perf_counter() - start)
    sent, units = meter.requests.total() / MEASURED, meter.units
    return [
        f"{statistics.median(times) * 1e3:.1f}",
        f"{sent:.2f}",
        f"{units['write'] / MEASURED:.1f}",
        f"{units['read'] / MEASURED:.1f}",
    ]


async def _opened(server: dynamodb.Server, key: Key) -> str:
    """What somebody pays who has never seen the session: its state and newest 20 entries."""
    stranger = dynamodb.backend(server.port)
    await stranger.open()
    meter = Meter(stranger)
    start = time.perf_counter()
    await stranger.read(key, PLAN)
    seconds = time.perf_counter() - start
    await stranger.close()
    return (
        f"{', '.join(f'{count} {name}' for name, count in meter.requests.items())}, {meter.units['read']:.1f} units, {seconds * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.dynamodb", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 1,000 turns")
    lengths = [10, 100, 1_000] if parser.parse_args().quick else [10, 100, 1_000, 5_000]
    Console(width=140).print(asyncio.run(measured(lengths)))


if __name__ == "__main__":
    main()
