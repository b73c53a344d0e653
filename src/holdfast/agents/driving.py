"""One run of an agent: what is stored when, and what is sent.

The first commit stores the input, takes the claim and reads what the model will be sent; the last stores the answer and the run's end and
lets go. Between them there is one commit for each answer that calls tools and one for each tool's result: an engine goes on only when what
it told is stored.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any, cast

import msgspec

from .. import entries as kinds
from ..backend import BlobPut, HeadPatch, Range, ReadPlan, Window
from ..entries import INSTRUCTIONS, Entry
from ..errors import Conflict, OutcomeUnknown, SessionNotFound, UsageError
from ..ids import now
from ..messages import Message, Text, ToolCall, ToolResult
from ..requirements import Decision, Kind, Needs, Requirement, asked, entry_of, told
from ..running import Run
from ..runs import CANCELLED, COMPLETED, LEASE, PAUSED, RUNNING, Metrics, Patience, RunInfo, through
from ..session import Session
from ..store import Store
from .engine import Answered, Delta, Done, Engine, Held, Said, Turn
from .events import Event, ReasoningDelta, RunEnded, RunStarted, TextDelta, ToolAnswered, ToolCalled
from .history import DEEP_PAGE, KINDS, PAGE, History, Past, calls_of, choose, results_of, valid
from .line import in_line
from .output import RunOutput
from .tools import ToolOptions, converted, fields_of

Instructions = str | Callable[..., Any] | None
_SETTLED = (COMPLETED, PAUSED)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What one call asks of an agent: the session and the input, and how to wait, to look back and to tell of it.

    `supplied`: the run id is the caller's and may have been used. `resume`: there must be such a run. `history` None sends no past.
    """

    session: Session
    input: tuple[Message, ...]
    run_id: str
    supplied: bool = False
    resume: bool = False
    decisions: tuple[Decision, ...] = ()
    wait: float
    lease: float = LEASE
    stream: bool = False
    history: History | None


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """What of an agent a run needs."""

    name: str | None
    store: Store
    engine: Engine
    model: str
    instructions: Instructions
    tools: tuple[Any, ...]
    by_name: dict[str, tuple[Any, ToolOptions]]
    """Each tool, and what is known of it."""

    def options(self, name: str) -> ToolOptions:
        """What is known of the tool with this name; of one of the engine's own nothing is."""
        return self.by_name[name][1] if name in self.by_name else ToolOptions()


class Driving:
    """The run, from its orders to its output: iterate `events()` once, to the end."""

    def __init__(self, crew: Crew, orders: Orders) -> None:
        self.crew = crew
        self.orders = orders
        self.session = orders.session
        self.run = Run(orders.session, orders.run_id, crew.name)
        self.told: list[Message] = []
        """Messages of this run, stored or about to be."""
        self._pending: list[Message] = []
        self._partial = ""
        self._began = time.perf_counter()
        self._used = Metrics()
        self._blobs: tuple[BlobPut, ...] = ()
        self._acting = False
        self._decided: dict[str, Decision] = {}
        self._known: list[Requirement] = []
        self._result: RunOutput | None = None

    async def events(self) -> AsyncGenerator[Event]:
        """What happens, as it happens; the last is `RunEnded`."""
        await self.crew.store.tidy()
        before = await self._look_back() if self.orders.supplied else _NOTHING
        if not before.settled:
            async with in_line(self.session, self.orders.wait) as patience:
                started, before = await self._begin(before, patience)
                if not before.settled:
                    async with self.session.holding(self.run, self.orders.lease), aclosing(self._body(started, before)) as events:
                        async for event in events:
                            yield event
        yield RunEnded(before.output(self) if self._result is None else self._result)

    async def _body(self, started: list[Entry], before: Before) -> AsyncGenerator[Event]:
        """The run once it has begun."""
        yield RunStarted(self.run.id, self.session.id, self.run.attempt)
        if any(it.outcome == "cancel" for it in self._decided.values()):
            await self._end(CANCELLED)
            return
        if waiting := self._waiting(before):
            await self._end(PAUSED, waiting)
            return
        async with aclosing(self._drive(started, before)) as events:
            async for event in events:
                yield event

    # --- beginning ---

    async def _begin(self, before: Before, patience: Patience) -> tuple[list[Entry], Before]:
        """The first commit, and what was known of the run id when it went through; nothing is begun where it is settled by then."""
        while not before.settled:
            try:
                return await self._start(before, patience.left()), before
            except Conflict as conflict:
                await patience.again(conflict)
                before = await self._look_back()
        return [], before

    async def _look_back(self) -> Before:
        """What the session knows of this run id."""
        try:
            run, found = await self.session.run_log(self.run.id)
        except SessionNotFound:  # none yet, or another's: then the first commit says so
            run, found = None, []
        if run is None:
            if self.orders.resume:
                raise UsageError(f"there is no run {self.run.id!r} in session {self.session.id!r}: nothing to continue")
            return Before(version=self.session.version)
        if run.status == RUNNING:
            raise self.run.under_way()
        there = [it for it in found if not it.hidden]
        stored = [it for it in there if it.kind == kinds.MESSAGE]
        needs = told(there)
        going_on = self.orders.decisions or run.status not in _SETTLED or (run.status == PAUSED and needs.expired(now()))
        before = Before(version=self.session.version, run=run, stored=stored, needs=needs, settled=not going_on)
        before.check(self.orders, self.session)
        self.run.again, self.run.attempt = True, run.attempt + (run.status != PAUSED)
        return before

    async def _start(self, before: Before, wait: float) -> list[Entry]:
        """The first commit; the entries its answer holds."""
        self.told = [it.message() for it in before.stored if it.seq not in before.stale]
        input = () if self.told else self.orders.input
        decided = self._decided = self._decisions(before.needs)
        self._known = before.needs.open
        results = tuple(_result(before.needs.asked[id], it) for id, it in decided.items() if not it.executes and it.outcome != "cancel")
        self.told += (*input, *results)
        self.run.window = {"model": self.crew.model} | self._instruct()
        outcome = await self.run.start(
            (*input, *results),
            wait=wait,
            lease=self.orders.lease,
            expect=before.version if self.orders.supplied else None,
            entries=tuple(entry_of(it, self.run.id, self.crew.name, now()) for it in decided.values()),
            hide=tuple(Range(seq, seq) for seq in sorted(before.stale)),
            blobs=self._blobs,
            patch=HeadPatch(waiting=await self._others_wait()) if decided else None,
            answer=ReadPlan(state_since=self.session.cells.synced, entries=self._window),
        )
        self._blobs = ()
        assert outcome.snapshot is not None
        return outcome.snapshot.entries or []

    def _decisions(self, needs: Needs) -> dict[str, Decision]:
        """What is decided with this call, and by time; what people filled in has been looked at."""
        given = needs.check(self.orders.decisions, now())
        for id, it in given.items():
            name = needs.asked[id].call.name
            if it.outcome == "answer" and name in self.crew.by_name:
                converted(self.crew.by_name[name][0], it.value)
        return given | {it.requirement: it for it in needs.expired(now())}

    async def _others_wait(self) -> bool:
        """Whether other runs of the session wait for people."""
        return any(it.run_id != self.run.id for it in await self.session.requirements())

    @property
    def _window(self) -> Window | None:
        return None if self.orders.history is None else Window(limit=PAGE, kinds=KINDS)

    def _instruct(self) -> dict[str, str]:
        """Note which instructions the run has; their text is stored once."""
        text = self.crew.instructions
        if not isinstance(text, str) or not text:
            return {}
        key = blake2b(text.encode(), digest_size=16).hexdigest()
        self._blobs = (BlobPut(INSTRUCTIONS, key, "text/plain", text.encode(), if_absent=True),)
        return {"instructions": key}

    # --- in the middle ---

    async def _drive(self, started: list[Entry], before: Before) -> AsyncGenerator[Event]:
        past = await self._past(started)
        instructions = await self._instructions()
        if past is not None:
            self.run.window["history"] = past.record()
        rerun = self._rerun(before)
        own = valid(self.told, open=frozenset(rerun))
        turn = Turn(
            messages=(*valid(past.messages if past else ()), *own),
            instructions=instructions,
            tools=self.crew.tools,
            rerun=rerun,
            filled={id: it.value for id, it in self._released(before).items() if it.outcome == "answer"},
            stream=self.orders.stream,
            session=self.session,
            run_id=self.run.id,
        )
        self._acting = bool(rerun)
        async with aclosing(self.crew.engine.run(turn)) as steps:
            async for step in steps:
                if isinstance(step, Done):
                    await self._finish(step)
                    return
                if isinstance(step, Held):
                    await self._end(PAUSED, self._held(step))
                    return
                for event in await self._step(step):
                    yield event
        raise UsageError(f"the engine {type(self.crew.engine).__name__} ended without Done: its run() has to tell the answer last")

    async def _past(self, started: list[Entry]) -> Past | None:
        """What is sent of the session's past; older entries are read while the history asks for more than the first page holds."""
        history = self.orders.history
        if history is None:
            return None
        entries, whole = started, len(started) < PAGE
        while True:
            past, more = choose(entries, history, self.run.id, whole=whole)
            if not more:
                return past
            older = await self.session.entries(last=DEEP_PAGE, before=entries[0].seq, kinds=KINDS)
            entries, whole = older + entries, len(older) < DEEP_PAGE

    async def _instructions(self) -> str | None:
        """The instructions of this run; those a function makes are noted now that it can see the session."""
        given = self.crew.instructions
        if given is None or isinstance(given, str):
            return given or None
        made = given(self.session) if inspect.signature(given).parameters else given()
        text = await cast("Awaitable[str]", made) if inspect.isawaitable(made) else made
        if text:
            key = blake2b(text.encode(), digest_size=16).hexdigest()
            self._blobs = (BlobPut(INSTRUCTIONS, key, "text/plain", text.encode(), if_absent=True),)
            self.run.window["instructions"] = key
        return text or None

    async def _step(self, step: Any) -> Sequence[Event]:
        """Store what an engine told, as far as it has to be stored now; the events of it."""
        if isinstance(step, Delta):
            if step.reasoning:
                return (ReasoningDelta(step.text),)
            self._partial += step.text
            self.run.unsaved = (*self._pending, Message("assistant", (Text(self._partial),)))
            return (TextDelta(step.text),)
        if isinstance(step, Said):
            return await self._said(step)
        assert isinstance(step, Answered)
        await self._tell(step.message, at_once=self._acting)
        return [ToolAnswered(it.id, step.message.name, it.response) for it in results_of(step.message)]

    async def _said(self, step: Said) -> Sequence[Event]:
        calls = calls_of(step.message) if step.acts else []
        self._count(input_tokens=step.input_tokens, output_tokens=step.output_tokens, model_calls=1, tool_calls=len(calls))
        self._acting = step.acts
        self._pending += step.before
        self.told += step.before
        whole, self._partial = self._partial, ""
        await self._tell(step.message, at_once=step.acts)
        events: list[Event] = [ToolCalled(it.id, it.name, it.arguments) for it in calls]
        return events if whole or not self.orders.stream or not step.message.text else [TextDelta(step.message.text), *events]

    async def _tell(self, message: Message, *, at_once: bool) -> None:
        """Take a message of the run in: stored now, or with the next commit."""
        self.told.append(message)
        self._pending.append(message)
        self.run.unsaved = tuple(self._pending)
        if at_once:
            await self._stored(self.run.add(self.run.unsaved, blobs=self._taken_blobs()))

    async def _stored(self, writing: Coroutine[Any, Any, Any]) -> None:
        """End a write that holds all that is pending, also when this task is cancelled meanwhile: what is stored is not stored again."""

        async def write() -> None:
            try:
                await writing
            except OutcomeUnknown:
                self.run.unsaved = ()
                raise
            self._pending, self.run.unsaved = [], ()

        await through(write())

    def _taken_blobs(self) -> tuple[BlobPut, ...]:
        blobs, self._blobs = self._blobs, ()
        return blobs

    def _count(self, **more: int) -> None:
        used = {name: getattr(self._used, name) + value for name, value in more.items()}
        self._used = msgspec.structs.replace(self._used, **used, seconds=round(time.perf_counter() - self._began, 6))
        self.run.metrics = self._used

    # --- the end ---

    async def _finish(self, done: Done) -> None:
        self._count()
        if not isinstance(done.content, str):
            self.run.window["content"] = done.plain
        self._result = self.output(done.content)
        await self._stored(self.run.end(tuple(self._pending), blobs=self._taken_blobs()))

    # --- people ---

    def _released(self, before: Before) -> dict[str, Decision]:
        """By call: the decisions to execute it that have not had their effect."""
        ready = self._decided if before.status != PAUSED else before.needs.decided | self._decided
        calls = {id: before.needs.asked[id].call.id or "" for id in ready}
        return {calls[id]: it for id, it in ready.items() if it.executes}

    def _rerun(self, before: Before) -> dict[str, dict[str, Any] | None]:
        """The calls that are executed before the model is asked again, with the arguments people changed."""
        released = self._released(before)
        found: dict[str, dict[str, Any] | None] = {}
        for call in _open(self.told):
            if call.id is not None:
                decision = released.get(call.id)
                changed = decision.value if decision is not None and decision.outcome == "approve" else None
                found[call.id] = {**call.arguments, **changed} if changed else None
        return found

    def _waiting(self, before: Before) -> list[Requirement]:
        """What has to be decided before this run can go on: what was asked before, and what is asked for now."""
        waiting = [it for it in before.needs.open if it.id not in self._decided]
        settled = self._released(before).keys() | {it.call.id for it in waiting}
        consumed = {before.needs.asked[id].call.id for id, it in before.needs.decided.items() if it.executes}
        for call in _open(self.told):
            options = self.crew.options(call.name)
            kind = None if options.idempotent else "unknown"
            if options.needs is not None and call.id not in consumed:
                kind = options.needs  # it has not been executed: that takes a decision
            if call.id not in settled and kind is not None:
                waiting.append(self._ask(kind, call))
        return waiting

    def _held(self, step: Held) -> list[Requirement]:
        """What the engine holds, as requirements."""
        calls = {call.id: call for call in _open(self.told)}
        confirm = [self._ask(self.crew.options(calls[id].name).needs or "confirmation", calls[id]) for id in step.confirm]
        return confirm + [self._ask("external", calls[id]) for id in step.external]

    def _ask(self, kind: Kind, call: ToolCall) -> Requirement:
        options = self.crew.options(call.name)
        fields = fields_of(self.crew.by_name[call.name][0]) if kind == "input" else ()
        expires = None if options.expires is None or kind == "unknown" else now() + int(options.expires * 1_000_000)
        return asked(self.run.id, kind, call, fields=fields, expires=expires)

    async def _end(self, status: str, waiting: Sequence[Requirement] = ()) -> None:
        """End without an answer: the run waits for people, or is over because of them."""
        self._count()
        self._result = self.output(None, status=status, requirements=tuple(waiting))
        known = {it.id for it in self._known}
        entries = tuple(entry_of(it, self.run.id, self.crew.name, now()) for it in waiting if it.id not in known)
        patch = HeadPatch(waiting=True) if waiting else None
        await self._stored(self.run.end(tuple(self._pending), status, entries=entries, patch=patch, blobs=self._taken_blobs()))

    def output(
        self, content: Any, *, status: str = COMPLETED, requirements: tuple[Requirement, ...] = (), metrics: Metrics | None = None
    ) -> RunOutput:
        """The run's output as of now."""
        return RunOutput(
            content=content,
            run_id=self.run.id,
            session_id=self.session.id,
            user_id=self.session.user_id,
            agent=self.crew.name,
            status=status,
            requirements=requirements,
            metrics=metrics or self._used,
            messages=tuple(self.told),
        )


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What a run id has been used for: the messages `stored` under it that are still there, and what it waits for.

    `settled`: there is nothing to do, the run is over or waits for decisions that did not come.
    """

    version: int = 0
    run: RunInfo | None = None
    settled: bool = False
    stored: list[Entry] = []
    needs: Needs = Needs({}, {})

    @property
    def status(self) -> str | None:
        return self.run.status if self.run else None

    @property
    def stale(self) -> set[int]:
        """The seqs of a broken-off answer at the end, which another try says anew."""
        found: set[int] = set()
        for entry in reversed(self.stored):
            message = entry.message()
            if message.role != "assistant" or calls_of(message):
                break
            found.add(entry.seq)
        return found

    def check(self, orders: Orders, session: Session) -> None:
        """`UsageError` where the call is not one for this run."""
        said = [it.message() for it in self.stored[: len(orders.input)]]
        if orders.input and said and said != list(orders.input):
            raise UsageError(f"run {orders.run_id!r} of {session.key} was begun with another input: leave run_id out to start another run")
        self.needs.check(orders.decisions, now())

    def output(self, driving: Driving) -> RunOutput:
        """The output of a run that is settled."""
        assert self.run is not None
        driving.told = [entry.message() for entry in self.stored]
        answers = [it.text for it in driving.told if it.role == "assistant"]
        content = self.run.window.get("content", answers[-1] if answers and self.status == COMPLETED else None)
        return driving.output(content, status=self.run.status, requirements=tuple(self.needs.open), metrics=self.run.metrics)


_NOTHING = Before()


def _open(messages: list[Message]) -> list[ToolCall]:
    """The calls of the last answer that have no result."""
    for place in range(len(messages) - 1, -1, -1):
        if messages[place].role == "assistant":
            answered = {it.id for message in messages[place:] for it in results_of(message)}
            return [call for call in calls_of(messages[place]) if call.id not in answered]
    return []


_EXPIRED = "Nobody decided on this call in time: it was not executed."


def _result(asked: Requirement, decision: Decision) -> Message:
    """What the model is told of a call that is not executed here."""
    said = {"deny": "A person denied this call: it was not executed.", "expired": _EXPIRED}.get(decision.outcome)
    response = decision.value if said is None else f"{said} {decision.value}" if decision.value else said
    return Message("tool", (ToolResult(response, asked.call.id),), asked.call.name)
