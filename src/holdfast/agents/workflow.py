"""A workflow: steps in an order that is yours, as one run of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import InvalidValue, UsageError
from ..runs import WORKFLOW
from ..session import Session
from .agent import Agent, asynchronous
from .engine import check_holds
from .history import History, calls_of, results_of
from .members import beside, work
from .orders import Crew
from .pipeline import Pipeline
from .steps import Step, by_name, listed, ordered
from .tools import ToolOptions, execution, marked, options_of


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
        super().__init__(Pipeline(self.steps, self._session_for), name=name, **told, **more)
        self._leaves = by_name(self.steps)
        known = {name: (step.work, step.options) for name, step in self._leaves.items()}
        self._crew = msgspec.structs.replace(self._crew, model=WORKFLOW, by_name=known)
        agent = asynchronous(agent)
        if agent is not None:
            history_too: dict[str, Any] = {
                "add_workflow_history_to_steps": add_workflow_history_to_steps,
                "num_history_runs": num_history_runs,
            }
            quiet = Workflow(steps, name=name, store=self.store, middleware=self._crew.middleware, **history_too)
            self._crew = self._spoken(agent if isinstance(agent, Agent) else Agent(agent, name=name, store=self.store), quiet)
            self._history = History()

    async def get_progress(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None) -> list[StepProgress]:
        """The steps of a run that have begun, in order, also while it goes on; in any process."""
        session = await self._there(session_id, user_id)
        _, entries = await session.run_log(run_id, light=True)
        messages = [entry.message() for entry in entries if entry.kind == "message"]
        done = {result.id for message in messages for result in results_of(message)}
        return [StepProgress(call.id or "", call.name, call.id in done) for message in messages for call in calls_of(message)]

    async def compact(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        """As `Agent.compact`, by the model of the `agent` that answers; `UsageError` where there is none."""
        if isinstance(self._crew.engine, Pipeline):
            raise UsageError(f"workflow {self.name!r} has no model to sum up with: sum up with an Agent on the same store")
        return await super().compact(session_id, user_id=user_id)

    async def _name_of(self, session: Session, question: str) -> str:
        """As an agent's; nothing where there is no model to ask: its steps are never done for a question of ours."""
        return "" if isinstance(self._crew.engine, Pipeline) else await super()._name_of(session, question)

    def _spoken(self, agent: Agent, quiet: Workflow) -> Crew:
        """The crew of an agent that has the conversation, with the workflow as a tool of it."""

        async def run_workflow(input: str, session: Session) -> Any:
            """Run the workflow on this input, and get its result. Use it for new work; answer from the conversation what is known."""
            return (await work(quiet, input, session, execution())).content

        it = marked(run_workflow, ToolOptions(delegates=(quiet,)))
        own, theirs = self._crew, agent.crew
        if it.__name__ in theirs.by_name:
            raise InvalidValue(f"agent={agent!r} has a tool called {it.__name__!r}, as the tool is that starts the workflow: rename it")
        if theirs.duty is not None:
            raise InvalidValue(
                f"agent={agent!r} hands over to others, who could not start the workflow: give an agent, or another mode to it"
            )
        check_holds(theirs.engine, (it,))
        return msgspec.structs.replace(
            theirs,
            agent=self,
            store=self.store,
            tools=(*theirs.tools, it),
            by_name={**theirs.by_name, "run_workflow": (it, options_of(it))},
            providers=(*own.providers, *theirs.providers),
            middleware=tuple(dict.fromkeys((*own.middleware, *theirs.middleware))),
            prehooks=(*own.prehooks, *theirs.prehooks),
            posthooks=(*own.posthooks, *theirs.posthooks),
        )

    async def _session_for(self, step: Step, session: Session) -> Session:
        return await beside(session, step.work.name or step.name if isinstance(step.work, Agent) else step.name)
