"""Sessions and runners awaited, as the page of Agent Kernel has them: the runner, the verbs of a session, its caches, the manager.

| section | here, or in `test_around` (A) |
|---|---|
| Automatic Session Management (CLI) | A: a_terminal_that_makes_its_session_itself |
| Descriptive session ids | each_thread_of_a_user_is_a_session, ids_that_describe |
| Programmatic Session Creation | a_session_made_by_hand_and_a_runner |
| Storage Backends | every_backend_keeps_it; Redis Cluster and TLS in `tests/backends`, the table by Terraform in `tests` |
| Session Caching, and its limitation | a_cached_session_needs_no_sticky_routing |
| Session Data Storage | what_frameworks_keep_in_a_session |
| Multi-Agent Sessions | one_session_and_two_agents, each_agent_has_a_state_of_its_own |
| Thread Management | each_thread_of_a_user_is_a_session |
| Execution Hooks | A: a_hook_reads_the_session_and_changes_what_is_asked, a_hook_with_both_caches |
| TTL | each_run_puts_the_expiry_off, a_time_to_live_for_each_use_case |
| Let Framework Adapters Handle Context | the_runner_handles_context |
| Session Cleanup | clearing_keeps_the_id, the_session_manager |
| Monitor session storage size | how_large_a_session_is |
| Custom Session Data, Inspection and Debugging | custom_data_is_kept_beside_the_conversation |
| Session Clearing | clearing_keeps_the_id |
| Direct Session Manager Access | the_session_manager |
| `POST /run`, `Runtime.get()`, `AK_...`, `config.yaml` | in `test_agent_kernel_served` |
"""

from __future__ import annotations

import re
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import Agent, Session, Store
from holdfast.agents import ContextProvider, RunContext
from holdfast.testing.model_server import ModelServer

from ..servers import dynamodb
from ..servers.redis import redis8, server
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


@pytest.mark.parametrize(("seconds", "why"), [(3_600, "chat"), (86_400, "support"), (604_800, "project")])
async def test_a_time_to_live_for_each_use_case(seconds: int, why: str) -> None:
    async with Store.open("memory://", ttl=604_800) as store:
        session = await store.session(f"user-1-{why}")
        await session.set_ttl(seconds)
        assert session.info.expires_at is not None
        left = (session.info.expires_at - datetime.now(UTC)).total_seconds()
        assert seconds - 60 < left <= seconds


@pytest.mark.parametrize("id", ["user-7-conversation-3", "slack-7-1795181269.5", "test-login-1"])
async def test_ids_that_describe(id: str) -> None:
    agent = Agent("openai:gpt-5.2")
    assert (await agent.run("Hello", session_id=id)).session_id == id


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(scope="module")
def dynamodb_url() -> Generator[str]:
    for it in dynamodb.started(dynamodb.dynoxide()):
        yield f"dynamodb://eu-central-1/{dynamodb.TABLE}?endpoint=http://127.0.0.1:{it.port}"


@pytest.fixture(params=["memory", "redis", "dynamodb"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


async def test_every_backend_keeps_it(url: str) -> None:
    async with Store.open(url, ttl=604_800) as store:
        agent = Agent("openai:gpt-5.2", store=store)
        await agent.run("My name is Ada.", session_id="user-123-conversation-1")
        assert (await agent.run("Who am I?", session_id="user-123-conversation-1")).content == "Ada, no number."
        assert (await store.session("user-123-conversation-1")).info.expires_at is not None
        if url == "memory://":
            return
        async with Store.open(url) as elsewhere:  # another process, or after a restart
            other = Agent("openai:gpt-5.2", store=elsewhere)
            assert (await other.run("Who am I?", session_id="user-123-conversation-1")).content == "Ada, no number."


async def test_a_cached_session_needs_no_sticky_routing(model: ModelServer) -> None:
    async with Store.open(KERNEL, cache=256) as one, Store.open(KERNEL, cache=256) as two:
        instances = [Agent("openai:gpt-5.2", store=it) for it in (one, two)]
        for n in range(4):  # round robin
            await instances[n % 2].run(f"Line {n}", session_id="balanced")
        assert texts(model.requests[-1])[::2] == ["Line 0", "Line 1", "Line 2", "Line 3"]
        assert one.cache_stats.hits + two.cache_stats.hits > 0


async def test_each_agent_has_a_state_of_its_own() -> None:
    class Framework(ContextProvider):
        async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            state.setdefault("seen", []).append(context.input[0].text)

    agent1, agent2 = (
        Agent("openai:gpt-5.2", name=name, store=KERNEL, context_providers=[Framework(f"{name}_framework_session")])
        for name in ("agent1", "agent2")
    )
    session = Session(id="user-123")
    await agent1.runner.run(agent1, session, "First question")
    await agent2.runner.run(agent2, session, "Second question")

    assert session.get("agent1_framework_session") == {"seen": ["First question"]}
    assert session.get("agent2_framework_session") == {"seen": ["Second question"]}


async def test_how_large_a_session_is() -> None:
    agent = Agent("openai:gpt-5.2", store=KERNEL)
    sizes: list[int] = []
    for n in range(2):
        await agent.run("x" * 1_000 * (n + 1), session_id="growing")
        sizes.append((await agent.store.list()).items[0].counts.bytes)
    assert sizes[0] > 1_000
    assert sizes[1] > sizes[0] + 2_000
