"""The JSON of what is read of a session: entries, runs in detail, what a model was sent, files, versions, hits of a search."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec

from .. import Entry, FileInfo, RunInfo, RunOutput, StateChange
from ..agents.record import Request, Sent
from ..entries import MESSAGE
from ..ids import from_micros
from ..messages import to_otel
from ..values import encode
from .shapes import RequirementTold, RunInfoTold, SessionTold, Told, plain
from .spans import SpanTold, spans


class EntryTold(Told):
    """A record of the log. `data` is what it holds: a message in the form of the OpenTelemetry GenAI schema, or the record's own."""

    seq: int
    id: str
    kind: str
    run_id: str | None
    agent: str | None
    time: datetime
    version: int
    hidden: bool
    data: Any

    @classmethod
    def of(cls, entry: Entry) -> EntryTold:
        return cls(
            seq=entry.seq,
            id=entry.id,
            kind=entry.kind,
            run_id=entry.run_id,
            agent=entry.agent,
            time=from_micros(entry.time),
            version=entry.version,
            hidden=entry.hidden,
            data=to_otel(entry.message()) if entry.kind == MESSAGE else entry.data(),
        )


class EntriesTold(Told):
    """Entries in order; `more`: whether there are others beyond the limit, on the side where it cut."""

    items: list[EntryTold]
    more: bool


class RunDetailTold(RunInfoTold):
    """A run with what it gave, what it waits for, and when it did what."""

    content: Any
    requirements: list[RequirementTold]
    spans: list[SpanTold]

    @classmethod
    def detailed(cls, run: RunInfo, output: RunOutput, log: list[Entry]) -> RunDetailTold:
        waits = [RequirementTold.of(it, output.session_id) for it in output.requirements]
        return cls.of(run, content=plain(output.content), requirements=waits, spans=spans(log))


class RequestTold(Told):
    """One request to the model: all messages but the instructions, and how many of them, at the end, the one before had not.

    `answer` is null where none was stored, and `whole` false where it was broken off. `model` and `instructions` are others than those of
    the request before where the conversation was handed over between the two.
    """

    messages: list[dict[str, Any]]
    new: int
    answer: dict[str, Any] | None
    whole: bool
    model: str | None
    instructions: str | None

    @classmethod
    def of(cls, it: Request) -> RequestTold:
        answer = None if it.answer is None else to_otel(it.answer)
        return cls(
            messages=[to_otel(message) for message in it.messages],
            new=it.new,
            answer=answer,
            whole=it.whole,
            model=it.model,
            instructions=it.instructions,
        )


class TryTold(Told):
    """What one try at a run sent. `past`: how many messages at the beginning of each request are from before the run; null if unknown."""

    attempt: int
    status: str
    error: str | None
    started: datetime
    model: str | None
    instructions: str | None
    past: int | None
    history: dict[str, Any] | None
    requests: list[RequestTold]

    @classmethod
    def of(cls, it: Sent) -> TryTold:
        window = it.attempt.window or {}
        return cls(
            attempt=it.attempt.number,
            status=it.attempt.status,
            error=it.attempt.error,
            started=from_micros(it.attempt.started),
            model=cast("str | None", window.get("model")),
            instructions=it.instructions,
            past=it.past,
            history=cast("dict[str, Any] | None", window.get("history")),
            requests=[RequestTold.of(request) for request in it.requests],
        )


class AsSentTold(Told):
    """`session_id` is the session whose log tells it: of a run that was copied with a fork, the one it was made in."""

    session_id: str
    run_id: str
    tries: list[TryTold]


class FileTold(Told):
    """A file of a session; `size` in bytes."""

    name: str
    type: str
    size: int

    @classmethod
    def of(cls, it: FileInfo) -> FileTold:
        return cls(name=it.name, type=it.type, size=it.size)


class VersionsTold(Told):
    """The version of the session, and of each key of its state that of its last change."""

    version: int
    keys: dict[str, int]


class ChangeTold(Told):
    """A key of the state was set to `value`, or deleted, by the commit that wrote entry `seq`."""

    key: str
    value: Any
    deleted: bool
    seq: int
    time: datetime
    run_id: str | None
    agent: str | None

    @classmethod
    def of(cls, it: StateChange) -> ChangeTold:
        told = None if it.deleted else msgspec.json.decode(encode(it.value))[1]
        return cls(key=it.key, value=told, deleted=it.deleted, seq=it.seq, time=from_micros(it.time), run_id=it.run_id, agent=it.agent)


class HitTold(Told):
    """Something that was said; `seq` is its entry. The higher the `score` the better."""

    session_id: str
    name: str | None
    seq: int
    run_id: str | None
    agent: str | None
    role: str
    text: str
    time: datetime
    score: float


class SearchTold(Told):
    """Sessions whose name holds the text, and what was said that fits: null where no search by content is set up."""

    sessions: list[SessionTold]
    hits: list[HitTold] | None
