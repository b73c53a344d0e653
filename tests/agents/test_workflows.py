"""Workflows: steps in an order of the caller's, each stored as it ends, done once, resumed and decided on like a tool's call."""

# Steps may be any function, so nothing is known of the parameters of a lambda.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast import InvalidValue, Message, Session, Store, Text, Uri, UsageError, register, system, user
from holdfast.agents import (
    Condition,
    Loop,
    Middleware,
    Parallel,
    Posthook,
    Router,
    RunEnded,
    RunOutput,
    Step,
    StepInput,
    StepOutput,
    Team,
    ToolAnswered,
    ToolCalled,
    ToolInvocation,
    Workflow,
    tool,
)
from holdfast.agents.around import Next
from holdfast.agents.history import results_of
from holdfast.ids import now
from holdfast.testing.model_server import Answer, Request, call

from .conftest import Counting, Models, sent, statuses, texts, there, told, until


@dataclasses.dataclass(frozen=True)
class Invoice:
    number: int
    due: datetime.date


register(Invoice, name="tests.agents.Invoice")


@tool(confirm=True)
def pay() -> str:
    """Pay."""
    return "paid"


class Work:
    """Functions that note what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def says(self, name: str, gives: Any = None) -> Callable[[StepInput], Any]:
        def step(given: StepInput) -> Any:
            self.done.append(name)
            return gives if gives is not None else f"{name}({given.previous_step_content or given.input})"

        step.__name__ = name
        return step

    def fails(self, name: str, times: int) -> Callable[[StepInput], Any]:
        def step(given: StepInput) -> Any:
            self.done.append(name)
            if self.done.count(name) <= times:
                raise ValueError(f"{name} failed")
            return f"{name} at last"

        step.__name__ = name
        return step


@pytest.fixture
def work() -> Work:
    return Work()


def made(store: Store, *steps: Any, **options: Any) -> Workflow:
    return Workflow(steps, name="flow", store=store, **options)


async def too_late(paused: RunOutput) -> None:
    """Wait until nothing can be decided any more."""

    async def expired() -> bool:
        return all(it.has_expired(now()) for it in paused.requirements)

    await until(expired)


# --- what a step may be ----------------------------------------------------------------------------------------------


async def test_steps_are_done_one_after_the_other_and_each_is_stored(store: Store, work: Work) -> None:
    flow = made(store, work.says("a"), work.says("b"))
    output = await flow.run("go", session_id="s")
    assert (output.status, output.content, output.agent, work.done) == ("completed", "b(a(go))", "flow", ["a", "b"])
    assert await texts(await there(flow, "s")) == ["go", "a()", "=a(go)", "b()", "=b(a(go))", "b(a(go))"]
    assert (await flow.get_chat_history("s"))[-1].text == "b(a(go))"


async def test_the_input_is_all_that_users_say_and_nothing_but_text(models: Models, store: Store, work: Work) -> None:
    writer = models.agent(["Done."], name="writer", store=store)
    flow = made(store, writer, work.says("b"))
    await flow.run([user("first"), user("second")], session_id="s")
    assert sent(models.requests[0]) == ["first\n\nsecond"]
    image = Message("user", (Text("see"), Uri("image", "https://example.org/a.png")))
    for input, message in ((image, "this image: keep it"), ([system("be short"), user("x")], "role 'system'")):
        with pytest.raises(InvalidValue, match=message):
            await flow.run(input, session_id="t")
    assert (len(models.requests), work.done) == (1, ["b"])


async def test_functions_are_plain_or_async_and_may_take_the_session(store: Store) -> None:
    seen: list[Any] = []

    def plain(given: StepInput, session: Session) -> str:
        session.state["plain"] = given.input
        seen.append(threading.current_thread() is threading.main_thread())
        return "p"

    async def awaited(given: StepInput, session: Session) -> str:
        seen.append(session.state["plain"])
        assert given.session is session
        assert Session.current() is session
        return given.previous_step_content + "a"

    flow = made(store, plain, awaited)
    assert (await flow.run("go", session_id="s")).content == "pa"
    assert seen == [False, "go"], "what doesn't await runs in a thread"
    assert (await there(flow, "s")).state["plain"] == "go"


async def test_a_step_sees_what_each_before_it_gave(memory: Store, work: Work) -> None:
    def last(given: StepInput) -> Any:
        return [given.get_step_content("a"), given.get_step_content("b"), given.get_step_content("c"), dict(given.previous_step_outputs)]

    output = await made(memory, work.says("a"), work.says("b"), last).run("go", session_id="s")
    assert output.content == ["a(go)", "b(a(go))", None, {"a": "a(go)", "b": "b(a(go))"}]


async def test_agents_are_steps_in_sessions_of_their_own(models: Models, store: Store, work: Work) -> None:
    writer = models.agent(["A draft.", "Another."], name="writer", store=store)
    flow = made(store, work.says("find"), writer, work.says("print"))
    assert (await flow.run("ants", session_id="s", user_id="ada")).content == "print(A draft.)"
    await flow.run("bees", session_id="s", user_id="ada")
    assert [sent(it) for it in models.requests] == [["find(ants)"], ["find(ants)", "A draft.", "find(bees)"]]
    infos = [it async for it in store.sessions(parent="s", user_id="ada")]
    assert [(it.id, it.kind, it.user_id, it.agent) for it in infos] == [("s/writer", "member", "ada", "writer")]


async def test_a_function_that_runs_an_agent_may_give_its_output(models: Models, store: Store) -> None:
    """The answer is what counts; a run without one is an error that says whose."""
    helper = models.agent(["Helped.", "Again.", call("pay")], store=store, tools=[pay])

    async def ask(given: StepInput) -> Any:
        return await helper.run(given.input)

    async def stop(given: StepInput) -> StepOutput:
        return StepOutput(content=await helper.run(given.input), stop=True)

    assert (await made(store, ask).run("go", session_id="s")).content == "Helped."
    assert (await made(store, stop).run("go", session_id="t")).content == "Again."
    with pytest.raises(UsageError, match=r"step 'ask' gave run '\w+' of session '\w+', which is paused and has no answer"):
        await made(store, ask).run("go", session_id="u")


async def test_agents_without_a_name_have_the_session_of_their_step(models: Models, store: Store) -> None:
    one, two = models.agent(["1"], store=store), models.agent(["2"], store=store)
    assert (await made(store, Step(one, name="one"), Step(two, name="two")).run("go", session_id="s")).content == "2"
    assert [sent(it) for it in models.requests] == [["go"], ["1"]]
    assert {it.id async for it in store.sessions(parent="s")} == {"s/one", "s/two"}


async def test_teams_and_workflows_are_steps(models: Models, store: Store, work: Work) -> None:
    member = models.agent(["It rains."], name="news", store=store)
    server = models.serve([call("delegate", member="news", task="weather"), "Umbrella."])
    team = Team(models.model(server), name="team", members=[member], store=store)
    inner = Workflow([work.says("in")], name="inner", store=store)
    flow = made(store, team, inner)
    assert (await flow.run("go", session_id="s")).content == "in(Umbrella.)"
    assert {it.id async for it in store.sessions()} == {"s", "s/team", "s/team/news", "s/inner"}


async def test_a_step_that_stops_ends_the_workflow_with_what_it_gave(store: Store, work: Work) -> None:
    flow = made(store, work.says("a"), Step(lambda _: StepOutput(content="enough", stop=True), name="stop"), work.says("b"))
    output = await flow.run("go", session_id="s", run_id="r")
    assert (output.status, output.content, work.done) == ("completed", "enough", ["a"])
    assert (await flow.run("go", session_id="s", run_id="r")).content == "enough"


# --- put together ----------------------------------------------------------------------------------------------------


async def test_parallel_steps_run_at_the_same_time_and_give_a_dict(store: Store) -> None:
    both = asyncio.Barrier(2)

    async def meet(given: StepInput) -> str:
        async with asyncio.timeout(5):
            await both.wait()
        return given.input

    flow = made(store, Parallel(Step(meet, name="a"), Step(meet, name="b")), Step(lambda given: given.previous_step_content, name="end"))
    assert (await flow.run("go", session_id="s")).content == {"a": "go", "b": "go"}


async def test_agents_in_parallel(models: Models, store: Store) -> None:
    agents = [models.agent(lambda request: f"{sent(request)[-1]}!", name=name, store=store) for name in ("a", "b", "c")]
    assert (await made(store, Parallel(*agents)).run("go", session_id="s")).content == {"a": "go!", "b": "go!", "c": "go!"}


@pytest.mark.parametrize(("answer", "gives"), [(True, "yes(x)"), (False, "no(x)"), (0, "no(x)"), ("x", "yes(x)")])
async def test_a_condition_chooses(memory: Store, work: Work, answer: Any, gives: str) -> None:
    flow = made(memory, Condition(lambda _: answer, work.says("yes"), otherwise=[work.says("no")]))
    assert (await flow.run("x", session_id="s")).content == gives


async def test_a_condition_without_otherwise_leaves_things_as_they_are(memory: Store, work: Work) -> None:
    async def never(given: StepInput) -> bool:
        return False

    output = await made(memory, work.says("a"), Condition(never, [work.says("b")]), work.says("c")).run("x", session_id="s")
    assert output.content == "c(a(x))"


async def test_a_loop_goes_on_until_it_is_enough(memory: Store, work: Work) -> None:
    flow = made(memory, Loop([work.says("more")], until=lambda given: given.previous_step_content.count("more") == 2, times=5))
    assert (await flow.run("x", session_id="s")).content == "more(more(x))"
    assert work.done == ["more", "more"]


async def test_a_loop_ends_after_its_times(memory: Store, work: Work) -> None:
    assert (await made(memory, Loop(work.says("m"), times=3)).run("x", session_id="s")).content == "m(m(m(x)))"
    assert (await made(memory, Loop(work.says("m"), until=lambda _: False, times=1)).run("y", session_id="s")).content == "m(y)"


async def test_a_router_takes_one_or_several_of_its_choices(memory: Store, work: Work) -> None:
    choices = [work.says("a"), work.says("b"), work.says("c")]
    assert (await made(memory, Router(lambda _: "b", choices)).run("x", session_id="s")).content == "b(x)"
    assert (await made(memory, Router(lambda _: ["c", "a"], choices)).run("x", session_id="t")).content == "a(c(x))"
    assert (await made(memory, work.says("d"), Router(lambda _: [], choices)).run("x", session_id="u")).content == "d(x)"


async def test_a_router_that_chooses_none_of_its_choices_is_an_error_that_names_them(memory: Store, work: Work) -> None:
    flow = made(memory, Router(lambda _: "z", [work.says("a"), work.says("b")]))
    with pytest.raises(ValueError, match="chose 'z', which is none of a, b"):
        await flow.run("x", session_id="s")
    assert await statuses(await there(flow, "s")) == ["error"]


@pytest.mark.parametrize("chosen", [3, True, ["a", 3], [["a"]]])
async def test_a_router_that_chooses_no_name_is_an_error_that_says_what_to_give(memory: Store, work: Work, chosen: Any) -> None:
    with pytest.raises(ValueError, match=r"router 'router' chose .*, which is none of a, b: give the name of one, or a list of names"):
        await made(memory, Router(lambda _: chosen, [work.says("a"), work.says("b")])).run("x", session_id="s")


async def test_a_choice_that_was_made_is_not_made_again(memory: Store, work: Work) -> None:
    """What was done belongs to what was chosen: a test that says something else on another try would orphan it."""
    asked: list[str] = []

    def choose(given: StepInput) -> str:
        asked.append(given.input)
        return "a" if len(asked) == 1 else "b"

    flow = made(memory, Router(choose, [work.fails("a", 1), work.says("b")]))
    with pytest.raises(ValueError, match="a failed"):
        await flow.run("x", session_id="s", run_id="r")
    assert (await flow.run("x", session_id="s", run_id="r")).content == "a at last"
    assert (len(asked), work.done) == (1, ["a", "a"])


async def test_everything_nested_has_the_same_paths_in_every_try(memory: Store, work: Work) -> None:
    flow = made(
        memory,
        work.says("a"),
        Parallel(
            Step(work.says("b"), name="b"),
            Condition(lambda _: True, Loop([work.says("c"), Parallel(work.says("d"), work.fails("e", 1))], times=2), name="if"),
        ),
        Router(lambda _: ["g", "f"], [work.says("f"), work.says("g")]),
    )
    with pytest.raises(ValueError, match="e failed"):
        await flow.run("x", session_id="s", run_id="r")
    first = {it.path: it.done for it in await flow.get_progress("r", "s")}
    assert all(first.values())
    await flow.run("x", session_id="s", run_id="r")
    paths = [it.path for it in await flow.get_progress("r", "s")]
    assert len(paths) == len(set(paths))
    loop = "parallel/if/loop"
    assert set(paths) == {
        "a",
        "parallel/b",
        "parallel/if?",
        *(f"{loop}/{n}/{it}" for n in (1, 2) for it in ("c", "parallel/d", "parallel/e")),
        f"{loop}/1/parallel/e#2",
        "router?",
        "router/f",
        "router/g",
    }
    assert set(first) <= set(paths)
    assert {name: work.done.count(name) for name in "abcdefg"} == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "f": 1, "g": 1}


# --- errors and tries ------------------------------------------------------------------------------------------------


async def test_what_failed_is_tried_again_under_its_run_id_and_the_rest_is_not(store: Store, work: Work) -> None:
    flow = made(store, work.says("a"), work.fails("b", 2), work.says("c"))
    for _ in range(2):
        with pytest.raises(ValueError, match="b failed"):
            await flow.run("go", session_id="s", run_id="r")
    output = await flow.run("go", session_id="s", run_id="r")
    assert (output.content, work.done) == ("c(b at last)", ["a", "b", "b", "b", "c"])
    session = await there(flow, "s")
    assert [(run.status, run.attempt) for run in await session.runs()] == [("completed", 3)]
    assert [it.path for it in await flow.get_progress("r", "s")] == ["a", "b", "b#2", "b#3", "c"]
    assert "=ValueError: b failed" in await texts(session)


@pytest.mark.parametrize("plain", [True, False])
async def test_a_step_that_raises_stop_iteration_has_failed(memory: Store, plain: bool) -> None:
    """No future takes that exception, so nobody would hear of it."""
    queue = iter(list[str]())

    def take(given: StepInput) -> str:
        return next(queue)

    async def take_later(given: StepInput) -> str:
        return next(queue)

    flow = made(memory, Step(take if plain else take_later, name="take"))
    with pytest.raises(RuntimeError, match="step 'take' raised StopIteration" if plain else "raised StopIteration") as raised:
        await asyncio.wait_for(flow.run("go", session_id="s"), 10)
    assert isinstance(raised.value.__cause__, StopIteration)
    assert await statuses(await there(flow, "s")) == ["error"]


async def test_of_parallel_steps_one_fails_and_what_the_others_did_is_kept(store: Store, work: Work) -> None:
    flow = made(store, Parallel(work.says("a"), work.fails("b", 1), work.says("c")))
    with pytest.raises(ValueError, match="b failed"):
        await flow.run("go", session_id="s", run_id="r")
    output = await flow.run("go", session_id="s", run_id="r")
    assert output.content == {"a": "a(go)", "b": "b at last", "c": "c(go)"}
    assert sorted(work.done) == ["a", "b", "b", "c"]


async def test_an_error_beside_a_stop_is_an_error(memory: Store, work: Work) -> None:
    stop = Step(lambda _: StepOutput(content="enough", stop=True), name="stop")
    flow = made(memory, Parallel(stop, work.fails("b", 1)))
    with pytest.raises(ValueError, match="b failed"):
        await flow.run("go", session_id="s", run_id="r")
    assert (await flow.run("go", session_id="s", run_id="r")).content == "enough"


async def test_an_agent_that_failed_goes_on_in_its_own_run(models: Models, store: Store, work: Work) -> None:
    looked: list[int] = []

    def look() -> str:
        """Look."""
        looked.append(1)
        return "seen"

    server = models.serve([call("look"), Answer(status=400), "I saw it."])
    flow = made(store, models.agent(server, name="a", tools=[look], store=store), work.says("b"))
    with pytest.raises(Exception, match="400"):
        await flow.run("go", session_id="s", run_id="r")
    output = await flow.run("go", session_id="s", run_id="r")
    assert (output.content, len(looked)) == ("b(I saw it.)", 1)
    assert sent(server.requests[2]) == ["go", "look()", "=seen"]
    assert [(run.status, run.attempt) for run in await (await there(flow, "s/a")).runs()] == [("completed", 2)]
    assert [(it.path, it.done) for it in await flow.get_progress("r", "s")] == [("a", True), ("b", True)]


async def test_a_workflow_in_a_workflow_goes_on_where_it_failed(store: Store, work: Work) -> None:
    inner = Workflow([work.says("in"), work.fails("bad", 1)], name="inner", store=store)
    flow = made(store, work.says("a"), inner, work.says("b"))
    with pytest.raises(ValueError, match="bad failed"):
        await flow.run("go", session_id="s", run_id="r")
    assert (await flow.run("go", session_id="s", run_id="r")).content == "b(bad at last)"
    assert work.done == ["a", "in", "bad", "bad", "b"]


async def test_a_completed_run_is_given_again_without_doing_anything(store: Store, work: Work) -> None:
    flow = made(store, work.says("a"))
    for _ in range(2):
        assert (await flow.run("go", session_id="s", run_id="r")).content == "a(go)"
    assert work.done == ["a"]


# --- people ----------------------------------------------------------------------------------------------------------


async def test_a_step_waits_for_consent(store: Store, work: Work) -> None:
    flow = made(store, work.says("a"), Step(work.says("send"), confirm=True), work.says("c"))
    paused = await flow.run("go", session_id="s")
    (it,) = paused.requirements
    assert (paused.status, it.kind, it.call.name, work.done) == ("paused", "confirmation", "send", ["a"])
    assert (await there(flow, "s")).info.waiting
    done = await flow.continue_run(paused, [it.approve()])
    assert (done.content, work.done) == ("c(send(a(go)))", ["a", "send", "c"])
    assert not (await there(flow, "s")).info.waiting


async def test_a_function_marked_as_a_tool_waits_for_consent_too(memory: Store, work: Work) -> None:
    flow = made(memory, tool(confirm=True)(work.says("send")))
    paused = await flow.run("go", session_id="s")
    assert (paused.status, work.done) == ("paused", [])
    assert (await flow.continue_run(paused, [paused.requirements[0].approve()])).content == "send(go)"


@pytest.mark.parametrize("nested", [False, True])
async def test_who_approves_an_agents_step_may_change_what_it_is_told(models: Models, store: Store, nested: bool) -> None:
    """Also where the agent fails then, and goes on in another try."""
    payer = models.agent([Answer(status=400), "Paid."], name="payer", store=store)
    step = Step(payer, confirm=True)
    flow = made(store, Workflow([step], name="inner", store=store) if nested else step)
    paused = await flow.run("pay 1000", session_id="s", run_id="r")
    (it,) = paused.requirements
    assert it.call.arguments == {"message": "pay 1000"}
    with pytest.raises(Exception, match="400"):
        await flow.continue_run(paused, [it.approve(message="pay 10")])
    assert (await flow.run("pay 1000", session_id="s", run_id="r")).content == "Paid."
    assert [sent(it) for it in models.requests] == [["pay 10"], ["pay 10"]]


@pytest.mark.parametrize("how", ["decided", "from outside"])
async def test_a_step_that_was_cancelled_is_asked_about_again_when_the_run_is_tried_again(memory: Store, work: Work, how: str) -> None:
    flow = made(memory, Step(work.says("send"), confirm=True), work.says("next"))
    paused = await flow.run("go", session_id="s", run_id="r")
    if how == "decided":
        await flow.continue_run(paused, [paused.requirements[0].cancel()])
    else:
        await flow.cancel_run("r", "s")
    again = await flow.run("go", session_id="s", run_id="r")
    assert (again.status, [it.kind for it in again.requirements]) == ("paused", ["confirmation"])
    assert (await flow.continue_run(again, [again.requirements[0].approve()])).content == "next(send(go))"


async def test_what_is_not_a_steps_to_change_is_refused_and_decided_anew(models: Models, store: Store, work: Work) -> None:
    flow = made(store, Step(models.agent(["Paid."], name="payer", store=store), confirm=True), Step(work.says("send"), confirm=True))
    paused = await flow.run("pay 1000", session_id="s")
    with pytest.raises(InvalidValue, match=r"approve\(amount=...\): step 'payer' takes no such argument, only its message can be changed"):
        await flow.continue_run(paused, [paused.requirements[0].approve(amount=10)])
    with pytest.raises(InvalidValue, match=r"approve\(message=10\): what step 'payer' is told is text"):
        await flow.continue_run(paused, [paused.requirements[0].approve(message=10)])
    paused = await flow.continue_run(paused, [paused.requirements[0].approve()])
    with pytest.raises(InvalidValue, match="what a function is given can't be changed"):
        await flow.continue_run(paused, [paused.requirements[0].approve(message="x")])
    assert (await flow.continue_run(paused, [paused.requirements[0].approve()])).content == "send(Paid.)"


async def test_a_step_that_nobody_decided_on_in_time_is_not_done(memory: Store, work: Work) -> None:
    flow = made(memory, tool(confirm=True, expires=0.01)(work.says("send")), work.says("c"))
    paused = await flow.run("go", session_id="s")
    assert paused.requirements[0].expires is not None
    await too_late(paused)
    assert "in time" in (await flow.continue_run(paused)).content
    assert work.done == ["c"]


async def test_a_denied_step_gives_the_reason_and_a_cancelled_one_ends_the_run(store: Store, work: Work) -> None:
    flow = made(store, Step(work.says("send"), confirm=True), work.says("c"))
    first, second = [await flow.run("go", session_id=id) for id in ("s", "t")]
    denied = await flow.continue_run(first, [first.requirements[0].deny("not today")])
    assert denied.status == "completed"
    assert "not today" in denied.content
    ended = await flow.continue_run(second, [second.requirements[0].cancel()])
    assert (ended.status, work.done) == ("cancelled", ["c"])


@pytest.mark.parametrize("by", ["deny", "expired"])
async def test_what_decides_is_no_and_nothing_where_people_did_not_let_it(store: Store, work: Work, by: str) -> None:
    """Also on another try: what the log has for a result is words."""

    def says(name: str, gives: Any) -> Any:
        return tool(confirm=True, expires=0.01 if by == "expired" else None)(work.says(name, gives))

    flow = made(
        store,
        Condition(says("ok", True), work.says("yes"), otherwise=work.says("no")),
        Loop(work.says("more"), until=says("enough", True), times=2),
        Router(says("which", "a"), [work.says("a")]),
        work.fails("end", 1),
    )

    async def refused(paused: RunOutput) -> RunOutput:
        if by == "expired":
            await too_late(paused)
        return await flow.continue_run(paused, [it.deny("no") for it in paused.requirements if by == "deny"])

    paused = await flow.run("x", session_id="s", run_id="r")
    for name in ("condition?", "loop?", "loop?"):
        assert [it.call.name for it in paused.requirements] == [name]
        paused = await refused(paused)
    with pytest.raises(ValueError, match="end failed"):
        await refused(paused)
    assert (await flow.run("x", session_id="s", run_id="r")).content == "end at last"
    assert work.done == ["no", "more", "more", "end", "end"]


async def test_a_step_that_waits_lets_the_others_end_first(store: Store, work: Work) -> None:
    flow = made(
        store,
        Parallel(
            Step(work.says("send"), confirm=True),
            Parallel(work.says("a"), Step(work.says("ship"), confirm=True), name="inner"),
            work.says("b"),
        ),
        work.says("end", "done"),
    )
    paused = await flow.run("go", session_id="s")
    assert (sorted(it.call.name for it in paused.requirements), sorted(work.done)) == (["send", "ship"], ["a", "b"])
    first, second = paused.requirements
    again = await flow.continue_run(paused, [second.approve()])
    assert (again.status, again.requirements, sorted(work.done)) == ("paused", (first,), ["a", "b"])
    done = await flow.continue_run(paused, [first.approve()])
    assert (done.content, sorted(work.done)) == ("done", ["a", "b", "end", "send", "ship"])


async def test_an_error_beside_a_step_that_waits_is_an_error_and_both_come_again(store: Store, work: Work) -> None:
    flow = made(store, Parallel(Step(work.says("send"), confirm=True), work.fails("b", 1)))
    with pytest.raises(ValueError, match="b failed"):
        await flow.run("go", session_id="s", run_id="r")
    paused = await flow.continue_run("r", session_id="s")
    assert [it.kind for it in paused.requirements] == ["confirmation"]
    done = await flow.continue_run(paused, [it.approve() for it in paused.requirements])
    assert done.content == {"send": "send(go)", "b": "b at last"}
    assert sorted(work.done) == ["b", "b", "send"]


@pytest.mark.parametrize("nested", [False, True])
async def test_what_an_agents_tool_waits_for_the_workflow_waits_for(models: Models, store: Store, work: Work, nested: bool) -> None:
    paid: list[int] = []

    @tool(confirm=True)
    def pay(n: int) -> str:
        """Pay."""
        paid.append(n)
        return "paid"

    payer = models.agent([call("pay", n=1), call("pay", n=2), "All paid."], name="payer", tools=[pay], store=store)
    step = Workflow([payer], name="inner", store=store) if nested else payer
    flow = made(store, Parallel(step, work.says("b")), Step(lambda given: given.previous_step_content, name="end"))
    first = await flow.run("go", session_id="s")
    assert (first.status, [it.agent for it in first.requirements], work.done) == ("paused", ["payer"], ["b"])
    second = await flow.continue_run(first, [first.requirements[0].approve()])
    assert (second.status, paid) == ("paused", [1])
    done = await flow.continue_run(second, [second.requirements[0].approve()])
    assert (done.content, paid, work.done) == ({step.name: "All paid.", "b": "b(go)"}, [1, 2], ["b"])
    assert [it async for it in store.requirements()] == []


async def test_cancel_ends_the_agents_of_its_steps(models: Models, store: Store) -> None:
    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        raise AssertionError

    payer = models.agent([call("pay")], name="payer", tools=[pay], store=store)
    flow = made(store, Workflow([payer], name="inner", store=store))
    paused = await flow.run("go", session_id="s")
    assert (await flow.continue_run(paused, [paused.requirements[0].cancel()])).status == "cancelled"
    assert [it async for it in store.requirements()] == []
    assert {it.id for it in (await store.list(waiting=True)).items} == set()


# --- broken off ------------------------------------------------------------------------------------------------------


class Broken:
    """A step that is cancelled while it works, the first time."""

    def __init__(self) -> None:
        self.times = 0
        self.begun = asyncio.Event()

    async def __call__(self, given: StepInput) -> str:
        self.times += 1
        if self.times == 1:
            self.begun.set()
            await asyncio.sleep(30)
        return f"sent {self.times}"


async def broken_off(flow: Workflow, broken: Broken) -> None:
    task = asyncio.create_task(flow.run("go", session_id="s", run_id="r"))
    await asyncio.wait_for(broken.begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("decision", ["retry", "supply"])
async def test_a_function_broken_off_is_not_done_again_by_itself(store: Store, work: Work, decision: str) -> None:
    broken = Broken()
    flow = made(store, work.says("a"), Step(broken, name="send"), work.says("c"))
    await broken_off(flow, broken)
    paused = await flow.run("go", session_id="s", run_id="r")
    (it,) = paused.requirements
    assert (paused.status, it.kind, it.call.name, broken.times) == ("paused", "unknown", "send", 1)
    done = await flow.continue_run(paused, [it.retry() if decision == "retry" else it.supply("sent by hand")])
    assert done.content == ("c(sent 2)" if decision == "retry" else "c(sent by hand)")
    assert (broken.times, work.done) == (2 if decision == "retry" else 1, ["a", "c"])


@pytest.mark.parametrize("marked", [False, True])
async def test_an_idempotent_step_is_done_again(memory: Store, marked: bool) -> None:
    broken = Broken()

    async def send(given: StepInput) -> str:
        return await broken(given)

    flow = made(memory, tool(idempotent=True)(send) if marked else Step(send, idempotent=True))
    await broken_off(flow, broken)
    assert (await flow.run("go", session_id="s", run_id="r")).content == "sent 2"


async def test_a_confirmed_step_broken_off_is_asked_about_and_not_confirmed_anew(memory: Store) -> None:
    broken = Broken()
    flow = made(memory, Step(broken, name="send", confirm=True))
    paused = await flow.run("go", session_id="s", run_id="r")
    task = asyncio.create_task(flow.continue_run(paused, [paused.requirements[0].approve()]))
    await asyncio.wait_for(broken.begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await flow.continue_run("r", session_id="s")
    assert [it.kind for it in again.requirements] == ["unknown"]
    assert (await flow.continue_run(again, [again.requirements[0].retry()])).content == "sent 2"


async def test_a_step_is_stored_before_the_next_one_begins(counting: Counting, counted: Store) -> None:
    seen: list[int] = []

    def step(given: StepInput) -> int:
        seen.append(counting.count)
        return 1

    await made(counted, *(Step(step, name=name) for name in "abc")).run("go", session_id="s")
    assert seen == [2, 4, 6], "the input, and before each step its call and the result of the one before"


async def test_what_a_hook_makes_of_its_result_is_what_is_stored(store: Store) -> None:
    class Doubled(Posthook):
        async def on_run(self, session: Session, requests: Any, agent: Any, reply: Any) -> Any:
            reply["price"] *= 2
            return reply

    inner = Workflow([lambda given: {"price": 20}], name="inner", posthooks=[Doubled()])
    outer = Workflow([inner, lambda given: given.previous_step_content["price"]], name="outer", store=store)
    assert (await outer.run("x", session_id="s", run_id="r")).content == 40
    assert (await outer.run("x", session_id="s", run_id="r")).content == 40
    assert (await (await store.session("s/inner")).get_messages())[-1].text == '{"price":40}'


async def test_progress_is_seen_while_it_runs(store: Store, work: Work) -> None:
    broken = Broken()
    flow = made(store, work.says("a"), Step(broken, name="wait"), work.says("c"))
    task = asyncio.create_task(flow.run("go", session_id="s", run_id="r"))
    await asyncio.wait_for(broken.begun.wait(), 5)
    other = made(store, work.says("a"), Step(broken, name="wait"), work.says("c"))
    assert [(it.path, it.name, it.done) for it in await other.get_progress("r", "s")] == [("a", "a", True), ("wait", "wait", False)]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await other.get_progress("unknown", "s") == []


async def test_steps_are_told_as_events(memory: Store, work: Work) -> None:
    events = await told(made(memory, work.says("a"), work.says("b")).run("go", session_id="s", stream=True))
    assert [it.name for it in events if isinstance(it, ToolCalled)] == ["a", "b"]
    assert [it.response for it in events if isinstance(it, ToolAnswered)] == ["a(go)", "b(a(go))"]
    assert isinstance(events[-1], RunEnded)
    assert "".join(event.text for event in events) == "b(a(go))"


# --- values ----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    {"a": [1, None, 2.5, True]},
    datetime.date(2026, 12, 24),
    decimal.Decimal("12.50"),
    Invoice(7, datetime.date(2026, 1, 2)),
    {"set": {1, 2}, "tuple": (1, "x")},
    b"\x00\xff",
    "",
    0,
    False,
    [],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_what_a_step_gives_is_the_same_on_another_try(store: Store, work: Work, value: Any) -> None:
    got: list[Any] = []

    def use(given: StepInput) -> Any:
        got.append(given.previous_step_content)
        if len(got) == 1:
            raise ValueError("not yet")
        return given.get_step_content("make")

    flow = made(store, Step(lambda _: value, name="make"), use)
    with pytest.raises(ValueError, match="not yet"):
        await flow.run("go", session_id="s", run_id="r")
    output = await flow.run("go", session_id="s", run_id="r")
    assert got == [value, value]
    assert [type(it) for it in got] == [type(value)] * 2
    assert output.content == value


@pytest.mark.parametrize("value", [*VALUES, "text", {"nan": float("inf")}, {(1, 2): 3}], ids=lambda value: type(value).__name__)
async def test_what_a_workflow_gives_is_the_same_when_it_is_asked_again(store: Store, value: Any) -> None:
    """Whoever asks: the same run, one who follows it, and the workflow of which it is a step that has to go on."""
    got: list[Any] = []

    def use(given: StepInput) -> str:
        got.append(given.previous_step_content)
        return "used"

    class Lost(Middleware):
        async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
            await call_next()
            if call.name == "flow" and not got:
                got.append(call.result)
                raise ConnectionError("lost")

    flow = made(store, Step(lambda _: value, name="make"))
    for _ in range(2):
        got.append((await flow.run("go", session_id="s", run_id="r")).content)
    (*_, last) = [event async for event in flow.follow("r", "s")]
    assert isinstance(last, RunEnded)
    got.append(last.output.content)
    assert got == [value] * 3
    assert [type(it) for it in got] == [type(value)] * 3

    got.clear()
    outer = Workflow([flow, use], name="outer", store=store, middleware=[Lost()])
    with pytest.raises(ConnectionError, match="lost"):
        await outer.run("go", session_id="o", run_id="r")
    await outer.run("go", session_id="o", run_id="r")
    assert got == [value] * 2
    assert [type(it) for it in got] == [type(value)] * 2


async def test_a_class_that_is_not_registered_is_told_as_plain_json_when_it_is_asked_again(memory: Store) -> None:
    @dataclasses.dataclass
    class Parcel:
        number: int

    flow = made(memory, Parallel(Step(lambda _: Parcel(7), name="make"), Step(lambda _: 1, name="one")))
    assert (await flow.run("go", session_id="s", run_id="r")).content == {"make": Parcel(7), "one": 1}
    assert (await flow.run("go", session_id="s", run_id="r")).content == {"make": {"number": 7}, "one": 1}


async def test_what_a_step_gives_reads_in_the_log_by_its_fields(memory: Store) -> None:
    """Also inside of something else."""

    class Parcel(BaseModel):
        number: int

    def make(_: StepInput) -> Any:
        return {"parcel": Parcel(number=7), "at": datetime.date(2026, 1, 2), "weight": decimal.Decimal("1.50")}

    flow = made(memory, Step(make, name="make"))
    await flow.run("go", session_id="s")
    told = [result.response for message in await (await there(flow, "s")).get_messages() for result in results_of(message)]
    assert told == [{"parcel": {"number": 7}, "at": "2026-01-02", "weight": "1.50"}]


async def test_what_can_not_be_stored_is_an_error_of_its_step_and_can_be_mended(memory: Store) -> None:
    gives: list[Any] = [object(), "mended"]
    flow = made(memory, Step(lambda _: gives.pop(0), name="make"))
    with pytest.raises(InvalidValue, match="step 'make' gave what can't be stored: value: object has no stored form"):
        await flow.run("go", session_id="s", run_id="r")
    assert await statuses(await there(flow, "s")) == ["error"]


# --- earlier runs ----------------------------------------------------------------------------------------------------


async def test_steps_are_told_of_earlier_runs_when_asked_for(models: Models, memory: Store) -> None:
    agent = models.agent(lambda request: "ok", name="a", store=memory, add_history_to_context=False)
    seen: list[str] = []

    def look(given: StepInput) -> str:
        seen.append(given.history)
        return given.input

    flow = made(memory, look, agent, add_workflow_history_to_steps=True, num_history_runs=1)
    for prompt in ("one", "two", "three"):
        await flow.run(prompt, session_id="s")
    assert seen == ["", "Earlier runs:\nuser: one\nassistant: ok", "Earlier runs:\nuser: two\nassistant: ok"]
    assert sent(models.requests[-1]) == [f"{seen[-1]}\n\nthree"]


async def test_without_being_asked_for_nothing_is_told_of_earlier_runs(memory: Store) -> None:
    seen: list[str] = []
    flow = made(memory, Step(lambda given: seen.append(given.history) or "x", name="look"))
    for _ in range(2):
        await flow.run("go", session_id="s")
    assert seen == ["", ""]


# --- a workflow that is spoken with ----------------------------------------------------------------------------------


async def test_an_agent_runs_the_workflow_or_answers_from_what_it_gave(models: Models, store: Store, work: Work) -> None:
    def rule(request: Request) -> Answer | str:
        said = sent(request)[-1]
        return call("run_workflow", input="ants") if said == "write" else f"It says {said.lstrip('=')}"

    server = models.serve(rule)
    flow = Workflow([work.says("a")], name="flow", store=store, agent=models.agent(server, store=store, name="speaker"))
    output = await flow.run("write", session_id="s", user_id="ada")
    assert output.content == "It says a(ants)"
    assert (await flow.run("what?", session_id="s", user_id="ada")).content == "It says what?"
    last = sent(models.requests[-1])
    assert (work.done, last[last.index("write") :]) == (["a"], ["write", "run_workflow()", "=a(ants)", "It says a(ants)", "what?"])
    runs = await (await there(flow, "s", "ada")).runs()
    assert {run.status for run in runs} == {"completed"}
    assert [it.root for it in runs] == [None, output.run_id, None]


async def test_the_model_of_a_workflows_agent_may_be_given_alone(chat: Models, memory: Store, work: Work) -> None:
    model = chat.model(chat.serve([call("run_workflow", input="x"), "done"]))
    flow = Workflow([work.says("a")], name="flow", store=memory, agent=model)
    assert (await flow.run("go", session_id="s")).content == "done"
    assert work.done == ["a"]


async def test_what_a_spoken_workflow_waits_for_its_agent_waits_for(models: Models, store: Store, work: Work) -> None:
    server = models.serve([call("run_workflow", input="ants"), "Sent."])
    flow = Workflow([Step(work.says("send"), confirm=True)], name="flow", store=store, agent=models.model(server))
    paused = await flow.run("write", session_id="s")
    assert (paused.status, [it.call.name for it in paused.requirements]) == ("paused", ["send"])
    done = await flow.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, work.done) == ("Sent.", ["send"])
    assert (await store.list(waiting=True)).items == []
    again = Workflow(
        [Step(work.says("send"), confirm=True)],
        name="flow",
        store=store,
        agent=models.model(models.serve([call("run_workflow", input="x")])),
    )
    paused = await again.run("write", session_id="t")
    assert (await again.continue_run(paused, [paused.requirements[0].cancel()])).status == "cancelled"
    assert [it async for it in store.requirements()] == []


# --- what a workflow can not be --------------------------------------------------------------------------------------


def test_what_a_workflow_can_not_be(chat: Models, memory: Store) -> None:
    def f(given: StepInput) -> str:
        return ""

    def g(given: StepInput) -> str:
        return ""

    def h(given: StepInput, amount: int) -> str:
        return ""

    def run_workflow(input: str) -> str:
        return ""

    nameless = chat.agent([], store=memory)
    talker = chat.agent([], store=memory, name="talker", tools=[run_workflow])
    duty = Team(chat.model(chat.servers[0]), members=[chat.agent([], name="a")], mode="handoff")
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: Workflow([]), "one step at least"),
        (lambda: Workflow([f, f]), r"two steps are called 'f': name one with Step\("),
        (lambda: Workflow([Parallel(f), Parallel(f)]), r"two steps are called 'parallel': name one with Parallel\("),
        (lambda: Workflow(["f"]), "a step is a function"),
        (lambda: Workflow([nameless]), "a name has 1 to 100"),
        (lambda: Workflow([Step(f, name="a/b")]), "no slash"),
        (lambda: Workflow([Step(f, name="a#2")]), "slash"),
        (lambda: Workflow([f], instructions="x"), "belongs to the agents"),
        (lambda: Workflow([f], tools=[f]), "belongs to the agents"),
        (lambda: Loop(f, times=0), "1 or more"),
        (lambda: Step(tool(external=True)(lambda _: ""), name="wire"), r"marked @tool\(external=True\).*make an agent with it the step"),
        (lambda: Condition(tool(ask=["amount"])(h), f, name="if"), r"step 'if\?' is marked @tool\(ask=\['amount'\]\)"),
        (lambda: Parallel(), "one step at least"),
        (lambda: Condition(f, []), "one step at least"),
        (lambda: Router(f, []), "one step at least"),
        (lambda: Workflow([Step(f, name="x"), Parallel(Step(g, name="x", confirm=True), g)]), "two different steps are called 'x'"),
        (lambda: Workflow([Loop(Step(f, idempotent=True)), f]), "two different steps are called 'f'"),
        (lambda: Workflow([Condition(f, g, name="c"), Step(g, name="c?")]), r"c\?"),
        (lambda: Workflow([f], agent=talker), "'talker'.* has a tool called 'run_workflow', as the tool is that starts the workflow"),
        (lambda: Workflow([f], agent=duty), "hands over to others, who could not start the workflow"),
    ]
    for make, message in refused:
        with pytest.raises(InvalidValue, match=message):
            make()


async def test_one_function_may_be_used_in_several_places(memory: Store, work: Work) -> None:
    f = work.says("f")
    flow = made(memory, f, Condition(lambda _: True, f), Parallel(f, Step(f, name="g")))
    assert (await flow.run("x", session_id="s")).content == {"f": "f(f(f(x)))", "g": "f(f(f(x)))"}


async def test_a_queue_of_runs_on_one_session_keeps_its_order(memory: Store, work: Work) -> None:
    flow = made(memory, work.says("a"))
    await asyncio.gather(*(flow.run(str(n), session_id="s") for n in range(5)))
    assert [it.text for it in await flow.get_chat_history("s") if it.role == "user"] == list("01234")


async def test_steps_that_take_a_while_do_not_hold_up_the_loop(memory: Store) -> None:
    gate = threading.Event()

    def slow(given: StepInput) -> str:
        assert gate.wait(5)
        return "x"

    task = asyncio.create_task(made(memory, slow).run("go", session_id="s"))

    async def begun() -> bool:
        session = await memory.get("s")
        return session is not None and await statuses(session) == ["running"]

    await until(begun)
    gate.set()
    assert (await task).content == "x"
