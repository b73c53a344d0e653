"""What paused runs wait for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ..callers import Whoever
from ..paths import Whole
from ..serving import Here
from ..shapes import RequirementTold

router = APIRouter(tags=["requirements"])


@router.get("/requirements")
async def list_requirements(caller: Whoever, here: Here, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[RequirementTold]:
    """What has to be decided in the caller's sessions (an admin's: everybody's), the newest session first."""
    found: list[RequirementTold] = []
    async for info, it in here.store(caller).requirements(user_id=caller.user):
        found.append(RequirementTold.of(it, info.id))
        if len(found) == limit:
            break
    return found


@router.get("/sessions/{session_id}/requirements")
async def list_session_requirements(session_id: Whole, caller: Whoever, here: Here) -> list[RequirementTold]:
    """What has to be decided in one session."""
    session = await here.session(caller, session_id)
    return [RequirementTold.of(it, session_id) for it in await session.requirements()]
