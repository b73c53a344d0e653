"""Runs and claims: one run at a time per session, fenced, with a status that tells the truth.

A claim is taken by the root run. Its fence is a counter in the session's head: a commit with an old fence is refused, so a run that was
taken over can do no harm however late it wakes. No wall clock decides: a waiter takes over after it has itself watched the same (fence,
beat) stand still for one lease.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import msgspec

from .backend import Claim, Key
from .entries import INTERRUPTED, QUEUED, RUN, RUNNING, Entry
from .errors import Conflict, Corrupt, InvalidValue, SessionBusy
from .ids import now

T = TypeVar("T")

LEASE = 30.0
WORKFLOW = "workflow"
"""What a workflow's run records as its model."""
WAIT = 60.0


class Metrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run used; `seconds` is its duration on the clock of the process that ran it."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    seconds: float = 0.0
    details: dict[str, Any] = {}


class RunEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a run entry: one change of a run's status."""

    v: int
    status: str
    attempt: int = 1
    metrics: Metrics | None = None
    error: str | None = None
    window: dict[str, Any] = {}
    root: str | None = None
    """The run under whose claim this one goes on, where that isn't its own."""
    place: int = 0
    """How far the run had told its events by then; 0 where nobody counted."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the session remembers it. `status` is `interrupted` for one that was running when its process ended.

    `window` is what is known of what the model was sent: `model`, `instructions` (the key of a blob), `history` (`ranges` of seqs).
    `root`: the run that this one is a part of, in the same session.
    """

    id: str
    status: str
    agent: str | None
    attempt: int
    started: int
    ended: int | None
    metrics: Metrics
    error: str | None
    window: dict[str, Any] = {}
    root: str | None = None


def fold(entries: list[Entry], claim: Claim | None) -> list[RunInfo]:
    """The runs told of by run entries, in the order they began."""
    runs: dict[str, RunInfo] = {}
    for entry in entries:
        if entry.run_id is None:
            continue
        event = event_of(entry)
        old = runs.get(entry.run_id)
        going = event.status in (RUNNING, QUEUED)
        runs[entry.run_id] = RunInfo(
            id=entry.run_id,
            status=event.status,
            agent=entry.agent or (old.agent if old else None),
            attempt=event.attempt,
            started=old.started if old else entry.time,
            ended=None if going else entry.time,
            metrics=event.metrics or (old.metrics if old else Metrics()),
            error=event.error,
            window=(old.window if old else {}) | event.window,
            root=event.root,
        )
    return [_as_it_is(run, claim) for run in runs.values()]


def with_instructions(entries: list[Entry]) -> Iterator[Entry | str]:
    """The messages among `entries`, and before those of a run the key of its instructions where they are others than the last run's."""
    told = {entry.run_id: key for entry in entries if entry.kind == RUN and (key := event_of(entry).window.get("instructions"))}
    known: str | None = None
    for entry in entries:
        if entry.kind != RUN:
            yield entry
        elif event_of(entry).status == RUNNING and (key := told.get(entry.run_id, known)) != known and key is not None:
            yield key
            known = key


def event_of(entry: Entry) -> RunEvent:
    """What a run entry tells; `Corrupt` where it can't be read."""
    try:
        return msgspec.json.decode(entry.body, type=RunEvent)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"run entry {entry.id} (seq {entry.seq}) is not readable: {error}") from error


def _as_it_is(run: RunInfo, claim: Claim | None) -> RunInfo:
    held = claim is not None and claim.holder in (run.id, run.root) and claim.seems_alive(now())
    return run if run.status != RUNNING or held else msgspec.structs.replace(run, status=INTERRUPTED)


def check_lease(lease: float) -> float:
    """`lease` itself when a claim can have it; `InvalidValue` otherwise."""
    if isinstance(lease, bool) or not (isinstance(lease, int | float) and 0 < lease < 1e9):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(
            f"lease={lease!r:.80}: give the seconds without a sign of life after which another may go on, {LEASE:g} as a rule"
        )
    return lease


class Patience:
    """How long to wait for somebody else's claim, and when to take it over."""

    def __init__(self, wait: float) -> None:
        if not (isinstance(wait, int | float) and wait >= 0):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"wait={wait!r:.80}: give the seconds to wait at most, 0 for none")
        self._deadline = time.monotonic() + wait
        self._seen: tuple[int, int] | None = None
        self._since = 0.0
        self._step = 0.001

    def watch(self, fence: int, beat: int, lease: float) -> tuple[int, int] | None:
        """The (fence, beat) to take over from once it has stood still for `lease` seconds before our eyes; None while it may live."""
        now = time.monotonic()
        if self._seen != (fence, beat):
            self._seen, self._since = (fence, beat), now
        return self._seen if now - self._since >= lease else None

    def left(self) -> float:
        """Seconds that may still be waited."""
        return max(self._deadline - time.monotonic(), 0.0)

    def over(self) -> bool:
        return time.monotonic() >= self._deadline

    async def again(self, error: Exception) -> None:
        """Before another try: raise `error`, what the last one ended with, when the time is over; wait a moment otherwise."""
        if self.over():
            raise error
        await self.step()

    async def again_after(self, conflict: Conflict, key: Key) -> None:
        """As `again` for a run that others' writes keep from beginning: `SessionBusy` when the time is over."""
        if self.over():
            raise SessionBusy(f"{key} was written by others just when a run was to begin: try again, or wait longer") from conflict
        await self.step()

    async def step(self) -> None:
        """Wait a moment: a random one, so that those who wait together do not come back together, and a longer one each time."""
        await pause(min(random.uniform(0, self._step), self.left()))
        self._step = min(self._step * 1.5, 0.25)


async def through(last: Coroutine[Any, Any, T]) -> T:
    """The result of a last write, ended however often its task is cancelled meanwhile (anyio's scopes cancel again at every await).

    The cancellation is raised once the write has ended.
    """
    import asyncio

    writing = asyncio.create_task(last)
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError as error:
            cancelled = error
    result = writing.result()
    if cancelled is not None:
        raise cancelled
    return result


async def pause(seconds: float) -> None:
    """Sleep on the event loop, or on the thread where there is none."""
    asyncio = sys.modules.get("asyncio")  # not imported yet: no loop runs, and importing it would cost more than all of Holdfast
    if asyncio is None or asyncio._get_running_loop() is None:
        time.sleep(seconds)  # noqa: ASYNC251  # there is no loop to block
    else:
        await asyncio.sleep(seconds)
