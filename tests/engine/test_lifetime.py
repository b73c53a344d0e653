"""How long a session lives: dated commits instead of waiting."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import (
    SessionGone,
    Store,
    user,
)

from .conftest import Database, ago, reopened, texts

# --- time to live ---


async def test_an_expired_session_is_gone_and_starts_anew(db: Database) -> None:
    store = db.store()
    old = await store.session("s")
    await old.append(user("old"))
    with ago(101):
        await old.set_ttl(100)
    assert await store.get("s") is None
    assert not await store.has("s")
    assert (await store.list()).items == []
    with pytest.raises(SessionGone, match="'s'"):
        await old.append(user("late"))
    assert await texts(await store.session("s")) == []


async def test_sweep_takes_the_expired_and_nothing_else(db: Database) -> None:
    store = db.store(ttl=100)
    with ago(101):
        await store.session("expired")
    await store.session("alive")
    await db.store().session("kept")
    assert await store.sweep() == 1
    assert await store.sweep() == 0
    assert [item.id for item in (await store.list()).items] == ["kept", "alive"]


async def test_every_commit_puts_off_expiry(db: Database) -> None:
    store = db.store(ttl=100)
    with ago(90):
        session = await store.session("s")
    first = session.info.expires_at
    with ago(50):
        await session.append(user("hi"))
    assert first is not None
    assert session.info.expires_at is not None
    assert (session.info.expires_at - first).total_seconds() == pytest.approx(40, abs=5)  # pyright: ignore[reportUnknownMemberType]
    assert (session.info.expires_at - session.info.updated_at).total_seconds() == 100


async def read_messages(store: Store) -> None:
    session = await store.session("s")
    await session.get_messages()


async def open_only(store: Store) -> None:
    await store.session("s")


async def get_only(store: Store) -> None:
    await store.get("s")


@pytest.mark.parametrize("reading", [read_messages, open_only, get_only])
async def test_a_read_puts_off_expiry_at_most_every_tenth(db: Database, reading: Any) -> None:
    store = db.store(ttl=100)
    for age, moved in ((5, False), (20, True)):
        await store.delete("s")
        with ago(age):
            before = (await store.session("s")).info
        await reading(store)
        after = (await store.list()).items[0]
        assert before.expires_at is not None
        assert after.expires_at is not None
        assert (after.expires_at > before.expires_at) == moved
        assert after.version == before.version


async def test_a_sessions_own_time_to_live(store: Store) -> None:
    session = await store.session("s")
    assert session.info.expires_at is None
    await session.set_ttl(50)
    assert session.info.expires_at is not None
    await session.set_ttl(None)
    assert (await reopened(session, store)).info.expires_at is None
    with ago(60):
        await session.set_ttl(50)
    assert await store.get("s") is None


async def test_a_claim_holds_expiry_up(db: Database) -> None:
    store = db.store(ttl=1)
    session = await store.session("s")
    with ago(30):
        async with session.run(user("hi")):
            assert await store.has("s")
    assert not await store.has("s")


async def test_a_writer_whose_clock_is_behind_takes_no_time_away(db: Database) -> None:
    store = db.store(ttl=100)
    session = await store.session("s")
    with ago(1000):
        await session.append(user("from the past"))
    assert await store.has("s")
