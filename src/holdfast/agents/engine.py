"""The contract of an engine: who speaks to the model and runs the tools. One method; the rest of a run is the session layer's.

An engine is a generator of steps. It is not asked for the next step before the last one is stored: so a tool starts when its call is in
the session, and the model is asked again when every result is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..errors import InvalidValue
from ..messages import Message
from ..requirements import Requirement
from ..runs import LEASE
from ..session import Session
from .tools import Execution, ToolOptions, name_of, options_of
from .watching import Watched


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is asked: to go on from `messages`, which are valid for any provider, to the model's final answer.

    `messages` ends with what the model has to answer, or with an assistant's calls of which those in `rerun` (by id) have to be executed
    first, with other arguments where there are some; the others have their results there. `instructions` are not among them.
    `stream`: tell of partial answers too. `tools` are as the agent was given them, each a function or something of the engine's own;
    while one is executed, `tools.executing(turn.execution(call_id))` is around it.
    """

    messages: tuple[Message, ...]
    own: int = 0
    """How many of the messages, at the end, are of this run."""
    instructions: str | None = None
    tools: tuple[Any, ...] = ()
    rerun: dict[str, dict[str, Any] | None] = {}
    denied: frozenset[str] = frozenset()
    """Calls (by id) of this run that people denied, or did not decide on in time: what the model reads in their results."""
    executions: dict[str, Execution] = {}
    stream: bool = False
    lease: float = LEASE
    session: Session
    run_id: str
    agent: str | None = None
    """Who answers, by name: what an engine keeps in the session beside the messages is this one's."""
    service: str | None = None
    """The provider keeps the conversation, and no past is among the messages: its id of it, empty for a new one. None: it does not."""
    watched: Watched | None = None
    """Middleware to make model and tool calls through, where there is some."""

    def execution(self, call_id: str) -> Execution:
        """What a tool may want to know while this call of it is executed."""
        return self.executions.get(call_id) or Execution(run_id=self.run_id, call_id=call_id, lease=self.lease)


class Delta(msgspec.Struct, frozen=True):
    """A piece of an answer that is not complete yet; `reasoning`: of what the model thinks."""

    text: str
    reasoning: bool = False


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The model's whole answer to one request. `acts`: tools are about to be executed for it.

    `before`: messages of the engine's own that were part of the request and are not stored yet (a request to correct an output).
    `service`: the id under which the provider goes on from here, where it keeps the conversation. `asked` is false where no model was:
    the steps of a workflow are told so.
    """

    message: Message
    acts: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    before: tuple[Message, ...] = ()
    service: str | None = None
    asked: bool = True


class Answered(msgspec.Struct, frozen=True):
    """A tool has been executed: a message of role `tool` with its result. `failed`: that says why there is none."""

    message: Message
    failed: bool = False


class Done(msgspec.Struct, frozen=True):
    """The end: `content` is the answer, text unless the engine was made for something else; then `plain` is the same as plain JSON.

    `value`: what `values.encode` made of the content, for a run that is to give it back with its type; None where `plain` does.
    """

    content: Any
    plain: Any = None
    value: bytes | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The end for now: of the last answer's calls, these (by id) wait for people's consent, for a result from elsewhere, or for others.

    Calls that are neither named here nor answered have not been executed: they wait with those that are. `others`: calls that raised
    `tools.Waits`, with what they wait for.
    """

    confirm: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    others: dict[str, tuple[Requirement, ...]] = {}


Step = Delta | Said | Answered | Held | Done


@runtime_checkable
class Engine(Protocol):
    """Anything with this one method. One that can end with `Held` says so by an attribute, `holds = True`.

    Before the arguments that a person has changed in a call are stored, `check_changed(call, changed, tools)` is called where there is one:
    it raises `InvalidValue` for what the call can't be executed with. Without it whatever executes the call says so, to the model.
    One whose tools are not all in the agent's list tells them by `named(tools)`, a dict by the names the model calls them by.
    """

    def run(self, turn: Turn) -> AsyncGenerator[Step]:
        """The steps of one run. Each tool call of a `Said` that acts is answered by one `Answered`, or held; `Done` or `Held` comes last.

        What it raises ends the run as an error; what was told before is kept. It is closed early when the run is cancelled.
        """
        ...


def by_name(engine: Engine, tools: Sequence[Any]) -> dict[str, tuple[Any, ToolOptions]]:
    """Each tool that the engine may call with these, and what is known of it."""
    named: Any = getattr(engine, "named", None)
    found: dict[str, Any] = {name_of(it): it for it in tools} if named is None else named(tools)
    return {name: (it, options_of(it)) for name, it in found.items()}


def check_holds(engine: Engine, tools: Sequence[Any]) -> None:
    """`InvalidValue` names a tool whose calls may have to wait for people, where the engine does not say that it can hold any."""
    waiting = [name_of(it) for it in tools if options_of(it).needs or options_of(it).delegates]
    if waiting and not getattr(engine, "holds", False):
        raise InvalidValue(
            f"tool {waiting[0]!r} may have to wait for people: {type(engine).__name__} would execute it at once. An engine that ends with"
            " Held for such calls (turn.tools, tools.Waits) says so with holds = True"
        )
