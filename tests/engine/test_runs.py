"""Runs: the input first, one at a time, with a status that tells the truth."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from holdfast import (
    Fenced,
    InvalidValue,
    Message,
    Metrics,
    Session,
    SessionBusy,
    Store,
    ToolCall,
    UsageError,
    assistant,
    tool,
    user,
)
from holdfast.backend import ClaimAct

from .conftest import Database, reopened, statuses, texts

# --- what a run stores ---


async def test_what_the_handle_writes_in_its_run_carries_the_fence(db: Database) -> None:
    store = db.store()
    session, thief = await store.session("s"), await store.session("s")
    async with session.run(user("first")) as run:
        await thief.write(claim=ClaimAct("take", "thief", seen=(run.fence, 0)), staged=False)
        with pytest.raises(Fenced):
            await session.append(user("late"))
        with pytest.raises(Fenced):
            await run.finish()
        run.ended = True
    assert await texts(await store.session("s")) == ["first"]


async def test_a_run_id_runs_once(db: Database) -> None:
    session = await db.store().session("s")
    with pytest.raises(ValueError, match="model"):
        async with session.run(user("first try"), run_id="r"):
            raise ValueError("model")
    async with session.run(user("second try"), run_id="r") as run:
        assert run.attempt == 2
        with pytest.raises(SessionBusy, match="'r'"):
            async with (await db.store().session("s")).run(run_id="r"):
                pass
    with pytest.raises(UsageError, match="completed"):
        async with session.run(user("third try"), run_id="r"):
            pass
    found = await session.get_run("r")
    assert found is not None
    assert (found.status, found.attempt, session.info.counts.runs) == ("completed", 2, 1)


async def test_a_run_may_clear_its_own_session(db: Database) -> None:
    session = await db.store().session("s")
    async with session.run(user("forget everything")) as run:
        session.clear()
        await session.append(assistant("forgotten"))
        await run.finish()
    await session.append(user("after the run"))
    assert await texts(session) == ["forgotten", "after the run"]


async def test_the_input_is_stored_before_the_body_begins(store: Store) -> None:
    session = await store.session("s")
    session.set("staged", 1)
    async with session.run(user("hi"), user("there"), agent="helper"):
        later = await reopened(session, store)
        assert await texts(later) == ["hi", "there"]
        assert (later.get("staged"), later.info.running, later.info.agent) == (1, True, "helper")
        assert await statuses(later) == ["running"]
    assert await statuses(session) == ["completed"]


async def test_what_a_run_appends_is_stored_at_once_and_is_the_runs(store: Store) -> None:
    session = await store.session("s")
    call = Message("assistant", (ToolCall("look", "c1"),))
    async with session.run(user("hi"), run_id="r1", agent="helper") as run:
        await run.append(call)
        await run.append(tool("found", call_id="c1"))
        later = await reopened(session, store)
        assert [message.role for message in await later.get_messages()] == ["user", "assistant", "tool"]
        await run.finish(assistant("done"), metrics=Metrics(input_tokens=10, output_tokens=3, model_calls=2, details={"cost": "0.1"}))
        assert run.ended
    told = await (await reopened(session, store)).runs()
    assert [(it.id, it.status, it.agent, it.error) for it in told] == [("r1", "completed", "helper", None)]
    assert told[0].metrics == Metrics(input_tokens=10, output_tokens=3, model_calls=2, details={"cost": "0.1"})
    assert told[0].ended is not None
    assert told[0].ended >= told[0].started
    assert {message.run_id for message in await session.get_messages()} == {"r1"}
    assert [entry.agent for entry in await session.entries(run_id="r1")] == ["helper"] * 6
    counts = (await reopened(session, store)).info.counts
    assert (counts.runs, counts.messages, counts.input_tokens, counts.output_tokens) == (1, 4, 10, 3)


async def test_a_turn_is_two_commits_whatever_the_length(store: Store) -> None:
    session = await store.session("s")
    for _ in range(20):
        before = session.version
        async with session.run(user("hi")) as run:
            await run.finish(assistant("hello"))
        assert session.version == before + 2


async def test_a_body_that_raises_is_recorded_and_raised_on(store: Store) -> None:
    session = await store.session("s")
    with pytest.raises(LookupError, match="my own"):
        await failing(session, LookupError("my own"))
    later = await reopened(session, store)
    assert [(it.status, it.error) for it in await later.runs()] == [("error", "LookupError")]
    assert await texts(later) == ["hi", "half"]
    assert (later.get("k"), later.info.running) == ([1], False)


async def failing(session: Session, error: Exception) -> None:
    async with session.run(user("hi")) as run:
        await run.append(assistant("half"))
        session.set("k", [1])
        raise error


@pytest.mark.parametrize("raising", [False, True])
async def test_a_run_ends_truly_even_when_its_state_cannot_be_stored(store: Store, raising: bool) -> None:
    session = await store.session("s")
    session.set("k", {"a": 1})
    caught: BaseException | None = None
    try:
        async with session.run(user("hi")):
            session.get("k")["bad"] = object()
            if raising:
                raise LookupError
    except (LookupError, InvalidValue) as error:
        caught = error
    assert isinstance(caught, LookupError if raising else InvalidValue)
    later = await reopened(session, store)
    assert await statuses(later) == ["error"]
    assert (later.info.running, later.get("k")) == (False, {"a": 1})


async def test_a_cancelled_run_is_recorded_as_cancelled(store: Store) -> None:
    session = await store.session("s")
    begun = asyncio.Event()

    async def work() -> None:
        async with session.run(user("hi")):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    later = await reopened(session, store)
    assert [(it.status, it.error) for it in await later.runs()] == [("cancelled", None)]
    assert (await texts(later), later.info.running) == (["hi"], False)


async def test_a_run_in_a_cancelled_scope_is_recorded_as_cancelled(store: Store) -> None:
    """As a web server ends a request whose client has gone: the scope cancels again at every await."""
    session = await store.session("s")
    with anyio.CancelScope() as scope:
        async with session.run(user("hi")):
            scope.cancel()
            await anyio.sleep_forever()
    with anyio.CancelScope() as scope:
        async with session.claim():
            scope.cancel()
            await anyio.sleep_forever()
    later = await reopened(session, store)
    assert (await statuses(later), later.info.running) == (["cancelled"], False)


async def test_a_run_cancelled_while_it_begins_leaves_no_claim_behind(store: Store) -> None:
    for turns in range(12):
        session = await store.session(f"s{turns}")

        async def work(session: Session = session) -> None:
            async with session.run(user("hi")):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        later = await reopened(session, store)
        assert not later.info.running
        assert await statuses(later) in ([], ["cancelled"])
        assert await texts(later) in ([], ["hi"])


async def test_a_run_ends_as_the_body_says(store: Store) -> None:
    session = await store.session("s")
    async with session.run(user("refund?")) as run:
        await run.finish(status="paused")
    async with session.run(user("again")) as run:
        await run.finish(status="error", error="out of tokens")
    assert [(it.status, it.error) for it in await session.runs()] == [("paused", None), ("error", "out of tokens")]
    assert not session.info.running


async def test_the_newest_runs_in_the_order_they_began(store: Store) -> None:
    session = await store.session("s")
    assert await session.runs() == []
    for number in range(25):
        async with session.run(user("hi"), run_id=f"r{number}"):
            pass
    assert [run.id for run in await session.runs(last=3)] == ["r22", "r23", "r24"]
    assert [run.id for run in await session.runs()] == [f"r{number}" for number in range(5, 25)]
    assert [run.id for run in await session.runs(last=100)] == [f"r{number}" for number in range(25)]
    assert await session.runs(last=0) == []
    assert all(run.status == "completed" for run in await session.runs(last=100))


async def test_a_run_that_was_rewound_is_not_called_interrupted(store: Store) -> None:
    session = await store.session("s")
    async with session.run(user("hi")) as run:
        await run.finish(assistant("hello"))
    await session.rewind(last=1)
    assert "interrupted" not in await statuses(session)
