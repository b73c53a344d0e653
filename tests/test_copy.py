"""Copying between backends: everything is kept, while the source is in use, whole or not at all, however often the copy is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast import Store
from holdfast.backend import (
    Commit,
    Counts,
    Create,
    Filter,
    HeadPatch,
    Key,
    Outcome,
    Range,
    ReadPlan,
    Snapshot,
)
from holdfast.backends import dynamodb, postgres, redis
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.copying import Pair, copy, finish, reading, verify
from holdfast.ids import new_id, new_incarnation, now
from holdfast.rules import TOMBSTONES_KEPT
from holdfast.testing import Opener
from holdfast.testing.tools import EVERYTHING, SECOND, blob, created, creating, listed, notes, puts, read

from .copy_child import TENANT, key
from .copy_tools import change, delete, furnish, pair_in_memory, paired, same, settled, small, told, touched, write
from .servers import dynamodb as dynamodb_server
from .servers import postgres as postgres_server
from .servers.redis import redis8, server

# --- the stores, by name: a line for each ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(scope="module")
def dynamodb_port() -> Generator[int]:
    try:
        with dynamodb_server.dynoxide() as it:
            yield it.port
    except dynamodb_server.Missing as missing:
        pytest.skip(f"no DynamoDB to test with: {missing}")


def _memory(_: pytest.FixtureRequest, __: Path) -> Opener:
    backend = MemoryBackend()
    return lambda: backend


def _sqlite(_: pytest.FixtureRequest, folder: Path) -> Opener:
    return partial(SQLiteBackend, str(folder / f"{new_id()}.db"), synchronous="off")


def _redis(request: pytest.FixtureRequest, _: Path) -> Opener:
    return partial(redis.from_url, f"{request.getfixturevalue('redis_url')}?prefix={new_id()}:")


def _postgres(_: pytest.FixtureRequest, __: Path) -> Opener:
    return partial(postgres.from_url, postgres_server.shared().fresh())


def _dynamodb(request: pytest.FixtureRequest, _: Path) -> Opener:
    port, table = request.getfixturevalue("dynamodb_port"), f"holdfast-{new_id()}"
    asyncio.run(_made(dynamodb_server.backend(port, table)))
    return partial(dynamodb_server.backend, port, table)


async def _made(backend: dynamodb.DynamoDBBackend) -> None:
    await backend.create()
    await backend.close()


STORES: dict[str, Callable[[pytest.FixtureRequest, Path], Opener]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "postgres": _postgres,
    "dynamodb": _dynamodb,
}
PAIRS = [
    ("memory", "memory"),
    ("memory", "sqlite"),
    ("sqlite", "memory"),
    ("sqlite", "sqlite"),
    ("sqlite", "redis"),
    ("sqlite", "postgres"),
    ("sqlite", "dynamodb"),
]
ROUND_TRIP = ["sqlite", "redis", "postgres", "dynamodb", "sqlite"]


@pytest.fixture(params=PAIRS, ids="-".join)
def openers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Opener, Opener]:
    source, target = request.param
    return STORES[source](request, tmp_path), STORES[target](request, tmp_path)


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Opener, Opener]:
    return _sqlite(request, tmp_path), _sqlite(request, tmp_path)


@pytest.fixture
def around(request: pytest.FixtureRequest, tmp_path: Path) -> list[Opener]:
    return [STORES[name](request, tmp_path) for name in ROUND_TRIP]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that the long sessions of these tests don't fit."""
    monkeypatch.setattr(reading, "PAGE_ENTRIES", 200)
    monkeypatch.setattr(reading, "PAGE_BYTES", 500_000)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


# --- whole, and the same ---------------------------------------------------------------------------------------------


async def test_everything_is_kept_and_every_change_is_brought(openers: tuple[Opener, Opener], pages: None) -> None:
    async with paired(openers) as pair:
        await furnish(pair.source)
        first = await copy(pair)
        settled(first)
        assert (first.made, first.passes) == (12, 1)
        await same(pair)
        await change(pair.source)
        second = await copy(pair)
        settled(second)
        assert (second.made, second.brought, second.gone) == (2, 6, 1)
        await same(pair)
        third = await copy(pair)
        assert (third.made, third.brought, third.gone) == (0, 0, 0)


async def test_what_is_staged_is_the_same(files: tuple[Opener, Opener], small_pages: None) -> None:
    async with paired(files) as pair:
        await furnish(pair.source)
        settled(await copy(pair))
        await same(pair)
        await change(pair.source)
        settled(await copy(pair))
        await same(pair)
        assert isinstance(pair.target, SQLiteBackend)
        assert await pair.target.check() == []


async def test_lists_are_in_the_same_order(files: tuple[Opener, Opener]) -> None:
    async with paired(files) as pair:
        for n in range(30):
            await created(pair.source, key(f"s{n * 7 % 30}"))
        await copy(pair)
        assert await listed(pair.target, Filter(tenant=TENANT)) == await listed(pair.source, Filter(tenant=TENANT))


async def test_other_tenants_stay_where_they_are(files: tuple[Opener, Opener]) -> None:
    async with paired(files) as pair:
        await created(pair.source, Key("other", "theirs"))
        assert (await copy(pair)).sessions == 0
        assert await listed(pair.target, Filter(tenant="other")) == []


async def test_once_around_is_the_same(around: list[Opener], pages: None) -> None:
    """SQLite, Redis, PostgreSQL, DynamoDB and back: what arrives is what set out."""
    async with paired((around[0], around[-1])) as ends:
        await furnish(ends.source)
        await change(ends.source)
        for source, target in pairwise(around):
            async with paired((source, target)) as pair:
                settled(await copy(pair))
                await same(pair)
        await finish(ends)
        for name in await listed(ends.source, Filter(tenant=TENANT)):
            assert await told(ends.target, name) == await told(ends.source, name)
        assert len(await listed(ends.target, Filter(tenant=TENANT))) == len(await listed(ends.source, Filter(tenant=TENANT))) == 13


async def test_deletions_that_the_source_has_forgotten_are_brought() -> None:
    pair = pair_in_memory()
    names = [f"k{n}" for n in range(TOMBSTONES_KEPT + 1)]
    await created(pair.source, key("s"), puts=puts(kept="1", **dict.fromkeys(names, "2")))
    await copy(pair)
    await write(pair.source, "s", puts=puts(**dict.fromkeys(names)))
    await pair.source.sweep(10)
    assert (await read(pair.source, key("s"))).head.floor == 2
    await copy(pair)
    await same(pair)


async def test_a_source_that_was_set_back_is_copied_anew() -> None:
    pair, backup = pair_in_memory(), MemoryBackend()
    life = Create(new_incarnation())
    for backend in (pair.source, backup):
        await created(backend, key("s"), create=life, entries=notes("1"), puts=puts(a="1"))
    await write(pair.source, "s", entries=notes("2"), puts=puts(a="2", b="2"))
    await copy(pair)
    pair = msgspec.structs.replace(pair, source=backup)
    settled(await copy(pair))
    await same(pair)


class Hiding(MemoryBackend):
    """While a session is read in pages for the first time, an entry of the first page is hidden."""

    hid = False

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        if plan.entries is not None and plan.entries.after == 8 and not self.hid:
            self.hid = True
            await self.commit(key, Commit(id=new_id(), time=now(), hide=(Range(2, 2),)))
        return await super().read(key, plan)


async def test_what_is_hidden_while_it_is_staged_is_hidden(small_pages: None) -> None:
    pair = Pair(Hiding(), MemoryBackend(), TENANT, "source")
    await created(pair.source, key("s"), entries=notes(*(f"{n}" for n in range(20))))
    settled(await copy(pair))
    await same(pair)


# --- expiry ----------------------------------------------------------------------------------------------------------


async def test_a_read_at_the_source_puts_off_the_expiry_of_the_copy() -> None:
    pair = pair_in_memory()
    head = await created(pair.source, key("s"), patch=HeadPatch(ttl=60.0))
    await copy(pair)
    await touched(pair.source, "s", head, now() + 30 * SECOND)
    await copy(pair)
    await same(pair)


async def test_what_expires_at_the_source_goes_at_the_destination() -> None:
    pair = pair_in_memory()
    await created(pair.source, key("s"), patch=HeadPatch(ttl=0.3))
    await copy(pair)
    later = (await read(pair.target, key("s"))).head
    await touched(pair.target, "s", later, now() + 60 * SECOND)
    async with asyncio.timeout(5):
        while await pair.source.read(key("s"), ReadPlan()) is not None:  # noqa: ASYNC110  # nothing tells of an expiry
            await asyncio.sleep(0.01)
    report = await copy(pair)
    assert (report.gone, report.moving) == (1, [])
    assert await pair.target.read(key("s"), ReadPlan()) is None


# --- conflicts -------------------------------------------------------------------------------------------------------


async def test_what_was_there_is_left_as_it_is_and_the_rest_goes_on(small_pages: None) -> None:
    pair = pair_in_memory()
    elsewhere = msgspec.structs.replace(pair, source=MemoryBackend(), name="elsewhere")
    for name in ("theirs", "written", "good", "gone", "long"):
        await created(pair.source, key(name), entries=notes(*"12"))
    await created(pair.target, key("theirs"), entries=notes("mine"))
    await created(pair.target, key("long"), entries=notes("mine"))
    await write(pair.source, "long", entries=notes(*(f"{n}" * 99 for n in range(50))))
    await created(elsewhere.source, key("from elsewhere"), entries=notes("e"))
    await created(pair.source, key("from elsewhere"), entries=notes("s"))
    await copy(elsewhere)
    await copy(pair)
    for name in ("written", "gone"):
        await write(pair.target, name, entries=notes("by somebody"))
        await write(pair.source, name, entries=notes("3"))
    await delete(pair.source, "gone")
    await created(pair.source, key("new"))
    before = {name: await told(pair.target, name) for name in ("theirs", "written", "gone", "long", "from elsewhere")}
    report = await copy(pair)
    assert {it.session_id for it in report.refused} == set(before)
    assert {it.session_id: it.why for it in report.refused}["from elsewhere"] == "there already, as a copy from elsewhere: left as it is"
    assert (report.made, report.moving) == (1, [])
    for name, what in before.items():
        assert await told(pair.target, name) == what
    assert await told(pair.target, "good") == await told(pair.source, "good")
    assert {it.session_id for it in (await verify(pair)).different} == set(before)


async def test_a_copy_takes_away_only_its_own() -> None:
    pair = pair_in_memory()
    await created(pair.source, key("ours"), entries=notes("1"))
    await copy(pair)
    await created(pair.target, key("theirs"))
    fork = creating(create=Create(new_incarnation(), exclusive=True))
    await pair.target.copy(key("ours"), None, key("fork of a copy"), fork)
    await delete(pair.source, "ours")
    assert (await copy(pair)).gone == 1
    assert sorted(await listed(pair.target, Filter(tenant=TENANT))) == ["fork of a copy", "theirs"]


async def test_what_the_destination_cannot_hold_is_told() -> None:
    pair = pair_in_memory()
    small = type("Small", (MemoryBackend,), {"capabilities": msgspec.structs.replace(MemoryBackend.capabilities, max_entry_bytes=1000)})
    pair = msgspec.structs.replace(pair, target=small())
    await created(pair.source, key("large"), entries=notes("x" * 2000))
    await created(pair.source, key("small"))
    report = await copy(pair)
    assert [it.session_id for it in report.refused] == ["large"]
    assert "1,000" in report.refused[0].why
    assert await listed(pair.target, Filter(tenant=TENANT)) == ["small"]


# --- the mark --------------------------------------------------------------------------------------------------------


async def test_no_export_has_a_mark_and_finish_takes_it_out() -> None:
    pair = pair_in_memory()
    await furnish(pair.source)
    await copy(pair)
    names = [name for name in await listed(pair.source, Filter(tenant=TENANT)) if not name.startswith("~")]
    stores = [Store(backend, tenant=TENANT, as_admin=True) for backend in (pair.source, pair.target)]
    for name in names:
        exports = [[line async for line in store.export(name)][1:] for store in stores]
        assert exports[0] == exports[1]
    assert await finish(pair) == len(names) + 1
    for name in names:
        snapshot = await read(pair.target, key(name))
        assert "~copy" not in {it.namespace for it in snapshot.blobs or []}
        assert await told(pair.target, name) == await told(pair.source, name)
    assert {it.why for it in (await copy(pair)).refused} == {"there already, and not made by a copy: left as it is"}


async def test_a_copy_of_a_copy() -> None:
    pair = pair_in_memory()
    await furnish(pair.source)
    await copy(pair)
    further = Pair(pair.target, MemoryBackend(), TENANT, "the copy")
    settled(await copy(further))
    await same(further)
    await same(Pair(pair.source, further.target, TENANT, "source"))


# --- verifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"puts": puts(kept="2")}, "state: 2 at the source, 2 at the destination, with other content"),
        ({"puts": puts(more="2")}, "state: 2 at the source, 3 at the destination"),
        ({"hide": (Range(1, 1),)}, "entries: 21 (5 hidden) at the source, 21 (6 hidden) at the destination"),
        ({"blobs": (blob("b", "other"),)}, "blobs: 3 at the source, 3 at the destination, with other content"),
        ({"patch": HeadPatch(name="other")}, "head: name"),
        ({"counts": Counts(messages=1)}, "head: counts"),
    ],
)
async def test_verifying_tells_what_differs(parts: dict[str, Any], why: str) -> None:
    pair = pair_in_memory()
    await furnish(pair.source)
    await copy(pair)
    head = (await read(pair.target, key("full"))).head
    await write(pair.target, "full", time=head.updated, **parts)
    assert [(it.session_id, it.why) for it in (await verify(pair)).different] == [("full", why)]


async def test_verifying_tells_what_is_on_one_side_only() -> None:
    pair = pair_in_memory()
    for name in ("both", "gone", "lost"):
        await created(pair.source, key(name))
    await copy(pair)
    await created(pair.target, key("a stranger"))
    for backend, name in ((pair.source, "gone"), (pair.target, "lost")):
        await delete(backend, name)
    await write(pair.source, "both", puts=puts(a="1"))
    verified = await verify(pair)
    assert {it.session_id: it.why for it in verified.different} == {"gone": "gone at the source", "lost": "not at the destination"}
    assert (verified.same, verified.moving) == (0, ["both"])


# --- bounds ----------------------------------------------------------------------------------------------------------


class Watched(MemoryBackend):
    """Remembers the most entries and bytes that one read gave and one commit took."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = self.bytes = 0

    def _saw(self, bodies: list[bytes], blobs: list[bytes]) -> None:
        self.entries = max(self.entries, len(bodies))
        self.bytes = max(self.bytes, sum(map(len, bodies + blobs)))

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await super().read(key, plan)
        if snapshot is not None and plan != EVERYTHING:
            self._saw([it.body for it in snapshot.entries or []], [it.data or b"" for it in snapshot.blobs or []])
        return snapshot

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self._saw([it.body for it in commit.entries], [it.data for it in commit.blobs])
        return await super().commit(key, commit)


async def test_a_page_is_the_most_that_is_read_or_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(Watched(), Watched(), TENANT, "source")
    bodies, size = [f"{n:01000}" for n in range(3000)], 100_000
    await MemoryBackend.commit(
        pair.source,  # pyright: ignore[reportArgumentType]  # not watched yet
        key("long"),
        creating(
            entries=notes(*bodies),
            counts=Counts(bytes=3_000_000),
            hide=(Range(2, 7),),
            blobs=tuple(blob(f"{n}", "x" * size) for n in range(50)),
        ),
    )
    monkeypatch.setattr(reading, "PAGE_BYTES", 500_000)
    settled(await copy(pair))
    await same(pair)
    for backend in (pair.source, pair.target):
        assert isinstance(backend, Watched)
        assert (backend.entries <= 501, backend.bytes < 1_700_000) == (True, True), (backend.entries, backend.bytes)


class Restless(MemoryBackend):
    """Somebody writes between any two reads of a session."""

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await super().read(key, plan)
        if snapshot is not None and key.session_id.startswith("restless"):
            await super().commit(key, Commit(id=new_id(), time=now(), entries=notes("more"), blobs=(blob("b", new_id()),)))
        return snapshot


async def test_what_never_rests_is_told() -> None:
    pair = Pair(Restless(), MemoryBackend(), TENANT, "source")
    await created(pair.source, key("quiet"))
    await created(pair.source, key("restless"))
    await created(pair.source, key("restless with blobs"), blobs=(blob("b", "1"),))
    report = await copy(pair, passes=3)
    assert (report.passes, report.moving, report.refused) == (3, ["restless", "restless with blobs"], [])
    assert "quiet" in await listed(pair.target, Filter(tenant=TENANT))
