"""A run as a stream, for those who don't drive it: in any process, from any event on, while it goes on and after its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from .. import entries as kinds
from ..backend import BlobRange, ReadPlan, Window
from ..entries import COMPLETED, LIVE, PAUSED, QUEUED, RUNNING, Entry
from ..errors import InvalidValue, UsageError
from ..requirements import told
from ..runs import RunInfo, fold, pause
from ..session import Session
from .events import Event, RunEnded
from .live import unstored
from .output import RunOutput, ended
from .sequence import Telling, behind

_SHORT, _LONG = 0.02, 0.25
"""Seconds between two looks, while something comes and while nothing does."""


async def follow(session: Session, run_id: str, after: int = 0) -> AsyncGenerator[Event]:
    """The events of a run behind number `after`, in order, each once, to its end for now (`RunEnded`).

    Raises `UsageError` where there is no such run, `SessionGone` if its session goes.
    """
    if not (type(after) is int and after >= 0):
        raise InvalidValue(f"after={after!r:.80}: give the number of the last event that was seen, or 0")
    telling, log, number, wait = Telling(session.id), list[Entry](), after, _SHORT
    while True:
        window = Window(after=log[-1].seq if log else 0, newest=False, run_id=run_id, hidden=True)
        plan = ReadPlan(state_since=session.cells.synced, entries=window, blobs=(BlobRange(namespace=LIVE, keys=(run_id,)),))
        snapshot = await session.look(plan)
        new = await session.whole(snapshot.entries or [])
        log += new
        before = number
        for event in behind(telling.take(new, unstored(snapshot.blobs or [])), number):
            yield event
            number = event.number
        if not log:
            raise UsageError(f"there is no run {run_id!r} in {session.key}: nothing to follow")
        run = fold([it for it in log if it.kind == kinds.RUN], snapshot.head.claim)[-1]
        if run.status not in (RUNNING, QUEUED):
            if (place := end_place(telling, after, number)) is not None:
                yield RunEnded(output_of(session, run, log), number=place)
            return
        wait = _SHORT if number > before else min(wait * 1.5, _LONG)
        await pause(wait)


def end_place(telling: Telling, after: int, told: int) -> int | None:
    """The number of the end, for one who began behind `after` and was `told` so far; None where the end is what it had seen last."""
    if telling.ended and after == telling.place.number:
        return None
    return max(telling.place.number, told + 1)  # an end that nobody stored has no number


def output_of(session: Session, run: RunInfo, log: list[Entry]) -> RunOutput:
    """What a run that is over for now gave, from its entries."""
    there = [it for it in log if run.status == COMPLETED or not it.hidden]
    messages = [it.message() for it in there if it.kind == kinds.MESSAGE]
    return ended(session, run, messages, told(there).open if run.status == PAUSED else ())
