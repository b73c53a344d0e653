"""State of wider scope: a user's and the application's, in records of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast.sync
from holdfast import Conflict, InvalidId, SessionNotFound, Store, user
from holdfast.backend import Backend, Commit, Key, Outcome
from holdfast.backends.memory import MemoryBackend
from holdfast.errors import StoreUnavailable
from holdfast.wrappers.base import Wrapper


@pytest.fixture(params=["memory", "sqlite", "cached"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url, ttl=3600, cache=8 if request.param == "cached" else 0) as opened:
        yield opened


async def test_all_sessions_of_a_user_share_it(store: Store) -> None:
    first = await store.session("a", user_id="ada")
    prefs = await first.scope("user")
    assert dict(prefs) == {}
    prefs["theme"] = {"dark": True}
    await first.append(user("hi"))
    second = await store.session("b", user_id="ada")
    theirs = await second.scope("user")
    assert theirs["theme"] == {"dark": True}
    theirs["theme"]["dark"] = False
    await second.commit()
    assert (await first.scope("user"))["theme"] == {"dark": False}
    assert dict(await (await store.session("c", user_id="bob")).scope("user")) == {}
    assert dict(await store.scope("user", user_id="ada")) == {"theme": {"dark": False}}


async def test_the_applications_is_shared_by_all_and_belongs_to_none(store: Store) -> None:
    app = await (await store.session("a", user_id="ada")).scope("app")
    await asyncio.gather(*(app.increment(f"n{place}") for place in range(3)))
    for place in range(3):
        await app.increment(f"n{place}")
    bobs = await (await store.session("b", user_id="bob")).scope("app")
    assert dict(bobs) == {"n0": 2, "n1": 2, "n2": 2}
    alone = await store.scope("app")
    alone["motd"] = "hello"
    await alone.commit()
    assert (await store.scope("app"))["motd"] == "hello"


async def test_many_writers_lose_nothing(store: Store) -> None:
    async def bump(name: str) -> None:
        state = await (await store.session(name, user_id="ada")).scope("user")
        for _ in range(10):
            await state.increment("n")

    await asyncio.gather(*(bump(f"s{number}") for number in range(5)))
    assert (await store.scope("user", user_id="ada"))["n"] == 50


async def test_nothing_of_it_is_a_session(store: Store) -> None:
    session = await store.session("a", user_id="ada")
    (await session.scope("user"))["k"] = 1
    (await session.scope("app"))["k"] = 2
    await session.commit()
    assert [it.id async for it in store.sessions()] == ["a"]
    assert [it.id async for it in store.sessions(user_id="ada")] == ["a"]
    for reserved in ("~user/ada", "~app"):
        with pytest.raises(InvalidId, match="reserved"):
            await store.session(reserved)


async def test_it_outlives_the_sessions_and_their_time(store: Store) -> None:
    session = await store.session("a", user_id="ada")
    (await session.scope("user"))["k"] = 1
    session.state["own"] = 1
    await session.commit()
    session.clear()
    await session.commit()
    await session.delete()
    kept = await store.backend.read(Key("default", "~user/ada"), holdfast.backend.ReadPlan())
    assert kept is not None
    assert (kept.head.ttl, kept.head.expires, kept.head.user_id, kept.head.kind) == (None, None, "ada", "scope")
    assert (await store.scope("user", user_id="ada"))["k"] == 1


async def test_who_has_no_user_has_no_state_of_one(store: Store) -> None:
    session = await store.session("a")
    with pytest.raises(InvalidId, match="no user"):
        await session.scope("user")
    with pytest.raises(InvalidId, match="'user' or 'app'"):
        await session.scope("session")  # type: ignore[arg-type]
    with pytest.raises(InvalidId, match="no user"):
        await store.scope("user")


async def test_an_admin_sees_the_users_of_a_session_of_theirs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as store, Store.open(url, as_admin=True) as admin:
        prefs = await (await store.session("a", user_id="ada")).scope("user")
        await prefs.increment("n")
        session = await admin.get("a")
        assert session is not None
        assert dict(await session.scope("user")) == {"n": 1}


async def test_a_deleted_record_begins_anew(store: Store) -> None:
    session = await store.session("a", user_id="ada")
    await (await session.scope("user")).increment("n")
    link: Any = store.__dict__["_link"]
    erase = link.commit("ada", erase=holdfast.backend.Erase("session"))
    await store.backend.commit(Key(store.tenant, "~user/ada"), erase)
    again = await session.scope("user")
    assert dict(again) == {}
    assert await again.increment("n") == 1


class Failing(Wrapper):
    """Refuses the next commit to a session, not to a scope."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.fails = 0

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if self.fails and not key.session_id.startswith("~"):
            self.fails -= 1
            raise StoreUnavailable("away")
        return await super().commit(key, commit)


async def test_the_scope_goes_first_and_a_repetition_is_one_commit() -> None:
    failing = Failing(MemoryBackend())
    store = Store(failing)
    session = await store.session("a", user_id="ada")
    state = await session.scope("user")
    state["k"] = session.state["k"] = [1]
    failing.fails = 1
    with pytest.raises(StoreUnavailable):
        await session.commit(commit_id="c1")
    assert (await store.scope("user", user_id="ada"))["k"] == [1]
    version = (await store.backend.read(Key("default", "~user/ada"), holdfast.backend.ReadPlan())).head.version  # type: ignore[union-attr]
    await session.commit(commit_id="c1")
    assert session.state["k"] == [1]
    found = await store.backend.read(Key("default", "~user/ada"), holdfast.backend.ReadPlan())
    assert found is not None
    assert found.head.version == version


async def test_a_strict_commit_that_is_refused_keeps_the_session_as_it_was(store: Store) -> None:
    session = await store.session("a", user_id="ada")
    await session.append(user("hi"))
    session.state["k"] = 1
    with pytest.raises(Conflict):
        await session.commit(expect=session.version - 1)
    assert "k" not in (await store.session("a", user_id="ada")).state


async def test_nobody_else_reads_a_users(store: Store) -> None:
    await (await store.scope("user", user_id="ada")).increment("n")
    with pytest.raises(SessionNotFound):
        await store.backend.commit(Key("default", "~user/ada"), store.__dict__["_link"].commit("bob"))


def test_the_blocking_form(tmp_path: Path) -> None:
    with holdfast.sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:
        session = store.session("a", user_id="ada")
        prefs = session.scope("user")
        prefs["theme"] = "dark"
        session.commit()
        assert prefs.increment("n") == 1
        app = store.scope("app")
        app["k"] = 1
        app.commit()
        assert (dict(store.scope("user", user_id="ada")), dict(session.scope("app"))) == ({"theme": "dark", "n": 1}, {"k": 1})


async def test_tools_that_work_side_by_side_write_one_record(store: Store) -> None:
    session = await store.session("a", user_id="ada")

    async def work(key: str) -> None:
        (await session.scope("user"))[key] = True

    await asyncio.gather(work("one"), work("two"))
    await work("three")
    await session.commit()
    assert dict(await store.scope("user", user_id="ada")) == {"one": True, "two": True, "three": True}


async def test_another_scope_may_be_asked_for_in_the_middle_of_a_commit() -> None:
    wrapped = InTheMiddle(MemoryBackend())
    session = await Store(wrapped).session("a", user_id="ada")
    (await session.scope("user"))["theme"] = "dark"
    wrapped.then = lambda: session.scope("app")
    assert await session.append(user("hi")) > 1


class InTheMiddle(Wrapper):
    """Does something in the middle of the first commit from now on."""

    then: Callable[[], Awaitable[Any]] | None = None

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        outcome = await super().commit(key, commit)
        if (then := self.then) is not None:
            self.then = None
            await then()
        return outcome
