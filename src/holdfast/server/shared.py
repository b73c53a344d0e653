"""What one process looks at for many readers: one looks, all are told, and it looks as long as there is a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T", bound="Shared")


class Shared:
    """Something that looks again and again, in a task of its own: `run` does. What it raises is raised to every reader."""

    def __init__(self) -> None:
        self.readers = 0
        self._moved = asyncio.Event()
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def over(self) -> bool:
        """Whether it looks no more."""
        return self._task.done()

    def end(self) -> None:
        """Look no more."""
        self._task.cancel()

    async def started(self) -> None:
        """Wait until it has looked for the first time."""
        raise NotImplementedError

    async def run(self) -> None:
        """Look until there is nothing to look at any more."""
        raise NotImplementedError

    async def moved(self) -> None:
        """Wait until there is something new."""
        if self._error is not None:
            raise self._error
        await self._moved.wait()

    def tell(self) -> None:
        """There is something new."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _run(self) -> None:
        try:
            await self.run()
        except Exception as error:  # each reader is told, and maps it
            self._error = error
            self.tell()


@asynccontextmanager
async def shared(those: dict[Any, T], place: Hashable, make: Callable[[], T]) -> AsyncGenerator[T]:
    """The one at this place among `those`, made for the first reader and ended with the last."""
    it = those.get(place)
    if it is None or it.over:
        it = those[place] = make()
    it.readers += 1
    try:
        await it.started()
        yield it
    finally:
        it.readers -= 1
        if it.readers == 0:
            it.end()
            if those.get(place) is it:
                del those[place]
