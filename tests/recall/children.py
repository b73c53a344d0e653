"""What the processes of these tests do; imported by each of them, so it imports little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from holdfast import Store, user
from holdfast.recall import Recall
from holdfast.testing.processes import Pipe

SESSIONS = 3


async def two(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(it))] for it in texts]


async def index(url: str, file: str, times: int) -> int:
    async with Store.open(url) as store, Recall(store, f"sqlite:///{file}", two) as recall:
        return sum([await recall.update() for _ in range(times)])


async def write_and_index(url: str, file: str, name: str) -> int:
    async with Store.open(url) as store, Recall(store, f"sqlite:///{file}", two) as recall:
        taken = 0
        for number in range(20):
            session = await store.session(f"s{number % SESSIONS}")
            await session.append(user(f"from {name} number {number}"))
            if number % 7 == 6:
                await session.rewind(last=1)
            taken += await recall.update()
        return taken


def index_until_killed(url: str, file: str, stop_at: int, pipe: Pipe) -> None:
    calls = 0

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            pipe.send("in the middle")
            time.sleep(60)  # noqa: ASYNC251  # nothing comes after this
        return await two(texts)

    embed.__qualname__ = two.__qualname__

    async def work() -> None:
        async with Store.open(url) as store, Recall(store, f"sqlite:///{file}", embed) as recall:
            pipe.send("begins")
            await recall.update()
        pipe.send("done")

    asyncio.run(work())
