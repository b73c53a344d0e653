"""One session, sealed and opened: which of its values are sealed, and what each is bound to besides its session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from ...backend import Blob, BlobPut, Commit, Counts, Head, HeadPatch, Key, ReadPlan, Snapshot, StateRow
from ...entries import Entry, NewEntry
from ...errors import Corrupt, InvalidValue
from . import hashed
from .keys import HOME, OVERHEAD, RESERVED, Keys, Unreadable, home_of, is_sealed, joined, sealed_text, text_of

T = TypeVar("T")

HOMES = f"{RESERVED}homes"
"""Where a fork's head keeps the homes that its content may come from, under seal."""


def of_entry(it: Entry | NewEntry) -> bytes:
    return joined(b"entry", it.id, it.kind, it.run_id or "", it.agent or "", str(it.time))


def of_state(key: str) -> bytes:
    return joined(b"state", key)


def of_blob(it: Blob | BlobPut) -> bytes:
    return joined(b"blob", it.namespace, it.key, it.type)


class Sealer(NamedTuple):
    """Seals what one commit writes into one session."""

    keys: Keys
    key_id: bytes
    key: Key
    commit_id: str

    def bytes(self, place: bytes, plain: bytes) -> bytes:
        return self.keys.seal(self.key_id, home_of(self.key), self.commit_id, place, plain)

    def text(self, place: bytes, plain: bytes) -> str:
        return text_of(self.bytes(place, plain))

    def commit(self, it: Commit, *, names: bool) -> Commit:
        """`it` as it is stored. A head counts an entry's overhead with its bytes, as a copy inside the database does."""
        added = Counts(bytes=OVERHEAD * len(it.entries))
        return replace(
            it,
            entries=tuple([replace(entry, body=self.bytes(of_entry(entry), entry.body)) for entry in it.entries]),
            puts=tuple([put if put.value is None else replace(put, value=self.bytes(of_state(put.key), put.value)) for put in it.puts]),
            blobs=tuple([self.blob(blob) for blob in it.blobs]),
            drops=tuple([each for drop in it.drops for each in hashed.doomed(self.keys, drop)]),
            answer=it.answer and hashed.sought(self.keys, it.answer),
            counts=(it.counts or Counts()) + added if it.entries else it.counts,
            patch=it.patch and self.patch(it.patch, names=names),
            create=it.create and replace(it.create, patch=it.create.patch and self.patch(it.create.patch, names=names)),
        )

    def blob(self, it: BlobPut) -> BlobPut:
        sealed = replace(it, data=self.bytes(of_blob(it), it.data))
        if not hashed.is_hashed(it):
            return sealed
        name = hashed.name_of(self.keys, self.key_id, it.namespace, it.key)
        return replace(sealed, key=name, type=self.text(hashed.place_of(it.namespace, name), hashed.packed(it)))

    def with_homes(self, it: Commit, homes: frozenset[bytes] | None) -> Commit:
        """A sealed commit with the homes, besides its own, of what the session takes over; None removes what is recorded of them."""
        if homes is not None and not homes:
            return it
        patch = it.patch or HeadPatch()
        record = None if homes is None else self.text(b"homes", b"".join(sorted(homes)))
        return replace(it, patch=replace(patch, metadata=(patch.metadata or {}) | {HOMES: record}))

    def patch(self, it: HeadPatch, *, names: bool) -> HeadPatch:
        """`it` with names as they are stored. A metadata key is written in one form, and removed in every other it may have."""
        metadata = it.metadata or {}
        if (it.name or "").startswith(RESERVED) or any(name.startswith(RESERVED) for name in metadata):
            raise InvalidValue(f"{self.key}: names and metadata keys that begin with {RESERVED!r} are taken")
        changed: dict[str, Any] = {}
        if names and isinstance(it.name, str):
            changed["name"] = self.text(b"name", it.name.encode())
        if it.metadata is not UNSET:
            stored: dict[str, Any] = {}
            for name, value in it.metadata.items():
                stored.update(self._metadata(name, value, names=names))
            changed["metadata"] = stored
        return replace(it, **changed) if changed else it

    def _metadata(self, name: str, value: Any, *, names: bool) -> dict[str, Any]:
        forms: dict[str, Any] = {self.keys.name(key_id, home_of(self.key), name): None for key_id in self.keys.ids} | {name: None}
        if not names:
            return forms | {name: value}
        own = self.keys.name(self.key_id, home_of(self.key), name)
        return forms | {own: value if value is None else self.text(own.encode(), msgspec.json.encode((name, value)))}


class Reader(NamedTuple):
    """Opens what is read of one session; every error names the session and the place."""

    keys: Keys
    key: Key
    plain: bool
    names: bool
    homes: frozenset[bytes]

    def value(self, what: Callable[[], str], place: bytes, value: bytes) -> bytes:
        if not is_sealed(value):
            return self._unsealed(what(), value)
        try:
            return self.keys.open(value, place, self.homes)
        except Unreadable as reason:
            raise Corrupt(f"{self.key}: {what()} can't be opened: {reason}") from None

    def text(self, what: str, place: bytes, value: Any) -> bytes:
        """What was sealed as text."""
        if not is_sealed(sealed := sealed_text(value)):
            raise Corrupt(f"{self.key}: {what} can't be opened: it is not what was sealed")
        return self.value(lambda: what, place, sealed)

    def _unsealed(self, what: str, value: T) -> T:
        if self.plain:
            return value
        raise Corrupt(
            f"{self.key}: {what} is not encrypted: somebody wrote it without EncryptedBackend, before it was switched on or since;"
            " EncryptedBackend(..., plain='read') reads it, and its rotate() encrypts it"
        )

    def inherited(self, head: Head) -> Reader:
        """One that also reads what a fork took over: from the homes that its head names under seal."""
        if (record := head.metadata.get(HOMES)) is None:
            return self
        homes = self.text("the record of what it was copied from", b"homes", record)
        return self._replace(homes=self.homes.union(homes[at : at + HOME] for at in range(0, len(homes), HOME)))

    def snapshot(self, it: Snapshot, plan: ReadPlan) -> Snapshot:
        wide = self.inherited(it.head)
        return Snapshot(
            self.head(it.head),
            None if it.state is None else {key: wide.row(key, row) for key, row in it.state.items()},
            it.state_whole,
            None if it.entries is None else [wide.entry(entry) for entry in it.entries],
            None if it.blobs is None else hashed.found([wide.blob(blob) for blob in it.blobs], plan),
        )

    def entry(self, it: Entry) -> Entry:
        body = self.value(lambda: f"entry {it.id} ({it.kind}, seq {it.seq})", of_entry(it), it.body)
        return Entry(it.seq, it.id, it.kind, body, it.run_id, it.agent, it.time, it.version, it.hidden)

    def row(self, key: str, it: StateRow) -> StateRow:
        return it if it.value is None else StateRow(self.value(lambda: f"state key {key!r}", of_state(key), it.value), it.version)

    def blob(self, it: Blob) -> Blob:
        if hashed.is_hidden(it):
            key, type = hashed.unpacked(self.text("the key of a blob", hashed.place_of(it.namespace, it.key), it.type))
            it = Blob(it.namespace, key, type, it.data)
        if it.data is None:
            return it
        return Blob(it.namespace, it.key, it.type, self.value(lambda: f"blob {it.namespace}/{it.key}", of_blob(it), it.data))

    def head(self, it: Head) -> Head:
        counts = replace(it.counts, bytes=max(it.counts.bytes - OVERHEAD * it.seq, 0))
        return replace(it, counts=counts, name=self._name(it.name), metadata=self._metadata(it.metadata))

    def _name(self, name: str | None) -> str | None:
        if name is None:
            return None
        if name.startswith(RESERVED):
            return self.text("its name", b"name", name).decode()
        return self._unsealed("its name", name) if self.names else name

    def _metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in metadata.items():
            if not name.startswith(RESERVED):
                found[name] = self._unsealed("its metadata", value) if self.names else value
            elif name != HOMES:
                found.update([msgspec.json.decode(self.text("its metadata", name.encode(), value), type=tuple[str, Any])])
        return found
