"""Entries: the immutable records of a session's log.

The log is gapless: an entry's `seq` is its place, 1 for the first of an incarnation. What an entry means is its `kind`;
backends store kinds as opaque words and only select by them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .errors import Corrupt
from .messages import Message, decode_message

MESSAGE = "message"
RUN = "run"
REQUIREMENT = "requirement"
DECISION = "decision"
STEP = "step"
STATE = "state"
SUMMARY = "summary"
HANDOFF = "handoff"
NOTE = "note"
INSTRUCTIONS = "instructions"
"""The namespace of the blobs that hold the instructions of runs, each distinct text once."""
LARGE = "large"
"""The namespace of the blobs that hold large values of messages, each distinct one once."""
FILES = "files"
"""The namespace of the blobs that people put into a session by name."""
LIVE = "live"
"""The namespace of the blobs that hold what a run has told and not stored yet, each under the run's id."""
RUNNING = "running"
"""What a run entry tells of its run: one of these seven statuses. A claim that nobody renews makes a running one read as interrupted."""
COMPLETED = "completed"
ERROR = "error"
CANCELLED = "cancelled"
PAUSED = "paused"
INTERRUPTED = "interrupted"
QUEUED = "queued"
KINDS = (MESSAGE, RUN, REQUIREMENT, DECISION, STEP, STATE, SUMMARY, HANDOFF, NOTE)


class NewEntry(msgspec.Struct, frozen=True, gc=False):
    """What a commit adds: the backend gives it its `seq` and `version`."""

    id: str
    kind: str
    body: bytes
    run_id: str | None = None
    agent: str | None = None
    time: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored record. `version` is the session version of the commit that wrote it, `time` unix microseconds, `body` JSON bytes."""

    seq: int
    id: str
    kind: str
    body: bytes
    run_id: str | None
    agent: str | None
    time: int
    version: int
    hidden: bool = False

    def message(self) -> Message:
        """The message this entry records (`kind` is "message")."""
        return decode_message(self.body, self.id, self.run_id)

    def data(self) -> Any:
        """The JSON in `body`."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise Corrupt(f"entry {self.id} ({self.kind}, seq {self.seq}) is not readable: {error}") from error
