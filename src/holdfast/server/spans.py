"""What a run did and when, for a timeline: each question to the model, each call of a tool, each wait for people.

The times are those of the entries: a call begins when it is stored, and ends when its result is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from .. import Entry, ToolCall, ToolResult
from ..entries import MESSAGE, RUN
from ..runs import PAUSED, QUEUED, RUNNING, RunEvent, event_of
from .shapes import Told, moment

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
    return sorted(told.spans, key=lambda it: it.started)


class _Telling:
    def __init__(self) -> None:
        self.spans: list[SpanTold] = []
        self._attempt = 0
        self._since: tuple[SpanKind, int] | None = None
        self._calls: dict[str | None, int] = {}

    def take(self, entry: Entry) -> None:
        if entry.kind == RUN:
            self._moved(event_of(entry), entry.time)
        elif entry.kind == MESSAGE and entry.message().role == "assistant":
            self._said(entry)
        elif entry.kind == MESSAGE:
            self._answered(entry)

    def _moved(self, event: RunEvent, time: int) -> None:
        self._close(time)
        self._attempt = event.attempt
        if event.status == RUNNING and self._calls:  # they were held until now
            for place in self._calls.values():
                self.spans[place].started, self.spans[place].attempt = moment(time), event.attempt
        elif event.status in _STARTS:
            self._open(_STARTS[event.status], time)
        else:
            self._calls = {}

    def _said(self, entry: Entry) -> None:
        self._close(entry.time, "model")
        for call in _calls(entry):
            self._calls[call.id] = len(self.spans)
            self._add("tool", call.name, call.id, entry.time)

    def _answered(self, entry: Entry) -> None:
        for it in entry.message().parts:
            place = self._calls.pop(it.id, None) if isinstance(it, ToolResult) else None
            if place is not None:
                self.spans[place].ended = moment(entry.time)
                if not self._calls:
                    self._open("model", entry.time)

    def _open(self, kind: SpanKind, time: int) -> None:
        self._since = kind, len(self.spans)
        self._add(kind, None, None, time)

    def _add(self, kind: SpanKind, name: str | None, call: str | None, time: int) -> None:
        self.spans.append(SpanTold(kind=kind, name=name, call=call, attempt=self._attempt, started=moment(time), ended=None))

    def _close(self, time: int, kind: SpanKind | None = None) -> None:
        """End what goes on, if it is of this kind."""
        if self._since is None or kind not in (None, self._since[0]):
            return
        self.spans[self._since[1]].ended = moment(time)
        self._since = None


def _calls(entry: Entry) -> Iterator[ToolCall]:
    return (it for it in entry.message().parts if isinstance(it, ToolCall))
