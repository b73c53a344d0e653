"""Paused runs of the SDK kept with their sessions, and what its runs used: across processes, taken by one."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import agents
import pytest
from agents import Agent, AgentsException, RunContextWrapper, Runner, RunState, Usage, UserError, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from holdfast import Corrupt, InvalidValue, SessionNotFound, Store, TooLarge, UsageError
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.backend import BlobPut

agents.set_tracing_disabled(True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture(params=["memory", "memory-cached", "sqlite"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Store]:
    async with Store.open(url if request.param == "sqlite" else "memory://", cache=16 * ("cached" in request.param)) as opened:
        yield opened


def desk(paid: Path | list[str], *steps: Any) -> Agent[Any]:
    """An agent whose refunds need approval; each one paid is written down in `paid`."""

    @function_tool(needs_approval=True)
    def refund(order_id: str) -> str:
        """Pay back."""
        if isinstance(paid, list):
            paid.append(order_id)
        else:
            with paid.open("a") as file:
                file.write(f"{order_id}\n")
        return f"paid {order_id}"

    return Agent(name="desk", model=ScriptedModel(list(steps)), tools=[refund])


def asks(order_id: str = "7") -> list[Any]:
    return [function_call("refund", {"order_id": order_id}, call_id=f"call_{order_id}")]


def answers(text: str = "paid back") -> list[Any]:
    return [assistant_message(text)]


async def paused(session: HoldfastSession, *calls: Any) -> RunState[Any, Any]:
    """A run that waits for approval of its calls, saved."""
    result = await Runner.run(desk([], [call for each in calls or (asks(),) for call in each]), "refund 7", session=session)
    await session.save_run_state(result.to_state())
    return result.to_state()


def approved(state: RunState[Any, Any]) -> RunState[Any, Any]:
    for item in state.get_interruptions():
        state.approve(item)
    return state


async def waiting(store: Store) -> list[str]:
    return [info.id async for info in store.sessions(waiting=True)]


# --- saved, looked at, taken -----------------------------------------------------------------------------------------


async def test_a_paused_run_is_kept_taken_and_resumed(store: Store) -> None:
    session, paid = HoldfastSession("ada-1", store), list[str]()
    await paused(session)
    assert await waiting(store) == ["ada-1"]
    agent = desk(paid, answers())

    seen = await HoldfastSession("ada-1", store).load_run_state(agent)
    assert seen
    assert [item.name for item in seen.get_interruptions()] == ["refund"]
    assert await waiting(store) == ["ada-1"]

    state = await HoldfastSession("ada-1", store).take_run_state(agent)
    assert (await waiting(store), paid) == ([], [])
    result = await Runner.run(agent, approved(state), session=HoldfastSession("ada-1", store))
    assert (result.final_output, paid) == ("paid back", ["7"])
    kinds = [item.get("type") or item.get("role") for item in await session.get_items()]
    assert kinds == ["user", "function_call", "function_call_output", "message"]


async def test_without_a_paused_run_there_is_nothing_to_load_and_taking_says_so(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    assert await session.load_run_state(desk([])) is None
    with pytest.raises(UsageError, match="session 'ada-1' has no paused run to resume"):
        await session.take_run_state(desk([]))
    await session.clear_run_state()
    assert not await store.has("ada-1")


async def test_of_many_who_take_it_one_gets_it(store: Store) -> None:
    await paused(HoldfastSession("ada-1", store))
    agent = desk([])
    sessions = [HoldfastSession("ada-1", store) for _ in range(8)]
    taken = await asyncio.gather(*(session.take_run_state(agent) for session in sessions), return_exceptions=True)
    assert [type(it) for it in taken if not isinstance(it, RunState)] == [UsageError] * 7


async def test_taking_waits_for_nobody_elses_items(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await paused(session)
    adding = [HoldfastSession("ada-1", store).add_items([{"role": "user", "content": f"{n}"}]) for n in range(20)]
    taking = asyncio.create_task(session.take_run_state(desk([])))
    await asyncio.gather(taking, *adding)
    assert taking.result().get_interruptions()


async def test_what_was_taken_and_left_unfinished_can_be_looked_at(store: Store) -> None:
    session, agent = HoldfastSession("ada-1", store), desk([])
    await paused(session)
    await session.take_run_state(agent)  # and the process dies
    left = await session.load_run_state(agent, taken=True)
    assert left
    assert [item.name for item in left.get_interruptions()] == ["refund"]
    assert await session.load_run_state(agent) is None
    await session.save_run_state(left)  # somebody has decided to ask again
    assert await session.load_run_state(agent, taken=True) is None
    assert await waiting(store) == ["ada-1"]


async def test_another_saving_takes_the_place_of_the_first(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await paused(session, asks("7"), asks("8"))
    agent = desk([])
    state = await session.load_run_state(agent)
    assert state
    state.approve(state.get_interruptions()[0])
    await session.save_run_state(state)
    paid: list[str] = []
    state = await session.take_run_state(agent := desk(paid, answers()))
    result = await Runner.run(agent, state, session=session)
    assert ([item.arguments for item in result.interruptions], paid) == (['{"order_id":"8"}'], ["7"])


async def test_clearing_the_state_or_the_session_leaves_nothing_waiting(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    for clear in (session.clear_run_state, session.clear_session):
        await paused(session)
        await clear()
        assert (await waiting(store), await session.load_run_state(desk([]))) == ([], None)
    await paused(session)
    await store.delete("ada-1")
    assert await session.load_run_state(desk([])) is None


async def test_it_is_exported_with_the_session(store: Store) -> None:
    await paused(HoldfastSession("ada-1", store))
    lines = [line async for line in store.export("ada-1")]
    async with Store.open("memory://") as elsewhere:
        await elsewhere.import_(lines)
        assert (await HoldfastSession("ada-1", elsewhere).take_run_state(desk([]))).get_interruptions()


async def test_a_state_over_the_stores_limit_is_refused_and_the_saved_one_stays(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    state = await paused(session)
    huge = RunContextWrapper({"text": "x" * 20_000_000})
    too_large = await RunState.from_json(desk([]), state.to_json(), context_override=huge)
    with pytest.raises(TooLarge, match=r"blob openai-agents/paused/\w+ has 20,\d+,\d+ bytes: this store takes at most"):
        await session.save_run_state(too_large)
    assert await session.load_run_state(desk([]))


async def test_a_state_that_is_not_json_is_refused(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    result = await Runner.run(desk([], asks()), "refund 7", session=session, context={"rate": float("nan")})
    with pytest.raises((InvalidValue, UserError)):
        await session.save_run_state(result.to_state())
    assert await waiting(store) == []


async def test_a_damaged_state_is_said_to_be_one(store: Store) -> None:
    opened = await store.session("ada-1")
    await opened.write(blobs=(BlobPut("openai-agents", "paused/x", "application/json", b"{"),))
    with pytest.raises(Corrupt, match="blob openai-agents/paused/x of session 'ada-1'"):
        await HoldfastSession("ada-1", store).load_run_state(desk([]))


async def test_a_state_this_agent_cannot_resume_stays(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await paused(session)
    with pytest.raises(UserError):
        await session.take_run_state(Agent(name="somebody else"))
    assert await waiting(store) == ["ada-1"]


async def test_a_paused_run_is_its_owners(store: Store) -> None:
    ada = HoldfastSession("ada-1", store, user_id="ada")
    await paused(ada)
    bob = HoldfastSession("ada-1", store, user_id="bob")
    assert await bob.load_run_state(desk([])) is None
    with pytest.raises(UsageError):
        await bob.take_run_state(desk([]))
    with pytest.raises(SessionNotFound):
        await paused(bob)
    asked = HoldfastSession("ada-1", store, user_id=lambda run: run.context["user"])
    wrapper: RunContextWrapper[Any] = RunContextWrapper({"user": "ada"})
    state = await asked.take_run_state(desk([]), wrapper=wrapper)
    assert state.get_interruptions()


# --- across processes ------------------------------------------------------------------------------------------------

PAUSE = """
import asyncio, sys
from agents import Runner
from holdfast.adapters.openai_agents import HoldfastSession
from tests.adapters.test_openai_agents_paused import asks, desk

async def main(url):
    session = HoldfastSession("ada-1", url)
    result = await Runner.run(desk([], asks()), "refund 7", session=session)
    await session.save_run_state(result.to_state())

asyncio.run(main(*sys.argv[1:]))
"""

RESUME = """
import asyncio, sys
from pathlib import Path
from agents import Runner
from holdfast import UsageError
from holdfast.adapters.openai_agents import HoldfastSession
from tests.adapters.test_openai_agents_paused import answers, approved, desk

async def main(url, paid):
    session, agent = HoldfastSession("ada-1", url), desk(Path(paid), answers())
    await session.get_items()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        state = await session.take_run_state(agent)
    except UsageError as error:
        return print(error)
    print((await Runner.run(agent, approved(state), session=session)).final_output)

asyncio.run(main(*sys.argv[1:]))
"""


def test_an_approval_survives_a_restart_and_of_three_processes_that_resume_one_pays(url: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PAUSE, url], check=True)
    paid, pipe = tmp_path / "paid", subprocess.PIPE
    with ExitStack() as stack:
        command = [sys.executable, "-c", RESUME, url, str(paid)]
        resuming = [stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)) for _ in range(3)]
        for process in resuming:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in resuming:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.communicate() for process in resuming)
    lost = "session 'ada-1' has no paused run to resume: somebody else has taken it, or none was saved\n"
    assert said == [("paid back\n", ""), (lost, ""), (lost, "")]
    assert paid.read_text() == "7\n"


# --- what runs used --------------------------------------------------------------------------------------------------


def used(output: list[Any], input_tokens: int, output_tokens: int) -> ModelStep:
    usage = Usage(requests=1, input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens)
    return ModelStep(output=output, usage=usage)


async def test_what_a_run_used_is_recorded_as_a_run(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    result = await Runner.run(desk([], used(answers(), 100, 20)), "hi", session=session)
    await session.store_run_usage(result)
    streamed = Runner.run_streamed(desk([], used(answers(), 30, 4)), "hi", session=session)
    assert [event async for event in streamed.stream_events()]
    await session.store_run_usage(streamed)

    opened = await store.session("ada-1")
    found = [
        (run.status, run.agent, run.metrics.input_tokens, run.metrics.output_tokens, run.metrics.model_calls) for run in await opened.runs()
    ]
    assert found == [("completed", "desk", 100, 20, 1), ("completed", "desk", 30, 4, 1)]
    counts = opened.info.counts
    assert (counts.runs, counts.messages, counts.input_tokens, counts.output_tokens) == (2, 4, 130, 24)
    assert len(await session.get_items()) == 4


async def test_a_run_that_paused_is_recorded_once_when_it_ends(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    result = await Runner.run(desk([], used(asks(), 100, 20)), "refund 7", session=session)
    await session.store_run_usage(result)
    await session.save_run_state(result.to_state())
    opened = await store.session("ada-1")
    assert await opened.runs() == []

    state = await session.take_run_state(agent := desk([], used(answers(), 50, 5)))
    await session.store_run_usage(await Runner.run(agent, approved(state), session=session))
    (run,) = await opened.runs()
    assert (run.status, run.metrics.input_tokens, run.metrics.output_tokens, run.metrics.model_calls) == ("completed", 150, 25, 2)


async def test_a_run_that_the_sdk_ended_with_an_error_is_recorded_as_one(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    with pytest.raises(AgentsException) as raised:
        await Runner.run(desk([], used(asks(), 10, 2)).clone(tools=[]), "hi", session=session, max_turns=1)
    assert raised.value.run_data
    await session.store_run_usage(raised.value.run_data)
    (run,) = await (await store.session("ada-1")).runs()
    assert (run.status, run.agent, run.metrics.model_calls) == ("error", "desk", 1)


async def test_the_terminal_shows_the_runs(url: str) -> None:
    session = HoldfastSession("ada-1", url)
    await session.store_run_usage(await Runner.run(desk([], used(answers(), 100, 20)), "hi", session=session))
    await session.store.close()
    done = await asyncio.to_thread(
        subprocess.run,
        [Path(sys.executable).with_name("holdfast"), "sessions", "show", "ada-1", "--runs", "--json", "--store", url],
        capture_output=True,
        text=True,
        check=True,
    )
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["status"], run["agent"], run["metrics"]["input_tokens"], run["metrics"]["output_tokens"]) == ("completed", "desk", 100, 20)
