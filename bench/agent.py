"""A run of an `Agent` beside a run of its engine alone, given the same messages: what it costs that a conversation is kept.

The model is a function in this process that answers at once. Both take turns, run by run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from holdfast import Agent, History, Message, Session, Store
from holdfast.agents import ContextProvider, Posthook, Prehook, RunContext, Summaries
from holdfast.agents.telemetry import Telemetry
from holdfast.backend import Commit, Create, Key
from holdfast.entries import Entry, NewEntry
from holdfast.ids import new_id, new_incarnation, now

QUESTION, ANSWER = "q" * 200, "a" * 800
ENGINE = "the engine alone"
STORES = {
    "in memory": ("memory://", False),
    "SQLite, synchronous=off": ("sqlite:///{}/off.db?synchronous=off", False),
    "SQLite": ("sqlite:///{}/full.db", False),
    "SQLite, cache_session=True": ("sqlite:///{}/cached.db", True),
}
KINDS = ("awaited", "streamed", "one tool call", "with everything around it")


def answered(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The model: it calls the tool it has, then answers."""
    told = any(part.part_kind == "tool-return" for part in messages[-1].parts)
    if info.function_tools and not told:
        return ModelResponse([ToolCallPart(info.function_tools[0].name, {"order_id": "7"})])
    return ModelResponse([TextPart(ANSWER)])


async def streamed(messages: list[ModelMessage], info: AgentInfo) -> AsyncGenerator[str]:
    """The same answer in ten pieces."""
    for place in range(0, len(ANSWER), 80):
        yield ANSWER[place : place + 80]


def find_order(order_id: str) -> str:
    """Find an order by its number."""
    return f"Order {order_id} is in Leipzig."


class Quiet(ContextProvider):
    """Keeps a number in its part of the session's state, and adds a line to the instructions."""

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        state["runs"] = state.get("runs", 0) + 1
        context.extend_instructions(self.source_id, "Be brief.")


class Pre(Prehook):
    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> list[Message]:
        session.get_volatile_cache()["asked"] = len(requests)
        return requests


def everything(history: History) -> dict[str, Any]:
    """Middleware for telemetry, hooks, a provider with a state, summaries that are not due and a limit of tool calls."""
    more = msgspec.structs.replace(history, tool_calls=8, summaries=Summaries(after=10**9))
    around: dict[str, Any] = {"middleware": [Telemetry()], "prehooks": [Pre()], "posthooks": [Posthook()]}
    return {"history": more, "context_providers": [Quiet("quiet")], **around}


class Model:
    """The function as a model, and what it was last sent before the question."""

    def __init__(self) -> None:
        self.past: list[ModelMessage] = []
        self.model = FunctionModel(self._answer, stream_function=self._stream)

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self._look(messages)
        return answered(messages, info)

    def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncGenerator[str]:
        self._look(messages)
        return streamed(messages, info)

    def _look(self, messages: list[ModelMessage]) -> None:
        if messages[-1].parts[0].part_kind == "user-prompt":
            self.past = messages[:-1]


class Engine:
    """pydantic-ai's own agent; whoever runs it holds the messages."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._agent = PydanticAgent(FunctionModel(answered, stream_function=streamed), tools=[find_order] if kind == KINDS[2] else [])
        self.past: list[ModelMessage] = []

    async def run(self) -> None:
        if self._kind != "streamed":
            await self._agent.run(QUESTION, message_history=self.past)
            return
        async with self._agent.run_stream(QUESTION, message_history=self.past) as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                pass


class Ours:
    """An `Agent` with sessions that are `past` runs long: some runs on one, then the next."""

    def __init__(self, url: str, kind: str, past: int, *, cache: bool, history: History) -> None:
        self._kind, self._past = kind, past
        self.model = Model()
        tools = [find_order] if kind == KINDS[2] else []
        options: dict[str, Any] = everything(history) if kind == KINDS[3] else {"history": history}
        self._agent = Agent(self.model.model, store=Store.open(url), tools=tools, cache_session=cache, **options)
        self._template: list[Entry] = []
        self._session = ""
        self._runs = 0

    async def ready(self) -> None:
        """A session of the right length, warm."""
        if not self._template:
            session = self._agent.create_session()
            await self._agent.run(QUESTION, session=session)
            self._template = await session.entries(hidden=True)
        if self._runs % max(self._past // 10, 1) == 0:
            self._session = new_id()
            await preload(self._agent.store, self._session, self._template, self._past)
            await self._agent.run(QUESTION, session_id=self._session)
        self._runs += 1

    async def run(self) -> None:
        if self._kind != "streamed":
            await self._agent.run(QUESTION, session_id=self._session)
            return
        async for _ in self._agent.run(QUESTION, session_id=self._session, stream=True):
            pass

    async def close(self) -> None:
        await self._agent.store.close()


async def preload(store: Store, session_id: str, template: list[Entry], runs: int) -> None:
    """A session that looks like `runs` runs as the template's, in commits of a hundred."""
    key = Key("default", session_id)
    await store.backend.commit(key, Commit(id=new_id(), time=now(), create=Create(new_incarnation())))
    for start in range(0, runs, 100):
        entries = tuple(
            NewEntry(new_id(), it.kind, it.body, f"past-{number}", it.agent, now())
            for number in range(start, min(start + 100, runs))
            for it in template
        )
        await store.backend.commit(key, Commit(id=new_id(), time=now(), entries=entries))


async def timed(run: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await run()
    return time.perf_counter() - start


class Measured(msgspec.Struct, frozen=True):
    """Seconds of a run of the engine alone and with each store, and how many messages of the past were sent."""

    engine: float
    ours: dict[str, float]
    sent: int

    def above(self, name: str) -> float:
        """Seconds that a run with this store takes more than the engine's own."""
        return self.ours[name] - self.engine


async def measure(folder: Path, kind: str, past: int, rounds: int, history: History) -> Measured:
    """One run of each in turn, `rounds` times; of each the fastest, for what else the machine does only adds."""
    agents = {name: Ours(url.format(folder), kind, past, cache=cache, history=history) for name, (url, cache) in STORES.items()}
    engine, sent = Engine(kind), 0
    times: dict[str, list[float]] = {name: [] for name in (ENGINE, *agents)}
    for number in range(rounds):
        for name, agent in agents.items():
            await agent.ready()
            spent = await timed(agent.run)
            engine.past, sent = agent.model.past, len(agent.model.past)
            if number >= rounds // 10:
                times[name].append(spent)
                times[ENGINE].append(await timed(engine.run))
    for agent in agents.values():
        await agent.close()
    fast = {name: min(values) for name, values in times.items()}
    return Measured(fast.pop(ENGINE), fast, sent)
