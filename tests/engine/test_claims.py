"""One run at a time: waiting, refusing, beating, taking over from the hung and the killed."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any

import pytest

from holdfast import (
    Fenced,
    InvalidValue,
    Run,
    Session,
    SessionBusy,
    SessionGone,
    Store,
    StoreUnavailable,
    assistant,
    user,
)
from holdfast.backend import Commit, Key, Outcome, ReadPlan
from holdfast.wrappers.base import Wrapper

from .conftest import Database, reopened, statuses, texts, until


class NoHeart(Wrapper):
    """Lets no heartbeat through, as a process that hangs."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.claim is not None and commit.claim.act == "renew":
            raise StoreUnavailable("no heartbeat gets through")
        return await self.inner.commit(key, commit)


async def beats(store: Store) -> int:
    """How often the claim's holder has shown that it lives."""
    snapshot = await store.backend.read(Key("default", "s"), ReadPlan())
    return snapshot.head.claim.beat if snapshot and snapshot.head.claim else -1


# --- one at a time ---


async def test_a_second_run_waits_and_then_proceeds_in_order(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    held, release = asyncio.Event(), asyncio.Event()

    async def one() -> None:
        async with first.run(user("first")) as run:
            held.set()
            await release.wait()
            await run.append(assistant("first done"))

    async def two() -> None:
        async with second.run(user("second"), wait=10) as run:
            await run.append(assistant("second done"))

    tasks = [asyncio.create_task(one())]
    await held.wait()
    tasks.append(asyncio.create_task(two()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert await texts(await reopened(first, store)) == ["first"]
    release.set()
    await asyncio.gather(*tasks)
    assert await texts(await reopened(first, store)) == ["first", "first done", "second", "second done"]
    assert await statuses(first) == ["completed", "completed"]


async def test_many_runs_at_once_never_mix(store: Store) -> None:
    async def turn(number: int) -> None:
        session = await store.session("s")
        async with session.run(user(f"q{number}"), wait=20) as run:
            await asyncio.sleep(0)
            await run.append(assistant(f"a{number}"))

    await asyncio.gather(*(turn(number) for number in range(6)))
    found = await texts(await store.session("s"))
    assert len(found) == 12
    assert [text[1:] for text in found[::2]] == [text[1:] for text in found[1::2]]
    assert "".join(text[0] for text in found) == "qa" * 6


async def test_a_run_that_may_not_wait_is_refused_and_writes_nothing(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    async with first.run(user("first")):
        second.set("staged", 1)
        with pytest.raises(SessionBusy, match="held by another run"):
            await second.run(user("second"), wait=0).__aenter__()
        assert (await texts(await reopened(first, store)), (await reopened(first, store)).get_all_keys()) == (["first"], [])
    async with second.run(user("second"), wait=0):
        assert (await reopened(first, store)).get("staged") == 1


async def test_a_claim_is_given_back_and_its_fence_grows(store: Store) -> None:
    session, other = await store.session("s"), await store.session("s")
    async with session.claim() as first:
        with pytest.raises(SessionBusy):
            await other.claim(wait=0).__aenter__()
    async with other.claim(wait=0) as second:
        assert second > first
        version = other.version
    assert (await reopened(session, store)).version == version
    with pytest.raises(RuntimeError):
        await claim_and_fail(session)
    async with other.run(user("hi"), wait=0):
        pass


async def claim_and_fail(session: Session) -> None:
    async with session.claim():
        raise RuntimeError


async def test_a_heart_that_beats_keeps_the_claim_longer_than_its_lease(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    waiting: asyncio.Task[Run] | None = None
    lease = 0.09
    async with first.run(user("first"), lease=lease) as run:
        version = first.version
        waiting = asyncio.create_task(second.run(user("second"), lease=lease, wait=20).__aenter__())

        async def lived() -> bool:
            return await beats(store) >= 8

        await until(lived)
        assert not waiting.done()
        assert (await reopened(first, store)).version == version
        await run.finish(assistant("done"))
    await (await waiting).finish()
    assert await texts(await reopened(first, store)) == ["first", "done", "second"]
    assert await statuses(first) == ["completed", "completed"]


async def test_a_heart_that_missed_a_beat_goes_on(db: Database) -> None:
    class Misses(Wrapper):
        left = 2

        async def commit(self, key: Key, commit: Commit) -> Outcome:
            if commit.claim is not None and commit.claim.act == "renew" and self.left:
                self.left -= 1
                raise StoreUnavailable("down for a moment")
            return await self.inner.commit(key, commit)

    store = db.store()
    session = await Store(Misses(store.backend)).session("s")

    async def lived() -> bool:
        return await beats(store) >= 2

    async with session.run(user("hi"), lease=0.06):
        await until(lived)


async def test_a_late_heartbeat_does_not_take_the_handle_back(db: Database) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    class LateBeat(Wrapper):
        async def commit(self, key: Key, commit: Commit) -> Outcome:
            outcome = await self.inner.commit(key, commit)
            if commit.claim is not None and commit.claim.act == "renew" and not entered.is_set():
                entered.set()
                await gate.wait()
            return outcome

    session = await Store(LateBeat(db.store().backend)).session("s")
    async with session.run(user("hi"), lease=0.03) as run:
        await entered.wait()
        version = await run.append(assistant("more"))
        gate.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert session.version == version
        await run.session.commit(expect=session.version)


@pytest.mark.parametrize("late", ["append", "finish", "leave"])
async def test_a_run_that_was_taken_over_can_write_no_more(db: Database, late: str) -> None:
    store = db.store()
    hanging = await Store(NoHeart(store.backend)).session("s")
    entered = hanging.run(user("first"), run_id="first", lease=0.05)
    old = await entered.__aenter__()
    waiter = await store.session("s")
    async with waiter.run(user("second"), run_id="second", wait=10) as run:
        assert run.fence > old.fence
        assert [(it.id, it.status) for it in await waiter.runs()] == [("first", "interrupted"), ("second", "running")]
        hanging.set("late", 1)
        with pytest.raises(Fenced):
            await {"append": lambda: old.append(assistant("late")), "finish": lambda: old.finish(assistant("late"))}.get(
                late, lambda: entered.__aexit__(None, None, None)
            )()
        assert not old.ended
        await run.append(assistant("mine"))
    with suppress(Fenced):
        await entered.__aexit__(None, None, None)
    later = await reopened(waiter, store)
    assert (await texts(later), later.get_all_keys()) == (["first", "second", "mine"], [])
    assert await statuses(later) == ["interrupted", "completed"]


async def test_a_run_whose_session_was_deleted_ends_in_a_clear_error(store: Store) -> None:
    session = await store.session("s")
    with pytest.raises(SessionGone, match="'s'"):
        await deleted_while_running(session, store)
    assert not await store.has("s")


async def deleted_while_running(session: Session, store: Store) -> None:
    async with session.run(user("hi")) as run:
        await store.delete("s")
        await run.append(assistant("late"))


# --- killed ---

HANGS = """
import asyncio, sys
from holdfast import Store, assistant, user

async def main():
    session = await Store.open(sys.argv[1]).session("s")
    async with session.run(user("hi"), run_id="killed", lease=0.1) as run:
        await run.append(assistant("half"))
        print("running", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_run_reads_as_interrupted_and_a_waiter_takes_over(file_db: Database) -> None:
    store = file_db.store()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, file_db.url, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"running\n"
        session = await store.session("s")
        assert [(it.id, it.status) for it in await session.runs()] == [("killed", "running")]
        with pytest.raises(SessionBusy):
            await session.run(user("too early"), wait=0).__aenter__()
    finally:
        process.kill()
        await process.wait()
    async with session.run(user("next"), wait=10) as run:
        assert [(it.id, it.status) for it in await session.runs()] == [("killed", "interrupted"), (run.id, "running")]
    assert await texts(await reopened(session, store)) == ["hi", "half", "next"]
    assert await statuses(session) == ["interrupted", "completed"]


@pytest.mark.parametrize("lease", [None, "3", True, 0, -1, float("inf"), float("nan"), 1e12], ids=repr)
async def test_a_lease_that_none_can_be_is_refused_before_anything_is_written(store: Store, lease: Any) -> None:
    session = await store.session("s")
    version = session.version
    with pytest.raises(InvalidValue, match="lease="):
        async with session.run(user("hi"), lease=lease):
            pass
    with pytest.raises(InvalidValue, match="lease="):
        async with session.claim(lease=lease):
            pass
    again = await store.get("s")
    assert again is not None
    assert (again.version, await again.runs(), again.info.running) == (version, [], False)
