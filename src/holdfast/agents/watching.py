"""Middleware around model calls and tool calls, for engines: what they await in place of the call itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import UNSET

from ..messages import Message
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
        return call.answer

    async def tool(self, id: str | None, name: str, arguments: dict[str, Any], execute: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        """The tool's result, or what middleware made of it; `execute` executes it."""
        call = ToolInvocation(self._session, self._run_id, id, name, dict(arguments), agent=self.agent)

        async def last() -> None:
            if call.result is UNSET:
                call.result = await execute(call.arguments)

        await through_middleware(self._tool, call, last)
        return None if call.result is UNSET else call.result
