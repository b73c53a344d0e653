"""What a whole session comes to, in short: two sessions with equal digests hold the same."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from ..backend import Backend, BlobRange, Head, Key, ReadPlan, StateRow
from .commits import KEPT
from .reading import Gone, Moved, Name, groups, names, page_of, pages


class Part(msgspec.Struct, frozen=True):
    """How many there are, how many of them are hidden, and the digest of all."""

    count: int
    digest: bytes
    hidden: int = 0


class Digest(msgspec.Struct, frozen=True):
    """A session in short: what its head says, and its other parts."""

    head: dict[str, object]
    state: Part
    entries: Part
    blobs: Part


async def digest(backend: Backend, key: Key) -> tuple[Head, Digest]:
    """The session at one moment; `Gone` where there is none, `Moved` where it is written to meanwhile."""
    snapshot = await backend.read(key, ReadPlan(state_since=0, blobs=(BlobRange(data=False),)))
    if snapshot is None:
        raise Gone
    head = snapshot.head
    entries = await _entries_digest(backend, key, head)
    blobs = await _blobs_digest(backend, key, head, names(snapshot.blobs or []))
    return head, Digest({name: getattr(head, name) for name in KEPT}, _state_digest(snapshot.state or {}), entries, blobs)


def _state_digest(state: dict[str, StateRow]) -> Part:
    rows = [(name, row.value) for name, row in sorted(state.items()) if row.value is not None]
    return Part(len(rows), blake2b(msgspec.msgpack.encode(rows), digest_size=16).digest())


async def _entries_digest(backend: Backend, key: Key, head: Head) -> Part:
    count, unseen, found = 0, 0, blake2b(digest_size=16)
    async for snapshot in pages(backend, key, head.seq, page_of(head)):
        _check_still(snapshot.head, head)
        for it in snapshot.entries or []:
            found.update(msgspec.msgpack.encode((it.seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, it.hidden)))
            count, unseen = count + 1, unseen + it.hidden
    return Part(count, found.digest(), unseen)


async def _blobs_digest(backend: Backend, key: Key, head: Head, wanted: dict[Name, str]) -> Part:
    count, found = 0, blake2b(digest_size=16)
    async for seen, group in groups(backend, key, sorted(wanted)):
        _check_still(seen, head)
        for it in group:
            found.update(msgspec.msgpack.encode((it.namespace, it.key, it.type, it.data)))
            count += 1
    return Part(count, found.digest())


def _check_still(seen: Head, head: Head) -> None:
    if (seen.incarnation, seen.version) != (head.incarnation, head.version):
        raise Moved
