"""A run under way: what it stores, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from . import entries as kinds
from .backend import BlobDrop, ClaimAct, Counts, HeadPatch, Outcome
from .entries import CANCELLED, COMPLETED, ERROR, INTERRUPTED, PAUSED, QUEUED, RUNNING, Entry, NewEntry
from .errors import Conflict, Fenced, InvalidValue, OutcomeUnknown, SessionBusy, SessionGone, SessionNotFound, TooLarge, UsageError
from .ids import new_id, now, run_id_of
from .messages import Message, encode_message
from .requirements import Needs, Requirement, entry_of, never_executed, told
from .runs import LEASE, WAIT, Metrics, Patience, RunEvent, RunInfo, through

if TYPE_CHECKING:
    from .session import Session

FORM = 1


class Run:
    """A run under way: append to it, then finish it. Made by `Session.run`."""

    def __init__(self, session: Session, id: str, agent: str | None) -> None:
        self.session = session
        self.id = id
        self.agent = agent
        self.fence = 0
        self.attempt = 1
        self.again = False
        """Whether the run has begun before: then it is counted already."""
        self.root: str | None = None
        """The run that holds the session's claim on this very handle, for one that is part of it: the claim is not touched then."""
        self.ended = False
        self.ending = False
        """Whether its last commit is under way: that one learns by itself whether the claim has ended."""
        self.metrics: Metrics | None = None
        """What the run has used so far: stored with its end, however it ends."""
        self.counted: Metrics = Metrics()
        """What of `metrics` the session has counted: by earlier tries, and by the commits of this one."""
        self.window: dict[str, Any] = {}
        """What the model was sent, for the record: stored with the run's end, and with its beginning as far as it is known then."""
        self.unsaved: tuple[Message, ...] = ()
        """Messages to be stored with the end even if the run fails."""
        self.more: Callable[[], dict[str, Any]] = dict
        """What else is to be stored with the end of a run that fails, as in `end`."""
        self.place = 0
        """The place of the run's end among its events: stored with it, so that others tell it under the same number."""
        self.drops: tuple[BlobDrop, ...] = ()
        """What has been told along with heartbeats: it goes with the next commit."""
        self.telling = False
        """Whether a heartbeat that tells something is under way: it may be applied behind the next commit, and goes with one after that."""

    async def begin(self, input: tuple[Message, ...], wait: float, lease: float, *, supplied: bool) -> None:
        """Store the input and the run's beginning and take the claim, in one commit.

        A `supplied` id may have been used: see `Session.run` for what happens then.
        """
        patience = Patience(wait)
        while True:
            seen = await self._look_back() if supplied else None
            try:
                await self.start(input, wait=patience.left(), lease=lease, expect=seen)
            except Conflict as conflict:
                await patience.again_after(conflict, self.session.key)  # somebody wrote since we looked back, perhaps this very run
            else:
                return

    async def _look_back(self) -> int:
        """What became of this id before decides whether it may run; the version of the session at which that was so."""
        before = await self.session.get_run(self.id)
        if before is None:
            return self.session.version
        if before.status == RUNNING:
            raise self.under_way()
        if before.status not in (ERROR, CANCELLED, INTERRUPTED):
            raise UsageError(f"run {self.id!r} of {self.session.key} is {before.status}: read it with session.entries(run_id=...)")
        self.again, self.attempt = True, before.attempt + 1
        return self.session.version

    def under_way(self) -> SessionBusy:
        """What a second caller of the same run gets."""
        return SessionBusy(f"run {self.id!r} of {self.session.key} is under way: wait for it, or leave run_id out to start another")

    async def start(
        self,
        input: tuple[Message, ...],
        *,
        wait: float = WAIT,
        lease: float = LEASE,
        still: tuple[int, int] | None = None,
        entries: tuple[NewEntry, ...] = (),
        **parts: Any,
    ) -> Outcome:
        """The commit that `begin` makes, with more `entries` after the run's beginning and other `parts` as in `Commit`.

        The id is taken to be new, or `attempt` to have been counted up. `still`: the claim that was seen to stand still and is taken over.
        """
        time = now()
        added = (
            self._event(RunEvent(FORM, RUNNING, self.attempt, window=self.window, root=self.root), time),
            *entries,
            *self._messages(input, time),
        )
        counts = counts_of(added) + Counts(runs=int(not self.again))
        if self.agent:
            parts["patch"] = msgspec.structs.replace(parts.get("patch") or HeadPatch(), agent=self.agent)
        id = new_id()
        try:
            if self.root is not None:
                outcome = await self.session.write(entries=added, counts=counts, time=time, **parts)
            else:
                take = ClaimAct("take", self.id, lease, still)
                outcome = await self.session.take(wait, take, id=id, fresh=True, entries=added, counts=counts, time=time, **parts)
        except BaseException as error:
            if not isinstance(error, Exception):
                await through(self._give_up(error, id))
            raise
        assert outcome.head is not None
        self.fence = outcome.head.fence
        return outcome

    async def _give_up(self, error: BaseException, taken: str) -> None:
        """Cancelled while the first commit was under way: if it went through, this run has begun and ends here."""
        fence = await self.session.fence_of(taken) if self.root is None else await self._fence_if_begun(self.root)
        if fence is not None:
            self.fence = fence
            await self.fail(error)

    async def _fence_if_begun(self, root: str) -> int | None:
        """The fence of the root's claim, if this part of it has begun; None otherwise."""
        try:
            run = await self.session.get_run(self.id)
        except (SessionGone, SessionNotFound):
            return None
        begun = run is not None and run.status == RUNNING and run.attempt == self.attempt
        return self.session.held_by(root) if begun else None

    async def append(self, *messages: Message) -> int:
        """Add messages of this run, with what is staged on the session; `Fenced` when a newer run has taken over."""
        return (await self.add(messages)).version

    async def add(self, messages: tuple[Message, ...], *, entries: tuple[NewEntry, ...] = (), **parts: Any) -> Outcome:
        """As `append`, with more `entries` before the messages and other `parts` as in `Commit`."""
        time = now()
        added = (*entries, *self._messages(messages, time))
        return await self._counting(self.metrics, counts_of(added), entries=added, fence=self.fence, time=time, **parts)

    async def _counting(self, metrics: Metrics | None, counts: Counts, **parts: Any) -> Outcome:
        """A commit of this run that counts, beside `counts`, what of `metrics` the session has not counted yet."""
        metrics = metrics or self.counted
        drops = self.drops
        self.drops = drops if self.telling else ()
        try:
            outcome = await self.session.write(counts=counts + _used(metrics, self.counted), drops=drops, **parts)
        except BaseException as error:
            self.drops = self.drops or drops
            if isinstance(error, OutcomeUnknown):
                self.counted = metrics  # it may have been: nothing is counted twice
            raise
        self.counted = metrics
        return outcome

    async def finish(self, *messages: Message, status: str = COMPLETED, metrics: Metrics | None = None, error: str | None = None) -> int:
        """Add the last messages and the run's end and release the claim, in one commit."""
        return (await self.end(messages, status, metrics, error)).version

    async def end(
        self,
        messages: tuple[Message, ...],
        status: str = COMPLETED,
        metrics: Metrics | None = None,
        error: str | None = None,
        *,
        entries: tuple[NewEntry, ...] = (),
        **parts: Any,
    ) -> Outcome:
        """As `finish`, with more `entries` before the run's end and other `parts` as in `Commit`."""
        self.ending = True
        time, metrics = now(), metrics or self.metrics
        event = RunEvent(FORM, status, self.attempt, metrics, error, self.window, self.root, self.place)
        added = (*self._messages(messages, time), *entries, self._event(event, time))
        release = ClaimAct("release") if self.root is None else None
        outcome = await self._counting(metrics, counts_of(added), entries=added, fence=self.fence, claim=release, time=time, **parts)
        self.ended = True
        return outcome

    async def fail(self, error: BaseException) -> None:
        """Record how the body ended; a run that was taken over or whose session is gone has nothing left to record."""
        if self.ended:
            return
        cancelled = not isinstance(error, Exception)
        status, name = (CANCELLED, None) if cancelled else (ERROR, type(error).__name__)
        with suppress(Fenced, SessionGone, SessionNotFound):
            try:
                await self.end(self.unsaved, status, error=name, **self.more())
            except (InvalidValue, TooLarge):  # what is staged can't be stored: how the run ended can
                await self.end((), status, error=name, staged=False)

    async def queue(self, input: tuple[Message, ...], *, expect: int | None = None) -> None:
        """Store the input of a run that is to begin later, without taking the claim.

        `expect`, for an id that may have been used: the version of the session at which there was no such run; `Conflict` if it moved.
        """
        time = now()
        event = RunEvent(FORM, QUEUED, self.attempt, window={"given": len(input)})
        added = (self._event(event, time), *self._messages(input, time))
        patch = HeadPatch(agent=self.agent) if self.agent else None
        counts = counts_of(added) + Counts(runs=1)
        await self.session.write(expect=expect, entries=added, counts=counts, time=time, patch=patch)

    async def record(self, status: str, metrics: Metrics | None, error: str | None) -> None:
        """Store the whole run, driven elsewhere, as it ended; the claim isn't touched."""
        time = now()
        added = (self._event(RunEvent(FORM, status, self.attempt, metrics, error), time),)
        patch = HeadPatch(agent=self.agent) if self.agent else None
        await self._counting(metrics, counts_of(added) + Counts(runs=1), entries=added, time=time, patch=patch, staged=False)
        self.ended = True

    def _event(self, event: RunEvent, time: int) -> NewEntry:
        return NewEntry(new_id(), kinds.RUN, _encoded(event), self.id, self.agent, time)

    def _messages(self, messages: tuple[Message, ...], time: int) -> tuple[NewEntry, ...]:
        return tuple(message_entry(message, time, self.id, self.agent) for message in messages)


Partial = Callable[[list[Entry]], Awaitable[Message | None]]
"""What is known of a run, beside its entries, that was said in it and is not stored."""


async def cancel(session: Session, run_id: str, said: Partial | None = None) -> bool:
    """Record a run as cancelled and end its claim, whoever drives it; False for one that is over. What was `said` is stored with it.

    Nobody decides any more what members of it wait for. Its driver may write no more: it learns so from its next commit or heartbeat.
    `UsageError` for a run there is none of, or a part of one.
    """
    ended = await _taken_away(session, run_id, CANCELLED, said)
    await cancel_members(session, run_id)
    return ended


async def release(session: Session, run_id: str) -> bool:
    """As `cancel`, and the run reads as interrupted; False for one that waits too, which nobody has a claim for. Members go on waiting."""
    return await _taken_away(session, run_id, INTERRUPTED)


async def cancel_members(session: Session, run_id: str) -> None:
    """Cancel what members wait for under a run that is over, and theirs under them; whoever ends it need not know its members.

    They are found in `session` itself, where they share it, and in the sessions beside it.
    """
    await _cancel_waiting(session, run_id, lambda run: run.root is not None)
    for own in await session.all_beside():
        with suppress(SessionGone):
            await _cancel_waiting(own, run_id, lambda _: True)


async def _cancel_waiting(session: Session, run_id: str, wanted: Callable[[RunInfo], bool]) -> None:
    waits = {it.run_id for it in await session.requirements(members=True) if it.run_id.startswith(run_id_of(run_id, ""))}
    for id in sorted(waits):
        if (run := await session.get_run(id)) is not None and wanted(run):
            await _taken_away(session, id, CANCELLED)


async def _taken_away(session: Session, run_id: str, status: str, said: Partial | None = None) -> bool:
    patience = Patience(WAIT)
    while True:
        run, log = await session.run_log(run_id)
        if run is None:
            raise UsageError(f"there is no run {run_id!r} in {session.key}: nothing to cancel")
        if run.root is not None and run.status == RUNNING:
            raise UsageError(f"run {run_id!r} of {session.key} is part of run {run.root!r}: cancel that one")
        under_way = run.status in (RUNNING, INTERRUPTED)
        if not under_way and (status == INTERRUPTED or run.status not in (PAUSED, QUEUED)):
            return False  # it is over, or nobody drives it that could let go of it
        try:
            version, partial = session.version, None if said is None else await said(log)
            answers = [] if partial is None else [partial]
            needs = told(log) if status == CANCELLED else Needs({}, {})
            if run.status == PAUSED:
                answers += never_executed(run, needs, [it.message() for it in log if it.kind == kinds.MESSAGE and not it.hidden])
            await _ended(session, run, needs.open, status, version, answers)
        except (Conflict, Fenced) as moved:  # it went on meanwhile, or came to its end
            await patience.again(moved)
        else:
            return True


async def _ended(session: Session, run: RunInfo, waits: Sequence[Requirement], status: str, version: int, answers: list[Message]) -> None:
    fence, time = session.held_by(run.id), now()
    event = _encoded(RunEvent(FORM, status, run.attempt, run.metrics, root=run.root))
    decided = [entry_of(it.cancel(), run.id, run.agent, time) for it in waits]
    said = [message_entry(it, time, run.id, run.agent) for it in answers]
    added = (*said, *decided, NewEntry(new_id(), kinds.RUN, event, run.id, run.agent, time))
    claim: dict[str, Any] = {} if fence is None else {"fence": fence, "claim": ClaimAct("release")}
    if fence is None or answers:
        claim["expect"] = version
    live = (BlobDrop(kinds.LIVE, run.id),)  # its driver can't take it away any more
    await session.write(entries=added, counts=counts_of(added), time=time, staged=False, drops=live, **claim)
    await session.look_who_waits()


def message_entry(message: Message, time: int, run_id: str | None = None, agent: str | None = None) -> NewEntry:
    """The entry that records `message`; its id is the message's own, if it has one."""
    body = encode_message(message)
    return NewEntry(message.id or new_id(), kinds.MESSAGE, body, run_id, agent, time)


def _encoded(event: RunEvent) -> bytes:
    """The stored form of `event`; `InvalidValue` for one that would come back as something else."""
    try:
        body = msgspec.json.encode(event)
        if msgspec.json.decode(body, type=RunEvent) == event:
            return body
        why = "it would come back as something else"
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        why = str(error)
    raise InvalidValue(f"a run's status, metrics and error hold numbers, text and plain JSON in details: {why}")


def counts_of(added: tuple[NewEntry, ...]) -> Counts:
    return Counts(messages=sum([entry.kind == kinds.MESSAGE for entry in added]), bytes=sum([len(entry.body) for entry in added]))


def _used(metrics: Metrics, counted: Metrics) -> Counts:
    """What of `metrics` is not counted yet."""
    names = ("input_tokens", "output_tokens", "model_calls", "tool_calls")
    new = {name: getattr(metrics, name) - getattr(counted, name) for name in names}
    return Counts(**new, micros=round((metrics.seconds - counted.seconds) * 1_000_000))
