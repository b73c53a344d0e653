"""One database per test, memory or SQLite, without and with a cache; and what the tests of the engine share."""

from __future__ import annotations

import asyncio
import enum
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

import holdfast.handle
import holdfast.info
import holdfast.running
import holdfast.session
import holdfast.sync
from holdfast import Session, Store, register
from holdfast.backends.memory import MemoryBackend
from holdfast.ids import now


@register
class Color(enum.Enum):
    RED = "red"


@register
@dataclass
class Point:
    x: int
    tags: set[str]


@register
class Item(BaseModel):
    sku: str
    price: Decimal


@register
class Money:
    """Has no fields anybody knows of, only the two methods."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def to_dict(self) -> dict[str, Any]:
        return {"cents": self.cents}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Money:
        return cls(data["cents"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


VALUES: dict[str, Any] = {
    "none in a list": [None],
    "bool": True,
    "int": 2**70,
    "float": 0.1,
    "infinite": float("inf"),
    "text": "naïve \U0001f600 \x00 'quoted'",
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"ab"),
    "list": [1, [2, {"a": [3]}]],
    "tuple": (1, (2, "b")),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "datetime": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "naive datetime": datetime(2026, 1, 2),
    "date": date(2026, 1, 2),
    "timedelta": timedelta(days=-1, microseconds=1),
    "decimal": Decimal("0.10"),
    "uuid": UUID(int=5),
    "enum": Color.RED,
    "dataclass": Point(1, {"a"}),
    "pydantic": Item(sku="a", price=Decimal("1.50")),
    "to_dict": Money(5),
    "a message's dict": {"type": "message", "role": "user", "content": [{"type": "text", "text": "hi"}]},
    "a session's dict": {"type": "session", "session_id": "not me", "state": {}},
    "a tag's dict": {"$": ["datetime", "not a tag"]},
    "keys that are no text": {1: "a", (1, 2): "b"},
    "empty": {},
}


class Database:
    """What stores of one test share: the same data, opened as often as there are processes, users or tenants."""

    def __init__(self, kind: str, cache: int, folder: Path) -> None:
        self.kind, self.cache = kind, cache
        self.url = "memory://" if kind == "memory" else f"sqlite:///{folder}/chat.db"
        self._memory = MemoryBackend()
        self.stores: list[Store] = []

    def store(self, **options: Any) -> Store:
        options = {"cache": self.cache} | options
        self.stores.append(Store(self._memory, **options) if self.kind == "memory" else Store.open(self.url, **options))
        return self.stores[-1]


@pytest.fixture(params=["memory-0", "memory-16", "sqlite-0", "sqlite-16"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    kind, cache = str(request.param).split("-")
    database = Database(kind, int(cache), tmp_path)
    yield database
    for store in database.stores:
        await store.close()


@pytest.fixture
def store(db: Database) -> Store:
    return db.store()


@pytest.fixture(params=["memory-0", "memory-16", "sqlite-0", "sqlite-16"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Store]:
    """As `store`, for tests without a loop of their own."""
    kind, cache = str(request.param).split("-")
    store = Database(kind, int(cache), tmp_path).store()
    yield store
    holdfast.sync.Store(store).close()


@pytest.fixture(params=[0, 16], ids=["sqlite-0", "sqlite-16"])
async def file_db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    """As `db`, for what needs more than one process."""
    database = Database("sqlite", request.param, tmp_path)
    yield database
    for store in database.stores:
        await store.close()


@contextmanager
def ago(seconds: float) -> Generator[None]:
    """What is committed in this block is dated `seconds` back: expiry without waiting."""

    def then() -> int:
        return now() - int(seconds * 1_000_000)

    with pytest.MonkeyPatch.context() as patch:
        for module in (holdfast.handle, holdfast.info, holdfast.running, holdfast.session):
            patch.setattr(module, "now", then)
        yield


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for `condition`; a test that waits in vain fails here, not in a timeout of its own."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what changes is in the database
            await asyncio.sleep(0.005)


async def texts(session: Session) -> list[str]:
    return [message.text for message in await session.get_messages()]


async def statuses(session: Session) -> list[str]:
    return [run.status for run in await session.runs()]


async def reopened(session: Session, store: Store) -> Session:
    """The same session as somebody who comes later sees it."""
    found = await store.get(session.id, user_id=session.user_id)
    assert found is not None
    return found


def script(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own, in which warnings are errors too."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)
