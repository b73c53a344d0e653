"""Several at once: users, tasks, threads and loops around one agent or one session."""

from __future__ import annotations

import asyncio
import gc
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from holdfast import SessionBusy, SessionNotFound, Store, UsageError
from holdfast.testing.model_server import Answer, Request

from .conftest import Models, sent, texts, there


def echo(request: Request) -> str:
    return f"{len(request.input)} heard"


# --- whose it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["bob", None])
async def test_a_session_of_another_user_does_not_exist(chat: Models, store: Store, other: str | None) -> None:
    agent = chat.agent(echo, store=store)
    await agent.run("hi", session_id="s", user_id="ada")
    before = (await there(agent, "s", "ada")).version
    for asked in (agent.run("hi", session_id="s", user_id=other), agent.run("hi", session_id="s", user_id=other, run_id="r")):
        with pytest.raises(SessionNotFound):
            await asked
    with pytest.raises(SessionNotFound):
        await agent.run("hi", session_id="s", user_id=other, stream=True).output()
    with pytest.raises((SessionNotFound, UsageError)):
        await agent.continue_run("r", session_id="s", user_id=other)
    for asked in (agent.get_chat_history, agent.get_session_name):
        with pytest.raises(SessionNotFound):
            await asked("s", user_id=other)
    assert await agent.get_session("s", user_id=other) is None
    assert len(chat.requests) == 1
    assert (await there(agent, "s", "ada")).version == before


async def test_an_unowned_session_becomes_the_first_users(chat: Models, store: Store) -> None:
    agent = chat.agent(echo, store=store)
    await agent.run("hi", session_id="s")
    await agent.run("hi", session_id="s", user_id="ada")
    with pytest.raises(SessionNotFound):
        await agent.run("hi", session_id="s")


# --- two at once -----------------------------------------------------------------------------------------------------


async def test_two_tasks_queue_in_order(models: Models, store: Store) -> None:
    held = threading.Event()
    server = models.serve([Answer(text="one", hold=held), "two"])
    agent = models.agent(server, store=store)
    first = asyncio.create_task(agent.run("a", session_id="s"))
    await asyncio.to_thread(server.wait_for, 1)
    second = asyncio.create_task(agent.run("b", session_id="s"))
    with pytest.raises(SessionBusy):
        await agent.run("c", session_id="s", wait=0)
    held.set()
    assert [(await first).content, (await second).content] == ["one", "two"]
    assert await texts(await there(agent, "s")) == ["a", "one", "b", "two"]
    assert sent(server.requests[1]) == ["a", "one", "b"]


async def test_many_tasks_on_one_session_never_mix(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda request: f"to {sent(request)[-1]}", store=store)
    await asyncio.gather(*(agent.run(f"q{n}", session_id="s") for n in range(12)))
    log = await texts(await there(agent, "s"))
    assert log[1::2] == [f"to {question}" for question in log[::2]]
    assert len(log) == 24


async def test_threads_with_loops_of_their_own_share_an_agent(models: Models, memory: Store) -> None:
    agent = models.agent(lambda request: f"to {sent(request)[-1]}", store=memory)

    def run(n: int) -> str:
        return str(asyncio.run(agent.run(f"q{n}", session_id=f"s{n % 2}")))

    assert await asyncio.gather(*(asyncio.to_thread(run, n) for n in range(6))) == [f"to q{n}" for n in range(6)]
    logs = [await texts(await there(agent, f"s{n}")) for n in range(2)]
    assert all(log[1::2] == [f"to {question}" for question in log[::2]] for log in logs)
    assert sum(map(len, logs)) == 12


def test_one_event_loop_after_another(models: Models) -> None:
    agent = models.agent(echo, session_id="s")
    answers = [asyncio.run(agent.run("hi")).content for _ in range(3)]
    assert answers == ["1 heard", "3 heard", "5 heard"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop that ends leaves its client's connections open
async def test_loops_at_the_same_time_have_connections_of_their_own(models: Models, memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most services keep a connection open; one that another loop has made can't be used."""
    close = BaseHTTPRequestHandler.send_header

    def keep(self: BaseHTTPRequestHandler, keyword: str, value: str) -> None:
        if keyword != "connection":
            close(self, keyword, value)

    monkeypatch.setattr("holdfast.testing.model_server._Handler.send_header", keep)
    agent = models.agent(lambda request: Answer(text=f"to {sent(request)[-1]}", delay=0.002), store=memory)

    async def runs(n: int) -> list[str]:
        outputs = [await asyncio.gather(*(agent.run(f"q{n}", session_id=f"{n} {m}") for m in range(3))) for _ in range(3)]  # noqa: F821  # deleted at the end
        return [str(output) for some in outputs for output in some]

    answers = await asyncio.gather(*(asyncio.to_thread(asyncio.run, runs(n)) for n in range(3)))
    assert answers == [[f"to q{n}"] * 9 for n in range(3)]
    assert await runs(4) == ["to q4"] * 9
    del agent
    gc.collect()
