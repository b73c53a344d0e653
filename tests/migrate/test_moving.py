"""Stored conversations of other systems, in the form they write them, become sessions that go on."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession

from examples.migrate import agent_framework, agent_kernel, agno, openai_agents
from examples.migrate.moving import Conversation, Turn, move
from holdfast import Message, Store, user
from holdfast.adapters.openai_agents import HoldfastSession

from ..agents.conftest import Models, chat, sent, texts

__all__ = ["chat"]

ASKED = ["Where is my order?", "find_order()", "=In Leipzig.", "It is in Leipzig."]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with Store.open(f"sqlite:///{tmp_path}/ours.db", as_admin=True) as opened:
        yield opened


def find_order(order_id: str) -> str:
    """Find an order."""
    return "In Leipzig."


async def goes_on(chat: Models, store: Store, session_id: str, **options: Any) -> list[str]:
    """What an agent of ours sends when it goes on with the session."""
    run: Any = chat.agent(["Yes."], store=store, tools=[find_order]).run
    assert (await run("Sure?", session_id=session_id, **options)).content == "Yes."
    return sent(chat.requests[-1])


async def again(conversations: Iterable[Conversation], store: Store) -> None:
    """The same move once more brings nothing in."""
    moved = await move(conversations, store)
    assert (moved.new, moved.there > 0, moved.failed) == (0, True, {})


# --- OpenAI Agents SDK -----------------------------------------------------------------------------------------------

ITEMS: list[Any] = [
    {"role": "user", "content": "Where is my order?"},
    {"type": "function_call", "call_id": "c1", "name": "find_order", "arguments": '{"order_id": "7"}', "id": "fc_1"},
    {"type": "function_call_output", "call_id": "c1", "output": "In Leipzig."},
    {
        "type": "message",
        "role": "assistant",
        "id": "m1",
        "content": [{"type": "output_text", "text": "It is in Leipzig.", "annotations": []}],
    },
]


async def test_a_sqlite_session_of_the_agents_sdk(chat: Models, store: Store, tmp_path: Path) -> None:
    path = str(tmp_path / "theirs.db")
    for id in ("ada-1", "ada-2"):
        theirs = SQLiteSession(id, path)
        await theirs.add_items(ITEMS)
        theirs.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE agent_sessions SET created_at = '2026-01-02 03:04:05'")

    assert (await move(openai_agents.read(path), store)).new == 2
    await again(openai_agents.read(path), store)
    session = await store.get("ada-1")
    assert session is not None
    assert session.info.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert await texts(session) == ASKED
    ours = HoldfastSession("ada-1", store)
    assert await ours.get_items() == ITEMS, "each item as it was"
    assert await goes_on(chat, store, "ada-2") == [*ASKED, "Sure?"]


# --- Agno ------------------------------------------------------------------------------------------------------------

NEW = """
CREATE TABLE agno_sessions (session_id VARCHAR NOT NULL, session_type VARCHAR NOT NULL, agent_id VARCHAR, team_id VARCHAR,
    workflow_id VARCHAR, user_id VARCHAR, session_data JSON, agent_data JSON, team_data JSON, workflow_data JSON, metadata JSON,
    summary JSON, created_at BIGINT NOT NULL, updated_at BIGINT, PRIMARY KEY (session_id));
CREATE TABLE agno_runs (run_id VARCHAR NOT NULL, session_id VARCHAR NOT NULL, run_type VARCHAR NOT NULL, agent_id VARCHAR,
    team_id VARCHAR, workflow_id VARCHAR, user_id VARCHAR, parent_run_id VARCHAR, status VARCHAR, run_index BIGINT,
    run_data JSON NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT, PRIMARY KEY (run_id));
"""
"""The tables of 3.1."""
OLD = NEW.partition("CREATE TABLE agno_runs")[0].replace("summary JSON", "runs JSON, summary JSON")
"""The one of 2.9."""
TIME = 1_767_323_045


def said(role: str, content: str | None = None, **more: Any) -> dict[str, Any]:
    given = {} if content is None else {"content": content}
    return {"id": f"{role}-{content}-{len(more)}", "role": role, "from_history": False, "created_at": TIME} | given | more


def run(id: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"run_id": id, "agent_id": "desk", "agent_name": "desk", "session_id": "ada-1", "status": "COMPLETED", "created_at": TIME}
    return about | {"metrics": {"input_tokens": 10, "output_tokens": 2}, "messages": list(messages)} | more


CALL = {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"order_id": "7"}'}}
ASKING = run(
    "r1",
    said("system", "You are a desk."),
    said("user", "Where is my order?"),
    said("assistant", tool_calls=[CALL]),
    said("tool", "In Leipzig.", tool_call_id="c1", tool_name="find_order"),
    said("assistant", "It is in Leipzig."),
)
RUNS = [
    ASKING,
    run("r2", said("user", "Where is my order?", from_history=True), said("user", "One"), said("assistant", "Two")),
    run("r3", said("user", "Badly said"), said("assistant", "Bad"), status="REGENERATED"),
    run("r4", said("user", "Refund it"), said("assistant", tool_calls=[CALL | {"id": "c2"}]), status="PAUSED"),
    run("r5", said("user", "Of the member"), said("assistant", "Done"), parent_run_id="r2", agent_name="orders", agent_id="orders"),
]
DATA = {"session_state": {"visits": 3}, "session_name": "A kettle", "session_metrics": {}}


def theirs(path: Path, tables: str, *rows: tuple[str, dict[str, Any]]) -> str:
    """A file of Agno's with these rows."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(tables)
        for table, row in rows:
            plain = [json.dumps(it) if isinstance(it, dict | list) else it for it in row.values()]
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", plain)
    return str(path)


def session_row(**more: Any) -> dict[str, Any]:
    about = {"session_id": "ada-1", "session_type": "agent", "agent_id": "desk", "user_id": "ada", "session_data": DATA}
    return about | {"metadata": {"ticket": 7}, "created_at": TIME, "updated_at": TIME} | more


def run_row(index: int, data: dict[str, Any], session_id: str = "ada-1") -> dict[str, Any]:
    about = {key: data.get(key) for key in ("run_id", "parent_run_id", "status", "created_at")}
    return about | {"session_id": session_id, "run_type": "agent", "run_index": index, "run_data": data}


def of_three(path: Path) -> str:
    rows = [("agno_runs", run_row(index, data)) for index, data in enumerate(RUNS)]
    return theirs(path, NEW, ("agno_sessions", session_row()), *rows)


def of_two(path: Path) -> str:
    """2.9 writes some columns as JSON in a JSON string."""
    return theirs(path, OLD, ("agno_sessions", session_row(session_data=json.dumps(json.dumps(DATA)), runs=json.dumps(json.dumps(RUNS)))))


@pytest.mark.parametrize("written", [of_three, of_two])
async def test_a_session_of_agno(chat: Models, store: Store, tmp_path: Path, written: Any) -> None:
    path = written(tmp_path / "agno.db")
    assert (await move(agno.read(path), store)).new == 2
    await again(agno.read(path), store)
    session = await store.get("ada-1", user_id="ada")
    assert session is not None
    info = session.info
    assert (session.name, session.state["visits"], session.metadata, info.user_id) == ("A kettle", 3, {"ticket": 7}, "ada")
    assert info.created_at == datetime.fromtimestamp(TIME, UTC)
    assert (info.counts.input_tokens, info.counts.output_tokens) == (40, 8)
    assert [(it.id, it.status) for it in await session.runs()] == [("r1", "completed"), ("r2", "completed"), ("r4", "cancelled")]
    assert "Badly said" in [it.message().text for it in await session.entries(kinds=("message",), hidden=True)], "kept, and never sent"
    assert await texts(session) == [*ASKED, "One", "Two", "Refund it", "find_order()"]
    member = await store.get("ada-1/orders", user_id="ada")
    assert member is not None
    assert (member.info.parent, await texts(member)) == ("ada-1", ["Of the member", "Done"])
    assert (await goes_on(chat, store, "ada-1", user_id="ada"))[:6] == [*ASKED, "One", "Two"]


def test_the_move_as_it_is_typed(tmp_path: Path) -> None:
    path = of_three(tmp_path / "agno.db")
    command = [sys.executable, "-W", "error", "-m", "examples.migrate.agno", path, f"sqlite:///{tmp_path}/ours.db"]
    root = Path(__file__).parents[2]
    done = [subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False) for _ in range(2)]
    assert [(it.stdout, it.stderr) for it in done] == [
        ("2 moved, 0 were there already\n", ""),
        ("0 moved, 2 were there already\n", ""),
    ]


async def test_a_move_that_is_broken_off_is_started_again(store: Store) -> None:
    turns = [Turn(messages=[user("hi")], time=TIME)]

    def broken() -> Iterator[Conversation]:
        yield Conversation(id="one", turns=turns)
        raise ConnectionError("their database is away")

    with pytest.raises(ConnectionError):
        await move(broken(), store)
    await (await store.session("one")).append(user("meanwhile"))
    moved = await move([Conversation(id=id, turns=turns) for id in ("one", "two")], store)
    assert (moved.new, moved.there) == (1, 1)
    assert await texts(await store.session("one")) == ["hi", "meanwhile"], "what came after the move stays"


async def test_teams_workflows_and_media_of_agno(store: Store, tmp_path: Path) -> None:
    flow = {"run_id": "w1", "workflow_id": "labels", "workflow_name": "labels", "input": "Label", "content": "LABEL", "status": "COMPLETED"}
    seen = said(
        "user", "See?", images=[{"id": "i", "url": "http://x/y.png"}], files=[{"id": "f", "content": "AAAA", "mime_type": "text/csv"}]
    )
    path = theirs(
        tmp_path / "agno.db",
        NEW,
        ("agno_sessions", session_row(session_type="workflow", agent_id=None, workflow_id="labels")),
        ("agno_runs", run_row(0, flow | {"created_at": TIME})),
        ("agno_sessions", session_row(session_id="media", session_data=None, metadata="null")),
        ("agno_runs", run_row(0, run("m1", seen), "media")),
    )
    assert str(await move(agno.read(path), store)) == "2 moved, 0 were there already"
    found, media = await store.get("ada-1"), await store.get("media")
    assert found is not None
    assert media is not None
    assert (found.info.agent, await texts(found)) == ("labels", ["Label", "LABEL"])
    assert [type(part).__name__ for part in (await media.get_messages())[0].parts] == ["Text", "Uri", "Blob"]


# --- Agent Framework -------------------------------------------------------------------------------------------------


def content(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "annotations": None} | fields


MESSAGES = [
    {"role": "user", "contents": [content("text", text="Where is my order?")]},
    {"role": "assistant", "contents": [content("function_call", call_id="c1", name="find_order", arguments='{"order_id": "7"}')]},
    {"role": "tool", "contents": [content("function_result", call_id="c1", result="In Leipzig.")]},
    {"role": "assistant", "contents": [content("text", text="It is in Leipzig."), content("usage", usage_details={})]},
]
WRITTEN = [{"type": "message"} | it for it in MESSAGES]


async def test_a_session_of_the_agent_framework(chat: Models, store: Store, tmp_path: Path) -> None:
    state = {"in_memory": {"messages": WRITTEN}, "visits": 3, "notes": {"messages": ["no history"]}}
    given = {"type": "session", "session_id": "ada-1", "service_session_id": "resp_1", "state": state}
    one, two = tmp_path / "ada-1.json", tmp_path / "~session-mfsgclzs.jsonl"
    one.write_text(json.dumps(given))
    two.write_text("".join(f"{json.dumps(it)}\n" for it in WRITTEN))
    paths = [str(one), str(two)]

    assert (await move(agent_framework.read(paths), store)).new == 2
    await again(agent_framework.read(paths), store)
    session, other = await store.get("ada-1"), await store.get("ada/2")
    assert session is not None
    assert other is not None
    assert session.service_session_id == "resp_1"
    assert {key: session.state[key] for key in session.state} == {"visits": 3, "notes": {"messages": ["no history"]}}
    assert await texts(session) == await texts(other) == ASKED
    assert await goes_on(chat, store, "ada/2") == [*ASKED, "Sure?"]


def test_a_name_that_is_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        agent_framework.named("~session-sha256-" + "0" * 64)


# --- Agent Kernel ----------------------------------------------------------------------------------------------------


async def test_an_export_of_agent_kernel(chat: Models, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "exported.jsonl"
    lines = [{"session_id": f"ada-{n}", "items": ITEMS, "state": {"topic": "kettles"}, "cache": {"seen": 3}} for n in (1, 2)]
    path.write_text("".join(f"{json.dumps(it)}\n" for it in lines))
    assert (await move(agent_kernel.read(str(path)), store)).new == 2
    await again(agent_kernel.read(str(path)), store)
    session = await store.get("ada-1")
    assert session is not None
    assert (session.get("topic"), session.get_all_keys(), session.get_non_volatile_cache().get("seen")) == ("kettles", ["topic"], 3)
    assert await goes_on(chat, store, "ada-1") == [*ASKED, "Sure?"]


# --- all of them -----------------------------------------------------------------------------------------------------


async def test_what_can_not_come_is_named_and_the_rest_comes(store: Store) -> None:
    turns = [Turn(messages=[user("hi")], time=TIME)]
    bad = Turn(messages=[Message("")], time=TIME)
    moved = await move(
        [Conversation(id="a\nb", turns=turns), Conversation(id="bad", turns=[bad]), Conversation(id="good", turns=turns)], store
    )
    assert (moved.new, list(moved.failed)) == (1, ["a\nb", "bad"])
    assert "not moved: 'bad': a message has role ''" in str(moved)
    assert [it.id async for it in store.sessions()] == ["good"]
