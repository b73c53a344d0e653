"""Session management in agentic workflows, as the page of that name has it: a toy, and what it would need beyond a dict.

| section | here |
|---|---|
| the toy: start_session, add_message, get_context | the_toy |
| Session ID; State store: messages, files, task progress, variables | the_typical_components |
| Lifecycle: starts, updates, expires, restarts | a_lifecycle |
| Persistence; "a simple SQLite database" | what_is_stored_is_there_after_a_restart_and_for_sqlite3 |
| agents share the same session context | agents_share_one_session |
| or a local session that contributes to a shared memory | agents_have_sessions_of_their_own_and_a_memory_in_common |
| acts through tools, remembers across actions | what_a_tool_did_is_remembered |
| history turned into embeddings, recalled semantically | the_past_is_recalled_by_meaning |
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from holdfast import Agent, Message, Session, Store, assistant, user
from holdfast.agents import StepInput, Team, Workflow
from holdfast.recall import MiniLM, Recall
from holdfast.sync import Store as BlockingStore
from holdfast.testing.model_server import ModelServer

from ..agents.conftest import until
from .conftest import KERNEL, texts

pytestmark = pytest.mark.usefixtures("model")


def test_the_toy() -> None:
    # A store in memory
    sessions = BlockingStore.open("memory://")

    def start_session() -> str:
        return sessions.session().id

    def add_message(session_id: str, role: str, content: str) -> None:
        sessions.session(session_id).append(Message(role, user(content).parts))

    def get_context(session_id: str) -> list[Message]:
        return sessions.session(session_id).get_messages()

    # Example usage:
    sid = start_session()
    add_message(sid, "user", "Write a function to fetch stock prices")
    add_message(sid, "agent", "Here is a Python function...")
    add_message(sid, "user", "Now add error handling")

    # The agent can now recall context:
    said = [f"{msg.role}: {msg.text}" for msg in get_context(sid)]
    assert said == [
        "user: Write a function to fetch stock prices",
        "agent: Here is a Python function...",
        "user: Now add error handling",
    ]
    assert start_session() != sid
    sessions.close()


async def test_the_typical_components() -> None:
    async with Store.open(KERNEL) as store:

        def draft(given: StepInput, session: Session) -> str:
            session.state["words"] = 2
            return f"{given.input}!"

        flow = Workflow([draft], name="flow", store=store)
        run = await flow.run("Hello", session_id="task-1")
        session = await store.session("task-1")
        await session.put_file("notes.txt", b"remember the milk")

        again = await store.session("task-1")
        assert [it.text for it in await again.get_chat_history()] == ["Hello", "Hello!"]
        assert (again.state["words"], await again.get_file("notes.txt")) == (2, b"remember the milk")
        assert [(it.name, it.done) for it in await flow.get_progress(run.run_id, "task-1")] == [("draft", True)]


async def test_a_lifecycle() -> None:
    async with Store.open(KERNEL, ttl=1.5) as store:
        session = await store.session("short")
        await session.append(user("hi"))
        before = session.info.expires_at
        await session.append(assistant("hello"))
        after = session.info.expires_at
        assert before is not None
        assert after is not None
        assert after > before, "an update puts its expiry off"

        async def expired() -> bool:
            return not await store.has("short")

        await until(expired)
        assert await (await store.session("short")).get_messages() == [], "it begins anew"


async def test_what_is_stored_is_there_after_a_restart_and_for_sqlite3() -> None:
    async with Store.open(KERNEL) as store:
        await (await store.session("long")).append(user("a long task"), assistant("begun"))
    async with Store.open(KERNEL) as store:
        assert [it.text for it in await (await store.session("long")).get_messages()] == ["a long task", "begun"]
    with closing(sqlite3.connect("tmp/kernel.db")) as db:
        assert db.execute("SELECT role, text FROM messages WHERE session_id = 'long'").fetchall() == [
            ("user", "a long task"),
            ("assistant", "begun"),
        ]


async def test_agents_share_one_session(model: ModelServer) -> None:
    async with Store.open(KERNEL) as store:
        desk = Agent("openai:gpt-5.2", name="desk", store=store)
        team = Team("openai:gpt-5.2", name="lead", members=[desk], store=store, share_session=True)
        await team.run("My name is Ada.", session_id="shared")
        await team.run("Please look up: who am I?", session_id="shared")
        delegated = [it for it in model.requests if "You lead" not in it.body.get("instructions", "")]
        assert "My name is Ada." in texts(delegated[0]), "the member sees what was said in the team's session"
        assert await team.get_member_sessions("shared") == []


async def test_agents_have_sessions_of_their_own_and_a_memory_in_common(model: ModelServer) -> None:
    async with Store.open(KERNEL) as store:

        async def note(session: Session) -> str:
            """Note what is known."""
            return " and ".join(await (await session.scope("user")).append("facts", session.id))

        agents = [Agent("openai:gpt-5.2", name=name, store=store, tools=[note]) for name in ("scout", "writer")]
        for agent in agents:
            await agent.run("Please look up what is known.", session_id=f"of {agent.name}", user_id="ada")

        assert (await store.scope("user", user_id="ada"))["facts"] == ["of scout", "of writer"]
        assert texts(model.requests[-1])[-1] == "of scout and of writer", "the second one finds what the first one noted"
        assert texts(model.requests[2]) == ["Please look up what is known."], "and nothing of what was said to it"


async def test_what_a_tool_did_is_remembered(model: ModelServer) -> None:
    def fetch() -> str:
        """Fetch a price."""
        return "my number is 42"

    agent = Agent("openai:gpt-5.2", store=KERNEL, tools=[fetch])
    await agent.run("Please look up the price.", session_id="stocks")
    again = Agent("openai:gpt-5.2", store=KERNEL)
    assert (await again.run("What was it?", session_id="stocks")).content == "I do not know your name, 42."
    assert texts(model.requests[-1])[1:3] == ["", "my number is 42"], "the call, and its result"


async def test_the_past_is_recalled_by_meaning() -> None:
    async with Store.open(KERNEL) as store, Recall(store, "sqlite:///tmp/recall.db", MiniLM()) as recall:
        for n, said in enumerate(("How do I train my puppy?", "Convert kilometres to miles", "Bake bread with rye flour")):
            await (await store.session(f"s{n}", user_id="ada")).append(user(said))
        await recall.update()
        found = await recall.search("teaching a dog", user_id="ada")
        assert (found[0].session_id, found[0].text) == ("s0", "How do I train my puppy?")
        assert await recall.search("teaching a dog", user_id="bob") == []
