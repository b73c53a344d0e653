"""A streamed run whose process is killed: who follows it elsewhere has seen what it said, and goes on with whoever goes on with the run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast import Store
from holdfast.agents import Agent, Event, RunEnded, RunStarted, TextDelta
from holdfast.entries import COMPLETED, INTERRUPTED
from holdfast.models import OpenAIChat
from holdfast.testing.model_server import Answer, ModelServer

LONG = "a long answer that comes in many pieces, as answers do, and is broken off in the middle of a word"
_CHILD = """
import asyncio, sys
from holdfast.agents import Agent
from holdfast.models import OpenAIChat

async def main(url, base_url):
    agent = Agent(OpenAIChat(id="m", base_url=base_url, api_key="none"), store=url)
    await agent.run("hi", session_id="s", run_id="r", stream=True, detached=True, lease=0.5).output()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("times", [1, 2])
async def test_a_killed_run_is_followed_to_its_next_try(tmp_path: Path, times: int) -> None:
    url, held = f"sqlite:///{tmp_path}/chat.db", threading.Event()
    with ModelServer([*[Answer(text=LONG, halfway=held)] * times, LONG]) as server:
        agent = Agent(OpenAIChat(id="m", base_url=server.base_url, api_key="none"), store=url)
        seen: list[Event] = []
        for attempt in range(1, times + 1):
            child = _begun(url, server.base_url)
            await asyncio.to_thread(server.wait_for, attempt)
            seen += await _until_said(agent, seen[-1].number if seen else 0)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            rest = [event async for event in agent.follow("r", "s", after=seen[-1].number)]
            assert isinstance(rest[-1], RunEnded)
            assert rest[-1].output.status == INTERRUPTED
        assert (await agent.run("hi", session_id="s", run_id="r")).content == LONG
        last = [event async for event in agent.follow("r", "s", after=seen[-1].number)]
    assert [type(event) for event in last] == [RunStarted, TextDelta, RunEnded]
    assert isinstance(last[0], RunStarted)
    assert isinstance(last[-1], RunEnded)
    assert (last[0].attempt, str(last[1]), last[-1].output.status) == (times + 1, LONG, COMPLETED)
    numbers = [event.number for event in (*seen, *last)]
    assert numbers == sorted(set(numbers))
    session = await agent.get_session("s")
    assert session is not None
    assert await session.blobs("live") == []
    await Store.shared(url).close()


def _begun(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", _CHILD, *arguments])


async def _until_said(agent: Agent, after: int) -> list[Event]:
    """What is told until some of the answer has come from the other process."""
    seen: list[Event] = []
    async with asyncio.timeout(20):
        async for event in agent.follow("r", "s", after=after):
            seen.append(event)
            if isinstance(event, TextDelta):
                break
    assert LONG.startswith(str(seen[-1]))
    return seen
