"""Blobs whose keys are hashes of what they hold: who sees such a key can check a guess at the content.

So these keys reach the database as what only a holder of the master key can make of them, the same in every session, for a fork is copied
as it lies; the engine's hashes of large values differ from session to session already. The key itself is sealed in the blob's type.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from ...backend import Blob, BlobDrop, BlobPut, BlobRange, ReadPlan
from ...entries import INSTRUCTIONS, LARGE
from ...errors import Unsupported
from ...rules import asked
from .keys import RESERVED, Keys, joined

NAMESPACES = frozenset((INSTRUCTIONS, LARGE))
_HOME = b"blob keys"


def is_hashed(it: Blob | BlobPut) -> bool:
    """Whether its key is a hash of its content, in clear."""
    return it.namespace in NAMESPACES and not it.type.startswith(RESERVED)


def is_hidden(it: Blob) -> bool:
    """Whether its key stands for another one."""
    return it.namespace in NAMESPACES and it.type.startswith(RESERVED)


def name_of(keys: Keys, key_id: bytes, namespace: str, key: str) -> str:
    """What stands for the key."""
    return keys.name(key_id, _HOME, f"{namespace}/{key}")


def place_of(namespace: str, name: str) -> bytes:
    """What the sealed key is bound to."""
    return joined(b"blob key", namespace, name)


def packed(it: BlobPut) -> bytes:
    """What is sealed in the place of the type."""
    return msgspec.json.encode((it.key, it.type))


def unpacked(data: bytes) -> tuple[str, str]:
    """The key and the type."""
    return msgspec.json.decode(data, type=tuple[str, str])


def sought(keys: Keys, plan: ReadPlan) -> ReadPlan:
    """`plan` with the keys that these blobs may have in the database."""
    return replace(plan, blobs=tuple([it for range in plan.blobs for it in _sought(keys, range)])) if plan.blobs else plan


def _sought(keys: Keys, range: BlobRange) -> Iterator[BlobRange]:
    within = NAMESPACES if range.namespace is None else NAMESPACES & {range.namespace}
    if within and range.keys is not None:
        more = [name_of(keys, id, namespace, key) for id in keys.ids for namespace in sorted(within) for key in range.keys]
        yield replace(range, keys=(*range.keys, *more))
        return
    yield range
    if range.prefix:
        yield from (BlobRange(namespace=namespace, prefix=RESERVED, data=range.data) for namespace in sorted(within))


def found(blobs: list[Blob], plan: ReadPlan) -> list[Blob]:
    """Opened blobs as the plan asked for them: in order, each once."""
    if all(it.namespace not in NAMESPACES for it in blobs):
        return blobs
    wanted = {(it.namespace, it.key): it for it in blobs if any(asked(range, it.namespace, it.key) for range in plan.blobs)}
    return [wanted[place] for place in sorted(wanted)]


def doomed(keys: Keys, drop: BlobDrop) -> Iterator[BlobDrop]:
    """`drop` for every key that the blob may have in the database."""
    yield drop
    if drop.namespace in NAMESPACES and drop.key is not None:
        yield from (replace(drop, key=name_of(keys, id, drop.namespace, drop.key)) for id in keys.ids)
    elif drop.namespace in NAMESPACES and drop.prefix:
        raise Unsupported(f"the keys of blobs in {drop.namespace!r} are hidden in this store: drop them one by one, or all of them")
