"""What a commit to a copy carries, as pure functions: the change, the mark that tells of it, the source's times."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from ..backend import ClaimAct, Commit, Counts, Create, Head, HeadPatch, NewEntry
from ..entries import MESSAGE, Entry
from ..ids import new_id, new_incarnation
from .marks import Mark
from .reading import Change

HOLDER = "copy"
"""Who holds a copy's claim between the two commits that some expiries take."""

_PATCHED = ("kind", "agent", "name", "parent", "waiting", "ttl")
_MERGED = ("metadata", "service_ids")
KEPT = (*_PATCHED, *_MERGED, "origin", "user_id", "created", "updated", "counts", "seq")
"""The fields of a head that a copy has as its source has them."""


def commit(time: int, **parts: Any) -> Commit:
    return Commit(id=new_id(), time=time, check_owner=False, **parts)


def creating(head: Head) -> Create:
    """A new session, as old as the source."""
    return Create(new_incarnation(), exclusive=True, created=head.created)


def mark_after(base: Mark, head: Head) -> Mark:
    """The mark of a copy that is the source as it was at `head`."""
    return replace(base, incarnation=head.incarnation, version=head.version, seq=head.seq, hides=head.hides, hidden=())


def carried(found: Change, mark: Mark, there: Head | None, made: int) -> dict[str, Any]:
    """What a commit needs to bring `found` to a copy whose head is `there`, and which is at version `made` after it."""
    head = found.head
    return {
        "user_id": head.user_id,
        "entries": new_entries(found.entries),
        "hide": found.hide,
        "puts": found.puts,
        "blobs": (*found.blobs, mark.blob(made)),
        "drops": found.drops,
        "patch": _patch(head, there),
        "counts": lacking(head.counts, there.counts if there else Counts()),
        "claim": _held(head, there),
    }


def new_entries(entries: list[Entry]) -> tuple[NewEntry, ...]:
    return tuple(NewEntry(it.id, it.kind, it.body, it.run_id, it.agent, it.time) for it in entries)


def counted(entries: list[Entry]) -> Counts:
    """What a fork counts of these entries, but for the runs."""
    return Counts(messages=sum(it.kind == MESSAGE for it in entries), bytes=sum(len(it.body) for it in entries))


def _patch(wanted: Head, there: Head | None) -> HeadPatch:
    fields: dict[str, Any] = {name: getattr(wanted, name) for name in _PATCHED}
    for name in _MERGED:
        fields[name] = dict.fromkeys(getattr(there, name) if there else ()) | getattr(wanted, name)
    return HeadPatch(**fields, origin=UNSET if wanted.origin is None else wanted.origin)


def lacking(wanted: Counts, there: Counts) -> Counts:
    """What is to be added to `there`."""
    return Counts(**{name: getattr(wanted, name) - getattr(there, name) for name in Counts.__struct_fields__})


# --- expiry: a commit sets it from its own time, which is the source's time of update ---------------------------------


def _held(head: Head, there: Head | None) -> ClaimAct | None:
    """A claim that keeps a copy alive which would expire before its source, or later: its release says when, to the microsecond."""
    if head.ttl is None or head.expires is None or head.expires == head.updated + _micros(head.ttl):
        return None
    old = there.claim if there else None
    seen = (there.fence, old.beat) if there and old and old.holder == HOLDER else None
    return ClaimAct("take", HOLDER, max(0.0, (head.expires - head.updated) / 2_000_000) + 1, seen)


def settling(expires: int | None, there: Head) -> Commit | None:
    """The commit that makes the copy expire when its source does; None where it does, or where a run of its own holds it."""
    ours = there.claim is not None and there.claim.holder == HOLDER
    time = there.updated if there.ttl is None or expires is None else expires - _micros(there.ttl)
    if ours:
        return commit(time, incarnation=there.incarnation, base=there.version, fence=there.fence, claim=ClaimAct("release"))
    late = there.claim is None and there.ttl is not None and (there.expires or 0) < (expires or 0)
    return commit(time, incarnation=there.incarnation, base=there.version) if late else None


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
