"""The engine of every `Agent` that isn't given another: pydantic-ai's model calls, tool loop and streaming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple, TypeGuard, cast
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from pydantic.errors import PydanticUserError
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import Tool
from pydantic_ai import messages as ai
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import CallDeferred, ToolFailed, UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.run import AgentRun
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, PrefixedToolset, RenamedToolset
from pydantic_core import to_jsonable_python
from pydantic_graph import End

from ..errors import InvalidValue, MissingExtra, Unsupported, UsageError
from ..messages import Message, ToolCall
from ..models import OpenAIChat, OpenAIResponses
from ..requirements import Requirement
from . import native
from .around import ModelCall
from .engine import Answered, Delta, Done, Held, Said, Step, Turn
from .output import content_of, typed_of
from .tools import ToolOptions, Waits, as_model_sees, check_fits, executing, name_of, options_of


class Prepared(NamedTuple):
    """An agent's tools as pydantic-ai's own, and whether any of them may make a run wait."""

    tools: list[Tool[Any]]
    sets: list[AbstractToolset[Any]]
    holds: bool


class PydanticEngine:
    """`model`: a name such as "openai:gpt-5.2", `OpenAIResponses`, `OpenAIChat`, a model object of pydantic-ai, or an agent of it.

    An agent of pydantic-ai keeps its output type, tools, toolsets, capabilities and settings; ours are added.
    """

    holds = True

    def __init__(self, model: Any) -> None:
        self.agent: PydanticAgent[Any, Any] = model if isinstance(model, PydanticAgent) else PydanticAgent(_model(model))
        self._described = None if isinstance(model, Model | PydanticAgent) else model
        self._unused = [self.agent.model]
        self._models: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._output: Any = [self.agent.output_type, DeferredToolRequests]
        self._may_hold = isinstance(model, PydanticAgent) and not getattr(self.agent, "_output_validators", ())
        """An agent's own tools may have to wait too; one with validators of its output takes no other output, and has to name it itself."""
        self._prepared: tuple[Any, Prepared] | None = None

    def prepare(self, tools: tuple[Any, ...]) -> Prepared:
        """The engine's own form of `tools`; `InvalidValue` for a function no schema can be made for."""
        known = self._prepared
        if known is None or known[0] is not tools:
            sets = [cast("AbstractToolset[Any]", it) for it in tools if isinstance(it, AbstractToolset)]
            self._confirmed(tools)
            holds = self._may_hold or bool(sets) or any(options_of(it).needs or options_of(it).delegates for it in tools)
            known = (tools, Prepared([_tool(it) for it in tools if not isinstance(it, AbstractToolset)], sets, holds))
            self._prepared = known  # one value: an engine may serve agents with other tools, in other threads
        return known[1]

    def _confirmed(self, tools: tuple[Any, ...]) -> frozenset[str]:
        """The tools that a person has to approve, by name, as they are now: who made the agent may have added some."""
        return frozenset([name for name, it in self.named(tools).items() if _checked(it).needs == "confirmation"])

    def named(self, tools: Iterable[Any]) -> dict[str, Any]:
        """As `Engine` says; those in toolsets too, and the agent's own."""
        return dict([found for it in (*self.agent.toolsets, *tools) for found in _named(it)])

    def check_changed(self, call: ToolCall, changed: Mapping[str, Any], tools: tuple[Any, ...]) -> None:
        """As `Engine` says."""
        prepared = self.prepare(tools)
        for name, it in self.named([*prepared.tools, *prepared.sets]).items():
            if name == call.name:
                try:
                    it.function_schema.validator.validate_python({**(call.arguments or {}), **changed})
                except ValidationError as error:
                    check_fits(call, changed, error.errors())

    def _model_here(self) -> Any:
        """The model of this event loop, for the connections of its client belong to one; None where the model is somebody else's object."""
        if self._described is None:
            return None
        loop = asyncio.get_running_loop()
        if loop not in self._models:
            try:
                self._models[loop] = self._unused.pop()
            except IndexError:
                self._models[loop] = _model(self._described)
        return self._models[loop]

    def _beside(self) -> PydanticAgent[Any, Any]:
        """The model without the agent's tools, instructions and output: for a question beside the conversation."""
        return PydanticAgent(self.agent.model, model_settings=self.agent.model_settings)

    async def run(self, turn: Turn) -> AsyncGenerator[Step]:
        """As `Engine.run`."""
        tools, sets, holds = self.prepare(turn.tools)
        history = _asking(_sent_anew(native.requests(turn.messages), turn.service), turn)
        calls = _capability(turn, self._confirmed(turn.tools))
        async with (self.agent if turn.own else self._beside()).iter(
            model=self._model_here(),
            message_history=history,
            deferred_tool_results=_approved(turn),
            output_type=self._output if holds and turn.own else None,
            instructions=turn.instructions,
            model_settings=_kept_by_provider(self.agent.model, turn.service),
            toolsets=[*sets, FunctionToolset(tools)] if tools else sets or None,
            capabilities=[calls],
            conversation_id=turn.session.id,
            run_id=_new_to(history, turn.run_id),
        ) as run:
            node = run.next_node
            stored = {id(part) for message in history for part in message.parts}
            called = {part.tool_call_id for message in history for part in message.parts if isinstance(part, ai.ToolCallPart)}
            while not isinstance(node, End):
                if PydanticAgent.is_model_request_node(node):
                    if turn.stream:
                        async with node.stream(run.ctx) as stream:
                            with calls.listening():
                                async for event in stream:
                                    if (delta := _delta(event)) is not None:
                                        yield delta
                    before = node.request
                    node = await run.next(node)
                    if PydanticAgent.is_call_tools_node(node):
                        _tell_apart(node.model_response, called)
                        yield _said(node.model_response, run, before, stored)
                elif PydanticAgent.is_call_tools_node(node):
                    async for answer in _answers(node, run, stored):
                        yield answer
                    node = await run.next(node)
                else:
                    node = await run.next(node)
            assert run.result is not None
            output = run.result.output
            if isinstance(output, DeferredToolRequests):
                yield _held(output, calls.waiting)
                return
            plain = None if isinstance(output, str) else to_jsonable_python(output, fallback=str)
            yield Done(output, plain, None if plain is None else typed_of(output, plain))


def _new_to(history: list[ai.ModelMessage], run_id: str) -> str | None:
    """The run's id for the engine; None for one of its own at another attempt, for it takes an id that is in its history for a mistake."""
    return None if any(message.run_id == run_id for message in history) else run_id


def _sent_anew(history: list[ai.ModelMessage], service: str | None) -> list[ai.ModelMessage]:
    """What a run that goes on sends of itself, where the provider's answers are a chain: all of it, behind the last run's answer.

    The client would begin a new chain where it finds an answer of this run that it can't vouch for, and the conversation would be lost:
    so these are given to it as another endpoint's.
    """
    if not service or service.startswith("conv_"):
        return history
    return [replace(it, provider_url="") if isinstance(it, ai.ModelResponse) else it for it in history]


def _asking(history: list[ai.ModelMessage], turn: Turn) -> list[ai.ModelMessage]:
    """The history as one that asks the model: behind an answer without calls the engine needs a request, or takes it for the last word.

    An input may end so: the model goes on from there, where its provider takes that.
    """
    open = bool(turn.rerun) or not history or not isinstance(history[-1], ai.ModelResponse) or bool(history[-1].tool_calls)
    return history if open else [*history, ai.ModelRequest(parts=[])]


def _kept_by_provider(model: Any, service: str | None) -> Any:
    """Settings by which the provider goes on from what it keeps; `Unsupported` for one that keeps nothing."""
    if service is None:
        return None
    if getattr(model, "system", None) != "openai" or "Responses" not in type(model).__name__:
        fix = "use OpenAIResponses, or set session.service_session_id to None"
        raise Unsupported(f"the provider of {model!r:.80} keeps no conversations: {fix}")
    name = "openai_conversation_id" if service.startswith("conv_") else "openai_previous_response_id"
    return {name: service or "auto"}


class _Calls(AbstractCapability[Any]):
    """A tool that raises has answered: the model is told, and goes on. What people filled in is there while the tool is executed."""

    def __init__(self, turn: Turn, confirmed: frozenset[str]) -> None:
        self._turn = turn
        self._confirmed = confirmed
        self.waiting: dict[str, tuple[Requirement, ...]] = {}
        self.broken: Exception | None = None
        """What broke the stream off: whoever is around the model call is only cancelled."""

    @contextmanager
    def listening(self) -> Generator[None]:
        """Around the reading of a stream."""
        try:
            yield
        except Exception as error:
            self.broken = error
            raise

    async def prepare_tools(self, ctx: Any, tool_defs: list[ToolDefinition]) -> list[ToolDefinition]:
        return [replace(it, kind="unapproved") if it.name in self._confirmed and it.kind == "function" else it for it in tool_defs]

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        with executing(self._turn.execution(call.tool_call_id)):
            if self._turn.watched is None:
                return await handler(args)
            return await self._turn.watched.tool(call.tool_call_id, call.tool_name, args, handler)

    async def after_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, result: Any) -> Any:
        try:
            return content_of(result, f"tool {call.tool_name!r}")
        except UsageError as error:
            raise _failed(error) from error

    async def on_tool_execute_error(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, error: Exception) -> Any:
        if isinstance(error, Waits):
            self.waiting[call.tool_call_id] = error.requirements
            raise CallDeferred from error
        raise _failed(error) from error


def _failed(error: Exception) -> ToolFailed:
    return ToolFailed(f"{type(error).__name__}: {error}")


class _WatchedCalls(_Calls):
    """Model calls go through middleware too."""

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ai.ModelResponse:
        assert self._turn.watched is not None
        given = native.shown(request_context.messages)
        answers: list[tuple[Message, ai.ModelResponse]] = []
        made = self._turn.watched.call(given)
        made.provider, made.model, made.stream = request_context.model.system, request_context.model.model_name, self._turn.stream
        made.instructions = _instructions(request_context)

        async def ask(call: ModelCall) -> Message:
            if call.messages != given:
                request_context.messages = native.requests(call.messages)
            try:
                response = await handler(request_context)
            except asyncio.CancelledError:
                call.failure = None if self.broken is None else type(self.broken).__qualname__
                raise
            _note(call, response)
            answers.append((native.said(response), response))
            return answers[-1][0]

        answer = await self._turn.watched.model(made, ask)
        return next((response for message, response in answers if message is answer), None) or native.response(answer)


def _instructions(request_context: Any) -> str | None:
    """What the model is told beside the messages."""
    parts = request_context.model_request_parameters.instruction_parts or ()
    return "\n\n".join([part.content for part in parts]) or None


def _note(call: ModelCall, response: ai.ModelResponse) -> None:
    """What the response says of itself."""
    call.response_model, call.response_id, call.finish_reason = response.model_name, response.provider_response_id, response.finish_reason
    call.input_tokens, call.output_tokens = response.usage.input_tokens, response.usage.output_tokens


def _capability(turn: Turn, confirmed: frozenset[str]) -> _Calls:
    return (_WatchedCalls if turn.watched is not None and turn.watched.models else _Calls)(turn, confirmed)


def _held(asked: DeferredToolRequests, others: dict[str, tuple[Requirement, ...]]) -> Held:
    external = (it.tool_call_id for it in asked.calls)
    return Held(
        confirm=tuple(it.tool_call_id for it in asked.approvals), external=tuple(id for id in external if id not in others), others=others
    )


def _approved(turn: Turn) -> DeferredToolResults | None:
    """The calls that are to be executed first."""
    if not turn.rerun:
        return None
    return DeferredToolResults(
        approvals={id: True if args is None else ToolApproved(override_args=args) for id, args in turn.rerun.items()}
    )


def _model(model: Any) -> Model:
    """The engine's model object; every way it can be wrong is an `InvalidValue` or a `MissingExtra`."""
    try:
        if isinstance(model, OpenAIResponses | OpenAIChat):
            return _openai(model)
        if isinstance(model, Model | str):
            return infer_model(cast("Any", model))
    except ImportError as error:
        raise MissingExtra(f'model={model!r} needs a client that is not installed: pip install "holdfast[openai]" ({error})') from error
    except (UserError, ValueError) as error:
        raise InvalidValue(f"model={model!r}: {error}") from error
    raise InvalidValue(
        f"model={model!r:.80}: give a name such as 'openai:gpt-5.2', OpenAIResponses(id=...), OpenAIChat(id=...), a model object of"
        " pydantic-ai, or an engine"
    )


def _openai(model: OpenAIResponses | OpenAIChat) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    make = OpenAIResponsesModel if isinstance(model, OpenAIResponses) else OpenAIChatModel
    settings: Any = model.settings or None
    return make(model.id, provider=OpenAIProvider(base_url=model.base_url, api_key=model.api_key), settings=settings)


def _named(it: Any) -> Iterator[tuple[str, Any]]:
    """A tool, or the tools of a toolset as far as it tells, by the names the model calls them by."""
    if not hasattr(it, "get_tools"):
        yield name_of(it), it
        return
    yield from getattr(it, "tools", {}).items()
    for inner in (*getattr(it, "toolsets", ()), *([it.wrapped] if hasattr(it, "wrapped") else ())):
        for name, tool in _named(inner):
            if isinstance(it, PrefixedToolset):
                name = f"{it.prefix}_{name}"
            elif isinstance(it, RenamedToolset):
                name = next((new for new, old in it.name_map.items() if old == name), name)
            yield name, tool


def _checked(it: Any) -> ToolOptions:
    """What is known of a tool; `InvalidValue` for what only holds of a function that is given itself."""
    options = options_of(it)
    if isinstance(it, Tool) and options.needs in ("input", "external"):
        raise InvalidValue(f"tool {it.name!r} waits for {options.needs}: give its function in tools=[...], not a Tool or a toolset of it")
    return options


def _tool(it: Any) -> Tool[Any]:
    if isinstance(it, Tool):
        return cast("Tool[Any]", it)
    needs = options_of(it).needs
    try:
        function = as_model_sees(it)
        return Tool(_elsewhere(function) if needs == "external" else function, requires_approval=needs in ("confirmation", "input"))
    except (UserError, PydanticUserError, TypeError, ValueError) as error:
        raise InvalidValue(f"tool {name_of(it)!r}: {error}") from error


def _elsewhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as the model sees it, executed by others."""

    @wraps(function)
    def held(*args: Any, **kwargs: Any) -> Any:
        raise CallDeferred

    return held


def _delta(event: Any) -> Delta | None:
    """What an event adds to the text, or to the reasoning, of the answer."""
    part = event.part if isinstance(event, ai.PartStartEvent) else getattr(event, "delta", None)
    if isinstance(part, ai.TextPart | ai.ThinkingPart):
        return Delta(part.content, isinstance(part, ai.ThinkingPart)) if part.content else None
    if isinstance(part, ai.TextPartDelta | ai.ThinkingPartDelta):
        return Delta(part.content_delta, isinstance(part, ai.ThinkingPartDelta)) if part.content_delta else None
    return None


def _said(response: ai.ModelResponse, run: AgentRun[Any, Any], request: ai.ModelRequest, stored: set[int]) -> Said:
    new = [part for part in request.parts if id(part) not in stored and not isinstance(part, ai.UserPromptPart)]
    stored.update(id(part) for part in request.parts)
    before = tuple(native.answered(part) if _is_answer(part) else native.noted(part) for part in new)
    manager = run.ctx.deps.tool_manager
    kinds = [tool.kind if (tool := manager.get_tool_def(call.tool_name)) else "unknown" for call in response.tool_calls]
    return Said(
        message=native.said(response),
        acts=any(kind != "output" for kind in kinds),
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        before=before,
        service=(response.provider_details or {}).get("conversation_id") or response.provider_response_id,
    )


def _tell_apart(response: ai.ModelResponse, called: set[str]) -> None:
    """Some services number their calls anew in each answer: one whose id was there before gets another."""
    for part in response.tool_calls:
        number, id = 1, part.tool_call_id
        while part.tool_call_id in called:
            number += 1
            part.tool_call_id = f"{id}#{number}"
        called.add(part.tool_call_id)


def _is_answer(part: Any) -> TypeGuard[ai.ToolReturnPart[Any]]:
    return isinstance(part, ai.ToolReturnPart)


async def _answers(node: Any, run: AgentRun[Any, Any], stored: set[int]) -> AsyncGenerator[Step]:
    """Each tool's answer as soon as it is there; when the tools are broken off, those that had answered first.

    An answer that can't be stored is the error of the batch, at its end: the others are.
    """
    lost: list[InvalidValue] = []
    try:
        async with node.stream(run.ctx) as events:
            async for event in events:
                part = getattr(event, "part", None)
                if _is_answer(part) and isinstance(event, ai.ToolResultEvent):
                    for answer in _answer(part, stored, lost):
                        yield answer
    except GeneratorExit:
        raise
    except BaseException:
        for part in _collected(run):
            for answer in _answer(part, stored, lost):
                yield answer
        raise
    if lost:
        raise lost[0]


def _answer(part: ai.ToolReturnPart[Any], stored: set[int], lost: list[InvalidValue]) -> Iterator[Answered]:
    """What is yet to be told of an answer: nothing, but in `lost`, of one that can't be stored."""
    if id(part) in stored:
        return
    stored.add(id(part))
    try:
        message = native.answered(part)
    except InvalidValue as error:
        lost.append(error)
    else:
        yield Answered(message, failed=part.outcome != "success")


def _collected(run: AgentRun[Any, Any]) -> list[ai.ToolReturnPart[Any]]:
    """The answers of a batch of tools that was broken off."""
    last = run.all_messages()[-1]
    return [part for part in last.parts if _is_answer(part)] if last.state == "interrupted" else []
