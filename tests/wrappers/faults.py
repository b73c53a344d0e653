"""A backend behind a bad connection: requests get lost on their way there, answers on their way back."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

from holdfast.backend import Backend, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from holdfast.errors import OutcomeUnknown, StoreUnavailable
from holdfast.rules import mere_contact
from holdfast.wrappers.base import Wrapper

T = TypeVar("T")

FINE, REFUSED, LOST, ANSWER_LOST = "fine", "refused", "lost", "answer lost"


class Faulty(Wrapper):
    """Each request meets the next of `fates`: all is well, the database says it is away, the request is lost, or only its answer is.

    With `touches=False` commits that only put off expiry meet none.
    """

    def __init__(self, inner: Backend, fates: Iterator[str], *, touches: bool = True) -> None:
        super().__init__(inner)
        self.touches = touches
        self.fates = fates
        self.met: list[str] = []
        self.sent: list[Commit] = []
        self.watched: list[int] = []

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self._through(lambda: self.inner.read(key, plan))

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.sent.append(commit)
        if mere_contact(commit) and not self.touches:
            return await self.inner.commit(key, commit)
        return await self._through(lambda: self.inner.commit(key, commit))

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        return await self._through(lambda: self.inner.copy(source, upto, target, commit))

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        return await self._through(lambda: self.inner.list(filter, cursor, limit))

    async def sweep(self, limit: int) -> int:
        return await self._through(lambda: self.inner.sweep(limit))

    async def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        self.watched.append(after)
        async for version in super().watch(key, after):
            yield await self._through(partial(_itself, version))

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        fate = next(self.fates)
        self.met.append(fate)
        if fate == REFUSED:
            raise StoreUnavailable("the database is away")
        if fate == LOST:
            raise OutcomeUnknown("the connection broke")
        result = await call()
        if fate == ANSWER_LOST:
            raise OutcomeUnknown("the connection broke")
        return result


async def _itself(value: T) -> T:
    return value
