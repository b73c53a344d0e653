"""One run of a thread at a time, across processes.

LangGraph tells a checkpointer what to load and what to store, never when a run begins or ends. But a run loads its thread while its loop is
being entered, and what has to happen at its end is on that loop's exit stack. So a run begins with that call, which waits for the thread's
claim; and the claim goes back when the stack is unwound: after everything the run stores has been stored, however it ended. A run that
failed before it was entered has no such moment: its claim goes back with its loop, or with the task that drove it. A process that dies
stops beating, and a waiter takes over after one lease.

What isn't a run (`update_state`, a call of one's own) holds the claim for that one call.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from langchain_core.runnables import RunnableConfig

from ... import Store, sync
from ...errors import StoreClosed
from .records import Place

_DEPTH = 4
_FENCE = "__pregel_holdfast_fence"
"""In the config of a run's loop: the fence of its claim. LangGraph passes it on to whatever the loop stores, and shows it to nobody."""


class Turn:
    """A hold of a thread, until it has `ended`.

    `loaded_at`: for a call that isn't a run and writes to what was loaded as the newest checkpoint, the session's version at that time.
    """

    def __init__(self, thread: str, fence: int, around: Turn | None = None, *, loaded_at: int | None = None) -> None:
        self.thread = thread
        self.fence = fence
        self.loaded_at = loaded_at
        self.ended = False
        self._around = around

    def of(self, thread: str) -> Turn | None:
        """The turn that holds `thread`: this one, or that of a run around it."""
        if self.thread == thread and not self.ended:
            return self
        return self._around and self._around.of(thread)


class Turns:
    """Gives the threads of a store to one run after the other: who has waited for `wait` seconds gets `SessionBusy`."""

    def __init__(self, store: Store, wait: float, lease: float) -> None:
        self._store = store
        self._wait, self._lease = wait, lease
        self._innermost: ContextVar[Turn | None] = ContextVar("holdfast_langgraph_turn", default=None)
        self._loaded: ContextVar[tuple[Place, int | None] | None] = ContextVar("holdfast_langgraph_loaded", default=None)

    def loaded(self, at: Place, newest_at: int | None) -> None:
        """Our caller has loaded this checkpoint: for being the newest at that version of the session, or because it was named."""
        self._loaded.set((at, newest_at))

    async def begin(self, loop: Any, thread: str, user: str | None) -> None:
        """Wait for the thread and hold it until `loop` ends. A run inside of one that holds it shares its turn."""
        turn = self._around(thread)
        if turn is None:
            held = AsyncExitStack()
            turn = await held.enter_async_context(self._hold(thread, user))
            loop.stack.push_async_callback(held.aclose)
            _close_with(turn, held, loop)
        _mark(loop, turn)

    def begin_blocking(self, loop: Any, thread: str, user: str | None) -> None:
        """As `begin`."""
        turn = self._around(thread)
        if turn is None:
            held = ExitStack()
            turn = held.enter_context(self._hold_blocking(thread, user))
            loop.stack.callback(held.close)
            weakref.finalize(loop, _close, held).atexit = False
        _mark(loop, turn)

    @asynccontextmanager
    async def turn(self, config: RunnableConfig, at: Place, user: str | None) -> AsyncGenerator[Turn]:
        """The turn of the run that calls with this config; what isn't a run has one of its own."""
        if (turn := _marked(config, at) or self._around(at.thread)) is not None:
            yield turn
        else:
            loaded, version = self._loaded.get() or (None, None)
            async with self._hold(at.thread, user, version if loaded == at else None) as turn:
                yield turn

    @contextmanager
    def turn_blocking(self, config: RunnableConfig, at: Place, user: str | None) -> Generator[Turn]:
        """As `turn`."""
        if (turn := _marked(config, at) or self._around(at.thread)) is not None:
            yield turn
        else:
            loaded, version = self._loaded.get() or (None, None)
            with self._hold_blocking(at.thread, user, version if loaded == at else None) as turn:
                yield turn

    def _around(self, thread: str) -> Turn | None:
        innermost = self._innermost.get()
        return innermost and innermost.of(thread)

    @asynccontextmanager
    async def _hold(self, thread: str, user: str | None, loaded_at: int | None = None) -> AsyncGenerator[Turn]:
        session = await self._store.session(thread, user_id=user)
        async with session.claim(wait=self._wait, lease=self._lease) as fence:
            turn = Turn(thread, fence, self._innermost.get(), loaded_at=loaded_at)
            with self._entered(turn):
                yield turn

    @contextmanager
    def _hold_blocking(self, thread: str, user: str | None, loaded_at: int | None = None) -> Generator[Turn]:
        session = sync.Store(self._store).session(thread, user_id=user)
        with session.claim(wait=self._wait, lease=self._lease) as fence:
            turn = Turn(thread, fence, self._innermost.get(), loaded_at=loaded_at)
            with self._entered(turn):
                yield turn

    @contextmanager
    def _entered(self, turn: Turn) -> Generator[None]:
        self._innermost.set(turn)
        try:
            yield
        finally:
            turn.ended = True


def _mark(loop: Any, turn: Turn) -> None:
    config = loop.checkpoint_config
    loop.checkpoint_config = {**config, "configurable": {**config["configurable"], _FENCE: turn.fence}}


def _marked(config: RunnableConfig, at: Place) -> Turn | None:
    fence = config.get("configurable", {}).get(_FENCE)
    return None if fence is None else Turn(at.thread, fence)


_closing: set[asyncio.Task[None]] = set()


def _close_with(turn: Turn, held: AsyncExitStack, loop: Any) -> None:
    """Give back what is still held when `loop` is no more, or the task that drives it: the run never got to its end."""
    here, task = asyncio.get_running_loop(), asyncio.current_task()

    async def close() -> None:
        with suppress(StoreClosed):
            await held.aclose()

    def start() -> None:
        closing = here.create_task(close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)

    def ended(*_: object) -> None:
        if not turn.ended and not here.is_closed():
            here.call_soon_threadsafe(start)

    weakref.finalize(loop, ended).atexit = False
    if task is not None:
        task.add_done_callback(ended)


def _close(held: ExitStack) -> None:
    with suppress(StoreClosed):
        held.close()


def calling_loop() -> Any:
    """The loop of the run that called our caller; None when that wasn't a run."""
    module = sys.modules.get("langgraph.pregel._loop")
    frame = inspect.currentframe()
    for _ in range(_DEPTH):
        if module is None or frame is None:
            return None
        caller = frame.f_locals.get("self")
        if isinstance(caller, module.PregelLoop):
            return caller
        frame = frame.f_back
    return None
