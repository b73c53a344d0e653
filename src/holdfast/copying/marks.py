"""What a copied session says of itself: which source it is a copy of, and up to where. That is all a copy remembers.

The mark is one blob of the destination session, so that it is written by the very commit that brings what it tells of: there is no
moment at which the two disagree, whenever the process is killed, and resuming is nothing but looking. A register beside the sessions
would be a second write for each, and one of them comes first. The mark is in a namespace of its own, which no list shows and no export
holds, and `finish` takes it out. A fork of a copied session inherits the blob, not the name in it, and so is nobody's copy.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from ..backend import Backend, BlobDrop, BlobPut, BlobRange, Head, Key, ReadPlan
from ..errors import Corrupt
from ..transfer import MARKS

_NAME = "mark"
_PLAN = ReadPlan(blobs=(BlobRange(namespace=MARKS, keys=(_NAME,)),))
DROP_MARK = BlobDrop(MARKS, _NAME)


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """`session` of `tenant` in the store `source`, in that incarnation, is here as it was at `version`, its entries up to `seq`.

    `hides`: which hides of the source are here. `made`: the version of the destination that this mark came with; at another version
    somebody else has written there. `hidden`: entries of a staged session that its source hides (it shows all of them itself).
    """

    source: str
    tenant: str
    session: str
    incarnation: int = 0
    version: int = 0
    seq: int = 0
    hides: int = 0
    made: int = 0
    hidden: tuple[tuple[int, int], ...] = ()

    def names(self, source: str, key: Key) -> bool:
        """Whether this mark is that of a copy of the session `key` out of `source`."""
        return (self.source, self.tenant, self.session) == (source, key.tenant, key.session_id)

    def blob(self, made: int) -> BlobPut:
        """The mark as a commit carries it that makes version `made`."""
        return BlobPut(MARKS, _NAME, "json", msgspec.json.encode(replace(self, made=made)))


class Seen(msgspec.Struct, frozen=True):
    """A session at the destination; `mark` None: not one that a copy made."""

    head: Head
    mark: Mark | None

    @property
    def untouched(self) -> bool:
        """Whether nobody has written to it but the copy."""
        return self.mark is not None and self.mark.made == self.head.version


async def look(backend: Backend, key: Key) -> Seen | None:
    """What is at the destination, None for nothing; `Corrupt` where the mark can't be read."""
    snapshot = await backend.read(key, _PLAN)
    if snapshot is None:
        return None
    try:
        marks = [msgspec.json.decode(it.data or b"", type=Mark) for it in snapshot.blobs or []]
    except msgspec.DecodeError as error:
        raise Corrupt(f"{key}: its mark of a copy is not readable: {error}; delete the session there, and copy again") from error
    return Seen(snapshot.head, marks[0] if marks else None)


def stage_of(key: Key) -> Key:
    """Where a session is staged: under its own id, in a tenant that is nobody's."""
    return Key(stage_tenant(key.tenant), key.session_id)


def stage_tenant(tenant: str) -> str:
    return f"{MARKS}-{blake2b(tenant.encode(), digest_size=12).hexdigest()}"
