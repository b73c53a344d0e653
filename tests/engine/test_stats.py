"""What is counted: the cache's work, and what a session holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import Message, Metrics, Store, Text, assistant, user
from holdfast.messages import encode_message

from .conftest import Database, reopened, texts


@pytest.fixture(params=["memory", "sqlite"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database of stores that keep two sessions each."""
    return Database(request.param, 2, tmp_path)


async def test_without_a_cache_everything_is_zero(store: Store, db: Database) -> None:
    await (await store.session("s")).append(user("hi"))
    stats = store.cache_stats
    if not db.cache:
        assert (stats.hits, stats.misses, stats.evictions, stats.sessions, stats.bytes) == (0, 0, 0, 0, 0)
    else:
        assert stats.misses > 0


async def test_a_session_is_missed_once_and_then_hit(small: Database) -> None:
    writer, store = small.store(), small.store()
    await (await writer.session("s")).append(user("hi"))
    session = await store.session("s")
    first = store.cache_stats
    assert (first.hits, first.misses, first.sessions, first.evictions) == (0, 1, 1, 0)
    for _ in range(5):
        assert await texts(session) == ["hi"]
    second = store.cache_stats
    assert (second.hits, second.misses, second.sessions) == (5, 1, 1)
    await (await writer.session("s")).append(assistant("hello"))
    assert await texts(session) == ["hi", "hello"]
    assert (store.cache_stats.hits, store.cache_stats.misses) == (6, 1)


async def test_the_least_recently_used_session_goes_first(small: Database) -> None:
    store = small.store()
    a, b = await store.session("a"), await store.session("b")
    for session in (a, b, a):
        await session.get_messages()
    c = await store.session("c")
    await c.get_messages()
    stats = store.cache_stats
    assert (stats.sessions, stats.evictions) == (2, 1)
    await a.get_messages()
    assert store.cache_stats.misses == stats.misses
    await b.get_messages()
    assert (store.cache_stats.misses, store.cache_stats.evictions) == (stats.misses + 1, 2)


async def test_bytes_are_those_of_the_entries_that_are_held(small: Database) -> None:
    store = small.store()
    a, b = await store.session("a"), await store.session("b")
    for session, size in ((a, 100), (b, 1000)):
        await session.get_messages()
        await session.append(user("x" * size))
    bodies = [len(encode_message(user("x" * size))) for size in (100, 1000)]
    assert store.cache_stats.bytes == sum(bodies)
    await a.delete()
    assert (store.cache_stats.sessions, store.cache_stats.bytes) == (1, bodies[1])
    await b.rewind(to=0)
    await b.get_messages()
    assert store.cache_stats.bytes == 0
    await b.append(user("x" * 100))
    b.clear()
    await b.commit()
    assert await texts(await store.session("b")) == []
    assert store.cache_stats.bytes == 0


async def test_a_long_history_is_held_in_part(small: Database) -> None:
    store = small.store()
    session = await store.session("s")
    await session.get_messages()
    for number in range(40):
        await session.append(user(f"{number}" + "x" * 60_000))
    assert 0 < store.cache_stats.bytes <= 1 << 20
    assert [text.rstrip("x") for text in await texts(session)] == [f"{number}" for number in range(40)]
    assert [m.text.rstrip("x") for m in await session.get_messages(last=3)] == ["37", "38", "39"]


# --- what a session holds ---


async def test_counts_are_running_totals_of_what_was_written(store: Store) -> None:
    session = await store.session("s")
    assert session.info.counts == type(session.info.counts)()
    messages = [user("hi"), assistant("naïve"), Message("assistant", (Text("a"), Text("b")))]
    await session.append(*messages)
    session.set("k", "not counted")
    await session.commit()
    counts = session.info.counts
    assert (counts.runs, counts.messages, counts.bytes) == (0, 3, sum(len(encode_message(message)) for message in messages))
    for number in (1, 2):
        async with session.run(user("q")) as run:
            await run.append(assistant("thinking"))
            await run.finish(assistant("a"), metrics=Metrics(input_tokens=10 * number, output_tokens=number))
    counts = (await reopened(session, store)).info.counts
    assert (counts.runs, counts.messages, counts.input_tokens, counts.output_tokens) == (2, 9, 30, 3)
    assert counts.bytes == sum(len(entry.body) for entry in await session.entries())


async def test_a_claim_between_two_reads_hides_no_change_from_the_cache(store: Store) -> None:
    session = await store.session("s")
    await session.append(user("a"), user("b"))
    await session.get_messages()
    async with session.claim():
        await session.rewind(to=0)
    assert await session.get_messages() == []


async def test_counts_of_a_failed_run_a_rewind_and_a_fork(store: Store) -> None:
    session = await store.session("s")
    await session.append(user("q"), assistant("a"))
    before = session.info.counts
    await session.rewind(to=1)
    assert session.info.counts == before
    fork = await session.fork("copy")
    assert (fork.info.counts.messages, fork.info.counts.bytes) == (1, len(encode_message(user("q"))))
    await fork.replace([user("x"), user("y")])
    assert fork.info.counts.messages == 3
    assert (await store.list()).items[0].counts == fork.info.counts
