"""Agents that work for a run of another agent: beside its session, under run ids made of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..backend import HeadPatch
from ..beside import NOTED
from ..entries import COMPLETED, PAUSED
from ..errors import AlreadyDecided, SessionNotFound, UsageError
from ..ids import run_id_of
from ..requirements import Decision, PassedOn
from ..session import Session
from ..state import State
from ..store import Store
from .output import RunOutput
from .tools import Execution, Waits

_LIFE = "~life"
"""In a member's metadata: the life of the session that it is beside. What was said in an earlier one is not the member's any more."""
_PATIENT = 3600.0
"""Seconds that a member waits for its session: whoever has it works for the same run, or is found dead after a lease."""


async def beside(session: Session, name: str) -> Session:
    """The session that a member of this name has beside `session`, emptied if it is from before that was cleared or deleted."""
    noted = State(session, NOTED)
    if name not in noted:  # written before the other is there: whoever removes this one removes it too
        noted[name] = True
        await session.commit()
    theirs = HeadPatch(kind="member", parent=session.id, metadata={_LIFE: session.life})
    there = session.beside(name, theirs)
    with suppress(SessionNotFound):
        await there.refresh()
        if there.metadata.get(_LIFE, session.life) != session.life:
            await there.delete()
    return session.beside(name, theirs)


async def work(member: Any, task: str, session: Session, call: Execution) -> RunOutput:
    """The member's run for a call, begun or gone on with, at its end; `Waits` while it waits for people.

    Decisions that it does not wait for any more are left out: it had them in an earlier round, or from somebody else.
    """
    run_id = run_id_of(call.run_id, call.call_id)
    open = {it.id for it in await session.requirements(members=True)} if call.decisions else set[str]()
    decisions = [PassedOn(it.requirement, it.outcome, it.value) for it in call.decisions if it.requirement in open]
    how: dict[str, Any] = {"session": session, "lease": call.lease, "wait": _PATIENT}
    if decisions:
        output: RunOutput = await member.continue_run(run_id, decisions, **how)
    else:
        output = await member.run(task, run_id=run_id, **how)
    if output.status == PAUSED:
        raise Waits(output.requirements)
    if output.status != COMPLETED:
        raise UsageError(f"the work of {member.name!r} has no result: its run {run_id!r} is {output.status}")
    return output


async def check_not_passed_on(store: Store, session: Session, decisions: Sequence[Decision]) -> None:
    """`AlreadyDecided` where the run that a member works for, in the session beside its own, has been told of another decision."""
    parent = None if session.info.parent is None else await store.get(session.info.parent, user_id=session.info.user_id)
    for place in (session, parent):
        told = set[str]() if place is None else await place.passed_on(decided=True)
        if wrong := [it for it in decisions if it.requirement in told and not isinstance(it, PassedOn)]:
            raise AlreadyDecided(f"requirement {wrong[0].requirement!r} was decided already, where {place and place.id!r} waits for it")


def about(instructions: Any) -> str:
    """What others are told of an agent: the first line of its instructions."""
    lines = instructions.strip().splitlines() if isinstance(instructions, str) else []
    return lines[0] if lines else "an agent"
