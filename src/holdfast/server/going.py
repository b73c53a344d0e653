"""The runs that go on in this process: whoever began one may go away, and a process that stops hands over those it can't end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

import msgspec
from sse_starlette import ServerSentEvent

from .. import Agent, Fenced, HoldfastError, Message, RunInfo, SessionBusy, SessionGone, SessionNotFound
from ..agents import RunEnded, RunOutput, RunStream
from ..entries import CANCELLED, COMPLETED, INTERRUPTED, PAUSED, QUEUED, RUNNING
from .metrics import Metrics
from .problems import Problem, problem_of, provider_failed
from .queue import RunQueue, Waiting
from .streams import failed, followed, sent

log = logging.getLogger("holdfast.server")
_IN_LINE = 3600.0
"""Seconds that a run in the background waits for others of its session."""
_GOES_ON = 0.25
"""Seconds between two looks at a run that is to go on in another worker."""
_SOON = 2.0
"""Seconds for which the head of a streamed answer waits for the first event: less than clients wait for a head."""
_Piece = ServerSentEvent | Exception | None
"""What a run's driver tells its reader: an event, at the end what it failed with, or None."""


class Under(NamedTuple):
    """A run under way: whose it is and where."""

    agent: Agent
    run_id: str
    session_id: str
    user_id: str | None

    @property
    def tenant(self) -> str:
        return self.agent.store.tenant

    @property
    def place(self) -> tuple[str, str, str]:
        return self.tenant, self.session_id, self.run_id

    async def now(self) -> RunInfo | None:
        """The run as it is stored, or None."""
        with suppress(SessionNotFound, SessionGone):
            return await self.agent.store.handle(self.session_id, user_id=self.user_id).get_run(self.run_id)
        return None


class _Driven(NamedTuple):
    run: Under
    stream: RunStream | None


class Going:
    """The runs under way, at most `limit` of them. `named` is the name under which an agent is known, `lease` how long a silent process
    is waited for."""

    def __init__(self, limit: int, metrics: Metrics, queue: RunQueue, named: Callable[[Agent], str], lease: float) -> None:
        self._limit = limit
        self._metrics = metrics
        self._queue = queue
        self._named = named
        self._lease = lease
        self._tasks: dict[asyncio.Task[Any], _Driven] = {}
        self._handed = set[tuple[str, str, str]]()
        self._hurry = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self.stopping = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        return self.stopping or len(self._tasks) >= self._limit

    @property
    def places(self) -> set[tuple[str, str, str]]:
        """The runs that are driven here."""
        return {it.run.place for it in self._tasks.values()}

    def check(self) -> None:
        """503 where no more runs can begin here."""
        if self.full:
            self._metrics.limited.labels("runs").inc()
            raise Problem(503, "this server has no room for another run at the moment", headers={"retry-after": "1"})

    # --- driving ---

    async def background(self, input: Message, run: Under) -> str:
        """Take a run on, to go on whoever dies: its input and its place on the list are stored when this returns. Its status.

        Said again it is the same run; one that failed goes on from what is stored.
        """
        found = await run.now()
        if found is not None and (found.status in _SETTLED or await self.listed(run)):
            return found.status
        await run.agent.enqueue(input, session_id=run.session_id, user_id=run.user_id, run_id=run.run_id)
        await self._queue.put(run.tenant, self._waiting(run))
        if not self.stopping:
            self.resume(run)
        return QUEUED

    async def decided(self, stream: RunStream, run: Under) -> None:
        """Take on a paused run that goes on with decisions, whoever dies: they and its place on the list are stored when this returns."""
        await self._queue.put(run.tenant, self._waiting(run, decided=True))
        await anext(stream, None)  # its beginning is stored with the decisions; what kept it from that is raised here
        self.keep(asyncio.create_task(self._listed(stream, run)), run, stream)

    def resume(self, run: Under, *, wait: float = _IN_LINE) -> None:
        """Bring a listed run to its end, if it can be had within `wait` seconds."""
        whose: dict[str, Any] = {"session_id": run.session_id, "user_id": run.user_id}
        stream = run.agent.continue_run(run.run_id, **whose, stream=True, detached=True, wait=wait, lease=self._lease)
        self.keep(asyncio.create_task(self._listed(stream, run)), run, stream)

    async def told(self, stream: RunStream, run: Under, *, again: bool = False) -> AsyncIterator[ServerSentEvent]:
        """Drive a run to its end, and what it tells, for one reader, who may go away. `again`: the same call may have begun it before.

        What keeps it from its beginning is raised where that shows soon; later it is told as a `problem`.
        """
        queue: asyncio.Queue[_Piece] = asyncio.Queue()
        self.keep(asyncio.create_task(self._drive(stream, run, queue.put_nowait)), run, stream)
        first = asyncio.create_task(self._first(queue, run, again=again))
        try:
            await asyncio.wait({first}, timeout=_SOON)
        except asyncio.CancelledError:
            first.cancel()
            raise
        if first.done() and isinstance(problem := first.result(), Problem):
            raise problem
        return self._read(first, queue, run)

    async def answered(self, running: Coroutine[Any, Any, RunOutput], run: Under) -> RunOutput:
        """What a run gives, for one who waits; 503 where it is handed over meanwhile."""
        task = asyncio.ensure_future(running)
        self.keep(task, run)
        try:
            return await asyncio.shield(task)
        except (asyncio.CancelledError, Fenced):
            if not task.done():  # it is the request that has ended, and the run ends with it
                task.cancel()
                await asyncio.wait({task})
                raise
            if not self.stopping:
                raise
            raise _handed_over(run) from None

    def keep(self, task: asyncio.Task[Any], run: Under, stream: RunStream | None = None) -> None:
        """Count a task that works at a run: the process ends when it has, or has let go of the run."""
        self._tasks[task] = _Driven(run, stream)
        task.add_done_callback(lambda it: self._tasks.pop(it, None))

    async def _drive(self, stream: RunStream, run: Under, tell: Callable[[_Piece], object] | None = None) -> bool:
        """Whether it came to its end, which may be an error."""
        tell, asked = tell or _nobody, tell is not None
        begun = ended = False
        failure: Exception | None = None
        try:
            async for event in stream:
                begun = True
                tell(sent(event))
                if isinstance(event, RunEnded):
                    self._metrics.ended(event.output)
                    ended = True
        except Exception as error:  # it is recorded with the run; whoever follows is told of its end
            failure, ours = error, isinstance(error, HoldfastError)
            ended = not ours
            if begun or not (asked and ours):  # what was refused before it began is for whoever asked
                self.failed(run, error)
        finally:
            tell(failure)
        return ended

    def failed(self, run: Under, error: Exception) -> None:
        """Count and note a run that failed, unless it goes on elsewhere."""
        if run.place in self._handed:
            return
        if isinstance(error, SessionBusy | Fenced):
            log.info("another process has a run: run_id=%s session_id=%s", run.run_id, run.session_id)
            return
        self._metrics.failed(run.agent.name)
        log.error("a run failed: run_id=%s session_id=%s error=%s", run.run_id, run.session_id, type(error).__name__, exc_info=error)

    async def _listed(self, stream: RunStream, run: Under) -> None:
        """Drive a run that is on the list; it goes off when it has ended."""
        if await self._drive(stream, run):
            with suppress(HoldfastError):  # whoever looks at the list finds it ended
                await self._queue.remove(run.tenant, self._waiting(run))

    def _waiting(self, run: Under, *, decided: bool = False) -> Waiting:
        agent = self._named(run.agent)
        return Waiting(session_id=run.session_id, run_id=run.run_id, agent=agent, user_id=run.user_id, decided=decided)

    # --- telling ---

    async def listed(self, run: Under) -> bool:
        """Whether somebody goes on with a run if nobody drives it."""
        return await self._queue.get(*run.place) is not None

    def lasting(self, run: Under, after: int) -> AsyncIterator[ServerSentEvent]:
        """What a run tells from behind a number on; where its process has let go of it or died, the next goes on telling."""
        return _lasting(run, after, lambda: self.listed(run))

    def joined(self, begin: Callable[[], RunStream], run: Under, after: int) -> AsyncIterator[ServerSentEvent]:
        """As `lasting`, of a run that had begun before: it is gone on with here if nobody else does."""
        begun = False

        async def goes_on() -> bool:
            nonlocal begun
            if await self.listed(run):
                return True
            if begun:
                return run.place in self.places
            if self.full:
                return False
            begun, stream = True, begin()
            self.keep(asyncio.create_task(self._drive(stream, run)), run, stream)
            return True

        return _lasting(run, after, goes_on)

    async def _first(self, queue: asyncio.Queue[_Piece], run: Under, *, again: bool) -> ServerSentEvent | Problem | None:
        """The first event of a run, or what kept it from its beginning; None where somebody else goes on with it."""
        first = await queue.get()
        if isinstance(first, ServerSentEvent):
            return first
        if self.stopping and (first is None or isinstance(first, Fenced)):
            return _handed_over(run)
        if again and isinstance(first, SessionBusy) and (found := await run.now()) is not None and found.status == RUNNING:
            return None
        if first is None or isinstance(first, HoldfastError):
            return first and problem_of(first)
        return provider_failed(first, run_id=run.run_id, session_id=run.session_id)

    async def _read(
        self, first: Awaitable[ServerSentEvent | Problem | None], queue: asyncio.Queue[_Piece], run: Under
    ) -> AsyncIterator[ServerSentEvent]:
        seen, event = 0, await first
        if isinstance(event, Problem):  # the head of the answer has gone out: what is left is an event
            yield failed(event)
            return
        while isinstance(event, ServerSentEvent):
            seen = int(event.id or 0)
            yield event
            if event.event == "run_ended":
                return
            event = await queue.get()
        async for event in self.lasting(run, seen):  # it failed, or goes on elsewhere: that is in the log
            yield event

    # --- the end ---

    async def settled(self, within: float) -> None:
        """Wait for the runs under way, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, within))

    def hurry(self) -> None:
        """Give the runs no more time than they have had."""
        self._hurry.set()

    async def stop(self, grace: float) -> None:
        """Begin nothing more; give the runs `grace` seconds, then hand over those that are left. Said again, it is the same stop."""
        self.stopping = True
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        hurry, settled = asyncio.create_task(self._hurry.wait()), asyncio.create_task(self.settled(grace))
        await asyncio.wait({hurry, settled}, return_when=asyncio.FIRST_COMPLETED)
        for it in (hurry, settled):
            it.cancel()
        await self.hand_over()

    async def hand_over(self) -> None:
        """Let go of the runs under way: they are listed, for whoever goes on with them."""
        await asyncio.gather(*[self._let_go(task, it) for task, it in list(self._tasks.items())])

    async def _let_go(self, task: asyncio.Task[Any], it: _Driven) -> None:
        try:
            await self._hand_over(it.run)
        except HoldfastError as error:  # the store is away: it will read as interrupted
            log.warning("a run could not be handed over: run_id=%s error=%s", it.run.run_id, type(error).__name__)
        if it.stream is not None:
            await it.stream.aclose(run=True)
        task.cancel()
        await asyncio.wait({task})

    async def _hand_over(self, run: Under) -> None:
        """List a run, release it, and say on the list that it is free: in this order, so that it is found wherever this breaks off."""
        found = await run.now()
        if found is None or found.status not in (QUEUED, RUNNING):
            return  # it has not begun, has ended, or is somebody else's
        self._handed.add(run.place)
        listed = await self._queue.get(*run.place)
        waiting = listed or self._waiting(run)
        if listed is None:
            await self._queue.put(run.tenant, waiting)
        if found.status == RUNNING:
            session = run.agent.store.handle(run.session_id, user_id=run.user_id)
            await session.release_run(run.run_id)
        await self._queue.put(run.tenant, msgspec.structs.replace(waiting, freed=waiting.freed + 1))
        log.info("a run was handed over: run_id=%s session_id=%s", run.run_id, run.session_id)


_SETTLED = (RUNNING, PAUSED, COMPLETED, CANCELLED)


def _nobody(piece: _Piece) -> None:
    """Who reads a run in the background."""


def _handed_over(run: Under) -> Problem:
    told = "this server stops before the run has ended; ask again with this run_id: it is the same run, and goes on"
    return Problem(503, told, headers={"retry-after": "1"}, run_id=run.run_id, session_id=run.session_id)


async def _lasting(run: Under, after: int, goes_on: Callable[[], Awaitable[bool]]) -> AsyncGenerator[ServerSentEvent]:
    """What a run tells, over the ends of processes, as long as it `goes_on`."""
    while True:
        broken = False
        async with aclosing(followed(run.agent, run.run_id, run.session_id, run.user_id, after=after)) as events:
            async for event in events:
                broken = event.event == "run_ended" and _status(event) == INTERRUPTED and await goes_on()
                if broken:
                    break
                after = int(event.id or after)
                yield event
        if not broken:
            return
        await asyncio.sleep(_GOES_ON)


def _status(event: ServerSentEvent) -> str:
    return msgspec.json.decode(event.data or b"", type=dict[str, Any])["output"]["status"]
