"""What happens at the same moment: heartbeats and writes; and what goes on in the middle of a conversation that the provider keeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from holdfast import Fenced, History, Store
from holdfast.agents import Team, tool
from holdfast.backend import Backend, Commit, Key, Outcome
from holdfast.backends.memory import MemoryBackend
from holdfast.entries import CANCELLED, COMPLETED
from holdfast.testing.model_server import Answer, Call, ModelServer, call
from holdfast.wrappers.base import Wrapper

from .conftest import Models, sent, statuses, there


class BehindTheEnd(Wrapper):
    """Holds what is told along with a heartbeat until the run's last commit is through, and that one until there is something to hold."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.held, self.through = asyncio.Event(), asyncio.Event()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        act = commit.claim.act if commit.claim else None
        if act == "renew" and commit.blobs:
            self.held.set()
            await self.through.wait()
        if act == "release":
            await self.held.wait()
        outcome = await super().commit(key, commit)
        if act == "release":
            self.through.set()
            await asyncio.sleep(0.05)  # the heartbeat is refused first
        return outcome


async def test_a_heartbeat_that_comes_behind_the_runs_end_takes_nothing_away(chat: Models) -> None:
    wrapped, more = BehindTheEnd(MemoryBackend()), threading.Event()
    server = chat.serve([Answer(text="an answer in more than one piece", halfway=more)])
    agent = chat.agent(server, store=Store(wrapped))
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    await anext(stream)
    async with asyncio.timeout(10):
        await wrapped.held.wait()
        more.set()
        assert (await stream.output()).status == COMPLETED
    assert await statuses(await there(agent, "s")) == [COMPLETED]


class Behind(Wrapper):
    """Applies what is told along with a heartbeat behind the next commit."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.held, self.through = asyncio.Event(), asyncio.Event()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.claim is not None and commit.claim.act == "renew":
            self.held.set()
            await self.through.wait()
            return await super().commit(key, commit)
        outcome = await super().commit(key, commit)
        if self.held.is_set():
            self.through.set()
            await asyncio.sleep(0.05)
        return outcome


async def test_what_was_told_of_an_answer_is_gone_though_it_came_behind_the_answer(chat: Models) -> None:
    wrapped, more = Behind(MemoryBackend()), threading.Event()
    server = chat.serve([Answer(text="an answer in more than one piece", calls=(Call("look"),), halfway=more), "done"])
    agent = chat.agent(server, tools=[look], store=Store(wrapped))
    stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True)
    await anext(stream)
    async with asyncio.timeout(10):
        await wrapped.held.wait()
        more.set()
        assert (await stream.output()).content == "done"
    assert wrapped.through.is_set()
    assert await (await there(agent, "s")).blobs("live") == []


class InAWrite(Wrapper):
    """Holds each commit of a run that adds messages until a heartbeat was refused."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.held, self.refused = asyncio.Event(), asyncio.Event()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.fence is not None and any(entry.kind == "message" for entry in commit.entries):
            self.held.set()
            await self.refused.wait()
        try:
            return await super().commit(key, commit)
        except Fenced:
            self.refused.set()
            raise


async def test_a_run_that_is_cancelled_in_the_middle_of_a_write_leaves_its_callers_task_as_it_was(chat: Models) -> None:
    wrapped = InAWrite(MemoryBackend())
    agent = chat.agent([call("look"), "never asked"], tools=[look], store=Store(wrapped))

    async def caller() -> tuple[str, int]:
        output = await agent.run("hi", session_id="s", run_id="r", lease=0.15)
        task = asyncio.current_task()
        assert task is not None
        return output.status, task.cancelling()

    async with asyncio.timeout(10):
        task = asyncio.create_task(caller())
        await wrapped.held.wait()
        assert await agent.cancel_run("r", "s")
        assert await task == (CANCELLED, 0)


def look() -> str:
    return "seen"


# --- a conversation that the provider keeps --------------------------------------------------------------------------


@pytest.fixture
def responses() -> Generator[Models]:
    made = Models("responses")
    yield made
    made.servers.clear()  # of a conversation that the provider keeps a request is a part: a result may be without its call
    made.close()


def chain(server: ModelServer) -> list[str | None]:
    return [request.body.get("previous_response_id") for request in server.requests]


async def test_a_paused_run_goes_on_in_the_providers_conversation(responses: Models, memory: Store) -> None:
    @tool(confirm=True)
    def pay() -> str:
        return "paid"

    server = responses.serve(["Hello.", call("pay"), "Done.", "Bye."])
    agent = responses.agent(server, tools=[pay], history=History(service=True), store=memory)
    first = await agent.run("I am Ada.", session_id="s")
    known = (await there(agent, "s")).service_session_id
    paused = await agent.run("pay", session_id="s")
    assert (await agent.continue_run(paused, [paused.requirements[0].approve()])).content == "Done."
    assert first.content == "Hello."
    assert chain(server) == [None, known, known]
    assert sent(server.requests[-1]) == ["pay", "pay()", "=paid"]
    latest = (await there(agent, "s")).service_session_id
    await agent.run("bye", session_id="s")
    assert chain(server)[-1] == latest
    assert sent(server.requests[-1]) == ["bye"]


async def test_a_run_that_is_handed_over_stays_in_the_providers_conversation(responses: Models, memory: Store) -> None:
    server = responses.serve(["Hello.", call("hand_over", agent="billing"), call("look"), "Which order?"])
    billing = responses.agent(server, name="billing", tools=[look])
    team = Team(responses.model(server), name="desk", members=[billing], mode="handoff", history=History(service=True), store=memory)
    await team.run("I am Ada.", session_id="s")
    known = (await there(team, "s")).service_session_id
    assert (await team.run("money back", session_id="s")).content == "Which order?"
    assert chain(server)[:3] == [None, known, known]
    assert chain(server)[3] not in (None, known)  # the answer before, which came after all that was sent to billing
    assert sent(server.requests[3]) == ["=seen"]
