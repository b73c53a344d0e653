"""One commit on a connection. The usual one is a single round trip: judged here upon the head last seen, applied there if it is still that.

Where it isn't, the answer says what is so, and the commit is judged upon that. Whoever loses twice locks the session first: then it
waits for its turn in the database's queue, and no number of writers can keep it from coming.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg.pq import TransactionStatus

from ...backend import Commit, Counts, Key, Outcome, Snapshot
from ...errors import SessionGone, SessionNotFound, UsageError
from ...ids import now
from ...rules import alive, repeated
from . import plans
from .connections import Connection, ask
from .heads import Heads, decode_head
from .plans import MOST, Row, Statement
from .proposals import Arguments, Facts, Proposal, Source, applied, asking, call, facts, propose
from .queries import queries

_OPTIMISTIC = 2
"""How often a commit is tried without locking first."""


class Write:
    """A commit under way, or with `copied` (the source and its last seq) a copy."""

    def __init__(self, schema: str, heads: Heads, key: Key, commit: Commit) -> None:
        self._schema, self._heads = schema, heads
        self._key, self._commit = key, commit
        self._sql = queries(schema)
        self._left = _OPTIMISTIC

    async def run(self, connection: Connection) -> Outcome:
        """Apply it, or raise as `rules.judge` does and change nothing. Run again, it goes on from where it was."""
        proposal = self._guess()
        while self._left:
            self._left -= 1
            found, rows = await self._send(connection, proposal)
            ended = self._ended(proposal, found, rows)
            if not isinstance(ended, Proposal):
                return ended
            proposal = ended
        return await self._locked(connection, (b"BEGIN ISOLATION LEVEL READ COMMITTED", {}), None)

    async def copy(self, connection: Connection, source: Key, upto: int | None) -> Outcome:
        """As `run`, for a copy: the source is seen as it is at one moment, and nobody has to wait for it."""
        return await self._locked(connection, (b"BEGIN ISOLATION LEVEL REPEATABLE READ", {}), (source, MOST if upto is None else upto))

    def _guess(self) -> Proposal | None:
        """A proposal upon what this process saw last; None where that would refuse the commit, or nothing is known: then ask first."""
        known = self._heads.get(self._key)
        if known is None and self._commit.create is None:
            return None
        try:
            return propose(self._key, self._commit, known, None)
        except UsageError:
            return None

    def _statements(self, arguments: Arguments) -> list[Statement]:
        """The call of the function, and the plan that the commit wants answered."""
        asked = [call(self._sql["facts"], arguments)]
        if self._commit.answer is not None:
            asked.append(plans.statement(self._schema, self._key, self._commit.answer))
        return asked

    async def _send(self, connection: Connection, proposal: Proposal | None, *around: Statement) -> tuple[Row, list[Row] | None]:
        """The function's row and the answer's rows."""
        statements = self._statements(proposal.arguments if proposal else asking(self._key, self._commit))
        found = await ask(connection, *statements, *around)
        return found[0][0], found[1] if len(statements) > 1 else None

    def _ended(self, proposal: Proposal | None, row: Row, rows: list[Row] | None) -> Outcome | Proposal:
        """The outcome, if the proposal was applied or the commit had been before; otherwise another proposal."""
        found = facts(row)
        if proposal is None or not found.done:
            self._heads.keep(self._key, found.known)
            return self._repeated(found, rows) or self._propose(found, None)
        self._heads.keep(self._key, applied(row, proposal))
        return Outcome(proposal.head, proposal.version, proposal.seq, self._snapshot(rows))

    def _repeated(self, found: Facts, rows: list[Row] | None) -> Outcome | None:
        head = found.known and alive(decode_head(self._key, found.known.data), now())
        if not head or found.seen is None:
            return None
        version, seen, seq = found.seen
        repeated(self._key, self._commit, seen)
        return Outcome(head, version, seq, self._snapshot(rows), repeated=True)

    def _propose(self, found: Facts, source: Source | None) -> Proposal:
        if found.buried:
            raise SessionGone(f"{self._key} is gone: it was deleted or expired since you last saw it")
        return propose(self._key, self._commit, found.known, found.versions or [], source)

    def _snapshot(self, rows: list[Row] | None) -> Snapshot | None:
        if self._commit.answer is None or not rows:
            return None
        answered = plans.answer(self._key, self._commit.answer, rows)
        return answered and answered[1]

    async def _locked(self, connection: Connection, begin: Statement, copied: tuple[Key, int] | None) -> Outcome:
        """Lock, judge, apply; only a creation can still be overtaken, and is judged again."""
        while True:
            try:
                ended = await self._turn(connection, begin, copied)
            except BaseException:
                await _roll_back(connection)
                raise
            if ended is not None:
                return ended

    async def _turn(self, connection: Connection, begin: Statement, copied: tuple[Key, int] | None) -> Outcome | None:
        source = None
        guard: Statement = (self._sql["begin_locked"], {})
        asked: list[Statement] = [begin, guard, *self._statements(asking(self._key, self._commit))]
        if copied is not None:
            asked.append((self._sql["source"], {"tenant": copied[0].tenant, "session": copied[0].session_id, "upto": copied[1]}))
        found = await ask(connection, *asked)
        if copied is not None:
            source = _source(copied[0], copied[1], found.pop())
        known = facts(found[2][0])
        if (before := self._repeated(known, found[3] if self._commit.answer else None)) is not None:
            await _roll_back(connection)
            return before
        proposal = self._propose(known, source)
        row, rows = await self._send(connection, proposal, (b"COMMIT", {}))
        ended = self._ended(proposal, row, rows)
        return None if isinstance(ended, Proposal) else ended


def _source(key: Key, upto: int, rows: list[Row]) -> Source:
    """`SessionNotFound` where there is no living source."""
    if not rows or not alive(decode_head(key, rows[0][0]), now()):
        raise SessionNotFound(f"there is no {key}")
    _, n, entries, messages, runs, size = rows[0]
    return Source(n, upto, entries, Counts(runs=runs, messages=messages, bytes=size))


async def _roll_back(connection: Connection) -> None:
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        with suppress(psycopg.Error):  # a broken connection has rolled back
            await ask(connection, (b"ROLLBACK", {}))
