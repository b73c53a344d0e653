"""Sessions as the page of the Agent Framework has them: made by an agent, kept in memory unless a store is given, serialised, streamed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast import Agent, Session, register
from holdfast.testing.model_server import ModelServer

from .conftest import AGENT, texts


@register
class Preferences(BaseModel):
    language: str
    since: datetime


@register
class Budget:
    """Nothing is known of it but its two methods."""

    def __init__(self, left: Decimal) -> None:
        self.left = left

    def to_dict(self) -> dict[str, Any]:
        return {"left": str(self.left)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Budget:
        return cls(Decimal(data["left"]))


@pytest.fixture
def agent(model: ModelServer) -> Agent:
    return Agent("openai:gpt-5.2", name="assistant", instructions="You are a helpful assistant.")


async def test_basic_usage(agent: Agent) -> None:
    # Create a session
    session = agent.create_session()

    # Use the session with multiple runs
    response1 = await agent.run("My name is Alice.", session=session)
    response2 = await agent.run("What's my name?", session=session)

    assert response1.text == "You said: My name is Alice."
    assert response2.text == "Alice, no number."


async def test_a_session_with_an_id_of_its_own(agent: Agent) -> None:
    session = agent.create_session(session_id="user-123-session-456")

    response = await agent.run("Hello!", session=session)

    assert session.session_id == response.session_id == "user-123-session-456"


async def test_history_is_kept_in_memory_without_any_configuration(agent: Agent, model: ModelServer) -> None:
    session = agent.create_session()

    # Nothing but a session: its history is kept in memory
    await agent.run("My name is Alice.", session=session)
    await agent.run("My number is 7.", session=session)
    response = await agent.run("Who am I?", session=session)

    assert response.text == "Alice, 7."
    assert texts(model.requests[-1])[::2] == ["My name is Alice.", "My number is 7.", "Who am I?"]


async def test_without_a_session_nothing_is_remembered(agent: Agent) -> None:
    await agent.run("My name is Alice.")
    assert "I do not know your name" in (await agent.run("What's my name?")).text


async def test_the_same_turn_four_times_is_four_turns(agent: Agent) -> None:
    session = agent.create_session()
    for _ in range(4):
        await agent.run("Again.", session=session)
    assert [message.text for message in await session.get_messages() if message.role != "system"] == ["Again.", "You said: Again."] * 4


async def test_state_holds_what_providers_put_there(agent: Agent) -> None:
    session = agent.create_session(session_id="stateful")

    # State is mutable, for whoever needs to remember something
    session.state["preferences"] = Preferences(language="de", since=datetime(2026, 11, 20, tzinfo=UTC))
    session.state["budget"] = Budget(Decimal("9.90"))
    session.state["notes"] = ["first"]
    await agent.run("Hello!", session=session)
    session.state["notes"].append("second")
    await agent.run("Hello again!", session=session)

    again = await agent.get_session("stateful")
    assert again is not None
    assert again.state["preferences"] == session.state["preferences"]
    assert again.state["budget"].left == Decimal("9.90")
    assert again.state["notes"] == ["first", "second"]


async def test_a_session_serialised_and_restored(agent: Agent) -> None:
    session = agent.create_session(session_id="persisted")
    session.state["preferences"] = Preferences(language="de", since=datetime(2026, 11, 20, tzinfo=UTC))
    session.state["visits"] = 3
    await agent.run("My name is Alice.", session=session)

    # Serialize for persistence
    serialized = json.dumps(session.to_dict())

    # Restore later, and go on
    restored = Session.from_dict(json.loads(serialized))
    response = await agent.run("What's my name?", session=restored)

    assert response.text == "Alice, no number."
    assert (restored.session_id, restored.state["visits"]) == ("persisted", 3)
    assert restored.state["preferences"] == session.state["preferences"]


async def test_a_serialised_session_takes_no_history_with_it(agent: Agent, model: ModelServer) -> None:
    """Its history is the store's: an agent with another store has the state and begins anew."""
    session = agent.create_session(session_id="moved")
    session.state["visits"] = 3
    await agent.run("My name is Alice.", session=session)

    other = Agent("openai:gpt-5.2", store=AGENT)
    restored = Session.from_dict(session.to_dict())
    assert (await other.run("What's my name?", session=restored)).text == "I do not know your name, no number."
    assert restored.state["visits"] == 3


async def test_streaming_and_not_streaming_in_one_session(agent: Agent) -> None:
    session = agent.create_session()

    # Streaming
    print("Assistant: ", end="")
    said = ""
    async for update in agent.run("My name is Alice.", session=session, stream=True):
        if update.text:
            print(update.text, end="", flush=True)
            said += update.text

    # Not streaming, the same session
    response = await agent.run("What's my name?", session=session)

    assert said == "You said: My name is Alice."
    assert response.text == "Alice, no number."


async def test_the_final_response_of_a_stream(agent: Agent) -> None:
    session = agent.create_session()
    stream = agent.run("Hello!", session=session, stream=True)
    said = "".join([update.text async for update in stream])
    final = await stream.output()
    assert final.text == said == "You said: Hello!"
    assert (final.status, final.session_id) == ("completed", session.id)


async def test_agents_that_share_a_session(model: ModelServer) -> None:
    researcher = Agent("openai:gpt-5.2", name="researcher", instructions="Research the subject.", store="memory://")
    writer = Agent("openai:gpt-5.2", name="writer", instructions="Write about it.", store=researcher.store)
    session = researcher.create_session(session_id="article")

    # The first agent gathers, the second one goes on in the same conversation
    await researcher.run("The number is 42.", session=session)
    draft = await writer.run("Which number is it?", session=session)

    assert draft.text.endswith("42.")
    assert [request.body["instructions"] for request in model.requests] == ["Research the subject.", "Write about it."]
    shown = [(message.role, message.text) for message in await session.get_messages()]
    assert shown[::3] == [("system", "Research the subject."), ("system", "Write about it.")]
