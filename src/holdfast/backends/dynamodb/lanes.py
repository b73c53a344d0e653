"""Threads for requests that block: a bounded number of them, and commits to one session one after another."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 16

_Job = tuple["Future[Any]", Callable[[], Any]]


class Lanes:
    """Runs work on its threads. Work of one lane waits for the lane, not on a thread; lanes and work without one go side by side."""

    def __init__(self, closed: Callable[[], Exception]) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "holdfast-dynamodb")
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[_Job]] = {}
        self._closed = closed

    async def run(self, work: Callable[[], T], lane: str | None = None) -> T:
        """The result of `work`. Cancelling withdraws it if it hasn't begun, and waits for it if it has."""
        future: Future[T] = Future()
        try:
            self._submit((future, work), lane)
        except RuntimeError:  # the pool was shut down meanwhile
            raise self._closed() from None
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not future.cancel():
                await _ended(waiting)
            raise

    def _submit(self, job: _Job, lane: str | None) -> None:
        if lane is None:
            self._pool.submit(_do, job)
            return
        with self._lock:
            queue = self._lanes.get(lane)
            if queue is not None:
                queue.append(job)
                return
            self._pool.submit(self._drive, lane, job)
            self._lanes[lane] = deque()

    def _drive(self, lane: str, job: _Job) -> None:
        while True:
            _do(job)
            with self._lock:
                queue = self._lanes[lane]
                if not queue:
                    del self._lanes[lane]
                    return
                job = queue.popleft()

    def end(self) -> None:
        """Finish everything that was asked for."""
        self._pool.shutdown(wait=True)


def _do(job: _Job) -> None:
    future, work = job
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # whatever ends the work is the waiter's answer
        future.set_exception(error)


async def _ended(waiting: asyncio.Future[Any]) -> None:
    """Return when it has ended, however often the waiter is cancelled: what has begun will be known."""
    while not waiting.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({waiting})
    if not waiting.cancelled():
        waiting.exception()
