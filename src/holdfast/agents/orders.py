"""What a run is told to do, and what of its agent it needs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ..messages import Message
from ..requirements import Decision
from ..runs import LEASE
from ..session import Session
from ..store import Store
from .around import ContextProvider, Middleware, Posthook, Prehook
from .engine import Engine
from .history import History
from .tools import ToolOptions, takes_blocking

Instructions = str | Callable[..., Any] | None


async def made(given: Instructions, session: Session) -> str | None:
    """The text of instructions, made for this session where a function makes it."""
    if not callable(given):
        return given
    if (blocking := takes_blocking(given)) is not None:  # which may not wait on the loop that it waits for
        return await asyncio.to_thread(lambda: given(blocking.current()))
    text = given(session) if inspect.signature(given).parameters else given()
    return cast("str | None", await text if inspect.isawaitable(text) else text)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What one call asks of an agent: the session and the input, and how to wait, to look back and to tell of it.

    `supplied`: the run id is the caller's and may have been used. `resume`: there must be such a run. `history` None sends no past.
    `detached`: it goes on when nobody reads it, and can be followed from elsewhere as it goes.
    """

    session: Session
    input: tuple[Message, ...]
    run_id: str
    supplied: bool = False
    resume: bool = False
    decisions: tuple[Decision, ...] = ()
    wait: float
    lease: float = LEASE
    stream: bool = False
    detached: bool = False
    history: History | None


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """What of an agent a run needs."""

    agent: Any
    name: str | None
    store: Store
    engine: Engine
    model: str
    instructions: Instructions
    tools: tuple[Any, ...]
    by_name: dict[str, tuple[Any, ToolOptions]]
    """Each tool, and what is known of it."""
    providers: tuple[ContextProvider, ...] = ()
    middleware: tuple[Middleware, ...] = ()
    prehooks: tuple[Prehook, ...] = ()
    posthooks: tuple[Posthook, ...] = ()
    duty: Any = None
    """Where agents hand over to one another (`handoff.Duty`): who of them has a conversation."""

    def options(self, name: str) -> ToolOptions:
        """What is known of the tool with this name; of one of the engine's own nothing is."""
        return self.by_name[name][1] if name in self.by_name else ToolOptions()
