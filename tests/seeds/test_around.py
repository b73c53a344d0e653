"""What is put around a run on the pages of Agent Kernel and the Agent Framework: hooks, context providers, histories of one's own; and a
terminal for an agent in one line.
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
from holdfast.agents import BaseContextProvider, BaseHistoryProvider, InMemoryHistoryProvider, Prehook, RunContext
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
