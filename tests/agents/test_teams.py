"""Teams: a leader gives work to members; what they wait for, the team waits for; what they have done is not done again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent

from holdfast import InvalidValue, Session, SessionGone, SessionNotFound, Store, user
from holdfast.agents import Agent, RunOutput, Step, Team, TextDelta, ToolAnswered, ToolCalled, Workflow, tool
from holdfast.agents.agent import Input
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, call

from .conftest import Counting, Models, output_of, sent, statuses, texts, told, until


def delegate(member: str, task: str = "do it") -> Answer:
    return call("delegate", member=member, task=task)


def together(*given: tuple[str, str]) -> Answer:
    return Answer(calls=tuple(Call("delegate", {"member": member, "task": task}) for member, task in given))


class Made:
    """A team with a server for each of its models."""

    def __init__(self, models: Models, store: Store) -> None:
        self.models, self.store = models, store
        self.servers: dict[str, ModelServer] = {}

    def agent(self, name: str, answers: Any, **options: Any) -> Agent:
        self.servers[name] = self.models.serve(answers)
        return Agent(self.models.model(self.servers[name]), name=name, store=self.store, **options)

    def team(self, answers: Any, *members: Agent, **options: Any) -> Team:
        name = options.setdefault("name", "lead")
        self.servers[name] = self.models.serve(answers)
        return Team(self.models.model(self.servers[name]), members=members, store=options.pop("store", self.store), **options)

    def asked(self, name: str) -> list[list[str]]:
        return [sent(request) for request in self.servers[name].requests]


Make = Callable[[Models, Store], Made]


async def seen(store: Store, session_id: str, user_id: str | None = None) -> Session:
    found = await store.get(session_id, user_id=user_id)
    assert found is not None, session_id
    return found


async def open_in(store: Store) -> list[tuple[str, str]]:
    return sorted([(info.id, it.kind) async for info, it in store.requirements()])


# --- modes and sessions ----------------------------------------------------------------------------------------------


async def test_the_leader_answers_from_what_its_members_bring(models: Models, store: Store) -> None:
    made = Made(models, store)
    news = made.agent("news", ["It rains."], instructions="You know the news.\nMore of it.")
    team = made.team([delegate("news", "the weather?"), "Take an umbrella."], news, instructions="Be short.")
    reply = await team.run("What to wear?", session_id="s")
    assert (reply.content, reply.agent) == ("Take an umbrella.", "lead")
    assert made.asked("news") == [["the weather?"]]
    assert made.asked("lead")[1] == ["What to wear?", "delegate()", "=It rains."]
    body = str(made.servers["lead"].requests[0].body)
    assert "- news: You know the news." in body
    assert "Be short." in body
    assert "More of it." not in body


async def test_a_router_hands_over_and_the_members_answer_is_the_answer(models: Models, store: Store) -> None:
    made = Made(models, store)
    team = made.team([delegate("b", "say it")], made.agent("a", []), made.agent("b", ["I am b."]), mode="route")
    reply = await team.run("hi", session_id="s")
    assert (reply.content, len(models.requests)) == ("I am b.", 2)
    assert (await texts(await seen(store, "s")))[-1] == "I am b."


async def test_members_have_sessions_of_their_own_that_remember_and_name_their_parent(models: Models, store: Store) -> None:
    made = Made(models, store)
    team = made.team([delegate("a", "one"), "1", delegate("a", "two"), "2"], made.agent("a", ["A1", "A2"]))
    for prompt in ("first", "second"):
        await team.run(prompt, session_id="s", user_id="ada")
    assert made.asked("a") == [["one"], ["one", "A1", "two"]]
    (info,) = await team.get_member_sessions("s", user_id="ada")
    assert (info.id, info.parent, info.kind, info.user_id, info.agent) == ("s/a", "s", "member", "ada", "a")
    assert await store.get("s/a", user_id="bob") is None
    assert await statuses(await seen(store, "s/a", "ada")) == ["completed", "completed"]


async def test_who_may_not_see_the_session_does_not_see_its_members(models: Models, store: Store) -> None:
    made = Made(models, store)
    team = made.team([delegate("a"), "1"], made.agent("a", ["A1"]))
    await team.run("first", session_id="s", user_id="ada")
    for user_id in ("bob", None):
        with pytest.raises(SessionNotFound):
            await team.get_member_sessions("s", user_id=user_id)
    with pytest.raises(SessionNotFound):
        await team.get_member_sessions("nowhere")


async def test_what_belongs_to_whom_holds_for_a_session_of_known_owner(memory: Store, chat: Models) -> None:
    """An admin runs the team on ada's session: its members' sessions are hers too."""
    made = Made(chat, Store(memory.backend, as_admin=True))
    team = made.team([delegate("a"), "1"], made.agent("a", ["A1"]))
    await memory.session("s", user_id="ada")
    await team.run("first", session_id="s")
    assert (await seen(memory, "s/a", "ada")).info.user_id == "ada"
    assert await memory.get("s/a") is None


async def test_members_that_share_the_session_see_what_was_said_in_it(models: Models, store: Store) -> None:
    made = Made(models, store)
    team = made.team(
        [delegate("a", "one"), "1", delegate("b", "two"), "2"], made.agent("a", ["A1"]), made.agent("b", ["B1"]), share_session=True
    )
    first = await team.run("first", session_id="s")
    await team.run("second", session_id="s")
    assert made.asked("b") == [["one", "A1", "first", "delegate()", "=A1", "1", "two"]]
    assert await team.get_member_sessions("s") == []
    runs = await (await seen(store, "s")).runs()
    assert [(run.agent, run.status, run.root) for run in runs[:2]] == [("lead", "completed", None), ("a", "completed", first.run_id)]
    assert [run.status for run in runs] == ["completed"] * 4


@pytest.mark.parametrize("share", [True, False])
async def test_members_work_at_the_same_time(models: Models, store: Store, share: bool) -> None:
    made = Made(models, store)
    both = asyncio.Barrier(2)

    async def meet() -> str:
        """Meet the other."""
        async with asyncio.timeout(5):
            await both.wait()
        return "met"

    members = [made.agent(name, [call("meet"), f"I am {name}."], tools=[meet]) for name in ("a", "b")]
    team = made.team([together(("a", "go"), ("b", "go")), "Both came."], *members, share_session=share)
    assert (await team.run("go", session_id="s")).content == "Both came."
    assert made.asked("lead")[1] == ["go", "delegate()", "delegate()", "=I am a.", "=I am b."]
    assert set(await statuses(await seen(store, "s"))) == {"completed"}


async def test_a_member_s_tool_may_run_an_agent_in_the_team_s_session(models: Models, store: Store) -> None:
    """It is part of the team's run, as an agent is that the leader's own tool runs: nobody waits for a claim that waits for him."""
    helper = models.agent(["helped", "helped again"], name="helper", store=store)

    async def ask() -> str:
        """Ask."""
        return (await helper.run("for the team", session_id="s", wait=0)).text

    member = models.agent([call("ask"), call("ask"), "done"], name="m", tools=[ask])
    team = Team(models.model(models.serve([delegate("m"), "all done"])), members=[member], name="t", store=store)
    assert (await team.run("go", session_id="s")).content == "all done"
    assert await texts(await store.session("s/m")) == ["do it", "ask()", "=helped", "ask()", "=helped again", "done"]
    session = await store.session("s")
    whole, *parts = await session.runs()
    assert [(it.status, it.root) for it in (whole, *parts)] == [("completed", None), *[("completed", whole.id)] * 2]


async def test_one_member_asked_twice_at_once_answers_twice(models: Models, store: Store) -> None:
    made = Made(models, store)

    def rule(request: Request) -> str:
        return f"done {sent(request)[-1]}"

    team = made.team([together(("a", "one"), ("a", "two")), "Both."], made.agent("a", rule))
    assert (await team.run("go", session_id="s")).content == "Both."
    assert sorted(made.asked("lead")[1][-2:]) == ["=done one", "=done two"]


async def test_a_team_in_a_team(models: Models, store: Store) -> None:
    made = Made(models, store)
    inner = made.team([delegate("a", "deep"), "from below"], made.agent("a", ["A1"]), name="inner")
    outer = made.team([delegate("inner", "down"), "up"], inner)
    assert (await outer.run("go", session_id="s")).content == "up"
    assert made.asked("lead")[1][-1] == "=from below"
    assert [it.id for it in await outer.get_member_sessions("s")] == ["s/inner"]
    assert [it.id for it in await inner.get_member_sessions("s/inner")] == ["s/inner/a"]


async def test_a_leader_has_tools_beside_its_members(models: Models, store: Store) -> None:
    made = Made(models, store)

    def clock() -> str:
        """The time."""
        return "noon"

    team = made.team(
        [Answer(calls=(Call("clock"), Call("delegate", {"member": "a", "task": "t"}))), "Now."], made.agent("a", ["A1"]), tools=[clock]
    )
    assert (await team.run("go", session_id="s")).content == "Now."
    assert made.asked("lead")[1][-2:] == ["=noon", "=A1"]


async def test_a_member_with_structured_output_brings_its_text(chat: Models, memory: Store) -> None:
    class City(BaseModel):
        name: str

    server = chat.serve([Answer(calls=(Call("final_result", {"name": "Leipzig"}),))])
    engine_agent: Any = PydanticAgent(chat.impatient(server), output_type=City)
    member = Agent(engine_agent, name="a", store=memory)
    made = Made(chat, memory)
    team = made.team([delegate("a"), "Leipzig it is."], member)
    assert (await team.run("go", session_id="s")).content == "Leipzig it is."
    assert made.asked("lead")[1][-1] == '={"name":"Leipzig"}'


async def test_a_team_streams(models: Models, store: Store) -> None:
    made = Made(models, store)
    team = made.team([delegate("a"), "Take an umbrella, please."], made.agent("a", ["It rains."]))
    events = await told(team.run("go", session_id="s", stream=True))
    assert "".join(it.delta for it in events if isinstance(it, TextDelta)) == "Take an umbrella, please."
    assert [type(it) for it in events if isinstance(it, ToolCalled | ToolAnswered)] == [ToolCalled, ToolAnswered]
    assert output_of(events).content == "Take an umbrella, please."


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["coordinate", "route"])
async def test_a_member_that_is_none_is_told_to_the_leader(models: Models, store: Store, mode: Any) -> None:
    made = Made(models, store)
    answers = [delegate("nobody"), delegate("a"), "Sorry."]
    team = made.team(answers, made.agent("a", ["I am a."]), mode=mode)
    reply = await team.run("go", session_id="s")
    assert reply.content == ("I am a." if mode == "route" else "Sorry.")
    assert "no member 'nobody'" in made.asked("lead")[1][-1]


@pytest.mark.parametrize("mode", ["coordinate", "route"])
async def test_a_member_that_fails_has_answered_so_and_can_be_asked_again(models: Models, store: Store, mode: Any) -> None:
    made = Made(models, store)
    member = made.agent("a", [Answer(status=400), "Better now."])
    team = made.team([delegate("a", "one"), delegate("a", "two"), "There."], member, mode=mode)
    reply = await team.run("go", session_id="s")
    assert reply.content == ("Better now." if mode == "route" else "There.")
    assert "400" in made.asked("lead")[1][-1]
    assert await statuses(await seen(store, "s/a")) == ["error", "completed"]


async def test_a_cancelled_team_takes_its_members_with_it(models: Models, store: Store) -> None:
    made = Made(models, store)
    begun = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        begun.set()
        await asyncio.sleep(30)
        return "never"

    team = made.team([delegate("a"), "There."], made.agent("a", [call("wait"), "Done."], tools=[wait]))
    task = asyncio.create_task(team.run("go", session_id="s", run_id="r"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await statuses(await seen(store, "s")) == ["cancelled"]
    assert await statuses(await seen(store, "s/a")) == ["cancelled"]
    paused = await team.continue_run("r", session_id="s")
    assert (paused.status, [(it.kind, it.agent) for it in paused.requirements]) == ("paused", [("unknown", "a")])
    done = await team.continue_run(paused, [paused.requirements[0].supply("waited")])
    assert (done.content, made.asked("a")[1]) == ("There.", ["do it", "wait()", "=waited"])


# --- members that wait -----------------------------------------------------------------------------------------------


class Till:
    """Members that pay, and what they paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def tools(self) -> list[Any]:
        @tool(confirm=True)
        def pay(n: int) -> str:
            """Pay."""
            self.paid.append(n)
            return f"paid {n}"

        def look() -> str:
            """Look."""
            self.paid.append(0)
            return "seen"

        return [pay, look]


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.mark.parametrize("share", [True, False])
async def test_what_a_member_waits_for_the_team_waits_for(models: Models, store: Store, till: Till, share: bool) -> None:
    made = Made(models, store)
    member = made.agent("a", [call("look"), call("pay", n=1), "All paid."], tools=till.tools())
    team = made.team([delegate("a"), "Done."], member, share_session=share)
    paused = await team.run("go", session_id="s")
    (it,) = paused.requirements
    assert (paused.status, it.kind, it.call.name, it.call.arguments, it.agent) == ("paused", "confirmation", "pay", {"n": 1}, "a")
    done = await team.continue_run(paused, [it.approve(n=2)])
    assert (done.status, done.content, till.paid) == ("completed", "Done.", [0, 2])
    assert made.asked("lead")[1][-1] == "=All paid."
    assert await open_in(store) == []
    assert not (await seen(store, "s")).info.waiting
    assert set(await statuses(await seen(store, "s"))) == {"completed"}


async def test_a_denial_goes_to_the_member_and_the_reason_with_it(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    team = made.team([delegate("a"), "Not done."], made.agent("a", [call("pay", n=1), "I may not."], tools=till.tools()))
    paused = await team.run("go", session_id="s")
    done = await team.continue_run(paused, [paused.requirements[0].deny("too much")])
    assert (done.content, till.paid) == ("Not done.", [])
    assert "too much" in made.asked("a")[1][-1]
    assert made.asked("lead")[1][-1] == "=I may not."
    assert await open_in(store) == []


@pytest.mark.parametrize("share", [True, False])
async def test_cancel_ends_the_team_and_the_member(models: Models, store: Store, till: Till, share: bool) -> None:
    made = Made(models, store)
    team = made.team([delegate("a"), "Hello."], made.agent("a", [call("pay", n=1)], tools=till.tools()), share_session=share)
    paused = await team.run("go", session_id="s")
    ended = await team.continue_run(paused, [paused.requirements[0].cancel()])
    assert (ended.status, till.paid) == ("cancelled", [])
    assert await open_in(store) == []
    assert [it.id for it in (await store.list(waiting=True)).items] == []
    assert set(await statuses(await seen(store, "s"))) == {"cancelled"}
    assert await statuses(await seen(store, "s" if share else "s/a")) == (["cancelled"] * 2 if share else ["cancelled"])
    assert (await team.run("hi", session_id="s")).content == "Hello."


async def test_a_member_pauses_in_later_rounds_too(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    team = made.team([delegate("a"), "Done."], made.agent("a", [call("pay", n=1), call("pay", n=2), "All paid."], tools=till.tools()))
    first = await team.run("go", session_id="s")
    second = await team.continue_run(first, [first.requirements[0].approve()])
    assert (second.status, second.requirements[0].call.arguments, till.paid) == ("paused", {"n": 2}, [1])
    done = await team.continue_run(second, [second.requirements[0].approve()])
    assert (done.content, till.paid, await open_in(store)) == ("Done.", [1, 2], [])


async def test_a_member_waits_for_two_and_is_decided_one_by_one(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    pays = Answer(calls=(Call("pay", {"n": 1}), Call("pay", {"n": 2})))
    team = made.team([delegate("a"), "Done."], made.agent("a", [pays, "All paid."], tools=till.tools()))
    paused = await team.run("go", session_id="s")
    one, two = paused.requirements
    again = await team.continue_run(paused, [two.deny()])
    assert (again.status, again.requirements, till.paid) == ("paused", (one,), [])
    done = await team.continue_run(again, [one.approve()])
    assert (done.content, till.paid, await open_in(store)) == ("Done.", [1], [])


async def test_two_members_wait_and_a_third_ends(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    members = [made.agent(name, [call("pay", n=n), f"{name} paid."], tools=till.tools()) for n, name in enumerate(("a", "b"), 1)]
    team = made.team([together(("a", "x"), ("b", "y"), ("c", "z")), "Done."], *members, made.agent("c", ["c is done."]))
    paused = await team.run("go", session_id="s")
    assert sorted((it.agent or "", it.call.arguments["n"]) for it in paused.requirements) == [("a", 1), ("b", 2)]
    assert len(made.asked("c")) == 1
    done = await team.continue_run(paused, [it.approve() for it in paused.requirements])
    assert (done.content, sorted(till.paid), len(made.asked("c"))) == ("Done.", [1, 2], 1)
    assert sorted(made.asked("lead")[1][-3:]) == ["=a paid.", "=b paid.", "=c is done."]


async def test_a_member_two_levels_down_waits(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    inner = made.team([delegate("a"), "from below"], made.agent("a", [call("pay", n=1), "paid"], tools=till.tools()), name="inner")
    outer = made.team([delegate("inner"), "up"], inner)
    paused = await outer.run("go", session_id="s")
    assert [(it.agent, it.kind) for it in paused.requirements] == [("a", "confirmation")]
    done = await outer.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, till.paid, await open_in(store)) == ("up", [1], [])


@pytest.mark.parametrize("kind", ["team", "handoff", "steps"])
async def test_what_a_member_can_not_take_does_not_use_the_decision_up(chat: Models, memory: Store, till: Till, kind: str) -> None:
    """Whoever asked is two levels down; another of the same name has no such tool."""

    @tool(ask=["n"])
    def fill(n: int) -> str:
        """Fill."""
        till.paid.append(n)
        return f"filled {n}"

    made = Made(chat, memory)
    says = Answer(calls=(Call("pay", {"n": 1}), Call("fill", {})))
    a = made.agent("a", [says, "paid"], tools=[*till.tools(), fill])
    inner: Any = {
        "team": lambda: made.team([delegate("a"), "from below"], a, name="inner"),
        "handoff": lambda: made.team([call("hand_over", agent="a")], a, mode="handoff", name="inner"),
        "steps": lambda: Workflow([Step(a)], name="inner", store=memory),
    }[kind]()
    other = made.team(["none"], made.agent("a", ["none"]), name="other")
    outer = made.team([delegate("inner"), "up"], inner, other)
    paused = await outer.run("go", session_id="s")
    by_name = {it.call.name: it for it in paused.requirements}
    version = (await seen(memory, "s")).version
    for wrong in (by_name["pay"].approve(n="much"), by_name["pay"].approve(sum=2), by_name["fill"].answer(n="much")):
        with pytest.raises(InvalidValue, match=r"sum=2|n='much'"):
            await outer.continue_run(paused, [wrong])
    assert ((await seen(memory, "s")).version, till.paid) == (version, [])
    done = await outer.continue_run(paused, [by_name["pay"].approve(n=2), by_name["fill"].answer(n=3)])
    assert (done.content, sorted(till.paid), await open_in(memory)) == ("up", [2, 3], [])


async def test_cancel_goes_two_levels_down(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    inner = made.team([delegate("a")], made.agent("a", [call("pay", n=1)], tools=till.tools()), name="inner")
    outer = made.team([delegate("inner")], inner)
    paused = await outer.run("go", session_id="s")
    await outer.continue_run(paused, [paused.requirements[0].cancel()])
    assert (till.paid, await open_in(store)) == ([], [])


async def test_what_is_decided_at_the_member_is_decided_for_the_team(models: Models, store: Store, till: Till) -> None:
    """A member's run is a run like others: who finds its requirement in its session may decide there."""
    made = Made(models, store)
    member = made.agent("a", [call("pay", n=1), "All paid."], tools=till.tools())
    team = made.team([delegate("a"), "Done."], member)
    paused = await team.run("go", session_id="s")
    (it,) = await (await seen(store, "s/a")).requirements()
    assert (await member.continue_run(it.run_id, [it.approve()], session_id="s/a")).content == "All paid."
    done = await team.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, till.paid) == ("Done.", [1])
    assert made.asked("lead")[1][-1] == "=All paid."


async def test_a_router_waits_for_its_member_and_hands_its_answer_on(models: Models, store: Store, till: Till) -> None:
    made = Made(models, store)
    team = made.team([delegate("a")], made.agent("a", [call("pay", n=1), "I paid."], tools=till.tools()), mode="route")
    paused = await team.run("go", session_id="s")
    done = await team.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, till.paid) == ("I paid.", [1])


async def test_a_member_s_expiry_is_the_teams(models: Models, store: Store) -> None:
    paid: list[int] = []

    @tool(confirm=True, expires=0.05)
    def pay(n: int) -> str:
        """Pay."""
        paid.append(n)
        return "paid"

    made = Made(models, store)
    team = made.team([delegate("a"), "Too late."], made.agent("a", [call("pay", n=1), "Nobody said."], tools=[pay]))
    paused = await team.run("go", session_id="s")

    async def over() -> bool:
        return (await team.continue_run(paused)).status == "completed"

    await until(over)
    assert (paid, made.asked("lead")[1][-1]) == ([], "=Nobody said.")
    assert await open_in(store) == []


async def test_a_paused_team_streams_on(models: Models, memory: Store, till: Till) -> None:
    made = Made(models, memory)
    team = made.team([delegate("a"), "Everything is paid now."], made.agent("a", [call("pay", n=1), "paid"], tools=till.tools()))
    paused = await team.run("go", session_id="s")
    events = await told(team.continue_run(paused, [paused.requirements[0].approve()], stream=True))
    assert "".join(event.text for event in events) == "Everything is paid now."


# --- broken off ------------------------------------------------------------------------------------------------------


async def test_a_team_broken_off_in_a_members_model_call_goes_on_there(models: Models, store: Store) -> None:
    """The member's tools that had answered are not executed again, the leader is not asked again what to do."""
    made = Made(models, store)
    looked: list[int] = []

    def look(n: int) -> str:
        """Look."""
        looked.append(n)
        return f"seen {n}"

    member = made.agent("a", [call("look", n=1), call("look", n=2), Answer(status=400), "Both seen."], tools=[look])
    team = made.team([delegate("a"), Answer(status=400), "Done."], member)
    with pytest.raises(Exception, match="400"):
        await team.run("go", session_id="s", run_id="r")
    assert looked == [1, 2]
    assert (await team.run("go", session_id="s", run_id="r")).content == "Done."
    assert (looked, len(made.asked("lead"))) == ([1, 2], 3)


async def test_a_member_run_again_goes_on_where_it_was(chat: Models, counting: Counting, counted: Store) -> None:
    """The process ends in the member's second model call; what it had done is there for the next one."""
    made = Made(chat, counted)
    looked: list[int] = []

    def look(n: int) -> str:
        """Look."""
        looked.append(n)
        return f"seen {n}"

    begun = asyncio.Event()

    def rule(request: Request) -> Answer | str:
        answers = [text for text in sent(request) if text.startswith("=")]
        if len(answers) == 1 and not begun.is_set():
            loop.call_soon_threadsafe(begun.set)
            return Answer(text="never", delay=20)
        return "Both seen." if len(answers) == 2 else call("look", n=len(answers) + 1)

    loop = asyncio.get_running_loop()
    team = made.team([delegate("a"), "Done."], made.agent("a", rule, tools=[look]))
    task = asyncio.create_task(team.run("go", session_id="s", run_id="r"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    done = await team.continue_run("r", session_id="s")
    assert (done.content, looked, len(made.asked("lead"))) == ("Done.", [1, 2], 2)
    assert [(run.status, run.attempt) for run in await (await seen(counted, "s/a")).runs()] == [("completed", 2)]


# --- what a team can not be ------------------------------------------------------------------------------------------


def test_what_a_team_can_not_be(chat: Models, memory: Store) -> None:
    model = chat.model(chat.serve([]))

    def agent(name: str | None) -> Agent:
        return Agent(model, store=memory, name=name)

    refused: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "one at least"),
        (agent("a"), {}, "give a list"),
        ([agent(None)], {}, "needs a name"),
        ([agent("a/b")], {}, "without a slash"),
        ([agent("a"), agent("a")], {}, "two are called 'a'"),
        (["a"], {}, "is no Agent"),
        ([agent("a")], {"mode": "talk"}, "coordinate"),
        ([agent("a")], {"instructions": lambda: "x"}, "give text"),
    ]
    for members, options, message in refused:
        with pytest.raises(InvalidValue, match=message):
            Team(model, members=members, store=memory, **options)


async def test_a_member_keeps_its_own_tools_and_instructions(chat: Models, memory: Store) -> None:
    made = Made(chat, memory)
    team = made.team([delegate("a"), "x"], made.agent("a", ["y"], instructions=lambda: "You are a."))
    await team.run("go", session_id="s")
    assert "You are a." in str(made.servers["a"].requests[0].body)
    assert "- a: an agent" in str(made.servers["lead"].requests[0].body)


async def test_members_take_part_in_the_teams_store_whatever_their_own(chat: Models, memory: Store) -> None:
    member = Agent(chat.model(chat.serve(["y"])), name="a", store="memory://")
    team = Made(chat, memory).team([delegate("a"), "x"], member)
    output: RunOutput = await team.run("go", session_id="s")
    assert output.content == "x"
    assert await statuses(await seen(memory, "s/a")) == ["completed"]


async def test_the_input_may_be_messages(chat: Models, memory: Store) -> None:
    given: Input = [user("one"), user("two")]
    team = Made(chat, memory).team(["x"], Made(chat, memory).agent("a", []))
    assert (await team.run(given, session_id="s")).content == "x"


async def test_members_sessions_go_with_the_session(models: Models, store: Store) -> None:
    """Those of a team in a team too; nobody else's of a name like theirs."""
    made = Made(models, store)
    inner = made.team([delegate("deep"), "inner"], made.agent("deep", ["deep"]), name="inner")
    team = made.team([delegate("inner"), "done"], inner)
    await team.run("go", session_id="s", user_id="ada")
    other = await store.session("s/other", user_id="ada")
    await other.append(user("mine"))
    assert sorted([it.id async for it in store.sessions(user_id="ada")]) == ["s", "s/inner", "s/inner/deep", "s/other"]
    assert list((await seen(store, "s", "ada")).state) == []
    assert await store.delete("s", user_id="bob") is False
    assert await store.delete("s", user_id="ada") is True
    assert [it.id async for it in store.sessions(user_id="ada")] == ["s/other"]


async def test_members_sessions_go_when_the_session_is_cleared(models: Models, store: Store) -> None:
    """With the commit that clears it, whichever that is; and each begins anew."""
    made = Made(models, store)
    member = made.agent("a", ["first", "second"])
    team = made.team([delegate("a"), "done", delegate("a"), "done again"], member)
    session = await store.session("s", user_id="ada")
    await team.run("go", session=session)
    session.clear()
    assert [it.id async for it in store.sessions(user_id="ada")] == ["s/a", "s"]
    await session.commit()
    assert [it.id async for it in store.sessions(user_id="ada")] == ["s"]
    await team.run("go", session=session)
    assert made.asked("a")[1] == ["do it"]
    session.clear()
    await session.append(user("a new beginning"))
    assert [it.id async for it in store.sessions(user_id="ada")] == ["s"]


async def test_a_session_that_is_deleted_while_a_member_works_takes_its_session_along(models: Models, store: Store) -> None:
    made, held = Made(models, store), threading.Event()
    team = made.team([delegate("a"), "done"], made.agent("a", [Answer(text="late", hold=held)]))
    running = asyncio.create_task(team.run("go", session_id="s"))
    await asyncio.to_thread(made.servers["a"].wait_for, 1)
    assert sorted([it.id async for it in store.sessions()]) == ["s", "s/a"]
    assert await store.delete("s")
    held.set()
    with pytest.raises((SessionGone, SessionNotFound)):
        await running
    assert [it.id async for it in store.sessions()] == []


async def test_members_sessions_live_as_long_as_the_session(chat: Models, memory: Store) -> None:
    made = Made(chat, memory)
    team = made.team([delegate("a"), "done"], made.agent("a", ["first"]))
    session = await memory.session("s")
    await session.set_ttl(60)
    await team.run("go", session=session)
    expires = [it.expires_at async for it in memory.sessions()]
    assert len([it for it in expires if it is not None]) == 2


async def test_clearing_said_again_leaves_the_sessions_of_the_next_life(chat: Models, memory: Store) -> None:
    made = Made(chat, memory)
    team = made.team([delegate("a"), "done", delegate("a"), "done"], made.agent("a", ["first", "second"]))
    await team.run("go", session_id="s")
    for seen_before in (True, False):
        session = await seen(memory, "s") if seen_before else memory.handle("s")
        session.clear()
        await session.commit(commit_id="once")
        if seen_before:
            await team.run("go", session_id="s")
    assert sorted([it.id async for it in memory.sessions()]) == ["s", "s/a"]
