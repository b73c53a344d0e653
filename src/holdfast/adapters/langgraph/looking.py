"""Middleware around the model and tool calls inside of a graph, by LangChain's callbacks: it sees each, may stop it, and changes none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import LLMResult

from ... import Message, assistant, user
from ...agents import ModelCall
from ...agents.watching import Look, Watched
from .transcript import plain


class _Call(NamedTuple):
    look: asyncio.Task[Look]
    model: ModelCall | None = None


class Looking(BaseCallbackHandler):
    """The callbacks of one run of a graph. They come from any thread; the middleware is on the loop of the run."""

    raise_error = True

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._calls: dict[UUID, _Call] = {}
        self._beside: list[asyncio.Future[None]] = []
        """What nobody could wait for: the node that has made the call blocks the loop meanwhile."""

    # --- of models ---

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: Sequence[Sequence[BaseMessage]], *, run_id: UUID, **options: Any
    ) -> None:
        self._asked([plain(it) for it in messages[0]], run_id, options)

    def on_llm_start(self, serialized: dict[str, Any], prompts: Sequence[str], *, run_id: UUID, **options: Any) -> None:
        self._asked([user(it) for it in prompts[:1]], run_id, options)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **options: Any) -> None:
        self._do(self._answered(run_id, response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **options: Any) -> None:
        self._do(self._failed(run_id, error))

    # --- of tools ---

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, inputs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        given = {"input": input_str} if inputs is None else dict(inputs)
        name = str(serialized.get("name") or options.get("name") or "tool")
        self._do(self._begun(run_id, self._watched.look_at_tool(options.get("tool_call_id"), name, given)))

    def on_tool_end(self, output: Any, *, run_id: UUID, **options: Any) -> None:
        self._do(self._ended(run_id, output.text if isinstance(output, ToolMessage) else output))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **options: Any) -> None:
        self._do(self._failed(run_id, error))

    # --- on the loop ---

    def _asked(self, messages: list[Message], run_id: UUID, options: dict[str, Any]) -> None:
        known: dict[str, Any] = options.get("metadata") or {}
        call = self._watched.call(messages)
        call.model, call.provider = known.get("ls_model_name"), known.get("ls_provider")
        self._do(self._begun(run_id, self._watched.look_at_model(call), call))

    def _do(self, part: Coroutine[Any, Any, None]) -> None:
        """On the run's loop; waited for, unless that is what would keep the loop from doing it."""
        if threading.get_ident() == self._thread:
            self._beside.append(asyncio.ensure_future(part))
        else:
            asyncio.run_coroutine_threadsafe(part, self._loop).result()

    async def _begun(self, run_id: UUID, looking: Coroutine[Any, Any, Look], call: ModelCall | None = None) -> None:
        self._calls[run_id] = _Call(asyncio.create_task(looking), call)
        try:
            await self._calls[run_id].look
        except BaseException:
            self._calls.pop(run_id, None)
            raise

    async def _answered(self, run_id: UUID, response: LLMResult) -> None:
        call = self._calls[run_id].model if run_id in self._calls else None
        if call is not None:
            await self._ended(run_id, _note_of(call, response))

    async def _ended(self, run_id: UUID, given: Any) -> None:
        if (call := self._calls.pop(run_id, None)) is not None:
            await (await call.look).end(given)

    async def _failed(self, run_id: UUID, error: BaseException) -> None:
        if (call := self._calls.pop(run_id, None)) is not None:
            await (await call.look).fail(error)

    async def __aenter__(self) -> None:
        """Around the run."""

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What has not ended by now never will; what middleware raised beside the run is raised now."""
        raised = [it for it in await asyncio.gather(*self._beside, return_exceptions=True) if it is not None]
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.look.cancel()
            await asyncio.wait({call.look})
            if not call.look.cancelled() and call.look.exception() is None:
                await call.look.result().close()
        if raised and kind is None:
            raise raised[0]


def _note_of(call: ModelCall, response: LLMResult) -> Message:
    """The answer, once the call has what else is told of it."""
    generation = response.generations[0][0] if response.generations and response.generations[0] else None
    message: Any = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return assistant(generation.text if generation else "")
    told: dict[str, Any] = message.response_metadata
    call.response_model, call.finish_reason = told.get("model_name"), told.get("finish_reason") or told.get("stop_reason")
    call.response_id = told.get("id")
    if (used := message.usage_metadata) is not None:
        call.input_tokens, call.output_tokens = used["input_tokens"], used["output_tokens"]
    return plain(message)
