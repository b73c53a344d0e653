"""Who is measured: each subject prepares a conversation of N turns and then makes one more turn at a time.

A turn loads the last 20 messages and 10 state keys, then commits one 200-byte and one 800-byte message and one state key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from agents import SQLiteSession, TResponseInputItem

import holdfast
from holdfast import sync
from holdfast.backend import Commit, Create, Key, Put
from holdfast.entries import NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.messages import encode_message
from holdfast.values import encode

QUESTION, ANSWER = "q" * 200, "a" * 800
KEYS = [f"key-{number}" for number in range(10)]
VALUE = "v" * 20
SESSION = "bench"


class Subject(Protocol):
    """One turn at a time on a conversation that is already `turns` long."""

    name: str

    async def open(self, path: Path, turns: int) -> None: ...

    async def turn(self, number: int) -> None: ...

    async def close(self) -> None: ...


class Raw:
    """`sqlite3` with prepared statements and nothing else: a clustered log, a clustered state table, one transaction."""

    name = "raw sqlite3"

    async def open(self, path: Path, turns: int) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE messages (session TEXT, seq INTEGER, body BLOB, PRIMARY KEY (session, seq)) WITHOUT ROWID")
        self.db.execute("CREATE TABLE state (session TEXT, key TEXT, value BLOB, PRIMARY KEY (session, key)) WITHOUT ROWID")
        self.bodies = [b'{"role":"user","text":"%s"}' % QUESTION.encode(), b'{"role":"assistant","text":"%s"}' % ANSWER.encode()]
        self.seq = 2 * turns
        self.db.execute("BEGIN")
        rows = ((SESSION, seq + 1, self.bodies[seq % 2]) for seq in range(self.seq))
        self.db.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)
        self.db.executemany("INSERT INTO state VALUES (?, ?, ?)", [(SESSION, key, VALUE.encode()) for key in KEYS])
        self.db.execute("COMMIT")

    async def turn(self, number: int) -> None:
        self.one_turn(SESSION, number)

    def one_turn(self, session: str, number: int) -> None:
        db = self.db
        db.execute("SELECT body FROM messages WHERE session = ? ORDER BY seq DESC LIMIT 20", (session,)).fetchall()
        db.execute("SELECT key, value FROM state WHERE session = ?", (session,)).fetchall()
        db.execute("BEGIN IMMEDIATE")
        for body in self.bodies:
            self.seq += 1
            db.execute("INSERT INTO messages VALUES (?, ?, ?)", (session, self.seq, body))
        db.execute(
            "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (session, KEYS[number % 10], b"%020d" % number),
        )
        db.execute("COMMIT")

    async def close(self) -> None:
        self.db.close()


async def preload(store: holdfast.Store, turns: int) -> None:
    """A conversation of `turns` turns and ten state keys, in commits of a thousand turns."""
    bodies = [encode_message(holdfast.user(QUESTION)), encode_message(holdfast.assistant(ANSWER))]
    key = Key("default", SESSION)
    puts = tuple(Put(name, encode(VALUE)) for name in KEYS)
    await store.backend.commit(key, Commit(id=new_id(), time=now(), create=Create(new_incarnation()), puts=puts))
    for start in range(0, turns, 1000):
        count = 2 * min(1000, turns - start)
        entries = tuple(NewEntry(new_id(), "message", bodies[place % 2], time=now()) for place in range(count))
        await store.backend.commit(key, Commit(id=new_id(), time=now(), entries=entries))


async def async_turn(store: holdfast.Store, session_id: str, number: int) -> None:
    """The turn through `holdfast`, with a new handle."""
    await turn_of(await store.session(session_id), number)


async def turn_of(session: holdfast.Session, number: int) -> None:
    """The turn on a handle."""
    await session.get_messages(last=20)
    for key in KEYS:
        session.state.get(key)
    session.state[KEYS[number % 10]] = f"{number:020d}"
    await session.append(holdfast.user(QUESTION), holdfast.assistant(ANSWER))


class Async:
    """`holdfast.Store`: a cold handle each turn."""

    name = "holdfast, async, cold"
    options = ""
    cache = 0

    async def open(self, path: Path, turns: int) -> None:
        self.store = holdfast.Store.open(f"sqlite:///{path}{self.options}", cache=self.cache)
        await preload(self.store, turns)

    async def turn(self, number: int) -> None:
        await async_turn(self.store, SESSION, number)

    async def close(self) -> None:
        await self.store.close()


class Cached(Async):
    """The same with `cache=256`: the session is warm."""

    name = "holdfast, async, cached"
    cache = 256


class Kept(Cached):
    """The same on one handle, kept from turn to turn."""

    name = "holdfast, async, cached, one handle"

    async def open(self, path: Path, turns: int) -> None:
        await super().open(path, turns)
        self.session = await self.store.session(SESSION)

    async def turn(self, number: int) -> None:
        await turn_of(self.session, number)


class Blocking(Async):
    """`holdfast.sync`: a cold handle each turn, called without an event loop."""

    name = "holdfast.sync, cold"

    async def open(self, path: Path, turns: int) -> None:
        await super().open(path, turns)
        self.blocking = sync.Store(self.store)

    def one_turn(self, session_id: str, number: int) -> None:
        session = self.blocking.session(session_id)
        session.get_messages(last=20)
        for key in KEYS:
            session.state.get(key)
        session.state[KEYS[number % 10]] = f"{number:020d}"
        session.append(holdfast.user(QUESTION), holdfast.assistant(ANSWER))


class OpenAIAgents:
    """openai-agents' own `SQLiteSession`: the last 20 items and the two messages; it has no state and detects no conflict."""

    name = "openai-agents SQLiteSession"

    async def open(self, path: Path, turns: int) -> None:
        self.session = SQLiteSession(SESSION, path)
        for start in range(0, turns, 1000):
            await self.session.add_items(self.items() * min(1000, turns - start))

    def items(self) -> list[TResponseInputItem]:
        return [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]

    async def turn(self, number: int) -> None:
        await self.session.get_items(limit=20)
        await self.session.add_items(self.items())

    async def close(self) -> None:
        self.session.close()


SUBJECTS: list[Callable[[], Subject]] = [Raw, Async, Cached, Kept, Blocking, OpenAIAgents]
Turn = Callable[[int], Awaitable[None]]
