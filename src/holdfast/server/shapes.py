"""The JSON of requests and answers. Times are RFC 3339 in UTC, ids are text; unknown members of a request are refused by name."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .. import Entry, Message, Metrics, RunInfo, SessionInfo, Text, user
from ..agents import Decision, Event, Requirement, RunEnded, RunOutput
from ..ids import from_micros
from ..messages import Blob, Uri, to_otel
from .lines import Status, status_of
from .paths import NAMED, NO_STEP, no_step

Identifier = Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=NAMED)]
Addressed = Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=NAMED | NO_STEP), AfterValidator(no_step)]
"""An id under which something is found in a path."""
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"


def _whole(value: Any) -> Any:
    """JSON knows no difference between 2 and 2.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    """JSON has no numbers that are none, though Python's reader takes them."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError("this is no JSON value") from error
    return value


Json = Annotated[Any, AfterValidator(_plain)]
Seq = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1, le=2**53), BeforeValidator(_whole)]


class Given(BaseModel):
    """What a request says."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Told(BaseModel):
    """What an answer says."""

    model_config = ConfigDict(extra="forbid")


# --- requests --------------------------------------------------------------------------------------------------------


MimeType = Annotated[str, Field(max_length=255, pattern=r"^[a-z]+/[A-Za-z0-9][A-Za-z0-9.+_-]*$", examples=["image/png"])]


class _Attachment(Given):
    mime_type: MimeType

    @property
    def modality(self) -> str:
        kind = self.mime_type.partition("/")[0]
        return kind if kind in ("image", "audio", "video") else "document"


class AttachedData(_Attachment):
    """A file beside the message: its bytes."""

    data: str = Field(min_length=4, pattern=_BASE64, description="In base64.")

    def part(self) -> Blob:
        return Blob(self.modality, self.data, self.mime_type)


class AttachedUrl(_Attachment):
    """A file beside the message: where it is."""

    url: str = Field(max_length=8192, pattern=r"^https?://[!-~]+$")

    def part(self) -> Uri:
        return Uri(self.modality, self.url, self.mime_type)


_SAYS: dict[str, Any] = {
    "anyOf": [
        {"properties": {"message": {"minLength": 1}}},
        {"properties": {"attachments": {"minItems": 1}}, "required": ["attachments"]},
    ],
    "examples": [{"agent": "desk", "message": "Where is my order?", "session_id": "ada-1"}],
}


class RunRequest(Given):
    """A message for an agent, which says something or has attachments. Without `session_id` a new session begins."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_SAYS)
    message: str = Field(max_length=4_000_000)
    agent: str | None = Field(None, description="Its name; may be left out where there is only one.")
    session_id: Addressed | None = None
    user_id: Identifier | None = Field(None, description="For admins: on whose behalf.")
    run_id: Addressed | None = Field(None, description="Your own, to make the call safe to repeat.")
    attachments: list[AttachedData | AttachedUrl] = Field([], max_length=20)
    stream: bool = Field(False, description="Answer with server-sent events as they come.")
    background: bool = Field(False, description="Answer at once, with the run's id.")
    wait: float = Field(60.0, ge=0, le=3600, description="Seconds to wait for another run of the session.")

    def input(self) -> Message:
        if not self.attachments:
            return user(self.message)
        return Message("user", (Text(self.message), *[it.part() for it in self.attachments]))


class DecisionGiven(Given):
    """A decision on one requirement; `value` is the reason of a denial, the arguments, the fields or the result."""

    requirement: Identifier
    outcome: Literal["approve", "deny", "answer", "supply", "retry", "cancel"]
    value: Json = None


class Decisions(Given):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"decisions": [{"requirement": "1f2e", "outcome": "deny", "value": "ask the customer first"}]}]}
    )
    decisions: list[DecisionGiven] = Field(max_length=100)
    stream: bool = False
    background: bool = False


class SessionRequest(Given):
    model_config = ConfigDict(json_schema_extra={"examples": [{"session_id": "ada-1", "name": "Late order"}]})
    session_id: Addressed | None = None
    user_id: Identifier | None = None
    name: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] = {}


class SessionPatch(Given):
    """What is left out stays as it is; null removes a name, a value of the metadata, a time to live."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Late order", "metadata": {"priority": 1}}]})
    name: str | None = Field(None, max_length=1000)
    autogenerate: bool = Field(False, description="Have the agent's model name the session from its first messages.")
    agent: str | None = Field(None, description="With autogenerate: whose model.")
    metadata: dict[str, Any] | None = None
    ttl: float | None = Field(None, ge=1, lt=1e11, description="Seconds after its last use.")


class ForkRequest(Given):
    model_config = ConfigDict(json_schema_extra={"examples": [{"session_id": "ada-2", "at": 12}]})
    session_id: Addressed | None = None
    at: Seq | None = None
    name: str | None = Field(None, max_length=1000)


class RewindTo(Given):
    """Go back to a seq: it stays the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": 12}]})
    to: Seq


class RewindLast(Given):
    """Take back so many of the newest messages, with what follows them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"last": 2}]})
    last: Count


# --- answers ---------------------------------------------------------------------------------------------------------


class MessageTold(Told):
    """A message in the form of the OpenTelemetry GenAI schema, with its place in the log."""

    seq: int
    id: str
    run_id: str | None
    agent: str | None
    time: datetime
    role: str
    parts: list[dict[str, Any]]
    name: str | None = None

    @classmethod
    def of(cls, entry: Entry) -> MessageTold:
        told = to_otel(entry.message())
        return cls(seq=entry.seq, id=entry.id, run_id=entry.run_id, agent=entry.agent, time=from_micros(entry.time), **told)


class SessionTold(Told):
    id: str
    user_id: str | None
    kind: str
    agent: str | None
    name: str | None
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    counts: dict[str, int]
    waiting: bool
    running: bool
    parent: str | None
    origin: dict[str, Any] | None
    status: Status = Field(description="`error` and `interrupted` (the last run failed, or was broken off) are only told with `lines`.")
    last_line: str | None = Field(None, description="The beginning of what was said last; only with `lines`.")
    first_line: str | None = Field(None, description="Of a session without a name: how it begins; only with `lines`.")

    @classmethod
    def of(cls, info: SessionInfo, line: str | None = None, status: Status | None = None, first: str | None = None) -> SessionTold:
        return cls(**msgspec.to_builtins(info), status=status or status_of(info), last_line=line, first_line=first)


class SessionsTold(Told):
    items: list[SessionTold]
    cursor: str | None


class RequirementTold(Told):
    id: str
    run_id: str
    session_id: str
    kind: str
    agent: str | None
    tool: str
    arguments: Any
    fields: list[dict[str, Any]]
    expires_at: datetime | None

    @classmethod
    def of(cls, it: Requirement, session_id: str) -> RequirementTold:
        return cls(
            id=it.id,
            run_id=it.run_id,
            session_id=session_id,
            kind=it.kind,
            agent=it.agent,
            tool=it.call.name,
            arguments=it.call.arguments,
            fields=[msgspec.to_builtins(field) for field in it.fields],
            expires_at=None if it.expires is None else from_micros(it.expires),
        )


class RunTold(Told):
    """What a run gave: `content` is the answer, null while there is none."""

    run_id: str
    session_id: str
    agent: str | None
    status: str
    content: Any
    error: str | None
    requirements: list[RequirementTold]
    metrics: dict[str, Any]

    @classmethod
    def of(cls, output: RunOutput) -> RunTold:
        return cls(
            run_id=output.run_id,
            session_id=output.session_id,
            agent=output.agent,
            status=output.status,
            content=plain(output.content),
            error=output.error,
            requirements=[RequirementTold.of(it, output.session_id) for it in output.requirements],
            metrics=metrics(output.metrics),
        )


class RunBegun(Told):
    """A run in the background: follow it at `/sessions/{session_id}/runs/{run_id}/events`."""

    run_id: str
    session_id: str
    status: str


class RunInfoTold(Told):
    id: str
    status: str
    agent: str | None
    attempt: int
    started: datetime
    ended: datetime | None
    error: str | None
    metrics: dict[str, Any]
    root: str | None

    @classmethod
    def of(cls, run: RunInfo, **more: Any) -> Self:
        return cls(
            **more,
            id=run.id,
            status=run.status,
            agent=run.agent,
            attempt=run.attempt,
            started=from_micros(run.started),
            ended=None if run.ended is None else from_micros(run.ended),
            error=run.error,
            metrics=metrics(run.metrics),
            root=run.root,
        )


def metrics(used: Metrics) -> dict[str, Any]:
    """All numbers, those that are 0 too."""
    return {name: getattr(used, name) for name in used.__struct_fields__}


def plain(content: Any) -> Any:
    """An answer as JSON: what is none is told as text."""
    dump = getattr(content, "model_dump", None)
    try:
        return msgspec.to_builtins(dump(mode="json") if dump else content)
    except (TypeError, ValueError):
        return str(content)


def event_told(event: Event) -> dict[str, Any]:
    """The data of an event: its members, `type` among them."""
    if isinstance(event, RunEnded):
        return {"type": "run_ended", "number": event.number, "output": RunTold.of(event.output).model_dump(mode="json")}
    return msgspec.to_builtins(event)


def decision(given: DecisionGiven) -> Decision:
    return Decision(given.requirement, given.outcome, given.value)
