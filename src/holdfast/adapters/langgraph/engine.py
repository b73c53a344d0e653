"""Compiled graphs as agents of ours: `Agent(GraphEngine(graph), store=...)`.

The graph runs on the thread of its session, with its checkpoints there; where another agent's graph has the thread, on a lane beside it.
Its messages have one writer, the run: a checkpoint refers to them and adds none, and what others have said in the session meanwhile goes
into the graph before its input. The graph's next step begins when what it said before is stored. `interrupt()` is a requirement: what
people supply is what the graph goes on with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import takewhile
from typing import Any, cast
from weakref import WeakKeyDictionary

import msgspec
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.types import Command, Interrupt

from ... import Message, Native, Reasoning, Session, Store, Text, ToolCall, ToolResult
from ...agents import Answered, Delta, Done, Held, Said, Turn
from ...agents.engine import Step
from ...agents.output import shown_of
from ...entries import MESSAGE
from ...errors import InvalidValue, Unsupported, UsageError
from .elsewhere import INTERRUPT, as_theirs, entries_behind
from .looking import Looking
from .saver import HoldfastSaver, owner_of

_ASIDE = Native(INTERRUPT, msgspec.Raw(b"null"))
"""Of text that a graph streamed and did not keep: for the record, no message of the graph."""


class GraphEngine:
    """`graph`: compiled, with a channel of messages; its checkpointer, if it has one, is replaced by ours.

    `channel`: which one has the messages. `config`: LangGraph's, for each run (`recursion_limit`, `configurable`, `callbacks`). The graph's
    memory is its own: a `History` bounds what it is told of what others said, and nothing else.
    """

    holds = True

    def __init__(self, graph: Any, *, channel: str = "messages", config: RunnableConfig | None = None) -> None:
        if channel not in graph.channels:
            raise InvalidValue(
                f"graph {graph.name!r} has no channel {channel!r}: GraphEngine(graph, channel=...) names that of its messages"
            )
        self.graph = graph
        self.channel = channel
        self.config: RunnableConfig = config or {}
        self._savers: WeakKeyDictionary[Any, dict[str, HoldfastSaver]] = WeakKeyDictionary()

    @property
    def model_name(self) -> str:
        """The graph, as a run records it."""
        return str(self.graph.name)

    async def run(self, turn: Turn) -> AsyncGenerator[Step]:
        """As `Engine.run`."""
        _check(turn)
        name = turn.agent or self.model_name
        saver = self._saver(turn.session, name)
        graph = self.graph.copy(update={"checkpointer": saver})
        thread: RunnableConfig = {"configurable": {"thread_id": turn.session.id}}
        looking = Looking(turn.watched) if turn.watched is not None and (turn.watched.models or turn.watched.tools) else None
        config = merge_configs(self.config, thread, {"callbacks": [looking]} if looking else {})
        state = await graph.aget_state(config)
        if owner_of(state.metadata) not in (None, name):
            saver = saver.lane(name)
            graph = self.graph.copy(update={"checkpointer": saver})
            state = await graph.aget_state(config)
        stored = [entry.message() for entry in await turn.session.entries(run_id=turn.run_id, kinds=(MESSAGE,))]
        telling = _Telling(saver, turn, self.channel, stored, state)
        for step in telling.new(state.values):
            yield step
        if telling.supplied and state.next:
            await graph.aupdate_state(config, {self.channel: telling.supplied}, as_node=state.next[0])
        given = telling.given()
        if given is not None or state.next:
            modes = ["values", "messages"] if turn.stream else ["values"]
            async with looking or nullcontext():
                async for mode, it in graph.astream(given, config, stream_mode=modes, durability="sync"):
                    for step in telling.new(it) if mode == "values" else telling.piece(*it):
                        yield step
        for step in telling.end():
            yield step

    def _saver(self, session: Session, name: str) -> HoldfastSaver:
        """The checkpointer for the run that holds the session: the store has seen that it may."""
        known = self._savers.setdefault(session.backend, {})
        if session.key.tenant not in known:
            known[session.key.tenant] = HoldfastSaver(Store(session.backend, tenant=session.key.tenant, as_admin=True), transcript=None)
        held = session.running_here()
        return known[session.key.tenant].under(held and held[0].held_by(held[1]), name)


def _check(turn: Turn) -> None:
    """`Unsupported` for what a graph would not take notice of."""
    if not turn.own:
        raise Unsupported("a graph answers in its conversation only: give Summaries(model=...) a model for what is beside it")
    if turn.tools or turn.instructions:
        raise Unsupported("a graph has the tools and the instructions of its own nodes: none can be given to it from outside")
    if turn.service is not None:
        raise Unsupported("a conversation that the provider keeps can't go on in a graph: set session.service_session_id to None")


class _Telling:
    """Tells a run what its graph says: each message once, also where an earlier try of the run has told of some."""

    def __init__(self, saver: HoldfastSaver, turn: Turn, channel: str, stored: Sequence[Message], state: Any) -> None:
        self._saver = saver
        self._thread = turn.session.id
        self._channel = channel
        self._own = turn.messages[len(turn.messages) - turn.own :]
        self._calls: dict[str, str] = {}
        """The names of the calls that have no result yet, by id."""
        self._interrupts: dict[str, Interrupt] = {}
        self._streaming: str | None = None
        self._pieces: list[tuple[bool, str]] = []
        self._values: dict[str, Any] = {}
        self._answer = ""
        there = _list(state.values.get(channel))
        before = turn.messages[: len(turn.messages) - turn.own]
        past = _named(_since_its_last(before, saver.format) if there else before, saver.format, turn.run_id)
        mine = _of_run(there, {it.id for it in stored})
        self._fresh = [] if mine else as_theirs([*past, *_input(self._own, stored, turn.run_id)], there)
        others = [it for it in there if not any(it is own for own in mine)]
        self._left = bool(mine) and mine[-1] is not there[-1]
        """Whether the graph has gone on with another run since."""
        self._known = {it.id for it in (*others, *mine[:1], *self._fresh, *stored)}
        self._asked = [call for it in self._own if _is_interrupt(it) for call in _calls(it)]
        self._results = {part.id: part.response for it in self._own for part in it.parts if isinstance(part, ToolResult)}
        self.supplied = self._from_people(there, turn)
        """Results that people gave for calls of the graph's tools."""
        self._open = {it.id for it in state.interrupts}

    # --- what the graph is given ---

    def given(self) -> Any:
        """The input of the graph: what is new to it, or what it goes on with; None where it just goes on, or has ended."""
        update = {self._channel: self._fresh} if self._fresh else None
        resume = {interrupt: self._results[call.id] for interrupt, call in self._latest().items() if interrupt in self._open}
        if resume:
            return Command(resume=resume, update=update)
        if self._left and (lost := self._latest().keys() - self._open):
            raise UsageError(f"the graph of session {self._thread!r} has gone on without an answer to its interrupt {min(lost)!r}")
        return update

    def _latest(self) -> dict[str, ToolCall]:
        """The newest call that stood for each interrupt, if it has its result."""
        return {str(call.id).partition("#")[0]: call for call in self._asked if call.id in self._results}

    def _from_people(self, there: Sequence[Any], turn: Turn) -> list[BaseMessage]:
        have = {it.tool_call_id for it in there if isinstance(it, ToolMessage)}
        waits = {call["id"] for it in there if isinstance(it, AIMessage) for call in it.tool_calls} - have - set(turn.rerun)
        answers = [(str(part.id), it) for it in self._own for part in it.parts if isinstance(part, ToolResult) and part.id in waits]
        made = as_theirs([(it.id or f"result-{id}", it) for id, it in answers], there)
        self._known |= {it.id for it in made}
        return made

    # --- what it says ---

    def piece(self, message: Any, metadata: Any) -> Iterator[Step]:
        """A piece of an answer; of several that come at once, only the first is told as it comes."""
        if not isinstance(message, AIMessageChunk) or message.id is None or message.id in self._known:
            return
        if self._streaming is None:
            self._streaming = message.id
        for part in self._saver.shown(self._thread, message).parts if self._streaming == message.id else ():
            if isinstance(part, Text | Reasoning) and part.content:
                self._pieces.append((isinstance(part, Reasoning), part.content))
                yield Delta(part.content, isinstance(part, Reasoning))

    def new(self, values: Any) -> Iterator[Step]:
        """What came with these values of the graph."""
        self._values = values
        self._interrupts |= {it.id: it for it in values.get("__interrupt__", ())}
        new = [it for it in _list(values.get(self._channel)) if it.id not in self._known]
        self._known |= {it.id for it in new}
        first = next((it for it in new if it.id == self._streaming), None)
        yield from self._streamed(first)
        for message in ([first] if first else []) + [it for it in new if it is not first]:
            yield self._told(message)

    def _streamed(self, message: BaseMessage | None) -> Iterator[Step]:
        """Where what was streamed is not what the graph kept: that it was said."""
        pieces, self._pieces, self._streaming = self._pieces, [], None
        text, thought = ("".join([it for reasoning, it in pieces if reasoning is kind]) for kind in (False, True))
        if pieces and (message is None or _spoken(self._saver.shown(self._thread, message)) != (text, thought)):
            parts = (*((Reasoning(thought),) if thought else ()), *((Text(text),) if text else ()))
            yield Said(message=Message("assistant", parts, native=_ASIDE))

    def _told(self, value: BaseMessage) -> Step:
        message = self._saver.shown(self._thread, value)
        if isinstance(value, ToolMessage):
            name = self._calls.pop(value.tool_call_id, None) or value.name
            return Answered(msgspec.structs.replace(message, name=name))
        if not isinstance(value, AIMessage):  # a node's own words in the place of a person's
            message = msgspec.structs.replace(message, role="assistant", name=message.name or message.role)
            self._answer = message.text
            return Said(message=message, asked=False)
        self._answer = message.text
        self._calls |= {str(it["id"]): it["name"] for it in value.tool_calls}
        used: Any = value.usage_metadata or {}
        tokens = {name: used.get(name, 0) for name in ("input_tokens", "output_tokens")}
        asked = bool(used or value.response_metadata)
        return Said(message=message, acts=bool(value.tool_calls), asked=asked, **tokens)

    # --- the end ---

    def end(self) -> Iterator[Step]:
        """The answer, or what the graph waits for."""
        if self._interrupts:
            calls = [self._call(it) for it in self._interrupts.values()]
            asked = {it.id for it in self._asked}
            if new := tuple(it for it in calls if it.id not in asked):
                yield Said(message=Message("assistant", new, native=_ASIDE), acts=True, asked=False)
            yield Held(external=tuple(str(it.id) for it in calls))
            return
        structured = self._values.get("structured_response")
        yield Done(self._answer) if structured is None else Done(structured, shown_of(structured))

    def _call(self, it: Interrupt) -> ToolCall:
        """An interrupt as a call: a node that interrupts again does it under the same id."""
        again = sum(str(call.id).partition("#")[0] == it.id and call.id in self._results for call in self._asked)
        return ToolCall("interrupt", f"{it.id}#{again + 1}" if again else it.id, {"value": shown_of(it.value)})


def _input(own: Sequence[Message], stored: Sequence[Message], run_id: str) -> Iterator[tuple[str, Message]]:
    """What the run was given, with the ids of its entries: hooks may have changed it since it was stored."""
    given = [it for it in own if it.role not in ("assistant", "tool")]
    ids = [it.id for it in stored if it.role not in ("assistant", "tool")]
    for place, message in enumerate(given):
        yield (ids[place] if place < len(ids) else None) or f"{run_id}-input-{place}", message


def _since_its_last(past: Sequence[Message], own: str) -> Sequence[Message]:
    """What was said after the graph was last given anything: of what was before, it has forgotten on purpose what it has not."""
    place = next((n for n in range(len(past) - 1, -1, -1) if _is_own(past[n], own)), None)
    if place is None:
        return past
    run = past[place].run_id
    given = [n for n in range(place) if run is not None and past[n].run_id == run and past[n].role not in ("assistant", "tool")]
    return past[(given[-1] if given else place) + 1 :]


def _named(past: Iterable[Message], own: str, run_id: str) -> Iterator[tuple[str, Message]]:
    """What others said, with the ids of its entries: results only with their calls."""
    calls: set[str | None] = set()
    for place, message in enumerate(past):
        results = [part.id for part in message.parts if isinstance(part, ToolResult)]
        if not _is_own(message, own) and calls.issuperset(results):
            calls |= {call.id for call in _calls(message)}
            yield message.id or (f"result-{results[0]}" if results else f"{run_id}-{place}"), message


def _is_own(message: Message, own: str) -> bool:
    return message.native is not None and message.native.format == own


def _of_run(there: list[Any], own: set[str | None]) -> list[Any]:
    """The messages in the graph that are of a run, from its input on, up to what others said; none where it has not been given that."""
    place = next((n for n, it in enumerate(there) if own.intersection(entries_behind(it))), len(there))
    return list(takewhile(lambda it: not entries_behind(it) or bool(own.intersection(entries_behind(it))), there[place:]))


def _list(value: Any) -> list[Any]:
    return [it for it in cast("list[Any]", value) if isinstance(it, BaseMessage)] if isinstance(value, list) else []


def _is_interrupt(message: Message) -> bool:
    return message.native is not None and message.native.format == INTERRUPT


def _calls(message: Message) -> list[ToolCall]:
    return [part for part in message.parts if isinstance(part, ToolCall)]


def _spoken(message: Message) -> tuple[str, str]:
    return message.text, "".join([part.content for part in message.parts if isinstance(part, Reasoning)])
