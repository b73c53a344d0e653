"""Models in the place of an agent's own: one says first what was said before, one is asked through middleware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from agents import Model, ModelResponse, Usage
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from openai.types.responses import Response, ResponseCompletedEvent, ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from ... import Message, Text, ToolCall
from ...agents import ModelCall
from ...agents.watching import Watched
from ...ids import new_id
from .items import answer_of, input_of, messages_of


class Standing(Model):
    """A model that stands in the place of another one."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner

    def get_retry_advice(self, request: Any) -> Any:
        return self.inner.get_retry_advice(request)

    async def close(self) -> None:
        await self.inner.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self.inner._cleanup_on_run_end(owner)  # pyright: ignore[reportPrivateUsage]


# --- what was said before --------------------------------------------------------------------------------------------


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
        return _unasked(*self.calls)


class Replaying(Standing):
    """A model that begins with what was said before."""

    def __init__(self, inner: Model, rerun: Rerun) -> None:
        super().__init__(inner)
        self._rerun = rerun

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        return self._rerun.response() if self._rerun.replaying else await self.inner.get_response(*args, **options)

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        if self._rerun.replaying:
            yield _completed(_response(self._rerun.response()))
            return
        async for event in self.inner.stream_response(*args, **options):
            yield event


# --- through middleware ----------------------------------------------------------------------------------------------


class Watching(Standing):
    """A model whose calls go through middleware, which may change what it is sent, stand for it, or change what it said."""

    def __init__(self, inner: Model, watched: Watched) -> None:
        super().__init__(inner)
        self._watched = watched

    async def get_response(self, system_instructions: str | None, input: Any, *args: Any, **options: Any) -> ModelResponse:
        async def ask(items: Any) -> ModelResponse:
            return await self.inner.get_response(system_instructions, items, *args, **options)

        return await self._through(self._call(system_instructions, input, stream=False), input, ask)

    async def stream_response(self, system_instructions: str | None, input: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """What the model says as it comes; its whole answer when the middleware is through with it."""
        events: asyncio.Queue[Any] = asyncio.Queue()
        whole: list[Response] = []

        async def ask(items: Any) -> ModelResponse:
            async for event in self.inner.stream_response(system_instructions, items, *args, **options):
                if isinstance(event, ResponseCompletedEvent):
                    whole.append(event.response)
                else:
                    events.put_nowait(event)
            return _said(whole[-1]) if whole else _unasked()

        call = self._call(system_instructions, input, stream=True)
        going = asyncio.create_task(self._through(call, input, ask))
        going.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            made = await going
        finally:
            going.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what it raised has been raised above
                await going
        if whole:
            yield _completed(whole[-1].model_copy(update={"output": made.output}))
        elif made.output:
            yield _completed(_response(made))

    def _call(self, instructions: str | None, input: Any, *, stream: bool) -> ModelCall:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else input
        call = self._watched.call(messages_of(items))
        name = getattr(self.inner, "model", None)
        call.model, call.instructions, call.stream = None if name is None else str(name), instructions, stream
        if isinstance(self.inner, OpenAIResponsesModel | OpenAIChatCompletionsModel):
            call.provider = "openai"
        return call

    async def _through(self, call: ModelCall, input: Any, ask: Callable[[Any], Awaitable[ModelResponse]]) -> ModelResponse:
        given = list(call.messages)
        answers: list[tuple[Message, ModelResponse]] = []

        async def last(call: ModelCall) -> Message:
            response = await ask(input if call.messages == given else input_of(call.messages))
            call.response_id = response.response_id
            call.input_tokens, call.output_tokens = response.usage.input_tokens, response.usage.output_tokens
            answers.append((answer_of(response.to_input_items()), response))
            return answers[-1][0]

        answer = await self._watched.model(call, last)
        said, response = answers[-1] if answers else (None, _unasked())
        return response if answer is said else ModelResponse(output=_output(answer), usage=response.usage, response_id=response.response_id)


def _unasked(*output: Any) -> ModelResponse:
    """What is said without a model's having been asked."""
    return ModelResponse(output=list(output), usage=Usage(), response_id=None)


def _output(answer: Message) -> list[Any]:
    """What a middleware said in the model's place, as what the model would have said."""
    found: list[Any] = []
    for part in answer.parts:
        if isinstance(part, Text):
            text = ResponseOutputText(type="output_text", text=part.content, annotations=[])
            found.append(ResponseOutputMessage(id=new_id(), type="message", role="assistant", status="completed", content=[text]))
        elif isinstance(part, ToolCall):
            given = part.arguments if isinstance(part.arguments, str) else json.dumps(part.arguments or {})
            found.append(ResponseFunctionToolCall(type="function_call", call_id=part.id or new_id(), name=part.name, arguments=given))
    return found


def _said(response: Response) -> ModelResponse:
    it = response.usage
    used = Usage(requests=1, input_tokens=it.input_tokens, output_tokens=it.output_tokens, total_tokens=it.total_tokens) if it else Usage()
    return ModelResponse(output=response.output, usage=used, response_id=response.id)


def _completed(response: Response) -> ResponseCompletedEvent:
    return ResponseCompletedEvent(type="response.completed", sequence_number=0, response=response)


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
