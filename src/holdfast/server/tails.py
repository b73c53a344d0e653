"""What a session, and a run, tell those who follow them: first what was missed, from the log, then what comes, from the session's feed.

A session's events are numbered `SEQ.VERSION.LIFE`: the last entry told, the version of the session that was told last, and which life of
the session they are of. So each stored entry is told once, in order, whoever told the one before, and a session that was cleared begins
anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, NamedTuple

import msgspec

from .. import Entry, SessionGone, SessionNotFound, Store, UsageError
from ..agents import Event, RunEnded
from ..agents.following import end_place, output_of
from ..agents.live import Unstored, unstored
from ..agents.sequence import Telling, behind
from ..backend import BlobRange, Head, ReadPlan, Window
from ..entries import LIVE, QUEUED, RUN, RUNNING
from ..rules import may_use
from ..runs import fold
from .feeds import Batch, Feed, feed
from .reads import EntryTold
from .shapes import SessionTold

_PAGE = 500
_TRY = 32


class Told(NamedTuple):
    """One event for a client: its name, its data as JSON, and its id, where a client that comes back may begin behind it."""

    name: str
    data: str
    id: str | None = None


class Position(NamedTuple):
    """How far a client has been told of a session; `life` 0: it has only named a seq."""

    seq: int
    version: int = 0
    life: int = 0

    def __str__(self) -> str:
        return f"{self.seq}.{self.version}.{self.life:x}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that an id tells; None where it tells none."""
        seq, _, rest = text.partition(".")
        version, _, life = rest.partition(".")
        try:
            it = cls(int(seq), int(version or "0"), int(life or "0", 16))
        except ValueError:
            return None
        return it if min(it) >= 0 and max(it) <= 2**53 and text.isascii() else None


# --- a session -------------------------------------------------------------------------------------------------------


async def session_told(store: Store, session_id: str, user_id: str | None, position: Position | None) -> AsyncGenerator[Told]:
    """What happens in a session from behind a position on (None: from now on), until it is gone.

    `entry` for each record of the log, `session` when anything about the session itself is different, `partial` for what a run says before
    it is stored, `cleared` when everything before is gone, `gone` at the end, also for a caller whose it is not any more.
    """
    async with feed(store, session_id) as it:
        reader = _Reader(store, it, user_id)
        async for told in reader.read(position):
            yield told


class _Reader:
    def __init__(self, store: Store, it: Feed, user_id: str | None) -> None:
        self._store = store
        self._feed = it
        self._user = user_id
        self._at = Position(0)
        self._partial: dict[str, tuple[int, int]] = {}

    async def read(self, position: Position | None) -> AsyncIterator[Told]:
        newest = self._feed.newest
        if position is None and newest.head is not None and self._may(newest.head):
            self._at = Position(newest.seq, newest.head.version, newest.head.incarnation)
            yield _session(newest, self._at)
        else:
            self._at = position or self._at
            async for told in self._missed():
                yield told
        for told in self._partials(newest):
            yield told
        async for batch in self._batches(newest.number):
            if batch is None:
                async for told in self._missed():
                    yield told
                batch = self._feed.newest
            elif batch.head is None or not self._may(batch.head):
                yield Told("gone", "{}")
                return
            for told in self._batch(batch):
                yield told

    async def _batches(self, number: int) -> AsyncIterator[Batch | None]:
        """What comes behind this number; None where something of it is missing, and is in the log."""
        while True:
            found = await self._feed.since(number)
            if found is None or found[0].after > self._at.seq:
                number = self._feed.newest.number
                yield None
                continue
            for batch in found:
                number = batch.number
                yield batch

    def _may(self, head: Head) -> bool:
        return may_use(head, self._user, not self._store.as_admin)

    async def _missed(self) -> AsyncIterator[Told]:
        """What the log holds behind the position, page by page, and the session as it is then."""
        handle = self._store.handle(self._feed.key.session_id, user_id=self._user)
        while True:
            plan = ReadPlan(entries=Window(after=self._at.seq, limit=_PAGE, newest=False, hidden=True))
            snapshot = await self._store.backend.read(self._feed.key, plan)
            if snapshot is None or not self._may(snapshot.head):
                return  # the feed tells
            head = snapshot.head
            if (self._at.life or head.incarnation) != head.incarnation or self._at.seq > head.seq:
                yield self._anew(head)
                continue
            self._at = self._at._replace(life=head.incarnation)
            found = snapshot.entries or []
            for entry in await handle.whole(found):
                self._at = self._at._replace(seq=entry.seq)
                yield Told("entry", _data(entry), str(self._at))
            if len(found) < _PAGE:
                break
        self._at = self._at._replace(version=head.version)
        yield _session(Batch(self._feed.key.session_id, None, snapshot, [], began=False), self._at)

    def _anew(self, head: Head) -> Told:
        self._at = Position(0, 0, head.incarnation)
        self._partial.clear()
        return Told("cleared", "{}", str(self._at))

    def _batch(self, batch: Batch) -> Iterator[Told]:
        if batch.head is None or (batch.head.incarnation != self._at.life and not batch.began):
            return  # of the life before, and read before the log was
        if batch.head.incarnation != self._at.life:
            yield self._anew(batch.head)
        data = batch.told.get("entries")
        if data is None:
            data = batch.told["entries"] = [_data(it) for it in batch.entries]
        for entry, told in zip(batch.entries, data, strict=True):
            if entry.seq == self._at.seq + 1:
                self._at = self._at._replace(seq=entry.seq)
                yield Told("entry", told, str(self._at))
        yield from self._partials(batch)
        if batch.changed and batch.head.version >= self._at.version:
            self._at = self._at._replace(version=batch.head.version)
            yield _session(batch, self._at)

    def _partials(self, batch: Batch) -> Iterator[Told]:
        """What runs have said since this reader was told last."""
        for run_id, it in batch.live.items():
            told = self._partial.get(run_id, (-1, 0))
            begins = it.attempt << _TRY | it.place
            if told[0] != begins:
                told = begins, 0
            length = sum([len(text) for _, text in it.pieces])
            self._partial[run_id] = begins, max(length, told[1])
            yield from _pieces(run_id, it, begins, told[1])
        self._partial = {run_id: told for run_id, told in self._partial.items() if run_id in batch.live}


def _pieces(run_id: str, it: Unstored, begins: int, known: int) -> Iterator[Told]:
    """What is behind the first `known` characters. `start`: nothing of this answer was told before."""
    place = 0
    for reasoning, text in it.pieces:
        new = text[max(known - place, 0) :]
        start, place = place + len(text) - len(new), place + len(text)
        if new:
            data = {
                "run_id": run_id,
                "attempt": it.attempt,
                "start": start == 0,
                "reasoning": reasoning,
                "delta": new,
                "number": begins + place,
            }
            yield Told("partial", _json(data))


def _session(batch: Batch, at: Position) -> Told:
    """The session as it is, with how often something was hidden in it."""
    assert batch.head is not None
    data = batch.told.get("session")
    if data is None:
        shown = SessionTold.of(batch.info).model_dump(mode="json") | {"seq": batch.seq, "hides": batch.head.hides}
        data = batch.told["session"] = _json(shown)
    return Told("session", data, str(at))


def _data(entry: Entry) -> str:
    return EntryTold.of(entry).model_dump_json()


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()


# --- a run -----------------------------------------------------------------------------------------------------------


async def run_told(store: Store, run_id: str, session_id: str, user_id: str | None, after: int) -> AsyncGenerator[Event]:
    """As `Agent.follow`: the events of a run behind number `after`, to its end for now, from the feed that all its readers share."""
    async with feed(store, session_id) as it:
        async for event in _Follower(store, it, run_id, user_id).follow(after):
            yield event


class _Follower:
    def __init__(self, store: Store, it: Feed, run_id: str, user_id: str | None) -> None:
        self._store = store
        self._feed = it
        self._run = run_id
        self._user = user_id
        self._log: list[Entry] = []
        self._telling = Telling(it.key.session_id)
        self._seq = self._life = 0

    async def follow(self, after: int) -> AsyncIterator[Event]:
        session = self._store.handle(self._feed.key.session_id, user_id=self._user)
        number, told = self._feed.newest.number, after
        head, news = await self._missed()
        if not self._log:
            raise UsageError(f"there is no run {self._run!r} in {self._feed.key}: nothing to follow")
        while True:
            for event in behind(news, told):
                told = event.number
                yield event
            run = fold([it for it in self._log if it.kind == RUN], head.claim)[-1]
            if run.status not in (RUNNING, QUEUED):
                if (place := end_place(self._telling, after, told)) is not None:
                    yield RunEnded(output_of(session, run, self._log), number=place)
                return
            found = await self._feed.since(number)
            number = self._feed.newest.number if found is None else found[-1].number
            head, news = await self._missed() if found is None or found[0].after > self._seq else self._found(found)

    async def _missed(self) -> tuple[Head, Iterator[Event]]:
        """What the log holds of the run behind what is known."""
        session = self._store.handle(self._feed.key.session_id, user_id=self._user)
        window = Window(after=self._seq, newest=False, run_id=self._run, hidden=True)
        live = BlobRange(namespace=LIVE, keys=(self._run,))
        snapshot = await self._store.backend.read(self._feed.key, ReadPlan(entries=window, blobs=(live,)))
        head = self._checked(None if snapshot is None else snapshot.head)
        assert snapshot is not None
        new = await session.whole(snapshot.entries or [])
        self._log += new
        self._seq = head.seq
        return head, self._telling.take(new, unstored(snapshot.blobs or []))

    def _found(self, batches: list[Batch]) -> tuple[Head, Iterator[Event]]:
        newest = batches[-1]
        head = self._checked(newest.head)
        new = [entry for batch in batches for entry in batch.entries if entry.run_id == self._run and entry.seq > self._seq]
        self._log += new
        self._seq = max(self._seq, head.seq)
        return head, self._telling.take(new, newest.live.get(self._run))

    def _checked(self, head: Head | None) -> Head:
        """The head, where it is still this caller's, and of the same life."""
        if head is None or not may_use(head, self._user, not self._store.as_admin):
            raise SessionNotFound(f"there is no {self._feed.key} for this caller")
        if self._life not in (0, head.incarnation):
            raise SessionGone(f"{self._feed.key} was cleared, or made anew: what the run told is gone")
        self._life = head.incarnation
        return head
