"""Agents of the SDK as agents of ours: `Agent(AgentsEngine(sdk_agent), store=...)`.

The SDK drives the model, the tools and the handoffs; what it says is stored as it goes, in the form that `HoldfastSession` reads too. It is
stopped at its hooks: a tool starts when its call is stored, the model is asked again when every result is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
from agents import Agent, Handoff, RunConfig, RunContextWrapper, RunHooks, Runner
from agents.items import ItemHelpers, ToolApprovalItem
from agents.result import RunResult, RunResultStreaming
from agents.run import DEFAULT_MAX_TURNS

from ... import Message, Session, State, ToolCall, ToolResult
from ...agents import Answered, Delta, Done, Held, Said, Turn
from ...agents.engine import Step
from ...errors import Unsupported
from .bound import Bound, check_changed
from .items import answer_of, input_of, messages_of
from .models import Rerun

_STATE = "\x1fopenai-agents:"
"""By the first agent's name: which one has the conversation, under a key that no user can have."""
_TEXT = ("response.output_text.delta", "response.refusal.delta")
_THOUGHT = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class AgentsEngine:
    """`agent`: the SDK's, with its model, tools, handoffs, guardrails and output type.

    `context`: makes of a session what the agent's tools get as their context. `run_config`, `max_turns`: as `Runner.run` takes them. Where
    agents hand over, whoever had the conversation last begins the next run.
    """

    holds = True

    def __init__(
        self,
        agent: Agent[Any],
        *,
        context: Callable[[Session], Any] | None = None,
        run_config: RunConfig | None = None,
        max_turns: int = DEFAULT_MAX_TURNS,
    ) -> None:
        self.agent = agent
        self.context = context
        self.run_config = run_config or RunConfig()
        self.max_turns = max_turns

    @property
    def model_name(self) -> str:
        """The model, as a run records it."""
        model = self.run_config.model or self.agent.model
        return model if isinstance(model, str) else str(getattr(model, "model", None) or type(model).__name__) if model else "default"

    async def run(self, turn: Turn) -> AsyncGenerator[Step]:
        """As `Engine.run`."""
        driven = _Driven(self, turn)
        task = asyncio.create_task(driven.go())
        try:
            while (told := await driven.queue.get()) is not None:
                step, stored = told
                yield step
                if stored is not None and not stored.done():
                    stored.set_result(None)
            yield await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what it raised has been raised above
                await task

    def check_changed(self, call: ToolCall, changed: Mapping[str, Any], tools: Sequence[Any]) -> None:
        """As `agents.Engine` says."""
        check_changed(call, changed, [*tools, *(tool for agent in reachable(self.agent) for tool in agent.tools)])

    def on_duty(self, session: Session) -> Agent[Any]:
        """Who has this conversation: whom it was handed over to last."""
        name = State(session, _STATE).get(self.agent.name)
        return next((it for it in reachable(self.agent) if it.name == name), self.agent)


def reachable(agent: Agent[Any]) -> list[Agent[Any]]:
    """The agent, and all that a conversation can be handed over to from it."""
    found = [agent]
    for it in found:
        others = [_target(other) for other in it.handoffs]
        found += [other for other in others if other is not None and not any(other is known for known in found)]
    return found


def _target(it: Agent[Any] | Handoff[Any, Any]) -> Agent[Any] | None:
    """Whom a handoff goes to, where it says so beforehand."""
    if isinstance(it, Agent):
        return it
    ref: Any = getattr(it, "_agent_ref", None)
    found = ref() if callable(ref) else None
    return cast("Agent[Any]", found) if isinstance(found, Agent) else None


class _Driven(RunHooks[Any]):
    """One run by the SDK, which tells its steps at the hooks and waits there until they are stored."""

    def __init__(self, engine: AgentsEngine, turn: Turn) -> None:
        self.queue: asyncio.Queue[tuple[Step, asyncio.Future[None] | None] | None] = asyncio.Queue()
        self._engine = engine
        self._turn = turn
        self._open: dict[str, str] = {call.id: call.name for message in turn.messages for call in _open(message) if call.id in turn.rerun}
        """The calls that have no result yet, with the names of their tools."""
        self._rerun = Rerun()
        self._ended = 0
        self._completed = 0
        """Answers that have come in, and those of them whose every piece has been told."""
        self._heard = asyncio.Event()

    async def go(self) -> Step:
        """Run to the end; the last step told is the answer, or what it waits for."""
        try:
            result = await self._ran()
            await self._answer(it.to_input_item() for it in result.new_items if not isinstance(it, ToolApprovalItem))
        finally:
            self.queue.put_nowait(None)
        if result.interruptions:
            return self._held(result)
        return _done(result.final_output)

    async def _ran(self) -> RunResult | RunResultStreaming:
        engine, turn = self._engine, self._turn
        if not turn.own:  # a question beside the conversation
            bare = Agent[Any](name=engine.agent.name, instructions=turn.instructions, model=engine.agent.model)
            beside = Bound(msgspec.structs.replace(turn, instructions=None, tools=()), engine.run_config)
            input = cast("list[Any]", input_of(turn.messages))
            return await Runner.run(beside.agent(bare), input, run_config=beside.config, hooks=self)
        context = RunContextWrapper(engine.context(turn.session) if engine.context is not None else None)
        bound = Bound(turn, engine.run_config)
        agent = bound.agent(engine.on_duty(turn.session))
        input, self._rerun = bound.again(input_of(turn.messages), agent, context)
        turns = engine.max_turns + bool(self._rerun.calls)
        if not turn.stream:
            return await Runner.run(agent, input, context=context, run_config=bound.config, hooks=self, max_turns=turns)
        result = Runner.run_streamed(agent, input, context=context, run_config=bound.config, hooks=self, max_turns=turns)
        await self._listen(result)
        return result

    async def _listen(self, result: RunResultStreaming) -> None:
        try:
            async for event in result.stream_events():
                if event.type == "raw_response_event":
                    self._hear(event.data)
        finally:
            result.cancel()
            if result.run_loop_task is not None:
                with suppress(asyncio.CancelledError, Exception):  # `stream_events` has raised it
                    await result.run_loop_task

    def _hear(self, event: Any) -> None:
        if event.type == "response.completed":
            self._completed += 1
            self._heard.set()
        elif event.type in (*_TEXT, *_THOUGHT) and event.delta:
            self.queue.put_nowait((Delta(event.delta, event.type in _THOUGHT), None))

    # --- the SDK's hooks ---

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: str | None, input_items: list[Any]) -> None:
        """Whatever was answered without a hook is in what the model is sent."""
        if not self._rerun.replaying:
            await self._answer(input_items)
            await self._answer(_unsaid(self._open, agent))

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self._ended += 1
        while self._turn.stream and self._completed < self._ended:
            self._heard.clear()
            await self._heard.wait()
        if self._rerun.replayed():
            return
        message, used = answer_of(response.to_input_items()), response.usage
        calls = _open(message)
        self._open |= {str(call.id): call.name for call in calls}
        await self._tell(Said(message=message, acts=bool(calls), input_tokens=used.input_tokens, output_tokens=used.output_tokens))

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: object) -> None:
        call = getattr(context, "tool_call", None)
        if call is not None and call.call_id in self._open:
            schema = getattr(tool, "output_json_schema", None)
            if schema is None:  # with one, the SDK says in its next request what it made of the result
                await self._answer([ItemHelpers.tool_call_output_item(call, result)])

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        State(self._turn.session, _STATE)[self._engine.agent.name] = to_agent.name

    # --- telling ---

    async def _tell(self, step: Step) -> None:
        """Tell a step, and wait until it is stored."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((step, stored))
        await stored

    async def _answer(self, items: Iterable[Any]) -> None:
        """Tell of the results among `items` that have not been told yet."""
        for item in items:
            fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
            if fields.get("call_id") in self._open and str(fields.get("type")).endswith("_output"):
                name = self._open.pop(fields["call_id"])
                (message,) = messages_of([item])
                await self._tell(Answered(msgspec.structs.replace(message, name=name)))

    def _held(self, result: RunResult | RunResultStreaming) -> Held:
        ids = [str(getattr(it.raw_item, "call_id", None)) for it in result.interruptions]
        if lost := [it.name for it, id in zip(result.interruptions, ids, strict=True) if id not in self._open]:
            raise Unsupported(
                f"a call of {lost[0]!r} inside of another agent's tool, or elsewhere, needs approval: only own calls can wait"
            )
        return Held(confirm=tuple(ids))


def _unsaid(open: dict[str, str], agent: Agent[Any]) -> Iterator[dict[str, Any]]:
    """Results for what has had its effect and is not among what the next agent is sent: handoffs may filter that."""
    for id in list(open):
        yield {"type": "function_call_output", "call_id": id, "output": f'{{"assistant": "{agent.name}"}}'}


def _open(message: Message) -> list[ToolCall]:
    """The calls in a message that were not answered where they were made."""
    answered = {part.id for part in message.parts if isinstance(part, ToolResult)}
    return [part for part in message.parts if isinstance(part, ToolCall) and part.id not in answered]


def _done(output: Any) -> Done:
    if isinstance(output, str) or output is None:
        return Done(output or "")
    dump: Any = getattr(output, "model_dump", None)
    return Done(output, dump(mode="json") if callable(dump) else msgspec.to_builtins(output, enc_hook=str))
