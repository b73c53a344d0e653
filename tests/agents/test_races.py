"""What happens at the same moment: heartbeats and last commits, decisions and handovers, tools that work side by side."""

from __future__ import annotations

import asyncio
import threading

from holdfast import Fenced, Store
from holdfast.backend import Backend, Commit, Key, Outcome
from holdfast.backends.memory import MemoryBackend
from holdfast.runs import CANCELLED, COMPLETED
from holdfast.testing.model_server import Answer, Call, call
from holdfast.wrappers.base import Wrapper

from .conftest import Models, statuses, there


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
