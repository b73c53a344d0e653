"""A team: an agent that gives work to others.

A member is run by a tool, under a run id made of the team's run and the call: done again after a crash, it goes on where it was, and what
it has stored is not done twice. What a member waits for, the team waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from ..errors import InvalidValue
from ..info import SessionInfo
from ..session import Session
from .agent import Agent, asynchronous
from .handoff import on_duty
from .members import about, beside, work
from .tools import ToolOptions, execution, marked

Mode = Literal["coordinate", "route", "handoff"]
_GUIDES: dict[str, str] = {
    "coordinate": "You lead a team. Give each part of the work to the member who fits, with `delegate`, and answer from what they bring.",
    "route": "You lead a team. Choose the member who fits best and hand over, with `delegate`: the member's answer is the answer.",
}


_DELEGATE = """Give a task to a member of the team, and get what it answers.

Args:
    member: One of: {names}.
    task: All that the member needs to know.
"""


class Team(Agent):
    """An agent whose model gives tasks to `members`, each an `Agent` (or a `Team`) with a name.

    `mode`: "coordinate" (the leader answers, from what the members bring), "route" (the answer of the member it chooses is the team's) or
    "handoff" (whoever has the conversation answers, and may hand it over to any other; it stays there for the next runs too).
    Each member has a session of its own for each session of the team, called `<session id>/<name>`, and remembers what it was asked there;
    with `share_session` members work in the team's session, and see what was said in it, as they always do where they hand over; hooks,
    providers and middleware are the team's then. Other arguments are those of `Agent`.
    """

    def __init__(
        self, model: Any, *, members: Sequence[Agent], mode: Mode = "coordinate", share_session: bool = False, **more: Any
    ) -> None:
        self.members = _checked(members, mode)
        self.mode: Mode = mode
        self._shares = share_session
        if mode == "handoff":
            super().__init__(model, **more)
            self._crew = msgspec.structs.replace(self._crew, duty=on_duty(self, self.name or "leader", self.members))
            return
        given = more.pop("instructions", None)
        tools = [*more.pop("tools", ()), self._delegate()]
        super().__init__(model, instructions=self._guided(given), tools=tools, **more)

    async def get_member_sessions(self, session_id: str | None = None, *, user_id: str | None = None) -> list[SessionInfo]:
        """The members' own sessions under one of the team's, the newest first; `SessionNotFound` where there is none for this caller."""
        session = await self._there(session_id, user_id)
        return [it async for it in self.store.sessions(parent=session.id, user_id=session.info.user_id)]

    def _guided(self, given: Any) -> Any:
        """The leader's instructions: how to lead, whom, and what else was given."""
        lines = [f"- {name}: {about(it.instructions)}" for name, it in self.members.items()]
        guide = "\n".join([_GUIDES[self.mode], "Members:", *lines])
        if callable(given):
            raise InvalidValue("Team(instructions=...): give text; a function is for an Agent")
        return f"{guide}\n\n{given}" if given else guide

    def _delegate(self) -> Any:
        names = ", ".join(self.members)

        async def delegate(member: str, task: str, session: Session) -> Any:
            if member not in self.members:
                raise LookupError(f"there is no member {member!r}; members are: {names}")
            it = self.members[member]
            own = session if self._shares else await beside(session, member)
            return (await work(it, task, own, execution())).content

        delegate.__doc__ = _DELEGATE.format(names=names)
        options = ToolOptions(delegates=tuple(self.members.values()), final=self.mode == "route")
        return marked(delegate, options)


def _checked(members: Sequence[Agent], mode: str) -> dict[str, Agent]:
    """The members by name; `InvalidValue` where the leader could not tell them apart."""
    if mode not in get_args(Mode):
        raise InvalidValue(f"mode={mode!r}: a team's mode is {' or '.join(map(repr, get_args(Mode)))}")
    if isinstance(members, Agent) or not members:
        raise InvalidValue(f"members={members!r:.80}: give a list of agents, one at least")
    found: dict[str, Agent] = {}
    for it in map(asynchronous, members):
        if not isinstance(it, Agent):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"members: {it!r:.80} is no Agent")
        if it.name is None or "/" in it.name:
            raise InvalidValue(f"members: {it!r} needs a name without a slash: Agent(..., name=...)")
        if it.name in found:
            raise InvalidValue(f"members: two are called {it.name!r}: the leader could not tell them apart")
        found[it.name] = it
    return found
