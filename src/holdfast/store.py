"""A store: what you open. It finds the backend by URL, hands out sessions, lists and deletes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import msgspec

from . import transfer
from .backend import Backend, Filter, Head, HeadPatch, Key, ReadPlan, Snapshot
from .backends.urls import shown
from .beside import erase
from .entries import CANCELLED, COMPLETED, RUN
from .errors import HoldfastError, InvalidURL, InvalidValue, MissingExtra, SessionGone, SessionNotFound
from .ids import SCOPE_PREFIXES, check_id, check_session_id, runs_above, to_micros
from .info import Link, SessionInfo, check_ttl, info_of, touch
from .requirements import Requirement
from .rules import may_use
from .session import Session
from .state import Scope, State
from .wrappers.cache import CachedBackend, cache_of
from .wrappers.retry import RetriedBackend

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

MAX_PAGE = 1000
_AWAY_SECONDS = 5.0
"""How long a store opened by URL tries again to reach a database that is away."""
_CURSOR = 4096
"""A cursor is no longer than this; what it means is the backend's."""
_SWEEP_EVERY, _SWEPT_AT_ONCE = 60.0, 20
"""How often a store with a `ttl` removes expired sessions by itself (seconds), and at most how many."""


class SessionPage(msgspec.Struct, frozen=True):
    """Sessions, the newest created first; pass `cursor` on for the next page (None at the end). A page may be short before the end."""

    items: list[SessionInfo]
    cursor: str | None


class Wanted(TypedDict, total=False):
    """Which sessions a list shows: those for which all of this holds; None asks for nothing.

    `name`: a part of the name, in any case. `metadata`: values that must be equal, key by key. `updated_after`, `updated_before`: aware
    datetimes, themselves not included. `user_id` and `waiting` are looked up; for the others a page looks at a bounded number of sessions.
    """

    user_id: str | None
    waiting: bool | None
    kind: str | None
    parent: str | None
    name: str | None
    metadata: dict[str, Any] | None
    updated_after: datetime | None
    updated_before: datetime | None


_WANTED: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("user_id", "kind", "parent", "name"), (str, "a string")),
    "waiting": (bool, "True or False"),
    "metadata": (dict, "a dict of the values it must have"),
}
_MOMENTS = {"updated_after", "updated_before"}


class Options(TypedDict):
    """Of a store, beside its backend and its cache."""

    tenant: str
    as_admin: bool
    ttl: float | None
    state_history: bool


class CacheStats(msgspec.Struct, frozen=True):
    """What the cache did since the store was opened: sessions answered without reading them again, read, dropped, held now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    sessions: int = 0
    bytes: int = 0


class Store:
    """Holds sessions in one database. Safe to use from any number of tasks, threads, event loops and processes."""

    def __init__(
        self,
        backend: Backend,
        *,
        cache: int = 0,
        tenant: str = "default",
        as_admin: bool = False,
        ttl: float | None = None,
        state_history: bool = False,
    ) -> None:
        if isinstance(backend, str):
            raise InvalidValue(f"Store(...) takes a backend, not a URL: write Store.open({shown(backend)!r})")
        if not isinstance(cache, int) or cache < 0:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"cache={cache!r}: give the number of sessions to keep, or 0 for none")
        self.backend: Backend = CachedBackend(backend, cache) if cache else backend
        self._link = Link(self.backend, check_id(tenant, "tenant"), as_admin, check_ttl(ttl), state_history)
        self.session_manager = SessionManager(self)
        self._next_sweep = 0.0

    @classmethod
    def open(
        cls,
        url: str,
        *,
        cache: int = 0,
        tenant: str = "default",
        as_admin: bool = False,
        ttl: float | None = None,
        state_history: bool = False,
    ) -> Self:
        """A store by URL: `memory://`, `sqlite:///file.db`. It connects at its first use, or at `async with`.

        `cache`: how many sessions to keep in memory, checked against the database at every use. `tenant`: nothing crosses tenants.
        `as_admin`: see every user's sessions. `ttl`: seconds after its last use a new session expires (see `sweep`). `state_history`: each
        commit tells in the log what it changes in the state (`session.state_history()`). Options go in the URL:
        `sqlite:///file.db?synchronous=normal&busy_timeout=5`. A database over a network (`postgresql://`, `redis://`, `dynamodb://`) that
        can't be reached is tried again for a few seconds. Raises `InvalidURL`, `MissingExtra`.
        """
        backend = backend_for(url)
        if not backend.capabilities.in_place:  # it is elsewhere, and may be away for a moment
            backend = RetriedBackend(backend, deadline=_AWAY_SECONDS)
        return cls(backend, cache=cache, tenant=tenant, as_admin=as_admin, ttl=ttl, state_history=state_history)

    @classmethod
    def shared(cls, store: Self | str) -> Self:
        """`store` itself, or the process's one store for that URL: opened by its first use, closed at the end of the process."""
        if not isinstance(store, str):
            return store
        return _shared.get(store) or _shared.setdefault(store, cls.open(store))  # type: ignore[return-value]  # whoever subclasses opens its own

    def cached(self, size: int) -> Self:
        """This store with a cache of `size` sessions in front; the same store if it has one. Closing either closes the database."""
        if cache_of(self.backend) is not None:
            return self
        return type(self)(self.backend, cache=size, **self.options)

    def traced(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> Self:
        """This store with OpenTelemetry around its backend, its cache included: see `wrappers.TracedBackend`. Closing either closes the
        database. `MissingExtra` without the extra `otel`."""
        from .wrappers.tracing import TracedBackend

        providers: dict[str, Any] = {
            "tracer_provider": tracer_provider,
            "meter_provider": meter_provider,
            "logger_provider": logger_provider,
        }
        return type(self)(TracedBackend(self.backend, **providers), **self.options)

    async def __aenter__(self) -> Self:
        await self.backend.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish what is under way and let go of the database."""
        for url in [url for url, store in _shared.items() if store is self]:
            del _shared[url]
        await self.backend.close()

    @property
    def tenant(self) -> str:
        return self._link.tenant

    @property
    def as_admin(self) -> bool:
        return self._link.as_admin

    @property
    def ttl(self) -> float | None:
        return self._link.ttl

    @property
    def options(self) -> Options:
        """How it was opened: what another store over the same backend is opened with."""
        it = self._link
        return Options(tenant=it.tenant, as_admin=it.as_admin, ttl=it.ttl, state_history=it.state_history)

    @property
    def cache_stats(self) -> CacheStats:
        """Counters of the cache; all zero when there is none."""
        cache = cache_of(self.backend)
        return CacheStats() if cache is None else msgspec.convert(cache.stats, CacheStats, from_attributes=True)

    # --- sessions ---

    async def session(
        self, session: str | Session | None = None, *, user_id: str | None = None, kind: str | None = None, parent: str | None = None
    ) -> Session:
        """Get the session with this id, or create it; without an id, a new one. A `Session(id=...)` object is taken into the store.

        An unowned session becomes `user_id`'s. `SessionNotFound` when it is another user's: nothing is created then.
        """
        handle = session if isinstance(session, Session) else Session(session, user_id=user_id)
        if user_id is not None:
            handle.user_id = check_id(user_id, "user id")
        key = Key(self.tenant, handle.id)
        snapshot = await self.backend.read(key, ReadPlan(state_since=0)) if session is not None else None
        if snapshot is not None:
            self._admit(key, snapshot, handle.user_id)
        if snapshot is not None and snapshot.head.user_id is None and handle.user_id is not None:
            snapshot = await self._adopt(key, snapshot, handle.user_id)
        elif snapshot is not None:
            await touch(self._link, key, snapshot.head, handle.user_id)
        if snapshot is None:
            snapshot = await self._create(key, handle.user_id, kind, parent)
        handle.attach(self._link, snapshot)
        return handle

    def handle(self, session: str | Session | None = None, *, user_id: str | None = None) -> Session:
        """A handle on the session with this id (a new id without one), nothing read: its first write creates the session where it isn't.

        For who reads and writes by `Session.write` in one request. A `Session` that belongs to a store already stays as it is.
        """
        handle = session if isinstance(session, Session) else Session(session, user_id=user_id)
        if user_id is not None and handle.attached and handle.user_id not in (None, user_id):
            raise InvalidValue(f"user_id={user_id!r}: this session is a handle of user {handle.user_id!r}; name the session by its id")
        if user_id is not None:
            handle.user_id = check_id(user_id, "user id")
        if not handle.attached:
            handle.attach(self._link, None)
        return handle

    async def get(self, session_id: str, *, user_id: str | None = None) -> Session | None:
        """The session, or None where there is none for this caller. Never creates."""
        snapshot = await self._look(session_id, user_id, ReadPlan(state_since=0))
        if snapshot is None:
            return None
        handle = Session(session_id, user_id=user_id)
        await touch(self._link, Key(self.tenant, session_id), snapshot.head, user_id)
        handle.attach(self._link, snapshot)
        return handle

    async def scope(self, scope: Scope, *, user_id: str | None = None) -> State:
        """The state of wider scope, as it is now: `user`, shared by all sessions of this user, or `app`, by all of the tenant.

        What is set on it is written by its `commit`. In a session, `await session.scope(...)` gives one that is written with it.
        """
        return (await Session.of_scope(scope, user_id, self._link)).state

    async def touch(self, session_id: str, head: Head, *, user_id: str | None = None) -> None:
        """What a read of a session's own does: put off its expiry. For who has read the backend itself and got `head`."""
        await touch(self._link, Key(self.tenant, session_id), head, user_id)

    async def has(self, session_id: str, *, user_id: str | None = None) -> bool:
        """Whether there is such a session for this caller."""
        return await self._look(session_id, user_id, ReadPlan()) is not None

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        """Remove a session and everything it holds, its members' sessions too; False where there is none for this caller."""
        return await erase(self._link, Key(self.tenant, check_session_id(session_id)), user_id)

    async def list(self, *, limit: int = 50, cursor: str | None = None, **wanted: Unpack[Wanted]) -> SessionPage:
        """One page of this tenant's sessions as `Wanted`, the newest created first; pages are stable while sessions come and go."""
        if not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValue(f"limit={limit!r}: a page holds 1 to {MAX_PAGE} sessions")
        page = await self.backend.list(_filter(self.tenant, **wanted), _checked_cursor(cursor), limit)
        shown = [info_of(session_id, head) for session_id, head in page.items if not session_id.startswith(SCOPE_PREFIXES)]
        return SessionPage(shown, page.cursor)

    async def sessions(self, **wanted: Unpack[Wanted]) -> AsyncIterator[SessionInfo]:
        """Every session as `Wanted`, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list(**wanted, cursor=cursor, limit=200)
            for item in page.items:
                yield item
            if (cursor := page.cursor) is None:
                return

    async def requirements(self, *, user_id: str | None = None) -> AsyncIterator[tuple[SessionInfo, Requirement]]:
        """What paused runs wait for, with their sessions: of every user's (as an admin), or of one user's; the newest session first.

        What a member of a team or a workflow waits for is listed once: as that of the run it works for.
        """
        async for info in self.sessions(waiting=True, user_id=user_id):
            session = await self.get(info.id, user_id=user_id)
            parent = None if info.parent is None else await self.get(info.parent, user_id=user_id)
            if session is None or (info.parent is not None and parent is None):
                continue  # it is gone, or what it was a part of is
            passed_on = set[str]() if parent is None else await parent.passed_on()
            for requirement in await session.requirements():
                if requirement.id not in passed_on and not (parent is not None and await _is_over(parent, requirement.run_id)):
                    yield info, requirement

    async def sweep(self, *, limit: int = 1000) -> int:
        """Remove up to `limit` expired sessions, of every tenant, from the database; how many. They can't be seen even before that.

        A store opened with a `ttl` removes a few by itself when it makes a session, at most once a minute.
        """
        if not isinstance(limit, int) or limit < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"limit={limit!r}: give the number of sessions to remove at most, 1 or more")
        return await self.backend.sweep(limit)

    async def tidy(self) -> None:
        """What a store with a `ttl` does when sessions are made: remove a few expired ones, at most once a minute."""
        if self.ttl is not None and time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP_EVERY
            with suppress(HoldfastError):  # housekeeping: the caller asked for a session, and a later sweep takes what this one left
                await self.backend.sweep(_SWEPT_AT_ONCE)

    # --- moving ---

    async def export(self, session_id: str, *, user_id: str | None = None) -> AsyncIterator[str]:
        """The session as JSON Lines (without line ends): a head, then state, entries (hidden ones too) and blobs."""
        snapshot = await self._look(session_id, user_id, transfer.EVERYTHING)
        if snapshot is None:
            raise SessionNotFound(f"there is no {Key(self.tenant, session_id)}")
        for line in transfer.lines(session_id, snapshot):
            yield line

    async def import_(self, lines: Iterable[str], *, session_id: str | None = None, user_id: str | None = None) -> Session:
        """A new session from the lines of `export`, whole or not at all. `SessionExists` when its id is taken.

        `session_id`, `user_id`: another id or owner than the exported one's.
        """
        parcel = transfer.parse(lines)
        handle = Session(
            parcel.session_id if session_id is None else session_id, user_id=parcel.head.user_id if user_id is None else user_id
        )
        commit = transfer.commit(parcel, handle.user_id, check_owner=not self._link.as_admin)
        outcome = await self.backend.commit(Key(self.tenant, handle.id), commit)
        handle.attach(self._link, outcome.snapshot)
        return handle

    # --- how ---

    async def _look(self, session_id: str, user_id: str | None, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.backend.read(Key(self.tenant, check_session_id(session_id)), plan)
        return snapshot if snapshot is not None and may_use(snapshot.head, user_id, not self._link.as_admin) else None

    def _admit(self, key: Key, snapshot: Snapshot, user_id: str | None) -> None:
        if not may_use(snapshot.head, user_id, not self._link.as_admin):
            raise SessionNotFound(f"there is no {key} for {'a caller without a user id' if user_id is None else f'user {user_id!r}'}")

    async def _adopt(self, key: Key, snapshot: Snapshot, user_id: str) -> Snapshot | None:
        """Make an unowned session this user's; None when it has gone meanwhile."""
        try:
            adopting = self._link.commit(user_id, incarnation=snapshot.head.incarnation, answer=ReadPlan(state_since=0))
            return (await self.backend.commit(key, adopting)).snapshot
        except SessionGone:
            return None

    async def _create(self, key: Key, user_id: str | None, kind: str | None, parent: str | None) -> Snapshot | None:
        await self.tidy()
        given: dict[str, Any] = {name: value for name, value in (("kind", kind), ("parent", parent)) if value is not None}
        create = self._link.create(HeadPatch(**given))
        commit = self._link.commit(user_id, create=create, answer=ReadPlan(state_since=0))
        return (await self.backend.commit(key, commit)).snapshot


_shared: dict[str, Store] = {}


class SessionManager:
    """The three verbs of a session manager, over a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get_or_create_session(self, session_id: str, *, user_id: str | None = None) -> Session:
        """`store.session`."""
        return await self._store.session(session_id, user_id=user_id)

    async def has_session(self, session_id: str, *, user_id: str | None = None) -> bool:
        """`store.has`."""
        return await self._store.has(session_id, user_id=user_id)

    async def delete_session(self, session_id: str, *, user_id: str | None = None) -> bool:
        """`store.delete`."""
        return await self._store.delete(session_id, user_id=user_id)


# --- from a URL to a backend -----------------------------------------------------------------------------------------


_SCHEMES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "dynamodb": "dynamodb",
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), "redis"),
}
"""Which module of `backends` understands a URL, by its scheme. Its `from_url` gives the backend, not yet connected."""


def backend_for(url: str) -> Backend:
    """The backend a URL names, not yet connected. Its driver is imported now; `MissingExtra` says how to install one that isn't there."""
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidURL(f"a store URL is a string such as 'sqlite:///chat.db', not {type(url).__name__}")
    if not url.isprintable():
        raise InvalidURL(f"store URL {shown(url)!r} holds a character that can't be printed")
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in sorted(_SCHEMES))
        raise InvalidURL(f"store URL {shown(url)!r}: it must begin with one of {known}, as in 'sqlite:///chat.db'")
    return _module(scheme).from_url(url)


def _module(scheme: str) -> Any:
    name = _SCHEMES[scheme]
    try:
        return import_module(f".backends.{name}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(f"{__package__}."):
            raise
        raise MissingExtra(f'{scheme}:// needs {error.name}, which is not installed: pip install "holdfast[{name}]"') from error


async def _is_over(session: Session, run_id: str) -> bool:
    """Whether a member's run works for one of `session` that has ended for good, or was rewound."""
    for above in runs_above(run_id):
        log = await session.entries(kinds=(RUN,), run_id=above, hidden=True)
        if log:
            return log[-1].hidden or session.folded(log)[-1].status in (COMPLETED, CANCELLED)
    return False


def _filter(tenant: str, **wanted: Unpack[Wanted]) -> Filter:
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    for name in given.keys() & _WANTED.keys():
        kind, fix = _WANTED[name]
        if not isinstance(given[name], kind):
            raise InvalidValue(f"{name}={given[name]!r:.80}: give {fix}")
    for name in given.keys() & _MOMENTS:
        given[name] = to_micros(name, given[name])
    return Filter(tenant=tenant, **given)


def _checked_cursor(cursor: str | None) -> str | None:
    if cursor is not None and not (isinstance(cursor, str) and cursor.isprintable() and 0 < len(cursor) <= _CURSOR):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"cursor {cursor!r:.80} is not one that a list returned")
    return cursor
