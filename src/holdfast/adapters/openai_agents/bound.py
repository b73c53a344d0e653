"""The SDK's agents, bound to one run of ours: with its tools and instructions, its middleware, and the calls it has to execute first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from types import NoneType
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    Handoff,
    Model,
    RunConfig,
    RunContextWrapper,
    ToolApprovalItem,
    function_tool,
    handoff,
)
from agents.function_schema import function_schema
from agents.run_config import CallModelData, ModelInputData
from openai.types.responses import ResponseFunctionToolCall
from pydantic import ValidationError

from ...agents import Turn
from ...agents.tools import as_model_sees, check_fits, executing, name_of, options_of
from ...errors import Unsupported
from ...messages import ToolCall
from .models import Replaying, Rerun, Watching


class Bound:
    """The agents of one run. Where nothing is added to them, they are themselves."""

    def __init__(self, turn: Turn, config: RunConfig) -> None:
        if turn.service is not None:
            raise Unsupported(
                "a conversation that the provider keeps can't go on in the OpenAI Agents SDK: set session.service_session_id to None"
            )
        if wrong := [name_of(it) for it in turn.tools if options_of(it).delegates]:
            raise Unsupported(f"{wrong[0]!r} runs another agent: give an agent of the OpenAI Agents SDK handoffs, or agent.as_tool()")
        self._turn = turn
        self._filter = config.call_model_input_filter
        self.config = config if not turn.instructions else replace(config, call_model_input_filter=self._instructed)
        """How the SDK is to run them."""
        if config.model is not None:
            self.config = replace(self.config, model=self.model(config.model))
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
            if self.config.model is None:
                made.model = self.model(it.model)
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
        replaying = Replaying(_resolved(self.config.model or agent.model, self.config), rerun)
        if self.config.model is None:
            agent.model = replaying
        else:
            self.config = replace(self.config, model=replaying)

    # --- the model ---

    def model(self, it: str | Model | None) -> str | Model | None:
        """The model as it takes part: behind middleware, where there is some around its calls."""
        return it if (watched := self._turn.watched) is None or not watched.models else Watching(_resolved(it, self.config), watched)


def check_changed(call: ToolCall, changed: Mapping[str, Any], tools: Sequence[Any]) -> None:
    """As `agents.Engine` says; of a tool of the SDK's own as far as its schema tells."""
    for it in tools:
        if name_of(it) != call.name:
            continue
        if isinstance(it, FunctionTool):
            check_fits(call, changed, _faults(it.params_json_schema, changed))
        elif callable(it):
            takes = function_schema(as_model_sees(it), strict_json_schema=False).params_pydantic_model
            check_fits(call, changed, [{"loc": [name], "msg": "it has no such parameter"} for name in changed.keys() - takes.model_fields])
            try:
                takes.model_validate({**(call.arguments or {}), **changed})
            except ValidationError as error:
                check_fits(call, changed, error.errors())


def _faults(schema: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is wrong with these arguments by a tool's schema: names that are none of it, and plain types."""
    known: dict[str, Any] = schema.get("properties", {})
    for name, value in changed.items():
        if name not in known and schema.get("additionalProperties") is False:
            yield {"loc": [name], "msg": "it has no such parameter"}
        elif not _fits(known.get(name, {}), value):
            yield {"loc": [name], "msg": f"it has to be {known[name].get('type', 'another type')}"}


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    if "anyOf" in schema:
        return any(_fits(it, value) for it in schema["anyOf"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return not kinds or any(isinstance(value, _JSON[kind]) and (type(value) is not bool or kind == "boolean") for kind in kinds)


_JSON: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": NoneType,
}


def _resolved(it: str | Model | None, config: RunConfig) -> Model:
    return it if isinstance(it, Model) else config.model_provider.get_model(it)
