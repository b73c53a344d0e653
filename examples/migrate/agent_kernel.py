"""What Agent Kernel kept, exported by its own code, into a Holdfast store.

python -m examples.migrate.agent_kernel exported.jsonl sqlite:///holdfast.db

Its stores hold pickles, and Holdfast never unpickles: whoever can write such a store decides what runs where it is read. The export is made
where Agent Kernel runs (docs/migrate/agent-kernel.md has the code), one JSON object in each line:

    {"session_id": "ada-1", "items": [...], "state": {...}, "cache": {...}}

`items` are the items of the OpenAI Agents SDK, `state` the session's own keys, `cache` its non-volatile cache. Keys in which a framework
keeps objects of its own are not moved.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast import Store
from holdfast.adapters.openai_agents.items import messages_of
from holdfast.state import CACHE_PREFIX

from .moving import Conversation, Turn, move


def read(path: str) -> Iterator[Conversation]:
    """Every session of the export. Times are not in it: a session is as old as its move."""
    now = time.time()
    with Path(path).open(encoding="utf-8") as lines:
        for it in map(json.loads, lines):
            cache = {CACHE_PREFIX + key: value for key, value in it["cache"].items()}
            turns = [Turn(messages=messages_of(it["items"]), time=now)]
            yield Conversation(id=it["session_id"], turns=turns, state=it["state"] | cache, created=now)


async def main(path: str, url: str) -> None:
    async with Store.open(url, as_admin=True) as store:
        print(await move(read(path), store))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
