"""Sessions as JSON Lines: everything a session holds, readable, complete, and the same again after an import.

The first line is the head (`{"holdfast": 1, "type": "session", ...}`), then one line per state key, entry (in order, hidden ones
marked) and blob (base64).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from .backend import BlobPut, BlobRange, Commit, Create, Head, HeadPatch, Put, Range, ReadPlan, Snapshot, Window
from .entries import NewEntry
from .errors import InvalidValue
from .ids import check_session_id, new_id, new_incarnation, now

FORM = 1
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
    head: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(snapshot.head, claim=None))
    yield _line({"holdfast": FORM, "type": "session", "session_id": session_id, "head": head})
    for key, row in sorted((snapshot.state or {}).items()):
        if row.value is not None:
            yield _line({"type": "state", "key": key, "value": msgspec.Raw(row.value)})
    for entry in snapshot.entries or []:
        line = {"type": "entry", "seq": entry.seq, "id": entry.id, "kind": entry.kind, "time": entry.time}
        line |= {name: value for name in ("run_id", "agent") if (value := getattr(entry, name)) is not None}
        yield _line(line | ({"hidden": True} if entry.hidden else {}) | {"body": msgspec.Raw(entry.body)})
    for blob in snapshot.blobs or []:
        place = {"type": "blob", "namespace": blob.namespace, "key": blob.key, "blob_type": blob.type}
        yield _line(place | {"data": base64.b64encode(blob.data or b"").decode()})


def _line(record: dict[str, Any]) -> str:
    return msgspec.json.encode(record).decode()


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


def parse(text: Iterable[str]) -> Parcel:
    """Read an export to its end before anything is written; `InvalidValue` names the first bad line."""
    numbered = [(number, _parse_line(number, line)) for number, line in enumerate(text, 1) if line.strip()]
    if not numbered or numbered[0][1].head is None:
        raise InvalidValue("line 1: an export begins with a line of type 'session' and a head")
    first = numbered[0][1]
    if first.holdfast > FORM:
        raise InvalidValue(f"line 1: this export has form {first.holdfast}, this library reads up to {FORM}: upgrade holdfast")
    head = first.head
    assert head is not None
    puts: list[Put] = []
    entries: list[NewEntry] = []
    hidden: list[Range] = []
    blobs: list[BlobPut] = []
    for number, line in numbered[1:]:
        if line.type == "state":
            puts.append(Put(line.key, bytes(line.value)))
        elif line.type == "entry":
            entries.append(_entry(number, line, len(entries) + 1))
            hidden += [Range(line.seq, line.seq)] if line.hidden else []
        elif line.type == "blob":
            blobs.append(BlobPut(line.namespace, line.key, line.blob_type, base64.b64decode(line.data)))
        else:
            raise InvalidValue(f"line {number}: unknown type {line.type!r}; this may be an export of a newer version")
    return Parcel(check_session_id(first.session_id), head, tuple(puts), tuple(entries), tuple(hidden), tuple(blobs))


def _parse_line(number: int, line: str) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError as error:
        raise InvalidValue(f"line {number}: not a line of an export: {error}") from None


def _entry(number: int, line: _Line, seq: int) -> NewEntry:
    if line.seq != seq:
        raise InvalidValue(f"line {number}: entry {line.seq} where {seq} was due: lines are missing or out of order")
    return NewEntry(line.id, line.kind, bytes(line.body), line.run_id, line.agent, line.time)


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
        ttl=head.ttl,
    )
    if head.origin is not None:
        patch = msgspec.structs.replace(patch, origin=head.origin)
    return Commit(
        id=new_id(),
        time=now(),
        create=Create(new_incarnation(), exclusive=True),
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
