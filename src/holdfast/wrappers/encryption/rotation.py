"""Rotation: whether all of a session is sealed as it should be, and the commit that writes it anew."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from ...backend import BlobPut, BlobRange, Commit, Erase, HeadPatch, Put, Range, ReadPlan, Snapshot, Window
from ...entries import NewEntry
from ...ids import new_id, new_incarnation
from .keys import OVERHEAD, RESERVED, is_sealed, parts, sealed_text
from .sealing import HOMES

WHOLE = ReadPlan(state_since=0, entries=Window(newest=False, hidden=True), blobs=(BlobRange(),))


class Rotation(msgspec.Struct, frozen=True):
    """How far `rotate_all` has come: sessions seen and encrypted anew, what kept it from others by their ids, and where to go on.

    `cursor` is None at the end.
    """

    seen: int = 0
    rotated: int = 0
    left: dict[str, str] = {}
    cursor: str | None = None


def is_current(raw: Snapshot, key_id: bytes, *, names: bool) -> bool:
    """Whether all of a session is sealed with this key, and its names are if they are to be, and in clear if not."""
    name, metadata = raw.head.name, raw.head.metadata
    texts = [name] if name is not None else []
    texts += [value if key.startswith(RESERVED) else key for key, value in metadata.items() if key != HOMES]
    sealed = [*_stored(raw), *(sealed_text(metadata[key]) for key in (HOMES,) if key in metadata)]
    return all(_by(value) == key_id for value in sealed) and all(_by(sealed_text(it)) == (key_id if names else None) for it in texts)


def _stored(raw: Snapshot) -> Iterator[bytes]:
    yield from (entry.body for entry in raw.entries or [])
    yield from (row.value for row in (raw.state or {}).values() if row.value is not None)
    yield from (blob.data for blob in raw.blobs or [] if blob.data is not None)


def _by(value: bytes) -> bytes | None:
    """The id of the key that sealed it."""
    return parts(value)[0] if is_sealed(value) else None


def rewriting(it: Snapshot, raw: Snapshot) -> Commit:
    """The commit that erases a session and writes what it held; `raw` is `it` as stored. Its time is the last change's: this is none."""
    head, entries = it.head, it.entries or []
    sealed = sum([is_sealed(entry.body) for entry in raw.entries or []])
    return Commit(
        id=new_id(),
        time=head.updated,
        incarnation=head.incarnation,
        base=head.version,
        expect=head.version,
        check_owner=False,
        erase=Erase("content", new_incarnation()),
        entries=tuple([NewEntry(entry.id, entry.kind, entry.body, entry.run_id, entry.agent, entry.time) for entry in entries]),
        hide=tuple([Range(entry.seq, entry.seq) for entry in entries if entry.hidden]),
        puts=tuple([Put(key, row.value) for key, row in (it.state or {}).items() if row.value is not None]),
        blobs=tuple([BlobPut(blob.namespace, blob.key, blob.type, blob.data or b"") for blob in it.blobs or []]),
        patch=HeadPatch(name=head.name, waiting=head.waiting, service_ids=head.service_ids, metadata=head.metadata),
        counts=replace(head.counts, bytes=max(raw.head.counts.bytes - OVERHEAD * sealed, 0)),
    )
