"""Run ids that are used again, decisions that come late, twice or in part, and sessions that change under a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AlreadyDecided,
    HoldfastError,
    InvalidValue,
    SessionBusy,
    SessionGone,
    SessionNotFound,
    Store,
    UsageError,
    assistant,
    user,
)
from holdfast.agents import Agent, RunOutput, tool
from holdfast.models import OpenAIChat
from holdfast.testing.model_server import Answer, Call, call
from holdfast.testing.processes import in_processes

from .conftest import Counting, Models, ended, sent, statuses, texts, there

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
BATCH = Answer(calls=(Call("pay", {"n": 1}), Call("pay", {"n": 2})))


class Desk:
    """A tool that was started when its process ended: its calls stay without a result."""

    def __init__(self, models: Models, store: Store, *, first: Any = BATCH) -> None:
        self.paid: list[int] = []
        self.server = models.serve([first, "done", "more"])
        self.agent = models.agent(self.server, store=store, tools=[self._tool()])
        self._broken: asyncio.Task[Any] | None = None

    def _tool(self) -> Any:
        async def pay(n: int) -> str:
            self.paid.append(n)
            if self._broken is not None:
                self._broken.cancel()
                await asyncio.sleep(30)
            return f"paid {n}"

        return pay

    async def broken_off(self) -> RunOutput:
        """A run that is paused because nobody knows what became of its calls."""
        self._broken = asyncio.create_task(self.agent.run("pay", session_id="s", run_id="r"))
        await asyncio.wait({self._broken})
        assert self._broken.cancelled()
        self._broken = None
        self.paid.clear()
        return await self.agent.continue_run("r", session_id="s")


# --- the same id again -----------------------------------------------------------------------------------------------


@BOTH
async def test_a_completed_run_is_returned(models: Models, counting: Counting, counted: Store, stream: bool) -> None:
    def look() -> str:
        return "seen"

    agent = models.agent([call("look"), "ok"], store=counted, tools=[look])
    first = await ended(agent, "hi", session_id="s", user_id="ada", run_id="r", stream=stream)
    counting.made.clear()
    again = await ended(agent, "hi", session_id="s", user_id="ada", run_id="r", stream=stream)
    assert (again.content, again.status, again.metrics, again.messages) == (first.content, first.status, first.metrics, first.messages)
    assert (await agent.continue_run(first)).content == "ok"
    assert (counting.made, len(models.requests)) == (["read", "read"], 2)


@pytest.mark.parametrize("other", ["bye", "hi ", user("bye"), [user("hi"), user("you")], assistant("hi")])
async def test_another_input_under_the_same_id_is_refused(chat: Models, memory: Store, other: Any) -> None:
    agent = chat.agent(["ok"], store=memory)
    await agent.run("hi", session_id="s", run_id="r")
    with pytest.raises(UsageError, match="'r'"):
        await agent.run(other, session_id="s", run_id="r")
    assert (await texts(await there(agent, "s")), len(chat.requests)) == (["hi", "ok"], 1)


async def test_a_run_under_way_is_waited_for_or_refused(chat: Models, store: Store) -> None:
    held = threading.Event()
    server = chat.serve([Answer(text="ok", hold=held)])
    agent = chat.agent(server, store=store)
    task = asyncio.create_task(agent.run("hi", session_id="s", run_id="r"))
    await asyncio.to_thread(server.wait_for, 1)
    for again in (agent.run("hi", session_id="s", run_id="r", wait=0), agent.continue_run("r", session_id="s", wait=0)):
        with pytest.raises(SessionBusy, match="'r'"):
            await again
    joined = asyncio.gather(agent.run("hi", session_id="s", run_id="r"), agent.continue_run("r", session_id="s"))
    await asyncio.sleep(0)
    held.set()
    assert {output.content for output in (await task, *await joined)} == {"ok"}


async def test_the_same_run_from_many_tasks_runs_once(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda _: "ok", store=store)
    outcomes = await asyncio.gather(*(agent.run("hi", session_id="s", run_id="r") for _ in range(6)))
    assert {it.content for it in outcomes} == {"ok"}
    assert (len(chat.requests), await texts(await there(agent, "s"))) == (1, ["hi", "ok"])


@BOTH
async def test_a_failed_run_is_tried_again(models: Models, store: Store, stream: bool) -> None:
    server = models.serve([Answer(status=400), Answer(status=400), "ok", "fine"])
    agent = models.agent(server, store=store)
    for _ in range(2):
        with pytest.raises(Exception, match="400"):
            await ended(agent, "hi", session_id="s", run_id="r", stream=stream)
    assert (await ended(agent, "hi", session_id="s", run_id="r", stream=stream)).content == "ok"
    session = await there(agent, "s")
    (run,) = await session.runs()
    assert (run.status, run.attempt, await texts(session)) == ("completed", 3, ["hi", "ok"])
    assert session.info.counts.runs == 1
    await agent.run("more", session_id="s")
    assert sent(server.requests[-1]) == ["hi", "ok", "more"]


async def test_a_rewound_run_is_tried_again_from_its_input(models: Models, store: Store) -> None:
    server = models.serve(["one", Answer(status=400), "two"])
    agent = models.agent(server, store=store)
    await agent.run("first", session_id="s")
    with pytest.raises(Exception, match="400"):
        await agent.run("hi", session_id="s", run_id="r")
    session = await there(agent, "s")
    await session.rewind(last=1)
    with pytest.raises(UsageError):
        await agent.continue_run("r", session_id="s")
    assert (await agent.run("hi", session_id="s", run_id="r")).content == "two"
    assert (sent(server.requests[-1]), await texts(session)) == (["first", "one", "hi"], ["first", "one", "hi", "two"])


async def test_a_completed_run_that_was_rewound_still_says_what_it_said(models: Models, store: Store) -> None:
    agent = models.agent(["ok"], store=store)
    await agent.run("hi", session_id="s", run_id="r")
    session = await there(agent, "s")
    await session.rewind(last=2)
    again = await agent.run("hi", session_id="s", run_id="r")
    assert (again.content, again.status, len(models.requests)) == ("ok", "completed", 1)
    assert await texts(session) == []


# --- decisions -------------------------------------------------------------------------------------------------------


async def test_partial_decisions(models: Models, store: Store) -> None:
    desk = Desk(models, store)
    paused = await desk.broken_off()
    one, two = paused.requirements
    assert (paused.status, paused.content, [it.kind for it in paused.requirements]) == ("paused", None, ["unknown"] * 2)
    assert [it.call.arguments for it in paused.requirements] == [{"n": 1}, {"n": 2}]
    assert (await there(desk.agent, "s")).info.waiting is True
    partly = await desk.agent.continue_run(paused, [one.retry()])
    assert (partly.status, [it.id for it in partly.requirements], desk.paid) == ("paused", [two.id], [])
    for again in ([one.retry()], [one.supply("x")], [one.retry(), two.retry()]):
        with pytest.raises(UsageError, match="already"):
            await desk.agent.continue_run(paused, again)
    done = await desk.agent.continue_run(partly, [two.supply({"paid": 2})])
    assert (done.status, done.content, desk.paid) == ("completed", "done", [1])
    session = await there(desk.agent, "s")
    assert (session.info.waiting, await statuses(session)) == (False, ["completed"])
    assert sent(desk.server.requests[-1]) == ["pay", "pay()", "pay()", "=paid 1", '={"paid":2}']
    with pytest.raises(UsageError, match="already"):
        await desk.agent.continue_run(done, [two.retry()])
    assert ((await desk.agent.continue_run(done)).content, desk.paid) == ("done", [1])


async def test_a_paused_run_waits_and_others_go_on_without_it(models: Models, store: Store) -> None:
    desk = Desk(models, store)
    paused = await desk.broken_off()
    again = await desk.agent.continue_run("r", session_id="s")
    assert [it.id for it in again.requirements] == [it.id for it in paused.requirements]
    other = models.agent(["fine"], store=store)
    assert (await other.run("hello", session_id="s")).content == "fine"
    assert sent(models.requests[-1]) == ["hello"]
    done = await desk.agent.continue_run(paused, [it.retry() for it in paused.requirements])
    assert (done.content, sorted(desk.paid)) == ("done", [1, 2])
    assert sent(desk.server.requests[-1])[-5:] == ["pay", "pay()", "pay()", "=paid 1", "=paid 2"]


@pytest.mark.parametrize("decisions", ["retry", [5], [None], ["retry"], 5, [{"requirement": "x", "outcome": "retry"}]])
async def test_decisions_that_are_none(chat: Models, memory: Store, decisions: Any) -> None:
    desk = Desk(chat, memory)
    paused = await desk.broken_off()
    before = (await there(desk.agent, "s")).version
    with pytest.raises(InvalidValue, match="decisions="):
        await desk.agent.continue_run(paused, decisions)
    assert ((await there(desk.agent, "s")).version, desk.paid) == (before, [])


async def test_decisions_of_nobody_and_twice(chat: Models, memory: Store) -> None:
    desk = Desk(chat, memory)
    paused = await desk.broken_off()
    one = paused.requirements[0]
    strange = await _another(chat, memory)
    for wrong in ([one.retry(), one.retry()], [one.retry(), one.supply(1)], [strange.requirements[0].retry()]):
        with pytest.raises(UsageError):
            await desk.agent.continue_run(paused, wrong)
    for bad in (object(), b"x", {1, 2}, float("nan")):
        with pytest.raises(InvalidValue):
            one.supply(bad)
    assert len((await desk.agent.continue_run(paused)).requirements) == 2
    assert desk.paid == []


async def _another(models: Models, store: Store) -> RunOutput:
    desk = Desk(models, store)
    task = asyncio.current_task()
    assert task is not None
    desk._broken = asyncio.create_task(desk.agent.run("pay", session_id="t", run_id="r"))  # pyright: ignore[reportPrivateUsage]
    await asyncio.wait({desk._broken})  # pyright: ignore[reportPrivateUsage]
    return await desk.agent.continue_run("r", session_id="t")


async def test_a_run_that_nobody_began(chat: Models, counting: Counting, counted: Store) -> None:
    agent = chat.agent(["ok", "ok"], store=counted)
    with pytest.raises(UsageError, match="'nobody'"):
        await agent.continue_run("nobody", session_id="s")
    assert await agent.get_session("s") is None
    await agent.run("hi", session_id="s", user_id="ada", run_id="r")
    counting.made.clear()
    for call_it in (lambda: agent.continue_run("r", session_id="s"), lambda: agent.continue_run("r", session_id="s", user_id="bob")):
        with pytest.raises((SessionNotFound, UsageError)):
            await call_it()
    for bad in (5, None, ""):
        with pytest.raises(HoldfastError):
            await agent.continue_run(bad, session_id="s", user_id="ada")  # type: ignore[arg-type]
    assert "commit" not in counting.made


async def test_an_idempotent_tool_is_executed_again(models: Models, store: Store) -> None:
    desk = Desk(models, store)
    await _interrupted(desk)
    again = models.agent(["done"], store=store, tools=[tool(idempotent=True)(desk._tool())])  # pyright: ignore[reportPrivateUsage]
    done = await again.run("pay", session_id="s", run_id="r")
    assert (done.content, sorted(desk.paid)) == ("done", [1, 2])
    assert sent(models.requests[-1]) == ["pay", "pay()", "pay()", "=paid 1", "=paid 2"]


async def _interrupted(desk: Desk) -> None:
    desk._broken = task = asyncio.create_task(desk.agent.run("pay", session_id="s", run_id="r"))  # pyright: ignore[reportPrivateUsage]
    await asyncio.wait({task})
    desk._broken = None  # pyright: ignore[reportPrivateUsage]
    desk.paid.clear()


async def test_an_agent_without_the_tool_any_more(models: Models, store: Store) -> None:
    desk = Desk(models, store)
    paused = await desk.broken_off()
    bare = models.agent(["could not", "fine"], store=store)
    done = await bare.continue_run(paused, [it.retry() for it in paused.requirements])
    assert done.status == "completed"
    assert (await bare.run("and now?", session_id="s")).content == "fine"


async def test_two_continuations_at_once(models: Models, store: Store) -> None:
    desk = Desk(models, store)
    paused = await desk.broken_off()
    decisions = [it.retry() for it in paused.requirements]
    outcomes = await asyncio.gather(*(desk.agent.continue_run(paused, decisions) for _ in range(4)), return_exceptions=True)
    assert sorted(desk.paid) == [1, 2]
    assert [it.content for it in outcomes if isinstance(it, RunOutput)][:1] == ["done"]
    assert {type(it) for it in outcomes} <= {RunOutput, AlreadyDecided, SessionBusy}


async def decide(url: str, base_url: str, run_id: str, requirements: list[Any], effects: str) -> str:
    def pay(n: int) -> str:
        with open(effects, "a") as file:
            file.write(f"{n}\n")
        return f"paid {n}"

    async with Store.open(url) as store:
        agent = Agent(OpenAIChat(id="m", base_url=base_url, api_key="none"), store=store, tools=[pay])
        try:
            return (await agent.continue_run(run_id, [it.retry() for it in requirements], session_id="s")).content
        except UsageError as error:
            return type(error).__name__


async def test_two_continuations_at_once_from_two_processes(chat: Models, tmp_path: Path) -> None:
    url, effects = f"sqlite:///{tmp_path}/chat.db", tmp_path / "effects"
    async with Store.open(url) as store:
        desk = Desk(chat, store)
        paused = await desk.broken_off()
        asked = list(paused.requirements)
        outcomes = await in_processes(decide, [(url, desk.server.base_url, "r", asked, str(effects))] * 2)
    assert "done" in outcomes
    assert set(outcomes) <= {"done", "AlreadyDecided", "SessionBusy"}
    assert sorted(effects.read_text().split()) == ["1", "2"]


async def ask(url: str, base_url: str, name: str, number: int) -> list[str]:
    async with Store.open(url) as store:
        agent = Agent(OpenAIChat(id="m", base_url=base_url, api_key="none"), store=store)
        return [(await agent.run(f"{name}{n}", session_id="s")).content for n in range(number)]


async def test_processes_queue_on_one_session(chat: Models, file_store: Store, tmp_path: Path) -> None:
    server = chat.serve(lambda request: f"to {sent(request)[-1]}")
    outcomes = await in_processes(ask, [(f"sqlite:///{tmp_path}/chat.db", server.base_url, name, 4) for name in "ab"])
    assert outcomes == [[f"to {name}{n}" for n in range(4)] for name in "ab"]
    log = await texts(await file_store.session("s"))
    assert log[1::2] == [f"to {question}" for question in log[::2]]
    assert len(log) == 16


# --- a session that changes under a run ------------------------------------------------------------------------------


@pytest.fixture
async def held(models: Models, store: Store) -> AsyncGenerator[tuple[Agent, threading.Event, asyncio.Task[RunOutput]]]:
    """A run in its model call."""
    event = threading.Event()
    server = models.serve([Answer(text="late", hold=event), "fine"])
    agent = models.agent(server, store=store)
    task = asyncio.create_task(agent.run("my secret", session_id="s", user_id="ada", run_id="r"))
    await asyncio.to_thread(server.wait_for, 1)
    yield agent, event, task
    event.set()
    await asyncio.wait({task})


@pytest.mark.parametrize("how", ["cleared", "deleted", "made anew"])
async def test_a_session_that_goes_in_mid_run(held: tuple[Agent, threading.Event, asyncio.Task[RunOutput]], store: Store, how: str) -> None:
    agent, event, task = held
    other = await store.session("s", user_id="ada")
    if how == "cleared":
        other.clear()
        await other.commit()
    else:
        await other.delete()
    if how == "made anew":
        await store.session("s", user_id="ada")
    event.set()
    with pytest.raises(SessionGone):
        await task
    if how == "deleted":
        assert not await store.has("s", user_id="ada")
    assert (await agent.run("and now?", session_id="s", user_id="ada")).content == "fine"
    assert await texts(await there(agent, "s", "ada")) == ["and now?", "fine"]


async def test_others_write_and_rewind_in_mid_run(held: tuple[Agent, threading.Event, asyncio.Task[RunOutput]], store: Store) -> None:
    agent, event, task = held
    other = await store.session("s", user_id="ada")
    other.set("theirs", 1)
    await other.append(user("by the way"))
    event.set()
    assert (await task).content == "late"
    session = await there(agent, "s", "ada")
    assert (await texts(session), session.get("theirs")) == (["my secret", "by the way", "late"], 1)
    assert (await agent.run("and now?", session_id="s", user_id="ada")).content == "fine"
