"""What the tests of recall share: stores with something in them, the model that embeds, and a look into the index's file."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import Message, Session, Store
from holdfast.recall import Hit, MiniLM, Recall

from ..agents.conftest import Models, chat, memory, models, store

__all__ = ["Models", "chat", "memory", "models", "store"]

ROWS = """
SELECT s.tenant, s.session_id, d.seq, d.piece, d.role, w.text, v.vector
FROM documents d JOIN sessions s ON s.id = d.session JOIN words w ON w.rowid = d.id LEFT JOIN vectors v ON v.document = d.id
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    return MiniLM()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where an index may be."""
    return tmp_path / "recall.db"


@pytest.fixture
async def recall(store: Store, file: Path) -> AsyncGenerator[Recall]:
    """By words."""
    async with Recall(store, f"sqlite:///{file}") as opened:
        yield opened


async def said(store: Store, session_id: str, *messages: Message, user_id: str | None = None) -> Session:
    session = await store.session(session_id, user_id=user_id)
    await session.append(*messages)
    return session


def shown(hits: list[Hit]) -> list[str]:
    """Where each hit is: `session:seq`."""
    return [f"{it.session_id}:{it.seq}" for it in hits]


def rows(file: Path) -> list[Any]:
    """Everything that is in an index; it is sound, and nothing is left of what isn't in it."""
    opened: Any = apsw.Connection(str(file))
    with closing(opened) as database:
        database.set_busy_timeout(10_000)

        def asked(sql: str) -> list[Any]:
            return database.execute(sql).fetchall()

        if not asked("SELECT 1 FROM sqlite_schema"):
            return []
        found = asked(ROWS)
        assert [asked(f"SELECT count(*) FROM {table}")[0][0] for table in ("documents", "words")] == [len(found)] * 2
        assert asked("SELECT count(*) FROM vectors WHERE document NOT IN (SELECT id FROM documents)") == [(0,)]
        assert asked("PRAGMA integrity_check") == [("ok",)]
        database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        return found


def texts(file: Path) -> list[str]:
    return [row[5] for row in rows(file)]


def made(file: Path) -> bool:
    return file.exists()


def holds(file: Path, text: str) -> bool:
    """Whether any file of the index has these bytes in it: text, or a word as it is looked up (stems are shorter than words)."""
    return any(text.encode() in it.read_bytes() for it in file.parent.glob(f"{file.name}*"))
