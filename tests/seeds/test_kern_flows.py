"""Teams, workflows and pauses, in the blocking form, as the pages of Kern have them.

| page | section | here |
|---|---|---|
| Session Management | pauses, continue | a_run_pauses_for_a_person_and_goes_on |
| | Session IDs, of a team | a_teams_own_session_id |
| | Messages & Chat History, of a team | messages_and_chat_history_of_a_team |
| | Manual Naming, Auto-generated Names, of a team | names_of_a_team |
| | Session Caching, of a team | a_cached_session_of_a_team |
| Sessions | runs of teams and workflows | every_run_has_an_id_of_its_own |
| | all the runs, history, state, and metrics | a_session_has_runs_history_state_and_metrics |
| | Workflow sessions, run-based history | a_workflows_session_holds_runs_of_the_whole, steps_are_told_of_earlier_runs |
| | names, of a workflow | names_of_a_workflow |
| | workflow session state | steps_share_the_state_of_the_session |
| | workflow agents | an_agent_in_front_of_a_workflow_runs_it_or_answers_from_what_it_gave |
| | Multi-User Conversations, with a team | users_of_a_team_are_apart |
"""

from __future__ import annotations

import pytest

from holdfast.agents import StepInput, tool
from holdfast.models import OpenAIResponses
from holdfast.sync import Agent, Session, Team, Workflow
from holdfast.testing.model_server import Answer, ModelServer, Request, call

from .conftest import AGENT, TEAM, recalling, texts

pytestmark = pytest.mark.usefixtures("model")


def find_order() -> str:
    """Find the order."""
    return "In Leipzig."


def a_team() -> Team:
    desk = Agent(model=OpenAIResponses(id="gpt-5.2"), name="desk", instructions="You are an order desk.", tools=[find_order])
    return Team(model=OpenAIResponses(id="gpt-5.2"), members=[desk], store=TEAM)


def test_a_teams_own_session_id() -> None:
    team = Team(
        model=OpenAIResponses(id="gpt-5.2"),
        members=[Agent(model=OpenAIResponses(id="gpt-5.2"), name="desk")],
        store=TEAM,
    )

    # Use your own session ID
    response = team.run("Hello", session_id="user_123_session_789")

    assert (response.session_id, response.content) == ("user_123_session_789", "You said: Hello")


def test_messages_and_chat_history_of_a_team() -> None:
    team = a_team()
    team.run("Please look up my order.", session_id="session_456")

    session = team.get_session(session_id="session_456")
    assert session is not None
    messages = session.get_messages()
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "assistant"]

    messages = team.get_chat_history(session_id="session_456")
    assert [(message.role, message.text) for message in messages] == [
        ("user", "Please look up my order."),
        ("assistant", "I looked: I looked: In Leipzig."),
    ]
    (member,) = team.get_member_sessions("session_456")
    assert (member.id, member.parent) == ("session_456/desk", "session_456")


def naming(request: Request) -> Answer | str:
    asked = "Name the conversation" in request.body.get("instructions", "")
    return "Product Launch Strategy" if asked else recalling(request)


def test_names_of_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(naming) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        team = a_team()
        team.run("Let us plan the launch.", session_id="session_001")

        team.set_session_name(session_id="session_001", session_name="Product Launch Planning")
        name = team.get_session_name(session_id="session_001")
        assert name == "Product Launch Planning"

        session = team.set_session_name(
            session_id="session_001",
            autogenerate=True,
        )
        # Access the generated name
        name = team.get_session_name(session_id="session_001")
        assert name == session.name == "Product Launch Strategy"


def test_a_cached_session_of_a_team(model: ModelServer) -> None:
    team = Team(
        model=OpenAIResponses(id="gpt-5.2"),
        members=[Agent(model=OpenAIResponses(id="gpt-5.2"), name="desk")],
        session_id="team_session",
        cache_session=True,  # Enable in-memory caching
    )

    # First run loads from database and caches
    team.run("First message")

    # Subsequent runs use cached session (faster)
    team.run("Second message")

    assert texts(model.requests[-1]) == ["First message", "You said: First message", "Second message"]
    assert team.store.cache_stats.hits


def test_users_of_a_team_are_apart() -> None:
    team = a_team()
    team.run("My name is Ada.", user_id="ada", session_id="ada-tab-1")
    team.run("My name is Bob.", user_id="bob", session_id="bob-tab-1")
    assert team.run("Who am I?", user_id="ada", session_id="ada-tab-1").content == "Ada, no number."
    assert team.get_session("ada-tab-1", user_id="bob") is None


def test_a_run_pauses_for_a_person_and_goes_on() -> None:
    @tool(confirm=True)
    def refund() -> str:
        """Pay the order back."""
        return "Paid back."

    agent = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, tools=[refund])
    paused = agent.run("Please look up my refund.", session_id="session_123")
    assert (paused.status, paused.content) == ("paused", None)

    # Another process, some other day: everything is found by its ids
    later = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, tools=[refund])
    session = later.get_session("session_123")
    assert session is not None
    response = later.continue_run(paused.run_id, [it.approve() for it in session.requirements()], session_id="session_123")

    assert (response.status, response.content, response.run_id) == ("completed", "I looked: Paid back.", paused.run_id)


def upper(given: StepInput) -> str:
    return given.input.upper()


def test_every_run_has_an_id_of_its_own() -> None:
    flow = Workflow([upper], name="flow", store=AGENT)
    made = [it.run("hi", session_id=f"s{n}") for n, it in enumerate((a_team(), flow, a_team(), flow))]
    assert len({it.run_id for it in made}) == 4
    assert len({flow.run("hi").session_id, flow.run("hi").session_id}) == 2


def test_a_session_has_runs_history_state_and_metrics() -> None:
    def remember(session: Session) -> str:
        """Remember it."""
        session.state["topic"] = "kettles"
        return "kept"

    agent = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, tools=[remember])
    agent.run("My name is Ada.", session_id="s")
    agent.run("Please look up the topic.", session_id="s")

    session = agent.get_session("s")
    assert session is not None
    runs = session.runs()
    assert ([run.status for run in runs], session.state["topic"]) == (["completed"] * 2, "kettles")
    metrics = agent.get_session_metrics("s")
    assert (metrics.runs, metrics.messages) == (2, 6)
    assert metrics.input_tokens == sum(run.metrics.input_tokens for run in runs) > 0


def test_a_workflows_session_holds_runs_of_the_whole(model: ModelServer) -> None:
    writer = Agent(model=OpenAIResponses(id="gpt-5.2"), name="writer")
    flow = Workflow([upper, writer], name="flow", store=AGENT)
    for line in ("one", "two"):
        flow.run(line, session_id="pipeline")

    session = flow.get_session("pipeline")
    assert session is not None
    assert [(run.agent, run.status) for run in session.runs()] == [("flow", "completed")] * 2
    assert [(it.role, it.text) for it in session.get_chat_history()] == [
        ("user", "one"),
        ("assistant", "You said: ONE"),
        ("user", "two"),
        ("assistant", "You said: TWO"),
    ]
    assert [it.name for it in flow.get_progress(session.runs()[0].id, "pipeline")] == ["upper", "writer"]


def test_names_of_a_workflow() -> None:
    """With no model to ask, the first words are the name; no step is done for it."""
    done: list[str] = []

    def step(given: StepInput) -> str:
        done.append(given.input)
        return given.input

    flow = Workflow([step], name="flow", store=AGENT)
    flow.run("Plan the launch of our two kettles.", session_id="pipeline")
    assert flow.get_session_name("pipeline") is None
    assert flow.set_session_name("pipeline", autogenerate=True).name == "Plan the launch of our"
    assert flow.set_session_name("pipeline", "Launch").name == flow.get_session_name("pipeline") == "Launch"
    assert len(done) == 1


def test_steps_are_told_of_earlier_runs() -> None:
    seen: list[str] = []

    def look(given: StepInput) -> str:
        seen.append(given.history)
        return given.input

    flow = Workflow([look], name="flow", store=AGENT, add_workflow_history_to_steps=True, num_history_runs=1)
    for line in ("one", "two", "three"):
        flow.run(line, session_id="pipeline")
    assert seen == ["", "Earlier runs:\nuser: one\nassistant: one", "Earlier runs:\nuser: two\nassistant: two"]


def test_steps_share_the_state_of_the_session() -> None:
    def first(given: StepInput, session: Session) -> str:
        session.state["count"] = session.state.get("count", 0) + 1
        return given.input

    def second(given: StepInput, session: Session) -> int:
        return session.state["count"]

    flow = Workflow([first, second], name="flow", store=AGENT)
    assert [flow.run("go", session_id="pipeline").content for _ in range(3)] == [1, 2, 3]


def test_an_agent_in_front_of_a_workflow_runs_it_or_answers_from_what_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def story(given: StepInput) -> str:
        done.append(given.input)
        return f"A story about {given.input}."

    def rule(request: Request) -> Answer | str:
        said = texts(request)
        return call("run_workflow", input="ants") if said[-1] == "Write" else f"It says: {said[-1]}"

    with ModelServer(rule) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        flow = Workflow([story], name="flow", store=AGENT, agent=OpenAIResponses(id="gpt-5.2"))
        assert flow.run("Write", session_id="pipeline").content == "It says: A story about ants."
        assert flow.run("What was it?", session_id="pipeline").content == "It says: What was it?"
        assert "A story about ants." in texts(server.requests[-1])
    assert done == ["ants"]
