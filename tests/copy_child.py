"""What runs in processes of its own while sessions are copied: a writer at the source, and a copy that will be killed."""

from __future__ import annotations

import asyncio
import random

from holdfast.backend import Backend, Commit, Counts, Create, Erase, Filter, HeadPatch, Key, Range, ReadPlan
from holdfast.copying import Pair, copy, reading
from holdfast.entries import MESSAGE
from holdfast.errors import SessionGone, SessionNotFound
from holdfast.ids import new_id, new_incarnation, now
from holdfast.testing import Opener
from holdfast.testing.processes import Pipe
from holdfast.testing.tools import EVERYTHING, blob, contents, listed, note, opened, puts, values

TENANT = "ada & söhne"
SESSIONS = 16


def key(session_id: str) -> Key:
    return Key(TENANT, session_id)


async def grow(backend: Backend, name: str, count: int) -> None:
    """One commit more: state, blob and visible entries agree on how many entries there are, the first of them hidden."""
    snapshot = await backend.read(key(name), ReadPlan())
    create = None if snapshot else Create(new_incarnation(), patch=HeadPatch(ttl=900.0 if len(name) % 2 else None))
    first = snapshot.head.seq + 1 if snapshot else 1
    number = str(first + count - 1)
    commit = Commit(
        id=new_id(),
        time=now(),
        create=create,
        incarnation=snapshot and snapshot.head.incarnation,
        expect=snapshot and snapshot.head.version,
        entries=tuple(note("é" * 40, MESSAGE, f"run {number}") for _ in range(count)),
        counts=Counts(1, count, 3, 4, 80 * count),
        hide=(Range(first, first),),
        puts=puts(n=number, **{f"of {int(number) % 7}": number, f"of {int(number) % 5 + 7}": None}),
        blobs=(blob("n", number), blob(f"at {int(number) % 3}", number * 99)),
    )
    await backend.commit(key(name), commit)


async def check_whole(backend: Backend) -> int:
    """Every session is as it was after one of its commits; how many there are."""
    names = await listed(backend, Filter(tenant=TENANT), 100)
    for name in names:
        snapshot = await backend.read(key(name), EVERYTHING)
        if snapshot is not None:
            number = str(len(snapshot.entries or []))
            assert (values(snapshot)["n"], contents(snapshot)["files", "n"]) == (number, number.encode()), (name, snapshot.head)
            assert number == str(snapshot.head.seq)
            assert any(it.hidden for it in snapshot.entries or [])
    return len(names)


def write(source: Opener, pipe: Pipe) -> None:
    """Write to sessions, clear, delete and make them, until told to stop."""

    async def run() -> None:
        chance = random.Random(7)
        async with opened(source) as backend:
            pipe.send("ready")
            while not pipe.poll(0.002):
                await _one(backend, chance)
            pipe.send("stopped")

    asyncio.run(run())


async def _one(backend: Backend, chance: random.Random) -> None:
    name = f"s{'-' * chance.randrange(2)}{chance.randrange(SESSIONS)}"
    try:
        match chance.randrange(20):
            case 0:
                await backend.commit(key(name), Commit(id=new_id(), time=now(), erase=Erase("session")))
            case 1 | 2:
                await grow(backend, name, 30)
            case _:
                await grow(backend, name, chance.randrange(1, 4))
    except (SessionNotFound, SessionGone):
        pass


def copy_until_killed(source: Opener, target: Opener, pipe: Pipe) -> None:
    """Copy in small pages, on and on."""
    reading.PAGE_ENTRIES, reading.PAGE_BYTES = 6, 2000  # pyright: ignore[reportConstantRedefinition]  # so that much is staged

    async def run() -> None:
        async with opened(source) as here, opened(target) as there:
            pipe.send("ready")
            while True:
                await copy(Pair(here, there, TENANT, "source"))

    asyncio.run(run())
