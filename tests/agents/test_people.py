"""People in the loop: what a run asks them, what their decisions do, once, and who may decide."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import Tool
from pydantic_ai.toolsets import CombinedToolset, FunctionToolset

import holdfast.sync
from holdfast import AlreadyDecided, InvalidValue, Session, SessionBusy, SessionNotFound, Store, ToolResult, UsageError, assistant, user
from holdfast.agents import Agent, Decision, History, RunOutput, RunStarted, Summaries, TextDelta, ToolAnswered, tool
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Counting, Models, output_of, sent, statuses, texts, there, told, until


class Desk:
    """The tools of a desk, and what they did."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def tools(self) -> list[Any]:
        @tool(confirm=True)
        def refund(order_id: str, amount: int = 5) -> str:
            """Pay an order back."""
            self.done.append((order_id, amount))
            return f"paid {amount} for {order_id}"

        @tool(ask=["amount", "due"])
        def invoice(order_id: str, amount: decimal.Decimal, due: datetime.date) -> str:
            """Write an invoice."""
            self.done.append((order_id, amount, due))
            return f"{order_id}: {amount} until {due}"

        @tool(external=True)
        def ship(order_id: str) -> str:
            """Ship an order."""
            raise AssertionError("somebody else does that")

        def look(order_id: str) -> str:
            """Look an order up."""
            self.done.append(order_id)
            return f"{order_id} is here"

        return [refund, invoice, ship, look]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def asked(output: RunOutput) -> list[tuple[str, str, Any]]:
    return [(it.kind, it.call.name, it.call.arguments) for it in output.requirements]


def batch(*calls: tuple[str, dict[str, Any]]) -> Answer:
    return Answer(calls=tuple(Call(name, arguments) for name, arguments in calls))


REFUND = call("refund", order_id="7")


# --- the four kinds --------------------------------------------------------------------------------------------------


async def test_an_approved_call_is_executed_and_the_model_goes_on(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([REFUND, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    assert (paused.status, paused.content, asked(paused)) == ("paused", None, [("confirmation", "refund", {"order_id": "7"})])
    assert not desk.done
    session = await there(agent, "s")
    assert (await statuses(session), session.info.waiting) == (["paused"], True)

    done = await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.status, done.content, done.run_id, desk.done) == ("completed", "Done.", paused.run_id, [("7", 5)])
    assert sent(models.requests[1]) == ["refund 7", "refund()", "=paid 5 for 7"]
    session = await there(agent, "s")
    assert await texts(session) == ["refund 7", "refund()", "=paid 5 for 7", "Done."]
    assert ([(run.status, run.attempt) for run in await session.runs()], session.info.waiting) == ([("completed", 1)], False)
    assert not await session.requirements()


async def test_a_call_is_approved_with_other_arguments(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([call("refund", order_id="7", amount=500), "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    done = await agent.continue_run(paused, [paused.requirements[0].approve(amount=50)])
    assert (done.content, desk.done) == ("Done.", [("7", 50)])
    assert sent(models.requests[1])[-1] == "=paid 50 for 7"


@pytest.mark.parametrize("how", ["decided", "from outside"])
async def test_the_model_knows_that_what_was_cancelled_was_not_executed(chat: Models, memory: Store, desk: Desk, how: str) -> None:
    agent = chat.agent([REFUND, "It was not refunded."], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    if how == "decided":
        await agent.continue_run(paused, [paused.requirements[0].cancel()])
    else:
        await agent.cancel_run(paused.run_id, "s")
    await agent.run("was it?", session_id="s")
    assert sent(chat.requests[1])[2] == "=A person cancelled the run that waited with this call: it was not executed."
    assert desk.done == []


@pytest.mark.parametrize(
    ("outcome", "value"),
    [("approve", "x"), ("approve", [1]), ("approve", False), ("approve", ""), ("deny", {"why": "no"}), ("cancel", "x")],
)
async def test_a_decision_with_what_it_can_not_have_is_refused(chat: Models, memory: Store, desk: Desk, outcome: Any, value: Any) -> None:
    """As it may come from elsewhere, not by the requirement's methods."""
    agent = chat.agent([REFUND, "Done."], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    version, (it,) = (await there(agent, "s")).version, paused.requirements
    with pytest.raises(InvalidValue, match=rf"{outcome}\(.*\) on confirmation of 'refund': it is decided with nothing"):
        await agent.continue_run(paused, [Decision(it.id, outcome, value)])
    assert ((await there(agent, "s")).version, desk.done) == (version, [])
    assert (await agent.continue_run(paused, [it.approve()])).content == "Done."


@pytest.mark.parametrize(("changed", "says"), [({"amount": "plenty"}, "valid integer"), ({"sum": 5}, "not permitted")])
async def test_arguments_that_fit_no_parameter_do_not_use_the_decision_up(
    chat: Models, memory: Store, desk: Desk, changed: dict[str, Any], says: str
) -> None:
    agent = chat.agent([REFUND, "Done."], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    version, (it,) = (await there(agent, "s")).version, paused.requirements
    with pytest.raises(InvalidValue, match=rf"approve\({next(iter(changed))}=.*\): 'refund' can't be called with it: .*{says}"):
        await agent.continue_run(paused, [it.approve(**changed)])
    assert ((await there(agent, "s")).version, desk.done) == (version, [])
    assert (await agent.continue_run(paused, [it.approve(amount="50")])).content == "Done."
    assert desk.done == [("7", 50)]


async def test_arguments_that_are_no_strict_json_can_not_be_changed_one_by_one(models: Models, memory: Store) -> None:
    """Saying so does not use the decision up."""
    paid: list[str] = []

    @tool(confirm=True)
    def pay(amount: float, tip: int = 1) -> str:
        """Pay."""
        paid.append(f"{amount} {tip}")
        return "paid"

    agent = models.agent([Answer(calls=(Call("pay", '{"amount": NaN}'),)), "Done."], store=memory, tools=[pay])
    paused = await agent.run("pay", session_id="s")
    (it,) = paused.requirements
    version = (await there(agent, "s")).version
    with pytest.raises(InvalidValue, match=r"approve\(tip\): the model gave 'pay' arguments that are no JSON object"):
        await agent.continue_run(paused, [it.approve(tip=2)])
    assert ((await there(agent, "s")).version, paid) == (version, [])
    assert ((await agent.continue_run(paused, [it.approve()])).content, paid) == ("Done.", ["nan 1"])


@pytest.mark.parametrize("reason", ["Too much.", None])
async def test_a_denied_call_is_not_executed_and_the_model_is_told_why(
    models: Models, store: Store, desk: Desk, reason: str | None
) -> None:
    agent = models.agent([REFUND, "Then not."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    done = await agent.continue_run(paused, [paused.requirements[0].deny(reason)])
    assert (done.status, done.content, desk.done) == ("completed", "Then not.", [])
    assert "denied" in sent(models.requests[1])[-1]
    assert (reason or "executed.") in sent(models.requests[1])[-1]


async def test_what_a_person_fills_in_comes_to_the_tool_in_its_types(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([call("invoice", order_id="7"), "Done."], store=store, tools=desk.tools())
    paused = await agent.run("invoice 7", session_id="s")
    (it,) = paused.requirements
    assert (it.kind, [field.name for field in it.fields]) == ("input", ["amount", "due"])
    assert it.fields[1].schema == {"type": "string", "format": "date"}
    (shown,) = [text for it in models.requests[0].body["tools"] if "Write an invoice" in (text := json.dumps(it))]
    assert "order_id" in shown
    assert "amount" not in shown, "the model was asked for what a person fills in"

    done = await agent.continue_run(paused, [it.answer(amount="12.50", due="2026-12-24")])
    assert (done.content, desk.done) == ("Done.", [("7", decimal.Decimal("12.50"), datetime.date(2026, 12, 24))])


async def test_what_does_not_fit_a_field_is_refused_and_may_be_given_again(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent([call("invoice", order_id="7"), "Done."], store=memory, tools=desk.tools())
    paused = await agent.run("invoice 7", session_id="s")
    (it,) = paused.requirements
    with pytest.raises(InvalidValue, match="amount, due"):
        it.answer(amount=1)
    with pytest.raises(InvalidValue, match="due"):
        await agent.continue_run(paused, [it.answer(amount=1, due="soon")])
    assert (await there(agent, "s")).info.waiting
    done = await agent.continue_run(paused, [it.answer(amount=1, due="2026-12-24")])
    assert done.status == "completed"


async def test_a_field_with_a_default_may_be_left_out(models: Models, store: Store) -> None:
    done: list[Any] = []

    @tool(ask=["amount", "due"])
    def invoice(order_id: str, amount: decimal.Decimal, due: datetime.date = datetime.date(2026, 12, 1)) -> str:
        """Write an invoice."""
        done.append((order_id, amount, due))
        return "written"

    agent = models.agent([call("invoice", order_id="7"), "Done."] * 2, store=store, tools=[invoice])
    paused = await agent.run("invoice 7", session_id="s")
    (it,) = paused.requirements
    assert [field.schema.get("default") for field in it.fields] == [None, "2026-12-01"]
    with pytest.raises(InvalidValue, match="asks for amount, due"):
        it.answer(due="2026-12-02")
    await agent.continue_run(paused, [it.answer(amount="1.5")])
    (it,) = (await agent.run("invoice 7", session_id="s")).requirements
    await agent.continue_run(it.run_id, [it.answer(amount=2, due="2026-12-02")], session_id="s")
    assert [(amount, due.day) for _, amount, due in done] == [(decimal.Decimal("1.5"), 1), (decimal.Decimal(2), 2)]


async def test_a_result_from_elsewhere_is_supplied(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([call("ship", order_id="7"), "On its way."], store=store, tools=desk.tools())
    paused = await agent.run("ship 7", session_id="s")
    assert asked(paused) == [("external", "ship", {"order_id": "7"})]
    done = await agent.continue_run(paused, [paused.requirements[0].supply({"parcel": 12})])
    assert done.content == "On its way."
    assert done.messages[2].parts == (ToolResult({"parcel": 12}, paused.requirements[0].call.id),)


async def test_a_call_that_was_broken_off_is_executed_again_only_when_a_person_says_so(models: Models, store: Store) -> None:
    started: list[str] = []

    async def refund(order_id: str) -> str:
        """Pay an order back."""
        started.append(order_id)
        if len(started) == 1:
            task.cancel()
            await asyncio.sleep(30)
        return "paid"

    agent = models.agent([REFUND, "Done."], store=store, tools=[refund])
    task = asyncio.create_task(agent.run("refund 7", session_id="s", run_id="r"))
    with pytest.raises(asyncio.CancelledError):
        await task
    await agent.continue_run("r", session_id="s")
    paused = await agent.continue_run("r", session_id="s")
    assert (paused.status, asked(paused)) == ("paused", [("unknown", "refund", {"order_id": "7"})])
    assert started == ["7"]
    done = await agent.continue_run(paused, [paused.requirements[0].retry()])
    assert (done.status, done.content, started) == ("completed", "Done.", ["7", "7"])


def as_object(it: Any) -> Any:
    return cast("Any", it) if isinstance(it, Tool) else Tool(it)


WAYS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "a tool object": ("wipe", lambda it: {"tools": [as_object(it)]}),
    "a toolset": ("wipe", lambda it: {"tools": [FunctionToolset([it])]}),
    "a toolset with a prefix": ("disk_wipe", lambda it: {"tools": [FunctionToolset([it]).prefixed("disk")]}),
    "a toolset with other names": ("erase", lambda it: {"tools": [FunctionToolset([it]).renamed({"erase": "wipe"})]}),
    "toolsets together": ("wipe", lambda it: {"tools": [CombinedToolset([FunctionToolset([it]), FunctionToolset([print])])]}),
    "an agent's": ("wipe", lambda it: {"own": [it]}),
    "an agent's tool object": ("wipe", lambda it: {"own": [as_object(it)]}),
}


@pytest.mark.parametrize("marked", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("way", WAYS)
async def test_consent_is_asked_for_however_the_tool_is_given(chat: Models, memory: Store, way: str, marked: bool) -> None:
    done: list[str] = []

    def wipe(disk: str) -> str:
        """Wipe a disk."""
        done.append(disk)
        return "wiped"

    name, given = WAYS[way]
    options = given(tool(confirm=True, expires=60)(wipe) if marked else Tool(wipe, requires_approval=True))
    server = chat.serve([call(name, disk="a"), "Done."])
    model = PydanticAgent(chat.impatient(server), tools=options.pop("own")) if "own" in options else chat.model(server)
    agent = Agent(model, store=memory, **options)
    paused = await agent.run("wipe a", session_id="s")
    assert (asked(paused), done) == ([("confirmation", name, {"disk": "a"})], [])
    assert (paused.requirements[0].expires is not None) == marked
    assert (await agent.continue_run(paused, [paused.requirements[0].approve(disk="b")])).content == "Done."
    assert done == ["b"]


@pytest.mark.parametrize("way", WAYS)
def test_what_only_a_function_itself_can_be_is_refused_in_a_toolset(chat: Models, memory: Store, way: str) -> None:
    @tool(external=True)
    def wipe(disk: str) -> str:
        """Wipe a disk."""
        raise NotImplementedError

    _, given = WAYS[way]
    options, server = given(wipe), chat.serve([])
    model = PydanticAgent(chat.impatient(server), tools=options.pop("own")) if "own" in options else chat.model(server)
    with pytest.raises(InvalidValue, match=r"tool 'wipe' waits for external: give its function in tools="):
        Agent(model, store=memory, **options)


async def test_a_question_beside_the_conversation_executes_nothing(chat: Models, memory: Store) -> None:
    """A name and a summary, of an agent of the engine that has tools and an output of its own."""
    done: list[str] = []

    def wipe(disk: str) -> str:
        """Wipe a disk."""
        done.append(disk)
        return "wiped"

    def rule(request: Request) -> Answer | str:
        return call("wipe", disk="a") if request.body.get("tools") else "A broken disk"

    inner = PydanticAgent(chat.impatient(chat.serve(rule)), tools=[wipe], output_type=[int, str], instructions="Wipe all.")
    agent = Agent(inner, store=memory, history=History(summaries=Summaries(keep=0, after=10**6)))
    session = await memory.session("s")
    await session.append(user("Please wipe my disk"), assistant("Which one?"))
    await agent.set_session_name("s", autogenerate=True)
    assert (await agent.get_session_name("s"), await agent.compact("s"), done) == ("A broken disk", "A broken disk", [])
    assert not any("Wipe all." in str(request.body) for request in chat.requests)


async def test_a_tool_of_the_engine_that_needs_approval_waits_too(models: Models, store: Store) -> None:
    done: list[str] = []

    def wipe(disk: str) -> str:
        """Wipe a disk."""
        done.append(disk)
        return "wiped"

    agent = models.agent([call("wipe", disk="a"), "Done."], store=store, tools=[Tool(wipe, requires_approval=True)])
    paused = await agent.run("wipe a", session_id="s")
    assert (asked(paused), done) == ([("confirmation", "wipe", {"disk": "a"})], [])
    reply = await agent.continue_run(paused, [paused.requirements[0].approve(disk="b")])
    assert (reply.content, done) == ("Done.", ["b"])


async def test_a_tool_may_take_the_session_beside_what_people_give(chat: Models, memory: Store) -> None:
    @tool(ask=["amount"])
    async def pay(session: Session, order_id: str, amount: int) -> str:
        """Pay."""
        session.state["paid"] = [order_id, amount]
        return "paid"

    agent = chat.agent([call("pay", order_id="7"), "Done."], store=memory, tools=[pay])
    paused = await agent.run("pay", session_id="s")
    await agent.continue_run(paused, [paused.requirements[0].answer(amount=3)])
    assert (await there(agent, "s")).state["paid"] == ["7", 3]


# --- several calls, several rounds -----------------------------------------------------------------------------------


async def test_of_a_batch_only_what_waits_waits_and_all_is_decided_at_once(models: Models, store: Store, desk: Desk) -> None:
    calls = batch(("look", {"order_id": "7"}), ("refund", {"order_id": "7"}), ("refund", {"order_id": "8"}), ("ship", {"order_id": "9"}))
    agent = models.agent([calls, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("do it", session_id="s")
    assert (desk.done, sorted(it.kind for it in paused.requirements)) == (["7"], ["confirmation", "confirmation", "external"])

    first, second, third = sorted(paused.requirements, key=lambda it: it.call.arguments["order_id"])
    done = await agent.continue_run(paused, [second.deny("no"), third.supply("parcel 12"), first.approve()])
    assert (done.content, desk.done) == ("Done.", ["7", ("7", 5)])
    told = sent(models.requests[1])
    assert [text for text in told if text.startswith("=")] == [
        "=7 is here",
        "=paid 5 for 7",
        "=A person denied this call: it was not executed. no",
        "=parcel 12",
    ]


async def test_decisions_come_one_by_one_and_nothing_is_done_before_the_last(models: Models, store: Store, desk: Desk) -> None:
    calls = batch(("refund", {"order_id": "7"}), ("refund", {"order_id": "8"}), ("refund", {"order_id": "9"}))
    agent = models.agent([calls, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("do it", session_id="s")
    one, two, three = paused.requirements
    again = await agent.continue_run(paused, [two.approve(amount=2)])
    assert (again.status, again.requirements, desk.done) == ("paused", (one, three), [])
    again = await agent.continue_run(again, [three.deny()])
    assert (again.status, again.requirements, desk.done) == ("paused", (one,), [])
    assert (await there(agent, "s")).info.waiting
    done = await agent.continue_run(again, [one.approve()])
    assert (done.status, done.content, sorted(desk.done)) == ("completed", "Done.", [("7", 5), ("8", 2)])
    assert len(models.requests) == 2


DECIDES = """
import sys, json
from holdfast.agents import Decision, tool
from holdfast.models import OpenAIChat
from holdfast.sync import Agent
url, store, run_id, decision, effects = sys.argv[1:]

@tool(confirm=True)
def refund(order_id: str) -> str:
    print(order_id, file=open(effects, "a"))
    return "paid"

agent = Agent(OpenAIChat(id="x", base_url=url, api_key="none"), store=store, tools=[refund])
output = agent.continue_run(run_id, [Decision(**json.loads(decision))], session_id="s", user_id="ada")
print(output.status, output.content)
"""


async def test_each_decision_may_come_in_another_process(chat: Models, file_store: Store, tmp_path: Path) -> None:
    server = chat.serve([batch(("refund", {"order_id": "7"}), ("refund", {"order_id": "8"})), "Done."])
    agent = chat.agent(server, store=file_store, tools=Desk().tools())
    paused = await agent.run("refund them", session_id="s", user_id="ada")
    printed: list[str] = []
    for it in paused.requirements:
        decision = json.dumps({"requirement": it.id, "outcome": "approve"})
        command = [sys.executable, "-W", "error", "-c", DECIDES, server.base_url, f"sqlite:///{tmp_path}/chat.db"]
        ended = await asyncio.to_thread(
            subprocess.run, [*command, paused.run_id, decision, f"{tmp_path}/effects"], capture_output=True, text=True, timeout=60
        )
        printed.append(ended.stdout or ended.stderr)
    assert printed == ["paused None\n", "completed Done.\n"]
    assert sorted((tmp_path / "effects").read_text().split()) == ["7", "8"]


async def test_a_run_pauses_as_often_as_it_has_to(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([REFUND, call("look", order_id="7"), call("ship", order_id="7"), "Done."], store=store, tools=desk.tools())
    first = await agent.run("refund and ship", session_id="s")
    second = await agent.continue_run(first, [first.requirements[0].approve()])
    assert (second.status, asked(second), desk.done) == ("paused", [("external", "ship", {"order_id": "7"})], [("7", 5), "7"])
    assert second.run_id == first.run_id
    done = await agent.continue_run(second, [second.requirements[0].supply("parcel 12")])
    assert (done.content, desk.done) == ("Done.", [("7", 5), "7"])
    assert await texts(await there(agent, "s")) == [
        "refund and ship",
        "refund()",
        "=paid 5 for 7",
        "look()",
        "=7 is here",
        "ship()",
        "=parcel 12",
        "Done.",
    ]


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_cancel_ends_the_run_and_leaves_a_session_that_goes_on(models: Models, store: Store, desk: Desk) -> None:
    calls = batch(("refund", {"order_id": "7"}), ("refund", {"order_id": "8"}))
    agent = models.agent([calls, "Hello."], store=store, tools=desk.tools())
    paused = await agent.run("refund them", session_id="s")
    ended = await agent.continue_run(paused, [paused.requirements[0].cancel(), paused.requirements[1].approve()])
    assert (ended.status, ended.content, ended.requirements, desk.done) == ("cancelled", None, (), [])
    session = await there(agent, "s")
    assert (await statuses(session), session.info.waiting, await session.requirements()) == (["cancelled"], False, [])
    assert (await agent.run("hi", session_id="s")).content == "Hello."
    with pytest.raises(UsageError, match="cancel"):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert not desk.done


async def test_what_nobody_decides_in_time_is_not_executed(models: Models, store: Store) -> None:
    done: list[str] = []

    @tool(confirm=True, expires=0.05)
    def refund(order_id: str) -> str:
        """Pay an order back."""
        done.append(order_id)
        return "paid"

    agent = models.agent([REFUND, "Too late."], store=store, tools=[refund])
    paused = await agent.run("refund 7", session_id="s")
    (it,) = paused.requirements
    assert it.expires is not None
    await until(lambda: _expired(it.expires))
    with pytest.raises(UsageError, match="expired"):
        await agent.continue_run(paused, [it.approve()])
    reply = await agent.continue_run(paused)
    assert (reply.status, reply.content, done) == ("completed", "Too late.", [])
    assert "in time" in sent(models.requests[1])[-1]
    assert not (await there(agent, "s")).info.waiting


async def _expired(expires: int | None) -> bool:
    return expires is not None and expires < datetime.datetime.now(datetime.UTC).timestamp() * 1_000_000


async def test_before_it_expires_it_waits_and_can_be_decided(chat: Models, memory: Store) -> None:
    @tool(external=True, expires=3600)
    def ship() -> str:
        """Ship."""
        raise AssertionError

    agent = chat.agent([call("ship"), "Done."], store=memory, tools=[ship])
    paused = await agent.run("ship", session_id="s")
    assert (await agent.continue_run(paused)).requirements == paused.requirements
    assert (await agent.continue_run(paused, [paused.requirements[0].supply(None)])).content == "Done."


# --- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handles", ["one agent", "two stores"])
async def test_of_two_who_decide_at_once_one_does_and_the_other_is_told(
    chat: Models, file_store: Store, tmp_path: Path, desk: Desk, handles: str
) -> None:
    server = chat.serve([REFUND, "Done."])
    agent = chat.agent(server, store=file_store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    (it,) = paused.requirements
    async with Store.open(f"sqlite:///{tmp_path}/chat.db") as other_store:
        other = agent if handles == "one agent" else chat.agent(server, store=other_store, tools=desk.tools())
        ended = await asyncio.gather(
            agent.continue_run(paused, [it.approve()]), other.continue_run(paused, [it.deny("no")]), return_exceptions=True
        )
    (won,) = [it for it in ended if isinstance(it, RunOutput)]
    (lost,) = [it for it in ended if not isinstance(it, RunOutput)]
    assert won.status == "completed"
    assert isinstance(lost, UsageError | SessionBusy)
    assert desk.done in ([], [("7", 5)])
    assert await statuses(await there(agent, "s")) == ["completed"]


async def test_ten_approvals_at_once_are_one_effect(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent([REFUND, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    going = (agent.continue_run(paused, [paused.requirements[0].approve()]) for _ in range(10))
    ended = await asyncio.gather(*going, return_exceptions=True)
    assert [type(it).__name__ for it in ended].count("RunOutput") == 1
    assert all(isinstance(it, RunOutput | UsageError | SessionBusy) for it in ended)
    assert desk.done == [("7", 5)]


async def test_a_decision_that_comes_second_is_refused(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([REFUND, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    (it,) = paused.requirements
    await agent.continue_run(paused, [it.approve()])
    for late in (it.approve(), it.deny(), it.cancel()):
        with pytest.raises(AlreadyDecided, match="approve"):
            await agent.continue_run(paused, [late])
    assert desk.done == [("7", 5)]
    assert (await agent.continue_run(paused)).content == "Done.", "a completed run is returned as it was"


class Killed(BaseException):
    """Stands for the end of a process: nothing more is stored."""


async def test_a_crash_between_a_decision_and_its_result_is_asked_about(chat: Models, counting: Counting, counted: Store) -> None:
    """The decision is used: whether the tool had its effect nobody knows, so it is never executed by itself."""
    done: list[str] = []

    @tool(confirm=True)
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        done.append(order_id)
        if len(done) == 1:
            counting.before = _dead
        return f"paid {len(done)}"

    async def _dead(*_: Any) -> None:
        raise Killed

    agent = chat.agent([REFUND, "Done."], store=counted, tools=[refund])
    paused = await agent.run("refund 7", session_id="s", lease=0.05)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # whichever way the death of the store is seen
        await agent.continue_run(paused, [paused.requirements[0].approve()], lease=0.05)
    counting.before = None
    assert done == ["7"]

    async def noticed() -> bool:
        return await statuses(await there(agent, "s")) == ["interrupted"]

    await until(noticed)
    with pytest.raises(AlreadyDecided):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    again = await agent.continue_run(paused)
    assert (again.status, asked(again), done) == ("paused", [("unknown", "refund", {"order_id": "7"})], ["7"])
    reply = await agent.continue_run(again, [again.requirements[0].supply("paid, said the bank")])
    assert (reply.content, done) == ("Done.", ["7"])
    assert sent(chat.requests[1])[-1] == "=paid, said the bank"


# --- what does not fit -----------------------------------------------------------------------------------------------


async def test_a_decision_that_does_not_fit_is_refused_before_anything_is_stored(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent([REFUND, "Done."], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    (it,) = paused.requirements
    version = (await there(agent, "s")).version
    for wrong in (it.retry, lambda: it.supply(1), lambda: it.answer(amount=1)):
        with pytest.raises(UsageError, match="is no decision on confirmation"):
            wrong()
    with pytest.raises(UsageError, match="none of this run's"):
        await agent.continue_run(paused, [Decision("another", "approve")])
    with pytest.raises(UsageError, match="was decided already"):
        await agent.continue_run(paused, [it.approve(), it.deny()])
    with pytest.raises(UsageError, match="no decision on"):
        await agent.continue_run(paused, [Decision(it.id, "supply", 1)])
    with pytest.raises(InvalidValue, match="the reason, a text"):
        it.deny(decimal.Decimal(1))  # pyright: ignore[reportArgumentType]  # a caller without a type checker
    with pytest.raises(InvalidValue, match=r"requirement\.approve"):
        await agent.continue_run(paused, ["yes"])  # pyright: ignore[reportArgumentType]
    assert (await there(agent, "s")).version == version
    assert (await agent.continue_run(paused, [it.approve()])).status == "completed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confirm": True, "external": True}, "one of them at most"),
        ({"ask": ["nobody"]}, "none of its parameters"),
        ({"ask": "order_id"}, "give a list"),
        ({"confirm": True, "expires": 0}, "positive number"),
        ({"confirm": True, "expires": float("nan")}, "positive number"),
    ],
)
def test_what_a_tool_can_not_be(options: dict[str, Any], message: str) -> None:
    def refund(order_id: str) -> str:
        return order_id

    with pytest.raises(InvalidValue, match=message):
        tool(**options)(refund)


async def test_what_is_not_there_can_not_be_continued(chat: Models, memory: Store) -> None:
    agent = chat.agent(["Hello."], store=memory)
    with pytest.raises(UsageError, match="nothing to continue"):
        await agent.continue_run("r", session_id="s")
    await agent.run("hi", session_id="s")
    with pytest.raises(UsageError, match="nothing to continue"):
        await agent.continue_run("r", session_id="s")


# --- who and where ---------------------------------------------------------------------------------------------------


async def test_open_requirements_are_found_by_session_by_store_and_by_user(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(lambda request: REFUND if "=" not in sent(request)[-1] else "Done.", store=store, tools=desk.tools(), name="desk")
    outputs = {user: await agent.run("refund", session_id=f"of {user}", user_id=user) for user in ("ada", "bob")}
    free = await agent.run("refund", session_id="free")
    await agent.run("refund", session_id="free")

    async def found(**wanted: Any) -> list[tuple[str, str | None]]:
        return sorted([(info.id, it.agent) for info, it in [each async for each in store.requirements(**wanted)]])

    assert await found(user_id="ada") == [("of ada", "desk")]
    assert await found() == [("free", "desk")] * 2, "who names nobody sees nobody's"
    assert len(await (await there(agent, "free")).requirements()) == 2
    assert {it.id for it in (await store.list(waiting=True)).items} == {"of ada", "of bob", "free"}

    await agent.continue_run(outputs["ada"], [outputs["ada"].requirements[0].approve()])
    assert await found(user_id="ada") == []
    assert {it.id for it in (await store.list(waiting=True, limit=10)).items} == {"of bob", "free"}
    await agent.continue_run(free, [free.requirements[0].deny()])
    assert (await there(agent, "free")).info.waiting, "the other run of the session still waits"
    assert len(await (await there(agent, "free")).requirements()) == 1


async def test_an_admin_sees_what_everybody_has_to_decide(chat: Models, file_store: Store, tmp_path: Path, desk: Desk) -> None:
    agent = chat.agent(lambda _: REFUND, store=file_store, tools=desk.tools())
    for name in ("ada", "bob"):
        await agent.run("refund", session_id=f"of {name}", user_id=name)
    async with Store.open(f"sqlite:///{tmp_path}/chat.db", as_admin=True) as admin:
        assert sorted([info.id async for info, _ in admin.requirements()]) == ["of ada", "of bob"]


@pytest.mark.parametrize("user_id", ["bob", None])
async def test_a_requirement_of_another_users_does_not_exist(models: Models, store: Store, desk: Desk, user_id: str | None) -> None:
    agent = models.agent([REFUND, "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s", user_id="ada")
    before = (await there(agent, "s", "ada")).version
    with pytest.raises((SessionNotFound, UsageError), match="there is no"):
        await agent.continue_run(paused.run_id, [paused.requirements[0].approve()], session_id="s", user_id=user_id)
    assert [each async for each in store.requirements(user_id=user_id)] == []
    assert (desk.done, (await there(agent, "s", "ada")).version) == ([], before)
    assert (await agent.continue_run(paused, [paused.requirements[0].approve()])).content == "Done.", "the output names the user"


async def test_a_run_that_is_cleared_away_can_not_be_continued(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent([REFUND], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    session = await there(agent, "s")
    session.clear()
    await session.commit()
    with pytest.raises(UsageError, match="nothing to continue"):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert (desk.done, await session.requirements()) == ([], [])


async def test_a_clear_takes_the_flag_away_with_what_was_waiting(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent([REFUND], store=store, tools=desk.tools())
    await agent.run("refund 7", session_id="s")
    session = await there(agent, "s")
    session.clear()
    await session.commit()
    assert [it.id for it in (await store.list(waiting=True)).items] == []


# --- a pause and the rest of the session -----------------------------------------------------------------------------


async def test_a_paused_run_is_left_out_of_others_and_in_them_after_its_end(models: Models, store: Store, desk: Desk) -> None:
    server = models.serve([REFUND, "Hello.", "Done.", "Again."])
    agent = models.agent(server, store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    await agent.run("hi", session_id="s")
    assert sent(server.requests[1]) == ["hi"]
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert sent(server.requests[2]) == ["hi", "Hello.", "refund 7", "refund()", "=paid 5 for 7"]
    await agent.run("and now?", session_id="s")
    assert sent(server.requests[3]) == ["hi", "Hello.", "refund 7", "refund()", "=paid 5 for 7", "Done.", "and now?"]


async def test_the_same_run_id_gives_the_pause_again_without_asking_anybody(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent([REFUND], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s", run_id="r")
    again = await agent.run("refund 7", session_id="s", run_id="r")
    assert (again.status, again.requirements, len(chat.requests)) == ("paused", paused.requirements, 1)


@pytest.mark.parametrize("prompt", ["stream", "whole"])
async def test_a_continued_run_streams(models: Models, store: Store, desk: Desk, prompt: str) -> None:
    agent = models.agent([REFUND, "All is paid, have a nice day."], store=store, tools=desk.tools())
    events = await told(agent.run("refund 7", session_id="s", stream=True)) if prompt == "stream" else None
    paused = output_of(events) if events else await agent.run("refund 7", session_id="s")
    assert paused.status == "paused"
    events = await told(agent.continue_run(paused, [paused.requirements[0].approve()], stream=True))
    assert isinstance(events[0], RunStarted)
    assert [it.response for it in events if isinstance(it, ToolAnswered)] == ["paid 5 for 7"]
    assert "".join(it.delta for it in events if isinstance(it, TextDelta)) == "All is paid, have a nice day."
    assert output_of(events).content == "All is paid, have a nice day."


def test_the_blocking_form_pauses_and_continues(chat: Models, tmp_path: Path, desk: Desk) -> None:
    server = chat.serve([REFUND, "Done.", REFUND, "Streamed."])
    with holdfast.sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:
        agent = holdfast.sync.Agent(chat.model(server), store=store, tools=desk.tools())
        paused = agent.run("refund 7", session_id="s", user_id="ada")
        assert isinstance(paused, RunOutput)
        ((info, it),) = list(store.requirements(user_id="ada"))
        assert (info.id, it) == ("s", paused.requirements[0])
        session = store.get("s", user_id="ada")
        assert session is not None
        assert session.requirements() == [it]
        done = agent.continue_run(paused, [it.approve()])
        assert (done.content, desk.done) == ("Done.", [("7", 5)])
        again = agent.run("refund 7", session_id="s", user_id="ada")
        with agent.continue_run(again, [again.requirements[0].deny()], stream=True) as stream:
            assert "".join(event.text for event in stream) == "Streamed."


async def test_of_a_batch_the_final_tool_answers_also_if_another_ends_last(chat: Models, memory: Store) -> None:
    closed = asyncio.Event()

    @tool(final=True)
    async def close() -> str:
        """Close the case."""
        closed.set()
        return "closed"

    async def look() -> str:
        """Look."""
        await closed.wait()
        await asyncio.sleep(0.01)
        return "seen"

    agent = chat.agent([batch(("close", {}), ("look", {}))], store=memory, tools=[close, look])
    assert (await agent.run("close it", session_id="s")).content == "closed"
    assert (await texts(await there(agent, "s")))[-2:] == ["=seen", "closed"]


async def test_a_final_tool_that_raises_is_no_answer(models: Models, memory: Store) -> None:
    @tool(final=True)
    def close() -> str:
        """Close the case."""
        raise LookupError("there is no case")

    agent = models.agent([call("close"), "There was none."], store=memory, tools=[close])
    assert (await agent.run("close it", session_id="s")).content == "There was none."


async def test_a_model_that_fails_after_a_decision_leaves_the_effect_stored(models: Models, store: Store, desk: Desk) -> None:
    agent = models.agent([REFUND, Answer(status=400), "Done."], store=store, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    with pytest.raises(Exception, match="400"):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert await statuses(await there(agent, "s")) == ["error"]
    done = await agent.continue_run(paused)
    assert (done.content, desk.done) == ("Done.", [("7", 5)])


async def test_an_agent_without_the_tool_any_more_tells_the_model(chat: Models, memory: Store, desk: Desk) -> None:
    """A deployment in the pause took the tool away."""
    server = chat.serve([REFUND, "It is gone."])
    paused = await chat.agent(server, store=memory, tools=desk.tools()).run("refund 7", session_id="s")
    later = chat.agent(server, store=memory, tools=[])
    done = await later.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, desk.done) == ("It is gone.", [])


def _rule(request: Request) -> Answer | str:
    return "Done." if sent(request)[-1].startswith("=") else REFUND


async def test_a_pause_costs_no_more_than_a_turn(chat: Models, counting: Counting, counted: Store, desk: Desk) -> None:
    agent = chat.agent(_rule, store=counted, tools=desk.tools())
    await agent.run("warm", session_id="warm")
    counting.made.clear()
    paused = await agent.run("refund", session_id="s")
    assert counting.made == ["commit", "commit", "commit"], "the input, the call, the pause"
    counting.made.clear()
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert counting.count <= 6


async def test_agents_that_share_a_session_continue_their_own(chat: Models, memory: Store, desk: Desk) -> None:
    one = chat.agent([REFUND, "One."], store=memory, tools=desk.tools(), name="one")
    two = chat.agent([REFUND, "Two."], store=memory, tools=desk.tools(), name="two")
    first, second = await one.run("a", session_id="s"), await two.run("b", session_id="s")
    assert [it.agent for it in await (await there(one, "s")).requirements()] == ["one", "two"]
    done: list[RunOutput] = [
        await two.continue_run(second, [second.requirements[0].approve()]),
        await one.continue_run(first, [first.requirements[0].approve()]),
    ]
    assert [it.content for it in done] == ["Two.", "One."]


def test_a_requirement_is_a_value_that_travels() -> None:
    """What is shown to a person elsewhere, and what comes back, is plain JSON."""
    it = Decision("r1", "approve", {"amount": 3})
    assert Decision(**json.loads(json.dumps({"requirement": "r1", "outcome": "approve", "value": {"amount": 3}}))) == it


async def test_a_paused_run_forked_away_is_still_the_originals(chat: Models, memory: Store, desk: Desk) -> None:
    agent: Agent = chat.agent([REFUND, "Done.", "Hello."], store=memory, tools=desk.tools())
    paused = await agent.run("refund 7", session_id="s")
    fork = await (await there(agent, "s")).fork("t")
    assert (await agent.continue_run(paused, [paused.requirements[0].approve()])).content == "Done."
    assert (await agent.run("hi", session=fork)).content == "Hello."
    assert desk.done == [("7", 5)]
