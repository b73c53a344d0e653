"""Sessions as JSON Lines: everything a session holds, readable, complete, and the same again after an import.

The first line is the head (`{"holdfast": 1, "type": "session", ...}`), then one line per state key, entry (in order, hidden ones
marked) and blob (base64), and at the end how many lines there were, so that a file cut short is noticed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from .backend import BlobPut, BlobRange, Commit, Create, Head, HeadPatch, Put, Range, ReadPlan, Snapshot, Window
from .entries import LARGE, MESSAGE, NewEntry
from .errors import Corrupt, InvalidId, InvalidValue, SchemaMismatch
from .ids import check_session_id, new_id, new_incarnation, now
from .large import left_out
from .messages import decode_message
from .state import check_key, unprefixed
from .values import decode

FORM = 1
MARKS = "~copy"
"""The namespace of the blobs that say of a session what it is a copy of: no export has them."""
EVERYTHING = ReadPlan(state_since=0, entries=Window(newest=False, hidden=True), blobs=(BlobRange(),))


class Parcel(msgspec.Struct, frozen=True):
    """An export, read and checked."""

    session_id: str
    head: Head
    puts: tuple[Put, ...]
    entries: tuple[NewEntry, ...]
    hidden: tuple[Range, ...]
    blobs: tuple[BlobPut, ...]


def lines(session_id: str, snapshot: Snapshot) -> Iterator[str]:
    """The export, line by line."""
    count = 1
    for record in _records(session_id, snapshot):
        yield msgspec.json.encode(record).decode()
        count += 1
    yield msgspec.json.encode({"type": "end", "lines": count}).decode()


def _records(session_id: str, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(snapshot.head, claim=None))
    yield ({"holdfast": FORM, "type": "session", "session_id": session_id, "head": head})
    for key, row in sorted((snapshot.state or {}).items()):
        if row.value is not None:
            yield ({"type": "state", "key": key, "value": msgspec.Raw(row.value)})
    for entry in snapshot.entries or []:
        line = {"type": "entry", "seq": entry.seq, "id": entry.id, "kind": entry.kind, "time": entry.time}
        line |= {name: value for name in ("run_id", "agent") if (value := getattr(entry, name)) is not None}
        yield (line | ({"hidden": True} if entry.hidden else {}) | {"body": msgspec.Raw(entry.body)})
    for blob in (it for it in snapshot.blobs or [] if it.namespace != MARKS):
        place = {"type": "blob", "namespace": blob.namespace, "key": blob.key, "blob_type": blob.type}
        yield (place | {"data": base64.b64encode(blob.data or b"").decode()})


class _Line(msgspec.Struct):
    """Any line: which fields count depends on `type`."""

    type: str
    holdfast: int = 0
    session_id: str = ""
    head: Head | None = None
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"")
    seq: int = 0
    id: str = ""
    kind: str = ""
    time: int = 0
    run_id: str | None = None
    agent: str | None = None
    hidden: bool = False
    body: msgspec.Raw = msgspec.Raw(b"")
    namespace: str = ""
    blob_type: str = ""
    data: str = ""
    lines: int = 0


def parse(text: Iterable[str]) -> Parcel:
    """Read an export to its end before anything is written; `InvalidValue` names the first bad line."""
    reader = _Reader()
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                reader.take(msgspec.json.decode(line, type=_Line))
            except (msgspec.MsgspecError, InvalidValue, InvalidId, Corrupt, SchemaMismatch, ValueError) as error:
                raise InvalidValue(f"line {number}: {error}; nothing was imported") from None
    return reader.parcel()


class _Reader:
    """Checks and gathers the lines of one export."""

    def __init__(self) -> None:
        self.first: _Line | None = None
        self.puts: list[Put] = []
        self.entries: list[NewEntry] = []
        self.hidden: list[Range] = []
        self.blobs: list[BlobPut] = []
        self.count = 0
        self.ended = False

    def take(self, line: _Line) -> None:
        readers = {"session": self._session, "state": self._state, "entry": self._entry, "blob": self._blob, "end": self._end}
        if line.type not in readers:
            raise InvalidValue(f"unknown type {line.type!r}; this may be an export of a newer version")
        if (self.first is None) != (line.type == "session") or self.ended:
            raise InvalidValue("an export is one line of type 'session', its state, entries and blobs, and one line of type 'end'")
        self.count += 1
        readers[line.type](line)

    def parcel(self) -> Parcel:
        if self.first is None or self.first.head is None:
            raise InvalidValue("this is not an export: it begins with a line of type 'session' and a head")
        if not self.ended:
            raise InvalidValue(f"this export is cut short after {self.count} lines: its end is missing; nothing was imported")
        there = {blob.key for blob in self.blobs if blob.namespace == LARGE}
        if lost := left_out(self.entries).keys() - there:
            raise InvalidValue(f"this export lacks the large values {', '.join(sorted(lost))} of its messages; nothing was imported")
        everything = (tuple(self.puts), tuple(self.entries), tuple(self.hidden), tuple(self.blobs))
        return Parcel(check_session_id(self.first.session_id), self.first.head, *everything)

    def _session(self, line: _Line) -> None:
        if line.holdfast > FORM:
            raise InvalidValue(f"this export has form {line.holdfast}, this library reads up to {FORM}: upgrade holdfast")
        self.first = line

    def _state(self, line: _Line) -> None:
        decode(bytes(line.value))
        self.puts.append(Put(check_key(unprefixed(line.key)) and line.key, bytes(line.value)))

    def _entry(self, line: _Line) -> None:
        if line.seq != len(self.entries) + 1:
            raise InvalidValue(f"entry {line.seq} where {len(self.entries) + 1} was due: lines are missing or out of order")
        body = bytes(line.body)
        decode_message(body) if line.kind == MESSAGE else msgspec.json.decode(body)
        self.entries.append(NewEntry(line.id, line.kind, body, line.run_id, line.agent, line.time))
        self.hidden += [Range(line.seq, line.seq)] if line.hidden else []

    def _blob(self, line: _Line) -> None:
        self.blobs.append(BlobPut(line.namespace, line.key, line.blob_type, base64.b64decode(line.data, validate=True)))

    def _end(self, line: _Line) -> None:
        if line.lines != self.count:
            raise InvalidValue(f"this export had {line.lines} lines, {self.count} are here")
        self.ended = True


def commit(parcel: Parcel, user_id: str | None, *, check_owner: bool) -> Commit:
    """The one commit that makes the session again."""
    head = parcel.head
    patch = HeadPatch(
        kind=head.kind,
        agent=head.agent,
        name=head.name,
        metadata=head.metadata,
        parent=head.parent,
        service_ids=head.service_ids,
        waiting=head.waiting,
        ttl=head.ttl,
    )
    if head.origin is not None:
        patch = msgspec.structs.replace(patch, origin=head.origin)
    return Commit(
        id=new_id(),
        time=now(),
        create=Create(new_incarnation(), exclusive=True, created=head.created),
        user_id=user_id,
        check_owner=check_owner,
        puts=parcel.puts,
        entries=parcel.entries,
        hide=parcel.hidden,
        blobs=parcel.blobs,
        patch=patch,
        counts=head.counts,
        answer=ReadPlan(state_since=0),
    )
