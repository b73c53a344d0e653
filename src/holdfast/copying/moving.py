"""One session on its way: what is at the destination, what it lacks, and the one commit that brings it.

What fits a page is one commit, which creates the copy or brings it up to date: whole or not at all. What doesn't is staged first
(`staging`) and then becomes the copy in one step, by the backend's own `copy`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from ..backend import Backend, Erase, Head, Key, Outcome, ReadPlan
from ..errors import Conflict, Corrupt, Fenced, SessionBusy, SessionExists, SessionGone, SessionNotFound, StoreUnavailable, TooLarge
from ..ids import now
from ..rules import mere_contact
from .commits import carried, commit, creating, lacking, mark_after, settling
from .marks import DROP_MARK, Mark, Seen, look, stage_of
from .reading import Change, Gone, Moved, TooMuch, change
from .staging import Stage

WRITTEN_TO = "written to at the destination since it was copied: left as it is"
_ROUNDS = 8
"""How often a session that changes under our eyes is tried in one pass."""
_OVERTAKEN = (Moved, Conflict, SessionExists, SessionGone, SessionNotFound, SessionBusy, Fenced)


class Pair(msgspec.Struct, frozen=True):
    """From where to where: `name` is what the copies remember their source by."""

    source: Backend
    target: Backend
    tenant: str
    name: str

    def key(self, session_id: str) -> Key:
        return Key(self.tenant, session_id)

    def ours(self, key: Key, seen: Seen) -> bool:
        return seen.mark is not None and seen.mark.names(self.name, key)


class Item(NamedTuple):
    """A session of the source, as a list showed it; so many of its entries make a `page`."""

    session_id: str
    incarnation: int
    version: int
    expires: int | None
    page: int


Fate = Literal["same", "made", "brought", "gone", "moving", "refused"]


class Result(NamedTuple):
    """What became of one session: the copy is the source as it was `at` an incarnation and version; `why` it was refused."""

    session_id: str
    fate: Fate
    at: tuple[int, int] | None = None
    why: str = ""


class Ready(NamedTuple):
    """What there is to do: `found` is what `base` lacks (None: more than a page), `seen` what is at the destination now."""

    seen: Seen | None
    base: Mark
    found: Change | None


class Refused(Exception):
    """This session can't be copied; the message is for people."""


async def prepare(pair: Pair, item: Item) -> Result | Ready | None:
    """Find out what there is to do, if anything; None where the source was written to meanwhile. Writes nothing but an expiry."""
    key = pair.key(item.session_id)
    try:
        seen = await look(pair.target, key)
        if seen is not None and _checked(pair, key, seen, item):
            await _settle(pair, key, item.expires, seen.head)
            return Result(item.session_id, "same", (item.incarnation, item.version))
        return await _lacking(pair, key, seen, item)
    except (Refused, Corrupt) as error:
        return Result(item.session_id, "refused", why=str(error))
    except Gone:  # `remove` sees to that
        return Result(item.session_id, "same")
    except _OVERTAKEN:
        return None


async def apply(pair: Pair, item: Item, ready: Result | Ready | None) -> Result:
    """Do what was prepared; where somebody was quicker, prepare it anew, a few times."""
    for _ in range(_ROUNDS):
        if isinstance(ready, Result):
            return ready
        try:
            if ready is not None:
                return await _applied(pair, item, ready)
        except (Corrupt, TooLarge) as error:
            return Result(item.session_id, "refused", why=str(error))
        except _OVERTAKEN:
            pass
        ready = await prepare(pair, item)
    return ready if isinstance(ready, Result) else Result(item.session_id, "moving")


async def remove(pair: Pair, session_id: str) -> Result | None:
    """Take away the copy of a session that is gone at the source; None where there is nothing of ours to take."""
    key = pair.key(session_id)
    seen = await look(pair.target, key)
    if seen is None or not pair.ours(key, seen) or await pair.source.read(key, ReadPlan()) is not None:
        return None
    if not seen.untouched:
        return Result(session_id, "refused", why="gone at the source, but written to at the destination: left as it is")
    try:
        await _erase(pair, key, seen.head)
    except _OVERTAKEN:
        return Result(session_id, "moving")
    return Result(session_id, "gone")


async def is_ours(pair: Pair, session_id: str) -> bool:
    """Whether what the destination has under this id is a copy out of our source."""
    key = pair.key(session_id)
    seen = await look(pair.target, key)
    return seen is not None and pair.ours(key, seen)


async def is_staged(pair: Pair, session_id: str) -> bool:
    """Whether what is staged under this id comes out of our source."""
    key = pair.key(session_id)
    seen = await look(pair.target, stage_of(key))
    return seen is not None and pair.ours(key, seen)


async def unmark(pair: Pair, session_id: str) -> bool:
    """Take out the mark of this copy: whether there was one. Nothing else changes, nor do the times."""
    key = pair.key(session_id)
    seen = await look(pair.target, key)
    if seen is None or not pair.ours(key, seen):
        return False
    await pair.target.commit(key, commit(seen.head.updated, incarnation=seen.head.incarnation, drops=(DROP_MARK,)))
    return True


# --- what there is to do ---------------------------------------------------------------------------------------------


def _checked(pair: Pair, key: Key, seen: Seen, item: Item) -> bool:
    """Whether what is there is the copy of just this version; `Refused` where it isn't ours."""
    if seen.mark is None:
        raise Refused("there already, and not made by a copy: left as it is")
    if not pair.ours(key, seen):
        raise Refused(f"there already, as a copy from {seen.mark.source}: left as it is")
    if not seen.untouched:
        raise Refused(WRITTEN_TO)
    return (seen.mark.incarnation, seen.mark.version) == (item.incarnation, item.version)


async def _lacking(pair: Pair, key: Key, seen: Seen | None, item: Item) -> Ready:
    base, place = _empty(pair, key), None
    if seen is not None and seen.mark is not None and seen.mark.incarnation == item.incarnation:
        base, place = seen.mark, key
    try:
        return Ready(seen, base, await change(pair.source, key, pair.target, place, base, item.page))
    except TooMuch:
        return Ready(seen, _empty(pair, key), None)


def _empty(pair: Pair, key: Key) -> Mark:
    return Mark(pair.name, key.tenant, key.session_id)


# --- doing it --------------------------------------------------------------------------------------------------------


async def _applied(pair: Pair, item: Item, ready: Ready) -> Result:
    key, seen, found = pair.key(item.session_id), ready.seen, ready.found
    if found is None:
        found = await _publish(pair, key, ready, item.page)
    elif seen is not None and ready.base.incarnation:
        await _bring(pair, key, seen.head, found, ready.base)
    else:
        if seen is not None:
            await _erase(pair, key, seen.head)  # the copy of an earlier life
        parts = carried(found, mark_after(ready.base, found.head), None, 1)
        await _commit(pair, key, found.head, **parts, create=creating(found.head))
    return Result(item.session_id, "made" if seen is None else "brought", (found.head.incarnation, found.head.version))


async def _bring(pair: Pair, key: Key, there: Head, found: Change, base: Mark) -> None:
    parts = carried(found, mark_after(base, found.head), there, there.version + 1)
    await _commit(pair, key, found.head, **parts, incarnation=there.incarnation, expect=there.version)


async def _publish(pair: Pair, key: Key, ready: Ready, page: int) -> Change:
    """Stage what is more than a page, and make it the copy.

    Its mark is one version behind at first: a fork counts its runs for itself, and the commit that follows sets that right. Where we are
    killed before it, whoever goes on finds the copy behind, and makes it.
    """
    stage = Stage(pair.source, pair.target, key, page)
    base, stored = await stage.fill(ready.base)
    if stored is None:
        raise Moved  # what was too much has gone meanwhile
    try:
        found = await change(pair.source, key, pair.target, stage.place, base, page)
    except TooMuch:
        raise Moved from None  # and more than a page has come meanwhile
    if ready.seen is not None:
        await _erase(pair, key, ready.seen.head)
    head, mark = found.head, mark_after(base, found.head)
    parts = carried(found, replace(mark, version=head.version - 1), None, 1)
    making = commit(head.updated, **parts | {"counts": lacking(head.counts, stored.counts)}, create=creating(head))
    outcome = await pair.target.copy(stage.place, None, key, making)
    there = await _settled(pair, key, head, outcome)
    await _bring(pair, key, there, Change(head, [], (), (), (), ()), mark)
    await stage.drop()
    return found


async def _commit(pair: Pair, key: Key, head: Head, **parts: object) -> None:
    """Commit as if at the time of the source's own update."""
    await _settled(pair, key, head, await pair.target.commit(key, commit(head.updated, **parts)))


async def _settled(pair: Pair, key: Key, head: Head, outcome: Outcome) -> Head:
    if outcome.head is None:
        raise Moved
    return await _settle(pair, key, head.expires, outcome.head)


async def _settle(pair: Pair, key: Key, expires: int | None, there: Head) -> Head:
    """Let the copy expire when its source does."""
    asked = settling(expires, there)
    if asked is None:
        return there
    try:
        return (await pair.target.commit(key, asked)).head or there
    except StoreUnavailable:
        if not mere_contact(asked):
            raise
        return there  # mere contact waits for nobody: the next pass tries again


async def _erase(pair: Pair, key: Key, there: Head) -> None:
    await pair.target.commit(key, commit(now(), incarnation=there.incarnation, expect=there.version, erase=Erase("session")))
