"""State: what is changed is stored, by key, and nobody's change is lost silently."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from holdfast import (
    CommitReused,
    Conflict,
    InvalidId,
    InvalidValue,
    OutcomeUnknown,
    Store,
    StoreUnavailable,
    Tagged,
    TooLarge,
    UsageError,
    user,
)
from holdfast.backend import Commit, Key, Outcome
from holdfast.wrappers.base import Wrapper

from .conftest import VALUES, Color, Database, Item, Point, reopened, texts


@dataclass
class Order:
    """Nobody registers this one."""

    id: int
    lines: list[str]


class Flaky(Wrapper):
    """Refuses as many commits as `failures` says."""

    failures = 0

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("down for a moment")
        return await self.inner.commit(key, commit)


# --- values ---


@pytest.mark.parametrize("kind", VALUES)
async def test_every_kind_of_value_comes_out_as_it_went_in(store: Store, kind: str) -> None:
    value = VALUES[kind]
    session = await store.session("s")
    session.set("k", value)
    session.get_non_volatile_cache().set("k", [value])
    assert session.get("k") == value
    await session.commit()
    later = await reopened(session, store)
    assert (later.get("k"), type(later.get("k"))) == (value, type(value))
    assert later.get_non_volatile_cache()["k"] == [value]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), r"value: object"),
        ({"a": [1, {"b": object()}]}, r"""value\["a"\]\[1\]\["b"\]"""),
        ([lambda: 1], r"value\[0\]"),
        ({"a": "\ud800"}, "surrogate"),
        (Color.__members__, "mappingproxy"),
    ],
)
async def test_a_refused_value_names_key_and_place_before_anything_is_written(store: Store, value: Any, place: str) -> None:
    session = await store.session("s")
    session.set("k", "before")
    with pytest.raises(InvalidValue, match=rf"state\['k'\].*{place}"):
        session.set("k", value)
    with pytest.raises(InvalidValue, match=rf"state\['c'\].*{place}"):
        session.get_non_volatile_cache()["c"] = value
    await session.commit()
    assert dict((await reopened(session, store)).state) == {"k": "before"}


async def test_a_value_spoilt_in_place_is_refused_by_the_commit_and_nothing_is_written(store: Store) -> None:
    session = await store.session("s")
    session.set("prefs", {"a": 1})
    await session.commit()
    before = session.version
    session.set("other", 1)
    session.get("prefs")["bad"] = object()
    with pytest.raises(InvalidValue, match=r"state\['prefs'\].*bad"):
        await session.append(user("hi"))
    later = await reopened(session, store)
    assert (later.version, dict(later.state), await texts(later)) == (before, {"prefs": {"a": 1}}, [])
    del session.get("prefs")["bad"]
    await session.append(user("hi"))
    assert dict((await reopened(session, store)).state) == {"prefs": {"a": 1}, "other": 1}


@pytest.mark.parametrize("key", ["", "x" * 1025, "a\nb", "\x1fcache:k", 5, None, b"k"])
async def test_bad_keys_are_refused_by_every_verb(store: Store, key: Any) -> None:
    session = await store.session("s")
    for verb in (lambda: session.set(key, 1), lambda: session.state[key], lambda: session.state.delete(key), lambda: session.get(key)):
        with pytest.raises(InvalidId, match="state key"):
            verb()
    for asked in (session.state.increment(key), session.state.append(key, 1), session.state.set_if(key, 1)):
        with pytest.raises(InvalidId, match="state key"):
            await asked
    assert not session.has_key(key)
    assert session.version == (await reopened(session, store)).version


async def test_a_value_over_the_limit_is_refused_and_names_the_key(store: Store) -> None:
    session = await store.session("s")
    session.set("big", "x" * (16 * 1024 * 1024))
    with pytest.raises(TooLarge, match="'big'"):
        await session.append(user("hi"))
    assert await texts(await reopened(session, store)) == []


async def test_as_builds_the_class_that_is_named(store: Store) -> None:
    session = await store.session("s")
    session.set("order", Order(7, ["a"]))
    session.set("orders", [Order(8, [])])
    session.set("point", Point(1, {"a"}))
    await session.commit()
    later = await reopened(session, store)
    assert isinstance(later.get("order"), Tagged)
    assert later.get("order", as_=Order) == Order(7, ["a"])
    assert later.get("orders", as_=list[Order]) == [Order(8, [])]
    assert later.get("point", as_=Point) == Point(1, {"a"})
    assert later.get("nothing", as_=Order) is None
    with pytest.raises(InvalidValue, match="Point"):
        later.get("point", as_=Item)
    before = later.version
    assert await later.commit() == before


async def test_changes_inside_what_as_built_count(store: Store) -> None:
    session = await store.session("s")
    session.set("order", Order(7, ["a"]))
    await session.commit()
    later = await reopened(session, store)
    order = later.get("order", as_=Order)
    order.lines.append("b")
    await later.commit()
    assert (await reopened(session, store)).get("order", as_=Order) == Order(7, ["a", "b"])


# --- in place ---


async def test_changes_in_place_count_however_deep_and_of_whatever_kind(store: Store) -> None:
    session = await store.session("s")
    session.state["prefs"] = {"list": [{"a": 1}]}
    session.state["point"] = Point(1, set())
    session.state["item"] = Item(sku="a", price=Decimal(1))
    session.state["prefs"]["staged"] = True
    await session.commit()
    session.state["prefs"]["list"][0]["a"] = 2
    session.state["point"].tags.add("new")
    session.state["item"].sku = "b"
    await session.append(user("hi"))
    later = await reopened(session, store)
    assert later.state["prefs"] == {"list": [{"a": 2}], "staged": True}
    assert later.state["point"] == Point(1, {"new"})
    assert later.state["item"].sku == "b"


async def test_what_was_changed_and_changed_back_is_not_written(store: Store) -> None:
    session = await store.session("s")
    session.set("prefs", {"a": 1})
    session.set("n", 0)
    await session.commit()
    prefs = session.get("prefs")
    prefs["b"] = 2
    with pytest.raises(UsageError, match="'prefs'"):
        await session.state.append("prefs", 1)
    await session.state.increment("n")
    del prefs["b"]
    other = await store.session("s")
    other.get("prefs")["theirs"] = 1
    await other.commit()
    await session.append(user("hi"))
    assert (await reopened(session, store)).get("prefs") == {"a": 1, "theirs": 1}


async def test_reading_writes_nothing(store: Store) -> None:
    session = await store.session("s")
    session.set("prefs", {"a": {1, 2}})
    version = await session.commit()
    assert session.get("prefs") == {"a": {1, 2}}
    assert await session.commit() == version


async def test_what_is_set_is_written_even_where_the_same_was_known(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    session.set("mode", "manual")
    await session.commit()
    await other.refresh()
    other.set("mode", "auto")
    await other.commit()
    session.set("mode", "manual")
    await session.append(user("back to manual"))
    assert (await reopened(session, store)).get("mode") == "manual"


async def test_a_claim_hides_no_change_of_others(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    await other.state.increment("n")
    async with session.claim():
        pass
    assert await session.state.increment("n") == 2
    await session.refresh()
    assert session.get("n") == 2


async def test_a_value_put_in_by_hand_stays_the_callers(store: Store) -> None:
    session = await store.session("s")
    mine = {"a": 1}
    session.set("k", mine)
    mine["b"] = 2
    await session.commit()
    mine["c"] = 3
    await session.commit()
    assert (await reopened(session, store)).get("k") == {"a": 1, "b": 2, "c": 3}


# --- many writers ---


async def test_the_last_writer_of_a_key_wins_and_other_keys_are_untouched(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    first.set("shared", "first")
    first.set("first", 1)
    second.set("shared", "second")
    second.set("second", [2])
    await first.commit()
    await second.commit()
    assert dict((await reopened(first, store)).state) == {"shared": "second", "first": 1, "second": [2]}
    first.set("first", 11)
    await first.commit()
    assert dict((await reopened(first, store)).state) == {"shared": "second", "first": 11, "second": [2]}


async def test_a_deletion_reaches_a_handle_that_knew_the_key(store: Store) -> None:
    first = await store.session("s")
    first.set("a", 1)
    first.set("b", 2)
    await first.commit()
    second = await store.session("s")
    second.state.delete("a")
    await second.commit()
    assert first.get("a") == 1
    await first.refresh()
    assert first.get_all_keys() == ["b"]


async def test_refresh_brings_news_and_keeps_what_is_staged(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    for key in ("seen", "held", "changed"):
        other.set(key, [1])
    await other.commit()
    await session.refresh()
    held, changed = session.get("held"), session.get("changed")
    changed.append("mine")
    session.set("staged", 1)
    for key in ("seen", "held", "changed"):
        other.get(key).append("theirs")
    other.set("staged", 2)
    await other.commit()
    assert session.get("seen") == [1]
    await session.refresh()
    assert (held, session.get("held")) == ([1], [1, "theirs"])
    assert session.get("changed") is changed
    assert session.get("staged") == 1
    await session.commit()
    assert dict((await reopened(session, store)).state) == {
        "seen": [1, "theirs"],
        "held": [1, "theirs"],
        "changed": [1, "mine"],
        "staged": 1,
    }


async def test_a_strict_commit_is_refused_when_somebody_came_between(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    seen = session.version
    await other.append(user("between"))
    session.set("k", 1)
    with pytest.raises(Conflict) as caught:
        await session.append(user("mine"), expect=seen)
    assert (caught.value.expected, caught.value.found) == (seen, seen + 1)
    assert (await texts(other), (await reopened(other, store)).get_all_keys()) == (["between"], [])
    assert await session.append(user("mine"), expect=seen + 1) == seen + 2
    later = await reopened(other, store)
    assert (await texts(later), later.get("k")) == (["between", "mine"], 1)
    with pytest.raises(Conflict):
        await session.replace([user("x")], expect=seen)


async def test_what_a_failed_commit_did_not_write_is_written_by_the_next(db: Database) -> None:
    store = db.store()
    flaky = Flaky(store.backend)
    session = await Store(flaky).session("s")
    session.set("plain", 1)
    session.set("prefs", {"a": 1})
    await session.commit()
    session.set("plain", 2)
    session.get("prefs")["b"] = 2
    session.service_session_id = "t1"
    flaky.failures = 1
    with pytest.raises(StoreUnavailable):
        await session.append(user("lost"))
    assert dict((await reopened(session, store)).state) == {"plain": 1, "prefs": {"a": 1}}
    session.get("prefs")["c"] = 3
    await session.append(user("kept"))
    later = await reopened(session, store)
    assert dict(later.state) == {"plain": 2, "prefs": {"a": 1, "b": 2, "c": 3}}
    assert (later.service_session_id, await texts(later)) == ("t1", ["kept"])


async def test_a_commit_repeated_under_its_own_id_is_one_commit(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    for handle in (session, other):
        handle.set("k", [1])
    first = await session.append(user("hi"), commit_id="c1")
    assert await other.append(user("hi"), commit_id="c1") == first
    with pytest.raises(CommitReused, match="'c1'"):
        await other.append(user("else"), commit_id="c1")
    assert (await texts(other), other.get("k"), await other.commit()) == (["hi"], [1], first)


async def test_a_commit_repeated_late_hides_nobody_elses_change(store: Store) -> None:
    session, other, late = [await store.session("s") for _ in range(3)]
    session.set("k", [1])
    late.set("k", [1])
    await session.append(user("hi"), commit_id="c1")
    other.set("k", "newer")
    await other.commit()
    await late.get_messages()
    await late.append(user("hi"), commit_id="c1")
    await late.refresh()
    assert (late.get("k"), (await reopened(late, store)).get("k")) == ("newer", "newer")


async def test_a_commit_whose_answer_was_lost_is_asked_again_and_clears_only_once(db: Database) -> None:
    class LosesAnswers(Wrapper):
        lose = False

        async def commit(self, key: Key, commit: Commit) -> Outcome:
            outcome = await self.inner.commit(key, commit)
            if self.lose:
                self.lose = False
                raise OutcomeUnknown("the connection broke")
            return outcome

    store = db.store()
    losing = LosesAnswers(store.backend)
    session = await Store(losing).session("s")
    await session.append(user("old"))
    session.clear()
    session.set("k", [1])
    losing.lose = True
    with pytest.raises(OutcomeUnknown):
        await session.append(user("new"), commit_id="c1")
    other = await store.session("s")
    other.set("k", "theirs, and later")
    await other.append(user("between"))
    await session.append(user("new"), commit_id="c1")
    await session.append(user("more"))
    later = await reopened(session, store)
    assert (await texts(later), later.get("k")) == (["new", "between", "more"], "theirs, and later")


async def test_what_is_set_while_a_commit_is_under_way_is_not_forgotten(db: Database) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    class Slow(Wrapper):
        async def commit(self, key: Key, commit: Commit) -> Outcome:
            outcome = await self.inner.commit(key, commit)
            if commit.puts and not entered.is_set():
                entered.set()
                await gate.wait()
            return outcome

    store = db.store()
    session = await Store(Slow(store.backend)).session("s")
    session.set("plain", 1)
    session.set("prefs", {"a": 1})
    writing = asyncio.create_task(session.commit())
    await entered.wait()
    session.set("plain", 2)
    session.get("prefs")["b"] = 2
    gate.set()
    await writing
    await session.commit()
    assert dict((await reopened(session, store)).state) == {"plain": 2, "prefs": {"a": 1, "b": 2}}
