"""Handing a conversation over: whoever has it answers, in one session and one run, and keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast import InvalidValue, Session, Store, UsageError, user
from holdfast.agents import Agent, HandedOver, Middleware, Posthook, Team, ToolAnswered, ToolCalled, tool
from holdfast.entries import COMPLETED, PAUSED
from holdfast.testing.model_server import Answer, Call, call

from .conftest import Models, output_of, sent, texts, there, told
from .test_following import followed, joined


class Desk:
    """A team of three whose models answer from scripts of their own."""

    def __init__(self, models: Models, store: Store, leader: Any, billing: Any = (), **options: Any) -> None:
        self.leader, self.billing = models.serve(leader), models.serve(billing)
        self.paid: list[str] = []

        @tool(confirm=True)
        def refund(order: str) -> str:
            self.paid.append(order)
            return f"{order} refunded"

        member = Agent(models.model(self.billing), name="billing", instructions="Refunds and invoices.", tools=[refund])
        other = models.agent(["unused"], name="travel", instructions="Bookings.")
        self.team = Team(
            models.model(self.leader),
            name="desk",
            instructions="Greet people.",
            members=[member, other],
            mode="handoff",
            store=store,
            **options,
        )


def hand(agent: str, reason: str = "it fits") -> Answer:
    return call("hand_over", agent=agent, reason=reason)


async def test_another_agent_answers_in_the_same_run_and_keeps_the_conversation(models: Models, store: Store) -> None:
    desk = Desk(models, store, [hand("billing")], ["Which order?", "I see."])
    first = await desk.team.run("I want my money back", session_id="s")
    assert (first.content, first.agent) == ("Which order?", "billing")
    second = await desk.team.run("Order 7", session_id="s")
    assert second.content == "I see."
    assert (len(desk.leader.requests), len(desk.billing.requests)) == (1, 2)
    assert sent(desk.billing.requests[1])[-3:] == ["=billing has the conversation now.", "Which order?", "Order 7"]
    session = await there(desk.team, "s")
    assert [run.status for run in await session.runs()] == [COMPLETED, COMPLETED]
    handed = await session.entries(kinds=("handoff",))
    assert [(it.agent, it.data()) for it in handed] == [("desk", {"agent": "billing", "reason": "it fits", "team": "desk"})]
    assert session.get_all_keys() == []
    agents = [entry.agent for entry in await session.entries(kinds=("message",))]
    assert agents == ["desk", "desk", "desk", "billing", "desk", "billing"]


async def test_each_is_told_who_else_there_is_and_has_its_own_tools(chat: Models, memory: Store) -> None:
    desk = Desk(chat, memory, [hand("billing")], ["yes"])
    await desk.team.run("hi", session_id="s")
    asked, there_ = desk.leader.requests[0], desk.billing.requests[0]
    assert tools_of(asked) == ["hand_over"]
    assert tools_of(there_) == ["hand_over", "refund"]
    assert "Greet people." in instructions_of(asked)
    assert "- billing: Refunds and invoices." in instructions_of(asked)
    assert "- desk: Greet people." in instructions_of(there_)
    assert "- billing" not in instructions_of(there_)


def tools_of(request: Any) -> list[str]:
    return sorted(it.get("name") or it["function"]["name"] for it in request.body["tools"])


def instructions_of(request: Any) -> str:
    return "\n".join(str(it["content"]) for it in request.body["messages"] if it["role"] in ("system", "developer"))


async def test_a_conversation_is_handed_back_and_on(chat: Models, store: Store) -> None:
    desk = Desk(chat, store, [hand("billing"), "back with me"], [hand("desk", "done")])
    output = await desk.team.run("hi", session_id="s")
    assert (output.content, output.agent) == ("back with me", "desk")
    assert (await texts(await there(desk.team, "s")))[1:] == [
        "hi",
        "hand_over()",
        "=billing has the conversation now.",
        "hand_over()",
        "=desk has the conversation now.",
        "back with me",
    ]


async def test_it_streams_and_is_followed(models: Models, store: Store) -> None:
    desk = Desk(models, store, [hand("billing")], ["Which order do you mean?"])
    events = await told(desk.team.run("hi", session_id="s", stream=True))
    assert [type(event) for event in events[1:4]] == [ToolCalled, HandedOver, ToolAnswered]
    assert str(output_of(events)) == "Which order do you mean?"
    assert joined(await followed(desk.team, output_of(events).run_id)) == joined(events)


async def test_whoever_has_it_pauses_and_goes_on(models: Models, store: Store) -> None:
    desk = Desk(models, store, [hand("billing")], [call("refund", order="7"), "Done.", "Anything else?"])
    paused = await desk.team.run("refund 7", session_id="s")
    assert (paused.status, paused.requirements[0].agent, desk.paid) == (PAUSED, "billing", [])
    again = Desk(models, store, [], ["Done.", "Anything else?"])
    done = await again.team.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, again.paid) == ("Done.", ["7"])
    assert (await again.team.run("thanks", session_id="s")).content == "Anything else?"


async def test_a_run_that_failed_after_the_handover_goes_on_with_whoever_has_it(chat: Models, store: Store) -> None:
    desk = Desk(chat, store, [hand("billing")], [Answer(status=400)])
    with pytest.raises(Exception, match="400"):
        await desk.team.run("hi", session_id="s", run_id="r")
    again = Desk(chat, store, [], ["fine"])
    assert (await again.team.run("hi", session_id="s", run_id="r")).content == "fine"
    assert again.leader.requests == []


async def test_a_handover_beside_another_call_waits_for_its_result(chat: Models, store: Store) -> None:
    seen: list[str] = []

    def look() -> str:
        seen.append("looked")
        return "seen"

    both = Answer(calls=(Call("hand_over", {"agent": "billing"}), Call("look")))
    desk = Desk(chat, store, [both], ["yes"], tools=[look])
    assert (await desk.team.run("hi", session_id="s")).content == "yes"
    assert seen == ["looked"]


async def test_nobody_is_handed_to_who_is_not_there(chat: Models, memory: Store) -> None:
    desk = Desk(chat, memory, [hand("nobody"), hand("desk"), "I do it myself"])
    output = await desk.team.run("hi", session_id="s")
    assert (output.content, output.agent) == ("I do it myself", "desk")
    assert not await (await there(desk.team, "s")).entries(kinds=("handoff",))


async def test_handing_round_and_round_ends(chat: Models, memory: Store) -> None:
    desk = Desk(chat, memory, [hand("billing")] * 20, [hand("desk")] * 20)
    with pytest.raises(UsageError, match="handed over more than 16 times"):
        await desk.team.run("hi", session_id="s")


async def test_what_is_around_a_run_is_the_teams(chat: Models, memory: Store) -> None:
    class Last(Posthook):
        async def on_run(self, session: Session, requests: Any, agent: Any, reply: Any) -> Any:
            return f"{reply}!"

    class Counts(Middleware):
        def __init__(self) -> None:
            self.calls: list[tuple[int, str]] = []

        async def on_model_call(self, call: Any, call_next: Callable[[], Any]) -> None:
            self.calls.append((call.number, call.agent))
            await call_next()

    counts = Counts()
    desk = Desk(chat, memory, [hand("billing")], ["yes"], posthooks=[Last()], middleware=[counts])
    assert ((await desk.team.run("hi", session_id="s")).content, counts.calls) == ("yes!", [(1, "desk"), (2, "billing")])


async def test_sessions_are_apart_and_a_cleared_one_begins_with_the_leader(chat: Models, store: Store) -> None:
    desk = Desk(chat, store, [hand("billing"), "hello", "hello again"], ["yes"])
    await desk.team.run("hi", session_id="s")
    assert (await desk.team.run("hi", session_id="other")).content == "hello"
    session = await there(desk.team, "s")
    session.clear()
    await session.commit()
    assert (await desk.team.run("hi", session_id="s")).content == "hello again"


def test_what_such_a_team_can_not_be(chat: Models, memory: Store) -> None:
    model = chat.model(chat.serve([]))
    one = Agent(model, name="one", posthooks=[Posthook()])
    with pytest.raises(InvalidValue, match="has posthooks of its own"):
        Team(model, members=[one], mode="handoff", store=memory)
    with pytest.raises(InvalidValue, match="one is called 'one', as the leader is"):
        Team(model, name="one", members=[Agent(model, name="one")], mode="handoff", store=memory)

    def hand_over(to: str) -> str:
        return to

    for who in ("one", "lead"):
        tools = {"one": [], "lead": []} | {who: [hand_over]}
        with pytest.raises(InvalidValue, match=f"'{who}' has a tool called 'hand_over', as the tool is that hands"):
            Team(model, name="lead", members=[Agent(model, name="one", tools=tools["one"])], mode="handoff", tools=tools["lead"])
    inner = Team(model, name="inner", members=[Agent(model, name="one")], mode="handoff")
    with pytest.raises(InvalidValue, match="'inner' is a team that hands over itself"):
        Team(model, members=[inner], mode="handoff", store=memory)


async def test_a_team_needs_no_name(chat: Models, memory: Store) -> None:
    billing = chat.agent(["Which order?"], name="billing")
    team = Team(chat.model(chat.serve([hand("billing")])), members=[billing], mode="handoff", store=memory)
    output = await team.run("hi", session_id="s")
    assert (output.content, output.agent) == ("Which order?", "billing")


async def test_a_handover_beside_a_call_that_people_deny_is_made_then(models: Models, store: Store) -> None:
    @tool(confirm=True)
    def refund() -> str:
        raise AssertionError

    leader = models.serve([Answer(calls=(Call("hand_over", {"agent": "billing"}), Call("refund")))])
    billing = models.agent(["Which order?", "I see."], name="billing")
    team = Team(models.model(leader), name="desk", tools=[refund], members=[billing], mode="handoff", store=store)
    paused = await team.run("hi", session_id="s")
    assert (paused.status, paused.agent) == (PAUSED, "desk")
    events = await told(team.continue_run(paused, [paused.requirements[0].deny("no")], stream=True))
    assert [type(event) for event in events[1:3]] == [ToolAnswered, HandedOver]
    assert (output_of(events).content, output_of(events).agent) == ("Which order?", "billing")
    assert joined([it async for it in team.follow(paused.run_id, "s")])[-4:] == joined(events)[-4:]
    assert (await team.run("order 7", session_id="s")).content == "I see."


async def test_a_run_that_was_handed_over_is_not_handed_over_again_by_another_try(chat: Models, memory: Store) -> None:
    """It failed with billing, who has since handed the conversation back in another run: the leader answers."""
    desk = Desk(chat, memory, [hand("billing"), "mine again", "and I go on"], [Answer(status=400), hand("desk")])
    with pytest.raises(Exception, match="400"):
        await desk.team.run("hi", session_id="s", run_id="r")
    assert (await desk.team.run("are you there?", session_id="s")).content == "mine again"
    assert (await desk.team.run("hi", session_id="s", run_id="r")).content == "and I go on"


async def test_middleware_may_keep_the_conversation_where_it_is(chat: Models, memory: Store) -> None:
    class Closed(Middleware):
        async def on_tool_call(self, call: Any, call_next: Callable[[], Any]) -> None:
            call.result = "billing is closed at night"

    desk = Desk(chat, memory, [hand("billing"), "Come back tomorrow."], middleware=[Closed()])
    output = await desk.team.run("hi", session_id="s")
    assert (output.content, output.agent) == ("Come back tomorrow.", "desk")


async def test_a_copy_and_an_import_are_with_whoever_has_the_conversation(chat: Models, store: Store) -> None:
    desk = Desk(chat, store, [hand("billing")], ["Which order?", "in the fork", "in the import"])
    await desk.team.run("hi", session_id="s")
    fork = await (await there(desk.team, "s")).fork("fork")
    assert (await desk.team.run("7", session=fork)).content == "in the fork"
    await store.import_([line async for line in store.export("s")], session_id="import")
    assert (await desk.team.run("7", session_id="import")).content == "in the import"


async def test_a_handover_that_was_rewound_did_not_happen(chat: Models, store: Store) -> None:
    desk = Desk(chat, store, ["Hello.", hand("billing"), "Back to the beginning.", "I am the desk."], ["Which order?"])
    await desk.team.run("hi", session_id="s")
    session = await there(desk.team, "s")
    before = (await session.entries())[-1].seq
    assert (await desk.team.run("refund", session_id="s")).agent == "billing"
    early = await (await there(desk.team, "s")).fork("early", at=before)
    assert (await desk.team.run("again", session_id=early.id)).agent == "desk"
    await (await there(desk.team, "s")).rewind(to=before)
    output = await desk.team.run("again", session_id="s")
    assert (output.content, output.agent) == ("I am the desk.", "desk")


async def test_who_has_a_long_conversation_is_known_though_the_handover_is_far_back(chat: Models, memory: Store) -> None:
    desk = Desk(chat, memory, [hand("billing")], ["yes"] * 2)
    await desk.team.run("hi", session_id="s")
    session = await there(desk.team, "s")
    await session.append(*[user(str(number)) for number in range(300)])
    assert (await desk.team.run("still there?", session_id="s")).agent == "billing"
