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

_Locks = WeakValueDictionary[tuple[int, Key], asyncio.Lock]
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Locks] = WeakKeyDictionary()


@asynccontextmanager
async def in_line(session: Session, wait: float) -> AsyncGenerator[Patience]:
    """The body has the session to itself on this loop. It waits up to `wait` seconds for its turn, then `SessionBusy`.

    Yields what is left of the patience.
    """
    key = session.key
    patience = Patience(wait)
    locks = _locks.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    lock = locks.setdefault((id(session.backend), key), asyncio.Lock())
    try:
        async with asyncio.timeout(wait if lock.locked() else None):
            await lock.acquire()
    except TimeoutError:
        raise SessionBusy(f"{key} is still held by another run after {wait:g} s: wait longer, or cancel that run") from None
    try:
        yield patience
    finally:
        lock.release()
