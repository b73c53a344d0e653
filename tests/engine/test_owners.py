"""Ids, and whose a session is."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import (
    InvalidId,
    Session,
    SessionNotFound,
    Store,
    assistant,
    user,
)

from .conftest import Database, reopened, texts

# --- ids ---


@pytest.mark.parametrize("bad", ["", "x" * 1025, "\U0001f600" * 257, "a\nb", "a\x00b", "\ud800", "~user/ada", "~app", 5, b"s", ("a",)])
async def test_bad_session_ids_are_refused_by_every_verb(store: Store, bad: Any) -> None:
    for asked in (store.session(bad), store.get(bad), store.has(bad), store.delete(bad), store.session_manager.has_session(bad)):
        with pytest.raises(InvalidId, match="session id"):
            await asked
    with pytest.raises(InvalidId, match="session id"):
        Session(bad)
    assert (await store.list()).items == []


async def test_bad_ids_of_users_runs_and_tenants_are_named(db: Database, store: Store) -> None:
    with pytest.raises(InvalidId, match="user id"):
        await store.session("s", user_id="")
    with pytest.raises(InvalidId, match="tenant"):
        db.store(tenant="a\tb")
    session = await store.session("s")
    with pytest.raises(InvalidId, match="run id"):
        async with session.run(user("hi"), run_id="x" * 1025):
            pass
    assert await texts(session) == []


@pytest.mark.parametrize("session_id", ["\U0001f600" * 256, "x" * 1024, "a/b?c=d&e#f %2F", "ж" * 512, "~", "'; DROP TABLE x --", "*[a]?"])
async def test_any_printable_id_up_to_the_limit_is_a_session_of_its_own(store: Store, session_id: str) -> None:
    session = await store.session(session_id, user_id=session_id)
    await session.append(user("hi"))
    await (await store.session(session_id[:-1] + "z", user_id=session_id)).append(user("other"))
    assert await texts(await reopened(session, store)) == ["hi"]
    assert {item.id for item in (await store.list(user_id=session_id)).items} == {session_id, session_id[:-1] + "z"}
    assert await store.delete(session_id, user_id=session_id)


# --- whose it is ---


@pytest.mark.parametrize("stranger", ["bob", None])
async def test_an_owned_session_does_not_exist_for_anybody_else(db: Database, stranger: str | None) -> None:
    store = db.store()
    await (await store.session("s", user_id="ada")).append(user("secret"))
    with pytest.raises(SessionNotFound, match="'s'"):
        await store.session("s", user_id=stranger)
    with pytest.raises(SessionNotFound, match="'s'"):
        await store.session(Session("s", user_id=stranger))
    with pytest.raises(SessionNotFound, match="'s'"):
        [line async for line in store.export("s", user_id=stranger)]
    assert await store.get("s", user_id=stranger) is None
    assert not await store.has("s", user_id=stranger)
    assert not await store.delete("s", user_id=stranger)
    found = await store.get("s", user_id="ada")
    assert found is not None
    assert (found.info.user_id, await texts(found)) == ("ada", ["secret"])
    assert len((await store.list()).items) == 1


async def test_an_unowned_session_becomes_the_first_users_that_names_itself(store: Store) -> None:
    nobodys = await store.session("s")
    await nobodys.append(user("hi"))
    adas = await store.session("s", user_id="ada")
    assert (adas.info.user_id, await texts(adas)) == ("ada", ["hi"])
    with pytest.raises(SessionNotFound):
        await store.session("s", user_id="bob")
    with pytest.raises(SessionNotFound):
        await nobodys.append(user("late"))
    assert await texts(adas) == ["hi"]


@pytest.mark.parametrize("stranger", ["bob", None])
async def test_a_handle_that_knew_an_unowned_session_reads_it_no_more_once_it_is_owned(store: Store, stranger: str | None) -> None:
    await store.session("s")
    old = await store.session("s")
    old.user_id = stranger
    await (await store.session("s", user_id="ada")).append(user("secret"))
    for asked in (old.get_messages(), old.entries(), old.runs(), old.refresh(), old.fork("copy"), old.rewind(to=0), old.delete()):
        with pytest.raises(SessionNotFound):
            await asked
    assert await store.get("copy", user_id="ada") is None


async def test_adoption_changes_the_owner_and_nothing_else(db: Database) -> None:
    session = await db.store(ttl=100).session("s", kind="team", parent="p")
    await session.set_ttl(None)
    adopted = await db.store(ttl=100).session("s", user_id="ada", kind="agent")
    assert (adopted.info.user_id, adopted.info.kind, adopted.info.parent, adopted.info.expires_at) == ("ada", "team", "p", None)


async def test_an_admin_sees_every_session_and_adopts_none(db: Database) -> None:
    await (await db.store().session("s", user_id="ada")).append(user("hi"))
    await db.store().session("free")
    admin = db.store(as_admin=True)
    session = await admin.session("s")
    assert await texts(session) == ["hi"]
    await session.append(assistant("from the desk"))
    await admin.session("free")
    assert {item.id: item.user_id for item in (await admin.list()).items} == {"s": "ada", "free": None}
    assert (await session.fork("copy")).info.user_id == "ada"
    assert await admin.delete("s")
