"""What a session has used: everything once, whatever became of its runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from holdfast import SessionNotFound, Store, assistant, sync, user
from holdfast.agents import StepInput, Team, Workflow, tool
from holdfast.backend import Counts
from holdfast.running import Run
from holdfast.runs import Metrics
from holdfast.testing.model_server import Answer, call

from .conftest import Models, there


@tool(confirm=True)
def pay(n: int) -> str:
    """Pay."""
    return f"paid {n}"


async def total(agent: Any, session_id: str = "s") -> Counts:
    """What the session counts; the same as all its runs together, with nothing counted twice."""
    session = await there(agent, session_id)
    counts, runs = await agent.get_session_metrics(session_id), await session.runs()
    assert counts == session.metrics == session.info.counts
    for name in ("input_tokens", "output_tokens", "model_calls", "tool_calls"):
        assert getattr(counts, name) == sum(getattr(it.metrics, name) for it in runs), name
    assert counts.seconds == pytest.approx(sum(it.metrics.seconds for it in runs), abs=1e-5)
    assert (counts.runs, counts.messages) == (len(runs), len(await session.entries(kinds=("message",))))
    assert counts.bytes == sum(len(it.body) for it in await session.entries(hidden=True))
    return counts


async def test_a_session_counts_what_its_runs_used(chat: Models, store: Store) -> None:
    agent = chat.agent([call("look"), "ok", "yes"], store=store, tools=[_look])
    first = await agent.run("hi", session_id="s", user_id="ada")
    await agent.run("again", session_id="s", user_id="ada")
    counts = await agent.get_session_metrics("s", user_id="ada")
    assert (counts.runs, counts.messages, counts.model_calls, counts.tool_calls) == (2, 6, 3, 1)
    assert counts.input_tokens > first.metrics.input_tokens > 0
    assert counts.seconds > first.metrics.seconds > 0
    with pytest.raises(SessionNotFound, match="'s'"):
        await agent.get_session_metrics("s", user_id="bob")


async def test_pauses_and_failures_count_what_they_used_once(chat: Models, store: Store) -> None:
    agent = chat.agent([call("pay", n=1), Answer(status=400), "done"], store=store, tools=[pay])
    paused = await agent.run("pay", session_id="s", run_id="r")
    before = await total(agent)
    assert (before.model_calls, before.tool_calls) == (1, 1)
    with pytest.raises(Exception, match="400"):
        await agent.continue_run(paused, [paused.requirements[0].approve()])
    failed = await total(agent)
    assert (failed.runs, failed.model_calls, failed.seconds > before.seconds) == (1, 1, True)
    await agent.continue_run("r", session_id="s")
    done = await total(agent)
    assert (done.runs, done.model_calls, done.tool_calls) == (1, 2, 1)
    await agent.run("pay", session_id="s", run_id="r")  # it is completed: nothing is asked, nothing counted
    assert await total(agent) == done


async def test_runs_that_wait_for_one_another_count_only_what_they_took(chat: Models, store: Store) -> None:
    agent = chat.agent([Answer(text="ok", delay=0.2)] * 3, store=store)
    began = time.perf_counter()
    await asyncio.gather(*(agent.run(f"{n}", session_id="s") for n in range(3)))
    counts = await total(agent)
    assert (counts.runs, counts.model_calls) == (3, 3)
    assert 0.6 <= counts.seconds < time.perf_counter() - began


async def test_a_try_whose_process_was_killed_counts_what_it_had_stored(store: Store) -> None:
    session = await store.session("s")
    killed = Run(session, "r", None)
    await killed.start((user("hi"),), lease=0.05)
    killed.metrics = Metrics(input_tokens=10, model_calls=1)
    await killed.append(assistant("wait"))
    again = await store.session("s")
    await asyncio.sleep(0.11)
    async with again.run(run_id="r", lease=0.05) as run:
        run.metrics = Metrics(input_tokens=3, model_calls=1)
        await run.append(assistant("so"))
        await run.finish(assistant("ok"), metrics=Metrics(input_tokens=5, model_calls=2, seconds=0.25))
    assert again.metrics == Counts(runs=1, messages=4, input_tokens=15, model_calls=3, micros=250_000, bytes=again.metrics.bytes)
    fork = await again.fork("copy")
    assert (fork.metrics.messages, fork.metrics.input_tokens, fork.metrics.model_calls) == (4, 0, 0)


async def test_a_failed_try_is_not_forgotten_by_the_one_that_is_killed_after_it(store: Store) -> None:
    session = await store.session("s")
    failed = Run(session, "r", None)
    await failed.start((user("hi"),))
    await failed.finish(status="error", metrics=Metrics(input_tokens=10))
    killed = Run(session, "r", None)
    killed.again, killed.attempt = True, 2
    await killed.start(())
    (it,) = await session.runs()
    assert (it.status, it.attempt, it.metrics.input_tokens) == ("running", 2, 10)


async def test_members_in_one_session_count_for_themselves(chat: Models, store: Store) -> None:
    member = chat.agent(["found"], name="desk", store=store)
    leader = chat.model(chat.serve([call("delegate", member="desk", task="look"), "it is found"]))
    team = Team(leader, name="lead", members=[member], share_session=True, store=store)
    await team.run("find it", session_id="s")
    counts = await total(team)
    assert (counts.runs, counts.model_calls, counts.tool_calls) == (2, 3, 1)


async def test_a_workflow_counts_its_steps_and_no_calls_of_a_model_that_nobody_asked(chat: Models, store: Store) -> None:
    def first(given: StepInput) -> str:
        return given.input

    flow = Workflow([first, chat.agent(["ok"], name="writer", store=store)], name="flow", store=store)
    await flow.run("hi", session_id="s")
    counts, own = await total(flow), await total(flow, "s/writer")
    assert (counts.model_calls, counts.tool_calls, own.model_calls) == (0, 2, 1)


def test_the_blocking_form(chat: Models) -> None:
    agent = sync.Agent(chat.model(chat.serve(["ok"])), store=sync.Store.open("memory://"))
    agent.run("hi", session_id="s")
    session = agent.get_session("s")
    assert session is not None
    assert session.metrics == agent.get_session_metrics("s")
    assert (session.metrics.runs, session.metrics.model_calls, session.metrics.seconds > 0) == (1, 1, True)


def _look() -> str:
    return "seen"
