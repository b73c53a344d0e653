"""The stored form of SQLite: what one scripted session looks like on the disk, byte for byte, and old files that are read forever.

A difference here is a new form. If it is meant, keep the old file, add the new one beside it: `python -m tests.test_stored_form`.
"""

import asyncio
import shutil
import sqlite3
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from holdfast.backend import BlobPut, ClaimAct, Commit, Counts, Create, Erase, HeadPatch, Key, Origin, Put, Range
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.entries import MESSAGE, NOTE, NewEntry
from holdfast.messages import Message, assistant, encode_message, tool, user
from holdfast.testing.tools import EVERYTHING, contents, opened, read, texts, values, writing, wrote
from holdfast.values import decode, encode

DATA = Path(__file__).parent / "data"
TEXT, FILE = DATA / "sqlite-v1.txt", DATA / "sqlite-v1.db"
TIME = 1_700_000_000_000_000
KEY, CLEARED, GONE = Key("default", "ada-1"), Key("default", "cleared"), Key("other", "gone")
SAID: list[Message] = [user("hi"), assistant("hello\n\0 \U0001f9f7"), tool({"total": 1.5}, call_id="call-1"), user("hidden")]
STATE: dict[str, Any] = {
    "int": 3,
    "text": "é",
    "list": [1, None, True],
    "datetime": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    "date": date(2024, 2, 29),
    "decimal": Decimal("1.10"),
    "bytes": b"\0\xff",
    "set": {"one"},
    "tuple": (1, (2,)),
    "uuid": UUID(int=7),
}


def first() -> Commit:
    entries = tuple(NewEntry(f"entry-{n}", MESSAGE, encode_message(it), "run-1", "agent", TIME + n) for n, it in enumerate(SAID, 1))
    patch = HeadPatch(name="A name", agent="agent", metadata={"a": [1]}, origin=Origin("from", 3), service_ids={"": "conv"}, waiting=True)
    return Commit(
        id="commit-1",
        time=TIME,
        create=Create(11),
        user_id="ada",
        entries=entries,
        puts=tuple(Put(key, encode(value)) for key, value in STATE.items()),
        blobs=(BlobPut("files", "a/1", "image/png", b"\x89PNG\0"),),
        counts=Counts(runs=1, messages=4, bytes=99),
        patch=patch,
    )


async def script(path: str) -> None:
    """One session with one of everything, a cleared one and a deleted one; ids and times are fixed."""
    async with opened(lambda: SQLiteBackend(path)) as backend:
        outcome = await backend.commit(KEY, first())
        assert outcome.head is not None
        same = {"user_id": "ada", "time": TIME + 9}
        head = await wrote(backend, KEY, outcome.head, id="commit-2", hide=(Range(4, 4),), puts=(Put("int", None),), **same)
        await wrote(
            backend,
            KEY,
            head,
            id="commit-3",
            entries=(NewEntry("entry-5", NOTE, b"{}", time=TIME),),
            claim=ClaimAct("take", "run-2"),
            **same,
        )
        for key, what in ((CLEARED, Erase("content", 22)), (GONE, Erase("session"))):
            outcome = await backend.commit(key, Commit(id="commit-1", time=TIME, create=Create(21), entries=first().entries))
            assert outcome.head is not None
            await backend.commit(key, writing(outcome.head, id="commit-2", time=TIME, erase=what))


def dump(path: str) -> str:
    """The schema and every row, as text; the time of burials is the clock's and left out."""
    connection = sqlite3.connect(path)
    try:
        lines = [f"{name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]}" for name in ("application_id", "user_version")]
        lines += [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")]
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            lines += [f"{table}: {row[:-1] if table == 'graves' else row!r}" for row in rows]
    finally:
        connection.close()
    return "\n".join(lines) + "\n"


async def test_what_is_stored_is_what_was_always_stored(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    await script(path)
    assert dump(path) == TEXT.read_text("utf-8")


async def test_an_old_file_is_read_and_written(tmp_path: Path) -> None:
    path = str(shutil.copy(FILE, tmp_path / "store.db"))
    async with opened(lambda: SQLiteBackend(path)) as backend:
        found = await read(backend, KEY)
        assert [entry.message().parts for entry in (found.entries or [])[:4]] == [message.parts for message in SAID]
        assert [entry.hidden for entry in found.entries or []] == [False, False, False, True, False]
        assert {key: decode(value.encode()) for key, value in values(found).items()} == {k: v for k, v in STATE.items() if k != "int"}
        assert contents(found) == {("files", "a/1"): b"\x89PNG\0"}
        assert (found.head.incarnation, found.head.version, found.head.user_id, found.head.fence) == (11, 3, "ada", 1)
        assert (await backend.commit(KEY, first())).repeated
        assert (await read(backend, CLEARED)).head.incarnation == 22
        assert await backend.read(GONE, EVERYTHING) is None
        await wrote(backend, KEY, found.head, user_id="ada", entries=(NewEntry("new", NOTE, b"new"),))
        assert texts(await read(backend, KEY))[-1] == "new"
        assert isinstance(backend, SQLiteBackend)
        assert await backend.check() == []


def write() -> None:
    """Write the expected text and file anew."""
    for leftover in DATA.glob(f"{FILE.name}*"):
        leftover.unlink()
    asyncio.run(script(str(FILE)))
    TEXT.write_text(dump(str(FILE)), "utf-8")
    connection = sqlite3.connect(FILE)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


if __name__ == "__main__":
    sys.exit(write())
