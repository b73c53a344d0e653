"""SQLite sessions of the OpenAI Agents SDK into a Holdfast store; each item as it is, to the byte of its JSON.

python -m examples.migrate.openai_agents chat.db sqlite:///holdfast.db

Their file is only read. `HoldfastSession(session_id, store)` goes on with what was moved. Sessions have no owner there: here each becomes
the first user's that names itself. What `AdvancedSQLiteSession` adds (branches, usage) stays behind, and the items of all branches come.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

from holdfast import Store
from holdfast.adapters.openai_agents.items import messages_of

from .moving import Conversation, Turn, move


def read(path: str, sessions: str = "agent_sessions", messages: str = "agent_messages") -> Iterator[Conversation]:
    """Every session of the file. An item that is no JSON is an error: the SDK passes over it, and it would be lost without a word."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        for id, created in db.execute(f'SELECT session_id, created_at FROM "{sessions}" ORDER BY created_at, session_id').fetchall():
            rows = db.execute(f'SELECT message_data, created_at FROM "{messages}" WHERE session_id = ? ORDER BY id', (id,))
            turns = [Turn(messages=messages_of([json.loads(data)]), time=_seconds(time)) for data, time in rows]
            yield Conversation(id=id, turns=turns, created=_seconds(created))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


async def main(path: str, url: str) -> None:
    async with Store.open(url, as_admin=True) as store:
        print(await move(read(path), store))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
