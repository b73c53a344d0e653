"""`HoldfastSaver` beside LangGraph's own savers: the same conversation with each, one after the other, several times."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# LangGraph's own packages lack `py.typed`, and its SQLite saver need not be there.

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver

TURNS = 200
MARKS = (10, 100, TURNS)
WINDOW = 10
SIZE = 1000
_random = random.Random(7)
_WORDS = ["".join(_random.choices("etaoinshrdlucmfwypvbgk", k=_random.randint(2, 10))) for _ in range(3000)]


def text() -> str:
    """Words of a language of our own: about 1 KB that compresses like English."""
    said = ""
    while len(said) < SIZE:
        said += _random.choice(_WORDS) + " "
    return said[:SIZE]


def said_of(rich: bool) -> dict[str, Any]:
    """What a provider says about an answer, where it says something."""
    if not rich:
        return {}
    usage = {"input_tokens": 812, "output_tokens": 211, "total_tokens": 1023, "input_token_details": {"cache_read": 0}}
    meta = {"token_usage": {"completion_tokens": 211, "prompt_tokens": 812}, "model_name": "some-model", "finish_reason": "stop"}
    return {"usage_metadata": usage, "response_metadata": meta}


def graph(saver: Any, rich: bool) -> Any:
    """A graph of one node, which answers with 1 KB."""

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(text(), **said_of(rich))]}

    builder = StateGraph(MessagesState)
    builder.add_node(answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)


async def one_turn(app: Any, thread: str) -> float:
    start = time.perf_counter()
    await app.ainvoke({"messages": [HumanMessage(text())]}, {"configurable": {"thread_id": thread}})
    return time.perf_counter() - start


async def savers(folder: Path, stack: AsyncExitStack) -> dict[str, Any]:
    """Who is measured; LangGraph's SQLite saver only where it is installed."""
    made: dict[str, Any] = {
        "HoldfastSaver": HoldfastSaver(await stack.enter_async_context(Store.open(f"sqlite:///{folder}/holdfast.db"))),
        "InMemorySaver": InMemorySaver(),
    }
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found]
    except ImportError:
        return made
    theirs = cast("Any", AsyncSqliteSaver)
    return made | {"AsyncSqliteSaver": await stack.enter_async_context(theirs.from_conn_string(f"{folder}/theirs.db"))}


async def conversation(folder: Path, name: str, *, rich: bool) -> dict[int, float]:
    """Seconds of the fastest of the ten turns up to turn 10, 100 and 200 of one conversation, with a saver that has had no other."""
    gc.collect()
    async with AsyncExitStack() as stack:
        app = graph((await savers(folder, stack))[name], rich)
        times = [await one_turn(app, "t") for _ in range(TURNS)]
    return {mark: min(times[mark - WINDOW : mark]) for mark in MARKS}


async def conversations(folder: Path, rounds: int, *, rich: bool) -> dict[str, dict[int, float]]:
    """The median of `rounds` conversations with each saver, one conversation after the other, the savers in turn."""
    async with AsyncExitStack() as stack:
        names = list(await savers(folder, stack))
    told: dict[str, list[dict[int, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            place = folder / f"{number}-{name}"
            place.mkdir()
            told[name].append(await conversation(place, name, rich=rich))
    # the first conversation was for warming up
    return {name: {mark: statistics.median(them[mark] for them in times[1:]) for mark in MARKS} for name, times in told.items()}


async def converse(folder: Path) -> None:
    """One conversation with each saver that has a database."""
    async with AsyncExitStack() as stack:
        for name, saver in (await savers(folder, stack)).items():
            app = graph(saver, rich=False)
            for _ in range(TURNS if name != "InMemorySaver" else 0):
                await one_turn(app, "t")


def stored(folder: Path) -> dict[str, int]:
    """Bytes of the database after one conversation, for each saver that has one."""
    asyncio.run(converse(folder))
    files = {"HoldfastSaver": "holdfast.db", "AsyncSqliteSaver": "theirs.db"}
    return {name: sum(it.stat().st_size for it in folder.glob(f"{file}*")) for name, file in files.items() if (folder / file).exists()}
