"""What members wait for and the run that they work for has passed on: decided once, in time, and not at all once that run is over."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from holdfast import AlreadyDecided, Session, Store, UsageError
from holdfast.agents import Agent, Parallel, Requirement, RunOutput, StepInput, StepOutput, Team, Workflow, tool
from holdfast.agents.history import results_of
from holdfast.testing.model_server import Answer, Call, call

from .conftest import Models, until

BOTH = Answer(calls=(Call("refund", {}), Call("mail", {})))
WHO = pytest.mark.parametrize("who", ["own", "shared", "workflow"])


class Desk:
    """Somebody who works for others, with tools that wait; `done` is what they did."""

    def __init__(self, models: Models, store: Store, answers: Any = (BOTH, "done"), *, expires: float | None = None) -> None:
        self.done: list[str] = []
        self.models, self.store = models, store

        @tool(confirm=True, expires=expires)
        def refund() -> str:
            """Pay."""
            self.done.append("refund")
            return "refunded"

        @tool(confirm=True)
        def mail() -> str:
            """Write."""
            self.done.append("mail")
            return "mailed"

        self.agent = models.agent(list(answers), name="a", store=store, tools=[refund, mail])

    def above(self, who: str) -> Agent:
        """The run that waits for it: of a team whose members have sessions of their own or share one, or of a workflow."""
        if who == "workflow":
            return Workflow([self.agent], name="above", store=self.store)
        server = self.models.serve([call("delegate", member="a", task="do both"), "all fine"])
        return Team(self.models.model(server), members=[self.agent], name="above", store=self.store, share_session=who == "shared")

    async def open(self) -> list[tuple[str, str]]:
        """What people are asked: in which session, about which tool."""
        return sorted([(info.id, it.call.name) async for info, it in self.store.requirements()])

    async def asks(self) -> bool:
        return bool(await self.open())


def of(output: RunOutput, name: str) -> Requirement:
    return next(it for it in output.requirements if it.call.name == name)


async def there(store: Store, id: str) -> Session:
    found = await store.get(id)
    assert found is not None
    return found


async def theirs(desk: Desk, name: str) -> tuple[Session, Requirement]:
    """A member's own requirement, in its own session."""
    own = await there(desk.store, "s/a")
    return own, next(it for it in await own.requirements(members=True) if it.call.name == name)


@WHO
async def test_what_was_decided_is_not_asked_again_while_the_rest_is_open(chat: Models, store: Store, who: str) -> None:
    desk = Desk(chat, store)
    above = desk.above(who)
    paused = await above.run("go", session_id="s")
    assert await desk.open() == [("s", "mail"), ("s", "refund")]
    paused = await above.continue_run(paused, [of(paused, "refund").approve()])
    assert await desk.open() == [("s", "mail")]
    last = await above.continue_run(paused, [of(paused, "mail").approve()])
    assert (last.status, sorted(desk.done), await desk.open()) == ("completed", ["mail", "refund"], [])


async def test_nobody_overrules_at_the_member_what_was_decided_above(chat: Models, store: Store) -> None:
    desk = Desk(chat, store)
    above = desk.above("own")
    paused = await above.run("go", session_id="s")
    paused = await above.continue_run(paused, [of(paused, "refund").approve()])
    own, needs = await theirs(desk, "refund")
    with pytest.raises(AlreadyDecided, match="was decided already, where 's' waits for it"):
        await desk.agent.continue_run(needs.run_id, [needs.deny("no")], session=own)
    own, needs = await theirs(desk, "mail")
    await desk.agent.continue_run(needs.run_id, [needs.approve()], session=own)
    assert (await above.continue_run(paused, [of(paused, "mail").approve()])).status == "completed"
    assert sorted(desk.done) == ["mail", "refund"]


@WHO
async def test_a_decision_in_time_holds_although_the_next_comes_after_the_expiry(chat: Models, store: Store, who: str) -> None:
    desk = Desk(chat, store, expires=0.5)
    above = desk.above(who)
    paused = await above.run("go", session_id="s")
    paused = await above.continue_run(paused, [of(paused, "refund").approve()])
    await asyncio.sleep(0.6)
    assert (await above.continue_run(paused, [of(paused, "mail").approve()])).status == "completed"
    assert (sorted(desk.done), await desk.open()) == (["mail", "refund"], [])


@WHO
async def test_what_has_expired_keeps_nobody_from_cancelling(chat: Models, store: Store, who: str) -> None:
    desk = Desk(chat, store, expires=0.3)
    above = desk.above(who)
    paused = await above.run("go", session_id="s")
    await asyncio.sleep(0.4)
    assert (await above.continue_run(paused, [of(paused, "mail").cancel()])).status == "cancelled"
    assert (desk.done, await desk.open()) == ([], [])
    assert [info.id async for info in store.sessions(waiting=True)] == []


@WHO
async def test_a_paused_run_that_is_cancelled_asks_nobody_whoever_cancels_it(chat: Models, store: Store, who: str) -> None:
    """A session knows no agents; a team in between, too, is over."""
    desk = Desk(chat, store)
    inner = desk.above(who)
    server = chat.serve([call("delegate", member=inner.name, task="go"), "done"])
    await Team(chat.model(server), members=[inner], name="top", store=store).run("go", session_id="s", run_id="r")
    assert len([it async for it in store.sessions(waiting=True)]) > 1
    assert await (await there(store, "s")).cancel_run("r")
    assert (desk.done, await desk.open(), [info.id async for info in store.sessions(waiting=True)]) == ([], [], [])


async def slow(given: StepInput) -> str:
    await asyncio.sleep(60)
    return "never"


async def stops(given: StepInput) -> StepOutput:
    await asyncio.sleep(0.5)
    return StepOutput(content="enough", stop=True)


async def test_cancelling_a_run_that_goes_on_ends_what_its_members_wait_for(chat: Models, store: Store) -> None:
    desk = Desk(chat, store)
    flow = Workflow([Parallel(desk.above("own"), slow)], name="flow", store=store)
    going = asyncio.create_task(flow.run("go", session_id="s", run_id="r", lease=1))
    await until(desk.asks)
    assert await flow.cancel_run("r", "s")
    assert (await going).status == "cancelled"
    assert (await desk.open(), [info.id async for info in store.sessions(waiting=True)]) == ([], [])


async def test_a_run_that_is_completed_leaves_nothing_to_decide(chat: Models, store: Store) -> None:
    desk = Desk(chat, store)
    flow = Workflow([Parallel(desk.agent, stops)], name="flow", store=store)
    assert (await flow.run("go", session_id="s")).content == "enough"
    assert (await desk.open(), desk.done) == ([], [])


@pytest.mark.parametrize("how", ["rewind", "rewind to the input", "delete"])
async def test_nobody_is_asked_for_a_conversation_that_is_gone(chat: Models, store: Store, how: str) -> None:
    desk = Desk(chat, store)
    await desk.above("own").run("go", session_id="s")
    if how == "delete":
        await store.delete("s")
    else:
        await (await there(store, "s")).rewind(to=0 if how == "rewind" else 1)
    assert (await desk.open(), [info.id async for info in store.sessions(waiting=True)]) == ([], [])


async def test_a_run_of_the_members_own_is_asked_about_as_any(chat: Models, store: Store) -> None:
    """Somebody talks to the member itself, in its session."""
    desk = Desk(chat, store, [BOTH, "done", call("mail"), "sent"])
    above = desk.above("own")
    paused = await above.run("go", session_id="s")
    await above.continue_run(paused, [it.approve() for it in paused.requirements])
    asked = await desk.agent.run("write again", session=await there(store, "s/a"))
    assert await desk.open() == [("s/a", "mail")]
    assert (await desk.agent.continue_run(asked, [asked.requirements[0].approve()])).content == "sent"


@WHO
async def test_a_fork_decides_nothing_that_its_origin_waits_for(chat: Models, store: Store, who: str) -> None:
    desk = Desk(chat, store)
    above = desk.above(who)
    paused = await above.run("go", session_id="s")
    fork = await (await there(store, "s")).fork("f")
    assert await fork.requirements(members=True) == []
    with pytest.raises(UsageError, match="waits for people where this was forked from"):
        await above.continue_run(paused.run_id, [it.approve() for it in paused.requirements], session=fork)
    assert desk.done == []
    assert (await above.continue_run(paused, [it.approve() for it in paused.requirements])).status == "completed"
    assert sorted(desk.done) == ["mail", "refund"]


async def test_a_member_that_is_cancelled_has_no_result(chat: Models, store: Store) -> None:
    """A workflow is tried again, or not; a leader is told."""
    heard: list[Any] = []

    async def next_step(given: StepInput) -> str:
        heard.append(given)
        return "next"

    desk = Desk(chat, store, [Answer(text="late", delay=5)])
    flow = Workflow([desk.agent, next_step], name="flow", store=store)
    going = asyncio.create_task(flow.run("go", session_id="s", run_id="r"))

    async def begun() -> bool:
        return await store.get("s/a") is not None

    await until(begun)
    own = await there(store, "s/a")
    assert await own.cancel_run("r.a")
    with pytest.raises(UsageError, match=r"'a' has no result: its run 'r\.a' is cancelled"):
        await going
    assert heard == []


async def test_a_member_waits_its_turn_as_long_as_its_team_works(chat: Models, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked twice in one answer, it works at one after the other, however long that takes."""
    monkeypatch.setitem(cast("dict[str, Any]", Agent.run.__kwdefaults__), "wait", 0.1)
    desk = Desk(chat, store, [Answer(text="one", delay=0.5), Answer(text="two", delay=0.5)])
    twice = Answer(calls=(Call("delegate", {"member": "a", "task": "1"}), Call("delegate", {"member": "a", "task": "2"})))
    server = chat.serve([twice, "both"])
    team = Team(chat.model(server), members=[desk.agent], name="team", store=store)
    reply = await team.run("go", session_id="s", wait=30)
    assert sorted([it.response for message in reply.messages for it in results_of(message)]) == ["one", "two"]
