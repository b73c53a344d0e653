"""Sessions: made, found, named, owned, cleared, expired, deleted; and the plain verbs on them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import holdfast.store
from holdfast import (
    InvalidValue,
    Message,
    Metrics,
    SessionGone,
    SessionInfo,
    Store,
    StoreUnavailable,
    Text,
    ToolCall,
    Uri,
    assistant,
    system,
    tool,
    user,
)
from holdfast.backend import Commit, Create, Key
from holdfast.store import Wanted

from .conftest import Database, ago, reopened, texts

# --- get or create, get, has, delete, list ---


async def test_a_session_is_made_once_and_then_found(store: Store) -> None:
    made = await store.session("ada-1")
    await made.append(user("hi"))
    found = await store.session("ada-1")
    assert (found.id, found.session_id, found.version) == ("ada-1", "ada-1", made.version)
    assert await texts(found) == ["hi"]


async def test_without_an_id_every_session_is_a_new_one(store: Store) -> None:
    first, second = await store.session(), await store.session()
    assert first.id != second.id
    assert await store.has(first.id)
    assert await store.has(second.id)


async def test_get_and_has_create_nothing(store: Store) -> None:
    assert await store.get("ada-1") is None
    assert not await store.has("ada-1")
    assert (await store.list()).items == []


async def test_delete_says_whether_there_was_one_and_leaves_nothing(store: Store) -> None:
    session = await store.session("ada-1")
    session.set("topic", "maths")
    await session.append(user("hi"))
    assert await store.delete("ada-1")
    assert not await store.delete("ada-1")
    assert await store.get("ada-1") is None
    with pytest.raises(SessionGone, match="ada-1"):
        await session.append(user("too late"))
    again = await store.session("ada-1")
    assert (await texts(again), again.get_all_keys()) == ([], [])


async def test_a_handle_of_a_deleted_session_stays_out_of_the_next_one_under_its_id(store: Store) -> None:
    old = await store.session("ada-1")
    old.set("topic", "old")
    await old.delete()
    new = await store.session("ada-1")
    with pytest.raises(SessionGone, match="ada-1"):
        await old.append(user("too late"))
    with pytest.raises(SessionGone, match="ada-1"):
        await old.get_messages()
    assert await texts(new) == []
    assert (await reopened(new, store)).get_all_keys() == []


async def test_the_session_manager_has_the_three_verbs(store: Store) -> None:
    manager = store.session_manager
    assert not await manager.has_session("custom-id")
    made = await manager.get_or_create_session("custom-id", user_id="ada")
    assert (made.id, made.user_id) == ("custom-id", "ada")
    assert await manager.has_session("custom-id", user_id="ada")
    assert not await manager.has_session("custom-id", user_id="bob")
    assert not await manager.delete_session("custom-id", user_id="bob")
    assert await manager.delete_session("custom-id", user_id="ada")
    assert not await manager.has_session("custom-id", user_id="ada")


async def test_a_list_shows_the_newest_created_first_however_they_are_used(store: Store) -> None:
    for number in range(5):
        await store.session(f"s{number}", user_id="ada" if number % 2 else "bob")
    await (await store.session("s0", user_id="bob")).append(user("used last"))
    first = await store.list(limit=2)
    assert [item.id for item in first.items] == ["s4", "s3"]
    await store.session("s5")
    second = await store.list(limit=2, cursor=first.cursor)
    third = await store.list(limit=2, cursor=second.cursor)
    assert [item.id for item in second.items + third.items] == ["s2", "s1", "s0"]
    assert third.cursor is None
    assert [item.id for item in (await store.list(user_id="ada")).items] == ["s3", "s1"]
    assert [item.id async for item in store.sessions(user_id="bob")] == ["s4", "s2", "s0"]


async def test_a_list_is_filtered_by_name_metadata_kind_and_parent(store: Store) -> None:
    first = await store.session("first", kind="team")
    await first.rename("Product Launch Planning")
    await first.update_metadata(ticket=7, tags=["a"])
    await store.session("member", parent="first")
    assert [item.id for item in (await store.list(name="launch")).items] == ["first"]
    assert [item.id for item in (await store.list(metadata={"ticket": 7, "tags": ["a"]})).items] == ["first"]
    assert (await store.list(metadata={"ticket": 8})).items == []
    assert [item.id for item in (await store.list(kind="team")).items] == ["first"]
    assert [item.id for item in (await store.list(parent="first")).items] == ["member"]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1001}, {"cursor": "tomorrow"}, {"cursor": "9" * 30}])
async def test_a_list_refuses_what_makes_no_page(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(options))):
        await store.list(**options)


async def test_nothing_crosses_tenants(db: Database) -> None:
    ours, theirs = db.store(tenant="ours"), db.store(tenant="theirs")
    await (await ours.session("s")).append(user("secret"))
    assert await theirs.get("s") is None
    assert (await theirs.list()).items == []
    assert await texts(await theirs.session("s")) == []
    assert await theirs.delete("s")
    assert await ours.has("s")


# --- the plain verbs ---


async def test_set_get_has_key_and_all_keys(store: Store) -> None:
    session = await store.session("s")
    session.set("user_preferences", {"theme": "dark"})
    session.set("conversation_topic", "mathematics")
    assert session.get_all_keys() == ["conversation_topic", "user_preferences"]
    await session.commit()
    later = await reopened(session, store)
    assert later.get("user_preferences") == {"theme": "dark"}
    assert (later.get("nothing"), later.get("nothing", 5)) == (None, 5)
    assert later.has_key("conversation_topic")
    assert not later.has_key("nothing")
    assert later.get_all_keys() == ["conversation_topic", "user_preferences"]


async def test_what_is_staged_is_stored_by_the_next_append(store: Store) -> None:
    session = await store.session("s")
    before = session.version
    session.set("topic", "maths")
    assert (await reopened(session, store)).get_all_keys() == []
    assert await session.append(user("hi")) == before + 1
    assert (await reopened(session, store)).get("topic") == "maths"


async def test_the_volatile_cache_is_gone_after_the_run_and_never_stored(store: Store) -> None:
    session = await store.session("s")
    async with session.run(user("hi")):
        cache = session.get_volatile_cache()
        cache.set("rag_context", anything := object())
        assert session.get_volatile_cache().get("rag_context") is anything
        assert session.get_all_keys() == []
    assert session.get_volatile_cache().get("rag_context") is None
    assert list(session.get_volatile_cache()) == []


async def test_the_volatile_cache_is_gone_after_a_run_that_failed(store: Store) -> None:
    session = await store.session("s")
    with suppress(RuntimeError):
        async with session.run():
            session.get_volatile_cache()["k"] = 1
            raise RuntimeError
    assert "k" not in session.get_volatile_cache()


async def test_the_non_volatile_cache_is_kept_and_apart_from_the_state(store: Store) -> None:
    session = await store.session("s")
    session.set("k", "state")
    async with session.run(user("hi")):
        session.get_non_volatile_cache().set("k", "cache")
        session.get_non_volatile_cache().set("only", [1])
    later = await reopened(session, store)
    assert dict(later.get_non_volatile_cache()) == {"k": "cache", "only": [1]}
    assert (later.get("k"), later.get_all_keys()) == ("state", ["k"])
    assert not later.has_key("only")
    assert not later.has_key("\x1fcache:only")
    later.get_non_volatile_cache().delete("k")
    await later.commit()
    assert dict((await reopened(later, store)).get_non_volatile_cache()) == {"only": [1]}
    assert (await reopened(later, store)).get("k") == "state"


async def test_after_clear_the_old_history_and_state_do_not_come_back(store: Store) -> None:
    session = await store.session("s", user_id="ada")
    await session.update_metadata(ticket=7)
    session.set("topic", "maths")
    session.get_non_volatile_cache()["kept"] = 1
    await session.append(user("old"))
    session.clear()
    assert session.get_all_keys() == []
    session.set("fresh", True)
    await session.append(user("new"))
    for seen in (session, await reopened(session, store)):
        assert await texts(seen) == ["new"]
        assert seen.get_all_keys() == ["fresh"]
        assert dict(seen.get_non_volatile_cache()) == {}
        assert (seen.info.user_id, seen.metadata, seen.info.counts.messages) == ("ada", {"ticket": 7}, 1)
        assert [entry.seq for entry in await seen.entries(hidden=True)] == [1]


async def test_a_staged_clear_outlives_writes_that_store_nothing_staged(store: Store) -> None:
    session = await store.session("s")
    session.set("topic", "maths")
    await session.append(user("old"))
    session.clear()
    await session.rename("new name")
    await session.set_ttl(60)
    assert session.get_all_keys() == []
    assert (await reopened(session, store)).get("topic") == "maths"
    await session.commit()
    assert await texts(await reopened(session, store)) == []
    assert (await reopened(session, store)).get_all_keys() == []


async def test_clear_forgets_what_was_staged_before_it(store: Store) -> None:
    session = await store.session("s")
    session.set("topic", "maths")
    session.service_session_id = "theirs"
    session.clear()
    assert session.service_session_id is None
    await session.commit()
    later = await reopened(session, store)
    assert (later.get_all_keys(), later.service_session_id) == ([], None)


async def test_a_cleared_session_refuses_who_saw_it_before(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    other.set("late", 1)
    session.clear()
    await session.commit()
    with pytest.raises(SessionGone, match="'s'"):
        await other.commit()
    assert (await reopened(session, store)).get_all_keys() == []


async def test_clear_in_a_run_leaves_the_run_its_claim(store: Store) -> None:
    session = await store.session("s")
    await session.append(user("old"))
    async with session.run(user("start over")) as run:
        session.clear()
        await run.append(assistant("cleared"))
        await run.append(assistant("hello"))
    assert await texts(await reopened(session, store)) == ["cleared", "hello"]
    assert not (await reopened(session, store)).info.running


async def test_a_deleted_key_does_not_come_back(store: Store) -> None:
    session = await store.session("s")
    session.set("a", [1])
    session.set("b", 2)
    await session.commit()
    session.get("a").append(2)
    session.state.delete("a")
    assert session.get_all_keys() == ["b"]
    await session.commit()
    await session.refresh()
    assert (session.get("a"), session.get_all_keys()) == (None, ["b"])
    assert (await reopened(session, store)).get_all_keys() == ["b"]
    with pytest.raises(KeyError):
        session.state.delete("a")


# --- names, metadata, the provider's id ---


async def test_a_name_is_set_and_taken_away(store: Store) -> None:
    session = await store.session("s")
    assert session.name is None
    await session.rename("Planning")
    assert (session.name, (await reopened(session, store)).name) == ("Planning", "Planning")
    await session.rename(None)
    assert (await reopened(session, store)).name is None


async def test_metadata_is_merged_and_nobody_changes_it_by_hand(store: Store) -> None:
    session = await store.session("s")
    await session.update_metadata(a=1, b={"c": [2]})
    await session.update_metadata(a=None, d="x")
    assert session.metadata == {"b": {"c": [2]}, "d": "x"}
    session.metadata["b"]["c"].append("by hand")
    session.info.metadata["b"]["c"].append("by hand")
    (await store.list()).items[0].metadata["b"]["c"].append("by hand")
    assert session.metadata == session.info.metadata == {"b": {"c": [2]}, "d": "x"}
    assert (await reopened(session, store)).metadata == {"b": {"c": [2]}, "d": "x"}


async def test_what_a_head_cannot_hold_is_refused_and_harms_nothing(store: Store) -> None:
    session = await store.session("s")
    given: list[Any] = [object(), {1: 2}, {1, 2}, float("nan"), "\ud800", b"x", (1,)]
    for value in given:
        with pytest.raises(InvalidValue, match="metadata"):
            await session.update_metadata(x=value)
    for value in (5, "\ud800", b"name"):
        with pytest.raises(InvalidValue, match="name"):
            await session.rename(value)  # type: ignore[arg-type]
    for value in (0, -1, float("nan"), float("inf"), "5"):
        with pytest.raises(InvalidValue, match="ttl"):
            await session.set_ttl(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="kind"):
        await store.session("t", kind=5)  # type: ignore[arg-type]
    session.service_session_id = object()
    with pytest.raises(InvalidValue, match="service"):
        await session.commit()
    assert (await reopened(session, store)).info == (await store.session("s")).info
    assert (await reopened(session, store)).metadata == {}


async def test_the_providers_id_is_kept_beside_ours(store: Store) -> None:
    session = await store.session("s")
    assert session.service_session_id is None
    session.service_session_id = {"thread": "t1"}
    await session.commit()
    later = await reopened(session, store)
    assert (later.id, later.service_session_id) == ("s", {"thread": "t1"})
    later.service_session_id = None
    await later.commit()
    assert (await reopened(session, store)).service_session_id is None


# --- messages ---


async def test_messages_come_in_order_all_last_and_before(store: Store) -> None:
    session = await store.session("s")
    for number in range(6):
        await session.append(user(f"q{number}"), assistant(f"a{number}"))
    assert await texts(session) == [f"{who}{n}" for n in range(6) for who in "qa"]
    assert [m.text for m in await session.get_messages(last=3)] == ["a4", "q5", "a5"]
    assert [m.text for m in await session.get_messages(last=2, before=5)] == ["q1", "a1"]
    assert await session.get_messages(last=0) == []
    for asked in (session.get_messages(last=-1), session.get_chat_history(last=-1), session.runs(last=-1), session.entries(last=-1)):
        with pytest.raises(InvalidValue, match="last"):
            await asked


async def test_chat_history_has_what_is_only_a_picture(store: Store) -> None:
    session = await store.session("s")
    await session.append(Message("user", (Uri("image", "https://example.org/cat.png"),)), assistant("A cat."), Message("user", (Text(""),)))
    assert [it.role for it in await session.get_chat_history()] == ["user", "assistant"]


async def test_chat_history_leaves_tools_and_instructions_out_over_many_pages(store: Store) -> None:
    session = await store.session("s")
    call = Message("assistant", (ToolCall("look", "c1", {"q": 1}),))
    await session.append(system("be kind"), *[m for n in range(3) for m in (user(f"q{n}"), *[call, tool("r")] * 30, assistant(f"a{n}"))])
    said = ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert [m.text for m in await session.get_chat_history()] == said
    for last in range(8):
        assert [m.text for m in await session.get_chat_history(last=last)] == (said[-last:] if last else [])
    assert len(await session.get_messages()) == 1 + 3 * 62
    spoken = Message("assistant", (Text("and "), ToolCall("look", "c2"), Text("more")))
    await session.append(spoken)
    assert (await session.get_chat_history(last=1))[0].text == "and more"


@pytest.mark.parametrize("bad", [-1, "2", 1.0, 2**70])
async def test_numbers_that_make_no_sense_are_refused_by_name(store: Store, bad: Any) -> None:
    session = await store.session("s")
    await session.append(user("q"), assistant("a"))
    asked: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("last", lambda: session.get_messages(last=bad)),
        ("before", lambda: session.get_messages(before=bad)),
        ("last", lambda: session.get_chat_history(last=bad)),
        ("last", lambda: session.runs(last=bad)),
        ("after", lambda: session.entries(after=bad)),
        ("at", lambda: session.fork(at=bad)),
        ("to", lambda: session.rewind(to=bad)),
        ("last", lambda: session.rewind(last=bad)),
        ("expect", lambda: session.commit(expect=bad)),
        ("expect", lambda: session.append(user("x"), expect=bad)),
        ("expect", lambda: session.replace([], expect=bad)),
    ]
    for name, ask in asked:
        with pytest.raises(InvalidValue, match=f"{name}={re.escape(repr(bad))}: give a"):
            await ask()
    assert await texts(session) == ["q", "a"]
    assert [item.id for item in (await store.list()).items] == ["s"]


async def test_kinds_are_a_tuple(store: Store) -> None:
    session = await store.session("s")
    await session.append(user("q"))
    with pytest.raises(InvalidValue, match=r"'message' is a string: give a tuple, \('message',\)"):
        await session.entries(kinds="message")  # type: ignore[arg-type]
    assert len(await session.entries(kinds=("message",))) == 1


async def test_a_run_whose_metrics_cannot_be_stored_ends_as_an_error(store: Store) -> None:
    session = await store.session("s")
    given: list[Any] = [{"details": {"x": object()}}, {"details": {"x": (1,)}}, {"seconds": "long"}, {"seconds": float("nan")}]
    for it in given:
        with pytest.raises(InvalidValue, match="metrics"):
            async with session.run(user("q")) as run:
                await run.finish(assistant("a"), metrics=Metrics(**it))
    assert [(it.status, it.error) for it in await session.runs()] == [("error", "InvalidValue")] * 4
    assert await texts(session) == ["q"] * 4
    assert not session.info.running


async def test_what_a_cache_does_not_hold_is_named_as_the_caller_names_it(store: Store) -> None:
    session = await store.session("s")
    for mapping in (session.state, session.get_non_volatile_cache(), session.get_volatile_cache()):
        for lookup in (lambda it: it["token"], lambda it: it.pop("token"), lambda it: it.delete("token")):  # type: ignore[var-annotated]
            with pytest.raises(KeyError) as caught:
                lookup(mapping)
            assert caught.value.args == ("token",)


async def test_a_state_is_cleared_in_one_pass_and_the_cache_with_a_clear_of_its_own(store: Store) -> None:
    session = await store.session("s")
    cache = session.get_non_volatile_cache()
    session.state.update({f"k{number}": [number] for number in range(20)})
    cache["token"] = "secret"
    await session.commit()
    listed = 0
    keys = session.cells.keys

    def counted() -> list[str]:
        nonlocal listed
        listed += 1
        return keys()

    session.cells.keys = counted
    session.state["staged"] = 1
    session.state.clear()
    assert listed <= 2
    await session.commit()
    later = await reopened(session, store)
    assert (dict(later.state), dict(later.get_non_volatile_cache())) == ({}, {"token": "secret"})
    cache.clear()
    await session.commit()
    assert dict((await reopened(session, store)).get_non_volatile_cache()) == {}
    session.get_volatile_cache()["v"] = object()
    session.get_volatile_cache().clear()
    assert len(session.get_volatile_cache()) == 0


async def test_a_cut_is_where_it_is_asked_for_even_between_a_call_and_its_result(store: Store) -> None:
    session = await store.session("s")
    await session.append(user("q"), Message("assistant", (ToolCall("look", "c1"),)), tool("r", call_id="c1"), assistant("a"))
    assert [m.role for m in await (await session.fork(at=2)).get_messages()] == ["user", "assistant"]
    assert await session.rewind(last=2) == 2
    assert [m.role for m in await session.get_messages()] == ["user", "assistant"]


async def test_identical_turns_are_all_kept(store: Store) -> None:
    session = await store.session("s")
    for _ in range(4):
        await session.append(user("again?"), assistant("yes"))
    assert await texts(await reopened(session, store)) == ["again?", "yes"] * 4
    ids = [message.id for message in await session.get_messages()]
    assert len(set(ids)) == 8


async def test_what_is_no_message_is_refused_before_anything_is_written(store: Store) -> None:
    session = await store.session("s")
    with pytest.raises(InvalidValue, match="user"):
        await session.append(user("fine"), "not a message")  # type: ignore[arg-type]
    assert await texts(session) == []


async def test_info_tells_what_the_list_tells(store: Store) -> None:
    session = await store.session("s", user_id="ada", kind="team", parent="p")
    await session.append(user("hi"))
    listed: SessionInfo = (await store.list()).items[0]
    assert listed == session.info
    assert (listed.id, listed.user_id, listed.kind, listed.parent, listed.version) == ("s", "ada", "team", "p", 2)
    assert listed.created_at.utcoffset() is not None
    assert not listed.running


async def test_a_store_is_shared_by_url_until_it_is_closed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    store = Store.shared(url)
    assert Store.shared(url) is store
    assert Store.shared(store) is store
    await store.close()
    async with Store.shared(url) as again:
        assert again is not store


async def test_a_store_whose_sessions_expire_removes_the_expired_bit_by_bit(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with ago(101):
        for number in range(30):
            await (await db.store().session(f"old{number}")).set_ttl(100)
    store = db.store(ttl=100)
    await store.session("first")
    await store.session("second")
    assert await db.store().sweep() == 10
    with ago(101):
        await (await db.store().session("old")).set_ttl(100)
    await store.session("third")
    assert await db.store().sweep(limit=1) == 1
    monkeypatch.setattr(holdfast.store, "_SWEEP_EVERY", 0.0)
    eager = db.store(ttl=100)
    await eager.session("fourth")
    with ago(101):
        await (await db.store().session("old")).set_ttl(100)
    await eager.session("fifth")
    assert await db.store().sweep() == 0


async def test_a_sweep_that_fails_is_not_the_callers_trouble(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = db.store(ttl=100)

    async def sweep(limit: int) -> int:
        raise StoreUnavailable("somebody else writes")

    monkeypatch.setattr(store.backend, "sweep", sweep)
    assert await (await store.session("s")).append(user("hi")) == 2
    with pytest.raises(StoreUnavailable):
        await store.sweep()


async def test_a_list_and_all_sessions_take_the_same_conditions(store: Store) -> None:
    for number, id in enumerate("abc"):
        await (await store.session(id, user_id="ada", kind="team", parent="p")).rename(f"Order {number}")
    b = (await store.list(name="order 1")).items[0]
    wanted: list[tuple[Wanted, list[str]]] = [
        ({}, ["c", "b", "a"]),
        ({"user_id": "ada", "kind": "team", "parent": "p", "waiting": False}, ["c", "b", "a"]),
        ({"waiting": True}, []),
        ({"metadata": {"plan": "pro"}}, []),
        ({"name": "ORDER 2", "metadata": None}, ["c"]),
        ({"updated_after": b.updated_at}, ["c"]),
        ({"updated_before": b.updated_at}, ["a"]),
        ({"updated_before": b.updated_at.astimezone(timezone(timedelta(hours=5)))}, ["a"]),
        ({"updated_after": datetime.min.replace(tzinfo=UTC), "updated_before": datetime.max.replace(tzinfo=UTC)}, ["c", "b", "a"]),
        ({"updated_after": b.updated_at, "updated_before": b.updated_at}, []),
    ]
    for conditions, found in wanted:
        assert [item.id for item in (await store.list(**conditions)).items] == found
        assert [item.id async for item in store.sessions(**conditions)] == found


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"limit": "5"}, "limit='5': a page holds"),
        ({"limit": 1.5}, "limit=1.5"),
        ({"limit": 0}, "limit=0"),
        ({"cursor": 5}, "cursor 5 is not one"),
        ({"cursor": "x"}, "cursor 'x' is not one"),
        ({"name": 5}, "name=5: give a string"),
        ({"user_id": b"ada"}, "user_id=b'ada': give a string"),
        ({"waiting": "yes"}, "waiting='yes': give True or False"),
        ({"metadata": [1]}, r"metadata=\[1\]: give a dict"),
        ({"updated_after": 5}, "updated_after=5: give an aware datetime"),
        ({"updated_before": datetime(2026, 1, 1)}, "updated_before=.*aware datetime, which says its time zone"),
    ],
)
async def test_conditions_that_make_no_sense_are_refused_by_name(store: Store, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        await store.list(**wanted)
    with pytest.raises(TypeError, match="colour"):
        await store.list(colour="red")  # type: ignore[call-arg]
    with pytest.raises(InvalidValue, match="limit=0"):
        await store.sweep(limit=0)


async def test_records_of_wider_state_are_not_listed(store: Store) -> None:
    await store.session("s")
    commit = Commit(id="c", time=1, create=Create(1))
    await store.backend.commit(Key(store.tenant, "~app"), commit)
    assert [item.id for item in (await store.list()).items] == ["s"]
