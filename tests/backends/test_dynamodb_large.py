"""What does not fit into one transaction: large values, many keys, long logs. All or nothing, and nothing left behind."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from holdfast.backend import BlobDrop, BlobRange, Erase, Filter, Key, Put, Range, ReadPlan, Window
from holdfast.backends.dynamodb import DynamoDBBackend, cleaning, layout
from holdfast.backends.dynamodb import writing as committing
from holdfast.errors import Conflict, Corrupt
from holdfast.ids import new_id, new_incarnation
from holdfast.testing.tools import (
    EVERYTHING,
    VISIBLE,
    blob,
    bodies,
    check_gapless,
    content,
    contents,
    created,
    creating,
    fresh,
    listed,
    note,
    notes,
    puts,
    read,
    refused,
    texts,
    values,
    writing,
    wrote,
)

from ..servers import dynamodb

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture
async def backend(server: dynamodb.Server) -> AsyncGenerator[DynamoDBBackend]:
    it = dynamodb.backend(server.port)
    await it.open()
    yield it
    assert await it.check() == []
    await it.close()


def items_of(backend: DynamoDBBackend, key: Any) -> list[str]:
    """The sort keys of everything in the session's partition."""
    return [it["key"]["S"] for page in backend.table.query(layout.partition(key), "!", "~", keys_only=True) for it in page]


def parts_of(backend: DynamoDBBackend, key: Any) -> list[str]:
    return [sort for sort in items_of(backend, key) if f"/{layout.PARTS}/" in sort]


def data(mark: str, size: int = MEGABYTE) -> bytes:
    return (mark * 64).encode() * (size // 64)


async def test_a_replaced_large_value_leaves_no_parts(backend: DynamoDBBackend) -> None:
    key = fresh()
    head = await created(backend, key, puts=(Put("k", data("1")),), blobs=(blob("b", data("1")),))
    for mark in "23":
        head = await wrote(backend, key, head, puts=(Put("k", data(mark)),), blobs=(blob("b", data(mark)),))
        assert len(parts_of(backend, key)) == 6
    found = await read(backend, key)
    assert (found.state or {})["k"].value == data("3")
    assert contents(found) == {("files", "b"): data("3")}
    await wrote(backend, key, head, puts=puts(k="small"), drops=(BlobDrop("files"),))
    assert parts_of(backend, key) == []


async def test_a_large_commit_to_a_session_that_is_there(backend: DynamoDBBackend) -> None:
    """Ten megabytes of entries after a few, with blobs: staged, then one transaction."""
    key = fresh()
    head = await created(backend, key, entries=notes("a", "b"))
    added = tuple(note(data(str(n), MEGABYTE // 2)) for n in range(20))
    head = await wrote(backend, key, head, entries=added, blobs=(blob("b", data("b")),))
    head = await wrote(backend, key, head, entries=notes("c"))
    found = await read(backend, key)
    check_gapless(found)
    assert [entry.body for entry in found.entries or []] == [b"a", b"b", *(it.body for it in added), b"c"]
    assert await bodies(backend, key, Window(limit=1)) == ["c"]
    await backend.commit(key, writing(head, erase=Erase("session")))
    assert len(items_of(backend, key)) == 1, "only the grave stays"


async def test_many_small_entries_to_a_session_that_is_there(backend: DynamoDBBackend) -> None:
    key = fresh()
    head = await created(backend, key, entries=notes("a"), puts=puts(k="old"))
    added = tuple(note(data(str(n % 10), 10_240)) for n in range(1000))
    many = {f"k{n}": "new" for n in range(90)}
    head = await wrote(
        backend, key, head, entries=added, puts=puts(**many), blobs=tuple(blob(str(n), data("b", 20_480)) for n in range(90))
    )
    await wrote(backend, key, head, entries=notes("z"))
    found = await read(backend, key)
    check_gapless(found)
    assert [entry.body for entry in found.entries or []] == [b"a", *(it.body for it in added), b"z"]
    assert values(found) == {"k": "old"} | many
    assert set(contents(found).values()) == {data("b", 20_480)}


_MANY = 250


async def _many(backend: DynamoDBBackend, key: Any) -> tuple[Any, dict[str, Any]]:
    head = await created(backend, key, puts=puts(k0="old", gone="old"), blobs=(blob("0", "old"), blob("dropped/1", "old")))
    parts: dict[str, Any] = {
        "puts": (*puts(**{f"k{n}": "new" for n in range(_MANY)}), Put("gone", None, if_version=head.version)),
        "blobs": tuple(blob(str(n), "new", if_absent=True) for n in range(_MANY)),
        "drops": (BlobDrop("files", prefix="dropped/"),),
        "entries": notes("with them"),
    }
    return head, parts


def _check_many(found: Any) -> None:
    assert values(found) == {f"k{n}": "new" for n in range(_MANY)}
    assert contents(found) == {("files", str(n)): b"new" if n else b"old" for n in range(_MANY)}
    assert texts(found) == ["with them"]


async def test_five_hundred_items_in_one_commit(backend: DynamoDBBackend) -> None:
    key = fresh()
    head, parts = await _many(backend, key)
    head = await wrote(backend, key, head, **parts)
    _check_many(await read(backend, key))
    await wrote(backend, key, head, puts=(Put("k1", b"2", if_version=head.version), Put("gone", b"back", if_version=0)))
    assert len(parts_of(backend, key)) == 0


async def test_conditions_hold_for_many_items_too(backend: DynamoDBBackend) -> None:
    key = fresh()
    head, parts = await _many(backend, key)
    before = content(await read(backend, key))
    with refused(Conflict) as caught:
        await wrote(backend, key, head, **parts | {"puts": (*parts["puts"][:-1], Put("gone", None, if_version=9))})
    assert (caught.error.key, caught.error.expected, caught.error.found) == ("gone", 9, 1)
    assert content(await read(backend, key)) == before


def _left_alone(*_: Any) -> None:
    """Does nothing."""


async def test_what_is_left_to_do_is_read_and_done_by_others(
    server: dynamodb.Server, backend: DynamoDBBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever committed five hundred items dies before they are in their places: readers see them, the next writer puts them there."""
    key = fresh()
    head, parts = await _many(backend, key)
    with monkeypatch.context() as patch:
        patch.setattr(committing, "finish_redo", _left_alone)
        await backend.commit(key, writing(head, **parts))
    assert len(parts_of(backend, key)) > 0
    other = dynamodb.backend(server.port)
    _check_many(await read(other, key))
    assert await other.check() == []
    found = await read(other, key, VISIBLE)
    await wrote(other, key, found.head, puts=puts(k1="later"))
    assert values(await read(other, key))["k1"] == "later"
    assert parts_of(other, key) == []
    await other.close()


async def test_a_long_session_forks_and_clears(backend: DynamoDBBackend) -> None:
    """Thousands of entries: the fork is whole, its newest entries are one query away; a clear leaves nothing of the old life."""
    key, target = fresh(), fresh()
    head = await created(backend, key, entries=tuple(note(data(str(n % 10), 2048)) for n in range(3000)), puts=puts(k="1"))
    head = await wrote(backend, key, head, hide=(Range(1, 100),))
    await backend.copy(key, None, target, creating())
    fork = await read(backend, target)
    check_gapless(fork)
    assert [entry.body for entry in fork.entries or []] == [entry.body for entry in (await read(backend, key, VISIBLE)).entries or []]
    assert len((await read(backend, target, ReadPlan(state_since=0, entries=Window(limit=20)))).entries or []) == 20
    await wrote(backend, key, head, erase=Erase("content", new_incarnation()), entries=notes("new"))
    assert texts(await read(backend, key)) == ["new"]
    assert len(items_of(backend, key)) == 3, "the head, a block, the grave"


async def test_a_staged_commit_that_is_refused_leaves_nothing(backend: DynamoDBBackend) -> None:
    key, target = fresh(), fresh()
    head = await created(backend, key, entries=tuple(note(data("x", 2048)) for _ in range(3000)))
    await created(backend, target, puts=puts(mine="1"))
    dynamodb_items = items_of(backend, target)
    with refused(Conflict):
        await wrote(backend, key, head, entries=(note(data("y", 8 * MEGABYTE)),), puts=(Put("k", b"1", if_version=5),))
    assert parts_of(backend, key) == []
    assert items_of(backend, target) == dynamodb_items


async def test_nobody_s_staged_items_go_with_the_next_sweep(backend: DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that staged too long ago finds its items gone, and stages them anew: nothing of it is lost, nothing is half there."""
    key = fresh()
    head = await created(backend, key)
    staged = backend.table.put_all

    def sweep_meanwhile(items: Any) -> None:
        staged(items)
        monkeypatch.setattr(backend.table, "put_all", staged)
        cleaning.Sweeper(backend.table).sweep(10)

    monkeypatch.setattr(backend.table, "put_all", sweep_meanwhile)
    monkeypatch.setattr(committing, "STAGE_SECONDS", 0)
    await wrote(backend, key, head, entries=(note(data("y", 8 * MEGABYTE)),))
    assert [len(entry.body) for entry in (await read(backend, key, EVERYTHING)).entries or []] == [8 * MEGABYTE]
    assert len(parts_of(backend, key)) == 24


async def test_the_longest_names_there_are(backend: DynamoDBBackend) -> None:
    """A kilobyte each for tenant, session, user, state key, namespace and blob: more than a key of DynamoDB's takes."""
    mark = new_id()
    one, other = (Key("ü" * 480 + mark, "ß" * 511 + end) for end in ("ab", "cd"))
    long = "é" * 511
    for key in (one, other):
        head = await created(backend, key, user_id=long + "u" + "x", entries=notes(key.session_id[-2:]))
        writes = {"puts": puts(**{long + "a": "1", long + "b": "2"}), "blobs": (blob(long + "a", "1", long), blob(long + "b", "2", long))}
        await wrote(backend, key, head, user_id=long + "ux", **writes)
        found = await read(backend, key)
        assert values(found) == {long + "a": "1", long + "b": "2"}
        assert contents(found) == {(long, long + "a"): b"1", (long, long + "b"): b"2"}
        assert texts(found) == [key.session_id[-2:]]
        some = await read(backend, key, ReadPlan(blobs=(BlobRange(namespace=long, prefix=long + "b"),)))
        assert contents(some) == {(long, long + "b"): b"2"}
    assert await listed(backend, Filter(tenant=one.tenant, user_id=long + "ux")) == [other.session_id, one.session_id]


async def test_damage_is_told(backend: DynamoDBBackend) -> None:
    """Entries that somebody deleted by hand: the session says `Corrupt`, a check says where; the others are as they were."""
    key = fresh()
    head = await created(backend, key, entries=notes("a"))
    await wrote(backend, key, head, entries=notes("b"))
    gone = next(sort for sort in items_of(backend, key) if f"/{layout.LOG}/" in sort)
    backend.table.delete_all([layout.address(layout.partition(key), gone)])
    with refused(Corrupt):
        await read(backend, key)
    assert any("the log goes from seq 0 to 2" in problem for problem in await backend.check())
    await backend.commit(key, writing(head, erase=Erase("session")))
