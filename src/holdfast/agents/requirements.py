"""What a paused run waits for, and what people decide.

A requirement and its decision are entries of the session. A decision is stored before it has any effect, with the claim: of two that
come at once, the second finds the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from .. import entries as kinds
from ..entries import Entry, NewEntry
from ..errors import Corrupt, InvalidValue, UsageError
from ..ids import new_id
from ..messages import ToolCall

FORM = 1
UNKNOWN = "unknown"
RETRY = "retry"
SUPPLY = "supply"


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One requirement's decision: `retry` the call, or `supply` its result."""

    requirement: str
    outcome: Literal["retry", "supply"]
    value: Any = None
    v: int = FORM


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run needs from a person. `kind` "unknown": the process ended while `call` ran, and nobody knows whether it had its effect."""

    id: str
    run_id: str
    kind: str
    call: ToolCall
    v: int = FORM

    def retry(self) -> Decision:
        """Execute the call again."""
        return Decision(self.id, RETRY)

    def supply(self, result: Any) -> Decision:
        """Take `result`, any JSON value, as what the call gave."""
        try:
            msgspec.json.encode(result)
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"supply({result!r:.80}): a tool's result is plain JSON: {error}") from error
        return Decision(self.id, SUPPLY, result)


class Needs(msgspec.Struct, frozen=True):
    """The requirements and decisions a run's entries tell of."""

    asked: dict[str, Requirement]
    decided: dict[str, Decision]

    @property
    def open(self) -> list[Requirement]:
        """What is still to be decided, in the order it was asked."""
        return [it for it in self.asked.values() if it.id not in self.decided]

    def check(self, decisions: Iterable[Decision]) -> dict[str, Decision]:
        """The decisions by requirement; `UsageError` for one that nobody asked for, or that was decided before."""
        given: dict[str, Decision] = {}
        for decision in decisions:
            if decision.requirement in self.decided:
                raise UsageError(f"requirement {decision.requirement!r} was decided already: {self.decided[decision.requirement].outcome}")
            if decision.requirement not in self.asked:
                raise UsageError(f"requirement {decision.requirement!r} is none of this run's: {', '.join(self.asked) or 'it has none'}")
            if decision.requirement in given:
                raise UsageError(f"requirement {decision.requirement!r} is decided twice in one call")
            given[decision.requirement] = decision
        return given


def told(entries: Iterable[Entry]) -> Needs:
    """What the entries of one run ask for, and what was decided."""
    asked: dict[str, Requirement] = {}
    decided: dict[str, Decision] = {}
    for entry in entries:
        if entry.kind == kinds.REQUIREMENT:
            it = _decoded(entry, Requirement)
            asked[it.id] = it
        elif entry.kind == kinds.DECISION:
            it = _decoded(entry, Decision)
            decided[it.requirement] = it
    return Needs(asked, decided)


def unknown(run_id: str, call: ToolCall) -> Requirement:
    """What stands for a call whose outcome nobody knows."""
    return Requirement(new_id(), run_id, UNKNOWN, call)


def entry_of(it: Requirement | Decision, run_id: str, agent: str | None, time: int) -> NewEntry:
    """The entry that records it."""
    kind = kinds.REQUIREMENT if isinstance(it, Requirement) else kinds.DECISION
    return NewEntry(new_id(), kind, msgspec.json.encode(it), run_id, agent, time)


def _decoded(entry: Entry, type: type[Any]) -> Any:
    try:
        return msgspec.json.decode(entry.body, type=type)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{entry.kind} entry {entry.id} (seq {entry.seq}) is not readable: {error}") from error
