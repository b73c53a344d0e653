"""The blobs of a thread: their keys, and what they hold.

In the namespace `langgraph`:

    c/NS/ID            a checkpoint: a `Record`, its values as refs
    t/NS/ID            the newest checkpoint of a namespace once more, so that one read by prefix finds it: the greatest id under `t/NS/`
    w/NS/ID/TASK/N     a pending write: its channel, its task's path and its value as a ref
    k/DIGEST           a chunk (see `chunks`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ...backend import Blob, BlobPut, BlobRange
from ...errors import Corrupt
from .chunks import Inline, Ref, Typed, digest_of
from .packing import packed, unpacked

NAMESPACE = "langgraph"
FORM = 1


class Place(NamedTuple):
    """A checkpoint of a thread; `id` "" means the newest of the namespace."""

    thread: str
    ns: str
    id: str


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A checkpoint as stored: `checkpoint` (without its values) and `metadata` are the serializer's."""

    form: int
    parent: str | None
    checkpoint: Inline
    metadata: Inline
    values: dict[str, Ref]


class Write(NamedTuple):
    """A pending write; `n` is its place among its task's writes, below 0 for the special channels."""

    task: str
    n: int
    channel: str
    path: str
    value: Ref


class Found(NamedTuple):
    """A checkpoint with its pending writes in the order in which they are applied."""

    place: Place
    record: Record
    writes: list[Write]

    @property
    def refs(self) -> list[Ref]:
        """All that its chunks are behind."""
        return [*self.record.values.values(), *(write.value for write in self.writes)]


_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_write: Callable[[bytes], tuple[str, str, Ref]] = msgspec.msgpack.Decoder(tuple[str, str, Ref]).decode


def blobs(*, prefix: str = "", keys: Iterable[str] | None = None, data: bool = True) -> BlobRange:
    """A range of this namespace."""
    return BlobRange(namespace=NAMESPACE, prefix=prefix, keys=None if keys is None else tuple(keys), data=data)


def checkpoint_key(at: Place) -> str:
    return f"c/{_quoted(at.ns)}/{_quoted(at.id)}"


def tips_prefix(ns: str) -> str:
    return f"t/{_quoted(ns)}/"


def tip_key(at: Place) -> str:
    return f"{tips_prefix(at.ns)}{_quoted(at.id)}"


def writes_prefix(at: Place) -> str:
    return f"w/{_quoted(at.ns)}/{_quoted(at.id)}/"


def chunk_key(digest: bytes) -> str:
    return f"k/{digest.hex()}"


def ns_prefix(ns: str | None) -> str:
    """Where the checkpoints of a namespace are, or of all."""
    return "c/" if ns is None else f"c/{_quoted(ns)}/"


def place_of(thread: str, key: str) -> Place:
    """The place a key `c/...`, `t/...` or `w/...` names."""
    _, ns, id, *_ = key.split("/")
    return Place(thread, _plain(ns), _plain(id))


def record_puts(record: Record, *keys: str) -> list[BlobPut]:
    """The record under each of these keys."""
    type, data = packed("record", _encode(record))
    return [BlobPut(NAMESPACE, key, type, data) for key in keys]


def record_of(blob: Blob) -> Record:
    return _decode_record(unpacked(blob.type, blob.data or b"")[1])


def write_put(at: Place, write: Write) -> BlobPut:
    """An ordinary write is stored once; one to a special channel replaces what is there."""
    key = f"{writes_prefix(at)}{_quoted(write.task)}/{write.n}"
    return BlobPut(NAMESPACE, key, "write", _encode((write.channel, write.path, write.value)), if_absent=write.n >= 0)


def write_of(blob: Blob) -> Write:
    *_, task, n = blob.key.split("/")
    channel, path, value = _decode_write(blob.data or b"")
    return Write(_plain(task), int(n), channel, path, value)


def chunk_put(digest: bytes, typed: Typed) -> BlobPut:
    return BlobPut(NAMESPACE, chunk_key(digest), *packed(*typed), if_absent=True)


def chunk_of(blob: Blob) -> tuple[bytes, Typed]:
    """The chunk and its name; `Corrupt` for one that isn't what its name says."""
    typed = Typed(*unpacked(blob.type, blob.data or b""))
    digest = digest_of(typed)
    if chunk_key(digest) != blob.key:
        raise Corrupt(f"blob {blob.namespace}/{blob.key} doesn't hold what its name says")
    return digest, typed


def found(at: Place, record: Record, near: Iterable[Blob]) -> Found:
    """The checkpoint, with those of the blobs that are its pending writes."""
    prefix = writes_prefix(at)
    writes = [write_of(blob) for blob in near if blob.key.startswith(prefix)]
    return Found(at, record, sorted(writes, key=lambda it: (it.path, it.task, it.n)))


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _plain(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
