"""What a workflow is made of, and what its steps are given and give.

Steps are functions, agents and teams; `Parallel`, `Condition`, `Loop` and `Router` put them together. A step's place in the workflow is
its path, which is the same in every try: what is stored under a path is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from ..errors import InvalidValue
from ..session import Session
from .agent import Agent, asynchronous
from .tools import ToolOptions, name_of, options_of


class StepInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a step is given: the workflow's `input`, what the step before gave, and what each step so far gave, by name.

    An input of several messages is one text, with an empty line between two.
    """

    input: str
    previous_step_content: Any = None
    previous_step_outputs: Mapping[str, Any] = {}
    session: Session
    history: str = ""
    """Earlier runs of the workflow, as text; empty unless it was asked for."""

    def get_step_content(self, name: str) -> Any:
        """What the step of this name gave last; None if it has not run."""
        return self.previous_step_outputs.get(name)

    @property
    def message(self) -> str:
        """What an agent is told in this step: what came before, or the input."""
        content = self.previous_step_content
        text = self.input if content is None else content if isinstance(content, str) else str(content)
        return f"{self.history}\n\n{text}" if self.history else text


class StepOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a step gives, when it is more than its content: `stop` ends the workflow with it."""

    content: Any = None
    stop: bool = False


Work = Callable[..., Any] | Agent


class Step:
    """One step: a function of `StepInput` (plain or async; a parameter typed `Session` is the run's), an agent or a team.

    `confirm`: a person has to approve it. `idempotent`: a function that may be done again when a crash has left its outcome unknown. What
    `@tool` says of the function (`confirm`, `expires`, `idempotent`) is said of the step; `external` and `ask` are an `InvalidValue`.
    """

    def __init__(self, work: Any, *, name: str | None = None, confirm: bool = False, idempotent: bool = False) -> None:
        work = asynchronous(work)
        if not (isinstance(work, Agent) or callable(work)):
            raise InvalidValue(f"Step({work!r:.80}): a step is a function, an Agent, a Team or a Workflow")
        self.work: Work = work
        self.name = _checked(name or (work.name if isinstance(work, Agent) else name_of(work)) or "", work)
        said = options_of(work)
        if said.external or said.ask:
            mark = "external=True" if said.external else f"ask={list(said.ask)!r}"
            raise InvalidValue(f"step {self.name!r} is marked @tool({mark}), as an agent's tool may be: make an agent with it the step")
        self.options = ToolOptions(
            idempotent=idempotent or said.idempotent,
            confirm=confirm or said.confirm,
            expires=said.expires,
            delegates=(work,) if isinstance(work, Agent) else (),
        )


class Parallel:
    """Steps that are done at the same time; it gives a dict of what each gave, by name."""

    def __init__(self, *steps: Any, name: str = "parallel") -> None:
        self.steps = ordered(steps, name)
        self.name = _checked(name, self)


class Condition:
    """Steps that are done if `test` (a function of `StepInput`) gives true, others otherwise."""

    def __init__(self, test: Callable[..., Any], steps: Any, *, otherwise: Any = (), name: str = "condition") -> None:
        self.test = Step(test, name=f"{name}?", idempotent=True)
        self.steps = ordered(listed(steps), name)
        self.otherwise = ordered(listed(otherwise), name) if listed(otherwise) else []
        self.name = _checked(name, self)


class Loop:
    """Steps that are done again and again, until `until` (a function of `StepInput`) gives true, `times` times at most."""

    def __init__(self, steps: Any, *, until: Callable[..., Any] | None = None, times: int = 3, name: str = "loop") -> None:
        if not (isinstance(times, int) and times >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"Loop(times={times!r}): give how often at most, 1 or more")
        self.steps = ordered(listed(steps), name)
        self.until = Step(until, name=f"{name}?", idempotent=True) if until is not None else None
        self.times = times
        self.name = _checked(name, self)


class Router:
    """The steps whose name `choose` (a function of `StepInput`) gives: one name, or a list of them."""

    def __init__(self, choose: Callable[..., Any], choices: Any, *, name: str = "router") -> None:
        self.choose = Step(choose, name=f"{name}?", idempotent=True)
        self.choices = {it.name: it for it in ordered(listed(choices), name)}
        self.name = _checked(name, self)


Part = Step | Parallel | Condition | Loop | Router
_PARTS = (Step, Parallel, Condition, Loop, Router)


def ordered(steps: Sequence[Any], where: str) -> list[Part]:
    """Steps as parts, each with a name of its own; `InvalidValue` names what is none."""
    if not steps:
        raise InvalidValue(f"{where}: give one step at least")
    parts = [it if isinstance(it, _PARTS) else Step(it) for it in steps]
    names = [name for it in parts for name in (it.name, *([] if isinstance(it, Step | Parallel) else [f"{it.name}?"]))]
    if twice := [it for it in parts if names.count(it.name) > 1] or [it for it in parts if names.count(f"{it.name}?") > 1]:
        fix = f"{type(twice[0]).__name__}(..., name=...)"
        raise InvalidValue(f"{where}: two steps are called {twice[0].name!r}: name one with {fix}")
    return parts


def leaves(parts: Sequence[Part]) -> list[Step]:
    """Every step that does something."""
    found: list[Step] = []
    for part in parts:
        if isinstance(part, Step):
            found.append(part)
        elif isinstance(part, Parallel):
            found += leaves(part.steps)
        elif isinstance(part, Condition):
            found += [part.test, *leaves(part.steps), *leaves(part.otherwise)]
        elif isinstance(part, Loop):
            found += [*([part.until] if part.until else []), *leaves(part.steps)]
        else:
            found += [part.choose, *leaves(list(part.choices.values()))]
    return found


def by_name(parts: Sequence[Part]) -> dict[str, Step]:
    """Every step that does something; `InvalidValue` for two that are different and have one name."""
    found: dict[str, Step] = {}
    for step in leaves(parts):
        other = found.setdefault(step.name, step)
        if other.options != step.options or (other.work is not step.work and isinstance(step.work, Agent)):
            raise InvalidValue(f"two different steps are called {step.name!r}: name one with Step(..., name=...)")
    return found


def listed(steps: Any) -> list[Any]:
    """Several steps, or one, as a list."""
    return list(cast("Sequence[Any]", steps)) if isinstance(steps, (list, tuple)) else [steps]


def _checked(name: str, it: Any) -> str:
    if not name or "/" in name or "#" in name or not name.isprintable() or len(name) > 100:
        raise InvalidValue(f"step {it!r:.80} is called {name!r}: a name has 1 to 100 printable characters, no slash and no #")
    return name
