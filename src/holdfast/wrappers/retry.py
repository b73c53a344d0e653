"""Retry: what failed because the database was away is tried again, and a commit whose outcome is unknown is repeated until it is known.

A commit is repeated under its own id, so it is applied once however often it was sent: the backend recognises it. What a backend refuses
is refused: nothing but `StoreUnavailable` and `OutcomeUnknown` leads to another try.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from msgspec.structs import replace

from ..backend import Backend, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ..errors import InvalidValue, OutcomeUnknown, SessionGone, SessionNotFound, StoreError, StoreUnavailable
from ..rules import mere_contact
from .base import Wrapper

T = TypeVar("T")

_AGAIN = (StoreUnavailable, OutcomeUnknown)
_GONE = (SessionGone, SessionNotFound)


class RetriedBackend(Wrapper):
    """Tries again for up to `deadline` seconds after a first failure, then raises what the last try ended with.

    Pauses are of random length, `first` seconds at most at the beginning and twice as long each time, up to `longest`. A try under way is
    not cut short: how long one may take is the inner backend's. `migrate`, `status` and `check` are tried once.
    """

    def __init__(self, inner: Backend, *, deadline: float = 30.0, first: float = 0.05, longest: float = 2.0) -> None:
        super().__init__(inner)
        if not 0 <= deadline < 86_400 or not 0 < first <= longest:
            raise InvalidValue(f"{deadline=}, {first=}, {longest=}: give seconds, the first pause no longer than the longest one")
        self._times = (deadline, first, longest)

    async def open(self) -> None:
        await self._persist(self.inner.open)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self._persist(lambda: self.inner.read(key, plan))

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        return await self._persist(lambda: self.inner.list(filter, cursor, limit))

    async def sweep(self, limit: int) -> int:
        """As `Backend.sweep`; of a sweep that was repeated, what the last try removed."""
        return await self._persist(lambda: self.inner.sweep(limit))

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if mere_contact(commit):
            return await self.inner.commit(key, commit)  # its author would rather drop it than wait
        return await self._repeat(key, commit, lambda it: self.inner.commit(key, it))

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        return await self._repeat(target, commit, lambda it: self.inner.copy(source, upto, target, it))

    async def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        """As `Watch.watch`: where the inner one breaks, another goes on from the version seen last."""
        tries = _Tries(*self._times)
        while True:
            versions, began = super().watch(key, after), time.monotonic()
            try:
                async for after in versions:
                    tries = _Tries(*self._times)
                    yield after
                return
            except _AGAIN as error:
                if time.monotonic() - began > self._times[0]:
                    tries = _Tries(*self._times)  # it had held for long: this is another failure
                await tries.again(error)
            finally:
                if (close := getattr(versions, "aclose", None)) is not None:
                    await close()

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of something that does no harm when done twice."""
        tries = _Tries(*self._times)
        while True:
            try:
                return await call()
            except _AGAIN as error:
                await tries.again(error)

    async def _repeat(self, key: Key, commit: Commit, send: Callable[[Commit], Awaitable[Outcome]]) -> Outcome:
        """Send the same commit until its outcome is known. Once it was unknown, failing to ask again makes it no better known."""
        tries, unknown, sent = _Tries(*self._times), None, commit
        while True:
            try:
                return await send(sent)
            except OutcomeUnknown as error:
                failed = unknown = error
                sent = replace(commit, base=0)  # wherever it lies by now: it is looked for as far back as commits are remembered
            except StoreUnavailable as error:
                failed = unknown or error
            except _GONE:
                if unknown is None or not await self._erased(key, commit):
                    raise
                return Outcome(None, commit.base + 1, 0, repeated=True)
            await tries.again(failed)

    async def _erased(self, key: Key, commit: Commit) -> bool:
        """Whether a commit that was to delete the session, and finds none, has reached its end: no session remembers what deleted it.

        One that is there, in the same life or in one the author did not name, was never deleted by it, or came after.
        """
        if commit.erase is None or commit.erase.what != "session":
            return False
        snapshot = await self.read(key, ReadPlan())
        return snapshot is None or commit.incarnation not in (None, snapshot.head.incarnation)


class _Tries:
    """How long to go on after a first failure, and when to try next."""

    def __init__(self, deadline: float, first: float, longest: float) -> None:
        self._deadline = deadline
        self._step = first
        self._longest = longest
        self._began: float | None = None
        self._failures = 0

    async def again(self, error: StoreError) -> None:
        """Wait for the next try; raise `error`, what the last one ended with, when the time is over."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self._failures += 1
        left = self._began + self._deadline - now
        if left <= 0:
            error.add_note(f"tried {self._failures} times in {now - self._began:.1f} seconds")
            raise error
        await _pause(min(random.uniform(0, self._step), left))
        self._step = min(self._step * 2, self._longest)


async def _pause(seconds: float) -> None:
    """Sleep on the event loop, or on the thread where there is none: what works in place goes on doing so."""
    asyncio = sys.modules.get("asyncio")  # not imported yet: no loop runs
    if asyncio is None or asyncio._get_running_loop() is None:
        time.sleep(seconds)  # noqa: ASYNC251  # there is no loop to block
    else:
        await asyncio.sleep(seconds)
