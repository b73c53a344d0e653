"""Which of a caller's sessions change, for all of the caller's clients in this process: one round through the store at a time.

A round looks at a bounded number of sessions however many there are: the newest, those that wait for people, those that changed lately or
were written to through this process; and a page of the others, another one each round. So a change in an old session that another process
makes is told late, after as many rounds as it takes to come by; every other one at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request

from .. import SessionInfo, Store, StoreUnavailable
from ..backend import Key, ReadPlan
from ..ids import from_micros, now
from ..info import info_of
from .callers import Whoever
from .lines import lines
from .serving import Here
from .shapes import SessionTold
from .shared import Shared, shared
from .tails import Told

EVERY = 0.5
"""Seconds between two rounds, while there are not many callers."""
_MANY = 20
"""Of more callers each is looked for less often, so that all together cost no more."""
_NEWEST, _WAITING, _OTHERS, _LATELY = 100, 50, 100, 200
_KEPT = 64
_CATCH_UP = 5
"""Pages of sessions that are looked at for a client that comes back."""
_SKEW = timedelta(seconds=5)
"""By so much the clocks of those who write may differ."""

_Mark = tuple[int, bool, bool]


class Round:
    """What one round has found, under its number."""

    def __init__(self, number: int, told: list[Told]) -> None:
        self.number = number
        self.told = told


class Changes(Shared):
    """One caller's, given by `changes`. `user_id` None: everybody's sessions."""

    def __init__(self, store: Store, user_id: str | None) -> None:
        self._store = store
        self._user = user_id
        self._known: dict[str, _Mark] = {}
        self._page: list[str] = []
        self._lately: OrderedDict[str, None] = OrderedDict()
        self._cursor: str | None = None
        self._since = self._next = datetime.now(UTC) - _SKEW
        self._rounds: deque[Round] = deque(maxlen=_KEPT)
        super().__init__()

    @property
    def number(self) -> int:
        """Of the newest round."""
        return self._rounds[-1].number if self._rounds else 0

    async def started(self) -> None:
        """Wait for the first round: what changes behind it is told."""
        while not self._rounds:
            await self.moved()

    async def since(self, number: int) -> list[Round] | None:
        """The rounds behind this number in which something had changed, as soon as there are some; None where not all are kept any more."""
        while self.number <= number:
            await self.moved()
        first = self._rounds[0].number
        return [it for it in self._rounds if it.number > number] if first <= number + 1 else None

    async def missed(self, since: datetime) -> list[Told]:
        """The sessions that were written to after this time, as far as a bounded look finds them."""
        found: list[SessionInfo] = []
        cursor: str | None = None
        for _ in range(_CATCH_UP):
            page = await self._store.list(user_id=self._user, updated_after=since - _SKEW, cursor=cursor, limit=_OTHERS)
            found += page.items
            if (cursor := page.cursor) is None:
                break
        return await self._told(found)

    # --- looking ---

    async def run(self) -> None:
        """Look, and again after a while."""
        await self._look(first=True)
        while True:
            await asyncio.sleep(EVERY * max(1.0, len(_open) / _MANY) * random.uniform(0.8, 1.0))
            with suppress(StoreUnavailable):  # the next round may get through
                await self._look()

    async def _look(self, *, first: bool = False) -> None:
        page = await self._store.list(user_id=self._user, limit=_NEWEST)
        others = [] if page.cursor is None else [*await self._waiting(), *await self._others()]
        there = {it.id: it for it in (*others, *page.items)}
        asked = dict.fromkeys([*self._page, *self._lately, *_noticed(self._store)])  # of the page before: deleted, or made old
        heads = await self._heads([id for id in asked if id not in there])
        there |= {id: it for id, it in heads.items() if it is not None}
        self._page = [it.id for it in page.items]
        changed = [it for it in there.values() if self._is_new(it, first=first)]
        deleted = [id for id, it in heads.items() if it is None and self._known.pop(id, None) is not None]
        self._remember([it.id for it in changed], deleted)
        self._known = {id: mark for id, mark in self._known.items() if id in there or id in self._lately}
        if first or changed or deleted:
            self._found(await self._told(changed) + [Told("deleted", _json({"id": id}), _id()) for id in deleted])

    def _remember(self, changed: list[str], deleted: list[str]) -> None:
        """Those that changed lately are likely to change again."""
        for id in changed:
            self._lately[id] = None
            self._lately.move_to_end(id)
        for id in deleted:
            self._lately.pop(id, None)
        while len(self._lately) > _LATELY:
            self._lately.popitem(last=False)

    async def _waiting(self) -> list[SessionInfo]:
        return (await self._store.list(user_id=self._user, waiting=True, limit=_WAITING)).items

    def _is_new(self, it: SessionInfo, *, first: bool) -> bool:
        mark = it.version, it.running, it.waiting
        known = self._known.get(it.id)
        self._known[it.id] = mark
        return mark != known and not first and (known is not None or it.updated_at >= self._since)

    async def _others(self) -> list[SessionInfo]:
        """A page of those that were written to since it was last begun at the beginning."""
        page = await self._store.list(user_id=self._user, updated_after=self._since, cursor=self._cursor, limit=_OTHERS)
        self._cursor = page.cursor
        if page.cursor is None:
            self._since, self._next = self._next, datetime.now(UTC) - _SKEW
        return page.items

    async def _heads(self, ids: Sequence[str]) -> dict[str, SessionInfo | None]:
        """These sessions, those of others left out; None for what is not there."""
        found: dict[str, SessionInfo | None] = {}
        for id in ids:
            snapshot = await self._store.backend.read(Key(self._store.tenant, id), ReadPlan())
            if snapshot is None:
                found[id] = None
            elif self._user is None or snapshot.head.user_id == self._user:
                found[id] = info_of(id, snapshot.head)
        return found

    async def _told(self, found: Sequence[SessionInfo]) -> list[Told]:
        beside = await lines(self._store, found, self._user)
        told = [SessionTold.of(it, *more) for it, more in zip(found, beside, strict=True)]
        return [Told("session", it.model_dump_json(), _id()) for it in told]

    def _found(self, told: list[Told]) -> None:
        self._rounds.append(Round(self.number + 1, told))
        self.tell()


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()


def _id() -> str:
    """The time, in unix microseconds: who comes back names it."""
    return str(now())


# --- for clients -----------------------------------------------------------------------------------------------------

_open: dict[tuple[int, str, str | None, asyncio.AbstractEventLoop], Changes] = {}


@asynccontextmanager
async def changes(store: Store, user_id: str | None) -> AsyncGenerator[Changes]:
    """A caller's, shared with all clients of the same caller."""
    place = id(store.backend), store.tenant, user_id, asyncio.get_running_loop()
    async with shared(_open, place, lambda: Changes(store, user_id)) as it:
        yield it


async def changes_told(store: Store, user_id: str | None, since: int | None) -> AsyncGenerator[Told]:
    """What changes from now on, and what has changed since then, in unix microseconds.

    `ready` at the beginning: a list that is asked for then misses nothing. `session` for one that is new or different, as it is now,
    `deleted`, and `reload` where too much has changed to tell: list them anew.
    """
    async with changes(store, user_id) as it:
        number = it.number
        for told in [] if since is None else await it.missed(from_micros(since)):
            yield told
        yield Told("ready", "{}", _id())
        while True:
            found = await it.since(number)
            if found is None:
                number = it.number
                yield Told("reload", "{}", _id())
                continue
            for round in found:
                number = round.number
                for told in round.told:
                    yield told


# --- what was written to through this process ------------------------------------------------------------------------

_written: OrderedDict[tuple[int, str, str], None] = OrderedDict()


def notice(store: Store, session_id: str) -> None:
    """A session is about to be written to here: it is looked at in each round for as long as it is among the newest of those."""
    place = id(store.backend), store.tenant, session_id
    _written[place] = None
    _written.move_to_end(place)
    if len(_written) > _LATELY:
        _written.popitem(last=False)


def _noticed(store: Store) -> list[str]:
    return [session_id for backend, tenant, session_id in _written if (backend, tenant) == (id(store.backend), store.tenant)]


async def noticing(request: Request, caller: Whoever, here: Here) -> None:
    """For routes that are about one session: `notice` it where they may write."""
    session_id = request.path_params.get("session_id")
    if session_id is not None and request.method != "GET":
        notice(here.store(caller), session_id)
