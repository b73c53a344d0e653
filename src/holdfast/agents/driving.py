"""One run of an agent: what is stored when, and what is sent.

The first commit stores the input, takes the claim and reads what the model will be sent; the last stores the answer and the run's end and
lets go. Between them there is one commit for each answer that calls tools and one for each tool's result: an engine goes on only when what
it told is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing, nullcontext, suppress
from typing import Any

import msgspec

from ..backend import BlobDrop, HeadPatch, Range, ReadPlan, Window
from ..entries import CANCELLED, COMPLETED, HANDOFF, LIVE, PAUSED, QUEUED, RUNNING, Entry
from ..errors import Conflict, Fenced, InvalidValue, SessionNotFound, UsageError
from ..ids import now
from ..messages import Message, to_otel
from ..requirements import Requirement, entry_of
from ..running import Run, cancel_members
from ..runs import Metrics, Patience
from .around import RunContext, halts_history, loads_history, through_middleware, with_context
from .before import Before, final_note, held, look, open_calls, reruns, rewritten, waiting
from .engine import Answered, Delta, Done, Held, Said, Turn, by_name, check_holds
from .events import Event, HandedOver, RunEnded, RunStarted
from .history import History, Past, calls_of, results_of, tokens_of, valid
from .line import in_line
from .live import Live
from .members import check_not_passed_on
from .orders import Crew, Orders, made
from .output import RunOutput, ended, plain_of, text_of
from .past import past_of
from .sequence import place_of
from .tale import Emit, Tale
from .tools import checked_tools
from .watching import Watched

_NOTHING = Before()
MOST_HANDOVERS = 16
"""Times a conversation is handed over in one run, at most."""


class Driving:
    """The run, from its orders to its output: `go()` once."""

    def __init__(self, crew: Crew, orders: Orders) -> None:
        self.crew = crew
        self.orders = orders
        self.session = orders.session
        self.run = Run(self.session, orders.run_id, crew.name)
        self.tale = Tale(self.run)
        self._given: list[Message] = []
        """The run's messages as hooks have left them so far."""
        self._inputs = 0
        """How many of the run's messages, at the beginning, are its input."""
        self._began = 0.0
        self._earlier = 0.0
        """Seconds that earlier tries of this run took."""
        self._used = Metrics()
        self._acting = False
        self._before = _NOTHING
        self._still: tuple[int, int] | None = None
        self._done: Done | None = None
        """The engine's answer, and"""
        self._form: Any = None
        """what it was in JSON before hooks could change it."""
        self._held: list[Requirement] = []
        self._service: str | None = None
        self._lost = False
        self._handed = False
        self._looked: Past | None = None
        self._watched: Watched | None = None

    async def go(self, emit: Emit) -> RunOutput:
        """Run; what happens is told to `emit` as it happens, the output last."""
        self.tale.listener = emit
        await self.crew.store.tidy()
        if (outer := self.session.running_here()) is not None:
            self.session, self.run.root = outer
            self.run.session = self.session
        patience = Patience(self.orders.wait)
        if self.orders.supplied:
            self._before = await self._look_back(patience)
        output = None
        if not self._before.settled:
            async with in_line(self.session, patience) if self.run.root is None else nullcontext():
                started = await self._begin(patience)
                if started is not None:
                    output = await self._held_by_us(started)
                    self.tale.place.place += 1
        output = output or self._settled()
        emit(RunEnded(output, number=self.tale.place.number))
        return output

    async def _held_by_us(self, started: list[Entry]) -> RunOutput:
        """The run once it has begun, until it ends or somebody else ends it."""
        task = asyncio.current_task()
        assert task is not None

        def lose() -> None:
            if not (self._lost or self.run.ending):  # a heartbeat that comes behind the run's own end is refused too
                self._lost = True
                task.cancel()

        live = self.tale.live = Live(self.run, lose) if self.orders.detached and self.run.root is None else None
        try:
            async with self.session.holding(self.run, self.orders.lease, lose), live.telling() if live else nullcontext():
                return await self._body(started)
        except asyncio.CancelledError:
            if not self._lost or task.uncancel():
                raise
        except Fenced:
            if self._lost:
                task.uncancel()  # a write that was under way was refused: nobody is told of the cancellation any more
            if self.run.root is not None:
                raise
        return await self._taken_away()

    async def _taken_away(self) -> RunOutput:
        """The claim has ended under this run: somebody cancelled it, or took it for dead and went on with it."""
        run = await self.session.get_run(self.run.id)
        if run is None or run.status != CANCELLED or run.attempt != self.run.attempt:
            raise Fenced(f"run {self.run.id!r} of {self.session.key}: its claim has ended, another process has gone on")
        await self._cancel_members()
        return self._output(None, status=CANCELLED)

    async def _body(self, started: list[Entry]) -> RunOutput:
        """The run once it has begun; what it took is stored with its end, however it ends."""
        self._began = time.perf_counter()
        try:
            return await self._through(started)
        except BaseException:
            self._count()
            raise

    async def _through(self, started: list[Entry]) -> RunOutput:
        self._go_on_duty(started)
        self.run.agent = self.crew.name
        self.tale.place.begin(self.run.attempt)
        self.tale.emit(RunStarted(self.run.id, self.session.id, self.run.attempt))
        for message in self._before.results:
            self.tale.emit_answers(message)
        if self._before.cancelled:
            await self._cancel_members()
            return await self._stop(CANCELLED)
        if needs := waiting(self._before, open_calls(self.tale.messages), self.crew, self.run.id):
            return await self._stop(PAUSED, needs)
        await self._hand_over_late()
        context = await self._context(started)
        layers = [it.on_run for it in self.crew.middleware]
        await through_middleware(layers, context, lambda: self._around(context))
        if self._held:
            return await self._stop(PAUSED, self._held)
        return await self._finish(context.answer)

    def _go_on_duty(self, page: list[Entry] | None = None) -> None:
        """Where agents hand over to one another, the run is driven by who has the conversation."""
        duty = self.crew.duty
        if duty is not None:
            whole = page is not None and self._window is not None and len(page) < (self._window.limit or 0)
            crew = duty.on(self.session, page, whole=whole)
            self.crew = msgspec.structs.replace(crew, duty=duty, agent=self.crew.agent, store=self.crew.store)
            self.run.window["model"] = self.crew.model

    # --- beginning ---

    async def _begin(self, patience: Patience) -> list[Entry] | None:
        """The first commit, and the entries it is answered with; None where the run is settled by then."""
        while not self._before.settled:
            try:
                return await self._start(patience.left())
            except Conflict as conflict:
                self._before = await self._look_back(patience)
                if not self._before.settled:
                    await patience.again_after(conflict, self.session.key)
        return None

    async def _look_back(self, patience: Patience) -> Before:
        """What the session knows of this run id; a run under way is waited for, or taken over once its holder has stood still."""
        while True:
            try:
                run, found = await self.session.run_log(self.run.id, light=True)
            except SessionNotFound:  # none yet, or another's: then the first commit says so
                run, found = None, []
            if run is None or run.status != RUNNING or self.run.root is not None:
                break
            self._still = self.session.standing(patience)
            if self._still is not None:
                break
            await patience.again(self.run.under_way())
        if run is None and self.orders.resume:
            raise UsageError(f"there is no run {self.run.id!r} in session {self.session.id!r}: nothing to continue")
        if run is None:
            return Before(version=self.session.version)
        if self.orders.decisions and (run.root is not None or self.session.info.parent is not None):
            await check_not_passed_on(self.crew.store, self.session, self.orders.decisions)
        self._go_on_duty()
        found = await self.session.whole(found)
        self.tale.place = place_of(self.session.id, found)
        self.run.again, self.run.attempt = True, run.attempt + (run.status not in (PAUSED, QUEUED))
        self.run.counted = self._used = run.metrics
        self._earlier = run.metrics.seconds
        return look(run, found, self.session.version, self.orders, self.crew)

    async def _start(self, wait: float) -> list[Entry]:
        before = self._before
        kept = [it.message() for it in before.stored if it.seq not in before.stale]
        new = (*(() if kept else self.orders.input), *before.results)
        self.tale.messages = [*kept, *new]
        self._inputs = before.given if kept else len(self.orders.input)
        self.run.window = {"model": self.crew.model} | ({} if kept else {"given": self._inputs})
        if isinstance(self.crew.instructions, str) and self.crew.duty is None:
            self.tale.instructed(self.crew.instructions)
        outcome = await self.run.start(
            new,
            wait=wait,
            lease=self.orders.lease,
            still=self._still,
            expect=before.version if self.orders.supplied else None,
            entries=tuple(entry_of(it, self.run.id, self.crew.name, now()) for it in before.decided.values()),
            hide=tuple(Range(seq, seq) for seq in sorted(before.stale)),
            blobs=self.tale.blobs,
            drops=(BlobDrop(LIVE, self.run.id),) if self.run.again else (),
            patch=HeadPatch(waiting=await self._others_wait()) if before.decided else None,
            answer=ReadPlan(state_since=self.session.cells.synced, entries=self._window),
        )
        self.tale.blobs = ()
        assert outcome.snapshot is not None
        return outcome.snapshot.entries or []

    async def _others_wait(self) -> bool:
        """Whether other runs of the session wait for people."""
        return any(it.run_id != self.run.id for it in await self.session.requirements())

    @property
    def _history(self) -> History | None:
        """What is sent of the session's own past; None where another history is the source, or none is."""
        other = loads_history(self.crew.providers) or halts_history(self.crew.providers)
        return None if other else self.orders.history

    @property
    def _window(self) -> Window | None:
        if self._history is None:
            return None
        more = (HANDOFF,) if self.crew.duty is not None else ()
        return Window(limit=self._history.page, kinds=(*self._history.kinds, *more))

    # --- in the middle ---

    async def _context(self, started: list[Entry]) -> RunContext:
        """The run as middleware sees it, with what is sent of the past."""
        self._service = self._serves()
        past = await self._past(started) if self._service is None else None
        if past is not None:
            self.run.window["history"] = past.record()
        if self._service is not None:
            self.run.window["service"] = self._service
        sent = self._before.sent if self._before.asked else []
        self._given = rewritten(self.tale.messages, sent, self._inputs)
        return RunContext(
            self.crew.agent, self.session, self.run.id, self._given, past.messages if past else [], self.tale.messages[self._inputs :]
        )

    def _serves(self) -> str | None:
        """The provider's id of this conversation, where it is the source of the past; None where the session or another history is."""
        if loads_history(self.crew.providers):
            return None
        id = self.session.service_session_id
        if id is not None and not isinstance(id, str):
            raise UsageError(f"{self.session.key}: its service_session_id is no text: set the provider's id, or None")
        wanted = self.orders.history is not None and self.orders.history.service
        return id if id else "" if wanted else None

    async def _past(self, started: list[Entry]) -> Past | None:
        """What is sent of the session's past. Large values are read of those messages only that are sent."""
        if self._history is None:
            return None
        past = self._looked = await past_of(self.session, started, self._history, {self.run.id, self.run.root})
        return msgspec.structs.replace(past, messages=await self.session.whole(past.messages))

    @property
    def long(self) -> bool:
        """Whether there is so much that no summary covers, this run included, that it is to be summed up once the run has completed."""
        summaries = self._history.summaries if self._history else None
        if summaries is None or self._looked is None or self.run.root is not None:
            return False
        sizes = [*self._looked.fresh, (sum(map(tokens_of, self.tale.messages)), len(self.tale.messages))]
        return not self._looked.reached or summaries.due(sizes)

    async def _around(self, context: RunContext) -> None:
        crew = self.crew
        prehooks = () if self._before.asked else crew.prehooks
        await with_context(context, crew.providers, prehooks, crew.posthooks, lambda: self._drive(context))

    async def _drive(self, context: RunContext) -> None:
        """Ask the engine, and whoever the conversation is handed over to; the answer goes to the context."""
        given, own = context.asked, context.input
        self._note(context, len(given))
        for _ in range(MOST_HANDOVERS + 1):
            await self._ask(context, own)
            if not self._handed:
                return
            self._take_over()
            own = rewritten(self.tale.messages, given, self._inputs)
        raise UsageError(f"run {self.run.id!r} of {self.session.key} was handed over more than {MOST_HANDOVERS} times: nobody answers")

    async def _ask(self, context: RunContext, input: list[Message]) -> None:
        """Ask the engine, and store what it tells as it goes."""
        if context.tools:
            check_holds(self.crew.engine, checked_tools((*self.crew.tools, *context.tools)))
            self.crew = msgspec.structs.replace(self.crew, by_name=self.crew.by_name | by_name(self.crew.engine, context.tools))
        rerun = reruns(self._before, open_calls(self.tale.messages))
        past, own = self._sent(context, input, frozenset(rerun))
        turn = Turn(
            messages=(*past, *own),
            own=len(own),
            instructions=await self._instructions(context),
            tools=(*self.crew.tools, *context.tools) if context.tools else self.crew.tools,
            rerun=rerun,
            denied=self._before.denied,
            executions={id: self._before.execution(self.run.id, id, self.orders.lease) for id in rerun},
            stream=self.orders.stream,
            lease=self.orders.lease,
            service=self._service,
            session=self.session,
            run_id=self.run.id,
            agent=self.crew.name,
            watched=self._watching(),
        )
        self._acting = bool(rerun)
        final = next((it for it in self.tale.messages for result in results_of(it) if result.id in self._before.final), None)
        if self._answered_by(final, context):
            return
        async with aclosing(self.crew.engine.run(turn)) as steps:
            async for step in steps:
                if isinstance(step, Done):
                    context.answer, self._done = step.content, step
                    self._form = self._form_of(step.content)
                    return
                if isinstance(step, Held):
                    self._held = held(step, open_calls(self.tale.messages), self.crew, self.run.id)
                    return
                if isinstance(step, Answered) and not step.failed and self.crew.options(step.message.name or "").final:
                    final = step.message
                    self.tale.note(final_note(results_of(final)[0].id or ""))
                await self._step(step)
                if self._handed:
                    return
                if self._answered_by(final, context):
                    return
        raise UsageError(f"the engine {type(self.crew.engine).__name__} ended without Done: its run() has to tell the answer last")

    def _watching(self) -> Watched | None:
        """The middleware around the calls of this run, whoever makes them, if there is any."""
        if self._watched is None and self.crew.middleware:
            self._watched = Watched(self.session, self.run.id, self.crew.middleware)
        if self._watched is not None:
            self._watched.agent = self.crew.name
        return self._watched

    def _answered_by(self, final: Message | None, context: RunContext) -> bool:
        """Whether a final tool's result is the answer: once nothing of its batch is open."""
        if final is None or open_calls(self.tale.messages):
            return False
        context.answer = text_of(results_of(final)[0].response)
        return True

    def _sent(self, context: RunContext, input: list[Message], open: frozenset[str]) -> tuple[list[Message], list[Message]]:
        """What the model is sent: the past with what was added to it, and this run so far."""
        added = [message for messages in context.context.values() for message in messages]
        return valid([*context.past, *added]), valid(input, open=open)

    def _note(self, context: RunContext, given: int) -> None:
        """Keep for the record what the model is sent and the session does not hold; `given` messages of it stand for the input."""
        added = {source: [to_otel(it) for it in messages] for source, messages in context.context.items() if messages}
        changed = [] if context.input == self._given else [to_otel(it) for it in context.input]
        if added or changed or context.instructions:
            body = {"type": "sent", "context": added, "input": changed, "instructions": context.instructions}
            self.tale.note(msgspec.json.encode(body | ({"given": given} if changed else {})))

    async def _instructions(self, context: RunContext) -> str | None:
        """The instructions of this run; those a function makes are noted now that it can see the session."""
        given = await made(self.crew.instructions, self.session)
        if callable(self.crew.instructions):
            self.tale.instructed(given or "")
        return "\n\n".join([text for text in (given, *context.instructions) if text]) or None

    async def _step(self, step: Any) -> None:
        """Store what an engine told, as far as it has to be stored now, and tell of it."""
        if isinstance(step, Delta):
            self.tale.delta(step)
        elif isinstance(step, Said):
            await self._said(step)
        elif isinstance(step, Answered):
            handed = self._hand_over([*self.tale.messages, step.message])
            await self.tale.take(step.message, at_once=self._acting)
            for event in handed:
                self.tale.emit(event)
            self.tale.emit_answers(step.message)
        else:
            raise UsageError(f"the engine {type(self.crew.engine).__name__} told {step!r:.80}: that is no step of a run")

    def _hand_over(self, told: list[Message]) -> list[Event]:
        """Where the answer to a call gives the conversation to another agent: to be stored with it, and told before it."""
        found = self.crew.duty and self.crew.duty.handed(told, self.crew.name)
        if not found:
            return []
        self._handed = True
        self.tale.notes.append(self.crew.duty.take(self.session, *found, self.run.id, self.crew.name))
        return [HandedOver(*found)]

    async def _hand_over_late(self) -> None:
        """Where people gave the last result to an answer that hands over too: that was waiting for nothing else."""
        if not self._before.handed and (handed := self._hand_over(self.tale.messages)):
            await self.tale.stored(self.run.add((), **self.tale.more()))
            for event in handed:
                self.tale.emit(event)
            self._take_over()

    def _take_over(self) -> None:
        """Whoever was given the conversation goes on; for the record, what the one before had."""
        had = {"model": self.crew.model, "instructions": self.run.window.get("instructions")}
        self.run.window["handed"] = [*self.run.window.get("handed", []), had]
        self._handed = False
        self._go_on_duty()
        self.run.agent = self.crew.name

    async def _said(self, step: Said) -> None:
        calls = calls_of(step.message)
        self._count(
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            model_calls=int(step.asked),
            tool_calls=len(calls) if step.acts else 0,
        )
        self._acting = step.acts
        if self._service is not None and step.service is not None and not step.acts:
            self.session.service_session_id = step.service
        await self.tale.said(step)

    def _count(self, **more: int) -> None:
        used = {name: getattr(self._used, name) + value for name, value in more.items()}
        self._used = msgspec.structs.replace(self._used, **used, seconds=round(self._earlier + time.perf_counter() - self._began, 6))
        self.run.metrics = self._used

    # --- the end ---

    async def _cancel_members(self) -> None:
        """Nobody is to decide any more for members that work for this run, which is over."""
        if any(self.crew.options(call.name).delegates for call in open_calls(self.tale.messages)):
            await cancel_members(self.session, self.run.id)

    async def _finish(self, answer: Any) -> RunOutput:
        """Store the answer, and that the run is completed."""
        self._count()
        answer = answer.text if isinstance(answer, Message) else answer
        self._keep(answer)
        output = self._output(answer)
        await self.tale.stored(self.run.end(tuple(self.tale.pending), **self.tale.more()))
        await self._cancel_members()
        return output

    def _keep(self, answer: Any) -> None:
        """Have the answer stored as it is given to the caller: what is no text as plain JSON, and its text as what was said.

        What an engine made of the model's answer, and nobody has changed, is stored by what the model has said.
        """
        done = self._done if self._done is not None and answer is self._done.content and self._form_of(answer) == self._form else None
        if done is not None and done.value is not None:
            self.run.window["value"] = done.value.decode()
        last = next(reversed(self.tale.messages[self._inputs :]), None)
        said = last.text if last is not None and last.role == "assistant" and not calls_of(last) else None
        if isinstance(answer, str):
            text = answer
        elif done is not None:
            self.run.window["content"] = done.plain
            return
        else:
            self.run.window["content"] = plain_of(answer)
            text = text_of(self.run.window["content"])
        if text != said and (answer is not None or self.tale.pending):
            self.tale.answer_anew(text)

    def _form_of(self, answer: Any) -> Any:
        """The engine's answer in JSON, to see whether it was changed; None where nobody could have, and where it has no such form."""
        if not isinstance(answer, str) and (self.crew.posthooks or self.crew.middleware or self.crew.providers):
            with suppress(InvalidValue):
                return plain_of(answer)
        return None

    async def _stop(self, status: str, needs: Sequence[Requirement] = ()) -> RunOutput:
        """End without an answer: the run waits for people, or is over because of them."""
        self._count()
        output = self._output(None, status=status, requirements=tuple(needs))
        more = self.tale.more()
        new = [it for it in needs if it.id not in self._before.needs.asked]
        more["entries"] += tuple(entry_of(it, self.run.id, self.crew.name, now()) for it in new)
        patch = HeadPatch(waiting=True) if needs else None
        await self.tale.stored(self.run.end(tuple(self.tale.pending), status, patch=patch, **more))
        return output

    def _settled(self) -> RunOutput:
        """The output of a run there is nothing to do for."""
        assert self._before.run is not None
        return ended(self.session, self._before.run, self._before.messages, self._before.needs.open)

    def _output(self, content: Any, *, status: str = COMPLETED, requirements: tuple[Requirement, ...] = ()) -> RunOutput:
        return RunOutput(
            content=content,
            run_id=self.run.id,
            session_id=self.session.id,
            user_id=self.session.user_id,
            agent=self.crew.name,
            status=status,
            requirements=requirements,
            metrics=self._used,
            messages=tuple(self.tale.messages),
        )
