"""Sessions: list, create, read, change, branch, remove."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime
from starlette.responses import StreamingResponse

from ... import InvalidValue
from ...entries import MESSAGE
from ..callers import Whoever
from ..changes import noticing
from ..lines import lines as newest
from ..paths import Whole
from ..problems import Problem, not_found
from ..serving import Here
from ..shapes import ForkRequest, MessageTold, RewindLast, RewindTo, SessionPatch, SessionRequest, SessionsTold, SessionTold

router = APIRouter(prefix="/sessions", tags=["sessions"], dependencies=[Depends(noticing)])
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("")
async def list_sessions(
    caller: Whoever,
    here: Here,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
    user_id: Annotated[str | None, Query(min_length=1, max_length=1024)] = None,
    name: Annotated[str | None, Query(max_length=1000)] = None,
    parent: Annotated[str | None, Query(max_length=1024)] = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    waiting: bool | None = None,
    updated_after: AwareDatetime | None = None,
    updated_before: AwareDatetime | None = None,
    lines: bool = False,
) -> SessionsTold:
    """A page of sessions, the newest created first; an admin's are everybody's, or those of `user_id`.

    With `lines` each comes with what was said last in it. A page may be short, even empty, before the last: go on while there is a cursor.
    """
    wanted: dict[str, Any] = {"name": name, "parent": parent, "kind": kind, "waiting": waiting}
    wanted |= {"updated_after": updated_after, "updated_before": updated_before, "user_id": caller.acting_for(user_id)}
    store = here.store(caller)
    try:
        page = await store.list(limit=limit, cursor=cursor, **wanted)
    except InvalidValue as error:
        raise not_found("page that begins there: the cursor is none that a list returned") from error
    if not lines:
        return SessionsTold(items=[SessionTold.of(it) for it in page.items], cursor=page.cursor)
    beside = await newest(store, page.items, wanted["user_id"])
    return SessionsTold(items=[SessionTold.of(it, *more) for it, more in zip(page.items, beside, strict=True)], cursor=page.cursor)


@router.post("", status_code=201)
async def create_session(given: SessionRequest, caller: Whoever, here: Here) -> SessionTold:
    """Make a session; 409 where there is one with this id."""
    caller = caller.becoming(given.user_id)
    store, user = here.store(caller), caller.owner
    if given.session_id is not None and await store.has(given.session_id, user_id=user):
        raise Problem(409, f"there is a session {given.session_id!r}: choose another id, or leave it out")
    session = await store.session(given.session_id, user_id=user)
    if given.name is not None:
        await session.rename(given.name)
    if given.metadata:
        await session.update_metadata(**given.metadata)
    return SessionTold.of(session.info)


@router.get("/{session_id}")
async def read_session(session_id: Whole, caller: Whoever, here: Here, lines: bool = False) -> SessionTold:
    """One session; with `lines`, as in the list."""
    info = (await here.session(caller, session_id)).info
    if not lines:
        return SessionTold.of(info)
    (beside,) = await newest(here.store(caller), [info], caller.user)
    return SessionTold.of(info, *beside)


@router.patch("/{session_id}")
async def change_session(session_id: Whole, given: SessionPatch, caller: Whoever, here: Here) -> SessionTold:
    """Name a session (or have it named), change its metadata, its time to live."""
    session = await here.session(caller, session_id)
    if given.autogenerate:
        agent = here.agent(caller, given.agent or (session.info.agent if session.info.agent in here.runtime.agents else None))
        await agent.set_session_name(session_id, autogenerate=True, user_id=caller.user)
    elif "name" in given.model_fields_set:
        await session.rename(given.name)
    if given.metadata:
        await session.update_metadata(**given.metadata)
    if "ttl" in given.model_fields_set:
        await session.set_ttl(given.ttl)
    await session.refresh()
    return SessionTold.of(session.info)


@router.delete("/{session_id}", status_code=204)
async def delete_session(session_id: Whole, caller: Whoever, here: Here) -> Response:
    """Remove a session and everything it holds."""
    if not await here.store(caller).delete(session_id, user_id=caller.user):
        raise not_found(f"session {session_id!r}")
    here.audit(caller, "delete", session_id)
    return Response(status_code=204)


@router.post("/{session_id}/clear")
async def clear_session(session_id: Whole, caller: Whoever, here: Here) -> SessionTold:
    """Remove all history, state and files; the session, its name and owner stay."""
    session = await here.session(caller, session_id)
    session.clear()
    await session.commit()
    here.audit(caller, "clear", session_id)
    return SessionTold.of(session.info)


@router.post("/{session_id}/fork", status_code=201)
async def fork_session(session_id: Whole, given: ForkRequest, caller: Whoever, here: Here) -> SessionTold:
    """A new session with what this one holds, up to seq `at`."""
    session = await here.session(caller, session_id)
    return SessionTold.of((await session.fork(given.session_id, at=given.at, name=given.name)).info)


@router.post("/{session_id}/rewind")
async def rewind_session(session_id: Whole, given: RewindTo | RewindLast, caller: Whoever, here: Here) -> dict[str, int]:
    """Go back: what comes after stays in the record, hidden; how many entries that are."""
    session = await here.session(caller, session_id)
    hidden = await (session.rewind(to=given.to) if isinstance(given, RewindTo) else session.rewind(last=given.last))
    here.audit(caller, "rewind", session_id, hidden=str(hidden))
    return {"hidden": hidden}


@router.get("/{session_id}/messages")
async def list_messages(
    session_id: Whole,
    caller: Whoever,
    here: Here,
    last: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> list[MessageTold]:
    """The newest messages in order (before seq `before`), tool calls included."""
    session = await here.session(caller, session_id)
    return [MessageTold.of(it) for it in await session.entries(last=last, before=before, kinds=(MESSAGE,))]


@router.get("/{session_id}/export", response_class=StreamingResponse)
async def export_session(session_id: Whole, caller: Whoever, here: Here) -> StreamingResponse:
    """The whole session as JSON Lines, as `holdfast sessions import` reads it."""
    await here.session(caller, session_id)
    lines = here.store(caller).export(session_id, user_id=caller.user)
    here.audit(caller, "export", session_id)

    async def body() -> AsyncIterator[bytes]:
        async for line in lines:
            yield f"{line}\n".encode()

    return StreamingResponse(body(), media_type="application/jsonl", headers={"content-disposition": "attachment"})
