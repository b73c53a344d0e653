"""Conversations of other systems as sessions: each is written as an export, and brought in by `store.import_`, whole or not at all.

What is there already is left alone, so a move that was broken off is simply started again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import Any
from uuid import uuid4

import msgspec

from holdfast import InvalidId, InvalidValue, Message, SessionExists, Store
from holdfast.messages import encode_message
from holdfast.values import encode

Record = dict[str, Any]


class Turn(msgspec.Struct, kw_only=True):
    """Messages that belong together; times are unix seconds. With a `run_id` the session has a run of them, which ended with `status`.

    `hidden`: kept in the record, never sent to a model.
    """

    messages: list[Message]
    time: float
    run_id: str | None = None
    status: str = "completed"
    agent: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    hidden: bool = False


class Conversation(msgspec.Struct, kw_only=True):
    """All that is moved of one session of theirs. State values are whatever a session's state can hold."""

    id: str
    turns: list[Turn]
    state: Record = {}
    user_id: str | None = None
    name: str | None = None
    agent: str | None = None
    parent: str | None = None
    metadata: Record = {}
    service_session_id: Any = None
    created: float | None = None


class Moved(msgspec.Struct):
    """What a move did: how many sessions came in, how many were there already, and which could not come, with the reason."""

    new: int = 0
    there: int = 0
    failed: dict[str, str] = {}

    def __str__(self) -> str:
        told = [f"{self.new} moved, {self.there} were there already"]
        return "\n".join([*told, *(f"not moved: {id!r}: {why}" for id, why in self.failed.items())])


async def move(conversations: Iterable[Conversation] | AsyncIterable[Conversation], store: Store) -> Moved:
    """Bring every conversation into `store`, one commit each."""
    moved = Moved(failed={})
    async for it in _each(conversations):
        try:
            await store.import_(lines(it), user_id=it.user_id)
            moved.new += 1
        except SessionExists:
            moved.there += 1
        except (InvalidValue, InvalidId) as error:
            moved.failed[it.id] = str(error)
    return moved


async def _each(given: Iterable[Conversation] | AsyncIterable[Conversation]) -> AsyncIterable[Conversation]:
    if isinstance(given, AsyncIterable):
        async for it in given:
            yield it
    else:
        for it in given:
            yield it


def lines(it: Conversation) -> Iterator[str]:
    """The conversation in the form of `store.export`."""
    entries = [entry for turn in it.turns for entry in _entries(turn)]
    state = [{"type": "state", "key": key, "value": msgspec.Raw(encode(value))} for key, value in it.state.items()]
    numbered = [{"type": "entry", "seq": seq} | entry for seq, entry in enumerate(entries, 1)]
    records = [{"holdfast": 1, "type": "session", "session_id": it.id, "head": _head(it, entries)}, *state, *numbered]
    for record in [*records, {"type": "end", "lines": len(records) + 1}]:
        yield msgspec.json.encode(record).decode()


def _head(it: Conversation, entries: list[Record]) -> Record:
    times = [turn.time for turn in it.turns]
    given = {"user_id": it.user_id, "name": it.name, "agent": it.agent, "parent": it.parent}
    return {
        "incarnation": 1,
        "created": _micro(it.created if it.created is not None else min(times, default=time.time())),
        "metadata": it.metadata,
        "service_ids": {"": it.service_session_id} if it.service_session_id is not None else {},
        "counts": {
            "runs": len({turn.run_id for turn in it.turns} - {None}),
            "messages": sum(len(turn.messages) for turn in it.turns),
            "input_tokens": sum(turn.input_tokens for turn in it.turns),
            "output_tokens": sum(turn.output_tokens for turn in it.turns),
            "bytes": sum(len(bytes(entry["body"])) for entry in entries),
        },
    } | {name: value for name, value in given.items() if value is not None}


def _entries(turn: Turn) -> Iterator[Record]:
    """The turn's messages, between the entries that tell of its run."""
    if turn.run_id is not None:
        yield _entry(turn, "run", b'{"v":1,"status":"running"}')
    for message in turn.messages:
        yield _entry(turn, "message", encode_message(message), message.id)
    if turn.run_id is not None:
        used = {"input_tokens": turn.input_tokens, "output_tokens": turn.output_tokens}
        yield _entry(turn, "run", msgspec.json.encode({"v": 1, "status": turn.status, "metrics": used}))


def _entry(turn: Turn, kind: str, body: bytes, id: str | None = None) -> Record:
    told = {"id": id or uuid4().hex, "kind": kind, "time": _micro(turn.time), "body": msgspec.Raw(body)}
    about = {"run_id": turn.run_id, "agent": turn.agent, "hidden": turn.hidden or None}
    return told | {name: value for name, value in about.items() if value is not None}


def _micro(seconds: float) -> int:
    return int(seconds * 1_000_000)


def arguments(given: Any) -> Any:
    """The arguments of a tool call: models send JSON in a string, which is kept as text where it is none."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError:
        return given
