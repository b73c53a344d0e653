"""`HoldfastSession` beside the SDK's own `SQLiteSession`: the same calls on the same items, one of each in turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from agents import SQLiteSession
from agents.memory import Session

from holdfast import Store
from holdfast.adapters.openai_agents import HoldfastSession

Call: TypeAlias = Callable[[Session], Awaitable[object]]

ITEMS = 600


def question(number: int) -> Any:
    return {"role": "user", "content": f"question {number} " + "q" * 190}


def answer(number: int) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "output_text", "text": f"answer {number} " + "a" * 790, "annotations": [], "logprobs": []}
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [text]}


def turn(number: int) -> list[Any]:
    return [question(number), answer(number)]


CALLS: dict[str, Call] = {
    f"get_items() of {ITEMS}": lambda session: session.get_items(),
    "get_items(limit=20)": lambda session: session.get_items(limit=20),
    "add_items of 2": lambda session: session.add_items(turn(0)),
}


async def timed(session: Session, call: Call) -> float:
    start = time.perf_counter()
    await call(session)
    return time.perf_counter() - start


async def beside(folder: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each call, ours and theirs, on sessions of `ITEMS` items with each one's defaults."""
    async with Store.open(f"sqlite:///{folder}/ours.db") as store:
        theirs = SQLiteSession("bench", folder / "theirs.db")
        sessions: list[Session] = [HoldfastSession("bench", store), theirs]
        for number in range(ITEMS // 2):
            for session in sessions:
                await session.add_items(turn(number))
        result: dict[str, tuple[float, float]] = {}
        for name, call in CALLS.items():
            pairs = [[await timed(session, call) for session in sessions] for _ in range(rounds)]
            ours, other = (statistics.median(times) for times in zip(*pairs, strict=True))
            result[name] = ours, other
        theirs.close()
        return result


def measure(folder: Path, rounds: int) -> dict[str, tuple[float, float]]:
    return asyncio.run(beside(folder, rounds))
