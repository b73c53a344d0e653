"""Going on with the runs that nobody drives: those whose process has died, or has let go of them.

That a process is dead is seen by its claim standing still, on our own clock. Two workers that try at once do no harm: the claim is one's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Self

import msgspec

from .. import Fenced, HoldfastError, RunInfo, SessionBusy, SessionGone, SessionNotFound
from ..backend import Claim, ReadPlan, Window
from ..entries import ERROR, INTERRUPTED, PAUSED, QUEUED, RUN, RUNNING
from ..runs import WAIT
from .going import Going, Under
from .queue import RunQueue, Waiting

log = logging.getLogger("holdfast.server")
MOST_TRIES = 5
"""Processes that may die with a run before it is given up."""
_EVERY, _SELDOM = 1.0, 3.0
"""Seconds between two looks at the list: while something is on it, and at most."""
_BEGINS = WAIT + 30
"""Seconds that a run whose pause has been decided on may take to begin again: it waits for others of its session."""
_LEFT = (QUEUED, RUNNING, INTERRUPTED)


class _Watch:
    """A run of somebody else, and since when its session's claim has looked as it does."""

    def __init__(self, freed: int) -> None:
        self.freed = freed
        self.next = 0.0
        self._began = time.monotonic()
        self._mark: tuple[int, int | None] | None = None
        self._since = 0.0

    @property
    def age(self) -> float:
        """Seconds since this worker has first seen it."""
        return time.monotonic() - self._began

    def due(self, freed: int) -> bool:
        """Whether to look at it now: when the time has come, or somebody has let go of it."""
        if freed != self.freed:
            self.freed, self.next = freed, 0.0
        return time.monotonic() >= self.next

    def stood(self, fence: int, claim: Claim | None) -> float | None:
        """Seconds that the claim has stood still before our eyes; None at the first look."""
        mark = fence, None if claim is None else claim.beat
        if mark != self._mark:
            self._mark, self._since = mark, time.monotonic()
            return None
        return time.monotonic() - self._since


class Taking:
    """One worker's part, as long as this context lasts. `under` finds the agent of a run, None where it is unknown here."""

    def __init__(self, queue: RunQueue, going: Going, under: Callable[[str, Waiting], Under | None]) -> None:
        self._queue = queue
        self._going = going
        self._under = under
        self._watched: dict[tuple[str, str], _Watch] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        pause = _EVERY
        while not self._going.stopping:
            try:
                pause = _EVERY if await self.look() else min(pause * 1.5, _SELDOM)
            except HoldfastError as error:  # the store is away: the next look may find it
                log.warning("the list of runs can't be read: error=%s", type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def look(self) -> bool:
        """Go on with what nobody drives, as far as there is room; whether anything is on the list."""
        listed = await self._queue.all()
        places, driven = {(tenant, it.key) for tenant, it in listed}, self._going.places
        self._watched = {place: it for place, it in self._watched.items() if place in places}
        for tenant, it in listed:
            under = self._under(tenant, it)
            if under is None or self._going.full or under.place in driven:
                continue
            watch = self._watched.setdefault((tenant, it.key), _Watch(it.freed))
            if watch.due(it.freed):
                await self._consider(under, it, watch)
        return bool(listed)

    async def _consider(self, under: Under, it: Waiting, watch: _Watch) -> None:
        try:
            run, fence, claim = await _state(under)
        except (SessionNotFound, SessionGone):
            run, fence, claim = None, 0, None
        if run is not None and run.status == PAUSED and it.decided and watch.age < _BEGINS:
            watch.next = time.monotonic() + _SELDOM
            return
        if run is None or run.status not in _LEFT:
            await self._queue.remove(under.tenant, it)
            return
        stood, own = watch.stood(fence, claim), claim is not None and claim.holder in (run.id, run.root)
        watch.next = time.monotonic() + (_EVERY / 2 if claim is None or not own else claim.lease / 3)
        if claim is not None and own and (stood is None or stood < claim.lease * 0.6):
            return  # its process seems to live
        if run.status == QUEUED and stood is None:
            return  # whoever waits its turn would have taken it by the next look
        if run.status == QUEUED and claim is not None and (stood or 0) < claim.lease * 0.6:
            return  # another run has the session, and somebody waits in line
        await self._take(under, msgspec.structs.replace(it, tries=it.tries + own), claim)

    async def _take(self, under: Under, it: Waiting, claim: Claim | None) -> None:
        wait = 0.0 if claim is None else claim.lease + 2
        if it.tries >= MOST_TRIES:
            self._going.keep(asyncio.create_task(self._give_up(under, it, wait)), under)
            return
        if claim is not None:
            await self._queue.put(under.tenant, it)
        log.info("going on with a run: run_id=%s session_id=%s tries=%s", it.run_id, it.session_id, it.tries)
        self._going.resume(under, wait=wait)

    async def _give_up(self, under: Under, it: Waiting, wait: float) -> None:
        """Record a run that kills whoever drives it as failed."""
        log.error("a run is given up: run_id=%s session_id=%s tries=%s", it.run_id, it.session_id, it.tries)
        session = under.agent.store.handle(it.session_id, user_id=it.user_id)
        try:
            async with session.run(run_id=it.run_id, agent=under.agent.name, wait=wait) as run:
                await run.finish(status=ERROR, error="TriedTooOften")
        except (SessionBusy, Fenced):  # somebody has it after all
            return
        await self._queue.remove(under.tenant, it)


async def _state(under: Under) -> tuple[RunInfo | None, int, Claim | None]:
    """A run as it is, with the fence and the claim of its session: one read."""
    session = under.agent.store.handle(under.session_id, user_id=under.user_id)
    window = Window(run_id=under.run_id, hidden=True, kinds=(RUN,))
    found = await session.look(ReadPlan(entries=window))
    told = session.folded(found.entries or [])
    return (told[-1] if told else None), found.head.fence, found.head.claim
