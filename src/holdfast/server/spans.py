"""What a run did and when, for a timeline: each question to the model, each call of a tool, each wait for people.

The times are those of the entries: a call begins when it is stored (or let go on with, where it was held), and ends when its result is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from .. import Entry, ToolCall, ToolResult
from ..entries import MESSAGE, PAUSED, QUEUED, RUN, RUNNING
from ..ids import from_micros
from ..runs import RunEvent, event_of
from .shapes import Told

SpanKind = Literal["queued", "model", "tool", "waiting"]
_STARTS: dict[str, SpanKind] = {RUNNING: "model", PAUSED: "waiting", QUEUED: "queued"}


class SpanTold(Told):
    """One stretch of a run; `ended` is null while it goes on, and where nobody saw its end."""

    kind: SpanKind
    name: str | None
    call: str | None
    attempt: int
    started: datetime
    ended: datetime | None


def spans(log: Sequence[Entry]) -> list[SpanTold]:
    """The stretches told of by all entries of one run, in the order they began."""
    told = _Telling()
    for entry in log:
        told.take(entry)
    return told.spans


class _Telling:
    def __init__(self) -> None:
        self.spans: list[SpanTold] = []
        self._attempt = 0
        self._now: SpanTold | None = None
        self._calls: dict[str | None, SpanTold] = {}

    def take(self, entry: Entry) -> None:
        if entry.kind == RUN:
            self._moved(event_of(entry), entry.time)
        elif entry.kind == MESSAGE:
            for part in entry.message().parts:
                if isinstance(part, ToolResult):
                    self._answered(part, entry.time)
            if entry.message().role == "assistant":
                self._said([it for it in entry.message().parts if isinstance(it, ToolCall)], entry.time)

    def _moved(self, event: RunEvent, time: int) -> None:
        self._close(time)
        self._attempt = event.attempt
        if event.status == PAUSED:  # these calls are held
            self.spans = [it for it in self.spans if not any(it is held for held in self._calls.values())]
        if event.status == RUNNING and self._calls:
            self._calls = {id: self._add("tool", it.name, id, time) for id, it in self._calls.items()}
        elif event.status in _STARTS:
            self._now = self._add(_STARTS[event.status], None, None, time)
        else:
            self._calls = {}

    def _said(self, calls: list[ToolCall], time: int) -> None:
        if self._now is not None and self._now.kind == "model":
            self._close(time)
        self._calls |= {call.id: self._add("tool", call.name, call.id, time) for call in calls}

    def _answered(self, result: ToolResult, time: int) -> None:
        call = self._calls.pop(result.id, None)
        if call is not None:
            call.ended = from_micros(time)
        if call is not None and not self._calls and self._now is None:
            self._now = self._add("model", None, None, time)

    def _add(self, kind: SpanKind, name: str | None, call: str | None, time: int) -> SpanTold:
        self.spans.append(SpanTold(kind=kind, name=name, call=call, attempt=self._attempt, started=from_micros(time), ended=None))
        return self.spans[-1]

    def _close(self, time: int) -> None:
        if self._now is not None:
            self._now.ended = from_micros(time)
            self._now = None
