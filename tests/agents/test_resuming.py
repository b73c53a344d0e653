"""A run goes on from what it has stored, under its own id."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Store
from holdfast.testing.model_server import Answer, call

from .conftest import Models


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
