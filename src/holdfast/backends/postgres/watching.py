"""Watching sessions: a connection that listens, for as long as somebody watches, and a lock that tells writers so.

Whoever watches a session holds a shared advisory lock on it. A commit tries for the exclusive one and notifies only where it can't have
it: while nobody watches, no commit pays for a notification. A commit that got it before the watcher came is one the watcher waits for,
and then reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, Notify
from psycopg.types.numeric import Int8

from ...backend import Key
from . import trouble
from .connections import Connection, ask, leave_behind
from .queries import channel, queries

_POLL_SECONDS = 0.2


class Ear:
    """One watcher's. Once it is `deaf` nothing more will be heard."""

    deaf = False

    async def wait(self) -> None:
        """Until there may be news."""
        await asyncio.sleep(_POLL_SECONDS)


class _Listening(Ear):
    """Its `event` is set at each commit to what it watches, and when it goes deaf."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.event = asyncio.Event()

    async def wait(self) -> None:
        await self.event.wait()
        self.event.clear()


class Listeners:
    """The listeners of a backend, one for each event loop; without a `dsn` to listen on, watching is looking again and again."""

    def __init__(self, conninfo: str | None, schema: str, where: str) -> None:
        self._conninfo, self._schema, self._where = conninfo, schema, where
        self._listeners: dict[asyncio.AbstractEventLoop, Listener] = {}

    @asynccontextmanager
    async def ear(self, key: Key) -> AsyncGenerator[Ear]:
        """An ear for the session, for the length of the block."""
        if self._conninfo is None:
            yield Ear()
            return
        loop = asyncio.get_running_loop()
        for dead in [it for it in self._listeners if it.is_closed()]:
            self._listeners.pop(dead).end()
        listener = self._listeners.setdefault(loop, Listener(self._conninfo, self._schema, self._where))
        ear = await listener.join(key)
        try:
            yield ear
        finally:
            await listener.leave(ear)

    def close(self) -> None:
        """Every ear goes deaf."""
        for loop, listener in self._listeners.items():
            if loop.is_running():
                loop.call_soon_threadsafe(listener.end)
            else:
                listener.end()

    def after_fork(self) -> None:
        leave_behind(self._listeners)
        self._listeners = {}


class Listener:
    """The listening connection of one event loop, there while somebody watches."""

    def __init__(self, conninfo: str, schema: str, where: str) -> None:
        self._conninfo, self._schema, self._where = conninfo, schema, where
        self._ears: dict[int, set[_Listening]] = {}
        self._changing = asyncio.Lock()
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = -1

    async def join(self, key: Key) -> _Listening:
        """An ear for the session: from now on no commit to it goes unheard. `StoreUnavailable`; `leave` must follow."""
        async with self._changing:
            try:
                return await self._join(key)
            except psycopg.Error as error:
                self.end()
                raise trouble.translate(self._where, error, writing=False) from error

    async def _join(self, key: Key) -> _Listening:
        connection = self._connection = self._connection or await self._connect()
        try:
            named = queries(self._schema)["watch_key"], {"tenant": key.tenant, "session": key.session_id}
            [[(place,)]] = await ask(connection, named)
            if place not in self._ears:
                await ask(connection, (b"SELECT pg_advisory_lock_shared(%(place)s)", {"place": Int8(place)}))
        finally:
            self._listen_on(connection)
        ear = _Listening(place)
        self._ears.setdefault(place, set()).add(ear)
        return ear

    async def leave(self, ear: _Listening) -> None:
        """The last to leave a session unlocks it, the last of all ends the connection."""
        async with self._changing:
            ears = self._ears.get(ear.place, set())
            ears.discard(ear)
            if ear.deaf or ears:
                return
            del self._ears[ear.place]
            if not self._ears:
                self.end()
            elif self._connection is not None:
                await self._unlock(self._connection, ear.place)

    async def _unlock(self, connection: Connection, place: int) -> None:
        try:
            await ask(connection, (b"SELECT pg_advisory_unlock_shared(%(place)s)", {"place": Int8(place)}))
            self._listen_on(connection)
        except psycopg.Error:
            self.end()

    async def _connect(self) -> Connection:
        connection = await AsyncConnection[tuple[object, ...]].connect(self._conninfo, autocommit=True)
        connection.add_notify_handler(self._heard)
        await ask(connection, (f'LISTEN "{channel(self._schema)}"'.encode(), {}))
        return connection

    def _listen_on(self, connection: Connection) -> None:
        """While the driver itself waits for an answer it has the socket to itself; in between we read it."""
        if not connection.closed:
            self._socket = connection.fileno()
            self._loop.add_reader(self._socket, self._readable, connection)

    def _readable(self, connection: Connection) -> None:
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            self.end()
            return
        while (told := connection.pgconn.notifies()) is not None:
            self._tell(told.extra.decode())

    def _heard(self, told: Notify) -> None:
        self._tell(told.payload)

    def _tell(self, place: str) -> None:
        for ear in self._ears.get(int(place), ()):
            ear.event.set()

    def end(self) -> None:
        """Close the connection; whoever still has an ear learns that it is deaf."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)  # by its number: the driver may have closed it
            connection.pgconn.finish()
        ears, self._ears = self._ears, {}
        for ear in (ear for group in ears.values() for ear in group):
            ear.deaf = True
            ear.event.set()
