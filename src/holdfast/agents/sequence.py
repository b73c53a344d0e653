"""The events of a run, told from its log: the same ones, under the same numbers, as whoever drives it tells them.

A number is the try it belongs to and a place in it: each event takes one place, a piece of text as many as it has characters. So it does
not matter in which pieces an answer came, and one that was read in part is told on from the very character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

import msgspec

from .. import entries as kinds
from ..entries import COMPLETED, QUEUED, RUNNING, Entry
from ..messages import Message, Reasoning, Text, decode_message
from ..runs import RunEvent, event_of
from .events import Event, HandedOver, ReasoningDelta, RunStarted, TextDelta, ToolAnswered, ToolCalled
from .history import calls_of, results_of
from .live import Unstored

_TRY = 32
"""Bits of a number that are the place; the try is above them."""


class Place:
    """How far the events of a run have been told."""

    def __init__(self, attempt: int = 0, place: int = 0) -> None:
        self.attempt: int = attempt
        self.place = place

    @property
    def number(self) -> int:
        return self.attempt << _TRY | self.place

    def tell(self, event: Event) -> Event:
        """The event under its number."""
        self.place += width(event)
        return msgspec.structs.replace(event, number=self.number)

    def begin(self, attempt: int) -> None:
        """Go to the beginning of this try, unless it goes on."""
        if attempt != self.attempt:
            self.attempt, self.place = attempt, 0


def width(event: Event) -> int:
    """How many places it takes."""
    return len(event.delta) if isinstance(event, TextDelta | ReasoningDelta) else 1


def spoken(message: Message) -> Iterator[Event]:
    """What the model said in a message, in the order it was said: thoughts and text."""
    for part in message.parts:
        if isinstance(part, Text) and part.content:
            yield TextDelta(part.content)
        elif isinstance(part, Reasoning) and part.content:
            yield ReasoningDelta(part.content)


def widths(message: Message) -> int:
    """How many places an answer takes: what is said in it, and its calls."""
    return sum([width(event) for event in spoken(message)]) + len(calls_of(message))


class Telling:
    """Tells the events of one run from its entries, in order; it is given them as they come, whole commits at a time."""

    def __init__(self, session_id: str) -> None:
        self.place = Place()
        self.ended = False
        """Whether the last thing told is an end, for now."""
        self._session_id = session_id

    def take(self, entries: Iterable[Entry], unstored: Unstored | None = None) -> Iterator[Event]:
        """The events of these entries, and of what is not stored yet. An end is not among them: `ended` says so, the place is behind it."""
        for _, commit in groupby(entries, attrgetter("version")):
            yield from self._commit(list(commit))
        if unstored is not None and not self.ended and (unstored.attempt, unstored.place) == (self.place.attempt, self.place.place):
            ahead = Place(unstored.attempt, unstored.place)
            for reasoning, text in unstored.pieces:
                yield ahead.tell(ReasoningDelta(text) if reasoning else TextDelta(text))

    def _commit(self, commit: list[Entry]) -> Iterator[Event]:
        replaced = _replaced(commit)
        answer = next((entry for entry in reversed(commit) if entry.kind == kinds.MESSAGE), None) if replaced else None
        given = 0
        ends = next((event for entry in commit if (event := _run(entry)) and event.status != RUNNING), None)
        for entry in commit:
            event = _run(entry)
            if event is not None:
                given = event.window.get("given", 0)
                yield from self._status(entry, event)
            elif entry.kind == kinds.MESSAGE and given:
                given -= 1  # the input, whoever is said to have said it
            elif entry.kind == kinds.MESSAGE:
                for message in replaced if entry is answer else (entry.message(),):
                    yield from self._message(message, ends)
            elif entry.kind == kinds.HANDOFF:
                told = entry.data()
                yield self.place.tell(HandedOver(told["agent"], told["reason"]))

    def _status(self, entry: Entry, event: RunEvent) -> Iterator[Event]:
        self.place.begin(event.attempt)
        if event.status == QUEUED:
            return
        self.ended = event.status != RUNNING
        if not self.ended:
            yield self.place.tell(RunStarted(str(entry.run_id), self._session_id, event.attempt))
        else:
            self.place.place = event.place or self.place.place + 1

    def _message(self, message: Message, ends: RunEvent | None) -> Iterator[Event]:
        if message.role == "assistant":
            last = ends is not None and ends.status == COMPLETED
            for event in spoken(message):
                yield self.place.tell(event)
            for call in calls_of(message):  # in the answer that ends a run they were asked of nobody
                event = self.place.tell(ToolCalled(call.id, call.name, call.arguments))
                if not last:
                    yield event
        for it in results_of(message):
            yield self.place.tell(ToolAnswered(it.id, message.name, it.response))


def place_of(session_id: str, log: Iterable[Entry]) -> Place:
    """How far the events of a run have been told by the end of its entries."""
    telling = Telling(session_id)
    for _ in telling.take(log):
        pass
    return telling.place


def broken_off(session_id: str, log: Iterable[Entry], unstored: Unstored | None) -> Message | None:
    """The answer that was under way behind a run's entries, as far as it was told; None where none was."""
    place = place_of(session_id, log)
    if unstored is None or (unstored.attempt, unstored.place) != (place.attempt, place.place):
        return None
    return Message("assistant", tuple([Reasoning(text) if reasoning else Text(text) for reasoning, text in unstored.pieces]))


def behind(events: Iterable[Event], number: int) -> Iterator[Event]:
    """The events behind this number; of a piece of text what is behind it."""
    for event in events:
        new = event.number - number
        if isinstance(event, TextDelta | ReasoningDelta) and 0 < new < len(event.delta):
            yield msgspec.structs.replace(event, delta=event.delta[-new:])
        elif new > 0:
            yield event


def _run(entry: Entry) -> RunEvent | None:
    return event_of(entry) if entry.kind == kinds.RUN else None


class _Note(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw(b"")
    results: list[msgspec.Raw] = []


def _replaced(commit: list[Entry]) -> list[Message]:
    """What the model had said last itself, with the results that came of it, where a hook had the last word."""
    noted = [msgspec.json.decode(it.body, type=_Note) for it in commit if it.kind == kinds.NOTE]
    return [decode_message(bytes(raw)) for it in noted if it.type == "replaced" for raw in (it.message, *it.results)]
