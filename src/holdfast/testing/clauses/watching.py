"""Watching, where a backend declares it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ...backend import Backend, Erase, Key, Watch
from ..suite import Opener, clause
from ..tools import both, created, fresh, notes, writing, wrote


def _watch(backend: Backend, key: Key, after: int) -> AsyncIterator[int]:
    assert isinstance(backend, Watch), "a backend that declares watch has the method"
    return backend.watch(key, after)


@clause(needs=("watch",))
async def a_watcher_hears_of_every_writer(open: Opener) -> None:
    """Each commit, through whichever backend, is told as a version above the last one; what was there already at once."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key)
        versions = _watch(other, key, 0)
        async with asyncio.timeout(20):
            assert await anext(versions) == head.version
            for n in range(5):
                next_one = asyncio.ensure_future(anext(versions))
                await asyncio.sleep(0)
                head = await wrote((one, other)[n % 2], key, head, entries=notes("x"))
                assert await next_one == head.version


@clause(needs=("watch",))
async def a_watch_ends_with_its_session(open: Opener) -> None:
    """Deleting the session ends the watch; watching what isn't there ends at once."""
    async with both(open) as (one, other):
        key = fresh()
        async with asyncio.timeout(20):
            assert [version async for version in _watch(other, fresh(), 0)] == []
            head = await created(one, key)
            versions = _watch(other, key, head.version)
            end = asyncio.ensure_future(anext(versions, None))
            await asyncio.sleep(0)
            await one.commit(key, writing(head, erase=Erase("session")))
            assert await end is None
