"""Paused runs (`RunState`) beside the session's items: saved, looked at, taken by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import Session
from ...backend import BlobDrop, BlobPut, HeadPatch
from ...errors import Conflict, Corrupt, InvalidValue, UsageError
from ...ids import new_id

if TYPE_CHECKING:
    from agents import RunState

NAMESPACE = "openai-agents"
PAUSED = "paused/"
TAKEN = "taken/"
_TYPE = "application/json"
_EVERYTHING = BlobDrop(NAMESPACE)


class Paused(NamedTuple):
    """A saved state: the name this one saving of it has, and what `RunState.from_json` reads."""

    name: str
    state: dict[str, Any]


def dumped(state: RunState[Any, Any]) -> bytes:
    """The state as it is stored; `InvalidValue` where its context isn't JSON."""
    try:
        return json.dumps(state.to_json(), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"the run's state is not JSON, nothing was saved: {error}") from error


async def save(handle: Session, data: bytes, *, waiting: bool) -> None:
    """Store the state in the place of any other; the session is listed as waiting while approvals are open."""
    put = BlobPut(NAMESPACE, PAUSED + new_id(), _TYPE, data)
    await handle.write(drops=(_EVERYTHING,), blobs=(put,), patch=HeadPatch(waiting=waiting))


async def load(handle: Session, prefix: str) -> Paused | None:
    """What is saved under `prefix`."""
    for blob in await handle.blobs(NAMESPACE, prefix=prefix):
        try:
            return Paused(blob.key.removeprefix(prefix), json.loads(blob.data or b""))
        except ValueError as error:
            raise Corrupt(f"blob {NAMESPACE}/{blob.key} of session {handle.id!r} is not readable: {error}") from error
    return None


async def take(handle: Session, paused: Paused) -> bool:
    """Make `paused` the caller's alone, kept as taken; False when it isn't what is saved any more."""
    data = json.dumps(paused.state, separators=(",", ":")).encode()
    put = BlobPut(NAMESPACE, TAKEN + paused.name, _TYPE, data)
    while True:
        saved = await handle.blobs(NAMESPACE, prefix=PAUSED)
        if [blob.key for blob in saved] != [PAUSED + paused.name]:
            return False
        try:
            await handle.write(drops=(_EVERYTHING,), blobs=(put,), patch=HeadPatch(waiting=False), expect=handle.version)
        except Conflict:
            continue
        return True


async def clear(handle: Session) -> None:
    """Remove what is saved and what was taken."""
    await handle.write(drops=(_EVERYTHING,), patch=HeadPatch(waiting=False))


def nothing_waits(session_id: str) -> UsageError:
    return UsageError(f"session {session_id!r} has no paused run to resume: somebody else has taken it, or none was saved")
