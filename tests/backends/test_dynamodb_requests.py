"""What a DynamoDB session costs, counted at the wire: requests do not grow with the conversation."""

from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast import Store, assistant, user
from holdfast.backend import BlobDrop, BlobRange, ClaimAct, Counts, Head, HeadPatch, Key, Put, Range, ReadPlan, Window
from holdfast.backends.dynamodb import DynamoDBBackend
from holdfast.entries import MESSAGE, SUMMARY
from holdfast.testing.tools import blob, created, fresh, note, notes, puts, read, texts, values, writing, wrote

from ..servers import dynamodb

TURNS = 5000


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture
async def backend(server: dynamodb.Server) -> AsyncGenerator[DynamoDBBackend]:
    it = dynamodb.backend(server.port)
    await it.open()
    yield it
    await it.close()


@contextmanager
def counted(backend: DynamoDBBackend) -> Generator[Counter[str]]:
    """The requests sent in the block, by name."""
    sent = Counter[str]()

    def count(event_name: str, **_: Any) -> None:
        sent[event_name.rpartition(".")[2]] += 1

    events = backend.client.meta.events
    events.register("before-send.dynamodb", count)
    try:
        yield sent
    finally:
        events.unregister("before-send.dynamodb", count)


async def conversation(backend: DynamoDBBackend, key: Key, turns: int) -> Head:
    """A session of `turns` turns of two messages, ten state keys; the last fifty turns are a commit each."""
    head = await created(backend, key, puts=puts(**{f"k{n}": "v" for n in range(10)}))
    for start in range(0, turns - 50, 50):
        bodies = [note(f"{n}", MESSAGE) for n in range(2 * start, 2 * min(start + 50, turns - 50))]
        head = await wrote(backend, key, head, entries=tuple(bodies))
    for n in range(max(turns - 50, 0), turns):
        head = await wrote(backend, key, head, entries=(note(f"{2 * n}", MESSAGE), note(f"{2 * n + 1}", MESSAGE)))
    return head


_TURN = ReadPlan(state_since=0, entries=Window(limit=20, kinds=(MESSAGE,)))


async def test_one_query_opens_a_long_session(server: dynamodb.Server, backend: DynamoDBBackend) -> None:
    """With its state and last twenty messages, by somebody who has never seen it."""
    key = fresh()
    await conversation(backend, key, TURNS)
    stranger = dynamodb.backend(server.port)
    await stranger.open()
    with counted(stranger) as sent:
        found = await read(stranger, key, _TURN)
    assert sent == {"Query": 1}
    assert (texts(found), len(values(found))) == ([str(n) for n in range(2 * TURNS - 20, 2 * TURNS)], 10)
    with counted(stranger) as sent:
        await wrote(stranger, key, found.head, entries=notes("a", "b"), puts=puts(k1="2"))
    assert sent == {"TransactWriteItems": 1}
    await stranger.close()


_CHANGES: tuple[dict[str, Any], ...] = (
    {"entries": notes("a", "b")},
    {"entries": notes("a"), "puts": puts(k="1", gone=None)},
    {"puts": (Put("if", b"1", if_version=0),)},
    {"blobs": (blob("b", "1"), blob("c", "1", if_absent=True))},
    {"drops": (BlobDrop("files", "b"),)},
    {"hide": (Range(1, 1),), "counts": Counts(messages=1)},
    {"patch": HeadPatch(name="n", waiting=True)},
    {"claim": ClaimAct("take", "run"), "entries": notes("input")},
    {"claim": ClaimAct("renew")},
    {"claim": ClaimAct("release"), "entries": notes("output")},
)


async def test_a_commit_is_one_write_request(backend: DynamoDBBackend) -> None:
    """Whatever it changes; and nothing is read for it where the head is known."""
    key = fresh()
    head = await created(backend, key)
    for parts in _CHANGES:
        fence = head.fence if head.claim is not None else None
        with counted(backend) as sent:
            head = await wrote(backend, key, head, fence=fence, **parts)
        assert sent.total() == 1, (parts, sent)
        assert sent.keys() <= {"TransactWriteItems", "PutItem"}, (parts, sent)


async def test_a_turn_is_three_requests_at_any_length(backend: DynamoDBBackend) -> None:
    """Begin: the write and the query that answers it. Finish: one write."""
    spent: list[Counter[str]] = []
    for turns in (60, 1000):
        key = fresh()
        head = await conversation(backend, key, turns)
        with counted(backend) as sent:
            begun = await backend.commit(key, writing(head, entries=notes("input"), claim=ClaimAct("take", "run"), answer=_TURN))
            assert begun.head is not None
            await wrote(backend, key, begun.head, entries=notes("out"), fence=begun.head.fence, claim=ClaimAct("release"))
        spent.append(sent)
    assert spent == [{"TransactWriteItems": 2, "Query": 1}] * 2


async def test_who_knows_a_session_reads_its_head(backend: DynamoDBBackend) -> None:
    """A cached session that nobody has written to since is one small read."""
    async with Store(backend, tenant=fresh().tenant, cache=4) as store:
        session = await store.session("s")
        await session.append(user("a"), assistant("b"))
        await session.get_messages()
        with counted(backend) as sent:
            await session.get_messages()
        assert sent == {"GetItem": 1}


async def test_a_rare_entry_is_found_by_the_journal(backend: DynamoDBBackend) -> None:
    """One summary and one run's entries, far back among a thousand commits of messages."""
    key = fresh()
    head = await created(backend, key, entries=(note("the summary", SUMMARY), note("of the run", MESSAGE, "run-1")))
    for _ in range(1000):
        head = await wrote(backend, key, head, entries=(note("x", MESSAGE),))
    for window in (Window(kinds=(SUMMARY,), limit=1), Window(run_id="run-1")):
        with counted(backend) as sent:
            found = await read(backend, key, ReadPlan(entries=window))
        assert len(found.entries or []) == 1
        assert sent.total() <= 3, (window, sent)


async def test_hidden_entries_are_jumped_over(backend: DynamoDBBackend) -> None:
    key = fresh()
    head = await conversation(backend, key, 1000)
    await wrote(backend, key, head, hide=(Range(21, 2000),), entries=notes("after"))
    with counted(backend) as sent:
        found = await read(backend, key, ReadPlan(entries=Window(limit=3)))
    assert texts(found) == ["18", "19", "after"]
    assert sent.total() <= 4, sent


async def test_a_list_is_two_requests_a_page(backend: DynamoDBBackend) -> None:
    store, tenant = Store(backend, tenant=(key := fresh()).tenant), key.tenant
    for n in range(60):
        await created(backend, Key(tenant, str(n)), user_id="ada" if n % 10 == 0 else None)
    with counted(backend) as sent:
        assert len((await store.list(limit=50)).items) == 50
    assert sent == {"Query": 1, "BatchGetItem": 1}
    with counted(backend) as sent:
        assert len((await store.list(limit=50, user_id="ada")).items) == 6
    assert sent == {"Query": 1, "BatchGetItem": 1}


async def test_blobs_by_key_are_one_batch(backend: DynamoDBBackend) -> None:
    key = fresh()
    await created(backend, key, blobs=tuple(blob(str(n), "x") for n in range(60)))
    with counted(backend) as sent:
        await read(backend, key, ReadPlan(blobs=(BlobRange(namespace="files", keys=("7", "9")),)))
    assert sent == {"GetItem": 2, "BatchGetItem": 1}
