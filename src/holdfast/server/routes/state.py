"""The state of a session, and of its user and the application."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body, Depends, Query, Response

from ... import Session, State
from ...values import encode
from ..callers import Whoever
from ..changes import noticing
from ..paths import Whole
from ..problems import Problem, not_found
from ..serving import Here
from ..shapes import Json

router = APIRouter(prefix="/sessions/{session_id}/state", tags=["state"], dependencies=[Depends(noticing)])
Scope = Annotated[Literal["session", "user", "app"], Query()]


async def _state(session: Session, scope: str) -> State:
    """The state of this scope; 409 where that is a user's and the session has none."""
    if scope == "user" and session.info.user_id is None:
        raise Problem(409, f"session {session.id!r} has no user whose state that could be")
    return session.state if scope == "session" else await session.scope(scope)  # type: ignore[arg-type]  # FastAPI has checked it


def told(value: Any) -> Any:
    """A value as JSON: those that JSON has no form for in their stored one, tagged."""
    return msgspec.json.decode(encode(value))[1]


@router.get("")
async def read_state(session_id: Whole, caller: Whoever, here: Here, scope: Scope = "session") -> dict[str, Any]:
    """Every key with its value."""
    state = await _state(await here.session(caller, session_id), scope)
    return {key: told(state[key]) for key in state}


@router.get("/{key}")
async def read_value(session_id: Whole, key: Whole, caller: Whoever, here: Here, scope: Scope = "session") -> Any:
    """One value; 404 where there is none."""
    state = await _state(await here.session(caller, session_id), scope)
    if key not in state:
        raise not_found(f"key {key!r} in the state")
    return Response(msgspec.json.encode(told(state[key])), media_type="application/json")


@router.put("/{key}", status_code=204)
async def write_value(
    session_id: Whole, key: Whole, value: Annotated[Json, Body()], caller: Whoever, here: Here, scope: Scope = "session"
) -> Response:
    """Set one value, any JSON; other keys stay. The application's state is written by admins only."""
    session = await here.session(caller, session_id)
    if scope == "app" and not caller.admin:
        raise Problem(403, "the application's state is written by admins")
    (await _state(session, scope))[key] = value
    await session.commit()
    return Response(status_code=204)


@router.delete("/{key}", status_code=204)
async def delete_value(session_id: Whole, key: Whole, caller: Whoever, here: Here, scope: Scope = "session") -> Response:
    """Delete one key; 404 where there is none."""
    session = await here.session(caller, session_id)
    if scope == "app" and not caller.admin:
        raise Problem(403, "the application's state is written by admins")
    state = await _state(session, scope)
    if key not in state:
        raise not_found(f"key {key!r} in the state")
    del state[key]
    await session.commit()
    return Response(status_code=204)
