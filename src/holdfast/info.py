"""How a session looks from outside, and what ties its handles to a store."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from .backend import Backend, Commit, Counts, Create, Head, HeadPatch, Key, Origin
from .errors import InvalidValue, SessionGone, SessionNotFound, StoreError
from .ids import from_micros, new_id, new_incarnation, now


class Link(msgspec.Struct, frozen=True):
    """What ties handles to an open store."""

    backend: Backend
    tenant: str
    as_admin: bool
    ttl: float | None
    state_history: bool = False

    def commit(self, user_id: str | None, **parts: Any) -> Commit:
        """A commit of this caller, made now: `parts` as in `Commit`."""
        return Commit(id=new_id(), time=now(), user_id=user_id, check_owner=not self.as_admin, **parts)

    def create(self, patch: HeadPatch | None = None) -> Create:
        """Creates a session where it isn't: it begins with `patch`, and with this store's time to live."""
        given = patch or HeadPatch()
        if self.ttl is not None and given.ttl is UNSET:
            given = msgspec.structs.replace(given, ttl=self.ttl)
        return Create(new_incarnation(), patch=None if given == HeadPatch() else checked(given))


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows of a session. Times are aware UTC datetimes; `counts` are running totals; `waiting`: a human has to decide."""

    id: str
    user_id: str | None
    kind: str
    agent: str | None
    name: str | None
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    counts: Counts
    waiting: bool
    running: bool
    origin: Origin | None
    parent: str | None


def info_of(session_id: str, head: Head) -> SessionInfo:
    """The public view of a head."""
    return SessionInfo(
        id=session_id,
        user_id=head.user_id,
        kind=head.kind,
        agent=head.agent,
        name=head.name,
        metadata=copied(head.metadata),
        version=head.version,
        created_at=from_micros(head.created),
        updated_at=from_micros(head.updated),
        expires_at=None if head.expires is None else from_micros(head.expires),
        counts=head.counts,
        waiting=head.waiting,
        running=head.claim is not None and head.claim.seems_alive(now()),
        origin=head.origin,
        parent=head.parent,
    )


def copied(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a head, for whoever may change it: a head is shared."""
    return msgspec.json.decode(msgspec.json.encode(metadata)) if metadata else {}


def checked(patch: HeadPatch) -> HeadPatch:
    """`patch` as it will be read back; `InvalidValue` names what no head can hold."""
    try:
        stored = msgspec.json.decode(msgspec.json.encode(patch), type=HeadPatch)
    except (TypeError, ValueError, RecursionError) as error:
        stored, why = None, str(error)
    else:
        why = "it would come back as something else"
    if stored is not None and stored == patch:
        return stored
    given = [name.replace("service_ids", "service_session_id") for name in patch.__struct_fields__ if getattr(patch, name) is not UNSET]
    raise InvalidValue(f"{', '.join(given)}: only plain JSON of the right type can be stored here: {why}")


def check_ttl(seconds: float | None) -> float | None:
    """`seconds` itself when it is a time to live; `InvalidValue` otherwise."""
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < 1e11):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"ttl {seconds!r} must be a positive number of seconds, or None to keep sessions")
    return seconds


async def touch(link: Link, key: Key, head: Head, user_id: str | None) -> None:
    """A read puts off expiry too, at most every tenth of the time to live. No read waits for that or fails by it."""
    if head.ttl is None or head.expires is None or head.claim is not None:
        return
    if head.expires - now() < 0.9 * head.ttl * 1_000_000:
        with suppress(SessionGone, SessionNotFound, StoreError):  # whoever reads next tries again
            await link.backend.commit(key, link.commit(user_id, incarnation=head.incarnation, base=head.version))
