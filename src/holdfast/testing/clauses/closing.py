"""Closing: the last clause, for it leaves a backend that lives in one process's memory closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...backend import Backend, Filter, Key, ReadPlan
from ...errors import StoreClosed
from ..suite import Opener, clause
from ..tools import EVERYTHING, bodies, created, creating, fresh, notes, opened, refused, writing


@clause()
async def a_closed_backend_says_so(open: Opener) -> None:
    """Commits asked for before `close` are done or refused, none hangs and none is lost; after it every use raises `StoreClosed`."""
    backend, key = open(), fresh()
    written = await _closed_at_work(backend, key)
    await backend.close()
    uses: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: backend.read(key, EVERYTHING),
        lambda: backend.read(key, ReadPlan()),
        lambda: backend.commit(key, creating()),
        lambda: backend.list(Filter(), None, 10),
        lambda: backend.copy(key, None, fresh(), creating()),
        lambda: backend.sweep(1),
        lambda: backend.open(),
    )
    for use in uses:
        with refused(StoreClosed):
            await use()
    if backend.capabilities.multi_process:
        async with opened(open) as again:
            assert sorted(await bodies(again, key)) == sorted(written)


async def _closed_at_work(backend: Backend, key: Key) -> list[str]:
    """Close among 50 commits; what those that were done have written."""
    head = await created(backend, key)
    tasks = [asyncio.create_task(backend.commit(key, writing(head, base=0, entries=notes(str(n))))) for n in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await backend.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [it for it in ended if isinstance(it, BaseException) and not isinstance(it, StoreClosed)] == []
    return [str(n) for n, it in enumerate(ended) if not isinstance(it, BaseException)]
