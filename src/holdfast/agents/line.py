"""Runs that wait for one another on one event loop do so in the order they came; between processes the claim decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

from ..backend import Key
from ..errors import SessionBusy
from ..runs import Patience
from ..session import Session

_Locks = WeakValueDictionary[tuple[int, Key, str | None], asyncio.Lock]
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Locks] = WeakKeyDictionary()


@asynccontextmanager
async def in_line(session: Session, patience: Patience) -> AsyncGenerator[None]:
    """The body has the session to itself on this loop. It waits for its turn as long as the patience lasts, then `SessionBusy`."""
    key, left = session.key, patience.left()
    locks = _locks.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    lock = locks.setdefault((id(session.backend), key, session.user_id), asyncio.Lock())  # others learn nothing, not even that it is busy
    try:
        async with asyncio.timeout(left if lock.locked() else None):
            await lock.acquire()
    except TimeoutError:
        raise SessionBusy(f"{key} is still held by another run after {left:.3g} s: wait longer, or cancel that run") from None
    try:
        yield
    finally:
        lock.release()
