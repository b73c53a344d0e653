"""A workflow: steps in an order that is yours, as one run of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..backend import HeadPatch
from ..errors import InvalidValue
from ..runs import PAUSED
from ..session import Session
from .agent import Agent
from .history import History, calls_of, results_of
from .orders import Crew
from .pipeline import Pipeline
from .steps import leaves, listed, ordered
from .tools import ToolOptions, Waits, execution, marked, options_of


class StepProgress(msgspec.Struct, frozen=True):
    """How far one step of a run is: its path, its name, and whether it has given something yet."""

    path: str
    name: str
    done: bool


class Workflow(Agent):
    """An agent whose answer is made by `steps`: functions, agents, teams, and `Parallel`, `Condition`, `Loop`, `Router` of them.

    Its session holds one run for each time the whole is run, each step's result stored as it comes; a run that was broken off goes on
    (`run` with its `run_id`, or `continue_run`) at the step it was in. `add_workflow_history_to_steps`: agents are told of earlier runs,
    `num_history_runs` of them. `agent`: a model, or an Agent, that answers from what earlier runs gave, or starts the workflow.
    """

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
        if misplaced := [key for key in ("instructions", "tools", "history", "add_history_to_context") if key in more]:
            raise InvalidValue(f"Workflow({misplaced[0]}=...): that belongs to the agents of its steps")
        self.steps = ordered(listed(steps), "Workflow")
        told: dict[str, Any] = {"add_history_to_context": add_workflow_history_to_steps, "history": History(runs=num_history_runs)}
        super().__init__(Pipeline(self.steps, self._session_of), name=name, **told, **more)
        by_name = {step.name: (step.work, step.options) for step in leaves(self.steps)}
        self._crew = msgspec.structs.replace(self._crew, model="workflow", by_name=by_name)
        if agent is not None:
            history_too: dict[str, Any] = {
                "add_workflow_history_to_steps": add_workflow_history_to_steps,
                "num_history_runs": num_history_runs,
            }
            quiet = Workflow(steps, name=name, store=self.store, **history_too)
            self._crew = self._spoken(agent if isinstance(agent, Agent) else Agent(agent, name=name, store=self.store), quiet)
            self._history = History()

    async def get_progress(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None) -> list[StepProgress]:
        """The steps of a run that have begun, in order, also while it goes on; in any process."""
        session = await self._there(session_id, user_id)
        _, entries = await session.run_log(run_id)
        messages = [entry.message() for entry in entries if entry.kind == "message"]
        done = {result.id for message in messages for result in results_of(message)}
        return [StepProgress(call.id or "", call.name, call.id in done) for message in messages for call in calls_of(message)]

    def _spoken(self, agent: Agent, quiet: Workflow) -> Crew:
        """The crew of an agent that has the conversation, with the workflow as a tool of it."""

        async def run_workflow(input: str, session: Session) -> str:
            """Run the workflow on this input, and get its result. Use it for new work; answer from the conversation what is known."""
            call = execution()
            run_id = f"{call.run_id}.{call.call_id}"
            going_on = quiet.continue_run(run_id, call.decisions, session=session) if call.decisions else None
            output = await (going_on or quiet.run(input, session=session, run_id=run_id))
            if output.status == PAUSED:
                raise Waits(output.requirements)
            return output.text

        it = marked(run_workflow, ToolOptions(delegates=True))
        theirs = agent.crew
        by_name = {**theirs.by_name, "run_workflow": (it, options_of(it))}
        return msgspec.structs.replace(theirs, agent=self, store=self.store, tools=(*theirs.tools, it), by_name=by_name)

    def _session_of(self, agent: Agent, session: Session) -> Session:
        """The session an agent's steps have beside the workflow's."""
        own = self.store.handle(f"{session.id}/{agent.name or 'step'}", user_id=session.user_id)
        own.begins_with = HeadPatch(kind="member", parent=session.id)
        return own
