"""The rules every backend shares, as pure functions: what a commit does or why it is refused, what a window and a filter let through.

A backend looks for a repetition of the commit (`repeated`), asks `judge`, and then only stores.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from .backend import BlobDrop, BlobPut, BlobRange, Claim, ClaimAct, Commit, Filter, Head, HeadPatch, Key, Window
from .entries import FILES, LARGE, Entry
from .errors import CommitReused, Conflict, Fenced, InvalidValue, SessionBusy, SessionExists, SessionGone, SessionNotFound, TooLarge

COMMITS_KEPT = 1024
"""A commit id is recognised at least this many commits later."""

TOMBSTONES_KEPT = 256
"""A sweep drops a session's tombstones once there are more, and raises the head's floor."""
GRAVE_SECONDS = 7 * 86_400
"""A sweep forgets ended lives after this time: no late creation comes from that long ago."""
HEAD_BYTES = 64 * 1024
"""What a head's names, metadata and service ids may take together, encoded: every read and every list carries them."""

_SIZED = ("name", "agent", "parent", "metadata", "service_ids")
_seq = attrgetter("seq")


# --- commits ---------------------------------------------------------------------------------------------------------


def alive(head: Head | None, now: int) -> Head | None:
    """`head` unless it has expired."""
    return None if head is None or (head.expires is not None and head.expires <= now) else head


def judge(key: Key, head: Head | None, commit: Commit, key_version: Callable[[str], int]) -> Head | None:
    """The head after `commit`, or None when it erases the session. Raises, before anything is written:

    `SessionNotFound` (not there, or not this caller's), `SessionExists`, `SessionGone`, `Fenced`, `SessionBusy`, `Conflict`, `TooLarge`
    (the head).
    `head` is the living head, `key_version(key)` the version of a state key's last change (0: never).
    A repeated commit must have been answered before this is asked.
    """
    found = head
    if head is None:
        head = _created(key, commit)
    elif commit.create is not None and commit.create.exclusive:
        raise SessionExists(f"{key} exists already")
    _check(key, head, commit, key_version)
    if commit.erase is not None and commit.erase.what == "session":
        return None
    return _next_head(key, head, commit, created=found is None)


def may_use(head: Head, user_id: str | None, check_owner: bool) -> bool:
    """Whether this caller may see the session: its owner, anyone while it has none, an admin always."""
    return not check_owner or head.user_id is None or head.user_id == user_id


def changes(commit: Commit) -> bool:
    """Whether `commit` moves the version of a session that is there: claims, heartbeats and mere contact don't, nor does creating it.

    The blobs that a heartbeat carries don't either: what is not to last may be told along with it as often as one likes.
    """
    beats = commit.claim is not None and commit.claim.act == "renew"
    blobs = not beats and (commit.blobs or commit.drops)
    return bool(commit.entries or commit.hide or commit.puts or blobs or commit.patch or commit.erase or commit.counts)


def mere_contact(commit: Commit) -> bool:
    """Whether `commit` does no more than put off expiry: a busy backend need not wait to store that (`Backend.commit`)."""
    return commit.claim is None and commit.answer is None and commit.create is None and not changes(commit)


def digest(commit: Commit) -> bytes:
    """Eight bytes that tell a commit's content from another's: what it writes, not when or by whom it was tried."""
    parts: list[bytes] = []
    if commit.create is not None and commit.create.patch is not None:
        parts += (b"create", msgspec.json.encode(commit.create.patch))
    for entry in commit.entries:
        parts += (b"entry", entry.kind.encode(), (entry.run_id or "").encode(), entry.body)
    for put in commit.puts:
        parts += (b"put", put.key.encode(), b"" if put.value is None else put.value)
    for blob in commit.blobs:
        parts += (b"blob", blob.namespace.encode(), blob.key.encode(), blob.type.encode(), blob.data)
    if commit.hide or commit.drops or commit.patch or commit.erase:
        parts.append(msgspec.json.encode((commit.hide, commit.drops, commit.patch, commit.erase and commit.erase.what)))
    return blake2b(b"\0".join(parts), digest_size=8).digest()


def repeated(key: Key, commit: Commit, seen: bytes) -> None:
    """`CommitReused` unless the digest stored under this commit's id is this commit's own."""
    if seen != digest(commit):
        raise CommitReused(f"{key}: commit id {commit.id!r} was used before with other content; a repetition must be the same commit")


def check_sizes(commit: Commit, limit: int) -> None:
    """`TooLarge` for a body, value or blob of more than `limit` bytes."""
    for entry in commit.entries:
        _check_size(f"{entry.kind} entry {entry.id}", len(entry.body), limit)
    for put in commit.puts:
        _check_size(f"state key {put.key!r}", len(put.value or b""), limit)
    for blob in commit.blobs:
        _check_size(_named(blob, commit), len(blob.data), limit)


def _named(blob: BlobPut, commit: Commit) -> str:
    """The blob as its author knows it."""
    if blob.namespace == FILES:
        return f"file {blob.key!r}"
    if blob.namespace == LARGE:
        held = [it for it in commit.entries if blob.key.encode() in it.body]
        return f"a value of {held[0].kind} entry {held[0].id}" if held else "a value of a message"
    return f"blob {blob.namespace}/{blob.key}"


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        fix = "keep large data elsewhere and store a reference"
        if what.startswith("state key"):
            fix = "keep large data in files of the session (session.put_file), each of at most that, for its state is read every time"
        raise TooLarge(f"{what} has {size:,} bytes: this store takes at most {limit:,}; {fix}")


def _created(key: Key, commit: Commit) -> Head:
    if commit.incarnation is not None:
        raise SessionGone(f"{key} is gone: it was deleted or expired since you last saw it")
    if commit.create is None:
        raise SessionNotFound(f"there is no {key}")
    return Head(commit.create.incarnation, user_id=commit.user_id, created=commit.create.created or commit.time)


def _check(key: Key, head: Head, commit: Commit, key_version: Callable[[str], int]) -> None:
    if not may_use(head, commit.user_id, commit.check_owner):
        raise SessionNotFound(f"there is no {key}")
    if commit.incarnation is not None and commit.incarnation != head.incarnation:
        raise SessionGone(f"{key} was cleared, or deleted and made anew, since you last saw it")
    if commit.fence is not None and (commit.fence != head.fence or (head.claim is None and not _only_releases(commit))):
        raise Fenced(f"{key}: the claim with fence {commit.fence} has ended, the newest is {head.fence}")
    if commit.claim is not None and commit.claim.act == "take":
        _check_take(key, head, commit.claim, commit.id)
    if commit.expect is not None and commit.expect != head.version:
        raise Conflict(commit.expect, head.version)
    for put in commit.puts:
        if put.if_version is not None and (found := key_version(put.key)) != put.if_version:
            raise Conflict(put.if_version, found, key=put.key)


def _only_releases(commit: Commit) -> bool:
    """A release of what is free already: the repetition of a release, and no harm."""
    return commit.claim is not None and commit.claim.act == "release" and not changes(commit)


def _check_take(key: Key, head: Head, take: ClaimAct, commit_id: str) -> None:
    held = head.claim
    if held is not None and held.taken != commit_id and take.seen != (head.fence, held.beat):
        raise SessionBusy(f"{key} is held by another run ({held.holder})", fence=head.fence, beat=held.beat, lease=held.lease)


def _next_head(key: Key, head: Head, commit: Commit, *, created: bool) -> Head:
    if commit.erase is not None:
        head = _cleared(head, commit)
    if created and commit.create is not None and commit.create.patch is not None:
        head = replace(head, **_patched(key, head, commit.create.patch))
    changed: dict[str, Any] = {} if commit.patch is None else _patched(key, head, commit.patch)
    if head.user_id is None and commit.user_id is not None:
        changed["user_id"] = commit.user_id
    if commit.claim is not None:
        changed.update(_claimed(head, commit, commit.claim))
    if created or changes(commit):
        changed["version"] = head.version + 1
        changed["updated"] = commit.time
        changed["seq"] = head.seq + len(commit.entries)
    if commit.hide:
        changed["hides"] = head.hides + 1
    if commit.counts is not None:
        changed["counts"] = head.counts + commit.counts
    _extend(head, changed, commit)
    return replace(head, **changed) if changed else head


def _cleared(head: Head, commit: Commit) -> Head:
    """A new life under the same id. The run that clears its own session goes on in it; anybody else's claim ends."""
    assert commit.erase is not None
    claim = None if commit.fence is None else head.claim
    fresh = Head(commit.erase.incarnation)
    names = ("incarnation", "name", "seq", "hides", "floor", "counts", "waiting", "service_ids")
    return replace(head, claim=claim, **{name: getattr(fresh, name) for name in names})


def _claimed(head: Head, commit: Commit, act: ClaimAct) -> dict[str, Any]:
    held = head.claim
    if act.act == "take":
        if held is not None and held.taken == commit.id:
            return {}
        return {"fence": head.fence + 1, "claim": Claim(act.holder, 0, act.lease, commit.id, commit.time)}
    if act.act == "release" or held is None:
        return {"claim": None}
    return {"claim": replace(held, beat=held.beat + 1, seen=commit.time)}


def _patched(key: Key, head: Head, patch: HeadPatch) -> dict[str, Any]:
    changed = {field: value for field in patch.__struct_fields__ if (value := getattr(patch, field)) is not UNSET}
    for field in ("metadata", "service_ids"):
        if field in changed:
            merged: dict[str, Any] = getattr(head, field) | changed[field]
            changed[field] = {name: value for name, value in merged.items() if value is not None}
    if not changed.keys().isdisjoint(_SIZED):
        _check_head(key, {field: changed.get(field, getattr(head, field)) for field in _SIZED})
    return changed


def _check_head(key: Key, fields: dict[str, Any]) -> None:
    if len(msgspec.json.encode(fields)) > HEAD_BYTES:
        size, field = max((len(msgspec.json.encode(value)), field) for field, value in fields.items())
        raise TooLarge(
            f"{key}: its {field.replace('service_ids', 'service session ids')} would take {size:,} bytes: names, metadata and ids take"
            f" {HEAD_BYTES:,} together at most, for every list carries them; keep large data in the state"
        )


def _extend(head: Head, changed: dict[str, Any], commit: Commit) -> None:
    """Every commit puts off expiry; a claim holds it up for as long as somebody keeps beating."""
    ttl = changed.get("ttl", head.ttl)
    if ttl is None:
        if head.expires is not None:
            changed["expires"] = None
        return
    claim = changed.get("claim", head.claim)
    seconds = ttl if claim is None else max(ttl, 2 * claim.lease)
    expires = commit.time + int(seconds * 1_000_000)
    if ttl == head.ttl and (claim is None) == (head.claim is None):
        expires = max(expires, head.expires or 0)  # a writer whose clock is behind takes no time away
    changed["expires"] = expires


# --- what is read ----------------------------------------------------------------------------------------------------


def select(entries: list[Entry], window: Window) -> list[Entry]:
    """The window's answer from `entries`, which are in order and hold what the window may see."""
    low = bisect_right(entries, window.after, key=_seq)
    high = len(entries) if window.before is None else bisect_left(entries, window.before, key=_seq)
    kinds, run_id, limit = window.kinds, window.run_id, window.limit
    found: list[Entry] = []
    for place in range(high - 1, low - 1, -1) if window.newest else range(low, high):
        if len(found) == limit:
            break
        entry = entries[place]
        if (not kinds or entry.kind in kinds) and (run_id is None or entry.run_id == run_id):
            found.append(entry)
    return found[::-1] if window.newest else found


def asked(it: BlobRange | BlobDrop, namespace: str, key: str) -> bool:
    """Whether a blob is in the range, or is one that is to go."""
    if it.namespace not in (None, namespace):
        return False
    if isinstance(it, BlobDrop):
        return key == it.key if it.key is not None else key.startswith(it.prefix)
    return key in it.keys if it.keys is not None else key.startswith(it.prefix)


def matches(filter: Filter, head: Head) -> bool:
    """Whether `head` meets every condition of `filter` but the tenant."""
    return (
        (filter.user_id is None or head.user_id == filter.user_id)
        and (filter.waiting is None or head.waiting == filter.waiting)
        and (filter.kind is None or head.kind == filter.kind)
        and (filter.parent is None or head.parent == filter.parent)
        and (filter.name is None or filter.name.casefold() in (head.name or "").casefold())
        and (filter.updated_after is None or head.updated > filter.updated_after)
        and (filter.updated_before is None or head.updated < filter.updated_before)
        and _has(head.metadata, filter.metadata)
    )


def numbered(cursor: str | None, most: int) -> int:
    """The number below which a page begins, for backends whose cursors are numbers; `InvalidValue` for another backend's cursor."""
    if cursor is None:
        return most
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidValue(f"cursor {cursor!r:.80} is not one that a list returned")
    return int(cursor)


def _has(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(key in metadata and metadata[key] == value for key, value in wanted.items())
