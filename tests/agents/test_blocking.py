"""Teams and workflows without `await`: the same runs, members and steps in either form."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

import holdfast
from holdfast import sync
from holdfast.agents import Parallel, Step, StepInput, tool
from holdfast.testing.model_server import Answer, Rule, call

from .conftest import Models


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Generator[sync.Store]:
    with sync.Store.open("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db") as opened:
        yield opened


@tool(confirm=True)
def refund(order_id: str, session: sync.Session) -> str:
    """Pay an order back."""
    session.state["refunded"] = order_id
    return f"paid {order_id}, {len(session.get_messages())} messages before"


def leads(member: str) -> Rule:
    """A leader that asks one member, and says what it brought."""

    def answer(request: Any) -> Answer | str:
        last = request.input[-1]
        return f"They say: {last['content']}" if last["role"] == "tool" else call("delegate", member=member, task="Do it.")

    return answer


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "asynchronous"])
def test_a_team_pauses_goes_on_and_is_remembered(chat: Models, store: sync.Store, blocking: bool) -> None:
    own: Any = {"name": "desk", "tools": [refund]}
    model = chat.model(chat.serve([call("refund", order_id="7"), "done"]))
    member: Any = sync.Agent(model, store=store, **own) if blocking else holdfast.Agent(model, store=store.aio, **own)
    team = sync.Team(chat.model(chat.serve(leads("desk"))), name="lead", members=[member], store=store)

    paused = team.run("Refund 7, please.", session_id="s", user_id="ada")
    (requirement,) = paused.requirements
    assert (paused.status, requirement.agent, requirement.call.name) == ("paused", "desk", "refund")
    reply = team.continue_run(paused, [requirement.approve()])

    assert reply.content == "They say: done"
    (info,) = team.get_member_sessions("s", user_id="ada")
    assert (info.id, info.parent, info.counts.runs) == ("s/desk", "s", 1)
    own_session = store.get("s/desk", user_id="ada")
    assert own_session is not None
    assert own_session.state["refunded"] == "7"
    assert [it.text for it in team.get_chat_history("s", user_id="ada")] == ["Refund 7, please.", "They say: done"]
    team.set_session_name("s", "Refund", user_id="ada")
    found = team.get_session("s", user_id="ada")
    assert isinstance(found, sync.Session)
    assert (found.name, found.info.user_id) == ("Refund", "ada")


def test_a_team_streams(chat: Models, store: sync.Store) -> None:
    member = sync.Agent(chat.model(chat.serve(["there"])), name="desk", store=store)
    team = sync.Team(chat.model(chat.serve(leads("desk"))), members=[member], store=store)
    with team.run("Where?", session_id="s", stream=True) as stream:
        assert "".join(event.text for event in stream) == stream.output().content == "They say: there"


def test_a_workflow_of_functions_and_agents(chat: Models, store: sync.Store) -> None:
    def count(given: StepInput, session: sync.Session) -> int:
        assert isinstance(session, sync.Session)
        return session.state.increment("seen")

    def place(given: StepInput) -> str:
        return given.input.upper()

    def end(given: StepInput) -> str:
        return f"{given.previous_step_content}!"

    writer = sync.Agent(chat.model(chat.serve(["a letter"])), name="writer", store=store)
    flow = sync.Workflow([Parallel(count, place), Step(writer), Step(end, confirm=True)], store=store)

    paused = flow.run("leipzig", session_id="s", run_id="r")
    assert [(it.path, it.done) for it in flow.get_progress("r", "s")] == [
        ("parallel/count", True),
        ("parallel/place", True),
        ("writer", True),
        ("end", False),
    ]
    assert flow.continue_run(paused, [paused.requirements[0].approve()]).content == "a letter!"
    assert chat.requests[0].input[-1]["content"] == "{'count': 1, 'place': 'LEIPZIG'}"


def test_a_workflow_behind_a_blocking_agent(chat: Models, store: sync.Store) -> None:
    def up(given: StepInput) -> str:
        return given.input.upper()

    front = sync.Agent(chat.model(chat.serve([call("run_workflow", input="x"), "it is X"])), name="front", store=store)
    flow = sync.Workflow([up], name="flow", agent=front, store=store)
    assert flow.run("What is x?", session_id="s").content == "it is X"


def test_what_is_no_agent_is_refused(chat: Models) -> None:
    with pytest.raises(holdfast.InvalidValue, match="is no Agent"):
        sync.Team("test", members=["desk"])  # type: ignore[list-item]
    with pytest.raises(holdfast.InvalidValue, match="belongs to the agents of its steps"):
        sync.Workflow([repr], tools=[])


def test_instructions_are_made_of_the_blocking_form_where_they_ask_for_it(chat: Models, store: sync.Store) -> None:
    def instructions(session: sync.Session) -> str:
        return f"{session.id} has {len(session.runs())} runs."

    server = chat.serve(["a", "b"])
    agent = sync.Agent(chat.model(server), instructions=instructions, store=store)
    for _ in range(2):
        agent.run("hi", session_id="s")
    assert [request.input[0]["content"] for request in server.requests] == ["s has 1 runs.", "s has 2 runs."]
