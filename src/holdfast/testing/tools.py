"""What clauses are written with: keys of their own, commits in one line, backends that are closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from .. import Store
from ..backend import (
    Backend,
    Blob,
    BlobPut,
    BlobRange,
    Commit,
    Create,
    Filter,
    Head,
    Key,
    Outcome,
    Put,
    ReadPlan,
    Snapshot,
    Window,
)
from ..entries import NOTE, NewEntry
from ..ids import new_id, new_incarnation, now
from .suite import Opener

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

ALL = Window(newest=False)
EVERYTHING = ReadPlan(state_since=0, entries=Window(newest=False, hidden=True), blobs=(BlobRange(),))
VISIBLE = ReadPlan(state_since=0, entries=ALL, blobs=(BlobRange(),))
SECOND = 1_000_000
"""In the microseconds that times are counted in."""


def fresh(session_id: str = "session") -> Key:
    """A key in a tenant that nothing else uses."""
    return Key(f"tenant-{new_id()}", session_id)


def note(body: bytes | str = b"{}", kind: str = NOTE, run_id: str | None = None) -> NewEntry:
    return NewEntry(new_id(), kind, body.encode() if isinstance(body, str) else body, run_id, None, now())


def notes(*bodies: str) -> tuple[NewEntry, ...]:
    return tuple(note(body) for body in bodies)


def puts(**values: str | None) -> tuple[Put, ...]:
    return tuple(Put(key, None if value is None else value.encode()) for key, value in values.items())


def blob(key: str, data: str | bytes, namespace: str = "files", *, if_absent: bool = False) -> BlobPut:
    return BlobPut(namespace, key, "text", data.encode() if isinstance(data, str) else data, if_absent)


def creating(**parts: Any) -> Commit:
    """A commit that creates the session where it isn't."""
    filled: dict[str, Any] = {"id": new_id(), "time": now(), "create": Create(new_incarnation())} | parts
    return Commit(**filled)


def writing(head: Head, **parts: Any) -> Commit:
    """A commit of somebody who has seen `head`."""
    filled: dict[str, Any] = {"id": new_id(), "time": now(), "incarnation": head.incarnation, "base": head.version} | parts
    return Commit(**filled)


async def created(backend: Backend, key: Key, **parts: Any) -> Head:
    return head_of(await backend.commit(key, creating(**parts)))


async def wrote(backend: Backend, key: Key, head: Head, **parts: Any) -> Head:
    return head_of(await backend.commit(key, writing(head, **parts)))


def head_of(outcome: Outcome) -> Head:
    assert outcome.head is not None, "the outcome of this commit must carry the head"
    return outcome.head


async def read(backend: Backend, key: Key, plan: ReadPlan = EVERYTHING) -> Snapshot:
    """The answer of a session that must be there."""
    snapshot = await backend.read(key, plan)
    assert snapshot is not None, f"{key} is not there"
    return snapshot


async def bodies(backend: Backend, key: Key, window: Window = ALL) -> list[str]:
    return texts(await read(backend, key, ReadPlan(entries=window)))


def texts(snapshot: Snapshot) -> list[str]:
    assert snapshot.entries is not None
    return [entry.body.decode() for entry in snapshot.entries]


def values(snapshot: Snapshot) -> dict[str, str]:
    """The state without its tombstones."""
    assert snapshot.state is not None
    return {key: row.value.decode() for key, row in snapshot.state.items() if row.value is not None}


def contents(snapshot: Snapshot) -> dict[tuple[str, str], bytes | None]:
    blobs: list[Blob] = snapshot.blobs or []
    return {(it.namespace, it.key): it.data for it in blobs}


def content(snapshot: Snapshot) -> tuple[Any, ...]:
    """Everything that a refused commit must leave as it was."""
    return snapshot.head, snapshot.entries, values(snapshot), contents(snapshot)


def check_gapless(snapshot: Snapshot) -> None:
    assert snapshot.entries is not None
    assert [entry.seq for entry in snapshot.entries] == list(range(1, snapshot.head.seq + 1))


async def listed(backend: Backend, filter: Filter, limit: int = 10) -> list[str]:
    """Every session of all pages, in order."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await backend.list(filter, cursor, limit)
        assert len(page.items) <= limit
        found += [session_id for session_id, _ in page.items]
        if (cursor := page.cursor) is None:
            return found


@asynccontextmanager
async def opened(open: Opener) -> AsyncGenerator[Backend]:
    """A backend on the database, opened."""
    async with unopened(open) as backend:
        await backend.open()
        yield backend


@asynccontextmanager
async def unopened(open: Opener) -> AsyncGenerator[Backend]:
    """A backend on the database. One that lives in this process's memory is the same for everybody, and is not closed."""
    backend = open()
    try:
        yield backend
    finally:
        if backend.capabilities.multi_process:
            await backend.close()


@asynccontextmanager
async def both(open: Opener) -> AsyncGenerator[tuple[Backend, Backend]]:
    """Two backends on the one database."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(opened(open)), await stack.enter_async_context(opened(open))


@asynccontextmanager
async def stored(open: Opener, key: Key, **options: Any) -> AsyncGenerator[Store]:
    """A store on the database, of the key's tenant."""
    async with opened(open) as backend:
        yield Store(backend, tenant=key.tenant, **options)


class Caught:
    """The error of a `refused` block, once it has ended."""

    error: Any = None


@contextmanager
def refused(kind: type[BaseException]) -> Generator[Caught]:
    """The block must raise `kind`."""
    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
    else:
        raise AssertionError(f"this must be refused with {kind.__name__}, and was not")


async def settled(attempts: Iterable[Awaitable[T]], losing: type[E]) -> tuple[list[T], list[E]]:
    """Run all at once: the results of those that won, the errors of those refused as `losing`; any other error is raised."""
    ended = await asyncio.gather(*attempts, return_exceptions=True)
    lost = [it for it in ended if isinstance(it, losing)]
    for it in ended:
        if isinstance(it, BaseException) and not isinstance(it, losing):
            raise it
    return [it for it in ended if not isinstance(it, BaseException)], lost
