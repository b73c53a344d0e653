"""The session the SDK's `Runner` takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

from agents import RunState
from agents.memory import SessionSettings
from agents.memory.session_settings import coerce_session_settings, resolve_session_limit

from ... import Metrics, Session, Store
from ...entries import COMPLETED, ERROR
from ...errors import SessionGone
from . import log, paused
from .items import messages_of

if TYPE_CHECKING:
    from agents import Agent, RunContextWrapper, RunErrorDetails, TResponseInputItem
    from agents.result import RunResultBase

T = TypeVar("T")
UserId: TypeAlias = "str | Callable[[RunContextWrapper[Any]], str | None] | None"
Items: TypeAlias = "list[TResponseInputItem]"


class HoldfastSession:
    """A session of the SDK (`agents.memory.Session`) in a Holdfast store.

    `session_id`: None makes one. `store`: a `Store`, or a URL; one store per URL serves the whole process and is closed at its end.
    `user_id`: whose the session is, or a function of the run's context that says so; a call outside a run then names nobody.
    To a caller who isn't its owner the session doesn't exist: no items, and adding some raises `SessionNotFound`.

    Any number of tasks, threads, event loops and processes may share a session, through one object or many. A batch of `add_items` is
    one atomic commit. When somebody else clears or deletes the session, an addition of a run that had begun before raises
    `SessionGone`, so that nothing comes back; the next call finds what is there then, or begins anew.
    """

    session_id: str
    session_settings: SessionSettings | None

    def __init__(
        self,
        session_id: str | None,
        store: Store | str,
        *,
        user_id: UserId = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self.session_id = Session(session_id).id
        self.session_settings = SessionSettings() if session_settings is None else coerce_session_settings(session_settings)
        self.store = Store.shared(store)
        self._user_id = user_id
        self._free: list[Session] = []  # open handles; whoever takes one has it alone
        self._closed = False

    def __repr__(self) -> str:
        return f"HoldfastSession({self.session_id!r})"

    # --- items ---

    async def get_items(self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None) -> Items:
        """The newest `limit` items in order, by default `session_settings.limit` or all; 0 and less is none.

        `Corrupt` where a stored item is unreadable: it is not passed over.
        """
        self._check_open()
        most = resolve_session_limit(limit, self.session_settings)
        if most is not None and most <= 0:
            return []
        return await self._on(self._user(wrapper), lambda handle: log.values(handle, most)) or []

    async def add_items(self, items: Items, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Add `items` in order, all or none, next to each other. `InvalidValue` names the one that isn't JSON."""
        self._check_open()
        messages = messages_of(items)
        if messages:
            await self._writing(self._user(wrapper), lambda handle: handle.append(*messages))

    async def pop_item(self, *, wrapper: RunContextWrapper[Any] | None = None) -> TResponseInputItem | None:
        """Take the newest item out; None where there is none. It stays in the record, hidden."""
        self._check_open()
        return cast("TResponseInputItem | None", await self._on(self._user(wrapper), log.pop))

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Remove everything the session holds, its state and a paused run too. The id and the owner stay."""
        self._check_open()
        await self._on(self._user(wrapper), self._clear)

    def close(self) -> None:
        """Every call after it raises `RuntimeError`. The store stays open: it is yours, or the process's."""
        self._closed = True
        self._free = []

    # --- paused runs ---

    async def save_run_state(self, state: RunState[Any, Any], *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Keep a paused run with the session, in the place of any other, in one commit: `save_run_state(result.to_state())`.

        While it has open approvals the session is `waiting`, as `store.list(waiting=True)` shows. `TooLarge` over the store's limit.
        """
        self._check_open()
        data, waiting = paused.dumped(state), bool(state.get_interruptions())
        await self._writing(self._user(wrapper), lambda handle: paused.save(handle, data, waiting=waiting))

    async def load_run_state(
        self, agent: Agent[Any], *, taken: bool = False, wrapper: RunContextWrapper[Any] | None = None
    ) -> RunState[Any, Any] | None:
        """The paused run that is saved, to look at; None where there is none. Nothing changes.

        `taken`: the one that was taken last instead, kept until another is saved: what a crash after that left unfinished.
        `wrapper` takes the place of the context that the run was saved with.
        """
        found = await self._paused(paused.TAKEN if taken else paused.PAUSED, wrapper)
        return found and await RunState.from_json(agent, found.state, context_override=wrapper)

    async def take_run_state(self, agent: Agent[Any], *, wrapper: RunContextWrapper[Any] | None = None) -> RunState[Any, Any]:
        """The paused run, for the caller alone to decide and resume. Of several who take it one gets it, the others `UsageError`.

        The session is not waiting any more. Run what was taken once: `await Runner.run(agent, state, session=session)`.
        """
        found = await self._paused(paused.PAUSED, wrapper)
        state = found and await RunState.from_json(agent, found.state, context_override=wrapper)  # before: what can't be read stays
        if not found or not state or not await self._on(self._user(wrapper), lambda handle: paused.take(handle, found)):
            raise paused.nothing_waits(self.session_id)
        return state

    async def clear_run_state(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Remove the paused run, and the one taken last."""
        self._check_open()
        await self._on(self._user(wrapper), paused.clear)

    # --- runs ---

    async def store_run_usage(self, result: RunResultBase | RunErrorDetails) -> None:
        """Record the run that ended with `result`, once: agent, tokens, model calls; `error` for the `run_data` of an exception.

        Of a run that paused nothing is recorded yet: the result that ends it counts on from there.
        """
        self._check_open()
        if getattr(result, "interruptions", None):
            return
        used = result.context_wrapper.usage
        metrics = Metrics(input_tokens=used.input_tokens, output_tokens=used.output_tokens, model_calls=used.requests)
        status = COMPLETED if hasattr(result, "interruptions") else ERROR
        agent = result.last_agent.name
        user_id = self._user(result.context_wrapper)
        await self._writing(user_id, lambda handle: handle.record_run(status, agent=agent, metrics=metrics))

    # --- asked by the SDK's compaction ---

    async def _atomic_replace_items(self, items: Items) -> bool:
        """The history becomes `items` in one commit. What they stand for stays in the record, hidden."""
        self._check_open()
        messages = messages_of(items)
        return self._keeps_items_itself and await self._on(self._user(None), lambda handle: log.replace(handle, messages)) is not None

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> _Snapshot | None:
        """The newest `limit` items, and how to put others in the place of the last of them while they are the last.

        `prune_prefix` names items before them that may go in the same commit, oldest first.
        """
        self._check_open()
        if not self._keeps_items_itself:
            return None
        user_id = self._user(None)
        found = await self._on(user_id, lambda handle: log.newest(handle, limit + 1)) or []
        seen = found[-limit:]

        async def replace_suffix(start: int, output: Items) -> bool:
            if not seen[start:]:
                return False
            messages = messages_of(output)
            replaced = await self._on(
                user_id, lambda handle: log.replace_end(handle, found, len(found) - len(seen) + start, messages, prune_prefix)
            )
            return bool(replaced)

        return _Snapshot([item.value for item in seen], len(found) <= limit, replace_suffix)

    @property
    def _keeps_items_itself(self) -> bool:
        """A subclass that reads or writes otherwise may keep more, or something else, than these items."""
        kind = type(self)
        return kind.get_items is HoldfastSession.get_items and kind.add_items is HoldfastSession.add_items

    # --- handles ---

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{type(self).__name__} is closed")

    def _user(self, wrapper: RunContextWrapper[Any] | None) -> str | None:
        if callable(self._user_id):
            return None if wrapper is None else self._user_id(wrapper)
        return self._user_id

    async def _on(self, user_id: str | None, work: Callable[[Session], Awaitable[T]]) -> T | None:
        """What `work` makes of the session as it is now; None where there is none. Nothing is created."""
        while True:
            free = self._free
            handle = _taken(free, user_id) or await self.store.get(self.session_id, user_id=user_id)
            if handle is None:
                return None
            try:
                done = await work(handle)
            except SessionGone:
                self._free = []
            else:
                free.append(handle)
                return done

    async def _writing(self, user_id: str | None, work: Callable[[Session], Awaitable[object]]) -> None:
        """Do `work` on the session, which is created where it isn't; `SessionGone` when it has ended since this object knew it."""
        while True:
            free = self._free
            handle = _taken(free, user_id) or await self.store.session(self.session_id, user_id=user_id)
            try:
                await work(handle)
            except SessionGone:
                if free is self._free:
                    self._free = []
                    raise
            else:
                free.append(handle)
                return

    async def _paused(self, prefix: str, wrapper: RunContextWrapper[Any] | None) -> paused.Paused | None:
        self._check_open()
        return await self._on(self._user(wrapper), lambda handle: paused.load(handle, prefix))

    async def _clear(self, handle: Session) -> None:
        handle.clear()
        self._free = []  # before: who is busy with an older handle will see that it was we who ended that life
        await handle.commit()
        self._free = []  # after: what was opened meanwhile has ended too


class _Snapshot(NamedTuple):
    """As the SDK's `_CompactionSnapshot`: `complete` says that nothing is older than `items`."""

    items: Items
    complete: bool
    replace_suffix: Callable[[int, Items], Awaitable[bool]]


def _taken(free: list[Session], user_id: str | None) -> Session | None:
    """An open handle of this user, out of `free`."""
    while free:
        try:
            handle = free.pop()
        except IndexError:  # another thread was faster
            return None
        if handle.user_id == user_id:
            return handle
    return None
