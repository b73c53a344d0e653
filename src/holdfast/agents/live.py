"""What a run has told and not stored yet, for those who follow it from elsewhere: told along with heartbeats, gone once it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from operator import itemgetter

import msgspec

from ..backend import Blob, BlobDrop, BlobPut
from ..entries import LIVE
from ..errors import Fenced, SessionGone, SessionNotFound, StoreError
from ..running import Run
from .events import ReasoningDelta, TextDelta

EVERY = 0.2
"""Seconds between two of them, at least."""
_BYTES_PER_SECOND = 100_000
"""A long answer is told in fewer pieces: each holds all that is not stored."""


class Unstored(msgspec.Struct, frozen=True, array_like=True):
    """Pieces of an answer that begin behind `place` of this try: whether each is reasoning, and its text."""

    attempt: int
    place: int
    pieces: tuple[tuple[bool, str], ...]


def unstored(blobs: list[Blob]) -> Unstored | None:
    """What was last told of a run, from the blob under its id."""
    return msgspec.json.decode(blobs[0].data or b"", type=Unstored) if blobs else None


class Live:
    """The writing side, in the process that drives the run."""

    def __init__(self, run: Run, lost: Callable[[], object]) -> None:
        self._run = run
        self._lost = lost
        self._pieces: list[tuple[bool, str]] = []
        self._from = (0, 0)
        self._new = asyncio.Event()

    def add(self, attempt: int, place: int, event: TextDelta | ReasoningDelta) -> None:
        """Another piece, which begins behind `place`."""
        if not self._pieces:
            self._from = attempt, place
        self._pieces.append((isinstance(event, ReasoningDelta), event.delta))
        self._new.set()

    def stored(self) -> None:
        """All that was added is stored, or about to be."""
        self._pieces.clear()
        self._new.clear()

    @asynccontextmanager
    async def telling(self) -> AsyncGenerator[None]:
        """Tell what is added meanwhile."""
        task = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _tell(self) -> None:
        try:
            while True:
                await self._new.wait()
                await asyncio.sleep(max(EVERY, sum([len(text) for _, text in self._pieces]) / _BYTES_PER_SECOND))
                if self._pieces:
                    await self._put()
        except (Fenced, SessionGone, SessionNotFound):
            self._lost()

    async def _put(self) -> None:
        self._new.clear()
        told = tuple((kind, "".join([text for _, text in pieces])) for kind, pieces in groupby(self._pieces, itemgetter(0)))
        data = msgspec.json.encode(Unstored(*self._from, told))
        self._run.drops, self._run.telling = (BlobDrop(LIVE, self._run.id),), True
        try:
            with suppress(StoreError):  # the next one holds it too
                await self._run.session.beat(self._run.fence, BlobPut(LIVE, self._run.id, "application/json", data))
        finally:
            self._run.telling = False
