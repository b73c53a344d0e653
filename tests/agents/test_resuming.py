"""A run goes on from what it has stored, under its own id."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast import Store
from holdfast.testing.model_server import Answer, Request, call

from .conftest import Models, ended

KILLED = """
import sys
from holdfast.models import OpenAIChat
from holdfast.sync import Agent
url, folder = sys.argv[1:]
Agent(OpenAIChat(id="x", base_url=url, api_key="none"), store=f"sqlite:///{folder}/chat.db").run("First", session_id="s", lease=0.5)
"""


async def test_a_run_broken_off_in_a_tool_goes_on_when_it_is_decided(models: Models, store: Store) -> None:
    started: list[str] = []

    async def refund(order_id: str) -> str:
        """Pay an order back."""
        started.append(order_id)
        task.cancel()
        await asyncio.sleep(30)
        return "never"

    agent = models.agent([call("refund", order_id="7"), "It is under way."], store=store, tools=[refund])
    task = asyncio.create_task(agent.run("Refund order 7", session_id="s", run_id="turn-1"))
    with pytest.raises(asyncio.CancelledError):
        await task

    paused = await agent.continue_run("turn-1", session_id="s")
    assert (paused.status, [it.call.name for it in paused.requirements]) == ("paused", ["refund"])
    done = await agent.continue_run(paused, [paused.requirements[0].supply("Refund R-7 started.")])
    assert (done.status, done.content, started) == ("completed", "It is under way.", ["7"])
    assert [message.role for message in done.messages] == ["user", "assistant", "tool", "assistant"]


async def test_a_run_whose_model_failed_after_a_tool_goes_on_without_the_tool(models: Models, store: Store) -> None:
    started: list[str] = []

    def refund(order_id: str) -> str:
        """Pay an order back."""
        started.append(order_id)
        return "Refund R-7 started."

    server = models.serve([call("refund", order_id="7"), Answer(status=400), "It is under way."])
    agent = models.agent(server, store=store, tools=[refund])
    with pytest.raises(Exception, match="400"):
        await agent.run("Refund order 7", session_id="s", run_id="turn-1")

    done = await agent.run("Refund order 7", session_id="s", run_id="turn-1")
    assert (done.content, started) == ("It is under way.", ["7"])
    session = await agent.get_session("s")
    assert session is not None
    assert [(run.status, run.attempt) for run in await session.runs()] == [("completed", 2)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_is_taken_over_one_lease_after_its_process_was_killed(
    chat: Models, file_store: Store, tmp_path: Path, stream: bool
) -> None:
    def rule(request: Request) -> Answer | str:
        return Answer(hold=threading.Event()) if request.number == 1 else "Here I am."

    server = chat.serve(rule)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, server.base_url, tmp_path)
    await asyncio.to_thread(server.wait_for, 1)
    process.kill()
    await process.wait()

    began = time.monotonic()
    reply = await ended(chat.agent(server, store=file_store), "Second", stream=stream, session_id="s")
    assert reply.content == "Here I am."
    assert time.monotonic() - began < 10, "the default lease is three times that"
    session = await file_store.get("s")
    assert session is not None
    assert [run.status for run in await session.runs()] == ["interrupted", "completed"]
