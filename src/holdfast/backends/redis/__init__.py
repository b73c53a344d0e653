"""Redis, Valkey and their clusters: a commit is one script, a reading another, and a session lies in one hash slot.

What a commit does is decided here, by `rules.judge`, against what was last seen of the session; the script applies it only where that
is still so, and otherwise tells what is so. See docs/decisions/0006-redis.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis, RedisCluster

from ...backend import Capabilities, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ...forks import Forkable, forget_forks, watch_forks
from ...ids import now
from ...rules import alive, check_sizes
from . import committing, copying, listing, maintenance, watching
from .errors import closed
from .layout import Layout
from .loops import Loop, Loops
from .options import Durability, Server, from_client
from .options import from_url as _from_url
from .plans import head_of, snapshot, words
from .scripts import READ
from .writes import Seen

__all__ = ["RedisBackend"]


def from_url(url: str) -> RedisBackend:
    """`redis://[user:password@]host:port/db`, `rediss://` for TLS, `valkey://` and `valkeys://` the same; for options see `options`."""
    server, prefix, durability = _from_url(url)
    return RedisBackend(server=server, prefix=prefix, durability=durability)


class RedisBackend(Forkable):
    """Sessions in a Redis or Valkey server, or a cluster of them, under one prefix.

    `client`: a `redis.asyncio` client, whose settings the connections made here take; it is neither used nor closed itself.
    `durability`: what is asked of the server before a commit counts as done, and with it whether the backend calls itself durable.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | None = None,
        *,
        server: Server | None = None,
        prefix: str = "holdfast:",
        durability: Durability | None = None,
    ) -> None:
        self.server = server or from_client(client)
        self.layout = Layout(prefix)
        self.durability = durability or Durability()
        self.capabilities = Capabilities(durable=self.durability.durable(self.server.cluster), multi_process=True, watch=True)
        self._loops = Loops(self.server.nodes)
        self._ready = False
        self._may_write = False
        self._closed = False
        watch_forks(self)

    # --- life ---

    async def open(self) -> None:
        self.check_open()
        if not self._ready:
            await maintenance.ensure(await self._loops.mine(), self)
            self._ready = True

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._loops.close()
            forget_forks(self)

    async def migrate(self) -> tuple[int, int]:
        self.check_open()
        return await maintenance.migrate(await self._loops.mine(), self)

    def check_open(self) -> None:
        if self._closed:
            raise closed(self.server.where)

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._loops.disown()

    async def loop(self) -> Loop:
        """The running event loop's share, once the store is open."""
        if not self._ready or self._closed:
            await self.open()
        return await self._loops.mine()

    async def _writing(self) -> Loop:
        loop = await self.loop()
        if not self._may_write:
            await maintenance.probe(loop, self)
            self._may_write = True
        return loop

    # --- reading ---

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        loop, place = await self.loop(), self.layout.place(key)
        (answer,) = await READ.run(loop.nodes, place.slot, place.keys, words(plan), writing=False)
        if not answer:
            loop.see(key, None)
            return None
        loop.see(key, Seen(answer[1], answer[0]))
        head = alive(head_of(key, answer[0]), now())
        return head and snapshot(head, plan, answer[2])

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        return await listing.page(await self.loop(), self.layout, filter, cursor, limit)

    def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        return watching.watch(self, key, after)

    # --- writing ---

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        loop = await self._writing()
        async with loop.turn(key):
            self.check_open()
            return await committing.Committing(self, loop, key, commit).run()

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        loop = await self._writing()
        async with loop.turn(target):
            self.check_open()
            return await copying.copy(self, loop, source, upto, target, commit)

    async def sweep(self, limit: int) -> int:
        return await listing.sweep(await self._writing(), self.layout, limit)

    # --- maintenance ---

    async def status(self) -> dict[str, Any]:
        self.check_open()
        return await maintenance.status(await self._loops.mine(), self)

    async def check(self) -> list[str]:
        return await maintenance.check(await self.loop(), self)
