"""The blocking forms of what is made of agents: teams and workflows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..agents import team as aio_team
from ..agents import workflow as aio_workflow
from ..agents.team import Mode
from ..agents.workflow import StepProgress
from ..info import SessionInfo
from .agent import Agent
from .sessions import Store


class Team(Agent):
    """`holdfast.agents.Team`, blocking. Members may be agents of either form."""

    def __init__(
        self, model: Any, *, members: Sequence[Agent], mode: Mode = "coordinate", share_session: bool = False, **more: Any
    ) -> None:
        self._team = aio_team.Team(model, members=members, mode=mode, share_session=share_session, **_inner(more))  # pyright: ignore[reportArgumentType]
        self._adopt(self._team)

    def get_member_sessions(self, session_id: str | None = None, *, user_id: str | None = None) -> list[SessionInfo]:
        return self.store.call(self._team.get_member_sessions(session_id, user_id=user_id))


class Workflow(Agent):
    """`holdfast.agents.Workflow`, blocking. Steps may be agents of either form; a function gets the form of `Session` that it names."""

    def __init__(
        self,
        steps: Sequence[Any],
        *,
        name: str | None = None,
        agent: Any = None,
        add_workflow_history_to_steps: bool = False,
        num_history_runs: int = 3,
        **more: Any,
    ) -> None:
        self._workflow = aio_workflow.Workflow(
            steps,
            name=name,
            agent=agent,
            add_workflow_history_to_steps=add_workflow_history_to_steps,
            num_history_runs=num_history_runs,
            **_inner(more),
        )
        self._adopt(self._workflow)

    def get_progress(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None) -> list[StepProgress]:
        return self.store.call(self._workflow.get_progress(run_id, session_id, user_id=user_id))


def _inner(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an agent, for the asynchronous one."""
    store = options.get("store")
    return options | {"store": store.aio} if isinstance(store, Store) else options
