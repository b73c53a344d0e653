"""Middleware around model calls and tool calls, for engines: what they await in place of the call itself, or beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from msgspec import UNSET

from ..errors import InvalidValue, Unsupported
from ..messages import Message, assistant
from ..session import Session
from .around import Middleware, ModelCall, Purpose, ToolInvocation, through_middleware


class Watched:
    """The middleware of one run, or of one answer for another purpose. An engine that finds it in its `Turn` makes its calls through it."""

    def __init__(
        self, session: Session, run_id: str, middleware: Sequence[Middleware], agent: str | None = None, purpose: Purpose = "answer"
    ) -> None:
        self._session = session
        self._purpose: Purpose = purpose
        self.agent = agent
        """Who makes the calls; another one where the run is handed over."""
        self._run_id = run_id
        self._asked = 0
        self._model = [it.on_model_call for it in middleware if type(it).on_model_call is not Middleware.on_model_call]
        self._tool = [it.on_tool_call for it in middleware if type(it).on_tool_call is not Middleware.on_tool_call]

    @property
    def models(self) -> bool:
        """Whether anything is around model calls."""
        return bool(self._model)

    @property
    def tools(self) -> bool:
        """Whether anything is around tool calls."""
        return bool(self._tool)

    def call(self, messages: Sequence[Message]) -> ModelCall:
        """The next model call; the engine adds what it knows of it."""
        self._asked += 1
        return ModelCall(self._session, self._run_id, self._asked, list(messages), agent=self.agent, purpose=self._purpose)

    async def model(self, call: ModelCall, ask: Callable[[ModelCall], Awaitable[Message]]) -> Message:
        """The model's answer to `call.messages`, or what middleware made of either; `ask` calls the model."""

        async def last() -> None:
            call.answer = await ask(call)

        await through_middleware(self._model, call, last)
        if call.answer is None:
            raise ValueError("a middleware around a model call returned without call_next() and without call.answer")
        answer: Any = call.answer
        if isinstance(answer, str):
            return assistant(answer)
        if not isinstance(answer, Message):
            raise InvalidValue(f"a middleware around a model call answered {answer!r:.80}: set call.answer to text or to a message")
        return answer

    async def tool(self, id: str | None, name: str, arguments: dict[str, Any], execute: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        """The tool's result, or what middleware made of it; `execute` executes it."""
        call = ToolInvocation(self._session, self._run_id, id, name, dict(arguments), agent=self.agent)

        async def last() -> None:
            if call.result is UNSET:
                call.result = await execute(call.arguments)

        await through_middleware(self._tool, call, last)
        return None if call.result is UNSET else call.result

    # --- calls that a framework makes by itself ---

    async def look_at_model(self, call: ModelCall) -> Look:
        """The beginning of a model call that is made elsewhere; raises what middleware raises."""
        look, given = Look(), list(call.messages)

        async def ask(call: ModelCall) -> Message:
            if call.messages != given:
                raise Unsupported("a middleware has changed the messages of a model call that it can only look at")
            return await look.during()

        await look.begin(self.model(call, ask))
        return look

    async def look_at_tool(self, id: str | None, name: str, arguments: dict[str, Any]) -> Look:
        """As `look_at_model`, of a tool's execution."""
        look = Look()

        async def execute(given: dict[str, Any]) -> Any:
            if given != arguments:
                raise Unsupported(f"a middleware has changed the arguments of a call of {name!r} that it can only look at")
            return await look.during()

        await look.begin(self.tool(id, name, arguments, execute))
        return look


class Look:
    """A call that is made elsewhere, with middleware around it: it may keep the call from beginning, but change nothing (`Unsupported`)."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._given: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def begin(self, through: Coroutine[Any, Any, Any]) -> None:
        self._through = asyncio.create_task(through)
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait({self._through, begun}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.close()
            raise
        finally:
            begun.cancel()
        if self._through.done():
            self._through.result()
            raise Unsupported("a middleware stands for a call that it can only look at")

    async def during(self) -> Any:
        """What the call gives: for the middleware, in its place."""
        self._begun.set()
        return await self._given

    async def end(self, given: Any) -> None:
        """The call has given this; raises what middleware raises behind it."""
        self._given.set_result(given)
        if await self._through is not given:
            raise Unsupported("a middleware has changed what a call gave that it can only look at")

    async def fail(self, error: BaseException) -> None:
        """The call has failed, and whoever made it is told so elsewhere."""
        if isinstance(error, StopIteration):  # no future takes it
            error, cause = RuntimeError("the call raised StopIteration"), error
            error.__cause__ = cause
        self._given.set_exception(error)
        with suppress(Exception):
            await self._through

    async def close(self) -> None:
        """The call has come to no end."""
        self._through.cancel()
        await asyncio.wait({self._through})
