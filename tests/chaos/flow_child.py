"""Processes that run a team or a workflow and may be stopped at any step of it: see `agent_child`, whose ways these are."""

from __future__ import annotations

import asyncio
import os
from tempfile import TemporaryDirectory
from typing import Any, cast

from holdfast import Session, Store
from holdfast.agents import Agent, Condition, Loop, Parallel, Step, StepInput, Team, Workflow, tool
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, call

from ..agents.conftest import sent
from .agent_child import Steps, model, run, serve, tell

PAYS = {"first": 1, "third": 3}
"""What the steps that are functions pay."""


def rule(request: Request) -> Answer | str:
    """The leader gives each of two members a payment; a member makes it and says so."""
    said = sent(request)
    last = max(place for place, text in enumerate(said) if not text.startswith(("=", "pay(", "delegate(")))
    results = [text for text in said[last:] if text.startswith("=")]
    if said[last].startswith("pay "):
        return "paid" if results else call("pay", n=int(said[last].removeprefix("pay ")))
    if said[last] in ("team", "shared"):
        return "done" if results else Answer(calls=tuple(Call("delegate", {"member": f"m{n}", "task": f"pay {n}"}) for n in (1, 2)))
    return "fine"


def made(kind: str, base_url: str, store: Store, pay: Any, *, confirm: bool) -> Agent:
    def member(name: str) -> Agent:
        return Agent(model(base_url), name=name, tools=[tool(confirm=confirm)(pay)], store=store)

    if kind in ("team", "shared"):
        members = [member("m1"), member("m2")]
        return Team(model(base_url), name="lead", members=members, share_session=kind == "shared", store=store)

    async def first(given: StepInput, session: Session) -> str:
        return await pay(1, session)

    async def third(given: StepInput, session: Session) -> str:
        return await pay(3, session)

    second = Workflow([Step(_ask, name="ask"), member("m2")], name="inner", store=store)
    return Workflow(
        [
            Parallel(Step(first, name="first", confirm=confirm), second),
            Condition(_yes, Loop([Step(third, name="third")], times=1)),
            Step(_end, name="end"),
        ],
        name="flow",
        store=store,
    )


def _ask(given: StepInput) -> str:
    return "pay 2"


def _yes(given: StepInput) -> bool:
    return True


def _end(given: StepInput) -> str:
    return "done"


async def work(job: dict[str, Any]) -> dict[str, Any]:
    store = Store.open(job["url"])
    steps = Steps(store.backend, job.get("stop_at"))
    effects = os.open(job["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def pay(n: int, session: Session) -> str:
        steps.step()
        os.write(effects, f"{session.id.partition('/')[0]} {n}\n".encode())
        steps.step()
        return f"paid {n}"

    flow = cast("Any", made(job["kind"], job["base_url"], Store(steps), pay, confirm=job.get("confirm", False)))
    output = await run(flow, job, job["kind"])
    await store.close()
    asked = [[it.id, it.kind, it.call.arguments.get("n") or PAYS.get(it.call.name)] for it in output.requirements]
    return {"status": output.status, "content": output.content, "asked": asked, "steps": next(steps.count)}


def import_everything() -> None:
    """A whole run of each, so that what is imported when it is first needed is there before the fork."""
    with ModelServer(rule) as server, TemporaryDirectory() as folder:
        job = {"url": f"sqlite:///{folder}/chat.db", "effects": f"{folder}/effects", "base_url": server.base_url}
        for kind in ("team", "flow"):
            asyncio.run(work(job | {"session": kind, "run_id": "r", "kind": kind}))
    tell("warm")


if __name__ == "__main__":
    import_everything()
    serve(work)
