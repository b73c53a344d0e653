"""The atomic verbs of the state: whoever else writes, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest

from holdfast import InvalidValue, Session, Store, UsageError, user

from .conftest import Color, reopened

# --- the atomic verbs ---


async def test_increment_append_and_set_if_say_what_they_did(store: Store) -> None:
    state = (await store.session("s")).state
    assert [await state.increment("n"), await state.increment("n", 2), await state.increment("n", -0.5)] == [1, 3, 2.5]
    assert [await state.append("log", "a"), await state.append("log", "b", "c"), await state.append("log")] == [["a"], [*"abc"], [*"abc"]]
    assert [await state.set_if("lock", "me"), await state.set_if("lock", "you"), await state.set_if("lock", "you", expected="me")] == [
        True,
        False,
        True,
    ]
    assert not await state.set_if("lock", "x", expected="me")
    assert await state.set_if("cfg", {"a": 1, "b": 2})
    assert await state.set_if("cfg", Color.RED, expected={"b": 2, "a": 1})
    later = await store.get("s")
    assert later is not None
    assert dict(later.state) == {"n": 2.5, "log": [*"abc"], "lock": "you", "cfg": Color.RED} == dict(state)


async def test_an_atomic_change_writes_nothing_else(store: Store) -> None:
    session = await store.session("s")
    session.set("staged", 1)
    await session.state.increment("n")
    assert dict((await reopened(session, store)).state) == {"n": 1}
    await session.commit()
    assert dict((await reopened(session, store)).state) == {"n": 1, "staged": 1}


async def test_atomic_changes_of_a_cache_are_the_caches(store: Store) -> None:
    session = await store.session("s")
    assert await session.get_non_volatile_cache().increment("n") == 1
    assert await session.state.increment("n", 5) == 5
    assert (session.get_non_volatile_cache()["n"], session.get("n")) == (1, 5)


@pytest.mark.parametrize("change", ["staged", "in place", "cleared"])
async def test_an_atomic_verb_refuses_a_key_with_uncommitted_changes(store: Store, change: str) -> None:
    session = await store.session("s")
    session.set("log", [1])
    await session.commit()
    if change == "staged":
        session.set("log", [2])
    elif change == "in place":
        session.get("log").append(2)
    else:
        session.clear()
    for asked in (session.state.increment("log"), session.state.append("log", 3), session.state.set_if("log", 3)):
        with pytest.raises(UsageError, match="not committed"):
            await asked
    await session.commit()
    assert (await session.state.append("log", 3))[-1] == 3


async def test_decimals_are_counted_exactly(store: Store) -> None:
    state = (await store.session("s")).state
    assert await state.increment("price", Decimal("0.10")) == Decimal("0.10")
    assert await state.increment("price", Decimal("0.20")) == Decimal("0.30")
    assert await state.increment("price") == Decimal("1.30")
    await state.increment("n", 2)
    assert await state.increment("n", Decimal("0.5")) == Decimal("2.5")


@pytest.mark.parametrize(
    ("value", "by", "words"),
    [
        ("text", 1, "str, not a number"),
        (True, 1, "bool, not a number"),
        ([1], 1, "list, not a number"),
        (1, "1", "str"),
        (None, "1", "str"),
        (None, True, "bool"),
        (Decimal(1), 0.5, "Decimal"),
        (1.5, Decimal(1), "Decimal"),
    ],
)
async def test_what_cannot_be_added_is_refused_in_words(store: Store, value: Any, by: Any, words: str) -> None:
    session = await store.session("s")
    session.set("k", value)
    await session.commit()
    with pytest.raises(InvalidValue, match=rf"'k'.*{words}"):
        await session.state.increment("k", by)
    assert (await reopened(session, store)).get("k") == value
    if not isinstance(value, list) and value is not None:
        with pytest.raises(InvalidValue, match=r"'k'.*not a list"):
            await session.state.append("k", 1)
    with pytest.raises(InvalidValue, match=r"'k'.*value"):
        await session.state.set_if("k", object(), expected=value)
    with pytest.raises(InvalidValue, match="'log'"):
        await session.state.append("log", object())


async def test_tasks_lose_no_increment_no_item_and_one_of_them_gets_the_lock(store: Store) -> None:
    async def work(number: int) -> bool:
        session = await store.session("s")
        for step in range(5):
            await session.state.increment("n")
            await session.state.append("log", (number, step))
        return await session.state.set_if("lock", number)

    won = await asyncio.gather(*(work(number) for number in range(8)))
    later = await store.get("s")
    assert later is not None
    assert (later.get("n"), sorted(later.get("log"))) == (40, [(n, s) for n in range(8) for s in range(5)])
    assert (won.count(True), won[later.get("lock")]) == (1, True)


async def test_threads_with_loops_of_their_own_lose_no_increment(store: Store) -> None:
    async def work() -> None:
        session = await store.session("s")
        for _ in range(10):
            await session.state.increment("n")

    await store.session("s")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failed == []
    later = await store.get("s")
    assert later is not None
    assert later.get("n") == 40


async def test_an_atomic_change_of_another_handle_is_not_undone_by_a_commit(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    await first.state.append("log", "a")
    held: Session = await store.session("s")
    assert held.get("log") == ["a"]
    await second.state.append("log", "b")
    await held.append(user("hi"))
    assert (await reopened(first, store)).get("log") == ["a", "b"]
    assert await held.state.append("log", "c") == ["a", "b", "c"]
    assert held.get("log") == ["a", "b", "c"]
