"""What is rare: arguments that contradict each other, and what comes at the first or the last moment of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from holdfast import Conflict, InvalidValue, Message, Session, SessionBusy, Store, Text, UsageError, user
from holdfast.agents import Agent, Decision, Done, Router, Said, StepInput, Team, Turn, Workflow, tool
from holdfast.agents.engine import Step
from holdfast.agents.history import DEFAULT, History, choose
from holdfast.backend import Commit, Key, Outcome
from holdfast.testing.model_server import Answer, Call, call

from .conftest import Counting, Models, sent, short, statuses, texts, there, until

# --- what a caller gives ---------------------------------------------------------------------------------------------


async def test_a_session_and_another_session_s_id_are_refused_where_a_run_goes_on(chat: Models, memory: Store) -> None:
    agent = chat.agent(["ok"], store=memory)
    output = await agent.run("hi", session_id="s", run_id="r")
    session = await there(agent, "s")
    for run in ("r", output):
        with pytest.raises(InvalidValue, match=r"either session= or session_id='t'"):
            await agent.continue_run(run, session=session, session_id="t")
    assert (await agent.continue_run(output, session=session)).content == "ok"


async def test_who_does_not_wait_is_told_that_the_session_is_busy(chat: Models, counting: Counting, counted: Store) -> None:
    """Another writer comes between the look back and the first commit, each time."""
    agent = chat.agent([], store=counted)
    await (await counted.session("s")).append(user("there"))

    async def meanwhile(key: Key, commit: Commit) -> None:
        if commit.expect is not None:
            await Store(counting.inner).session_manager.get_or_create_session("s")
            await (await Store(counting.inner).session("s")).append(user("again"))

    counting.before = meanwhile
    with pytest.raises(SessionBusy, match="'s'") as caught:
        await agent.run("hi", session_id="s", run_id="r", wait=0)
    assert isinstance(caught.value.__cause__, Conflict)
    with pytest.raises(SessionBusy, match="'s'"):
        async with (await counted.session("s")).run(user("hi"), run_id="r", wait=0):
            raise AssertionError("not reached")


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_the_output_of_a_stream_whose_run_failed_is_the_run_s_error(chat: Models, memory: Store) -> None:
    agent = chat.agent([Answer(status=400), Answer(status=400)], store=memory)
    stream = agent.run("hi", session_id="s", stream=True)
    with pytest.raises(Exception, match="400") as first:
        async for _ in stream:
            pass
    for _ in range(2):
        with pytest.raises(Exception, match="400") as again:
            await stream.output()
        assert again.value is first.value
    closed = agent.run("hi", session_id="s", stream=True)
    await closed.aclose()
    with pytest.raises(UsageError, match="closed"):
        await closed.output()


async def test_a_reader_that_is_cancelled_at_the_very_end_is_cancelled(chat: Models, memory: Store) -> None:
    agent = chat.agent(["ok"], store=memory)
    stream = agent.run("hi", session_id="s", stream=True)
    events = [await anext(stream)]
    reading: asyncio.Task[Any] = asyncio.create_task(_last(stream, events))
    feed: Any = stream._feed  # pyright: ignore[reportPrivateUsage]  # the moment can't be met from outside
    feed._queue = _CancelsAtItsEnd(feed._queue, reading)
    await asyncio.wait({reading})
    assert reading.cancelled()


async def _last(stream: Any, events: list[Any]) -> None:
    async for event in stream:
        events.append(event)


class _CancelsAtItsEnd:
    """The queue of a stream; its reader is cancelled as it takes the end out of it."""

    def __init__(self, inner: asyncio.Queue[Any], reader: asyncio.Task[Any]) -> None:
        self.inner, self.reader = inner, reader
        self.put_nowait = inner.put_nowait

    async def get(self) -> Any:
        event = await self.inner.get()
        if event is None:
            self.reader.cancel()
        return event


# --- final tools -----------------------------------------------------------------------------------------------------


class Till:
    """A final tool, and others that wait or break off beside it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.breaks = False

        @tool(final=True)
        def receipt(n: int) -> str:
            self.done.append("receipt")
            if n < 0:
                raise ValueError("no")
            return f"receipt {n}"

        @tool(confirm=True)
        def pay(n: int) -> str:
            self.done.append("pay")
            return f"paid {n}"

        @tool(final=True, external=True)
        def book(n: int) -> str:
            return "elsewhere"

        self.tools: list[Any] = [receipt, pay, book]


async def test_a_final_result_stored_before_a_pause_is_the_answer_after_it(models: Models, store: Store) -> None:
    till = Till()
    both = Answer(calls=(Call("receipt", {"n": 1}), Call("pay", {"n": 2})))
    agent = models.agent([both], store=store, tools=till.tools)
    paused = await agent.run("go", session_id="s")
    assert (paused.status, till.done) == ("paused", ["receipt"])
    done = await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.status, done.content, till.done, len(models.requests)) == ("completed", "receipt 1", ["receipt", "pay"], 1)


async def test_a_final_result_is_the_answer_also_if_what_waits_beside_it_is_denied(chat: Models, memory: Store) -> None:
    till = Till()
    both = Answer(calls=(Call("receipt", {"n": 1}), Call("pay", {"n": 2})))
    agent = chat.agent([both], store=memory, tools=till.tools)
    paused = await agent.run("go", session_id="s")
    done = await agent.continue_run(paused, [paused.requirements[0].deny("no")])
    assert (done.content, till.done, len(chat.requests)) == ("receipt 1", ["receipt"], 1)


async def test_a_crash_after_a_final_result_was_stored_asks_nobody(chat: Models, counting: Counting, counted: Store) -> None:
    till = Till()
    agent = chat.agent([call("receipt", n=1), "more?", "more"], store=counted, tools=till.tools)
    broken = asyncio.Event()

    async def break_off(key: Key, commit: Commit) -> None:
        if any(b'"completed"' in it.body for it in commit.entries) and not broken.is_set():
            broken.set()
            raise OSError("the process ended here")

    counting.before = break_off
    with pytest.raises(OSError, match="ended here"):
        await agent.run("go", session_id="s", run_id="r")
    assert await statuses(await there(agent, "s")) == ["error"]
    done = await agent.run("go", session_id="s", run_id="r")
    assert (done.content, till.done, len(chat.requests)) == ("receipt 1", ["receipt"], 1)
    assert await texts(await there(agent, "s")) == ["go", "receipt()", "=receipt 1", "receipt 1"]
    assert (await agent.run("and?", session_id="s")).content == "more?"  # another run is not ended by it


async def test_a_final_tool_that_failed_before_a_crash_has_not_answered(chat: Models, memory: Store) -> None:
    till = Till()
    agent = chat.agent([call("receipt", n=-1), Answer(status=400), "sorry"], store=memory, tools=till.tools)
    with pytest.raises(Exception, match="400"):
        await agent.run("go", session_id="s", run_id="r")
    assert (await agent.run("go", session_id="s", run_id="r")).content == "sorry"


async def test_a_final_result_that_a_person_supplies_is_the_answer(chat: Models, memory: Store) -> None:
    agent = chat.agent([call("book", n=1)], store=memory, tools=Till().tools)
    paused = await agent.run("go", session_id="s")
    done = await agent.continue_run(paused, [paused.requirements[0].supply({"seat": 4})])
    assert (done.content, len(chat.requests)) == ('{"seat":4}', 1)


# --- teams that share a session --------------------------------------------------------------------------------------


def team_of(models: Models, store: Store, leader: Any, *, share: bool = True, **members: Any) -> Team:
    made = [Agent(models.model(models.serve(answers)), name=name, store=store, tools=tools) for name, (answers, tools) in members.items()]
    return Team(models.model(models.serve(leader)), name="lead", members=made, share_session=share, store=store)


def both(*names: str) -> Answer:
    return Answer(calls=tuple(Call("delegate", {"member": name, "task": f"for {name}"}) for name in names))


async def test_a_member_at_work_is_left_out_of_what_another_is_sent(chat: Models, store: Store) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def dig() -> str:
        entered.set()
        await leave.wait()
        return "gold"

    async def look() -> str:
        await entered.wait()
        return "seen"

    team = team_of(chat, store, [both("a", "b"), "done"], a=([call("dig"), "dug"], [dig]), b=([call("look"), "looked"], [look]))
    running = asyncio.create_task(team.run("go", session_id="s"))
    await entered.wait()
    session = await store.session("s")
    outer = await _holder(session)
    entries = await session.entries(kinds=("message", "run"))
    past, _ = choose(entries, DEFAULT, {"another", outer}, whole=True)
    assert "dig()" not in [short(it) for it in past.messages]
    other, _ = choose(entries, DEFAULT, {"another"}, whole=True)
    assert "dig()" in [short(it) for it in other.messages]  # what broke off is sent to runs that have nothing to do with it
    leave.set()
    assert (await running).content == "done"
    assert all("No result was stored" not in text for request in chat.requests for text in sent(request))


async def _holder(session: Session) -> str:
    return next(it.id for it in await session.runs() if it.root is None)


def asks(*more: Any) -> tuple[Any, list[Any]]:
    @tool(confirm=True)
    def refund(n: int) -> str:
        """Pay back."""
        return f"paid {n}"

    return [call("refund", n=1), *more, "refunded"], [refund]


@pytest.mark.parametrize("where", ["team", "member"])
async def test_what_a_member_in_the_shared_session_waits_for_is_listed_once(chat: Models, store: Store, where: str) -> None:
    team = team_of(chat, store, [both("a"), "done"], a=asks())
    paused = await team.run("go", session_id="s")
    session = await there(team, "s")
    assert [it.id for it in await session.requirements()] == [it.id for it in paused.requirements]
    assert [it.id async for _, it in store.requirements()] == [it.id for it in paused.requirements]
    (requirement,) = paused.requirements
    assert requirement.via is not None
    if where == "member":
        own = (await session.run_log(f"{paused.run_id}.{requirement.via.call}"))[0]
        assert own is not None
        decision = Decision(requirement.via.requirement, "approve")
        await team.members["a"].continue_run(own.id, [decision], session_id="s")
        assert [it.id for it in await session.requirements()] == [requirement.id]
    done = await team.continue_run(paused, [requirement.approve()])
    assert (done.status, done.content, await session.requirements()) == ("completed", "done", [])


async def test_what_a_member_in_a_session_of_its_own_waits_for_is_listed_once(chat: Models, store: Store) -> None:
    team = team_of(chat, store, [both("a"), "done"], share=False, a=asks(call("refund", n=2)))
    paused = await team.run("go", session_id="s", user_id="ada")
    assert sorted([it.id for it in (await store.list(waiting=True)).items]) == ["s", "s/a"]
    assert [(info.id, it.id) async for info, it in store.requirements(user_id="ada")] == [("s", paused.requirements[0].id)]
    own = await store.get("s/a", user_id="ada")
    assert own is not None
    (theirs,) = await own.requirements()
    assert (await team.members["a"].run("alone", session=own)).status == "paused"
    listed = [(info.id, it.id) async for info, it in store.requirements(user_id="ada")]
    assert (len(listed), theirs.id in dict(listed).values()) == (2, False)  # what it waits for by itself is listed


async def test_cancel_reaches_the_member_in_the_shared_session(chat: Models, store: Store) -> None:
    team = team_of(chat, store, [both("a"), "done"], a=asks())
    paused = await team.run("go", session_id="s")
    ended = await team.continue_run(paused, [paused.requirements[0].cancel()])
    session = await there(team, "s")
    assert (ended.status, await statuses(session), await session.requirements()) == ("cancelled", ["cancelled"] * 2, [])


async def test_a_member_cancelled_in_its_first_commit_is_recorded_as_cancelled(chat: Models, counting: Counting) -> None:
    store = Store(_Late(counting))
    late: Any = store.backend
    team = team_of(chat, store, [both("a"), "done"], a=(["never"], []))
    running = asyncio.create_task(team.run("go", session_id="s", run_id="r"))
    await until(_is_set(late.applied))
    running.cancel()
    await asyncio.wait({running})
    session = await there(team, "s")
    assert {it.agent: it.status for it in await session.runs()} == {"lead": "cancelled", "a": "cancelled"}


def _is_set(event: asyncio.Event) -> Callable[[], Any]:
    async def look() -> bool:
        return event.is_set()

    return look


class _Late(Counting):
    """A member's first commit is applied, and its answer does not come."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.applied = asyncio.Event()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        outcome = await super().commit(key, commit)
        if any(it.kind == "run" and it.agent == "a" and b'"running"' in it.body for it in commit.entries):
            self.applied.set()
            await asyncio.sleep(30)
        return outcome


# --- workflows -------------------------------------------------------------------------------------------------------


async def test_a_router_may_choose_one_step_twice(memory: Store) -> None:
    tries: list[str] = []

    def write(given: StepInput) -> str:
        tries.append(str(given.previous_step_content))
        if len(tries) == 2:
            raise ConnectionError("out")
        return f"{given.previous_step_content}+"

    def choose_twice(_: StepInput) -> list[str]:
        return ["write", "write"]

    flow = Workflow([Router(choose_twice, [write], name="router")], name="flow", store=memory)
    with pytest.raises(ConnectionError):
        await flow.run("x", session_id="s", run_id="r")
    done = await flow.run("x", session_id="s", run_id="r")
    assert (done.content, tries) == ("None++", ["None", "None+", "None+"])
    assert [it.path for it in await flow.get_progress("r", "s")] == ["router?", "router/write", "router#2/write", "router#2/write#2"]


# --- the past --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [DEFAULT, History(runs=3), History(tokens=5000)], ids=["default", "runs", "tokens"])
async def test_a_run_paused_across_many_entries_is_sent_whole_or_not_at_all(chat: Models, memory: Store, history: History) -> None:
    queue: list[Any] = [call("refund", n=1), "refunded", "fine"]
    _, tools = asks()
    agent = chat.agent(queue, store=memory, tools=tools, history=history)
    paused = await agent.run("Refund me.", session_id="s")
    session = await there(agent, "s")
    for n in range(130):
        async with session.run(user(f"q{n}")) as run:
            await run.finish(Message("assistant", (Text(f"a{n}"),)))
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    await agent.run("And now?", session_id="s")
    told = sent(chat.requests[-1])
    whole = ["Refund me.", "refund()", "=paid 1", "refunded"]
    assert told[-5:-1] == whole or not set(told) & set(whole)
    last = (await session.runs())[-1]
    assert last.window["history"]["cut"] or told[-5:-1] == whole


async def test_a_run_that_began_in_the_page_is_still_sent(memory: Store) -> None:
    session = await memory.session("s")
    for n in range(3):
        async with session.run(user(f"q{n}")) as run:
            await run.finish(Message("assistant", (Text(f"a{n}"),)))
    entries = (await session.entries(kinds=("message", "run")))[1:]  # without the first run's beginning
    past, _ = choose(entries, DEFAULT, "r", whole=False)
    assert [it.text for it in past.messages] == ["q1", "a1", "q2", "a2"]


# --- clear -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
async def test_a_run_that_cleared_its_session_may_be_called_again(models: Models, store: Store, fails: bool) -> None:
    def forget(session: Session) -> str:
        session.clear()
        return "forgotten"

    agent = models.agent([call("forget"), Answer(status=400) if fails else "all gone", "done again", "more"], store=store, tools=[forget])
    if fails:
        with pytest.raises(Exception, match="400"):
            await agent.run("forget it", session_id="s", run_id="r")
    else:
        await agent.run("forget it", session_id="s", run_id="r")
    again = await agent.run("forget it", session_id="s", run_id="r")
    assert (again.status, again.content) == ("completed", "done again" if fails else "all gone")
    assert len(models.requests) == (3 if fails else 2)
    if fails:
        assert sent(models.requests[-1])[-1] == "forget it"
    assert (await agent.run("and?", session_id="s")).status == "completed"


# --- engines ---------------------------------------------------------------------------------------------------------


class Plain:
    """An engine that executes what the model asks for, whatever was said about it."""

    async def run(self, turn: Turn) -> AsyncGenerator[Step]:
        yield Said(message=Message("assistant", (Text("ok"),)))
        yield Done("ok")


class Holding(Plain):
    holds = True


@pytest.mark.parametrize("options", [{"confirm": True}, {"ask": ["n"]}, {"external": True}], ids=str)
async def test_tools_that_need_people_are_for_an_engine_that_holds(memory: Store, options: dict[str, Any]) -> None:
    @tool(**options)
    def pay(n: int) -> str:
        return f"{n}"

    def free(n: int) -> str:
        return f"{n}"

    with pytest.raises(InvalidValue, match=r"'pay'.*Plain.*holds"):
        Agent(Plain(), tools=[free, pay], store=memory)
    for engine, tools in ((Plain(), [free]), (Holding(), [pay])):
        assert (await Agent(engine, tools=tools, store=memory).run("hi")).content == "ok"
    with pytest.raises(InvalidValue, match=r"'delegate'.*Plain.*holds"):
        Team(Plain(), members=[Agent(Plain(), name="a", store=memory)], store=memory)
    with pytest.raises(InvalidValue, match=r"'run_workflow'.*Plain.*holds"):
        Workflow([free], agent=Agent(Plain(), store=memory), store=memory)
