"""Connections to PostgreSQL: a pool per event loop, how work borrows one, and how pools end."""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import psycopg
import psycopg_pool
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.rows import tuple_row

from ...errors import StoreClosed, Unsupported
from . import trouble
from .plans import Row, Statement

T = TypeVar("T")
Connection: TypeAlias = AsyncConnection[Any]
Pool: TypeAlias = psycopg_pool.AsyncConnectionPool[Connection]

CONNECT_SECONDS = 10
"""How long to wait for a connection,"""
REFUSED_SECONDS = 2
"""and how long where the server refuses them: it may be starting."""
_INSIST_SECONDS = 0.01
_AGAIN = 10
"""How often work that the database refuses as not serializable is tried."""


class _Reporting(AsyncConnection[Any]):
    """A connection whose failure to come about is reported, for the pool only waits and tries again."""

    @classmethod
    async def connect(cls, conninfo: str = "", *, failed: Callable[[psycopg.Error], None], **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]  # only a pool calls it
        try:
            return await super().connect(conninfo, **options)
        except psycopg.Error as error:
            failed(error)
            raise
        except asyncio.CancelledError as error:
            asyncio.get_running_loop().call_soon(_insist, asyncio.current_task())
            error.__traceback__ = None  # its frames hold the half-made connection, which ends with them
            raise asyncio.CancelledError from None


def _insist(worker: asyncio.Task[Any] | None) -> None:
    """Cancel a pool's worker until it ends: it takes a cancelled connect for a failed one, and `asyncio.run` would wait forever."""
    if worker is not None and not worker.done():
        worker.cancel()
        asyncio.get_running_loop().call_later(_INSIST_SECONDS, _insist, worker)


class Connections(Protocol):
    """Where connections come from: pools of our own, or one that was given."""

    where: str
    """The server and the database, for messages."""
    failure: tuple[float, psycopg.Error] | None
    """The last connection that did not come about, and when by the monotonic clock."""

    async def pool(self) -> Pool:
        """The open pool of the running event loop."""
        ...

    async def close(self) -> None:
        """Let go; what has a connection keeps it until it ends."""
        ...

    def after_fork(self) -> None:
        """In the child: never touch what the parent uses."""
        ...


class OwnPools:
    """A pool for each event loop that asks; it ends with its loop, or all end with `close`."""

    def __init__(self, conninfo: str, where: str, *, size: int, pooler: bool) -> None:
        self.where = where
        self._conninfo = conninfo
        self._size = size
        self.failure: tuple[float, psycopg.Error] | None = None
        self._options: dict[str, Any] = {"autocommit": True, "failed": self._failed} | ({"prepare_threshold": None} if pooler else {})
        self._pools: dict[asyncio.AbstractEventLoop, _LoopPool] = {}
        self._lock = threading.Lock()
        self._closed = False

    def _failed(self, error: psycopg.Error) -> None:
        self.failure = time.monotonic(), error

    async def pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        mine = self._pools.get(loop) or await self._make(loop)
        return mine.pool

    async def _make(self, loop: asyncio.AbstractEventLoop) -> _LoopPool:
        self._forget_dead_loops()
        mine = _LoopPool(self._conninfo, self._options, self._size, lambda: self._pools.pop(loop, None))
        with self._lock:
            if self._closed:
                raise trouble.closed(self.where)
            self._pools[loop] = mine
        await mine.open()
        return mine

    def _forget_dead_loops(self) -> None:
        """Loops that were closed without a word (`asyncio.run` gives one, and their pools end there)."""
        for loop in [loop for loop in self._pools if loop.is_closed()]:
            if (dead := self._pools.pop(loop, None)) is not None:
                dead.drop()

    async def close(self) -> None:
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
        here = asyncio.get_running_loop()
        for loop, it in pools.items():
            if loop is here:
                await it.pool.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(it.pool.close(), loop))
            else:
                it.drop()

    def after_fork(self) -> None:
        leave_behind(self._pools)
        self._pools, self._lock = {}, threading.Lock()


_left_behind: list[object] = []


def leave_behind(inherited: object) -> None:
    """In a forked child: never collect this, for its end would reach into sockets and selectors that the parent uses."""
    _left_behind.append(inherited)


class _LoopPool:
    """One loop's pool. A loop that ends in good order ends it: it closes the generator that waits here."""

    def __init__(self, conninfo: str, options: dict[str, Any], size: int, ended: Callable[[], object]) -> None:
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.pool: Pool = psycopg_pool.AsyncConnectionPool(
            conninfo,
            connection_class=_Reporting,
            kwargs=options,
            min_size=0,
            max_size=size,
            open=False,
            configure=self._made,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
        )
        self._end = self._until_the_loop_ends(ended)

    async def open(self) -> None:
        await self.pool.open()
        await anext(self._end)

    async def _until_the_loop_ends(self, ended: Callable[[], object]) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            ended()
            self.drop()

    async def _made(self, connection: Connection) -> None:
        self._connections.add(connection)

    def drop(self) -> None:
        """Close every connection, of a loop that runs no more."""
        for connection in list(self._connections):
            connection.pgconn.finish()


class GivenPool:
    """A pool somebody else made, in whose loop alone it works. It is never closed here."""

    def __init__(self, pool: Pool, where: str) -> None:
        self.where = where
        self.failure: tuple[float, psycopg.Error] | None = None
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forked = False

    async def pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        if self._forked:
            raise StoreClosed(f"{self.where}: this process was forked, and the pool stays with its parent: make a pool and a store here")
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise Unsupported(f"{self.where}: a pool belongs to one event loop; open the store by URL to use it from several")
        return self._pool

    async def close(self) -> None:
        pass

    def after_fork(self) -> None:
        self._forked = True


class Worker:
    """Lends connections to pieces of work, in time and with errors in our words."""

    def __init__(self, connections: Connections, seconds: float) -> None:
        self.where = connections.where
        self._connections = connections
        self._seconds = seconds
        self._closed = False
        self.renew()

    def renew(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._idle = threading.Event()
        self._idle.set()

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, writing: bool = False) -> T:
        """The result of `work` on a connection. `writing`: a connection that breaks meanwhile is `OutcomeUnknown`.

        What the database refuses as not serializable is tried again a few times.
        """
        for attempt in range(_AGAIN):
            try:
                return await self._once(work, writing)
            except trouble.AGAIN as refused:
                if attempt == _AGAIN - 1:
                    raise trouble.translate(self.where, refused, writing=writing) from refused
            await asyncio.sleep(random.uniform(0, 0.002 * 2**attempt))
        raise AssertionError

    async def _once(self, work: Callable[[Connection], Awaitable[T]], writing: bool) -> T:
        self._enter()
        deadline = None
        try:
            async with self._borrowed() as connection:
                deadline = _Deadline(connection, self._seconds)
                try:
                    return await work(connection)
                finally:
                    deadline.lift()
        except trouble.AGAIN:
            raise
        except (psycopg.Error, psycopg_pool.PoolClosed) as error:
            if deadline is not None and deadline.passed:
                raise trouble.broken(self.where, f"no answer within {self._seconds:g} s, see timeout", writing=writing) from error
            raise trouble.translate(self.where, error, writing=writing and deadline is not None) from error
        finally:
            self._leave()

    def check_open(self) -> None:
        """`StoreClosed` after `close`."""
        if self._closed:
            raise trouble.closed(self.where)

    def _enter(self) -> None:
        with self._lock:
            self.check_open()
            self._busy += 1
            self._idle.clear()

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    @asynccontextmanager
    async def _borrowed(self) -> AsyncGenerator[Connection]:
        pool = await self._connections.pool()
        connection = await self._get(pool)
        while stale(connection):  # while it lay idle the server went, and came back perhaps
            await connection.close()
            await pool.putconn(connection)
            connection = await self._get(pool)
        alone = connection.autocommit
        try:
            if not alone:
                await connection.set_autocommit(True)
            yield connection
        finally:
            if not alone and connection.pgconn.transaction_status == TransactionStatus.IDLE:
                await connection.set_autocommit(False)
            await pool.putconn(connection)

    async def _get(self, pool: Pool) -> Connection:
        """A connection of the pool; the reason, soon, where the server lets none come about."""
        began = time.monotonic()
        try:
            return await pool.getconn(timeout=REFUSED_SECONDS)
        except psycopg_pool.PoolTimeout:
            failure = self._connections.failure
            if failure is not None and failure[0] > began:
                raise failure[1] from None
        return await pool.getconn(timeout=CONNECT_SECONDS - REFUSED_SECONDS)

    async def close(self) -> None:
        """Refuse what comes, and wait for what is under way."""
        self._closed = True
        await self._connections.close()
        if not self._idle.is_set():
            await asyncio.to_thread(self._idle.wait)


class _Deadline:
    """Hangs up once its time has passed: the driver wakes as it does when a line breaks.

    To cancel the task instead would have the driver ask the silent server, over a line of its own, to end the work, and wait.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self.passed = False
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(seconds, self._hang_up)

    def lift(self) -> None:
        self._timer.cancel()

    def _hang_up(self) -> None:
        self.passed = True
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def stale(connection: Connection) -> bool:
    """Whether an idle connection has been ended by the other side, as far as this one has heard."""
    with suppress(psycopg.Error):
        while connection.pgconn.status == ConnStatus.OK and _readable(connection.pgconn.socket):
            connection.pgconn.consume_input()
    return connection.pgconn.status != ConnStatus.OK


def _readable(line: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([line], [], [], 0)[0])
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(0))


async def ask(connection: Connection, *statements: Statement) -> list[list[Row]]:
    """The rows of each statement. All go out at once: one round trip, and one transaction unless one is open."""
    cursors = [AsyncCursor(connection, row_factory=tuple_row) for _ in statements]
    if len(statements) == 1:
        await cursors[0].execute(*statements[0], binary=True)
    else:
        async with connection.pipeline():
            for cursor, (sql, values) in zip(cursors, statements, strict=True):
                await cursor.execute(sql, values, binary=True)
    return [await cursor.fetchall() if _has_rows(cursor) else [] for cursor in cursors]


def _has_rows(cursor: AsyncCursor[Row]) -> bool:
    """As `cursor.description`, without making it."""
    return cursor.pgresult is not None and cursor.pgresult.status == ExecStatus.TUPLES_OK
