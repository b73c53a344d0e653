"""The server, the runtime and the configuration on the page of Agent Kernel: `POST /run`, `Runtime`, `AK_SESSION__...`, `config.yaml`.

The sessions and the runner of the same page are in `test_agent_kernel`.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# LangGraph's own packages lack `py.typed`, and a builder's methods have partially unknown types.

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import agents as sdk
import httpx
import pytest
from agents.models.openai_responses import OpenAIResponsesModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from openai import AsyncOpenAI

from holdfast import Agent, Session, Store
from holdfast.runtime import Runtime
from holdfast.runtime import runtime as the_module
from holdfast.runtime.settings import read
from holdfast.server import create_app
from holdfast.testing.model_server import ModelServer


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, model: ModelServer) -> None:
    """A process without a runtime, in a folder of its own."""
    monkeypatch.setattr(the_module, "_own", [])
    sdk.set_tracing_disabled(True)


# --- POST /run -------------------------------------------------------------------------------------------------------

ASKED = {
    "agent": "assistant",
    "message": "Hello!",
    "session_id": "user-123-conversation-1",
}


def client_of(runtime: Runtime) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(runtime), client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def test_a_conversation_by_its_id() -> None:
    runtime = Runtime(Store.open("memory://"))
    runtime.register(Agent("openai:gpt-5.2", name="assistant"))
    async with client_of(runtime) as client:
        first = await client.post("/run", json=ASKED)
        assert first.status_code == 200
        assert (first.json()["content"], first.json()["session_id"]) == ("You said: Hello!", "user-123-conversation-1")
        await client.post("/run", json=ASKED | {"message": "My name is Ada."})
        assert (await client.post("/run", json=ASKED | {"message": "Who am I?"})).json()["content"] == "Ada, no number."
    assert await runtime.session_manager.has_session("user-123-conversation-1")


def graph() -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"The graph heard {len(state['messages'])}.")]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(name="graph")


async def test_agents_of_three_frameworks_in_one_conversation(model: ModelServer) -> None:
    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as openai:
        runtime = Runtime(Store.open("memory://"))
        runtime.register(Agent("openai:gpt-5.2", name="assistant"))
        runtime.register(sdk.Agent(name="sdk", model=OpenAIResponsesModel("gpt-5.2", openai)))
        runtime.register(graph())
        said: list[str] = []
        async with client_of(runtime) as client:
            for agent, message in (
                ("sdk", "My name is Ada."),
                ("graph", "And?"),
                ("assistant", "Who am I?"),
                ("graph", "So?"),
                ("sdk", "Who am I?"),
            ):
                said.append((await client.post("/run", json=ASKED | {"agent": agent, "message": message})).json()["content"])
    assert said == ["You said: My name is Ada.", "The graph heard 3.", "Ada, no number.", "The graph heard 7.", "Ada, no number."]


# --- Runtime ---------------------------------------------------------------------------------------------------------


async def test_runtime_get_and_its_session_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AK_SESSION__TYPE", "in_memory")

    runtime = Runtime.get()
    session_manager = runtime.session_manager

    # Get or create session
    session = await session_manager.get_or_create_session("custom-id")
    assert isinstance(session, Session)

    # Check session existence
    exists = await session_manager.has_session("custom-id")
    assert exists

    # Delete session completely
    await session_manager.delete_session("custom-id")
    assert not await session_manager.has_session("custom-id")


async def test_a_module_of_agents_and_the_runner() -> None:
    module: Any = ModuleType("my_module")
    module.agent = Agent("openai:gpt-5.2", name="assistant")
    runtime = Runtime(Store.open("memory://"))
    runtime.load(module)
    agent = runtime.agent("assistant")

    # Create a new session with custom ID
    session = Session(id="custom-session-id")

    # Use with runner
    runner, prompt = agent.runner, "My name is Ada."
    result = await runner.run(agent, session, prompt)

    assert (result.session_id, runtime.store) == ("custom-session-id", agent.store)


# --- configuration ---------------------------------------------------------------------------------------------------

IN_MEMORY = "AK_SESSION__TYPE=in_memory"
REDIS = """
AK_SESSION__TYPE=redis
AK_SESSION__REDIS__URL=redis://localhost:6379
AK_SESSION__REDIS__PASSWORD=your-password
AK_SESSION__REDIS__TTL=604800
AK_SESSION__REDIS__PREFIX=ak:sessions:
"""
CLUSTER = "AK_SESSION__TYPE=redis AK_SESSION__REDIS__URL=redis://cluster-endpoint:6379 HOLDFAST_SESSION__REDIS__CLUSTER=true"
TLS = "AK_SESSION__TYPE=redis AK_SESSION__REDIS__URL=rediss://secure-endpoint:6380"
DYNAMODB = "AK_SESSION__TYPE=dynamodb AK_SESSION__DYNAMODB__TABLE_NAME=agent-kernel-sessions AK_SESSION__DYNAMODB__TTL=604800"
CONTAINERS = "AK_SESSION__TYPE=redis AK_SESSION__REDIS__URL=redis://elasticache-endpoint:6379 AK_SESSION__CACHE__SIZE=256"
HOUR = "AK_SESSION__TYPE=redis AK_SESSION__REDIS__TTL=3600"
DISABLED = "AK_SESSION__TYPE=dynamodb AK_SESSION__DYNAMODB__TTL=0"
FILE = """
session:
  type: redis # or 'in_memory' or 'dynamodb'

  redis:
    url: redis://localhost:6379
    password: your-password
    ttl: 604800 # 7 days in seconds
    prefix: "ak:sessions:"

  dynamodb:
    table_name: agent-kernel-sessions
    ttl: 604800 # 7 days in seconds (0 to disable)

  cache:
    size: 256 # Enable caching (0 to disable)
"""
WHOLE = "redis://:your-password@localhost:6379?prefix=ak%3Asessions%3A"


@pytest.mark.parametrize(
    ("environment", "place", "seconds", "cache"),
    [
        (IN_MEMORY, "memory://", None, 0),
        (REDIS, WHOLE, 604800, 0),
        (CLUSTER, "redis://cluster-endpoint:6379?cluster=true", None, 0),
        (TLS, "rediss://secure-endpoint:6380", None, 0),
        (DYNAMODB, "dynamodb:///agent-kernel-sessions", 604800, 0),
        (CONTAINERS, "redis://elasticache-endpoint:6379", None, 256),
        (HOUR, "redis://localhost:6379", 3600, 0),
        (DISABLED, "dynamodb:///holdfast-sessions", None, 0),
    ],
    ids=["in-memory", "redis", "cluster", "tls", "dynamodb", "containers", "hour", "disabled"],
)
def test_the_environment(environment: str, place: str, seconds: float | None, cache: int) -> None:
    settings = read(dict(line.split("=", 1) for line in environment.split())).settings
    assert (settings.session.place(), settings.session.seconds(), settings.session.cache.size) == (place, seconds, cache)
    store = Runtime.from_settings(settings).store
    assert store.ttl == seconds


def test_the_file() -> None:
    Path("config.yaml").write_text(FILE, "utf-8")
    session = read({}).settings.session
    assert (session.place(), session.seconds(), session.cache.size) == (WHOLE, 604800, 256)
    assert session.dynamodb.table_name == "agent-kernel-sessions"
    assert read({"AK_SESSION__TYPE": "dynamodb"}).settings.session.place() == "dynamodb:///agent-kernel-sessions"
