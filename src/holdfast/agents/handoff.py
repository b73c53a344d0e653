"""Agents that hand a conversation over to one another: one session, one run, and one of them on duty at a time.

Who is on duty is kept in the session's state, under a key that no user can have, and told in the log. It changes with the commit that
stores the answer to the call which hands over; so a run that was broken off goes on with whoever has the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from .. import entries as kinds
from ..entries import Entry, NewEntry
from ..errors import InvalidValue
from ..ids import new_id, now
from ..messages import Message
from ..session import Session
from ..state import State
from .agent import Agent
from .history import calls_of, results_of
from .members import about
from .orders import Crew, Instructions, made
from .tools import ToolOptions, marked, name_of, options_of

_ON_DUTY = "\x1fduty:"
TOOL = "hand_over"
_GUIDE = "Others can take this conversation over from you. Where one of them fits better, hand over with `hand_over`, and say nothing else."
_TAKEN = "{agent} has the conversation now."
_HAND_OVER = """Hand the conversation over to another agent, who sees all of it and answers from here on.

Args:
    agent: One of: {names}.
    reason: Why, in a few words.
"""


class Duty(msgspec.Struct, frozen=True):
    """Who may be on duty, by name, the first of them at the beginning; `team` is the name under which a session keeps who it is."""

    team: str
    crews: dict[str, Crew]

    def on(self, session: Session, page: list[Entry] | None = None, *, whole: bool = False) -> Crew:
        """Who has this conversation, as the state says; as the newest entries say, where they tell of it.

        Both are the same but after a rewind, or in a fork of an earlier place: what is hidden there, or was left out, did not happen.
        `whole`: the page is the whole log.
        """
        told = [it["agent"] for entry in page or () if entry.kind == kinds.HANDOFF and (it := entry.data()).get("team") == self.team]
        found = told[-1] if told else None if whole else State(session, _ON_DUTY).get(self.team)
        return self.crews.get(str(found)) or next(iter(self.crews.values()))

    def handed(self, told: list[Message], by: str | None) -> tuple[str, str] | None:
        """To whom this agent hands over, and why, now that every call of the last answer has its result; None if to nobody else.

        Only the tool's own result gives the conversation away: where a call was refused, or something else was put in its place, it stays.
        """
        asked = next((message for message in reversed(told) if calls_of(message)), None)
        answered = {it.id: it.response for message in told for it in results_of(message)}
        if asked is None or not all(call.id in answered for call in calls_of(asked)):
            return None
        for call in calls_of(asked):
            arguments: Any = call.arguments
            given = cast("dict[str, Any]", arguments) if call.name == TOOL and isinstance(arguments, dict) else {}
            agent = given.get("agent")
            if agent in self.crews.keys() - {by} and answered[call.id] == _TAKEN.format(agent=agent):
                return agent, str(given.get("reason") or "")
        return None

    def take(self, session: Session, agent: str, reason: str, run_id: str, by: str | None) -> NewEntry:
        """Stage that this agent is on duty from the next commit on; the entry that tells of it."""
        State(session, _ON_DUTY)[self.team] = agent
        body = msgspec.json.encode({"agent": agent, "reason": reason, "team": self.team})
        return NewEntry(new_id(), kinds.HANDOFF, body, run_id, by, now())


def on_duty(team: Agent, leader: str, members: Mapping[str, Agent]) -> Duty:
    """The duty of a team whose leader, under this name, has each conversation first; hooks, providers and middleware are the team's."""
    own = team.crew
    if leader in members:
        raise InvalidValue(f"members: one is called {leader!r}, as the leader is: rename it, or the team")
    agents = {leader: own, **{name: _of_the_team(name, it.crew, own) for name, it in members.items()}}
    return Duty(leader, {name: _with_others(name, crew, agents) for name, crew in agents.items()})


def _of_the_team(name: str, crew: Crew, team: Crew) -> Crew:
    if crew.duty is not None:
        raise InvalidValue(f"members: {name!r} is a team that hands over itself: give its members to this one, or another mode to it")
    for what in ("providers", "middleware", "prehooks", "posthooks"):
        if getattr(crew, what):
            raise InvalidValue(f"members: {name!r} has {what} of its own; where a conversation is handed over they are the team's")
    around = {what: getattr(team, what) for what in ("agent", "store", "providers", "middleware", "prehooks", "posthooks")}
    return msgspec.structs.replace(crew, **around)


def _with_others(name: str, crew: Crew, agents: Mapping[str, Crew]) -> Crew:
    """The crew with a tool to hand over to the others, and instructions that tell of them."""
    if TOOL in crew.by_name:
        raise InvalidValue(f"{name!r} has a tool called {TOOL!r}, as the tool is that hands a conversation over: rename it")
    others = {other: about(it.instructions) for other, it in agents.items() if other != name}
    it = _hand_over(", ".join(others), others)
    return msgspec.structs.replace(
        crew,
        name=name,
        instructions=_guided(crew.instructions, others),
        tools=(*crew.tools, it),
        by_name={**crew.by_name, name_of(it): (it, options_of(it))},
    )


def _hand_over(names: str, others: Mapping[str, str]) -> Any:
    async def hand_over(agent: str, reason: str = "") -> str:
        if agent not in others:
            raise LookupError(f"there is no agent {agent!r} here; others are: {names}")
        return _TAKEN.format(agent=agent)

    hand_over.__doc__ = _HAND_OVER.format(names=names)
    return marked(hand_over, ToolOptions(idempotent=True))


def _guided(given: Instructions, others: Mapping[str, str]) -> Instructions:
    """The agent's own instructions, and to whom it may hand over: a function, for who is on duty is known once the session is read."""
    guide = "\n".join([_GUIDE, *[f"- {name}: {line}" for name, line in others.items()]])

    async def instructions(session: Session) -> str:
        own = await made(given, session)
        return f"{own}\n\n{guide}" if own else guide

    return instructions
