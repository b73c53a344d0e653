"""The blocking form of stores and sessions, and the bridge every blocking class goes over.

A backend that works in place (SQLite, memory) runs on the calling thread; for any
other, and for what needs a heartbeat, the work goes to one portal thread with an event loop.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from decimal import Decimal
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from .. import running as aio_running
from .. import session as aio
from .. import state as aio_state
from .. import store as aio_store
from ..backend import Backend, Counts
from ..entries import COMPLETED, Entry
from ..errors import HoldfastError, InvalidValue
from ..files import FileInfo
from ..info import SessionInfo
from ..large import Stored
from ..messages import Message
from ..requirements import Requirement
from ..runs import LEASE, WAIT, Metrics, RunInfo
from ..state import Scope
from ..store import CacheStats, SessionPage, Wanted

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

T = TypeVar("T")


class Portal:
    """The one thread with an event loop, started when it is first needed, gone at exit, made anew in a forked child.

    anyio's `start_blocking_portal` would do, but for the fork: let go of in the child, it waits there for a thread that stayed behind.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def get(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._portal = self._start()
            return self._portal

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Generator[T]:
        """Enter and leave `manager` there; after a fork, or at the end of the process, there is nothing to leave any more."""
        portal = self.get()
        wrapped = portal.wrap_async_context_manager(manager)
        value = wrapped.__enter__()
        try:
            yield value
        finally:
            if portal is self._portal:
                wrapped.__exit__(*sys.exc_info())

    def _start(self) -> BlockingPortal:
        import anyio
        from anyio.from_thread import BlockingPortal

        ready: SimpleQueue[BlockingPortal] = SimpleQueue()

        async def serve() -> None:
            async with BlockingPortal() as portal:
                ready.put(portal)
                await portal.sleep_until_stopped()

        self._thread = threading.Thread(target=anyio.run, args=(serve,), name="holdfast-portal", daemon=True)
        self._thread.start()
        atexit.register(self._stop)  # now, not at import: it has to come before the backends let go
        return ready.get()

    def _stop(self) -> None:
        """End what still runs there (a run is recorded as cancelled), then the thread."""
        if self._portal is not None and self._thread is not None and self._thread.is_alive():
            self._portal.call(self._portal.stop, True)
            self._thread.join()
        self._portal = None


portal = Portal()


class Bridge:
    """Runs coroutines to their end for a blocking caller."""

    def __init__(self, backend: Backend) -> None:
        self._in_place = backend.capabilities.in_place

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._in_place and asyncio._get_running_loop() is None:  # pyright: ignore[reportPrivateUsage]  # the one that doesn't raise
            return _drive(coroutine)
        return portal.get().call(waited, coroutine)

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        while True:
            try:
                yield self.call(_next(items))
            except StopAsyncIteration:
                return


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise HoldfastError("this backend declares that it works in place, and suspended")


async def waited(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


class Store:
    """`holdfast.Store`, blocking."""

    def __init__(self, store: aio_store.Store) -> None:
        if not isinstance(store, aio_store.Store):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue("holdfast.sync.Store(...) takes a holdfast.Store: write Store.open('sqlite:///chat.db') for a URL")
        self.aio = store
        self._bridge = Bridge(store.backend)
        self.session_manager = SessionManager(self)

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
        options: aio_store.Options = {"tenant": tenant, "as_admin": as_admin, "ttl": ttl, "state_history": state_history}
        return cls(aio_store.Store.open(url, cache=cache, **options))

    @classmethod
    def shared(cls, store: Self | str) -> Self:
        return cls(aio_store.Store.shared(store)) if isinstance(store, str) else store

    def cached(self, size: int) -> Self:
        return type(self)(self.aio.cached(size))

    def traced(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> Self:
        inner = self.aio.traced(tracer_provider=tracer_provider, meter_provider=meter_provider, logger_provider=logger_provider)
        return type(self)(inner)

    def __enter__(self) -> Self:
        self._bridge.call(self.aio.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._bridge.call(self.aio.close())

    @property
    def backend(self) -> Backend:
        return self.aio.backend

    @property
    def tenant(self) -> str:
        return self.aio.tenant

    @property
    def as_admin(self) -> bool:
        return self.aio.as_admin

    @property
    def ttl(self) -> float | None:
        return self.aio.ttl

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine over `aio` returns; for adapters that must block."""
        return self._bridge.call(coroutine)

    @property
    def options(self) -> aio_store.Options:
        return self.aio.options

    @property
    def cache_stats(self) -> CacheStats:
        return self.aio.cache_stats

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """What the iterator gives, one after the other, as `call` does."""
        return self._bridge.each(items)

    def session(
        self, session: str | Session | None = None, *, user_id: str | None = None, kind: str | None = None, parent: str | None = None
    ) -> Session:
        inner = session.aio if isinstance(session, Session) else session
        taken = self._bridge.call(self.aio.session(inner, user_id=user_id, kind=kind, parent=parent))
        return session.taken(self._bridge) if isinstance(session, Session) else Session.of(taken, self._bridge)

    def get(self, session_id: str, *, user_id: str | None = None) -> Session | None:
        found = self._bridge.call(self.aio.get(session_id, user_id=user_id))
        return found and Session.of(found, self._bridge)

    def scope(self, scope: Scope, *, user_id: str | None = None) -> State:
        return State(self._bridge.call(self.aio.scope(scope, user_id=user_id)), self)

    def has(self, session_id: str, *, user_id: str | None = None) -> bool:
        return self._bridge.call(self.aio.has(session_id, user_id=user_id))

    def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return self._bridge.call(self.aio.delete(session_id, user_id=user_id))

    def list(self, *, limit: int = 50, cursor: str | None = None, **wanted: Unpack[Wanted]) -> SessionPage:
        return self._bridge.call(self.aio.list(**wanted, limit=limit, cursor=cursor))

    def sessions(self, **wanted: Unpack[Wanted]) -> Iterator[SessionInfo]:
        return self._bridge.each(self.aio.sessions(**wanted))

    def requirements(self, *, user_id: str | None = None) -> Iterator[tuple[SessionInfo, Requirement]]:
        return self._bridge.each(self.aio.requirements(user_id=user_id))

    def sweep(self, *, limit: int = 1000) -> int:
        return self._bridge.call(self.aio.sweep(limit=limit))

    def export(self, session_id: str, *, user_id: str | None = None) -> Iterator[str]:
        return self._bridge.each(self.aio.export(session_id, user_id=user_id))

    def import_(self, lines: Iterable[str], *, session_id: str | None = None, user_id: str | None = None) -> Session:
        return Session.of(self._bridge.call(self.aio.import_(lines, session_id=session_id, user_id=user_id)), self._bridge)


class SessionManager:
    """`store.session_manager`, blocking."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_or_create_session(self, session_id: str, *, user_id: str | None = None) -> Session:
        return self._store.session(session_id, user_id=user_id)

    def has_session(self, session_id: str, *, user_id: str | None = None) -> bool:
        return self._store.has(session_id, user_id=user_id)

    def delete_session(self, session_id: str, *, user_id: str | None = None) -> bool:
        return self._store.delete(session_id, user_id=user_id)


class State(aio_state.KeyValues):
    """`session.state`, blocking."""

    def __init__(self, state: aio_state.State, session: Session | Store) -> None:
        self.aio = state
        self._session = session

    def __getitem__(self, key: str) -> Any:
        return self.aio[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.aio[key] = value

    def __delitem__(self, key: str) -> None:
        del self.aio[key]

    def __contains__(self, key: object) -> bool:
        return key in self.aio

    def __iter__(self) -> Iterator[str]:
        return iter(self.aio)

    def __len__(self) -> int:
        return len(self.aio)

    def __repr__(self) -> str:
        return repr(self.aio)

    def get(self, key: str, default: Any = None, /, *, as_: type[Any] | None = None) -> Any:
        return self.aio.get(key, default, as_=as_)

    def commit(self) -> int:
        return self._session.call(self.aio.commit())

    def increment(self, key: str, by: float | Decimal = 1) -> Any:
        return self._session.call(self.aio.increment(key, by))

    def append(self, key: str, *items: Any) -> list[Any]:
        return self._session.call(self.aio.append(key, *items))

    def set_if(self, key: str, value: Any, *, expected: Any = None) -> bool:
        return self._session.call(self.aio.set_if(key, value, expected=expected))


class Session:
    """`holdfast.Session`, blocking."""

    form_of = aio.Session

    def __init__(self, id: str | None = None, *, user_id: str | None = None) -> None:
        self._adopt(aio.Session(id, user_id=user_id))

    def _adopt(self, session: aio.Session) -> None:
        self.aio = session
        self._bridge: Bridge | None = None
        self.state = State(session.state, self)
        self._cache = State(session.get_non_volatile_cache(), self)

    @classmethod
    def of(cls, session: aio.Session, bridge: Bridge) -> Self:
        """The blocking form of an asynchronous handle."""
        made = cls.__new__(cls)
        made._adopt(session)
        return made.taken(bridge)

    def taken(self, bridge: Bridge) -> Self:
        self._bridge = bridge
        return self

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._bridge.call(coroutine) if self._bridge else _drive(coroutine)

    def __repr__(self) -> str:
        return repr(self.aio)

    @property
    def id(self) -> str:
        return self.aio.id

    @property
    def session_id(self) -> str:
        return self.aio.id

    @property
    def user_id(self) -> str | None:
        return self.aio.user_id

    @property
    def version(self) -> int:
        return self.aio.version

    @property
    def info(self) -> SessionInfo:
        return self.aio.info

    @property
    def metrics(self) -> Counts:
        return self.aio.metrics

    @property
    def name(self) -> str | None:
        return self.aio.name

    @property
    def metadata(self) -> dict[str, Any]:
        return self.aio.metadata

    @property
    def service_session_id(self) -> Any:
        return self.aio.service_session_id

    @service_session_id.setter
    def service_session_id(self, value: Any) -> None:
        self.aio.service_session_id = value

    def get(self, key: str, default: Any = None, *, as_: type[Any] | None = None) -> Any:
        return self.aio.get(key, default, as_=as_)

    def set(self, key: str, value: Any) -> None:
        self.aio.set(key, value)

    def has_key(self, key: str) -> bool:
        return self.aio.has_key(key)

    def get_all_keys(self) -> list[str]:
        return self.aio.get_all_keys()

    def get_volatile_cache(self) -> aio_state.VolatileCache:
        return self.aio.get_volatile_cache()

    def get_non_volatile_cache(self) -> State:
        return self._cache

    def scope(self, scope: Scope) -> State:
        return State(self.call(self.aio.scope(scope)), self)

    def clear(self) -> None:
        self.aio.clear()

    def commit(self, *, expect: int | None = None, commit_id: str | None = None) -> int:
        return self.call(self.aio.commit(expect=expect, commit_id=commit_id))

    def append(self, *messages: Message, expect: int | None = None, commit_id: str | None = None) -> int:
        return self.call(self.aio.append(*messages, expect=expect, commit_id=commit_id))

    def rename(self, name: str | None) -> None:
        self.call(self.aio.rename(name))

    def update_metadata(self, **metadata: Any) -> None:
        self.call(self.aio.update_metadata(**metadata))

    def set_ttl(self, seconds: float | None) -> None:
        self.call(self.aio.set_ttl(seconds))

    def rewind(self, *, to: int | None = None, last: int | None = None) -> int:
        return self.call(self.aio.rewind(to=to, last=last))

    def pop(self) -> Message | None:
        return self.call(self.aio.pop())

    def replace(self, messages: Sequence[Message], *, expect: int | None = None) -> int:
        return self.call(self.aio.replace(messages, expect=expect))

    def delete(self) -> None:
        self.call(self.aio.delete())

    def fork(self, id: str | None = None, *, at: int | None = None, name: str | None = None) -> Session:
        forked = self.call(self.aio.fork(id, at=at, name=name))
        assert self._bridge is not None
        return Session.of(forked, self._bridge)

    def get_messages(self, *, last: int | None = None, before: int | None = None, light: bool = False) -> list[Message]:
        return self.call(self.aio.get_messages(last=last, before=before, light=light))

    def get_chat_history(self, *, last: int | None = None) -> list[Message]:
        return self.call(self.aio.get_chat_history(last=last))

    def entries(
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
        wanted = self.aio.entries(
            last=last, first=first, after=after, before=before, kinds=kinds, run_id=run_id, hidden=hidden, light=light
        )
        return self.call(wanted)

    def whole(self, items: Sequence[Stored]) -> list[Stored]:
        return self.call(self.aio.whole(items))

    def put_file(self, name: str, data: bytes | str, *, type: str | None = None) -> None:
        self.call(self.aio.put_file(name, data, type=type))

    def get_file(self, name: str) -> bytes:
        return self.call(self.aio.get_file(name))

    def list_files(self) -> list[FileInfo]:
        return self.call(self.aio.list_files())

    def delete_file(self, name: str) -> None:
        self.call(self.aio.delete_file(name))

    def get_summary(self) -> str | None:
        return self.call(self.aio.get_summary())

    def runs(self, *, last: int = 20) -> list[RunInfo]:
        return self.call(self.aio.runs(last=last))

    def cancel_run(self, run_id: str) -> bool:
        return self.call(self.aio.cancel_run(run_id))

    def release_run(self, run_id: str) -> bool:
        return self.call(self.aio.release_run(run_id))

    def get_run(self, run_id: str) -> RunInfo | None:
        return self.call(self.aio.get_run(run_id))

    def requirements(self, *, members: bool = False) -> list[Requirement]:
        return self.call(self.aio.requirements(members=members))

    def state_history(self, key: str | None = None, *, last: int = 50) -> list[aio_state.StateChange]:
        return self.call(self.aio.state_history(key, last=last))

    def refresh(self) -> None:
        self.call(self.aio.refresh())

    @staticmethod
    def current() -> Session:
        session = aio.Session.current()
        return Session.of(session, Bridge(session.backend))

    @contextmanager
    def claim(self, *, wait: float = WAIT, lease: float = LEASE, holder: str | None = None) -> Generator[int]:
        with self._holding(self.aio.claim(wait=wait, lease=lease, holder=holder)) as fence:
            yield fence

    @contextmanager
    def run(
        self, *input: Message, run_id: str | None = None, agent: str | None = None, wait: float = WAIT, lease: float = LEASE
    ) -> Generator[Run]:
        running = self.aio.run(*input, run_id=run_id, agent=agent, wait=wait, lease=lease)
        with self._holding(running) as run:
            yield Run(run, self)

    @contextmanager
    def _holding(self, manager: AbstractAsyncContextManager[T]) -> Generator[T]:
        try:
            with portal.entered(manager) as value:
                yield value
        finally:
            self.aio.forget_claim()  # in a forked child nobody else does: the claim is the parent's

    def to_dict(self) -> dict[str, Any]:
        return self.aio.to_dict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        made = cls.__new__(cls)
        made._adopt(aio.Session.from_dict(data))
        return made


class Run:
    """A run under way, blocking."""

    def __init__(self, run: aio_running.Run, session: Session) -> None:
        self.aio = run
        self.session = session

    @property
    def id(self) -> str:
        return self.aio.id

    @property
    def agent(self) -> str | None:
        return self.aio.agent

    @property
    def attempt(self) -> int:
        return self.aio.attempt

    @property
    def fence(self) -> int:
        return self.aio.fence

    @property
    def ended(self) -> bool:
        return self.aio.ended

    def append(self, *messages: Message) -> int:
        return self.session.call(self.aio.append(*messages))

    def finish(self, *messages: Message, status: str = COMPLETED, metrics: Metrics | None = None, error: str | None = None) -> int:
        return self.session.call(self.aio.finish(*messages, status=status, metrics=metrics, error=error))
