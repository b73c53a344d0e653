"""The runs that go on in this process: whoever began one may go away, and a process that stops lets go of those it can't end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

from sse_starlette import ServerSentEvent

from .. import Agent, HoldfastError
from ..agents import RunEnded, RunStream
from .metrics import Metrics
from .problems import Problem
from .streams import followed, sent

log = logging.getLogger("holdfast.server")


class Under(NamedTuple):
    """A run under way: whose it is and where."""

    agent: Agent
    run_id: str
    session_id: str
    user_id: str | None


class Going:
    """The runs under way, at most `limit` of them."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._tasks: dict[asyncio.Task[None], Under] = {}
        self.stopping = False

    def __len__(self) -> int:
        return len(self._tasks)

    def check(self) -> None:
        """503 where no more runs can begin here."""
        if self.stopping or len(self._tasks) >= self._limit:
            self._metrics.limited.labels("runs").inc()
            raise Problem(503, "this server has no room for another run at the moment", headers={"retry-after": "1"})

    def begin(self, stream: RunStream, run: Under) -> None:
        """Drive a run to its end, whoever follows it."""
        self._keep(asyncio.create_task(self._drive(stream, run, _nobody)), run)

    def told(self, stream: RunStream, run: Under) -> AsyncIterator[ServerSentEvent]:
        """As `begin`, and what it tells, for one reader, who may go away."""
        queue: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
        self._keep(asyncio.create_task(self._drive(stream, run, queue.put_nowait)), run)
        return _read(queue, run)

    async def _drive(self, stream: RunStream, run: Under, tell: Callable[[ServerSentEvent | None], object]) -> None:
        try:
            async for event in stream:
                tell(sent(event))
                if isinstance(event, RunEnded):
                    self._metrics.ended(event.output)
        except Exception as error:  # it is recorded with the run; whoever follows is told of its end
            self._metrics.failed(run.agent.name)
            log.error("a run failed: run_id=%s session_id=%s error=%s", run.run_id, run.session_id, type(error).__name__, exc_info=error)
        finally:
            tell(None)

    def _keep(self, task: asyncio.Task[None], run: Under) -> None:
        self._tasks[task] = run
        task.add_done_callback(lambda it: self._tasks.pop(it, None))

    async def settled(self, within: float) -> None:
        """Wait for the runs under way, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, within))

    async def stop(self, grace: float) -> None:
        """Begin nothing more; give the runs `grace` seconds, then let go of those that are left."""
        self.stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task, run in list(self._tasks.items()):
            await _let_go(task, run)


def _nobody(event: ServerSentEvent | None) -> None:
    """Who reads a run in the background."""


async def _let_go(task: asyncio.Task[None], run: Under) -> None:
    with suppress(HoldfastError):  # it has ended meanwhile, or its session is gone
        session = await run.agent.get_session(run.session_id, user_id=run.user_id)
        if session is not None:
            await session.release_run(run.run_id)
    task.cancel()
    await asyncio.wait({task})


async def _read(queue: asyncio.Queue[ServerSentEvent | None], run: Under) -> AsyncIterator[ServerSentEvent]:
    seen = 0
    while (event := await queue.get()) is not None:
        seen = int(event.id or 0)
        yield event
        if event.event == "run_ended":
            return
    async for event in followed(*run, after=seen):  # it failed: its end is in the log
        yield event
