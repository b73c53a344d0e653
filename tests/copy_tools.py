"""What tests of copies share: sessions of every sort, and whether two stores hold the same, found out without what is tested."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from holdfast.backend import (
    Backend,
    BlobDrop,
    ClaimAct,
    Commit,
    Counts,
    Create,
    Erase,
    Filter,
    Head,
    HeadPatch,
    Origin,
    Range,
    ReadPlan,
)
from holdfast.backends.memory import MemoryBackend
from holdfast.copying import Pair, Report, reading, verify
from holdfast.copying.marks import stage_tenant
from holdfast.entries import MESSAGE, RUN, NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.testing import Opener
from holdfast.testing.tools import SECOND, blob, created, creating, listed, note, notes, puts, read, writing

from .copy_child import TENANT, key


@asynccontextmanager
async def paired(openers: tuple[Opener, Opener], name: str = "source") -> AsyncGenerator[Pair]:
    source, target = (opener() for opener in openers)
    async with AsyncExitStack() as stack:
        for backend in (source, target):
            await backend.open()
            stack.push_async_callback(backend.close)
        yield Pair(source, target, TENANT, name)


def pair_in_memory() -> Pair:
    return Pair(MemoryBackend(), MemoryBackend(), TENANT, "source")


async def write(backend: Backend, session_id: str, **parts: Any) -> Head:
    """A commit of an admin to a session that must be there."""
    head = (await read(backend, key(session_id), ReadPlan())).head
    outcome = await backend.commit(key(session_id), writing(head, check_owner=False, **parts))
    assert outcome.head is not None
    return outcome.head


async def delete(backend: Backend, session_id: str) -> None:
    await backend.commit(key(session_id), Commit(id=new_id(), time=now(), check_owner=False, erase=Erase("session")))


# --- what is kept, compared without the help of what is tested -------------------------------------------------------


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that most sessions have to be staged."""
    monkeypatch.setattr(reading, "PAGE_ENTRIES", 4)
    monkeypatch.setattr(reading, "PAGE_BYTES", 2000)


OWN = {"incarnation", "version", "fence", "claim", "hides", "floor"}


async def told(backend: Backend, session_id: str) -> Any:
    """Everything of a session that a copy must have."""
    snapshot = await read(backend, key(session_id))
    head = {name: value for name, value in msgspec.structs.asdict(snapshot.head).items() if name not in OWN}
    entries = [msgspec.structs.replace(entry, version=0) for entry in snapshot.entries or []]
    state = {name: row.value for name, row in (snapshot.state or {}).items() if row.value is not None}
    return head, entries, state, [it for it in snapshot.blobs or [] if it.namespace != "~copy"]


async def same(pair: Pair) -> None:
    """Both sides hold the same sessions, in the same order, and the destination nothing that is staged."""
    names = await listed(pair.source, Filter(tenant=TENANT), 100)
    assert sorted(await listed(pair.target, Filter(tenant=TENANT), 100)) == sorted(names)
    for name in names:
        assert await told(pair.target, name) == await told(pair.source, name), name
    assert await listed(pair.target, Filter(tenant=stage_tenant(TENANT))) == []
    verified = await verify(pair)
    assert (verified.same, verified.different, verified.moving) == (len(names), [], [])


def settled(report: Report) -> None:
    assert (report.moving, report.refused) == ([], [])


async def touched(backend: Backend, session_id: str, head: Head, at: int) -> None:
    """What a read at this time does to the expiry."""
    await backend.commit(key(session_id), Commit(id=new_id(), time=at, incarnation=head.incarnation, check_owner=False))


async def furnish(backend: Backend) -> None:
    """Sessions of every sort."""
    time = now()
    head = await created(
        backend,
        key("full"),
        create=Create(new_incarnation(), created=1_000_000),
        time=time - 90 * SECOND,
        user_id="ada",
        entries=tuple(NewEntry(f"e{n}", MESSAGE if n % 3 else RUN, b'{"n":%d}' % n, f"run-{n // 4}", "desk", n) for n in range(21)),
        counts=Counts(5, 14, 1200, 34, 150),
        puts=puts(kept="1", gone="2", ключ='"é"'),
        blobs=(blob("b", b"\x00\xff"), blob("b", "1", "other"), blob("a/ü", "")),
        patch=HeadPatch(
            kind="chat",
            agent="desk",
            name="Order \u202e A-17",
            metadata={"plan": "pro", "deep": {"x": [1, None]}},
            parent="team",
            origin=Origin("elsewhere", 7),
            service_ids={"desk": {"conversation": "c_1"}},
            waiting=True,
        ),
    )
    await write(backend, "full", hide=(Range(3, 6), Range(21, 21)), puts=puts(gone=None))
    await backend.copy(key("full"), 12, key("fork"), creating(patch=HeadPatch(origin=Origin("full", 2))))
    await created(backend, key("empty"))
    await created(backend, key("日本/ ~%:?#{}"), entries=notes("x"), puts=puts(**{" ": "0"}))
    await created(backend, key("i" * 900), entries=notes("y"))
    await created(backend, key("~user/ada"), puts=puts(theme='"dark"'))
    await created(backend, key("long"), entries=notes(*(f"{n}" * 30 for n in range(500))))
    await created(backend, key("blobs"), blobs=tuple(blob(f"{n}", bytes([n]) * 150_000) for n in range(9)))
    await created(backend, key("expiring"), patch=HeadPatch(ttl=1000.0))
    head = await created(backend, key("touched"), time=time - 5000 * SECOND, patch=HeadPatch(ttl=6000.0))
    await touched(backend, "touched", head, time - 1)
    head = await created(backend, key("kept alive by reads"), time=time - 10 * SECOND, patch=HeadPatch(ttl=12.5))
    await touched(backend, "kept alive by reads", head, time + 5000 * SECOND)
    await created(backend, key("running"), entries=notes("z"), claim=ClaimAct("take", "worker"), patch=HeadPatch(ttl=3.25))
    await created(backend, key("expired"), time=time - 99 * SECOND, patch=HeadPatch(ttl=1.0))


async def change(backend: Backend) -> None:
    """Every sort of change."""
    patch = HeadPatch(name=None, metadata={"plan": None, "new": 1}, service_ids={"desk": None}, waiting=False, ttl=5000.0)
    await write(backend, "full", entries=(note("n", MESSAGE, "run-9"),), hide=(Range(1, 1), Range(22, 22)), patch=patch)
    await write(backend, "full", puts=puts(kept=None, gone="back"), counts=Counts(1, 1, 1, 1, 1))
    await write(backend, "full", blobs=(blob("b", "new"), blob("c", "2")), drops=(BlobDrop("other", "b"),))
    await write(backend, "long", entries=notes(*"abc"), hide=(Range(2, 480),))
    await write(backend, "blobs", blobs=(blob("3", "changed"), blob("x", "new")), drops=(BlobDrop("files", "1"),))
    await delete(backend, "fork")
    await delete(backend, "empty")
    await created(backend, key("empty"), entries=notes("another life"), user_id="eve")
    erase = Erase("content", new_incarnation())
    await backend.commit(key("~user/ada"), Commit(id=new_id(), time=now(), erase=erase, puts=puts(theme='"light"')))
    await write(backend, "expiring", patch=HeadPatch(ttl=None))
    await created(backend, key("new"), entries=notes("1"))
    await created(backend, key("new and long"), entries=notes(*(f"{n}" for n in range(450))))
