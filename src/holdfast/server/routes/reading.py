"""What a session holds beside its messages: entries, files, versions of its state; and a search over all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response

from ... import Store
from ...agents.record import as_sent
from ...runtime import Runtime
from ..callers import Caller, Whoever
from ..paths import Whole
from ..problems import not_found
from ..reads import AsSentTold, ChangeTold, EntriesTold, EntryTold, FileTold, HitTold, SearchTold, TryTold, VersionsTold
from ..serving import Here
from ..shapes import SessionTold

router = APIRouter()
Kind = Literal["message", "run", "requirement", "decision", "step", "state", "summary", "handoff", "note"]
Seq = Annotated[int | None, Query(ge=0, le=2**53)]
_PAGES = 5
"""Pages of sessions that a search by name looks at."""


@router.get("/sessions/{session_id}/entries", tags=["sessions"])
async def list_entries(
    session_id: Whole,
    caller: Whoever,
    here: Here,
    kinds: Annotated[list[Kind] | None, Query()] = None,
    run_id: Annotated[str | None, Query(min_length=1, max_length=1024)] = None,
    after: Seq = None,
    before: Seq = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    hidden: bool = False,
) -> EntriesTold:
    """The records of the log: the oldest behind seq `after`, or without it the newest (before seq `before`), in order.

    `hidden`: also those that were rewound.
    """
    session = await here.session(caller, session_id)
    wanted: dict[str, Any] = {"kinds": tuple(kinds or ()), "run_id": run_id, "before": before, "hidden": hidden}
    if after is not None:
        found = await session.entries(after=after, first=limit + 1, **wanted)
        return EntriesTold(items=[EntryTold.of(it) for it in found[:limit]], more=len(found) > limit)
    found = await session.entries(last=limit + 1, **wanted)
    return EntriesTold(items=[EntryTold.of(it) for it in found[-limit:]], more=len(found) > limit)


@router.get("/sessions/{session_id}/runs/{run_id}/as-sent", tags=["runs"])
async def read_as_sent(session_id: Whole, run_id: Whole, caller: Whoever, here: Here) -> AsSentTold:
    """What a run sent to its model, try by try and request by request, as its session recorded it."""
    session = await here.session(caller, session_id)
    found = await as_sent(session, run_id)
    if found is None:
        raise not_found(f"run {run_id!r} in session {session_id!r}")
    while found and all(it.copied for it in found) and session.info.origin is not None:
        origin = await here.store(caller).get(session.info.origin.session_id, user_id=caller.user)
        there = None if origin is None else await as_sent(origin, run_id)
        if origin is None or there is None:
            break
        session, found = origin, there
    return AsSentTold(session_id=session.id, run_id=run_id, tries=[TryTold.of(it) for it in found])


@router.get("/sessions/{session_id}/files", tags=["sessions"])
async def list_files(session_id: Whole, caller: Whoever, here: Here) -> list[FileTold]:
    """The files kept with a session, by name."""
    return [FileTold.of(it) for it in await (await here.session(caller, session_id)).list_files()]


@router.get("/sessions/{session_id}/files/{name}", tags=["sessions"], response_class=Response)
async def read_file(session_id: Whole, name: Whole, caller: Whoever, here: Here) -> Response:
    """The bytes of one file, as a download: a browser shows nothing of it."""
    data = await (await here.session(caller, session_id)).get_file(name)
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.get("/sessions/{session_id}/state-versions", tags=["state"])
async def read_state_versions(session_id: Whole, caller: Whoever, here: Here) -> VersionsTold:
    """At which version of the session each key of its state was last changed."""
    session = await here.session(caller, session_id)
    rows = {key: session.cells.rows[key].version for key in session.state}
    return VersionsTold(version=session.version, keys=rows)


@router.get("/sessions/{session_id}/state-history", tags=["state"])
async def read_state_history(
    session_id: Whole,
    caller: Whoever,
    here: Here,
    key: Annotated[str | None, Query(min_length=1, max_length=1024)] = None,
    last: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[ChangeTold]:
    """The newest changes of the state (of one key), in order, as far as the store was asked to tell them (`session.state_history`)."""
    session = await here.session(caller, session_id)
    return [ChangeTold.of(it) for it in await session.state_history(key, last=last)]


@router.get("/search", tags=["sessions"])
async def search(
    caller: Whoever,
    here: Here,
    q: Annotated[str, Query(min_length=1, max_length=1000)],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> SearchTold:
    """Sessions whose name holds `q`, the newest created first, and what was said that fits, where the server has an index of it.

    By name a bounded number of sessions is looked at; `GET /sessions?name=` goes through all of them, page by page.
    """
    return SearchTold(sessions=await _named(here.store(caller), caller, q, limit), hits=await _hits(here.runtime, caller, q, limit))


async def _named(store: Store, caller: Caller, text: str, limit: int) -> list[SessionTold]:
    found: list[SessionTold] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await store.list(name=text, user_id=caller.user, limit=limit - len(found), cursor=cursor)
        found += [SessionTold.of(it) for it in page.items]
        if (cursor := page.cursor) is None or len(found) == limit:
            break
    return found


async def _hits(runtime: Runtime, caller: Caller, text: str, limit: int) -> list[HitTold] | None:
    """Of the runtime's index of what was said, if it has one, for this caller's tenant; an admin finds everybody's."""
    recall = runtime.recall
    if recall is None or recall.store.tenant != caller.tenant:
        return None
    found = await recall.find(text, limit, user_id=caller.user, everybody=caller.admin and caller.user is None)
    return [HitTold(**msgspec.structs.asdict(it)) for it in found]
