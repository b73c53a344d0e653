"""Connections to one server: made, lent to one exchange at a time, given back, and let go of on either side of a fork.

A connection belongs to one event loop, and so does a `Pool`. A connection whose exchange did not end is never used again.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import RedisError, ResponseError

from .errors import LOST, broken, closed, unreachable

Address = tuple[str, int]
Packed = list[bytes]
"""A command's words."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How connections are made. `options` are arguments of `kind`, without host and port. Times in seconds."""

    kind: type[AbstractConnection]
    options: dict[str, Any]
    timeout: float
    connect_timeout: float
    connections: int

    def make(self, address: Address) -> AbstractConnection:
        place: dict[str, Any] = dict(zip(("host", "port"), address, strict=True)) if issubclass(self.kind, Connection) else {}
        return self.kind(**self.options, **place)


OWN_WAY: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_timeout": None,  # an exchange has one deadline, not one for each of its parts
    "retry": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
    "health_check_interval": 0,
    "maint_notifications_config": None,
    "maint_notifications_pool_handler": None,
}
"""What connections of ours are like, whatever the client does whose settings they take."""


def secure(tls: bool) -> type[AbstractConnection]:
    return SSLConnection if tls else Connection


class Pool:
    """The connections of one event loop to one server, at most so many; who wants more waits."""

    def __init__(self, settings: Settings, address: Address) -> None:
        self.address = address
        self.where = "{}:{}".format(*address)
        self._settings = settings
        self._idle: deque[AbstractConnection] = deque()
        self._lent: set[AbstractConnection] = set()
        self._free = asyncio.Semaphore(settings.connections)
        self._closed = False

    async def exchange(self, commands: Iterable[Packed], *, writing: bool) -> list[Any]:
        """Send the commands in one piece: their answers in order, errors among them as values.

        `StoreUnavailable` where nothing was sent or nothing can have been written, `OutcomeUnknown` where it can.
        """
        commands = list(commands)
        async with self._free:
            if self._closed:
                raise closed(self.where)
            connection = await self._take()
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await connection.send_packed_command(pack(commands), check_health=False)
                    answers = [await _answer(connection) for _ in commands]
            except LOST as error:
                await self._drop(connection)
                raise broken(self.where, error, writing=writing) from error
            except BaseException:
                await self._drop(connection)
                raise
            self._lent.discard(connection)
            self._idle.append(connection)
            return answers

    async def connect(self) -> AbstractConnection:
        """A connection that is the caller's alone, who gives it to `discard`. It counts for nothing here but a fork and the end."""
        connection = self._settings.make(self.address)
        self._lent.add(connection)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await connection.connect()
        except LOST as error:
            await self._drop(connection)
            raise unreachable(self.where, error) from error
        except BaseException:
            await self._drop(connection)
            raise
        return connection

    async def discard(self, connection: AbstractConnection) -> None:
        await self._drop(connection)

    async def _take(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            self._lent.add(connection)
            if await _usable(connection):
                return connection
            await self._drop(connection)
        return await self.connect()

    async def _drop(self, connection: AbstractConnection) -> None:
        self._lent.discard(connection)
        with suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)

    async def close(self, seconds: float) -> None:
        """Wait so long for what is under way, then let go of every connection. Who waits for one gets `StoreClosed`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(self._settings.connections):
                    await self._free.acquire()
        self._closed = True
        for _ in range(self._settings.connections):
            self._free.release()
        for connection in (*self._idle, *self._lent):
            with suppress(RedisError, OSError):
                await connection.disconnect()
        self._idle.clear()
        self._lent.clear()

    def disown(self) -> None:
        """In a forked child: put nothing in the place of every inherited socket, so that the parent's stay its own."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for connection in (*self._idle, *self._lent):
            if (descriptor := _descriptor(connection)) >= 0:
                os.dup2(nothing, descriptor)
        os.close(nothing)


def pack(commands: list[Packed]) -> bytes:
    """The commands as the protocol writes them."""
    pieces: list[bytes] = []
    for words in commands:
        pieces.append(b"*%d\r\n" % len(words))
        pieces += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(pieces)


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return cast("Any", await connection.read_response(disable_decoding=True))  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        return error


async def _usable(connection: AbstractConnection) -> bool:
    """Whether an idle connection is still connected, with nothing unread in it."""
    try:
        return connection.is_connected and not await connection.can_read()
    except (RedisError, OSError):
        return False


def _descriptor(connection: AbstractConnection) -> int:
    writer: Any = connection._writer  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]  # it has neither a public name nor a type
    socket: Any = None if writer is None else writer.get_extra_info("socket")
    return -1 if socket is None else int(socket.fileno())
