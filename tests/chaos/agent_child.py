"""Processes that run an agent and may be stopped at any step of it, forked from one that has imported everything.

It reads a job as a line of JSON, forks a process for it and writes: `begun`, when the process is about to run the agent; `stopped`, when
it has come to the step at which it waits to be killed; `ended` with what the run gave; `exited` when the process is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from functools import cache
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from holdfast import Session, Store
from holdfast.agents import Agent, Decision, RunOutput, tool
from holdfast.backend import Commit, Key, Outcome
from holdfast.testing.model_server import ModelServer, call
from holdfast.wrappers.base import Wrapper


class Steps(Wrapper):
    """Counts what a run does; stops for good at one of its steps."""

    def __init__(self, inner: Any, stop_at: int | None) -> None:
        super().__init__(inner)
        self.stop_at = stop_at
        self.count = count()

    def step(self) -> None:
        if next(self.count) == self.stop_at:
            tell("stopped")
            time.sleep(60)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.claim is not None and commit.claim.act == "renew":
            return await super().commit(key, commit)  # heartbeats come when they come: no step of the run
        self.step()
        outcome = await super().commit(key, commit)
        self.step()
        return outcome


@cache
def model(base_url: str) -> OpenAIResponsesModel:
    """The engine's own object: its client, which takes longest, is there before the fork."""
    return OpenAIResponsesModel("m", provider=OpenAIProvider(base_url=base_url, api_key="none"))


def tell(what: str, **more: Any) -> None:
    os.write(1, json.dumps([what, os.getpid(), more]).encode() + b"\n")


async def run(agent: Any, job: dict[str, Any], prompt: str) -> RunOutput:
    """The run the job names, begun or gone on with."""
    tell("begun")
    decisions = [Decision(**it) for it in job.get("decisions", ())]
    at: dict[str, Any] = {"session_id": job["session"], "wait": 5.0} | ({"lease": job["lease"]} if "lease" in job else {})
    going = agent.continue_run(job["run_id"], decisions, **at) if decisions else agent.run(prompt, run_id=job["run_id"], **at)
    return await going


async def work(job: dict[str, Any]) -> dict[str, Any]:
    store = Store.open(job["url"])
    steps = Steps(store.backend, job.get("stop_at"))
    effects = os.open(job["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def pay(n: int, session: Session) -> str:
        steps.step()
        os.write(effects, f"{session.id} {n}\n".encode())
        steps.step()
        session.set(f"paid {n}", True)
        return f"paid {n}"

    pay_ = tool(idempotent=True)(pay) if job.get("idempotent") else pay
    agent: Any = Agent(model(job["base_url"]), store=Store(steps), tools=[pay_])
    output = await run(agent, job, job["prompt"])
    await store.close()
    asked = [[it.id, it.kind, it.call.arguments["n"]] for it in output.requirements]
    return {"status": output.status, "content": output.content, "asked": asked}


def import_everything() -> None:
    """A whole run, so that what is imported when it is first needed is there before the fork."""
    with ModelServer([call("pay", n=1), "done"]) as server, TemporaryDirectory() as folder:
        job = {"url": f"sqlite:///{folder}/chat.db", "effects": f"{folder}/effects", "base_url": server.base_url}
        asyncio.run(work(job | {"session": "s", "run_id": "r", "prompt": "hi"}))


def serve(work: Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """Do each job that comes in, in a process forked for it."""
    for line in sys.stdin:
        job = json.loads(line)
        model(job["base_url"])
        pid = os.fork()
        if not pid:
            try:
                tell("ended", **asyncio.run(work(job)))
            except BaseException as error:  # the process's edge: whoever started it is told
                tell("ended", status="raised", content=repr(error), asked=[])
            os._exit(0)
        os.waitpid(pid, 0)
        tell("exited")


if __name__ == "__main__":
    import_everything()
    serve(work)
