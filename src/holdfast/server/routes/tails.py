"""What happens, as it happens: the tail of a session, and of all sessions of a caller."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from starlette.requests import Request

from ..callers import Whoever
from ..changes import changes_told
from ..paths import Whole
from ..serving import Here
from ..streams import last_seen, position, stream, tailed
from ..tails import session_told

router = APIRouter(tags=["events"])


@router.get("/sessions/{session_id}/events", response_class=Response)
async def follow_session(session_id: Whole, caller: Whoever, here: Here, request: Request) -> Any:
    """What happens in a session, as server-sent events, from behind `Last-Event-ID` on (`?after=` a seq), or from now on.

    `entry`: a record of the log as it is stored, each once and in order. `session`: the session itself, at the beginning and whenever
    something about it is different. `partial`: what a run says before it is stored; with `start` it takes the place of what was told
    of it before, and its entry takes its own. `cleared`: all of before is gone. `gone`: so is the session, or it is another's now.
    """
    here.streams.check()
    await here.session(caller, session_id)
    return stream(tailed(session_told(here.store(caller), session_id, caller.user, position(request))))


@router.get("/events", response_class=Response)
async def follow_sessions(caller: Whoever, here: Here, request: Request) -> Any:
    """Which of the caller's sessions change (an admin's: everybody's), as server-sent events, also since `Last-Event-ID`.

    `ready` at the beginning. `session`: one that is new or different, as a list with `lines` shows it. `deleted`: its id. `reload`: too
    much has changed to tell, list them anew. A change that another worker makes in an old session may be told late.
    """
    here.streams.check()
    return stream(tailed(changes_told(here.store(caller), caller.user, last_seen(request) or None)))
