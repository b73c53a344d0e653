"""Sessions and runners awaited, as the page of Agent Kernel has them: the runner, the verbs of a session, its caches, the manager."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import Agent, Session, Store
from holdfast.testing.model_server import ModelServer

from .conftest import KERNEL, texts

pytestmark = pytest.mark.usefixtures("model")


async def test_a_session_made_by_hand_and_a_runner() -> None:
    agent = Agent("openai:gpt-5.2")
    runner, prompt = agent.runner, "My name is Ada."

    # Create a new session with custom ID
    session = Session(id="custom-session-id")

    # Use with runner
    result = await runner.run(agent, session, prompt)

    assert (result.session_id, result.content) == ("custom-session-id", "You said: My name is Ada.")
    assert (await runner.run(agent, session, "Who am I?")).content == "Ada, no number."


async def test_what_frameworks_keep_in_a_session(model: ModelServer) -> None:
    openai_thread_obj: dict[str, Any] = {"id": "thread_1", "at": datetime(2026, 11, 20, tzinfo=UTC)}
    graph_checkpoint, crew_state = {"step": 3, "seen": {"a", "b"}}, ("idle", 0)
    agent = Agent("openai:gpt-5.2", store=KERNEL)
    session = Session(id="user-123")

    session.set("openai_assistant_session", openai_thread_obj)
    session.set("langgraph_state", graph_checkpoint)
    session.set("crewai_context", crew_state)
    await agent.runner.run(agent, session, "Hello")

    again = await agent.get_session("user-123")
    assert again is not None
    openai_session = again.get("openai_assistant_session")
    assert openai_session == openai_thread_obj
    assert (again.get("langgraph_state"), again.get("crewai_context")) == (graph_checkpoint, crew_state)
    assert texts(model.requests[-1]) == ["Hello"], "state is never sent to a model"


async def test_one_session_and_two_agents(model: ModelServer) -> None:
    agent1 = Agent("openai:gpt-5.2", name="first", store=KERNEL)
    agent2 = Agent("openai:gpt-5.2", name="second", store=KERNEL)

    # Same session, different agents
    session = Session(id="user-123")

    # Agent 1 execution
    result1 = await agent1.runner.run(agent1, session, "First question: my name is Ada.")

    # Agent 2 execution (same session)
    result2 = await agent2.runner.run(agent2, session, "Second question: who am I?")

    assert (result1.session_id, result2.content) == (result2.session_id, "Ada, no number.")
    assert [(run.agent, run.status) for run in await session.runs()] == [("first", "completed"), ("second", "completed")]


async def test_each_thread_of_a_user_is_a_session() -> None:
    agent = Agent("openai:gpt-5.2")
    user_id = "user-123"

    async def answer(thread_id: str, question: str) -> str:
        # Each conversation thread gets a unique session
        session_id = f"{user_id}-{thread_id}"
        return (await agent.run(question, session_id=session_id, user_id=user_id)).text

    await answer("thread-456", "My name is Ada.")
    await answer("thread-789", "My number is 7.")
    assert await answer("thread-456", "Who am I?") == "Ada, no number."
    assert await answer("thread-789", "Who am I?") == "I do not know your name, 7."


async def test_the_runner_handles_context(model: ModelServer) -> None:
    agent = Agent("openai:gpt-5.2")
    runner, session = agent.runner, Session(id="test-context-1")
    await runner.run(agent, session, "The old prompt")
    new_prompt = "The new prompt"

    # Correct: let the runner handle context
    result = await runner.run(agent, session, new_prompt)

    assert result.content == "You said: The new prompt"
    assert texts(model.requests[-1]) == ["The old prompt", "You said: The old prompt", "The new prompt"]


async def test_custom_data_is_kept_beside_the_conversation() -> None:
    agent = Agent("openai:gpt-5.2", store=KERNEL)
    session = agent.create_session("custom-data")

    # Store custom data
    session.set("user_preferences", {"language": "en", "theme": "dark"})
    session.set("conversation_topic", "mathematics")
    session.set("user_context", {"role": "student", "level": "advanced"})
    await agent.run("Hello", session=session)

    # Retrieve later
    later = await agent.get_session("custom-data")
    assert later is not None
    prefs = later.get("user_preferences")
    topic = later.get("conversation_topic")
    assert (prefs, topic) == ({"language": "en", "theme": "dark"}, "mathematics")

    # List all keys in session
    keys = later.get_all_keys()
    for key in keys:
        value = later.get(key)
        print(f"{key}: {value}")
    assert keys == ["conversation_topic", "user_context", "user_preferences"]

    # Check if key exists
    assert later.has_key("user_preferences")
    assert not later.has_key("nothing")


async def test_clearing_keeps_the_id(model: ModelServer) -> None:
    agent = Agent("openai:gpt-5.2", store=KERNEL)
    session = agent.create_session("to-clear")
    session.set("topic", "mathematics")
    await agent.run("My name is Ada.", session=session)

    # Clear all data from session
    session.clear()

    # Session ID remains the same, the next interaction starts fresh
    result = await agent.run("Who am I?", session=session)
    assert (session.id, result.session_id, session.get_all_keys()) == ("to-clear", "to-clear", [])
    assert texts(model.requests[-1]) == ["Who am I?"]
    again = await agent.get_session("to-clear")
    assert again is not None
    assert [message.text for message in await again.get_messages()] == ["Who am I?", "I do not know your name, no number."]


async def test_the_session_manager() -> None:
    store = Store.open(KERNEL)
    session_manager = store.session_manager

    # Get or create session
    session = await session_manager.get_or_create_session("custom-id")
    await Agent("openai:gpt-5.2", store=store).run("Hello", session=session)
    assert len(await (await session_manager.get_or_create_session("custom-id")).get_messages()) == 2

    # Check session existence
    exists = await session_manager.has_session("custom-id")
    assert exists

    # Delete session completely
    await session_manager.delete_session("custom-id")
    assert not await session_manager.has_session("custom-id")
    await store.close()


async def test_the_caches_of_a_session_reach_from_tool_to_tool_and_no_further(model: ModelServer) -> None:
    found: list[Any] = []

    async def retrieve(session: Session) -> str:
        """Look something up."""
        user_prefs = session.get("user_preferences")

        # Use volatile cache for temporary data
        v_cache = session.get_volatile_cache()
        found.append((user_prefs, v_cache.get("rag_context")))
        v_cache.set("rag_context", object())
        session.get_non_volatile_cache().set("retrieved", len(found))
        return "a context"

    agent = Agent("openai:gpt-5.2", store=KERNEL, tools=[retrieve])
    session = agent.create_session("caches")
    session.set("user_preferences", {"language": "en"})
    for _ in range(2):
        await agent.runner.run(agent, session, "Please look up what I need.")

    assert found == [({"language": "en"}, None)] * 2, "what is volatile is gone after its run"
    again = await agent.get_session("caches")
    assert again is not None
    assert (again.get_non_volatile_cache().get("retrieved"), again.get_all_keys()) == (2, ["user_preferences"])
    assert not re.search("language|retrieved", str([request.input for request in model.requests]))


async def test_each_run_puts_the_expiry_off() -> None:
    async with Store.open(KERNEL, ttl=604_800) as store:  # 7 days in seconds
        agent = Agent("openai:gpt-5.2", store=store)
        session = agent.create_session("ttl")
        await agent.run("Hello", session=session)
        first = session.info.expires_at
        await agent.run("Hello again", session=session)
        second = session.info.expires_at
    assert first is not None
    assert second is not None
    assert first < second
