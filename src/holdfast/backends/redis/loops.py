"""What a store keeps for each event loop: connections, what it has last seen of sessions, whose turn it is to write one."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ...backend import Key
from .nodes import Nodes
from .writes import Seen

_SEEN = 1024
_SEEN_BYTES = 16 * 1024
"""Greater heads are not kept: a commit that has to ask for one first is not what makes it slow."""
_PATIENCE = 10.0


class _Line:
    """Those who wait to write one session, and the one who does."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


class Loop:
    """One event loop's share of a store."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.running = asyncio.get_running_loop()
        self._seen: OrderedDict[Key, Seen] = OrderedDict()
        self._lines: dict[Key, _Line] = {}
        self._end: AsyncGenerator[None] | None = None

    def seen(self, key: Key) -> Seen:
        return self._seen.get(key, Seen())

    def see(self, key: Key, seen: Seen | None) -> None:
        """Remember what a session was last seen as; None, or nothing there, forgets it."""
        if seen is None or seen.head is None or len(seen.head) > _SEEN_BYTES:
            self._seen.pop(key, None)
            return
        self._seen[key] = seen
        self._seen.move_to_end(key)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    @asynccontextmanager
    async def turn(self, key: Key) -> AsyncGenerator[None]:
        """Those of this loop that write one session do so one after another, as they came: they would only refuse each other."""
        line = self._lines.get(key) or self._lines.setdefault(key, _Line())
        line.length += 1
        try:
            async with line.lock:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]

    async def close(self) -> None:
        for pool in self.nodes.pools():
            await pool.close(_PATIENCE)

    async def until_the_end(self, ended: Callable[[], None]) -> None:
        """Close with the event loop: `asyncio.run` and its like end a generator that is still under way, inside the loop."""

        async def end() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                ended()
                await self.close()

        self._end = end()
        await anext(self._end)

    async def stop(self) -> None:
        if self._end is not None:
            await self._end.aclose()


class Loops:
    """The shares of all event loops of this process. Each loop touches its own only."""

    def __init__(self, make: Callable[[], Nodes]) -> None:
        self._make = make
        self._by_loop: dict[asyncio.AbstractEventLoop, Loop] = {}
        self._lock = threading.Lock()

    async def mine(self) -> Loop:
        """The running loop's share."""
        running = asyncio.get_running_loop()
        found = self._by_loop.get(running)
        if found is None:
            found = Loop(self._make())
            with self._lock:
                self._by_loop[running] = found
            await found.until_the_end(lambda: self._forget(running))
        return found

    def _forget(self, running: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._by_loop.pop(running, None)

    async def close(self) -> None:
        """Every loop's connections, each in its own loop. One that stands still has ended its use of them."""
        running = asyncio.get_running_loop()
        with self._lock:
            shares = list(self._by_loop.items())
        for loop, share in shares:
            if loop is running:
                await share.stop()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(share.stop(), loop))

    def disown(self) -> None:
        """In a forked child: begin anew, and leave what is the parent's to the parent."""
        for share in self._by_loop.values():
            for pool in share.nodes.pools():
                pool.disown()
        _inherited.append(self._by_loop)
        self._by_loop, self._lock = {}, threading.Lock()


_inherited: list[Any] = []
"""Kept for good: to collect a connection would be to close what stands in its place, and to wake the parent's loop."""
