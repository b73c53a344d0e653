"""Agents that work for a run of another agent: beside its session, under run ids made of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..backend import HeadPatch
from ..entries import PAUSED
from ..errors import SessionNotFound
from ..requirements import Requirement
from ..session import Session
from ..store import Store
from .output import RunOutput
from .tools import Execution, Waits

_LIFE = "~life"
"""In a member's metadata: the life of the session that it is beside. What was said in an earlier one is not the member's any more."""
_PATIENT = 3600.0
"""Seconds that a member waits for its session: whoever has it works for the same run, or is found dead after a lease."""


def beside(session: Session, name: str) -> Session:
    """The session that a member of this name has beside `session`; what it is created with says whose it is, and of which life."""
    return session.beside(f"{session.id}/{name}", HeadPatch(kind="member", parent=session.id, metadata={_LIFE: session.life}))


async def in_this_life(own: Session, session: Session) -> Session:
    """`own` itself, emptied if it is from before `session` was cleared or deleted."""
    there = beside(session, own.id.removeprefix(f"{session.id}/"))
    with suppress(SessionNotFound):
        await there.refresh()
        if there.metadata.get(_LIFE, session.life) != session.life:
            await there.delete()
    return own


def run_id_of(run_id: str, call_id: str) -> str:
    """The id of the run that a member has for this call."""
    return f"{run_id}.{call_id}"


async def work(member: Any, task: str, session: Session, call: Execution) -> RunOutput:
    """The member's run for a call, begun or gone on with, at its end; `Waits` while it waits for people.

    Decisions that it does not wait for any more are left out: it had them in an earlier round, or from somebody else.
    """
    run_id = run_id_of(call.run_id, call.call_id)
    open = {it.id for it in await session.requirements(members=True)} if call.decisions else set[str]()
    decisions = [it for it in call.decisions if it.requirement in open]
    if decisions:
        output: RunOutput = await member.continue_run(run_id, decisions, session=session, lease=call.lease, wait=_PATIENT)
    else:
        output = await member.run(task, session=session, run_id=run_id, lease=call.lease)
    if output.status == PAUSED:
        raise Waits(output.requirements)
    return output


async def cancel(member: Any, session: Session, run_id: str) -> None:
    """Cancel the member's run if it waits for people."""
    for it in await session.requirements(members=True):
        if it.run_id == run_id:
            await member.continue_run(run_id, [it.cancel()], session=session)
            return


async def cancel_waiting(store: Store, session: Session, run_id: str, waits: Sequence[Requirement]) -> None:
    """Cancel the runs of members that a run, which is over, waited for; whoever ends it need not know its members.

    They are found in `session` itself, where members share it, and in those beside it.
    """
    for id in {run_id_of(run_id, it.via.call) for it in waits if it.via is not None}:
        await _cancel_waiting(store, session, id)
        async for info in store.sessions(waiting=True, parent=session.id, user_id=session.info.user_id):
            if (own := await store.get(info.id, user_id=session.info.user_id)) is not None:
                await _cancel_waiting(store, own, id)


async def _cancel_waiting(store: Store, session: Session, run_id: str) -> None:
    theirs = [it for it in await session.requirements(members=True) if it.run_id == run_id]
    if theirs and await session.cancel_run(run_id):
        await cancel_waiting(store, session, run_id, theirs)


def about(instructions: Any) -> str:
    """What others are told of an agent: the first line of its instructions."""
    lines = instructions.strip().splitlines() if isinstance(instructions, str) else []
    return lines[0] if lines else "an agent"
