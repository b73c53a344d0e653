"""A session: the handle people use for one conversation.

Reading and staging state is immediate; whatever is awaited talks to the store. A handle belongs to one task at a time; any number of
handles, processes and hosts may hold the same session.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Self

import msgspec
from msgspec import UNSET

from . import entries as kinds
from . import files, large, requirements, runs
from .backend import (
    Backend,
    Blob,
    BlobDrop,
    BlobPut,
    BlobRange,
    ClaimAct,
    Commit,
    Counts,
    Create,
    Erase,
    Head,
    HeadPatch,
    Key,
    Origin,
    Outcome,
    Put,
    Range,
    ReadPlan,
    Snapshot,
    Window,
)
from .entries import Entry
from .errors import Conflict, Fenced, InvalidValue, SessionBusy, SessionGone, SessionNotFound, StoreError, UsageError
from .files import FileInfo
from .ids import check_id, check_session_id, new_id, new_incarnation, new_session_id, now, scope_id
from .info import Link, SessionInfo, check_ttl, checked, copied, info_of, touch
from .large import Stored
from .messages import Message, system
from .requirements import Requirement
from .rules import changes, may_use
from .running import Run, cancel, counts_of, message_entry
from .runs import COMPLETED, LEASE, WAIT, Metrics, RunInfo
from .state import CACHE_PREFIX, MISSING, Cells, Scope, State, VolatileCache, encode_value
from .values import decode, encode

FORM = 1
_CHAT_ROLES = ("user", "assistant")
_MOST = 2**53
_current: ContextVar[tuple[Session, int, str] | None] = ContextVar("holdfast_session", default=None)
"""The session of the run that is under way here, the fence of its claim, and the run that holds it."""


class Session:
    """One conversation: its history, its state, its runs.

    `Session(id=...)` belongs to no store yet: `await store.session(it)` takes it, with the state set on it. Sessions of a store come from
    `await store.session(id)`.
    """

    def __init__(self, id: str | None = None, *, user_id: str | None = None) -> None:
        self.id = new_session_id() if id is None else check_session_id(id)
        self.user_id = None if user_id is None else check_id(user_id, "user id")
        self.cells = Cells()
        self.state = State(self)
        self._volatile = VolatileCache()
        self._link: Link | None = None
        self._head: Head | None = None
        self._service_id: Any = UNSET
        self._fence: int | None = None
        self._scopes: dict[str, Session] = {}
        self.begins_with: HeadPatch | None = None
        """For a handle that has read nothing: what the session has in its head from its first write on, should that create it."""

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user_id={self.user_id!r}, version={self.version})"

    # --- what it is ---

    @property
    def session_id(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def version(self) -> int:
        """The version this handle has last seen; 0 before there is one."""
        return self._head.version if self._head else 0

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
        if (record := self._scopes.get(scope)) is not None:
            with suppress(SessionGone, SessionNotFound):  # deleted: another begins
                await record.refresh()
                return record.state
        head = self._head
        self._scopes[scope] = record = await Session.of_scope(scope, self.user_id or (head.user_id if head else None), self._linked)
        return record.state

    @classmethod
    async def of_scope(cls, scope: Scope, user_id: str | None, link: Link) -> Self:
        """The record of a wider scope's state."""
        record = cls(user_id=user_id if scope == "user" else None)
        record.id = scope_id(scope, user_id)
        record.begins_with = HeadPatch(kind="scope", ttl=None)
        record.attach(link, None)
        with suppress(SessionNotFound):  # its first write makes it
            await record.refresh()
        return record

    def beside(self, id: str, begins_with: HeadPatch) -> Session:
        """A handle on another session of the same store and owner, nothing read; it `begins_with` this if its first write creates it."""
        other = Session(id, user_id=self.info.user_id)
        other.attach(self._linked, None)
        other.begins_with = begins_with
        return other

    def clear(self) -> None:
        """Stage the removal of all history, state and blobs; the id, the owner and the metadata stay. What is set after it is kept."""
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
        _check_numbers(expect=expect)
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

        They stay in the record, out of every window. The cut is where you say: it may leave a tool call whose result is hidden.
        """
        if (to is None) == (last is None):
            raise UsageError("rewind takes either to=SEQ or last=N messages")
        _check_numbers(to=to, last=last)
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
        _check_numbers(expect=expect)
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
        """Remove the session and everything it holds. A writer that comes late gets `SessionGone`."""
        with suppress(SessionGone):
            await self.write(erase=Erase("session"), staged=False)

    async def fork(self, id: str | None = None, *, at: int | None = None, name: str | None = None) -> Session:
        """A new session with a copy of this one's visible entries (up to seq `at`), state and blobs; it remembers where it came from.

        State and blobs are as they are now, whatever `at` is, and `at` may part a tool call from its result. Staged changes of this
        handle are not part of it. `SessionExists` when `id` is taken.
        """
        _check_numbers(at=at)
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

    async def get_messages(self, *, last: int | None = None, before: int | None = None, light: bool = False) -> list[Message]:
        """The messages in order: all of them, or the newest `last` (before seq `before`), tool calls and system messages included.

        The instructions of an agent's runs are shown as a system message where a run has others than the one before it.
        `light`: large values are left out, as in `entries`.
        """
        _check_numbers(last=last, before=before)
        told: list[Entry] = []
        step = None if last is None else 2 * last + 8
        while True:
            page = await self.entries(last=step, before=told[0].seq if told else before, kinds=(kinds.MESSAGE, kinds.RUN), light=True)
            told = page + told
            if last is None or len(page) < (step or 0) or sum([entry.kind == kinds.MESSAGE for entry in told]) > last:
                break
        shown = list(runs.with_instructions(told))
        texts = await self._instructions({it for it in shown if isinstance(it, str)})
        messages = [texts.get(it, system("")) if isinstance(it, str) else it.message() for it in shown]
        messages = messages if last is None else messages[max(len(messages) - last, 0) :]
        return messages if light else await self.whole(messages)

    async def _instructions(self, keys: set[str]) -> dict[str, Message]:
        """The instructions stored under these keys, as system messages."""
        if not keys:
            return {}
        wanted = BlobRange(namespace=kinds.INSTRUCTIONS, keys=tuple(sorted(keys)))
        found = (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or []
        return {blob.key: system((blob.data or b"").decode()) for blob in found}

    async def get_chat_history(self, *, last: int | None = None) -> list[Message]:
        """What user and assistant said to each other: no tools, no instructions, no empty messages."""
        _check_numbers(last=last)
        said: list[Message] = []
        before: int | None = None
        step = None if last is None else max(4 * last, 16)
        while True:
            page = await self.entries(last=step, before=before, kinds=(kinds.MESSAGE,), light=True)
            messages = [message for message in (entry.message() for entry in page) if message.role in _CHAT_ROLES and message.text]
            said = messages + said
            if last is None or len(page) < (step or 0) or len(said) >= last:
                return await self.whole(said if last is None else said[max(len(said) - last, 0) :])
            before = page[0].seq

    async def entries(
        self,
        *,
        last: int | None = None,
        first: int | None = None,
        after: int = 0,
        before: int | None = None,
        kinds: tuple[str, ...] = (),
        run_id: str | None = None,
        hidden: bool = False,
        light: bool = False,
    ) -> list[Entry]:
        """Records of the log in order: the newest `last` or the `first` with after < seq < before, of the named kinds and run.

        `light`: large texts, media and results of messages are left out; `whole` brings them in. Otherwise they cost one more read.
        """
        _check_numbers(last=last, first=first, after=after, before=before)
        if last is not None and first is not None:
            raise UsageError("entries takes either last=N or first=N")
        if isinstance(kinds, str):
            raise InvalidValue(f"kinds={kinds!r} is a string: give a tuple, ({kinds!r},)")
        limit = last if first is None else first
        window = Window(after=after, before=before, limit=limit, newest=first is None, kinds=kinds, run_id=run_id, hidden=hidden)
        found = (await self._read(ReadPlan(state_since=self.cells.synced, entries=window))).entries or []
        return found if light else await self.whole(found)

    async def whole(self, items: Sequence[Stored]) -> list[Stored]:
        """Messages or entries of this session that were read light, with their large values; what is whole stays as it is, unread.

        A read for every 8 MiB, none where nothing was left out. What the handle knows of the session stays as it was.
        """
        return await large.restored(self._peek, items)

    async def get_summary(self) -> str | None:
        """What the newest summary says of the older part of the conversation; None while there is none, or it was rewound."""
        newest = await self.entries(last=1, kinds=(kinds.SUMMARY,))
        return str(newest[0].data()["text"]) if newest else None

    async def runs(self, *, last: int = 20) -> list[RunInfo]:
        """The newest `last` runs in the order they began."""
        _check_numbers(last=last)
        told: list[Entry] = []
        page: list[Entry] | None = None
        while page is None or (page and len(page) == 4 * last and len({entry.run_id for entry in told}) <= last):
            page = await self.entries(last=4 * last, before=told[0].seq if told else None, kinds=(kinds.RUN,))
            told = page + told
        found = runs.fold(told, self._seen.claim)[-last:] if last else []
        if self._seen.hides and any(run.status == runs.INTERRUPTED for run in found):
            found = [await self.get_run(run.id) or run for run in found]
        return found

    async def get_run(self, run_id: str) -> RunInfo | None:
        """One run by its id, or None; also one that was rewound."""
        told = await self.entries(kinds=(kinds.RUN,), run_id=check_id(run_id, "run id"), hidden=True)
        return runs.fold(told, self._seen.claim)[-1] if told else None

    async def cancel_run(self, run_id: str) -> bool:
        """End a run that is under way or waits for people, whoever drives it, as cancelled; False for one that is over.

        Its driver may write no more, and stops. `UsageError` for a run that isn't there, or is a part of another.
        """
        return await cancel(self, check_id(run_id, "run id"))

    async def release_run(self, run_id: str) -> bool:
        """Let go of a run that is under way, so that another process can go on with it at once; False for one that is over.

        It reads as interrupted, its driver may write no more, and stops. `UsageError` for a run that isn't there, or is a part of another.
        """
        return await cancel(self, check_id(run_id, "run id"), runs.INTERRUPTED)

    async def run_log(self, run_id: str, *, light: bool = False) -> tuple[RunInfo | None, list[Entry]]:
        """One run by its id, or None, with everything recorded under it, hidden entries included; `light` as in `entries`."""
        found = await self.entries(run_id=check_id(run_id, "run id"), hidden=True, light=light)
        told = runs.fold([entry for entry in found if entry.kind == kinds.RUN], self._seen.claim)
        return (told[-1] if told else None), found

    async def requirements(self, *, members: bool = False) -> list[Requirement]:
        """What paused runs of this session wait for, in the order it was asked.

        What a member of a team waits for in this very session, and its team for it, is listed once: as the team's. `members`: as both.
        """
        told = requirements.told(await self.entries(kinds=(kinds.REQUIREMENT, kinds.DECISION)))
        paused = {id for id in {it.run_id for it in told.open} if (run := await self.get_run(id)) is not None and run.status == runs.PAUSED}
        found = [it for it in told.open if it.run_id in paused]
        theirs = set[str]() if members else {it.via.requirement for it in found if it.via is not None}
        return [it for it in found if it.id not in theirs]

    async def refresh(self) -> None:
        """Bring the handle up to date. Containers taken from the state before keep their changes; unchanged ones are read anew."""
        await self._read(ReadPlan(state_since=self.cells.synced))
        self.cells.detach()

    # --- files ---

    async def put_file(self, name: str, data: bytes | str, *, type: str | None = None) -> None:
        """Store a file with the session, in the place of one with this name; `TooLarge` above the store's `max_entry_bytes`.

        `type`: its media type; `text/plain` for text and `application/octet-stream` for bytes.
        """
        await self.write(blobs=(files.put_of(name, data, type),), staged=False)

    async def get_file(self, name: str) -> bytes:
        """The bytes of a file; `FileNotFound` where there is none with this name."""
        wanted = BlobRange(namespace=kinds.FILES, keys=(files.check_name(name),))
        return files.data_of(name, (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or [])

    async def list_files(self) -> list[FileInfo]:
        """The files of the session by their names, without reading them."""
        found = (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(files.LISTED,)))).blobs or []
        return [files.info_of(blob) for blob in found]

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
        _current.set((self, run.fence, run.root or run.id))
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

        None for another caller than the run's own, and once the claim of that run has ended.
        """
        outer, fence, holder = _current.get() or (None, 0, "")
        if outer is None or outer._fence != fence or outer.backend is not self.backend or outer.key != self.key:
            return None
        return (outer, holder) if outer.user_id == self.user_id else None

    @staticmethod
    def current() -> Session:
        """The session of the run that is under way here: in a tool, in a hook, in the body of `session.run`."""
        found = _current.get()
        if found is None:
            raise UsageError("no run is under way here: Session.current() is for tools, hooks and the body of a run")
        return found[0]

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

    @property
    def key(self) -> Key:
        """Where the session lives."""
        return Key(self._linked.tenant, self.id)

    def attach(self, link: Link, snapshot: Snapshot | None) -> None:
        """Tie the handle to a store and let it know what is there."""
        self._link = link
        if snapshot is not None:
            self._learn(snapshot)

    async def change(self, key: str, change: Callable[[Any], Any]) -> Any:
        """As `state.Owner.change`."""
        patience = runs.Patience(WAIT)
        while True:
            row = self.cells.rows.get(key)
            value = change(MISSING if row is None or row.value is None else decode(row.value))
            put = Put(key, encode_value(key, value), row.version if row and row.value is not None else 0)
            try:
                await self.write(puts=(put,), staged=False, detach=key)
            except Conflict as conflict:
                await patience.again(conflict)
                await self._read(ReadPlan(state_since=self.cells.synced))
            else:
                return value

    @property
    def life(self) -> int:
        """The mark of this life of the session, which ends with `clear` and `delete`."""
        return self._seen.incarnation

    @property
    def hides(self) -> int:
        """How many times entries of it were hidden, as this handle has last seen it."""
        return self._seen.hides

    def twin(self) -> Session:
        """Another handle of the same caller on the same session, nothing read: for another task."""
        twin = Session(self.id, user_id=self.user_id)
        twin.attach(self._linked, None)
        return twin

    def folded(self, told: list[Entry]) -> list[RunInfo]:
        """The runs that run entries tell of, as they are while the claim is as this handle has last seen it."""
        return runs.fold(told, self._seen.claim)

    @property
    def backend(self) -> Backend:
        """Where the session is stored."""
        return self._linked.backend

    @property
    def attached(self) -> bool:
        """Whether the handle belongs to a store."""
        return self._link is not None

    @property
    def _linked(self) -> Link:
        if self._link is None:
            raise UsageError(f"session {self.id!r} belongs to no store yet: use `session = await store.session({self.id!r})`")
        return self._link

    @property
    def _seen(self) -> Head:
        if self._head is None:
            raise SessionNotFound(f"session {self.id!r} is not in a store yet")
        return self._head

    @property
    def _staged(self) -> bool:
        own = self.cells.cleared or self._service_id is not UNSET or bool(self.cells.pending())
        return own or any(it.cells.pending() for it in self._scopes.values())

    async def _read(self, plan: ReadPlan) -> Snapshot:
        snapshot = await self._peek(plan)
        self._learn(snapshot)
        if snapshot.head.ttl is not None:
            await touch(self._linked, self.key, snapshot.head, self.user_id)
        return snapshot

    async def _peek(self, plan: ReadPlan) -> Snapshot:
        """A read of which the handle learns nothing: what is written next is judged by what was seen before."""
        link = self._linked
        snapshot = await link.backend.read(self.key, plan)
        if snapshot is None and self._head is None:
            raise SessionNotFound(f"there is no {self.key}")
        if snapshot is None or (self._head and snapshot.head.incarnation != self._head.incarnation):
            raise SessionGone(f"session {self.id!r} was cleared, deleted or expired since this handle last saw it: open it again")
        if not may_use(snapshot.head, self.user_id, not link.as_admin):
            raise SessionNotFound(f"there is no {self.key} for this caller: it has become another user's")
        return snapshot

    def _learn(self, snapshot: Snapshot) -> None:
        self._head = snapshot.head
        if snapshot.state is not None and not self.cells.cleared:
            self.cells.update(snapshot.state, snapshot.state_whole, snapshot.head.version)

    async def write(
        self,
        *,
        id: str | None = None,
        fresh: bool = False,
        time: int | None = None,
        staged: bool = True,
        puts: tuple[Put, ...] = (),
        erase: Erase | None = None,
        patch: HeadPatch | None = None,
        claim: ClaimAct | None = None,
        fence: int | None = None,
        detach: str | None = None,
        **parts: Any,
    ) -> Outcome:
        """One commit of this handle, `parts` as in `Commit`. With `staged`, what is staged is part of it.

        While the handle holds the claim (`run`, `claim`), every commit of it carries the fence. `detach` names a state key whose
        handed-out container gives way to what was written. `fresh`: the `id` has not been used before, so no repetition is looked for.
        A handle that has read nothing yet creates the session where it isn't.
        """
        link, head, service_id = self._linked, self._head, self._service_id
        repeats, id = id is not None and not fresh, id or new_id()
        if staged:
            await self._write_scopes(id, fresh=not repeats)
        if head is None:
            parts["create"] = link.create(self.begins_with)
        act = claim.act if claim else None
        if fence is None and act != "take":
            fence = self._fence
        if staged:
            puts += self.cells.pending()
            erase = erase or (Erase("content", new_incarnation()) if self.cells.cleared else None)
            patch = self._patch_service_id(patch)
        commit = Commit(
            id=id,
            time=time or now(),
            incarnation=head.incarnation if head else None,
            base=_MOST if fresh and head is None else 0 if repeats or head is None else head.version,
            user_id=self.user_id,
            check_owner=not link.as_admin,
            puts=puts,
            erase=erase,
            patch=patch and checked(patch),
            claim=claim,
            fence=fence,
            **parts,
        )
        outcome = await link.backend.commit(self.key, large.lightened(self.key, commit))
        made = changes(commit) and not outcome.repeated
        self._advance(head, outcome.head)
        if act == "release":
            self._fence = None
        if detach is not None:
            self.cells.detach(detach)
        if outcome.repeated:
            self.cells.synced = 0  # others may have written since it was applied: the next read tells
        elif erase is not None:
            self.cells.synced = outcome.version - 1
        self.cells.written(puts, outcome.version, made=made, erased=erase is not None)
        if staged and self._service_id is service_id:
            self._service_id = UNSET
        if outcome.snapshot is not None:
            self._learn(outcome.snapshot)
        return outcome

    async def _write_scopes(self, id: str, *, fresh: bool) -> None:
        """What is staged on wider state goes first, under the same id: said again, the whole is still one."""
        for record in self._scopes.values():
            if record.cells.pending():
                await record.write(id=id, fresh=fresh)

    def _advance(self, sent: Head | None, head: Head | None) -> None:
        """Take in the head that a commit sent at head `sent` came back with, unless a newer one has been seen since."""
        seen = self._head
        late = seen is not sent and seen and head and (seen.incarnation != head.incarnation or seen.version > head.version)
        if head is not None and not late:
            self._head = head

    def _patch_service_id(self, patch: HeadPatch | None) -> HeadPatch | None:
        if self._service_id is UNSET:
            return patch
        return msgspec.structs.replace(patch or HeadPatch(), service_ids={"": self._service_id})

    async def look(self, plan: ReadPlan) -> Snapshot:
        """What `plan` asks for, of one moment of the session, as it is stored."""
        return await self._read(plan)

    async def blobs(self, namespace: str, *, prefix: str = "") -> list[Blob]:
        """The blobs of one namespace whose keys begin with `prefix`, in the order of keys."""
        wanted = BlobRange(namespace=namespace, prefix=prefix)
        return (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or []

    async def record_run(
        self, status: str = COMPLETED, *, agent: str | None = None, metrics: Metrics | None = None, error: str | None = None
    ) -> str:
        """Record a run that something else has driven, as it ended, without taking the claim; its id."""
        run = Run(self, new_id(), agent)
        await run.record(status, metrics, error)
        return run.id

    async def _release(self, fence: int) -> None:
        with suppress(SessionGone, SessionNotFound):
            await self.write(claim=ClaimAct("release"), fence=fence, staged=False)

    async def _release_of(self, taken: str) -> None:
        fence = await self.fence_of(taken)
        if fence is not None:
            await self._release(fence)

    async def fence_of(self, taken: str) -> int | None:
        """The fence of the claim that the commit with this id took; None where it took none, or it is over."""
        try:
            head = (await self._read(ReadPlan())).head
        except (SessionGone, SessionNotFound):
            return None
        return head.fence if head.claim is not None and head.claim.taken == taken else None

    async def _seq_of_last(self, last: int) -> int:
        if last < 1:
            raise InvalidValue(f"last={last}: give a number of messages, 1 or more")
        newest = await self.entries(last=last, kinds=(kinds.MESSAGE,), light=True)
        return newest[0].seq if newest else self._seen.seq + 1

    def standing(self, patience: runs.Patience) -> tuple[int, int] | None:
        """The (fence, beat) of the claim as last seen, once it has stood still for its lease before the eyes of `patience`."""
        claim = self._seen.claim
        return None if claim is None else patience.watch(self._seen.fence, claim.beat, claim.lease)

    async def take(self, wait: float, take: ClaimAct, **parts: Any) -> Outcome:
        """Commit `parts` together with taking the claim, as soon as it is free or has stood still for its lease."""
        if self._fence is not None:
            raise UsageError(f"this handle holds {self.key} already: use the run or the claim around this, or another handle to wait")
        patience = runs.Patience(wait)
        while True:
            try:
                return await self.write(claim=take, **parts)
            except SessionBusy as busy:
                if patience.over():
                    raise SessionBusy(
                        f"{self.key} is still held by another run after {wait:g} s: wait longer, or cancel that run",
                        fence=busy.fence,
                        beat=busy.beat,
                        lease=busy.lease,
                    ) from None
                take = msgspec.structs.replace(take, seen=patience.watch(busy.fence, busy.beat, busy.lease))
                await patience.step()

    async def beat(self, fence: int, *blobs: BlobPut) -> None:
        """One heartbeat, and what is told along with it. It leaves the handle alone, for it may come from another thread than its own."""
        link = self._linked
        renew = link.commit(self.user_id, incarnation=self._seen.incarnation, fence=fence, blobs=blobs, claim=ClaimAct("renew"))
        await link.backend.commit(self.key, renew)

    def held_by(self, run_id: str) -> int | None:
        """The fence of the claim that this run holds, as last seen; None while it holds none."""
        claim = self._seen.claim
        return self._seen.fence if claim is not None and claim.holder == run_id else None

    def forget_claim(self) -> None:
        """Commits of this handle carry no fence any more; the claim itself is left as it is."""
        self._fence = None

    @contextmanager
    def _beating(self, fence: int, lease: float, lost: Callable[[], object] | None = None) -> Generator[None]:
        """Show that the holder lives, three times a lease, until the body ends or is fenced."""
        from asyncio import create_task, sleep

        async def beat() -> None:
            try:
                while True:
                    await sleep(lease / 3)
                    with suppress(StoreError):  # the next beat may get through
                        await self.beat(fence)
            except (Fenced, SessionGone, SessionNotFound):
                if lost is not None:
                    lost()

        beating = create_task(beat())
        self._fence = fence
        try:
            yield
        finally:
            self.forget_claim()
            beating.cancel()


def _check_numbers(**given: int | None) -> None:
    """Each is left out or a whole number that a database can hold; `InvalidValue` names the one that isn't."""
    for name, value in given.items():
        if value is not None and not (type(value) is int and 0 <= value <= _MOST):
            raise InvalidValue(f"{name}={value!r:.80}: give a whole number from 0 to {_MOST}, or leave it out")
