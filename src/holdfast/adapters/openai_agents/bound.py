"""The SDK's agents, bound to one run of ours: with its tools and instructions, its middleware, and the calls it has to execute first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from copy import copy
from dataclasses import replace
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    Handoff,
    Model,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    ToolApprovalItem,
    Usage,
    function_tool,
    handoff,
)
from agents.run_config import CallModelData, ModelInputData
from openai.types.responses import Response, ResponseCompletedEvent, ResponseFunctionToolCall

from ...agents import Turn
from ...agents.tools import as_model_sees, executing, name_of, options_of
from ...errors import Unsupported
from ...ids import new_id


class Rerun:
    """The calls of an earlier try that are executed before the model is asked: the model says them once more, without being asked."""

    def __init__(self, calls: list[ResponseFunctionToolCall] | None = None) -> None:
        self.calls = calls or []
        self.replaying = bool(calls)

    def replayed(self) -> bool:
        """Whether this answer was the one that was said before; the next is not."""
        was, self.replaying = self.replaying, False
        return was

    def response(self) -> ModelResponse:
        return ModelResponse(output=[*self.calls], usage=Usage(), response_id=None)


class Bound:
    """The agents of one run. Where nothing is added to them, they are themselves."""

    def __init__(self, turn: Turn, config: RunConfig) -> None:
        if turn.watched is not None and turn.watched.models:
            raise Unsupported("middleware around model calls (on_model_call) does not see those of the OpenAI Agents SDK")
        if turn.service is not None:
            raise Unsupported(
                "a conversation that the provider keeps can't go on in the OpenAI Agents SDK: set session.service_session_id to None"
            )
        if wrong := [name_of(it) for it in turn.tools if options_of(it).delegates]:
            raise Unsupported(f"{wrong[0]!r} runs another agent: give an agent of the OpenAI Agents SDK handoffs, or agent.as_tool()")
        self._turn = turn
        self._given = config if not turn.instructions else replace(config, call_model_input_filter=self._instructed)
        self._filter = config.call_model_input_filter
        self.config = self._given
        """How the SDK is to run them."""
        self._known: dict[int, tuple[Agent[Any], Agent[Any]]] = {}
        self._tools = [self._tool(it) for it in turn.tools]

    async def _instructed(self, data: CallModelData[Any]) -> ModelInputData:
        """Our instructions after the agent's own."""
        made = data.model_data
        if self._filter is not None:
            filtered = self._filter(data)
            made = filtered if isinstance(filtered, ModelInputData) else await filtered
        return ModelInputData(made.input, "\n\n".join([text for text in (made.instructions, self._turn.instructions) if text]))

    def agent(self, it: Agent[Any]) -> Agent[Any]:
        """The agent as it takes part in this run."""
        if not self._tools and self._turn.watched is None and not self._turn.rerun:
            return it
        if id(it) not in self._known:
            made = it.clone()
            self._known[id(it)] = it, made  # before its handoffs: they may lead back to it
            made.tools = [*(self._watched(tool) if isinstance(tool, FunctionTool) else tool for tool in it.tools), *self._tools]
            made.handoffs = [self._handoff(other) for other in it.handoffs]
        return self._known[id(it)][1]

    def _handoff(self, it: Agent[Any] | Handoff[Any, Any]) -> Any:
        made = copy(it) if isinstance(it, Handoff) else handoff(it)
        invoke = made.on_invoke_handoff

        async def invoked(context: Any, arguments: str) -> Any:
            return self.agent(await invoke(context, arguments))

        made.on_invoke_handoff = invoked
        return made

    # --- tools ---

    def _tool(self, it: Any) -> FunctionTool:
        if isinstance(it, FunctionTool):
            return self._watched(it)
        needs = options_of(it).needs is not None
        return self._watched(function_tool(as_model_sees(it), name_override=name_of(it), strict_mode=False, needs_approval=needs))

    def _watched(self, tool: FunctionTool) -> FunctionTool:
        """The tool with our middleware around it, and with what people filled in."""
        made, invoke, turn = copy(tool), tool.on_invoke_tool, self._turn

        async def invoked(context: Any, arguments: str) -> Any:
            with executing(turn.execution(context.tool_call_id)):
                if turn.watched is None:
                    return await invoke(context, arguments)

                async def execute(given: dict[str, Any]) -> Any:
                    return await invoke(context, json.dumps(given))

                return await turn.watched.tool(context.tool_call_id, tool.name, json.loads(arguments or "{}"), execute)

        made.on_invoke_tool = invoked
        return made

    # --- what has to be executed first ---

    def again(self, input: list[dict[str, Any]], agent: Agent[Any], context: RunContextWrapper[Any]) -> tuple[list[Any], Rerun]:
        """The input without the calls that are to be executed, and these; they are approved, and the agent's model says them first."""
        waits = [it for it in input if it.get("type") == "function_call" and it.get("call_id") in self._turn.rerun]
        rerun = Rerun([self._call(it) for it in waits])
        for call in rerun.calls:
            context.approve_tool(ToolApprovalItem(agent=agent, raw_item=call))
        if rerun.calls:
            self._replay(agent, rerun)
        return [it for it in input if not any(it is call for call in waits)], rerun

    def _call(self, item: dict[str, Any]) -> ResponseFunctionToolCall:
        changed = self._turn.rerun[item["call_id"]]
        return ResponseFunctionToolCall.model_validate(item if changed is None else item | {"arguments": json.dumps(changed)})

    def _replay(self, agent: Agent[Any], rerun: Rerun) -> None:
        model = self._given.model or agent.model
        inner = model if isinstance(model, Model) else self._given.model_provider.get_model(model)
        if self._given.model is None:
            agent.model = _Replaying(inner, rerun)
        else:
            self.config = replace(self._given, model=_Replaying(inner, rerun))


class _Replaying(Model):
    """A model that begins with what was said before."""

    def __init__(self, inner: Model, rerun: Rerun) -> None:
        self._inner = inner
        self._rerun = rerun

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        return self._rerun.response() if self._rerun.replaying else await self._inner.get_response(*args, **options)

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        if self._rerun.replaying:
            yield ResponseCompletedEvent(type="response.completed", sequence_number=0, response=_response(self._rerun.response()))
            return
        async for event in self._inner.stream_response(*args, **options):
            yield event


def _response(said: ModelResponse) -> Response:
    return Response(
        id=new_id(),
        created_at=0,
        model="",
        object="response",
        output=said.output,
        tool_choice="auto",
        tools=[],
        parallel_tool_calls=True,
    )
