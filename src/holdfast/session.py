"""A session: the handle people use for one conversation.

Reading and staging state is immediate; whatever is awaited talks to the store. A handle belongs to one task at a time; any number of
handles, processes and hosts may hold the same session.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, cast

import msgspec
from msgspec import UNSET

from . import entries as kinds
from . import files, runs
from .backend import (
    BlobDrop,
    ClaimAct,
    Counts,
    Create,
    Erase,
    HeadPatch,
    Key,
    Origin,
    Range,
    ReadPlan,
)
from .beside import id_beside, those_beside
from .entries import COMPLETED, Entry
from .errors import Conflict, InvalidValue, SessionGone, SessionNotFound, UsageError
from .ids import check_id, check_session_id, new_id, new_incarnation, new_session_id, now, scope_id
from .info import Link, SessionInfo, check_ttl, copied, info_of
from .messages import Message
from .reading import Readings, check_numbers
from .running import Run, cancel, cancel_members, counts_of, message_entry, release
from .runs import LEASE, WAIT, Metrics
from .state import CACHE_PREFIX, Scope, State, VolatileCache
from .values import decode, encode

FORM = 1


class _Here(NamedTuple):
    """The session of the run that is under way here, the fence of its claim, the run that holds it, and what is under way around it."""

    session: Session
    fence: int
    holder: str
    around: _Here | None


_current: ContextVar[_Here | None] = ContextVar("holdfast_session", default=None)


class Session(Readings):
    """One conversation: its history, its state, its runs.

    `Session(id=...)` belongs to no store yet: `await store.session(it)` takes it, with the state set on it. Sessions of a store come from
    `await store.session(id)`.
    """

    def __init__(self, id: str | None = None, *, user_id: str | None = None) -> None:
        named = new_session_id() if id is None else check_session_id(id)
        super().__init__(named, None if user_id is None else check_id(user_id, "user id"))
        self.state = State(self)
        self._volatile = VolatileCache()

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user_id={self.user_id!r}, version={self.version})"

    # --- what it is ---

    @property
    def session_id(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def info(self) -> SessionInfo:
        """The head as this handle has last seen it."""
        return info_of(self.id, self._seen)

    @property
    def metrics(self) -> Counts:
        """What the session's life has used so far, as this handle has last seen it: runs, messages, tokens, calls, seconds, bytes."""
        return self._seen.counts

    @property
    def name(self) -> str | None:
        """The label for humans."""
        return self._head.name if self._head else None

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of the session's metadata."""
        return copied(self._head.metadata) if self._head else {}

    @property
    def service_session_id(self) -> Any:
        """The provider's own id of this conversation, a string or a mapping; setting it stages it for the next commit."""
        if self._service_id is not UNSET:
            return self._service_id
        return self._head.service_ids.get("") if self._head and not self.cells.cleared else None

    @service_session_id.setter
    def service_session_id(self, value: Any) -> None:
        self._service_id = value

    # --- state, with the verbs of a plain session ---

    def get(self, key: str, default: Any = None, *, as_: type[Any] | None = None) -> Any:
        """`state.get`."""
        return self.state.get(key, default, as_=as_)

    def set(self, key: str, value: Any) -> None:
        """`state[key] = value`: staged until the next commit, append or run."""
        self.state[key] = value

    def has_key(self, key: str) -> bool:
        """Whether the state has this key."""
        return key in self.state

    def get_all_keys(self) -> list[str]:
        """Every key of the state, sorted."""
        return list(self.state)

    def get_volatile_cache(self) -> VolatileCache:
        """Values of one run, gone after it; never stored."""
        return self._volatile

    def get_non_volatile_cache(self) -> State:
        """Values kept with the session and never sent to a model."""
        return State(self, CACHE_PREFIX)

    async def scope(self, scope: Scope) -> State:
        """The state of wider scope, as it is now: `user`, shared by all sessions of this session's user, or `app`, by all sessions.

        It has a record and a version of its own. What is set on it is written with this session's next commit, right before it and under
        the same commit id; `increment`, `append` and `set_if` at once. `clear` of the session leaves it alone.
        """
        known = self._scopes.get(scope)
        if isinstance(known, Session):
            with suppress(SessionGone):  # deleted: another begins
                with suppress(SessionNotFound):  # there is none yet: what is set on it is its first write
                    await known.refresh()
                return known.state
        head = self._head
        record = await Session.of_scope(scope, self.user_id or (head.user_id if head else None), self._linked)
        if (other := self._scopes.get(scope)) is not known:  # a tool beside this one was first: one record is written, and holds both's
            return cast("Session", other).state
        self._scopes[scope] = record
        return record.state

    @classmethod
    async def of_scope(cls, scope: Scope, user_id: str | None, link: Link) -> Self:
        """The record of a wider scope's state."""
        record = cls.of_record(scope_id(scope, user_id), user_id if scope == "user" else None)
        record.attach(link, None)
        with suppress(SessionNotFound):  # its first write makes it
            await record.refresh()
        return record

    @classmethod
    def of_record(cls, id: str, user_id: str | None = None) -> Self:
        """A handle on a record that is nobody's session: its id is a reserved one, no list shows it, and it does not expire."""
        record = cls(user_id=user_id)
        record.id = id
        record.begins_with = HeadPatch(kind="scope", ttl=None)
        return record

    def beside(self, name: str, begins_with: HeadPatch) -> Session:
        """A handle on the session of the member with this name, nothing read.

        If its first write creates it, it `begins_with` this, with the owner and the time to live that this session has.
        """
        other = self._another(id_beside(self.id, name))
        other.begins_with = msgspec.structs.replace(begins_with, ttl=self._seen.ttl)
        return other

    async def all_beside(self) -> list[Session]:
        """The sessions of members that this one has noted, and those of their members, as they are now."""
        found: list[Session] = []
        for it in await those_beside(self._linked, self.key):
            other = self._another(it.session_id)
            with suppress(SessionNotFound):
                await other.refresh()
                found += [other, *await other.all_beside()]
        return found

    def _another(self, id: str) -> Session:
        other = Session(id, user_id=self.info.user_id)
        other.attach(self._linked, None)
        return other

    def clear(self) -> None:
        """Stage the removal of all history, state and blobs, and of members' sessions; the id, the owner and the metadata stay.

        What is set after it is kept.
        """
        self.cells.clear()
        self._service_id = UNSET

    # --- writing ---

    async def commit(self, *, expect: int | None = None, commit_id: str | None = None) -> int:
        """Write what is staged, in one atomic commit; the version after it. With nothing staged, nothing is written.

        `expect`: raise `Conflict` unless the session is at this version. `commit_id`: your own id; the same id twice is one commit.
        """
        return await self.append(expect=expect, commit_id=commit_id)

    async def append(self, *messages: Message, expect: int | None = None, commit_id: str | None = None) -> int:
        """Add `messages` to the history, with what is staged, in one atomic commit; the version after it."""
        check_numbers(expect=expect)
        if not messages and expect is None and commit_id is None and not self._staged:
            return self.version
        time = now()
        added = tuple(message_entry(message, time) for message in messages)
        outcome = await self.write(id=commit_id, expect=expect, entries=added, counts=counts_of(added) if added else None, time=time)
        return outcome.version

    async def rename(self, name: str | None) -> None:
        """Set the label for humans (None removes it)."""
        await self.write(patch=HeadPatch(name=name), staged=False)

    async def update_metadata(self, **metadata: Any) -> None:
        """Merge JSON values into the metadata; None removes a key."""
        await self.write(patch=HeadPatch(metadata=metadata), staged=False)

    async def set_ttl(self, seconds: float | None) -> None:
        """Expire this session `seconds` after its last use; None keeps it."""
        await self.write(patch=HeadPatch(ttl=check_ttl(seconds)), staged=False)

    async def rewind(self, *, to: int | None = None, last: int | None = None) -> int:
        """Hide the entries after seq `to`, or the newest `last` messages with what follows them; how many were there to be hidden.

        They stay in the record, out of every window. The cut is where you say: it may leave a tool call whose result is hidden. What
        members wait for under runs that are hidden is cancelled.
        """
        if (to is None) == (last is None):
            raise UsageError("rewind takes either to=SEQ or last=N messages")
        check_numbers(to=to, last=last)
        patience = runs.Patience(WAIT)
        while True:
            first = to + 1 if to is not None else await self._seq_of_last(last or 0)
            gone = await self.entries(after=first - 1, light=True)
            if not gone:
                return 0
            try:
                await self.write(hide=(Range(first, gone[-1].seq),), expect=self.version, staged=False)
            except Conflict as conflict:
                await patience.again(conflict)
            else:
                for id in {it.run_id for it in gone if it.kind == kinds.REQUIREMENT and it.run_id}:
                    await cancel_members(self, id)
                await self.look_who_waits()
                return len(gone)

    async def look_who_waits(self) -> None:
        """After a rewind: a run that waited for people may be gone."""
        if self._seen.waiting and not await self.requirements():
            await self.write(patch=HeadPatch(waiting=False), staged=False)

    async def pop(self) -> Message | None:
        """Hide the newest message, with the summaries written after it, and return it; None when there is none."""
        patience = runs.Patience(WAIT)
        while True:
            newest = await self._end_of_messages()
            if not newest:
                return None
            try:
                await self.write(hide=tuple([Range(it.seq, it.seq) for it in newest]), expect=self.version, staged=False)
            except Conflict as conflict:
                await patience.again(conflict)
            else:
                await self.look_who_waits()
                return (await self.whole(newest[:1]))[0].message()

    async def _end_of_messages(self) -> list[Entry]:
        """The newest message and the summaries after it; nothing where there is no message."""
        found = await self.entries(last=4, kinds=(kinds.MESSAGE, kinds.SUMMARY), light=True)
        while found and not any(it.kind == kinds.MESSAGE for it in found):
            older = await self.entries(last=64, before=found[0].seq, kinds=(kinds.MESSAGE, kinds.SUMMARY), light=True)
            found = older + found if older else []
        start = max([place for place, it in enumerate(found) if it.kind == kinds.MESSAGE], default=0)
        return found[start:]

    async def replace(self, messages: Sequence[Message], *, expect: int | None = None) -> int:
        """Hide the whole history and put `messages` in its place, in one atomic commit; the version after it."""
        check_numbers(expect=expect)
        patience = runs.Patience(WAIT)
        while True:
            head = (await self._read(ReadPlan())).head
            time = now()
            added = tuple(message_entry(message, time) for message in messages)
            hide = (Range(1, head.seq),) if head.seq else ()
            try:
                outcome = await self.write(
                    entries=added,
                    hide=hide,
                    expect=head.version if expect is None else expect,
                    counts=counts_of(added),
                    time=time,
                    staged=False,
                )
            except Conflict as conflict:
                if expect is not None:
                    raise
                await patience.again(conflict)
            else:
                await self.look_who_waits()
                return outcome.version

    async def delete(self) -> None:
        """Remove the session and everything it holds, its members' sessions too. A writer that comes late gets `SessionGone`."""
        with suppress(SessionGone):
            await self._read(ReadPlan())
            await self.write(erase=Erase("session"), staged=False)

    async def fork(self, id: str | None = None, *, at: int | None = None, name: str | None = None) -> Session:
        """A new session with a copy of this one's visible entries (up to seq `at`), state and blobs; it remembers where it came from.

        State and blobs are as they are now, whatever `at` is, and `at` may part a tool call from its result. Staged changes of this
        handle are not part of it. `SessionExists` when `id` is taken.
        """
        check_numbers(at=at)
        link = self._linked
        source = (await self._read(ReadPlan())).head
        fork = Session(id, user_id=source.user_id)
        patch = HeadPatch(
            origin=Origin(self.id, source.version),
            name=name if name is not None else source.name,
            kind=source.kind,
            agent=source.agent,
            metadata=source.metadata,
            ttl=source.ttl,
        )
        create = Create(new_incarnation(), exclusive=True)
        commit = link.commit(source.user_id, create=create, patch=patch, answer=ReadPlan(state_since=0))
        outcome = await link.backend.copy(self.key, at, Key(link.tenant, fork.id), commit)
        fork.attach(link, outcome.snapshot)
        return fork

    # --- reading ---

    async def cancel_run(self, run_id: str) -> bool:
        """End a run that is under way or waits for people, whoever drives it, as cancelled; False for one that is over.

        Its driver may write no more, and stops. Nobody is asked any more for what members wait for under it. `UsageError` for a run that
        isn't there, or is a part of another.
        """
        return await cancel(self, check_id(run_id, "run id"))

    async def release_run(self, run_id: str) -> bool:
        """Let go of a run that is under way, so that another process can go on with it at once; False for one that is not.

        It reads as interrupted, its driver may write no more, and stops. `UsageError` for a run that isn't there, or is a part of another.
        """
        return await release(self, check_id(run_id, "run id"))

    # --- files ---

    async def put_file(self, name: str, data: bytes | str, *, type: str | None = None) -> None:
        """Store a file with the session, in the place of one with this name; `TooLarge` above the store's `max_entry_bytes`.

        `type`: its media type; `text/plain` for text and `application/octet-stream` for bytes.
        """
        await self.write(blobs=(files.put_of(name, data, type),), staged=False)

    async def delete_file(self, name: str) -> None:
        """Remove a file; nothing where there is none with this name."""
        await self.write(drops=(BlobDrop(kinds.FILES, files.check_name(name)),), staged=False)

    # --- running ---

    @asynccontextmanager
    async def claim(self, *, wait: float = WAIT, lease: float = LEASE, holder: str | None = None) -> AsyncGenerator[int]:
        """Hold the right to run; yields its fence. Waits up to `wait` seconds for another holder, then raises `SessionBusy`."""
        id = new_id()
        try:
            taken = (await self.take(wait, ClaimAct("take", holder or id, lease), id=id, fresh=True, staged=False)).head
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled, and it may have gone through
                await runs.through(self._release_of(id))
            raise
        assert taken is not None
        fence = taken.fence
        with self._beating(fence, lease):
            try:
                yield fence
            finally:
                await runs.through(self._release(fence))

    @asynccontextmanager
    async def run(
        self, *input: Message, run_id: str | None = None, agent: str | None = None, wait: float = WAIT, lease: float = LEASE
    ) -> AsyncGenerator[Run]:
        """One run: its input is stored before the body begins, its status whichever way the body ends.

        The body's exception is recorded as `error` (cancellation as `cancelled`) and raised on. One run at a time per session. A
        `run_id` that has been used: a run under way is `SessionBusy`, one that failed is tried again, one that ended is a `UsageError`.
        """
        run = Run(self, new_id() if run_id is None else check_id(run_id, "run id"), agent)
        await run.begin(input, wait, lease, supplied=run_id is not None)
        async with self.holding(run, lease):
            yield run

    @asynccontextmanager
    async def holding(self, run: Run, lease: float, lost: Callable[[], object] | None = None) -> AsyncGenerator[None]:
        """The body of a run that has begun: it is kept alive meanwhile and this is the `current` session; however it ends is recorded.

        `lost` is called when a heartbeat finds that the claim has ended: taken over, cancelled, or gone with its session.
        """
        outer = _current.get()
        _current.set(_Here(self, run.fence, run.root or run.id, outer))
        with self._beating(run.fence, lease, lost) if run.root is None else nullcontext():
            try:
                yield
                if not run.ended:
                    await run.finish()
            except BaseException as error:
                if not run.ended:
                    await runs.through(run.fail(error))
                raise
            finally:
                if run.root is None:
                    self._volatile.clear()
                _current.set(outer)

    def running_here(self) -> tuple[Session, str] | None:
        """The handle that holds this very session for a run that is under way around the caller, and the id of that run.

        The run may be at work through others: a member of a team has a session of its own, and what it calls the team's. None for
        another caller than the run's own, and once the claim of that run has ended.
        """
        here = _current.get()
        while here is not None:
            it = here.session
            if it._fence == here.fence and it.backend is self.backend and (it.key, it.user_id) == (self.key, self.user_id):
                return it, here.holder
            here = here.around
        return None

    @staticmethod
    def current() -> Session:
        """The session of the run that is under way here: in a tool, in a hook, in the body of `session.run`."""
        found = _current.get()
        if found is None:
            raise UsageError("no run is under way here: Session.current() is for tools, hooks and the body of a run")
        return found.session

    # --- moving ---

    def to_dict(self) -> dict[str, Any]:
        """The session as a JSON object: `{type, session_id, user_id, service_session_id, state, cache}`. History stays in the store."""
        values = {"state": self.state, "cache": self.get_non_volatile_cache()}
        return {
            "type": "session",
            "session_id": self.id,
            "user_id": self.user_id,
            "service_session_id": self.service_session_id,
            **{name: {key: msgspec.json.decode(encode(it[key]))[1] for key in it} for name, it in values.items()},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Session:
        """The opposite of `to_dict`: a session that belongs to no store, its state staged."""
        if data.get("type") != "session" or "session_id" not in data:
            raise InvalidValue("this is not a session's dict: it needs type='session' and session_id")
        session = cls(data["session_id"], user_id=data.get("user_id"))
        for name, values in (("state", session.state), ("cache", session.get_non_volatile_cache())):
            stored: dict[str, Any] = data.get(name) or {}
            for key, value in stored.items():
                values[key] = decode(msgspec.json.encode([FORM, value]))
        if data.get("service_session_id") is not None:
            session.service_session_id = data["service_session_id"]
        return session

    # --- between the handle and the store ---

    def twin(self) -> Session:
        """Another handle of the same caller on the same session, nothing read: for another task."""
        twin = Session(self.id, user_id=self.user_id)
        twin.attach(self._linked, None)
        return twin

    async def record_run(
        self, status: str = COMPLETED, *, agent: str | None = None, metrics: Metrics | None = None, error: str | None = None
    ) -> str:
        """Record a run that something else has driven, as it ended, without taking the claim; its id."""
        run = Run(self, new_id(), agent)
        await run.record(status, metrics, error)
        return run.id

    async def _seq_of_last(self, last: int) -> int:
        if last < 1:
            raise InvalidValue(f"last={last}: give a number of messages, 1 or more")
        newest = await self.entries(last=last, kinds=(kinds.MESSAGE,), light=True)
        return newest[0].seq if newest else self._seen.seq + 1
