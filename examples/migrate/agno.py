"""Agno's SQLite sessions into a Holdfast store: 3.x (`agno_runs`) and 2.x (the `runs` column), agents', teams' and workflows'.

python -m examples.migrate.agno agno.db sqlite:///holdfast.db [SESSION_TABLE]

Their file is only read. Every run stays a run, under its id, with its status, its time and its tokens; members' runs become the sessions
of the members. Instructions are left out: the agent that goes on has its own. Runs that wait for a person come in as cancelled: let them
be decided first. Summaries, media files and the steps of workflows are not moved.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from holdfast import Blob, File, Message, Part, Reasoning, Store, Text, ToolCall, ToolResult, Uri

from .moving import Conversation, Record, Turn, arguments, move

STATUS = {"COMPLETED": "completed", "ERROR": "error", "CANCELLED": "cancelled", "PAUSED": "cancelled", "REGENERATED": "completed"}
"""Theirs -> ours; a run in any other status had not ended."""
MEDIA = {"images": "image", "audio": "audio", "videos": "video", "files": "document"}


def read(path: str, table: str = "agno_sessions") -> Iterator[Conversation]:
    """Every session of the file, a member's after the one it is a part of."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        for row in db.execute(f'SELECT * FROM "{table}" ORDER BY created_at, session_id'):
            yield from _conversations(dict(row), list(_runs(db, table, dict(row))))


def _runs(db: sqlite3.Connection, table: str, row: Record) -> Iterator[Record]:
    """The runs of a session in order: what 2.x kept in the session's own row, then the rows of 3.x that are not among them."""
    old = {run["run_id"]: run for run in _plain(row.get("runs")) or ()}
    new = f"{table}_runs" if table != "agno_sessions" else "agno_runs"
    there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (new,)).fetchone()
    found = db.execute(f'SELECT * FROM "{new}" WHERE session_id = ? ORDER BY run_index, created_at', (row["session_id"],)) if there else ()
    rows = [_plain(it["run_data"]) | {key: it[key] for key in ("run_id", "parent_run_id", "status", "created_at")} for it in found]
    yield from (old | {run["run_id"]: run for run in rows}).values()


def _plain(value: Any) -> Any:
    """A JSON column; 2.x wrote some of them as JSON in a JSON string."""
    while isinstance(value, str):
        value = json.loads(value)
    return value


def _conversations(row: Record, runs: list[Record]) -> Iterator[Conversation]:
    data: Record = _plain(row["session_data"]) or {}
    own = [run for run in runs if not run.get("parent_run_id")]
    yield Conversation(
        id=row["session_id"],
        turns=[_turn(run) for run in own],
        state=data.get("session_state") or {},
        user_id=row["user_id"],
        name=data.get("session_name"),
        agent=row["agent_id"] or row["team_id"] or row["workflow_id"],
        metadata=_plain(row["metadata"]) or {},
        created=row["created_at"],
    )
    members: dict[str, list[Record]] = {}
    for run in runs:
        if run.get("parent_run_id"):
            members.setdefault(_agent(run) or "member", []).append(run)
    for name, theirs in members.items():
        id = f"{row['session_id']}/{name}"
        yield Conversation(id=id, turns=list(map(_turn, theirs)), user_id=row["user_id"], agent=name, parent=row["session_id"])


def _turn(run: Record) -> Turn:
    metrics: Record = run.get("metrics") or {}
    status = str(run.get("status")).upper()
    return Turn(
        messages=list(_messages(run)),
        time=run.get("created_at") or 0,
        run_id=run["run_id"],
        status=STATUS.get(status, "cancelled"),
        agent=_agent(run),
        input_tokens=metrics.get("input_tokens") or 0,
        output_tokens=metrics.get("output_tokens") or 0,
        hidden=status == "REGENERATED",
    )


def _agent(run: Record) -> str | None:
    return next((run[key] for key in ("agent_name", "agent_id", "team_name", "workflow_name") if run.get(key)), None)


def _messages(run: Record) -> Iterator[Message]:
    """What was said in a run: not its instructions, nor what was repeated of earlier runs. A workflow's run is its input and its answer."""
    if run.get("workflow_id") and not run.get("messages"):
        yield from (Message(role, (Text(_text(run.get(key))),)) for role, key in (("user", "input"), ("assistant", "content")))
    for it in run.get("messages") or ():
        if it["role"] in ("user", "assistant", "tool") and not it.get("from_history") and (parts := tuple(_parts(it))):
            yield Message(it["role"], parts, it.get("name"))


def _parts(it: Record) -> Iterator[Part]:
    if it["role"] == "tool":
        yield ToolResult(it.get("content"), it.get("tool_call_id"))
        return
    if it.get("reasoning_content"):
        yield Reasoning(it["reasoning_content"])
    if it.get("content"):
        yield Text(_text(it["content"]))
    for call in it.get("tool_calls") or ():
        yield ToolCall(call["function"]["name"], call.get("id"), arguments(call["function"].get("arguments")))
    for field, modality in MEDIA.items():
        yield from (_media(modality, medium) for medium in it.get(field) or ())


def _media(modality: str, it: Record) -> Part:
    if it.get("content") is not None:
        return Blob(modality, it["content"], it.get("mime_type"))
    return Uri(modality, it["url"], it.get("mime_type")) if it.get("url") else File(modality, str(it.get("filepath") or it.get("id")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


async def main(path: str, url: str, *table: str) -> None:
    async with Store.open(url, as_admin=True) as store:
        print(await move(read(path, *table), store))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
