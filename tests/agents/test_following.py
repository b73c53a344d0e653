"""Following a run: the same events under the same numbers as its driver tells, from any number on, in any process."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_ai import Agent as Structured

import holdfast.sync
from holdfast import Fenced, InvalidValue, Message, Session, SessionNotFound, Store, Text, UsageError, assistant, user
from holdfast.agents import (
    Agent,
    Done,
    Event,
    HandedOver,
    Posthook,
    Prehook,
    ReasoningDelta,
    RunEnded,
    RunStarted,
    Said,
    Team,
    TextDelta,
    ToolAnswered,
    ToolCalled,
    Workflow,
    tool,
)
from holdfast.agents.sequence import Place, behind
from holdfast.entries import CANCELLED, ERROR, PAUSED, QUEUED
from holdfast.testing.model_server import Answer, Call, call

from .conftest import Models, output_of, statuses, texts, there, told, until

LONG = "a long answer that comes in many pieces, as answers do"
BOTH = Answer(calls=(Call("look"), Call("look")))


def joined(events: Iterable[Event]) -> list[tuple[int, str, Any]]:
    """The events as number, kind and content, with pieces of text that follow each other put together."""
    found: list[tuple[int, str, Any]] = []
    for event in events:
        kind = type(event).__name__
        if isinstance(event, TextDelta | ReasoningDelta):
            before = found.pop()[2] if found and found[-1][1] == kind else ""
            found.append((event.number, kind, before + event.delta))
        elif isinstance(event, RunStarted):
            found.append((event.number, kind, event.attempt))
        elif isinstance(event, ToolCalled | ToolAnswered):
            found.append((event.number, kind, (event.id, event.name)))
        elif isinstance(event, HandedOver):
            found.append((event.number, kind, event.agent))
        else:
            assert isinstance(event, RunEnded)
            output = event.output
            content = output.content.model_dump() if isinstance(output.content, BaseModel) else output.content
            found.append((event.number, kind, (output.status, content, len(output.messages), len(output.requirements))))
    return found


async def followed(agent: Agent, run_id: str, after: int = 0) -> list[Event]:
    return [event async for event in agent.follow(run_id, "s", after=after)]


async def gathered(stream: AsyncIterator[Event], into: list[Event]) -> None:
    async for event in stream:
        into.append(event)


async def check(agent: Agent, events: list[Event]) -> None:
    """Whoever follows is told the same, from the beginning and from behind each event on."""
    run_id = output_of(events).run_id
    assert joined(await followed(agent, run_id)) == joined(events)
    numbers = [event.number for event in events]
    assert numbers == sorted(set(numbers))
    for place, event in enumerate(events):
        assert joined(await followed(agent, run_id, event.number)) == joined(events[place + 1 :])


def look() -> str:
    return "seen"


async def test_an_answer_and_tools(models: Models, store: Store) -> None:
    agent = models.agent([BOTH, call("look"), LONG], store=store, tools=[look])
    await check(agent, await told(agent.run("hi", session_id="s", stream=True)))


async def test_a_run_that_was_not_streamed_is_told_alike(models: Models, store: Store) -> None:
    agent = models.agent([call("look"), LONG], store=store, tools=[look])
    output = await agent.run("hi", session_id="s")
    kinds = [kind for _, kind, _ in joined(await followed(agent, output.run_id))]
    assert kinds == ["RunStarted", "ToolCalled", "ToolAnswered", "TextDelta", "RunEnded"]


class Last(Posthook):
    async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
        return "something else altogether, and longer than before: " + LONG


class Halt(Prehook):
    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> str:
        return "no"


class Number(BaseModel):
    n: int


class Doubled(Posthook):
    async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
        return {"n": reply.n * 2} if isinstance(reply, Number) else {"text": reply}


HOOKS = {"posthook": {"posthooks": [Last()]}, "prehook": {"prehooks": [Halt()]}, "value": {"posthooks": [Doubled()]}}


@pytest.mark.parametrize("around", HOOKS.values(), ids=HOOKS)
async def test_an_answer_that_a_hook_gave(chat: Models, store: Store, around: Any) -> None:
    agent = chat.agent([LONG], store=store, **around)
    await check(agent, await told(agent.run("hi", session_id="s", stream=True)))


@pytest.mark.parametrize("hook", [Last(), Doubled()])
async def test_what_a_hook_made_of_a_corrected_structured_answer(chat: Models, store: Store, hook: Posthook) -> None:
    wrong = Answer(text="Hm.", calls=(Call("final_result", {"n": "many"}),))
    server = chat.serve([wrong, Answer(text="So:", calls=(Call("final_result", {"n": 2}),))])
    engine = Structured(chat.impatient(server), output_type=Number)
    agent = Agent(engine, store=store, posthooks=[hook])
    await check(agent, await told(agent.run("hi", session_id="s", stream=True)))


@pytest.mark.parametrize("queued", [False, True])
async def test_the_assistants_words_in_the_input_are_no_event(chat: Models, store: Store, queued: bool) -> None:
    agent = chat.agent([call("look"), LONG], store=store, tools=[look])
    given = [user("hi"), assistant("what is it?"), user("look")]
    if queued:
        await agent.enqueue(given, session_id="s", run_id="r")
    await check(agent, await told(agent.run(given, session_id="s", run_id="r", stream=True)))


async def test_thoughts(chat: Models, store: Store) -> None:
    agent = chat.agent([Answer(text=LONG, reasoning="hm, let me see")], store=store)
    events = await told(agent.run("hi", session_id="s", stream=True))
    assert any(isinstance(event, ReasoningDelta) for event in events)
    await check(agent, events)


async def test_a_structured_answer(chat: Models, memory: Store) -> None:
    server = chat.serve([call("final_result", number=4)])
    agent = Agent(Structured(chat.impatient(server), output_type=Four), store=memory)
    await check(agent, await told(agent.run("hi", session_id="s", stream=True)))


class Four(BaseModel):
    number: int


async def test_a_pause_and_what_comes_after_it(models: Models, store: Store) -> None:
    @tool(confirm=True)
    def pay() -> str:
        return "paid"

    agent = models.agent([Answer(calls=(Call("pay"), Call("look"))), call("pay"), LONG], store=store, tools=[pay, look])
    events = await told(agent.run("hi", session_id="s", stream=True))
    await check(agent, events)
    paused = output_of(events)
    assert paused.status == PAUSED
    more = await told(agent.continue_run(paused, [paused.requirements[0].approve()], stream=True))
    again = output_of(more)
    last = await told(agent.continue_run(again, [again.requirements[0].deny("no")], stream=True))
    assert any(isinstance(event, ToolAnswered) for event in last)
    await check(agent, [*events[:-1], *more[:-1], *last])


async def test_a_try_that_failed_and_the_next(chat: Models, store: Store) -> None:
    server = chat.serve([call("look"), Answer(status=500), LONG])
    agent = Agent(chat.impatient(server), store=store, tools=[look])
    events: list[Event] = []
    with pytest.raises(Exception, match="500"):
        await gathered(agent.run("hi", session_id="s", run_id="r", stream=True), events)
    ended = (await followed(agent, "r"))[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.output.status, ended.output.content) == (ERROR, None)
    assert ended.output.error
    more = await told(agent.run("hi", session_id="s", run_id="r", stream=True))
    assert more[0].number >> 32 == 2
    await check(agent, [*events, *more])


async def test_an_answer_broken_off_ends_behind_its_last_piece(chat: Models, store: Store) -> None:
    held = threading.Event()
    agent = chat.agent([Answer(text=LONG, hold=held)], store=store)
    stream = agent.run("hi", session_id="s", run_id="r", stream=True)
    seen = [await anext(stream)]
    held.set()
    while not isinstance(seen[-1], TextDelta):
        seen.append(await anext(stream))
    await stream.aclose()
    rest = await followed(agent, "r", seen[-1].number)
    assert isinstance(rest[-1], RunEnded)
    assert rest[-1].output.status == CANCELLED


async def test_teams_and_workflows(chat: Models, store: Store) -> None:
    scout = chat.agent(["found"] * 3, name="scout")
    team = Team(chat.model(chat.serve([call("delegate", member="scout", task="look"), LONG])), members=[scout], store=store)
    await check(team, await told(team.run("hi", session_id="s", stream=True)))
    route = Team(chat.model(chat.serve([call("delegate", member="scout", task="look")])), members=[scout], mode="route", store=store)
    await check(route, await told(route.run("hi", session_id="s", stream=True)))

    def shout(given: Any) -> str:
        return f"{given.message}!"

    flow = Workflow([shout, scout], store=store)
    await check(flow, await told(flow.run("hi", session_id="s", stream=True)))


# --- while it goes on ------------------------------------------------------------------------------------------------


async def test_a_follower_is_told_what_is_not_stored_yet(chat: Models, file_store: Store) -> None:
    held = threading.Event()
    server = chat.serve([call("look"), Answer(text=LONG, halfway=held)])
    agent = chat.agent(server, store=file_store, tools=[look])
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    await anext(stream)
    other = agent.follow("r", "s")
    seen: list[Event] = []
    while not any(isinstance(event, TextDelta) for event in seen):
        seen.append(await asyncio.wait_for(anext(other), 10))
    held.set()
    seen += [event async for event in other]
    assert joined(seen) == joined(await followed(agent, "r"))
    assert joined(seen)[-2][2] == LONG


async def test_a_detached_run_goes_on_without_its_reader(chat: Models, store: Store) -> None:
    held = threading.Event()
    agent = chat.agent([Answer(text=LONG, hold=held)], store=store)
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    first = await anext(stream)
    await stream.aclose()
    del stream
    gc.collect()
    held.set()
    rest = await followed(agent, "r", first.number)
    assert [kind for _, kind, _ in joined(rest)] == ["TextDelta", "RunEnded"]
    assert output_of(rest).content == LONG


async def test_a_detached_run_that_fails_says_so_in_the_log(chat: Models, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(chat.impatient(chat.serve([Answer(status=500)])), store=store)
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    await anext(stream)
    await stream.aclose()
    ended = (await followed(agent, "r"))[-1]
    assert isinstance(ended, RunEnded)
    assert ended.output.status == ERROR
    await until(lambda: _any(caplog.messages))
    assert "run_id='r'" in caplog.text


async def _any(found: list[str]) -> bool:
    return bool(found)


async def test_nothing_of_a_buffer_is_left_and_no_version_is_made_of_it(chat: Models, store: Store) -> None:
    held = threading.Event()
    agent = chat.agent([Answer(text=LONG, halfway=held)], store=store)
    stream = agent.run("hi", session_id="s", stream=True, detached=True)
    await anext(stream)
    session = await there(agent, "s")
    version = session.version
    await until(lambda: _told(session))
    await session.refresh()
    assert session.version == version
    held.set()
    await stream.output()
    assert await session.blobs("live") == []
    await session.refresh()
    assert session.version == version + 1


async def _told(session: Session) -> bool:
    return bool(await session.blobs("live"))


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [True, False])
async def test_a_run_is_cancelled_from_elsewhere(chat: Models, file_store: Store, detached: bool) -> None:
    held = threading.Event()
    agent = chat.agent([call("look"), Answer(text=LONG, halfway=held), "fine"], store=file_store, tools=[look])
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=detached, lease=0.6)
    while not isinstance(await anext(stream), ToolAnswered):
        pass
    await asyncio.to_thread(chat.servers[0].wait_for, 2)
    assert await agent.cancel_run("r", "s") is True
    output = await asyncio.wait_for(stream.output(), 5)
    held.set()
    assert (output.status, output.content) == (CANCELLED, None)
    session = await there(agent, "s")
    assert await statuses(session) == [CANCELLED]
    assert await texts(session) == ["hi", "look()", "=seen"]
    assert await agent.cancel_run("r", "s") is False
    assert (await agent.run("again", session_id="s", wait=0)).content == "fine"


async def test_what_was_told_of_an_answer_is_kept_when_somebody_cancels_it(chat: Models, file_store: Store) -> None:
    held = threading.Event()
    agent = chat.agent([call("look"), Answer(text=LONG, halfway=held)], store=file_store, tools=[look])
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    seen = [await anext(stream) for _ in range(4)]
    session = await there(agent, "s")
    await until(lambda: _told(session))
    told = [event async for event in _some(agent.follow("r", "s"), 4)]
    assert await agent.cancel_run("r", "s")
    held.set()
    *_, partial = await texts(session)
    assert LONG.startswith(partial)
    assert len(partial) >= len("".join([it.delta for it in told if isinstance(it, TextDelta)])) > 0
    again = await followed(agent, "r")
    assert joined(again)[: len(joined(seen)) - 1] == joined(seen)[:-1]
    assert output_of(again).status == CANCELLED
    assert [it.number for it in again] == sorted({it.number for it in again})
    rest = await followed(agent, "r", seen[-1].number)
    assert "".join([it.delta for it in (*seen, *rest) if isinstance(it, TextDelta)]) == partial


async def _some(events: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    for _ in range(count):
        yield await anext(events)


class Hearing:
    """An engine that remembers what it was sent last."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def run(self, turn: Any) -> AsyncIterator[Any]:
        self.heard = [it.text for it in turn.messages]
        yield Said(message=Message("assistant", (Text("ok"),)))
        yield Done("ok")


@pytest.mark.parametrize("count", [3, 60], ids=["short", "longer than a page"])
async def test_runs_that_were_queued_are_part_of_the_past_as_any(store: Store, count: int) -> None:
    engine = Hearing()
    agent = Agent(engine, store=store)
    for n in range(count):
        await agent.enqueue(f"q{n}", session_id="s", run_id=f"r{n}")
        await agent.continue_run(f"r{n}", session_id="s")
    last = f"q{count - 1}"
    assert engine.heard[-3:] == [f"q{count - 2}", "ok", last]
    session = await there(agent, "s")
    (asked,) = [it for it in await session.entries(kinds=("message",)) if it.message().text == last]
    fork = await session.fork("f", at=asked.seq)
    await session.rewind(to=asked.seq)
    assert [run.status for run in await fork.runs(last=1)] == ["interrupted"]
    for id in (session.id, fork.id):
        await agent.run("after", session_id=id)
        assert engine.heard[-3:] == ["ok", last, "after"]
    await agent.enqueue("later", session_id="s", run_id="waits")
    await agent.run("now", session_id="s")
    assert "later" not in engine.heard
    assert engine.heard[-3:] == ["after", "ok", "now"]


@pytest.mark.parametrize("how", ["cancel_run", "release_run"])
async def test_what_a_run_that_others_ended_had_told_is_gone(chat: Models, file_store: Store, how: str) -> None:
    held = threading.Event()
    agent = chat.agent([Answer(text=LONG, halfway=held)], store=file_store)
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True, lease=0.6)
    await anext(stream)
    session = await there(agent, "s")
    await until(lambda: _told(session))
    assert await getattr(session, how)("r")
    assert await session.blobs("live") == []
    with suppress(Fenced):
        await stream.output()
    held.set()
    assert await session.blobs("live") == []


async def test_a_paused_run_is_cancelled_and_nothing_waits(chat: Models, store: Store) -> None:
    @tool(confirm=True)
    def pay() -> str:
        return "paid"

    agent = chat.agent([call("pay")], store=store, tools=[pay])
    paused = await agent.run("hi", session_id="s")
    assert await agent.cancel_run(paused.run_id, "s") is True
    session = await there(agent, "s")
    assert (await statuses(session), session.info.waiting, await session.requirements()) == ([CANCELLED], False, [])


async def test_a_paused_run_is_cancelled_while_another_has_the_session(chat: Models, store: Store) -> None:
    @tool(confirm=True)
    def pay() -> str:
        raise AssertionError

    agent = chat.agent([call("pay")], store=store, tools=[pay], name="desk")
    paused = await agent.run("hi", session_id="s")
    session = await there(agent, "s")
    async with asyncio.timeout(10), (await there(agent, "s")).run():
        assert await chat.agent([], store=store, name="another").cancel_run(paused.run_id, "s")
    run = (await session.runs())[0]
    assert (run.status, run.agent) == (CANCELLED, "desk")
    assert [it.data()["outcome"] for it in await session.entries(kinds=("decision",))] == ["cancel"]
    with pytest.raises(UsageError, match="decided"):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    events = await followed(agent, paused.run_id)
    assert output_of(events).status == CANCELLED
    assert [event.number for event in events] == sorted({event.number for event in events})


async def test_what_can_not_be_followed_or_cancelled(chat: Models, memory: Store) -> None:
    agent = chat.agent(["yes"], store=memory)
    output = await agent.run("hi", session_id="s", user_id="ada")
    with pytest.raises(SessionNotFound):
        await followed(agent, output.run_id)
    with pytest.raises(SessionNotFound):
        await agent.cancel_run(output.run_id, "s", user_id="bob")
    with pytest.raises(UsageError, match="nothing to follow"):
        await told(agent.follow("other", "s", user_id="ada"))
    with pytest.raises(UsageError, match="nothing to cancel"):
        await agent.cancel_run("other", "s", user_id="ada")
    with pytest.raises(InvalidValue, match="after=-1"):
        await told(agent.follow(output.run_id, "s", user_id="ada", after=-1))
    with pytest.raises(InvalidValue, match="stream=True"):
        cast("Any", agent).run("hi", session_id="s", detached=True)


# --- numbers ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=9), max_size=9), st.integers(0, 60))
def test_behind_any_number_is_what_was_not_told(pieces: list[str], number: int) -> None:
    place = Place(0, 0)
    events = [place.tell(TextDelta(piece)) for piece in pieces]
    whole = "".join(pieces)
    assert "".join([str(event) for event in behind(events, number)]) == whole[number:]


def test_the_blocking_form(chat: Models, tmp_path: Path) -> None:
    held = threading.Event()
    server = chat.serve([Answer(text=LONG, hold=held), Answer(text=LONG, hold=held)])
    agent = holdfast.sync.Agent(chat.model(server), store=f"sqlite:///{tmp_path}/chat.db")
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    first = next(stream)
    stream.close()
    events = agent.follow("r", "s")
    assert joined([next(events)]) == joined([first])
    held.set()
    assert joined(events)[-1][2][:2] == ("completed", LONG)
    held.clear()
    stream = agent.run("hi", session_id="s", run_id="r2", stream=True, detached=True, lease=0.6)
    next(stream)
    assert agent.cancel_run("r2", "s") is True
    assert stream.output().status == CANCELLED
    assert agent.store.session("s").cancel_run("r2") is False


# --- queued, and handed on -------------------------------------------------------------------------------------------


async def test_a_queued_run_is_stored_and_begun_later(models: Models, store: Store) -> None:
    agent = models.agent(["first", LONG], store=store)
    run_id = await agent.enqueue("hi", session_id="s", user_id="ada", run_id="r")
    assert await agent.enqueue("hi", session_id="s", user_id="ada", run_id="r") == run_id == "r"
    session = await store.session("s", user_id="ada")
    assert (await statuses(session), await texts(session), session.info.counts.runs) == (["queued"], ["hi"], 1)
    assert (await agent.run("before it", session_id="s", user_id="ada")).content == "first"
    assert len(models.requests[0].input) == 1
    events = await told(agent.continue_run("r", session_id="s", user_id="ada", stream=True))
    assert output_of(events).content == LONG
    assert joined([event async for event in agent.follow("r", "s", user_id="ada")]) == joined(events)
    assert isinstance(events[0], RunStarted)
    assert events[0].attempt == 1
    session = await store.session("s", user_id="ada")
    assert (await statuses(session), session.info.counts.runs) == (["completed", "completed"], 2)
    with pytest.raises(SessionNotFound):
        await agent.enqueue("hi", session_id="s", user_id="bob")


async def test_a_run_id_is_queued_once_and_with_one_input(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda _: "ok", store=store)

    async def all_at_once(run_id: str, *inputs: str, **where: Any) -> list[Any]:
        given = [agent.enqueue(it, run_id=run_id, **where) for it in inputs]
        return list(await asyncio.gather(*given, return_exceptions=True))

    assert await all_at_once("same", *["hi"] * 5, session_id="s") == ["same"] * 5
    shared = await store.session("s")
    for run_id, where in (("other", {"session_id": "s"}), ("shared", {"session": shared})):
        found = await all_at_once(run_id, *(f"hi {n}" for n in range(5)), **where)
        assert found.count(run_id) == 1
        refused = [it for it in found if it != run_id]
        assert {(type(it), "was begun with another input" in str(it)) for it in refused} == {(UsageError, True)}
    with pytest.raises(UsageError, match="was begun with another input"):
        await agent.enqueue("bye", session_id="s", run_id="same")
    assert len(await texts(await store.session("s"))) == 3
    assert len(await statuses(await store.session("s"))) == 3
    assert (await agent.run("hi", session_id="s", run_id="same")).content == "ok"
    assert await agent.enqueue("hi", session_id="s", run_id="same") == "same"
    assert len(chat.requests) == 1


async def test_a_queued_run_that_was_rewound_is_not_called_queued(chat: Models, store: Store) -> None:
    agent = chat.agent(["hello"], store=store)
    await agent.enqueue("hi", session_id="s", run_id="r")
    await told(agent.continue_run("r", session_id="s", stream=True))
    session = await there(agent, "s")
    await session.rewind(to=2)
    assert (await texts(session), await statuses(session)) == (["hi"], ["completed"])


async def test_a_queued_run_can_be_cancelled(chat: Models, store: Store) -> None:
    agent = chat.agent([], store=store)
    await agent.enqueue("hi", session_id="s", run_id="r")
    assert await agent.cancel_run("r", "s") is True
    assert await statuses(await there(agent, "s")) == [CANCELLED]


async def test_a_run_that_is_let_go_of_is_gone_on_with_at_once(chat: Models, file_store: Store) -> None:
    held = threading.Event()
    agent = chat.agent([Answer(text=LONG, halfway=held), LONG], store=file_store)
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True, lease=0.6)
    seen = [await anext(stream), await anext(stream)]
    session = await there(agent, "s")
    assert await session.release_run("r") is True
    assert await statuses(session) == ["interrupted"]
    assert (await agent.continue_run("r", session_id="s")).content == LONG
    with pytest.raises(Fenced, match="another process has gone on"):
        await stream.output()
    held.set()
    rest = await followed(agent, "r", seen[-1].number)
    assert [type(event) for event in rest] == [RunStarted, TextDelta, RunEnded]


@pytest.mark.parametrize("share", [False, True])
async def test_whoever_cancels_a_paused_team_leaves_nothing_of_its_members_to_decide(chat: Models, store: Store, share: bool) -> None:
    @tool(confirm=True)
    def pay() -> str:
        raise AssertionError

    inner = Team(
        chat.model(chat.serve([call("delegate", member="payer", task="pay")])),
        name="inner",
        members=[chat.agent([call("pay")], name="payer", tools=[pay])],
    )
    outer = chat.serve([call("delegate", member="inner", task="pay")])
    team = Team(chat.model(outer), name="outer", members=[inner], share_session=share, store=store)
    await team.run("pay", session_id="s", user_id="ada", run_id="r")
    assert len([it async for it in store.requirements(user_id="ada")]) == 1
    another = chat.agent([], name="another", store=store)
    assert await another.cancel_run("r", "s", user_id="ada")
    assert [it async for it in store.requirements(user_id="ada")] == []
    assert [it.id async for it in store.sessions(waiting=True, user_id="ada")] == []


async def test_what_waits_is_not_let_go_of(chat: Models, store: Store) -> None:
    """A server that stops lets go of all it has: what has paused just then goes on waiting, what is queued stays queued."""

    @tool(confirm=True)
    def pay() -> str:
        return "paid"

    agent = chat.agent([call("pay"), "done", "later"], tools=[pay], store=store)
    paused = await agent.run("pay", session_id="s")
    queued = await agent.enqueue("and then", session_id="s")
    session = await there(agent, "s")
    assert [await session.release_run(id) for id in (paused.run_id, queued)] == [False, False]
    assert await statuses(session) == [PAUSED, QUEUED]
    assert [it.run_id async for _, it in store.requirements()] == [paused.run_id]
    assert (await agent.continue_run(paused, [paused.requirements[0].approve()])).content == "done"
    assert (await agent.continue_run(queued, session_id="s")).content == "later"
