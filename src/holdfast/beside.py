"""Sessions beside a session: those of members who work for its runs. They have its owner, are noted in its state, and go with its life."""

from __future__ import annotations

from .backend import Erase, Head, Key, ReadPlan
from .errors import SessionGone, SessionNotFound
from .info import Link

NOTED = "\x1fmembers:"
"""Before the name of a member, in the state of the session that its own is beside."""


def id_beside(session_id: str, name: str) -> str:
    """What the session of the member with this name is called."""
    return f"{session_id}/{name}"


async def those_beside(link: Link, key: Key, seen: Head | None = None) -> list[Key]:
    """Where the sessions are that this one has noted, in the life it was `seen` in."""
    found = await link.backend.read(key, ReadPlan(state_since=0))
    if found is None or (seen is not None and seen.incarnation != found.head.incarnation):
        return []
    noted = found.state or {}
    names = [name.removeprefix(NOTED) for name, row in noted.items() if name.startswith(NOTED) and row.value is not None]
    return [Key(key.tenant, id_beside(key.session_id, name)) for name in names]


async def erase(link: Link, key: Key, user_id: str | None) -> bool:
    """Remove a session and those beside it, and those beside them; False where there is none for this caller.

    Also where none is seen: its first commit may be under way.
    """
    others = await those_beside(link, key)
    try:
        await link.backend.commit(key, link.commit(user_id, erase=Erase("session")))
    except (SessionNotFound, SessionGone):
        return False
    for it in others:
        await erase(link, it, user_id)
    return True
