"""What is put around a run on the pages of Agent Kernel and the Agent Framework: hooks, context providers, histories of one's own; and a
terminal for an agent in one line. The tables in `test_agent_kernel` and `test_agent_framework` say which section is tested where.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import Agent, Message, Session, user
from holdfast.agents import BaseContextProvider, BaseHistoryProvider, InMemoryHistoryProvider, Middleware, Prehook, RunContext
from holdfast.testing.model_server import ModelServer

from .conftest import KERNEL, texts

pytestmark = pytest.mark.usefixtures("model")


class RAGHook(Prehook):
    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> list[Message]:
        # Access session data
        user_prefs = session.get("user_preferences")

        # Use volatile cache for temporary data
        v_cache = session.get_volatile_cache()
        v_cache.set("rag_context", f"Kettles are made in {user_prefs['city']}.")
        rag_context = v_cache.get("rag_context")

        # Modify requests based on session state
        return [user(str(rag_context)), *requests]

    def name(self) -> str:
        return "RAGHook"


async def test_a_hook_reads_the_session_and_changes_what_is_asked(model: ModelServer) -> None:
    agent = Agent("openai:gpt-5.2", store=KERNEL, prehooks=[RAGHook()])
    session = Session(id="hooked")
    session.set("user_preferences", {"city": "Leipzig"})

    await agent.runner.run(agent, session, "Hello")

    assert texts(model.requests[-1]) == ["Kettles are made in Leipzig.", "Hello"]
    assert session.get_volatile_cache().get("rag_context") is None
    assert (await session.get_messages(last=2))[0].text == "Hello", "the session keeps what was really said"


class UserMemoryProvider(BaseContextProvider):
    """Remembers the user's name in the session's state."""

    def __init__(self) -> None:
        super().__init__("user_memory")

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        if state.get("user_name"):
            context.extend_instructions(self.source_id, f"The user's name is {state['user_name']}.")

    async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        for message in context.input:
            if found := re.search(r"name is (\w+)", message.text):
                state["user_name"] = found[1]


async def test_a_context_provider_learns_from_one_run_and_adds_to_the_next(model: ModelServer) -> None:
    agent = Agent("openai:gpt-5.2", store=KERNEL, instructions="Be brief.", context_providers=[UserMemoryProvider()])
    session = agent.create_session(session_id="provided")

    await agent.run("My name is Alice.", session=session)
    await agent.run("What's my name?", session=session)

    assert "Alice" not in model.requests[0].body["instructions"]
    assert "The user's name is Alice." in model.requests[1].body["instructions"]
    again = await agent.get_session("provided")
    assert again is not None
    assert again.state["user_memory"] == {"user_name": "Alice"}


class DatabaseHistoryProvider(BaseHistoryProvider):
    def __init__(self, database: dict[str, list[Message]], **options: Any) -> None:
        super().__init__("database_history", **options)
        self._db = database

    async def get_messages(self, session_id: str, *, state: dict[str, Any]) -> list[Message]:
        return self._db.get(session_id, [])

    async def save_messages(self, session_id: str, messages: Sequence[Message], *, state: dict[str, Any]) -> None:
        self._db.setdefault(session_id, []).extend(messages)


async def test_a_history_of_ones_own_is_the_one_source_of_what_is_sent(model: ModelServer) -> None:
    database: dict[str, list[Message]] = {}
    agent = Agent("openai:gpt-5.2", store=KERNEL, context_providers=[DatabaseHistoryProvider(database)])
    session = agent.create_session(session_id="elsewhere")

    await agent.run("My name is Alice.", session=session)
    response = await agent.run("What's my name?", session=session)

    assert response.text == "Alice, no number."
    assert texts(model.requests[-1]) == ["My name is Alice.", "You said: My name is Alice.", "What's my name?"]
    assert [message.text for message in database["elsewhere"]] == [message.text for message in await session.get_messages()]


async def test_what_gets_stored_is_configured(model: ModelServer) -> None:
    audit: dict[str, list[Message]] = {}
    provider = DatabaseHistoryProvider(audit, load_messages=False, store_inputs=False)
    agent = Agent("openai:gpt-5.2", store=KERNEL, context_providers=[InMemoryHistoryProvider(), provider])
    session = agent.create_session(session_id="audited")

    await agent.run("My name is Alice.", session=session)
    await agent.run("What's my name?", session=session)

    assert [message.text for message in audit["audited"]] == ["You said: My name is Alice.", "Alice, no number."]
    assert len(texts(model.requests[-1])) == 3, "the history is sent once"


class Caching(Prehook):
    """Counts in what is kept, and passes on what is not, to the tools of the same run."""

    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> list[Message]:
        nv_cache = session.get_non_volatile_cache()
        nv_cache.set("asked", nv_cache.get("asked", 0) + 1)
        session.get_volatile_cache().set("found", f"answer {nv_cache.get('asked')}")
        session.set("last", requests[-1].text)
        return requests


async def test_a_hook_with_both_caches(model: ModelServer) -> None:
    def fetch(session: Session) -> str:
        """Fetch what the hook has found."""
        return str(session.get_volatile_cache().get("found"))

    agent = Agent("openai:gpt-5.2", store=KERNEL, prehooks=[Caching()], tools=[fetch])
    session = Session(id="cached")
    for n in (1, 2):
        assert (await agent.runner.run(agent, session, "Please look up.")).content == f"I looked: answer {n}"

    again = await agent.get_session("cached")
    assert again is not None
    assert (again.get_non_volatile_cache().get("asked"), again.get("last")) == (2, "Please look up.")
    assert again.get_volatile_cache().get("found") is None, "it was for its run"
    assert session.get_volatile_cache().get("found") is None


async def test_a_tool_reads_and_writes_the_state(model: ModelServer) -> None:
    def count() -> str:
        """Count, wherever in the program."""
        session = Session.current()
        session.state["count"] = session.state.get("count", 0) + 1
        return f"counted {session.state['count']}"

    agent = Agent("openai:gpt-5.2", store=KERNEL, tools=[count])
    replies = [await agent.run("Please look up.", session_id="counted") for _ in range(2)]
    assert [it.content for it in replies] == ["I looked: counted 1", "I looked: counted 2"]
    assert "session" not in str(model.requests[0].body["tools"]), "the model sees no session"


async def test_middleware_changes_what_a_session_does(model: ModelServer) -> None:
    class Polite(Middleware):
        async def on_run(self, context: RunContext, call_next: Any) -> None:
            context.session.state["runs"] = context.session.state.get("runs", 0) + 1
            await call_next()
            context.answer = f"{context.answer} Thank you."

    agent = Agent("openai:gpt-5.2", store=KERNEL, middleware=[Polite()])
    reply = await agent.run("Hello", session_id="polite")
    session = await agent.get_session("polite")
    assert session is not None
    assert (reply.content, session.state["runs"]) == ("You said: Hello Thank you.", 1)
    assert (await session.get_messages(last=1))[0].text == "You said: Hello Thank you."


async def test_providers_run_in_order(model: ModelServer) -> None:
    told: list[str] = []

    class Told(BaseContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            told.append(f"before {self.source_id}")
            context.extend_messages(self.source_id, [user(self.source_id)])

        async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            told.append(f"after {self.source_id}")

    agent = Agent("openai:gpt-5.2", store=KERNEL, context_providers=[Told("one"), Told("two")])
    await agent.run("Hello", session_id="ordered")
    assert told == ["before one", "before two", "after two", "after one"]
    assert texts(model.requests[-1]) == ["one", "two", "Hello"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, ["Hello", "You said: Hello"]),
        ({"store_inputs": False}, ["You said: Hello"]),
        ({"store_outputs": False}, ["Hello"]),
        ({"store_context_messages": True}, ["one", "two", "Hello", "You said: Hello"]),
        ({"store_context_messages": True, "store_context_from": {"two"}}, ["two", "Hello", "You said: Hello"]),
    ],
    ids=["all", "inputs", "outputs", "context", "context of one"],
)
async def test_everything_that_can_be_configured(options: dict[str, Any], kept: list[str]) -> None:
    class Adds(BaseContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            context.extend_messages(self.source_id, [user(self.source_id)])

    audit: dict[str, list[Message]] = {}
    provider = DatabaseHistoryProvider(audit, load_messages=False, **options)
    agent = Agent("openai:gpt-5.2", store=KERNEL, context_providers=[Adds("one"), Adds("two"), provider])
    await agent.run("Hello", session_id="audited")
    assert [message.text for message in audit["audited"]] == kept


APP = """
from holdfast import Agent

agent = Agent("openai:gpt-5.2", store="sqlite:///tmp/kernel.db")

from holdfast.cli import CLI

# CLI automatically creates a session, with an id of its own
CLI.main()
"""


def test_a_terminal_that_makes_its_session_itself() -> None:
    Path("app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "app.py"], input="My name is Ada.\nWho am I?\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "You said: My name is Ada." in done.stdout
    assert "Ada, no number." in done.stdout
