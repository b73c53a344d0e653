"""What a run has told so far: kept until it is stored, and told on, numbered, to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from hashlib import blake2b
from typing import Any

import msgspec

from .. import entries as kinds
from ..backend import BlobPut
from ..entries import INSTRUCTIONS, NewEntry
from ..errors import OutcomeUnknown
from ..ids import new_id, now
from ..messages import Message, Text, to_otel
from ..running import Run
from ..runs import through
from .engine import Delta, Said
from .events import Event, ReasoningDelta, TextDelta, ToolAnswered, ToolCalled
from .history import calls_of, results_of
from .live import Live
from .sequence import Place, spoken, widths

Emit = Callable[[Event], None]


class Tale:
    """Of one run: its messages, those that are yet to be stored, what is noted beside them, and how far its events have been told."""

    def __init__(self, run: Run) -> None:
        self.run = run
        run.more = self.more
        self.messages: list[Message] = []
        """Of this run, stored or about to be."""
        self.pending: list[Message] = []
        self.notes: list[NewEntry] = []
        self.blobs: tuple[BlobPut, ...] = ()
        self.place = Place()
        self.live: Live | None = None
        self.listener: Emit = _nobody
        self._partial = ""
        self._streamed = 0
        """Places of the pieces of the answer that comes in now."""

    # --- to those who listen ---

    def emit(self, event: Event) -> None:
        """Tell an event under its number."""
        before = self.place.place
        told = self.place.tell(event)
        self.run.place = self.place.place + 1
        if isinstance(event, TextDelta | ReasoningDelta) and self.live is not None:
            self.live.add(self.run.attempt, before, event)
        self.listener(told)

    def emit_answers(self, message: Message) -> None:
        """Tell of the results in a message."""
        for it in results_of(message):
            self.emit(ToolAnswered(it.id, message.name, it.response))

    def delta(self, step: Delta) -> None:
        """A piece of the answer that comes in."""
        self._streamed += len(step.text)
        if not step.reasoning:
            self._partial += step.text
            self.run.unsaved = (*self.pending, Message("assistant", (Text(self._partial),)))
        self.emit(ReasoningDelta(step.text) if step.reasoning else TextDelta(step.text))

    async def said(self, step: Said) -> None:
        """A whole answer: stored at once where it acts; its text is told unless its pieces were, and then its calls."""
        calls = calls_of(step.message)
        self.pending += step.before
        self.messages += step.before
        if not self._streamed:
            for event in spoken(step.message):
                self.emit(event)
        else:
            self.place.place += widths(step.message) - len(calls) - self._streamed
        self._partial, self._streamed = "", 0
        await self.take(step.message, at_once=step.acts)
        if not step.acts:
            self.place.place += len(calls)
        for call in calls if step.acts else ():
            self.emit(ToolCalled(call.id, call.name, call.arguments))

    def answer_anew(self, answer: str) -> None:
        """A hook or middleware has the last word: it is what was said; the model's own answer is kept for the record.

        That is what is yet to be stored from the model's last message on: with calls whose tools were executed it would be stored already,
        a structured answer is a call with a result that the engine makes up.
        """
        last = next((place for place in reversed(range(len(self.pending))) if self.pending[place].role == "assistant"), None)
        if last is None:
            self.emit(TextDelta(answer))
        else:
            said, *results = map(to_otel, self.pending[last:])
            self.note(msgspec.json.encode({"type": "replaced", "message": said} | ({"results": results} if results else {})))
            del self.messages[last - len(self.pending) :], self.pending[last:]
        message = Message("assistant", (Text(answer),))
        self.messages.append(message)
        self.pending.append(message)

    # --- to the store ---

    async def take(self, message: Message, *, at_once: bool) -> None:
        """Take a message of the run in: stored now, or with the next commit."""
        self.messages.append(message)
        self.pending.append(message)
        self.run.unsaved = tuple(self.pending)
        if at_once:
            await self.stored(self.run.add(self.run.unsaved, **self.more()))

    def note(self, body: bytes) -> None:
        """Keep for the record what is no message, with the next commit."""
        self.notes.append(NewEntry(new_id(), kinds.NOTE, body, self.run.id, self.run.agent, now()))

    def instructed(self, text: str) -> None:
        """Note which instructions the run has; their text is stored once."""
        if text:
            key = blake2b(text.encode(), digest_size=16).hexdigest()
            self.blobs = (BlobPut(INSTRUCTIONS, key, "text/plain", text.encode(), if_absent=True),)
            self.run.window["instructions"] = key

    def more(self) -> dict[str, Any]:
        """What goes along with the next commit."""
        blobs, self.blobs = self.blobs, ()
        notes, self.notes = self.notes, []
        return {"blobs": blobs, "entries": tuple(notes)}

    async def stored(self, writing: Coroutine[Any, Any, Any]) -> None:
        """End a write that holds all that is pending, also when this task is cancelled meanwhile: what is stored is not stored again."""

        async def write() -> None:
            try:
                await writing
            except OutcomeUnknown:
                self.run.unsaved = ()
                raise
            self.pending, self.run.unsaved = [], ()
            if self.live is not None:
                self.live.stored()

        await through(write())


def _nobody(event: Event) -> None:
    """Who listens to a run before it begins."""
