"""Sessions as the page of the Agent Framework has them: made by an agent, kept in memory unless a store is given, serialised, streamed.

| section | here, or in `test_around` (A) |
|---|---|
| What is a Session: ids, history, state, provider-managed data | state_holds_what_providers_put_there |
| Basic Session Usage | basic_usage |
| Session with Custom ID | a_session_with_an_id_of_its_own |
| Automatic History Storage | history_is_kept_in_memory_without_any_configuration, when_history_is_kept_by_itself |
| Custom History Providers | A: a_history_of_ones_own_is_the_one_source_of_what_is_sent |
| Configure what gets stored | A: what_gets_stored_is_configured, everything_that_can_be_configured |
| Session State, custom types | state_holds_what_providers_put_there |
| Serialization | a_session_serialised_and_restored, a_serialised_session_takes_no_history_with_it |
| Context Providers | A: a_context_provider_learns_from_one_run_and_adds_to_the_next |
| Service-Managed Sessions | a_session_that_the_service_manages, local_history_is_skipped_for_a_conversation_that_is_the_services |
| Session Streaming | streaming_and_not_streaming_in_one_session, the_final_response_of_a_stream |
| Complete Example: Multi-Agent Session | agents_that_share_a_session |
| Tips: scope, cleanup | each_user_has_a_session_and_each_conversation, a_session_is_cleared_at_its_end |
| Tips: state size, provider order | large_data_is_kept_apart_from_the_state; A: providers_run_in_order |
| Middleware, tools | A: middleware_changes_what_a_session_does, a_tool_reads_and_writes_the_state |
| Observability | the_life_of_a_session_is_told_to_telemetry |
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from holdfast import Agent, History, Session, register
from holdfast.agents import ContextProvider, RunContext
from holdfast.agents.telemetry import Telemetry
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


async def test_when_history_is_kept_by_itself(model: ModelServer) -> None:
    """With a session and no history of one's own; other providers change nothing; the service's history stands for it."""

    class Hint(ContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            context.extend_instructions(self.source_id, "Be brief.")

    hinted = Agent("openai:gpt-5.2", context_providers=[Hint("hint")])
    session = hinted.create_session()
    await hinted.run("My name is Alice.", session=session)
    assert (await hinted.run("What's my name?", session=session)).text == "Alice, no number."


async def test_a_session_that_the_service_manages(model: ModelServer) -> None:
    agent = Agent("openai-responses:gpt-5.2", history=History(service=True))
    session = agent.create_session(session_id="managed")

    await agent.run("My name is Alice.", session=session)
    first = session.service_session_id
    await agent.run("My number is 7.", session=session)
    second = session.service_session_id

    # The id comes from the service's responses, and goes with the next call
    assert first
    assert second
    assert first != second
    assert [request.body.get("previous_response_id") for request in model.requests] == [None, first]
    assert texts(model.requests[-1]) == ["My number is 7."], "the service knows the rest"
    assert len(await session.get_chat_history()) == 4, "the record is kept here all the same"


@pytest.mark.parametrize("id", ["resp_123", "conv_123"])
async def test_local_history_is_skipped_for_a_conversation_that_is_the_services(model: ModelServer, id: str) -> None:
    agent = Agent("openai-responses:gpt-5.2", store=AGENT)
    session = agent.create_session(session_id="taken over")
    await agent.run("Only here.", session=session)

    session.service_session_id = id
    await agent.run("What's my name?", session=session)

    asked = model.requests[-1]
    assert texts(asked) == ["What's my name?"]
    assert id in (asked.body.get("previous_response_id"), asked.body.get("conversation"))


async def test_each_user_has_a_session_and_each_conversation(agent: Agent) -> None:
    await agent.run("My name is Alice.", session_id="alice-1", user_id="alice")
    assert (await agent.run("Who am I?", session_id="alice-2", user_id="alice")).text.startswith("I do not know")


async def test_a_session_is_cleared_at_its_end(agent: Agent) -> None:
    session = agent.create_session(session_id="ended")
    await agent.run("My name is Alice.", session=session)
    session.clear()
    await session.commit()
    assert await (await agent.store.session("ended")).get_messages() == []
    assert await agent.store.delete("ended")
    assert await agent.get_session("ended") is None


async def test_large_data_is_kept_apart_from_the_state(agent: Agent, model: ModelServer) -> None:
    session = agent.create_session(session_id="large")
    await agent.run("Hello!", session=session)
    await session.put_file("report.csv", b"1,2\n" * 100_000)
    again = await agent.get_session("large")
    assert again is not None
    assert (again.get_all_keys(), [it.name for it in await again.list_files()]) == ([], ["report.csv"])
    assert len(await again.get_file("report.csv")) == 400_000
    await agent.run("Hello again!", session=again)
    assert "1,2" not in str(model.requests[-1].body)


async def test_the_life_of_a_session_is_told_to_telemetry(model: ModelServer) -> None:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    agent = Agent("openai:gpt-5.2", name="assistant", middleware=[Telemetry(tracer_provider=tracers)])
    session = agent.create_session(session_id="observed")
    for prompt in ("Hello!", "Hello again!"):
        await agent.run(prompt, session=session)
    told = [(it.name, (it.attributes or {}).get("gen_ai.conversation.id")) for it in exporter.get_finished_spans()]
    assert told.count(("invoke_agent assistant", "observed")) == 2
    assert all(id == "observed" for _, id in told)
