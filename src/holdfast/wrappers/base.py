"""A wrapper that changes nothing: override what yours does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..backend import Backend, Capabilities, Commit, Filter, Key, Maintenance, Outcome, Page, ReadPlan, Snapshot, Watch
from ..errors import Unsupported


class Wrapper:
    """Passes everything on to `inner`, its capabilities too."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def migrate(self) -> tuple[int, int]:
        return await self.inner.migrate()

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self.inner.read(key, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self.inner.commit(key, commit)

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        return await self.inner.list(filter, cursor, limit)

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        return await self.inner.copy(source, upto, target, commit)

    async def sweep(self, limit: int) -> int:
        return await self.inner.sweep(limit)

    def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        if not isinstance(self.inner, Watch):
            raise Unsupported("this store can't watch a session")
        return self.inner.watch(key, after)

    async def status(self) -> dict[str, Any]:
        return await self._maintenance().status()

    async def check(self) -> list[str]:
        return await self._maintenance().check()

    def _maintenance(self) -> Maintenance:
        if not isinstance(self.inner, Maintenance):
            raise Unsupported("this store has no maintenance commands")
        return self.inner
