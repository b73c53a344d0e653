"""What a paused run waits for, and what people decide.

A requirement and its decision are entries of the session. A decision is stored before it has any effect, with the claim: of two that
come at once, the second finds the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, Literal

import msgspec

from . import entries as kinds
from .entries import Entry, NewEntry
from .errors import AlreadyDecided, Corrupt, InvalidValue, UsageError
from .ids import new_id
from .messages import Message, ToolCall, ToolResult
from .runs import WORKFLOW, RunInfo

FORM = 1
_CANCELLED = "A person cancelled the run that waited with this call: it was not executed."
Kind = Literal["confirmation", "input", "external", "unknown"]
Outcome = Literal["approve", "deny", "answer", "supply", "retry", "cancel", "expired"]

FITS: dict[Kind, tuple[Outcome, ...]] = {
    "confirmation": ("approve", "deny", "cancel"),
    "input": ("answer", "deny", "cancel"),
    "external": ("supply", "deny", "cancel"),
    "unknown": ("retry", "supply", "cancel"),
}
"""How each kind of requirement can be decided. What nobody decides in time becomes `expired`."""

_TAKES: dict[Outcome, tuple[Any, str]] = {
    "approve": ((dict, NoneType), "nothing, or the arguments to change, by name"),
    "answer": (dict, "what was asked for, by name"),
    "deny": ((str, NoneType), "nothing, or the reason, a text"),
    "retry": (NoneType, "nothing"),
    "cancel": (NoneType, "nothing"),
    "expired": (NoneType, "nothing"),
}
"""What may come with a decision, and how that is said; a result is any JSON value."""


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a person is asked for: its name, and its type as a JSON schema."""

    name: str
    schema: dict[str, Any] = {}


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One requirement's decision; `value` is what came with it: arguments changed or given, a result, the reason of a denial."""

    requirement: str
    outcome: Outcome
    value: Any = None
    v: int = FORM

    @property
    def executes(self) -> bool:
        """Whether the call is executed because of it."""
        return self.outcome in ("approve", "answer", "retry")


class PassedOn(Decision, frozen=True, omit_defaults=True):
    """A decision on a member's requirement that was taken in time where the run it works for waited for it."""


class Via(msgspec.Struct, frozen=True):
    """A requirement of a member's run: `call` is the call of this run that waits for the member, `requirement` the member's own."""

    call: str
    requirement: str


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run needs from a person, for one tool `call`. It is decided once, by what one of its methods gives.

    `kind`: `confirmation` (may this be executed?), `input` (`fields` are to be filled in), `external` (executed by somebody else, who
    supplies the result), `unknown` (the process ended while it was executed: nobody knows whether it had its effect).
    `expires`: when it can't be decided any more, unix microseconds. `agent`: who asks, `via` where that is a member of a team.
    """

    id: str
    run_id: str
    kind: Kind
    call: ToolCall
    fields: tuple[Field, ...] = ()
    expires: int | None = None
    agent: str | None = None
    via: Via | None = None
    v: int = FORM

    @property
    def holds(self) -> str:
        """The id of the call of its own run that waits for it."""
        return self.via.call if self.via else self.call.id or ""

    def approve(self, **changed: Any) -> Decision:
        """Execute the call, with some of its arguments changed where they are given."""
        return self._decided("approve", changed or None)

    def answer(self, **fields: Any) -> Decision:
        """Fill in the fields, and execute the call. One with a default, which its schema tells, may be left out."""
        return self._decided("answer", fields)

    def deny(self, reason: str | None = None) -> Decision:
        """Don't execute the call; the model is told, with the reason."""
        return self._decided("deny", reason)

    def supply(self, result: Any) -> Decision:
        """Take `result`, any JSON value, as what the call gave."""
        return self._decided("supply", result)

    def retry(self) -> Decision:
        """Execute the call again."""
        return self._decided("retry", None)

    def cancel(self) -> Decision:
        """End the whole run as cancelled."""
        return self._decided("cancel", None)

    def has_expired(self, now: int) -> bool:
        """Whether it is too late at `now`, unix microseconds."""
        return self.expires is not None and self.expires <= now

    def check(self, decision: Decision) -> None:
        """`UsageError` for a decision that does not fit this kind, `InvalidValue` for one with something that it can't be decided with."""
        if decision.outcome not in (*FITS[self.kind], "expired"):
            fits = ", ".join(f"{outcome}()" for outcome in FITS[self.kind])
            raise UsageError(f"{decision.outcome}() is no decision on {self.kind} of {self.call.name!r}: use {fits}")
        value: Any = decision.value
        takes, what = _TAKES.get(decision.outcome, (object, "anything"))
        if not isinstance(value, takes):
            raise InvalidValue(f"{decision.outcome}({value!r:.80}) on {self.kind} of {self.call.name!r}: it is decided with {what}")
        if decision.outcome == "answer":
            names = {field.name for field in self.fields}
            needed = {field.name for field in self.fields if "default" not in field.schema}
            if not needed <= value.keys() <= names:
                raise InvalidValue(f"answer({', '.join(value)}): {self.call.name} asks for {', '.join(sorted(names))}")

    def _decided(self, outcome: Outcome, value: Any) -> Decision:
        decision = Decision(self.id, outcome, value)
        self.check(decision)
        try:
            stored = msgspec.json.decode(msgspec.json.encode(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidValue(f"{outcome}({value!r:.80}): what is decided with is plain JSON: {error}") from error
        if stored != value:
            raise InvalidValue(f"{outcome}({value!r:.80}): what is decided with is plain JSON, this would come back as something else")
        return decision


class Needs(msgspec.Struct, frozen=True):
    """The requirements and decisions a run's entries tell of."""

    asked: dict[str, Requirement]
    decided: dict[str, Decision]

    @property
    def open(self) -> list[Requirement]:
        """What is still to be decided, in the order it was asked."""
        return [it for it in self.asked.values() if it.id not in self.decided]

    def check(self, decisions: Iterable[Decision], now: int) -> dict[str, Decision]:
        """The decisions by requirement; `AlreadyDecided`, or `UsageError` for one that nobody asked for or that comes too late."""
        given: dict[str, Decision] = {}
        for decision in decisions:
            asked = self.asked.get(decision.requirement)
            if asked is None:
                known = ", ".join(self.asked) or "it has none"
                raise UsageError(f"requirement {decision.requirement!r} is none of this run's: {known}")
            if asked.id in self.decided or asked.id in given:
                outcome = (self.decided | given)[asked.id].outcome
                kind = AlreadyDecided if asked.id in self.decided else UsageError
                raise kind(f"requirement {asked.id!r} ({asked.kind} of {asked.call.name!r}) was decided already: {outcome}")
            if asked.has_expired(now) and not isinstance(decision, PassedOn):
                raise UsageError(f"requirement {asked.id!r} ({asked.kind} of {asked.call.name!r}) has expired: continue_run without it")
            asked.check(decision)
            given[asked.id] = decision
        return given

    def expired(self, now: int) -> tuple[Decision, ...]:
        """What time has decided."""
        return tuple(Decision(it.id, "expired") for it in self.open if it.has_expired(now))


def told(entries: Iterable[Entry]) -> Needs:
    """What entries ask for, and what was decided."""
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


def never_executed(run: RunInfo, needs: Needs, messages: Sequence[Message]) -> list[Message]:
    """What the model is told of the calls that a run waited with when it was cancelled, but for those that may have had an effect.

    Of the steps of a workflow nobody is told: tried again, it still has them to do.
    """
    if run.window.get("model") == WORKFLOW:
        return []
    answered = {part.id for it in messages for part in it.parts if isinstance(part, ToolResult)}
    unsure = {it.holds for it in needs.asked.values() if it.via is not None or it.kind == "unknown"}
    calls = [part for it in messages for part in it.parts if isinstance(part, ToolCall) and part.id not in answered | unsure]
    return [Message("tool", (ToolResult(_CANCELLED, call.id),), call.name) for call in calls]


def asked(
    run_id: str, kind: Kind, call: ToolCall, *, fields: tuple[Field, ...] = (), expires: int | None = None, agent: str | None = None
) -> Requirement:
    """A requirement that is asked now."""
    return Requirement(new_id(), run_id, kind, call, fields, expires, agent)


def passed_on(run_id: str, call_id: str, theirs: Requirement) -> Requirement:
    """A member's requirement, as one of the run that waits for the member."""
    return Requirement(new_id(), run_id, theirs.kind, theirs.call, theirs.fields, theirs.expires, theirs.agent, Via(call_id, theirs.id))


def entry_of(it: Requirement | Decision, run_id: str, agent: str | None, time: int) -> NewEntry:
    """The entry that records it."""
    kind = kinds.REQUIREMENT if isinstance(it, Requirement) else kinds.DECISION
    return NewEntry(new_id(), kind, msgspec.json.encode(it), run_id, agent, time)


def _decoded(entry: Entry, type: type[Any]) -> Any:
    try:
        return msgspec.json.decode(entry.body, type=type)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{entry.kind} entry {entry.id} (seq {entry.seq}) is not readable: {error}") from error
