"""What a run id has been used for, and what that means for a run that goes on under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from .. import entries as kinds
from ..entries import COMPLETED, PAUSED, QUEUED, RUNNING, Entry
from ..errors import InvalidValue, UsageError
from ..ids import now
from ..messages import Message, ToolCall, ToolResult, decode_message
from ..requirements import Decision, Kind, Needs, Requirement, asked, never_executed, passed_on, told
from ..runs import RunInfo, event_of
from ..session import Session
from .engine import Held
from .history import calls_of, results_of
from .orders import Crew, Orders
from .tools import Execution, converted, fields_of

_SETTLED = (COMPLETED, PAUSED)
_EXPIRED = "Nobody decided on this call in time: it was not executed."


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """The messages `stored` under the run id that are still there, and what the run waits for, as of `version` of the session."""

    version: int = 0
    run: RunInfo | None = None
    stored: list[Entry] = []
    given: int = 0
    """How many of them, at the beginning, are the input."""
    needs: Needs = Needs({}, {})
    decided: dict[str, Decision] = {}
    """What is decided now, by this call or by time."""
    sent: list[Message] = []
    """What the model was sent in place of the input, if hooks had rewritten it."""
    cleared: bool = False
    """The session was cleared within the run: what is stored of it has no beginning."""
    final: frozenset[str] = frozenset()
    """The calls of final tools that have given their result, or had it supplied by a person."""
    handed: bool = True
    """Nothing in the last answer that calls tools is yet to hand the conversation over: it has done so, or there is none."""

    @property
    def status(self) -> str | None:
        return self.run.status if self.run else None

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do: the run is over, or waits for decisions that did not come."""
        return self.status == COMPLETED or (self.status == PAUSED and bool(self.needs.open) and not self.decided)

    @property
    def cancelled(self) -> bool:
        return any(it.outcome == "cancel" for it in self.decided.values())

    @property
    def messages(self) -> list[Message]:
        return [entry.message() for entry in self.stored]

    @property
    def asked(self) -> bool:
        """Whether the model has been asked about this input: the hooks before it have had their say."""
        return not self.cleared and any(said_or_done(it) for it in self.messages[self.given :])

    @property
    def stale(self) -> set[int]:
        """The seqs of a broken-off answer at the end, which another try says anew; of all there is where it begins anew."""
        if self.cleared:
            return {entry.seq for entry in self.stored}
        found: set[int] = set()
        for entry in reversed(self.stored[self.given :]):
            message = entry.message()
            if message.role != "assistant" or calls_of(message):
                break
            found.add(entry.seq)
        return found

    @property
    def results(self) -> tuple[Message, ...]:
        """What the model is told of calls that are decided and not executed here."""
        told = [(self.needs.asked[id], it) for id, it in self.decided.items() if not it.executes and it.outcome != "cancel"]
        made = [_result(asked, decision) for asked, decision in told if asked.via is None]
        return (*made, *(never_executed(self.run, self.needs, [*self.messages, *made]) if self.run is not None and self.cancelled else ()))

    @property
    def denied(self) -> frozenset[str]:
        """The calls that a person denied, or that nobody decided on in time: their results say so in words."""
        refused = [it for it in (self.needs.decided | self.decided).values() if it.outcome in ("deny", "expired")]
        return frozenset([asked.holds for it in refused if (asked := self.needs.asked[it.requirement]).via is None])

    @property
    def released(self) -> dict[str, list[Decision]]:
        """By call: the decisions to execute it, or for whom it runs, that have not had their effect."""
        ready = self.needs.decided | self.decided if self.status == PAUSED else self.decided
        found: dict[str, list[Decision]] = {}
        for id, it in ready.items():
            if it.executes or self.needs.asked[id].via is not None:
                found.setdefault(self.needs.asked[id].holds, []).append(it)
        return found

    def execution(self, run_id: str, call_id: str, lease: float) -> Execution:
        """What a released call is to know when it is executed."""
        filled: dict[str, Any] = {}
        decisions: dict[str, Decision] = {}  # what was asked again, because a crash came before it was passed on, is decided by the last
        for it in self.released.get(call_id, []):
            via = self.needs.asked[it.requirement].via
            if via is None:
                filled |= it.value if it.outcome == "answer" else {}
            elif it.outcome != "expired":  # theirs has expired too
                decisions[via.requirement] = msgspec.structs.replace(it, requirement=via.requirement)
        return Execution(run_id=run_id, call_id=call_id, lease=lease, filled=filled, decisions=tuple(decisions.values()))


def look(run: RunInfo, found: list[Entry], version: int, orders: Orders, crew: Crew) -> Before:
    """What the entries of a run tell; `UsageError` where the call is not one for this run, `InvalidValue` for what a decision can't say."""
    there, cleared = _there(run, found), _cleared(found)
    stored = [it for it in there if it.kind == kinds.MESSAGE]
    check_same(orders.session, run, found, orders.input)
    if orders.resume and (cleared or not stored) and run.status != COMPLETED:
        raise UsageError(
            f"run {orders.run_id!r} of {orders.session.key} is cleared or rewound, its input too: run(..., run_id=...) takes it again"
        )
    origin = orders.session.info.origin
    if run.status == PAUSED and origin is not None and all(it.version == 1 for it in found):  # a fork begins with one commit of all copies
        raise UsageError(f"run {orders.run_id!r} of {orders.session.key} waits for people where this was forked from: decide there")
    needs = told(there)
    decided = needs.check(orders.decisions, now())
    for id, it in decided.items():
        _check_usable(needs.asked[id], it, crew)
    if run.status == PAUSED:
        decided = {it.requirement: it for it in needs.expired(now())} | decided
    return Before(
        version=version,
        run=run,
        stored=stored,
        given=len(_said(run, there)),
        needs=needs,
        decided=decided,
        sent=_sent(there),
        cleared=cleared,
        final=_final(there, needs, decided, crew),
        handed=_handed(there),
    )


def _check_usable(asked: Requirement, decision: Decision, crew: Crew) -> None:
    """`InvalidValue` for what is decided with and could not be used, by none of those who may have asked: before it is stored."""
    refusals = list[InvalidValue]()
    for it in [crew] if asked.via is None else _askers(asked, crew):
        try:
            _check_takes(it, asked.call, decision)
        except InvalidValue as error:
            refusals.append(error)
        else:
            return
    if refusals:
        raise refusals[0]


def _askers(asked: Requirement, crew: Crew) -> Iterator[Crew]:
    """Of those that a crew's tools give work to, and theirs, who may have asked: by the name, and a tool so called."""
    for _, options in crew.by_name.values():
        for agent in options.delegates:
            own: Crew = agent.crew
            for it in [own] if own.duty is None else own.duty.crews.values():
                if it.name == asked.agent and asked.call.name in it.by_name:
                    yield it
            yield from _askers(asked, own)


def _check_takes(crew: Crew, call: ToolCall, decision: Decision) -> None:
    value = decision.value
    if decision.outcome == "answer" and call.name in crew.by_name:
        converted(crew.by_name[call.name][0], value)
    if decision.outcome == "approve" and value:
        if not isinstance(call.arguments, dict | None):
            raise InvalidValue(
                f"approve({', '.join(value)}): the model gave {call.name!r} arguments that are no JSON object, so none of them can be"
                f" changed ({call.arguments!r:.80}): approve() as they are, or deny(reason)"
            )
        if (check := getattr(crew.engine, "check_changed", None)) is not None:
            check(call, value, crew.tools)


def check_same(session: Session, run: RunInfo, found: list[Entry], input: Sequence[Message]) -> None:
    """`UsageError` where the entries of a run tell that it was begun, or queued, with another input than this, if it is any."""
    there = _there(run, found)
    begun = any(it.kind == kinds.MESSAGE for it in there) and not _cleared(found)
    if input and begun and _said(run, there) != list(input):
        raise UsageError(f"run {run.id!r} of {session.key} was begun with another input: leave run_id out to start another run")


def _there(run: RunInfo, found: list[Entry]) -> list[Entry]:
    return [it for it in found if run.status == COMPLETED or not it.hidden]  # a rewind does not unsay what was answered


def _cleared(found: list[Entry]) -> bool:
    return not any(event_of(it).status in (RUNNING, QUEUED) for it in found if it.kind == kinds.RUN)


def _said(run: RunInfo, there: list[Entry]) -> list[Message]:
    """The input that the run was begun with."""
    return input_of([it.message() for it in there if it.kind == kinds.MESSAGE], run.window.get("given"))


def _handed(entries: list[Entry]) -> bool:
    for entry in reversed(entries):
        if entry.kind == kinds.HANDOFF or (entry.kind == kinds.MESSAGE and calls_of(entry.message())):
            return entry.kind == kinds.HANDOFF
    return True


def said_or_done(message: Message) -> bool:
    """Whether it is the model's or a tool's, and no input."""
    return message.role in ("assistant", "tool")


def input_of(messages: list[Message], given: object) -> list[Message]:
    """The input, at the beginning of a run's messages: as many as were `given`, by what the run noted.

    Where it noted nothing it is what comes before the first that is the model's or a tool's. Only the number tells an answer from the
    assistant's messages that an input may have itself.
    """
    return messages[:given] if isinstance(given, int) else list(takewhile(lambda it: not said_or_done(it), messages))


def rewritten(messages: list[Message], sent: list[Message], given: int) -> list[Message]:
    """A run's messages, of which the first `given` are its input, with what hooks had made of that, if anything."""
    return [*(sent or messages[:given]), *messages[given:]]


def final_note(call: str) -> bytes:
    """The body of a note that this call of a final tool has given its result."""
    return msgspec.json.encode({"type": "final", "call": call})


def _final(entries: list[Entry], needs: Needs, decided: dict[str, Decision], crew: Crew) -> frozenset[str]:
    supplied = [needs.asked[id] for id, it in (needs.decided | decided).items() if it.outcome == "supply"]
    theirs = [it.holds for it in supplied if it.via is None and crew.options(it.call.name).final]
    return frozenset([*theirs, *(it.call for it in notes_in(entries, "final"))])


def notes_in(entries: list[Entry], type: str) -> list[Note]:
    """The notes of one type."""
    found = [msgspec.json.decode(it.body, type=Note) for it in entries if it.kind == kinds.NOTE]
    return [it for it in found if it.type == type]


def _sent(entries: list[Entry]) -> list[Message]:
    changed = [it for it in notes_in(entries, "sent") if it.input]
    return changed[-1].put if changed else []


class Note(msgspec.Struct):
    """What a run noted beside its messages: what it `sent` that the session does not hold, or the `call` of a final tool."""

    type: str = ""
    context: dict[str, list[msgspec.Raw]] = {}
    input: list[msgspec.Raw] = []
    given: int | None = None
    instructions: list[str] = []
    call: str = ""

    @property
    def put(self) -> list[Message]:
        """What stood for the run's input."""
        return input_of([decode_message(bytes(it)) for it in self.input], self.given)


def open_calls(messages: list[Message]) -> list[ToolCall]:
    """The calls that have no result, in order."""
    answered = {it.id for message in messages for it in results_of(message)}
    return [call for message in messages for call in calls_of(message) if call.id not in answered]


def waiting(before: Before, calls: list[ToolCall], crew: Crew, run_id: str) -> list[Requirement]:
    """What has to be decided before a run with these open calls can go on: what was asked before, and what is asked for now."""
    found = [it for it in before.needs.open if it.id not in before.decided]
    settled = before.released.keys() | {it.holds for it in found}
    consumed = {before.needs.asked[id].holds for id, it in before.needs.decided.items() if it.executes}
    for call in calls:
        options = crew.options(call.name)
        kind: Kind | None = None if options.idempotent or options.delegates or before.status == PAUSED else "unknown"
        if options.needs is not None and call.id not in consumed:
            kind = options.needs  # it has not been executed: that takes a decision
        if call.id not in settled and kind is not None:
            found.append(ask(kind, call, crew, run_id))
    return found


def held(step: Held, calls: list[ToolCall], crew: Crew, run_id: str) -> list[Requirement]:
    """What an engine holds, as requirements."""
    by_id = {call.id: call for call in calls}
    confirm = [ask(crew.options(by_id[id].name).needs or "confirmation", by_id[id], crew, run_id) for id in step.confirm]
    external = [ask("external", by_id[id], crew, run_id) for id in step.external]
    return confirm + external + [passed_on(run_id, id, it) for id, needs in step.others.items() for it in needs]


def ask(kind: Kind, call: ToolCall, crew: Crew, run_id: str) -> Requirement:
    """A requirement for `call`, with what its tool says about it."""
    options = crew.options(call.name)
    fields = fields_of(crew.by_name[call.name][0]) if kind == "input" else ()
    expires = None if options.expires is None or kind == "unknown" else now() + int(options.expires * 1_000_000)
    return asked(run_id, kind, call, fields=fields, expires=expires, agent=crew.name)


def reruns(before: Before, calls: list[ToolCall]) -> dict[str, dict[str, object] | None]:
    """The open calls by id, which are executed before the model is asked again, with the arguments people changed, in any try."""
    found: dict[str, dict[str, object] | None] = {}
    for call in calls:
        changed = _changed(before, call.id)
        if call.id is not None:
            found[call.id] = {**(call.arguments or {}), **changed} if changed else None
    return found


def _changed(before: Before, call: str | None) -> dict[str, Any]:
    """The arguments people changed when they approved this call of the run."""
    found: dict[str, Any] = {}
    for it in (before.needs.decided | before.decided).values():
        asked = before.needs.asked[it.requirement]
        if it.outcome == "approve" and asked.via is None and asked.call.id == call:
            found |= it.value or {}
    return found


def _result(asked: Requirement, decision: Decision) -> Message:
    said = {"deny": "A person denied this call: it was not executed.", "expired": _EXPIRED}.get(decision.outcome)
    response = decision.value if said is None else f"{said} {decision.value}" if decision.value else said
    return Message("tool", (ToolResult(response, asked.call.id),), asked.call.name)
