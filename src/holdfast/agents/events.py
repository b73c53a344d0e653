"""What a run tells while it goes on: typed events, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .output import RunOutput


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """One thing that happened in a run. `text` is what the model said with it, empty for most.

    `number` grows along a run, over pauses, further tries and processes, and is the same from whoever tells of it: `agent.follow(run_id,
    after=number)` goes on behind it. It is not gapless.
    """

    number: int = 0

    @property
    def text(self) -> str:
        return ""

    def __str__(self) -> str:
        return self.text


class RunStarted(Event, frozen=True, tag="run_started"):
    """The input is stored and the session is this run's."""

    run_id: str
    session_id: str
    attempt: int


class TextDelta(Event, frozen=True, tag="text_delta"):
    """More of the answer."""

    delta: str

    @property
    def text(self) -> str:
        return self.delta


class ReasoningDelta(Event, frozen=True, tag="reasoning_delta"):
    """More of what the model thinks, as far as the provider shows it."""

    delta: str


class ToolCalled(Event, frozen=True, tag="tool_called"):
    """The model asks for a tool; the call is stored, and the tool starts."""

    id: str | None
    name: str
    arguments: Any = None


class ToolAnswered(Event, frozen=True, tag="tool_answered"):
    """A tool's answer is stored."""

    id: str | None
    name: str | None
    response: Any = None


class HandedOver(Event, frozen=True, tag="handed_over"):
    """Another agent has the conversation now, and goes on in this very run."""

    agent: str
    reason: str = ""


class RunEnded(Event, frozen=True, tag="run_ended"):
    """The run is over for now, and stored: the last event of a stream that nothing broke off.

    `output.status` says how: for who follows a run that failed, was cancelled or broken off, this is the end too.
    """

    output: RunOutput
