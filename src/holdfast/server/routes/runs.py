"""Running agents: `POST /run`, and the runs of a session: read, follow, continue, cancel."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import AfterValidator
from sse_starlette import ServerSentEvent
from starlette.requests import Request

from ... import Agent, HoldfastError, SessionGone, SessionNotFound
from ...agents import RunOutput, RunStream
from ...agents.before import check_same
from ...agents.following import output_of
from ...entries import CANCELLED, COMPLETED, ERROR, RUN, RUNNING
from ...ids import new_id, new_session_id
from ...requirements import Needs, told
from ..callers import Caller, Whoever
from ..changes import notice, noticing
from ..going import Under
from ..paths import NO_STEP, Whole, no_step
from ..problems import Problem, not_found, provider_failed
from ..reads import RunDetailTold
from ..serving import Here, Serving
from ..shapes import Decisions, RunBegun, RunInfoTold, RunRequest, RunTold, decision
from ..streams import last_seen, stream

router = APIRouter(tags=["runs"], dependencies=[Depends(noticing)])
Idempotency = Annotated[
    str | None, Header(min_length=1, max_length=255, pattern="^[!-~]+$", json_schema_extra=NO_STEP), AfterValidator(no_step)
]


@router.post("/run", response_model=RunTold | RunBegun)
async def run_agent(
    asked: RunRequest, caller: Whoever, here: Here, request: Request, response: Response, idempotency_key: Idempotency = None
) -> Any:
    """Run an agent on a session. With `Idempotency-Key` (or `run_id`) the call is safe to repeat: the same run, never another. Where both
    are given they are the same.

    With `stream` the answer is server-sent events. A client that loses them says the same again with `Last-Event-ID`, or goes on at
    `/sessions/{session_id}/runs/{run_id}/events`.
    """
    caller = caller.becoming(asked.user_id)
    agent = here.agent(caller, asked.agent)
    run_id = asked.run_id or idempotency_key or new_id()
    if idempotency_key not in (None, run_id):
        raise Problem(422, "the Idempotency-Key and run_id name two runs: give one of them, or the same in both")
    session_id = asked.session_id or agent.session_id or _session_for(caller, idempotency_key)
    under = Under(agent, run_id, session_id, await here.owner(caller, asked.session_id))
    options: dict[str, Any] = {"session_id": session_id, "user_id": under.user_id, "run_id": run_id, "wait": asked.wait}
    options["lease"] = here.settings.lease
    here.going.check()
    notice(agent.store, session_id)
    again = asked.run_id is not None or idempotency_key is not None
    if again:
        await _check_same(asked, under)
    if asked.stream:
        here.streams.check()
        await here.check_free(caller, asked.session_id)
    if asked.background:
        return _begun(response, under, await here.going.background(asked.input(), under))
    if asked.stream:
        return stream(
            await _told(here, lambda: agent.run(asked.input(), **options, stream=True, detached=True), under, request, again=again)
        )
    return await _answered(here, agent.run(asked.input(), **options), under)


async def _check_same(asked: RunRequest, under: Under) -> None:
    """422 where the run was begun before by another agent or with another input; what was rewound was not begun."""
    with suppress(SessionNotFound, SessionGone):
        session = under.agent.store.handle(under.session_id, user_id=under.user_id)
        found, log = await session.run_log(under.run_id)
        if found is None:
            return
        begun = [it for it in log if it.kind == RUN and (found.status == COMPLETED or not it.hidden)]
        if begun and begun[0].agent != under.agent.name:  # whoever has the conversation later may be another
            raise Problem(422, f"run {under.run_id!r} was begun by another agent: use another key for another run")
        check_same(session, found, log, [asked.input()])


def _begun(response: Response, run: Under, status: str) -> RunBegun:
    """The answer for a run in the background: 202, and where it is read."""
    response.status_code = 202
    session, id = quote(run.session_id, safe=""), quote(run.run_id, safe="")
    response.headers["location"] = f"/sessions/{session}/runs/{id}"
    return RunBegun(run_id=run.run_id, session_id=run.session_id, status=status)


def _session_for(caller: Caller, key: str | None) -> str:
    """The session of a call that names none: a repeated one has to come to the same, by whichever of a user's keys it is made."""
    if key is None:
        return new_session_id()
    whose = (caller.tenant, caller.user or "", "" if caller.user else caller.name, key)
    return hashlib.blake2b("\0".join(whose).encode(), digest_size=16).hexdigest()


async def _told(
    here: Serving, begin: Callable[[], RunStream], under: Under, request: Request, *, again: bool
) -> AsyncIterator[ServerSentEvent]:
    """What a run tells: from its beginning or, of one that was begun by the same call before, from where the client has got to."""
    found = await under.now() if again else None
    if found is None or found.status in (ERROR, CANCELLED):
        return await here.going.told(begin(), under, again=again)
    return here.going.joined(begin, under, last_seen(request))


async def _answered(here: Serving, running: Any, under: Under) -> RunTold:
    """What the run gave; an error that isn't ours is its provider's."""
    try:
        output: RunOutput = await here.going.answered(running, under)
    except (HoldfastError, Problem):
        raise
    except Exception as error:  # the model's client, or the agent's own code
        here.going.failed(under, error)
        raise provider_failed(error, run_id=under.run_id, session_id=under.session_id) from error
    here.metrics.ended(output)
    return RunTold.of(output)


@router.get("/sessions/{session_id}/runs")
async def list_runs(session_id: Whole, caller: Whoever, here: Here, last: Annotated[int, Query(ge=1, le=200)] = 20) -> list[RunInfoTold]:
    """The newest runs of a session, in the order they began."""
    session = await here.session(caller, session_id)
    return [RunInfoTold.of(it) for it in await session.runs(last=last)]


@router.get("/sessions/{session_id}/runs/{run_id}")
async def read_run(session_id: Whole, run_id: Whole, caller: Whoever, here: Here) -> RunDetailTold:
    """One run of a session: what it gave, what it waits for, what it did when. A background run's answer is read here."""
    session = await here.session(caller, session_id)
    found, log = await session.run_log(run_id)
    if found is None:
        raise not_found(f"run {run_id!r} in session {session_id!r}")
    return RunDetailTold.detailed(found, output_of(session, found, log), log)


@router.get("/sessions/{session_id}/timeline")
async def read_timeline(
    session_id: Whole, caller: Whoever, here: Here, last: Annotated[int, Query(ge=1, le=50)] = 20
) -> list[RunDetailTold]:
    """As the list of runs, each in detail: for drawing when what was done, and what it took."""
    session = await here.session(caller, session_id)
    told: list[RunDetailTold] = []
    for it in await session.runs(last=last):
        found, log = await session.run_log(it.id)
        if found is not None:
            told.append(RunDetailTold.detailed(found, output_of(session, found, log), log))
    return told


@router.get("/sessions/{session_id}/runs/{run_id}/events", response_class=Response)
async def follow_run(session_id: Whole, run_id: Whole, caller: Whoever, here: Here, request: Request) -> Any:
    """What a run tells, as server-sent events, from behind `Last-Event-ID` on: while it goes on in any worker, and after its end."""
    session = await here.session(caller, session_id)
    if await session.get_run(run_id) is None:
        raise not_found(f"run {run_id!r} in session {session_id!r}")
    here.streams.check()
    return stream(here.going.lasting(Under(_any(here, caller), run_id, session_id, caller.user), last_seen(request)))


@router.post("/sessions/{session_id}/runs/{run_id}/decisions", response_model=RunTold | RunBegun)
async def decide(session_id: Whole, run_id: Whole, given: Decisions, caller: Whoever, here: Here, response: Response) -> Any:
    """Decide on what a paused run waits for, all of it or some; the run goes on once nothing is open.

    In the `background` it is answered when the decisions are stored, and comes to its end whoever dies.
    """
    session = await here.session(caller, session_id)
    found, log = await session.run_log(run_id, light=True)
    if found is None:
        raise not_found(f"run {run_id!r} in session {session_id!r}")
    _check_open(given, told(log))
    agent = here.agent(caller, _agent_of(here, found.agent, session.info.agent))
    under = Under(agent, run_id, session_id, caller.user)
    made = [decision(it) for it in given.decisions]
    options: dict[str, Any] = {"session_id": session_id, "user_id": caller.user, "lease": here.settings.lease}
    here.going.check()
    if given.stream:
        here.streams.check()
    for it in made:
        here.audit(caller, it.outcome, session_id, run_id=run_id, requirement=it.requirement)
    if given.stream or given.background:
        going = agent.continue_run(run_id, made, **options, stream=True, detached=True)
        if given.stream:
            return stream(await here.going.told(going, under))
        await here.going.decided(going, under)
        return _begun(response, under, RUNNING)
    return await _answered(here, agent.continue_run(run_id, made, **options), under)


def _check_open(given: Decisions, needs: Needs) -> None:
    """404 for a requirement that is none of the run's, 409 for one that was decided before, 422 for what it can't be decided with."""
    for it in given.decisions:
        if it.requirement not in needs.asked:
            raise not_found(f"requirement {it.requirement!r} of this run")
        if it.requirement in needs.decided:
            raise Problem(409, f"requirement {it.requirement!r} was decided already: {needs.decided[it.requirement].outcome}")
        needs.asked[it.requirement].check(decision(it))


def _agent_of(here: Serving, *names: str | None) -> str | None:
    """Under which name the agent is served that had one of these; a member that was handed the conversation is not served itself."""
    for name in names:
        for served, it in here.runtime.agents.items():
            if name is not None and name in (served, it.name):
                return served
    return None


@router.post("/sessions/{session_id}/runs/{run_id}/cancel")
async def cancel_run(session_id: Whole, run_id: Whole, caller: Whoever, here: Here) -> RunInfoTold:
    """Cancel a run that is under way, queued or paused, in any worker; one that is over stays as it is."""
    session = await here.session(caller, session_id)
    if await session.get_run(run_id) is None:
        raise not_found(f"run {run_id!r} in session {session_id!r}")
    await _any(here, caller).cancel_run(run_id, session_id, user_id=caller.user)
    here.audit(caller, "cancel", session_id, run_id=run_id)
    await session.refresh()
    found = await session.get_run(run_id)
    assert found is not None
    return RunInfoTold.of(found)


def _any(here: Serving, caller: Caller) -> Agent:
    """Some agent: following and cancelling are the session's, whoever runs."""
    return here.agent(caller, next(iter(here.runtime.agents)))
