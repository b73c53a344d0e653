"""The server itself: who is there, and whether it is well."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ...agents import Team, Workflow
from ..callers import Whoever
from ..serving import Here

router = APIRouter(tags=["server"])


class AgentTold(BaseModel):
    name: str
    kind: str
    instructions: str | None


@router.get("/agents")
async def list_agents(caller: Whoever, here: Here) -> list[AgentTold]:
    """The agents that can be run."""
    kinds = ((Team, "team"), (Workflow, "workflow"))
    return [
        AgentTold(
            name=name,
            kind=next((word for kind, word in kinds if isinstance(it, kind)), "agent"),
            instructions=it.instructions.splitlines()[0] if isinstance(it.instructions, str) and it.instructions else None,
        )
        for name, it in here.runtime.agents.items()
    ]


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(here: Here, response: Response) -> dict[str, str]:
    """Whether it takes runs: the store answers, and it is not about to stop."""
    if here.going.stopping:
        response.status_code = 503
        return {"status": "stopping"}
    await here.runtime.store.list(limit=1)
    return {"status": "ready"}
