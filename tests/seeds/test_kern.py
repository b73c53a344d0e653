"""The blocking form, as the pages of Kern have it: ids, messages, names, the cache, one run without anything, many users.

| page | section | here; teams, workflows and pauses in `test_kern_flows` |
|---|---|---|
| Session Management | Session IDs: auto-generated, manual | a_single_run_makes_its_ids, your_own_session_id |
| | per user | users_and_their_threads_are_apart |
| | Access to Messages & Chat History | messages_and_chat_history |
| | Manual Naming | a_name_by_hand |
| | Auto-generated Names, fallback | a_generated_name, a_generated_name_when_the_model_can_not_be_reached |
| | policies, costs | a_naming_policy_of_ones_own, a_name_by_a_cheaper_model_out_of_band |
| | batch jobs | every_session_named_in_a_batch |
| | Session Caching, and its warning | a_cached_session, a_cached_session_sees_what_another_process_wrote |
| Sessions | Single-Run Example | a_single_run_makes_its_ids, each_run_without_a_session_id_is_a_conversation_of_its_own |
| | Multi-User Conversations | users_and_their_threads_are_apart, another_users_session_does_not_exist |
| | `add_history_to_context` | history_flows_in_unless_it_is_switched_off |
"""

from __future__ import annotations

import pytest

from holdfast import SessionNotFound
from holdfast.models import OpenAIResponses
from holdfast.sync import Agent
from holdfast.testing.model_server import Answer, ModelServer, Request

from .conftest import AGENT, recalling, texts

pytestmark = pytest.mark.usefixtures("model")


def an_agent() -> Agent:
    return Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT)


def test_your_own_session_id() -> None:
    agent = Agent(
        model=OpenAIResponses(id="gpt-5.2"),
        store=AGENT,
    )

    response = agent.run("Hello", session_id="user_123_session_456")

    assert response.session_id == "user_123_session_456"
    assert response.content == "You said: Hello"


def test_messages_and_chat_history(model: ModelServer) -> None:
    def find_order() -> str:
        """Find the order."""
        return "In Leipzig."

    agent = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, instructions="You are an order desk.", tools=[find_order])
    agent.run("Please look up my order.", session_id="session_123")

    session = agent.get_session(session_id="session_123")
    assert session is not None
    messages = session.get_messages()
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "assistant"]

    messages = agent.get_chat_history(session_id="session_123")
    assert [(message.role, message.text) for message in messages] == [
        ("user", "Please look up my order."),
        ("assistant", "I looked: In Leipzig."),
    ]
    assert [request.body["instructions"] for request in model.requests] == ["You are an order desk."] * 2


def test_a_name_by_hand() -> None:
    agent = an_agent()
    agent.run("Let us plan the launch.", session_id="session_001")
    assert agent.get_session_name(session_id="session_001") is None

    agent.set_session_name(session_id="session_001", session_name="Product Launch Planning")
    name = agent.get_session_name(session_id="session_001")
    assert name == "Product Launch Planning"

    agent.set_session_name(session_id="session_001", session_name="Ticket 4711")
    assert agent.get_session_name(session_id="session_001") == "Ticket 4711"


def naming(request: Request) -> Answer | str:
    """A model that is asked for a name and says too much."""
    asked = "Name the conversation" in request.body.get("instructions", "")
    return '"E-commerce API Planning for the coming year."\nI hope you like it.' if asked else recalling(request)


def test_a_generated_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(naming) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        agent = an_agent()
        for number in range(5):
            agent.run(f"Part {number} of the API.", session_id="session_123")

        session = agent.set_session_name(
            session_id="session_123",
            autogenerate=True,
        )
        name = agent.get_session_name(session_id="session_123")

        assert name == session.name == "E-commerce API Planning for the"
        asked = texts(server.requests[-1])[0]
        assert "Part 0" in asked
        assert "Part 4" not in asked, "only the first messages are read"
        assert len(session.get_messages()) == 10, "asking for a name is no part of the conversation"


def test_a_generated_name_when_the_model_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    an_agent().run("Plan the launch of our two new kettles.", session_id="session_123")
    with ModelServer([Answer(status=400, text="out of order")]) as broken:
        monkeypatch.setenv("OPENAI_BASE_URL", broken.base_url)
        session = an_agent().set_session_name(session_id="session_123", autogenerate=True)
        assert session.name == "Plan the launch of our"


def test_a_name_by_a_cheaper_model_out_of_band(model: ModelServer) -> None:
    an_agent().run("Plan the launch.", session_id="session_123")
    Agent(model=OpenAIResponses(id="gpt-5.2-mini"), store=AGENT).set_session_name(session_id="session_123", autogenerate=True)
    assert [request.body["model"] for request in model.requests] == ["gpt-5.2", "gpt-5.2-mini"]


def test_a_naming_policy_of_ones_own() -> None:
    def named(agent: Agent, session_id: str, name: str) -> str | None:
        agent.set_session_name(session_id=session_id, session_name=name.strip()[:20] or "Ticket 4711")
        return agent.get_session_name(session_id=session_id)

    agent = an_agent()
    agent.run("Hello", session_id="session_001")
    assert [named(agent, "session_001", it) for it in ("  A very long name indeed", " ")] == ["A very long name ind", "Ticket 4711"]


def test_every_session_named_in_a_batch() -> None:
    agent = an_agent()
    for number in range(3):
        agent.run(f"About the number {number}.", session_id=f"session_{number}")

    for found in agent.store.sessions():
        agent.set_session_name(session_id=found.id, autogenerate=True)

    assert all(it.name for it in agent.store.sessions())


def test_a_cached_session(model: ModelServer) -> None:
    agent = Agent(
        model=OpenAIResponses(id="gpt-5.2"),
        session_id="my_session",
        cache_session=True,  # keep sessions in memory
    )

    # First run loads from database and caches
    agent.run("First message")

    # Subsequent runs use cached session (faster)
    agent.run("Second message")

    assert texts(model.requests[-1]) == ["First message", "You said: First message", "Second message"]


def test_a_cached_session_sees_what_another_process_wrote(model: ModelServer) -> None:
    """What the cache of the page can not do: whoever else writes is seen at the next run."""
    cached = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, session_id="my_session", cache_session=True)
    cached.run("First message")
    an_agent().run("Meanwhile", session_id="my_session")
    cached.run("Second message")
    assert texts(model.requests[-1])[2:] == ["Meanwhile", "You said: Meanwhile", "Second message"]


def test_a_single_run_makes_its_ids() -> None:
    agent = Agent(model=OpenAIResponses(id="gpt-5.2"))

    # Run the agent: session_id and run_id are made up
    response = agent.run("Tell me a 5 second short story about a robot")
    print(response.content)
    print(f"Run ID: {response.run_id}")
    print(f"Session ID: {response.session_id}")

    other = agent.run("Tell me another")
    assert len({response.run_id, response.session_id, other.run_id, other.session_id}) == 4


def test_each_run_without_a_session_id_is_a_conversation_of_its_own(model: ModelServer) -> None:
    agent = an_agent()
    agent.run("My name is Ada.")
    assert "I do not know your name" in agent.run("Who am I?").content


def test_users_and_their_threads_are_apart() -> None:
    agent = an_agent()
    agent.run("My name is Ada.", user_id="ada", session_id="ada-tab-1")
    agent.run("My name is Bob.", user_id="bob", session_id="bob-tab-1")
    agent.run("My number is 7.", user_id="ada", session_id="ada-tab-2")

    assert agent.run("Who am I?", user_id="ada", session_id="ada-tab-1").content == "Ada, no number."
    assert agent.run("Who am I?", user_id="bob", session_id="bob-tab-1").content == "Bob, no number."
    assert agent.run("Who am I?", user_id="ada", session_id="ada-tab-2").content == "I do not know your name, 7."
    assert [it.id for it in agent.store.sessions(user_id="ada")] == ["ada-tab-2", "ada-tab-1"]


def test_another_users_session_does_not_exist(model: ModelServer) -> None:
    agent = an_agent()
    agent.run("My name is Ada.", user_id="ada", session_id="ada-tab-1")
    asked = len(model.requests)
    for user_id in ("bob", None):
        assert agent.get_session("ada-tab-1", user_id=user_id) is None
        with pytest.raises(SessionNotFound):
            agent.run("Who am I?", user_id=user_id, session_id="ada-tab-1")
    assert len(model.requests) == asked, "the model was not asked"


def test_history_flows_in_unless_it_is_switched_off(model: ModelServer) -> None:
    agent = Agent(model=OpenAIResponses(id="gpt-5.2"), store=AGENT, add_history_to_context=False)
    agent.run("My name is Ada.", session_id="s")
    agent.run("Who am I?", session_id="s")
    assert texts(model.requests[-1]) == ["Who am I?"]
    assert len(agent.get_chat_history(session_id="s")) == 4
