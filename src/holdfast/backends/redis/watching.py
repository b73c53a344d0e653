"""Watching a session: a connection of the watcher's own, on which the server says that there was a commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from ...backend import Key, ReadPlan
from ...errors import StoreUnavailable
from .connections import Pool
from .errors import LOST

if TYPE_CHECKING:
    from . import RedisBackend

_SILENCE = 2.0
"""A watcher looks by itself after so many seconds: for expiry, of which nobody is told, and for what a broken connection has missed."""
_UNTOLD = 0.1
"""And after so many where it may not subscribe."""


class _Listener:
    """Hears of commits; where its connection broke it makes another one."""

    def __init__(self, backend: RedisBackend, key: Key) -> None:
        self._backend = backend
        self._place = backend.layout.place(key)
        self._pool: Pool | None = None
        self._connection: AbstractConnection | None = None
        self._allowed = True

    async def subscribe(self) -> None:
        if self._connection is not None or not self._allowed:
            return
        loop = await self._backend.loop()
        self._pool = await loop.nodes.pool_of(self._place.slot)
        self._connection = await self._pool.connect()
        try:
            await self._connection.send_command("SSUBSCRIBE", self._place.channel, check_health=False)
            await self._connection.read_response(disable_decoding=True)
        except ResponseError:
            self._allowed = False
            await self.close()
        except LOST:
            await self.close()

    async def hear(self) -> None:
        """Return when there may have been a commit."""
        if self._connection is None:
            await asyncio.sleep(_UNTOLD)
            return
        try:
            await self._connection.read_response(disable_decoding=True, timeout=_SILENCE)
        except LOST:
            await self.close()

    async def close(self) -> None:
        if self._pool is not None and self._connection is not None:
            connection, self._connection = self._connection, None
            await self._pool.discard(connection)


async def watch(backend: RedisBackend, key: Key, after: int) -> AsyncIterator[int]:
    """As `Watch.watch`. While the server is away it waits for it."""
    listener = _Listener(backend, key)
    try:
        while True:
            try:
                await listener.subscribe()
                snapshot = await backend.read(key, ReadPlan())
            except StoreUnavailable:
                await asyncio.sleep(_UNTOLD)
                continue
            if snapshot is None:
                return
            if snapshot.head.version > after:
                after = snapshot.head.version
                yield after
            else:
                await listener.hear()
    finally:
        await listener.close()
