"""One commit: judged by what was last seen of the session, and again by what is so, until the two are the same."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from ...backend import Commit, Head, Key, Outcome
from ...errors import HoldfastError, OutcomeUnknown, SessionExists, SessionGone
from ...ids import now
from ...rules import alive, judge, repeated
from . import writes
from .plans import head_of, snapshot
from .scripts import COMMIT
from .writes import Copied, Mode, Request, Seen

if TYPE_CHECKING:
    from . import RedisBackend
    from .loops import Loop

_REFUSED, _APPLIED, _REPEATED, _WAITING = range(4)
_LATE = 4
"""Refused so often because somebody came between, a commit asks the others to wait."""
_PAUSE = 0.004


class Committing:
    """A commit under way. What it takes to be so is a guess until the database has said it (`sure`)."""

    def __init__(self, backend: RedisBackend, loop: Loop, key: Key, commit: Commit) -> None:
        self._backend = backend
        self._loop = loop
        self._key = key
        self._commit = commit
        self._place = backend.layout.place(key)
        self._seen = loop.seen(key)
        self._sure = False
        self._lived = False
        """Whether the life that the commit begins has been before."""
        self._look = True
        self._rounds = 0
        self._versions = {put.key: put.if_version for put in commit.puts if put.if_version is not None}

    async def run(self, copied: Copied | None = None) -> Outcome:
        """Apply the commit, or raise what `judge` raises once it knows for sure.

        In every round somebody's commit is applied; who was too late again and again asks the others to wait.
        """
        while True:
            stored, living = self._heads()
            try:
                after = self.judged(stored, living)
            except HoldfastError:
                if self._sure:
                    raise
                outcome = await self.ask()
            else:
                if copied is not None and living is not None:
                    raise SessionExists(f"{self._key} exists already")
                outcome = await self._send(
                    writes.request(
                        self._backend.layout, self._place, self._commit, self._seen, stored, living, after, mode=self._mode(), copied=copied
                    )
                )
            if outcome is not None:
                return outcome

    async def ask(self) -> Outcome | None:
        """Learn what is so; the outcome where this commit was applied before."""
        return await self._send(writes.question(self._place, self._commit, mode=self._mode()))

    def target(self) -> Head | None:
        """The head after the commit, by what is known; raises as `judge` does."""
        return self.judged(*self._heads())

    def judged(self, stored: Head | None, living: Head | None) -> Head | None:
        create = self._commit.create
        if create is not None:
            ended = stored.incarnation if stored is not None and living is None else None
            before = self._lived and (living is None or living.incarnation != create.incarnation)
            if before or create.incarnation == ended:
                raise SessionGone(f"{self._key} is gone: it was deleted or expired since you last saw it")
        return judge(self._key, living, self._commit, lambda name: self._versions.get(name) or 0)

    def _heads(self) -> tuple[Head | None, Head | None]:
        stored = None if self._seen.head is None else head_of(self._key, self._seen.head)
        return stored, alive(stored, now())

    def _mode(self) -> Mode:
        self._rounds += 1
        return Mode(self._look, self._rounds > _LATE)

    async def _send(self, request: Request) -> Outcome | None:
        then = self._backend.durability.commands()
        answer, *waited = await COMMIT.run(self._loop.nodes, self._place.slot, request.keys, request.arguments, writing=True, then=then)
        if answer[0] == _WAITING:
            await asyncio.sleep(random.uniform(0, _PAUSE))
            return None
        outcome = self._told(answer, request)
        if outcome is not None and waited:
            self._check_waited(waited)
        return outcome

    def _told(self, answer: list[Any], request: Request) -> Outcome | None:
        if answer[0] == _APPLIED:
            return self._applied(answer, request)
        self._seen, self._sure = Seen(answer[2], answer[1] or None, answer[5] if answer[0] == _REFUSED else 0), True
        self._loop.see(self._key, self._seen)
        if answer[0] == _REPEATED:
            return self._repeated(answer[3], answer[4])
        self._lived = bool(answer[3])
        self._versions = dict(zip(self._versions, map(int, answer[4]), strict=True))
        return None

    def _applied(self, answer: list[Any], request: Request) -> Outcome:
        head, seen = request.after, request.seen
        assert seen is not None
        self._loop.see(self._key, Seen(seen.mark, seen.head, answer[2]))
        if head is None:
            stored = self._heads()[0]
            return Outcome(None, stored.version + 1 if stored else 0, 0)
        plan = self._commit.answer
        return Outcome(head, head.version, head.seq, plan and snapshot(head, plan, answer[1]))

    def _repeated(self, record: bytes, answer: list[Any]) -> Outcome | None:
        _, living = self._heads()
        if living is None:  # it expired, and its commits with it
            self._look = False
            return None
        seen, version, seq = writes.recorded(record)
        repeated(self._key, self._commit, seen)
        plan = self._commit.answer
        return Outcome(living, version, seq, plan and snapshot(living, plan, answer), repeated=True)

    def _check_waited(self, reached: list[Any]) -> None:
        """`OutcomeUnknown` for a commit that is written, and has not come as far as it should."""
        asked, where = self._backend.durability, self._backend.server.where
        for error in reached:
            if isinstance(error, ResponseError):
                raise OutcomeUnknown(f"{where}: the commit is written, and the server doesn't tell how far it has come ({error})")
        again = f"within {asked.wait_seconds:g} s: repeat the same commit to wait for it again"
        if asked.waitaof and reached[0][0] < 1:
            raise OutcomeUnknown(f"{where}: the commit is written, and was not flushed {again}")
        if asked.wait and reached[-1] < asked.wait:
            raise OutcomeUnknown(f"{where}: the commit is written, and reached {reached[-1]} of {asked.wait} replicas {again}")
