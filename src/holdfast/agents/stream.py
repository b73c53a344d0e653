"""A run as a stream: it goes on in a task of its own, and whoever reads it may be slow, or go away."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from ..errors import UsageError
from .events import Event, RunEnded
from .output import RunOutput

log = logging.getLogger("holdfast")


class RunStream(AsyncIterator[Event]):
    """The events of one run, in order; `await stream.output()` for what it gave.

    The run begins when the stream is first used, and does not wait for its reader. Let go of (closed, left by an exception or no longer
    referred to) before its end, it is cancelled: the input, what was stored and the status stay. A `detached` one goes on.
    """

    def __init__(self, go: Callable[[Callable[[Event], None]], Coroutine[Any, Any, RunOutput]], *, detached: bool = False) -> None:
        self._go = go
        self._detached = detached
        self._feed: _Feed | None = None
        self._closed = False
        self._result: RunOutput | None = None
        self._error: Exception | None = None

    async def __aenter__(self) -> Self:
        self._started()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def __anext__(self) -> Event:
        if self._feed is not None and self._feed.read:
            raise UsageError("another task reads this stream: read it in one place, and follow the run (agent.follow) in others")
        try:
            event = None if self._closed else await self._started().next()
        except Exception as error:
            self._error = error
            raise
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, RunEnded):
            self._result = event.output
        return event

    async def output(self) -> RunOutput:
        """The run's output: what is left of the stream is read to its end. Raises what the run raised, each time."""
        async for _ in self:
            pass
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise UsageError("this stream was closed before the run had ended: there is no output")
        return self._result

    async def aclose(self, *, run: bool = False) -> None:
        """Cancel the run if it is not over; it is recorded when this returns. One that has not begun never does.

        A detached run is left alone, unless `run` says that it is meant too.
        """
        self._closed = True
        if self._feed is not None and (run or not self._detached):
            await self._feed.stop()

    def _started(self) -> _Feed:
        if self._feed is None:
            self._feed = _Feed()
            task = asyncio.get_running_loop().create_task(self._feed.fill(self._go))
            self._feed.task = task
            if self._detached:
                _going.add(task)
                task.add_done_callback(_gone)
            else:
                weakref.finalize(self, _Feed.let_go, self._feed).atexit = False
        return self._feed


_going: set[asyncio.Task[None]] = set()
"""Runs that go on by themselves: a task that nothing refers to could be collected in the middle of its work."""


def _gone(task: asyncio.Task[None]) -> None:
    _going.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a detached run has failed: error=%s %s", type(error).__name__, " ".join(getattr(error, "__notes__", [])))


class _Feed:
    """What lies between the run's task and the stream's reader. It does not know the stream, so that nobody reading is noticed."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._ended = False
        self.read = False
        """Whether somebody waits for the next event."""

    async def fill(self, go: Callable[[Callable[[Event], None]], Coroutine[Any, Any, RunOutput]]) -> None:
        try:
            await go(self._queue.put_nowait)
        finally:
            self._queue.put_nowait(None)

    async def next(self) -> Event | None:
        """The next event, None after the last; raises what the run raised."""
        if self._ended:
            return None
        self.read = True
        try:
            event = await self._queue.get()
        finally:
            self.read = False
        if event is None:
            assert self.task is not None
            try:
                await asyncio.wait({self.task})
            except asyncio.CancelledError:
                self._queue.put_nowait(None)  # it is the reader who is cancelled: the end is still to be told
                raise
            self._ended = True
            if not self.task.cancelled():
                self.task.result()
        return event

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait({self.task})
        self._ended = True
        if not self.task.cancelled():
            self.task.exception()  # seen: whoever closes a stream has asked for no more

    def let_go(self) -> None:
        """Nobody reads any more: called wherever the last reference went."""
        if self.task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.task.cancel)
