"""What happens in a session, for all who follow it in this process: one look at the store at a time, however many they are.

A feed begins with its first reader and ends with its last. It keeps its newest batches for all readers together: one that is too slow
falls behind them, and reads what it has missed from the log, where everything is.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import Any, cast

import msgspec

from .. import Entry, HoldfastError, SessionInfo, Store, StoreUnavailable
from ..agents.live import Unstored
from ..backend import BlobRange, Head, Key, ReadPlan, Snapshot, Watch, Window
from ..entries import LIVE
from ..ids import now
from ..info import info_of
from .shared import Shared, shared

SHORT, LONG = 0.02, 0.5
"""Seconds between two looks, while something comes and while nothing does."""
_WATCHED = 5.0
"""Seconds without a look, at most, where the database itself tells of commits and no run is under way."""
_WATCHES = 100
"""Sessions that a process watches at once: each may take a connection of its own."""
_AWAY = 30.0
"""Seconds for which a store that is away is tried again before readers are told."""
KEPT = 64
"""Batches kept for readers."""
_LIVE = (BlobRange(namespace=LIVE),)


class Batch:
    """What one look has found: `entries` behind seq `after` (hidden ones too), and `live`, what runs have said that is not stored yet.

    `number` counts the batches of a feed. `head` is None once the session is gone. `began`: it was cleared, or made anew, since the one
    before, and `entries` are all there are. `version`: the session's at the one before.
    """

    def __init__(self, session_id: str, before: Batch | None, snapshot: Snapshot | None, entries: list[Entry], *, began: bool) -> None:
        self.session_id = session_id
        self.number = before.number + 1 if before else 1
        self.head: Head | None = snapshot.head if snapshot else None
        self.entries = entries
        self.live = {} if snapshot is None else _live(snapshot)
        self.began = began
        self.after = before.seq if before and not began else 0
        self.version = before.head.version if before and before.head else 0
        self.changed = before is None or self.mark != before.mark
        """Whether the session itself is different from what it was."""
        self.told: dict[str, Any] = {}
        """What readers have made of it, for each other."""

    @property
    def seq(self) -> int:
        return self.head.seq if self.head else 0

    @cached_property
    def info(self) -> SessionInfo:
        assert self.head is not None
        return info_of(self.session_id, self.head)

    @cached_property
    def mark(self) -> tuple[Any, ...]:
        """What of the session itself may change without an entry; whether it is running is the last."""
        if self.head is None:
            return (False,)
        claim = self.head.claim
        return self.head.incarnation, self.head.version, self.head.waiting, claim is not None and claim.seems_alive(now())

    def tells(self, before: Batch | None) -> bool:
        """Whether it is any news."""
        return self.changed or bool(self.entries) or (before is not None and self.live != before.live)


def _live(snapshot: Snapshot) -> dict[str, Unstored]:
    return {it.key: msgspec.json.decode(it.data or b"", type=Unstored) for it in snapshot.blobs or []}


class Feed(Shared):
    """One session's, given by `feed`. What it shows is to be kept from those it is not for by whoever reads it."""

    def __init__(self, store: Store, session_id: str) -> None:
        self._store = Store(store.backend, tenant=store.tenant, as_admin=True)
        self.key = Key(store.tenant, session_id)
        self.watching = False
        self._batches: deque[Batch] = deque(maxlen=KEPT)
        self._nudged = asyncio.Event()
        super().__init__()

    @property
    def newest(self) -> Batch:
        """What was found last."""
        return self._batches[-1]

    async def started(self) -> None:
        """Wait until it has looked for the first time."""
        while not self._batches:
            await self.moved()

    async def since(self, number: int) -> list[Batch] | None:
        """The batches behind this number, as soon as there are some; None where they are not all kept any more."""
        while self.newest.number <= number:
            await self.moved()
        kept = self._batches[0].number
        return [it for it in self._batches if it.number > number] if kept <= number + 1 else None

    # --- looking ---

    async def run(self) -> None:
        """Look, soon again while something comes, until the session is gone."""
        watch = asyncio.create_task(self._watch()) if self._can_watch() else None
        wait = SHORT
        try:
            while not self._batches or self.newest.head is not None:
                wait = SHORT if await self._look() else min(wait * 1.5, LONG)
                await self._rest(wait if watch is None or watch.done() or self.newest.mark[-1] else _WATCHED)
        finally:
            if watch is not None:
                watch.cancel()

    async def _look(self) -> bool:
        """Read what is new; whether something was."""
        before = self._batches[-1] if self._batches else None
        snapshot = await self._read(None if before is None else before.seq)
        began = before is not None and snapshot is not None and snapshot.head.incarnation != before.mark[0]
        if began:
            snapshot = await self._read(0)
        entries = [] if snapshot is None else await self._whole(snapshot.entries or [])
        batch = Batch(self.key.session_id, before, snapshot, entries, began=began)
        if not batch.tells(before):
            return False
        self._batches.append(batch)
        self.tell()
        return True

    async def _whole(self, entries: list[Entry]) -> list[Entry]:
        return await self._store.handle(self.key.session_id).whole(entries) if entries else []

    async def _read(self, after: int | None) -> Snapshot | None:
        """The session with its entries behind `after`, or without any."""
        plan = ReadPlan(entries=None if after is None else Window(after=after, newest=False, hidden=True), blobs=_LIVE)
        until = asyncio.get_running_loop().time() + _AWAY
        while True:
            try:
                return await self._store.backend.read(self.key, plan)
            except StoreUnavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(LONG)

    async def _rest(self, seconds: float) -> None:
        """Wait for so long, or until the database tells of a commit; a little less each time, so that feeds do not look all at once."""
        timer = asyncio.get_running_loop().call_later(seconds * random.uniform(0.8, 1.0), self._nudged.set)
        await self._nudged.wait()
        self._nudged.clear()
        timer.cancel()

    def _can_watch(self) -> bool:
        able = self._store.backend.capabilities
        return able.watch and not able.in_place and sum([it.watching for it in _feeds.values()]) < _WATCHES

    async def _watch(self) -> None:
        """Look as soon as the database tells of a commit; where that ends, at the times of its own."""
        self.watching = True
        try:
            with suppress(HoldfastError):
                async for _ in cast("Watch", self._store.backend).watch(self.key, 0):
                    self._nudged.set()
        finally:
            self._nudged.set()


_feeds: dict[tuple[int, Key, asyncio.AbstractEventLoop], Feed] = {}
"""Those that have readers."""


@asynccontextmanager
async def feed(store: Store, session_id: str) -> AsyncGenerator[Feed]:
    """The feed of a session, shared with everybody who reads it meanwhile."""
    place = id(store.backend), Key(store.tenant, session_id), asyncio.get_running_loop()
    async with shared(_feeds, place, lambda: Feed(store, session_id)) as it:
        yield it


def under_way() -> int:
    """How many sessions are looked at in this process at the moment."""
    return len(_feeds)
