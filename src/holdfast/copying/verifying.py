"""Both sides read whole and compared, session by session, by digests of every part."""

from __future__ import annotations

import asyncio

import msgspec

from ..errors import Corrupt
from .digests import Digest, Part, digest
from .marks import look
from .moving import WRITTEN_TO, Pair, is_ours
from .passes import AT_ONCE, Difference, Tell, items_of, listed, untold
from .reading import Gone, Moved


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found: how many sessions are the same, which differ, and which were written to at the source meanwhile."""

    same: int
    different: list[Difference]
    moving: list[str]


async def verify(pair: Pair, *, tell: Tell = untold) -> Verified:
    """Compare every session of the source with the destination's, and look for copies whose source is gone."""
    names = [item.session_id for item in await items_of(pair)]
    found: dict[str, str | None] = {}
    tell("verifying", 0, len(names))
    for at in range(0, len(names), AT_ONCE):
        some = names[at : at + AT_ONCE]
        found |= zip(some, await asyncio.gather(*(_compared(pair, name) for name in some)), strict=True)
        tell("verifying", len(found), len(names))
    found |= await _left(pair, set(names))
    return Verified(
        same=sum(why == "" for why in found.values()),
        different=[Difference(name, why) for name, why in found.items() if why],
        moving=[name for name, why in found.items() if why is None],
    )


async def _compared(pair: Pair, session_id: str) -> str | None:
    """What differs, in words, "" for nothing; None where the source is ahead of its copy or is written to just now."""
    key = pair.key(session_id)
    try:
        seen = await look(pair.target, key)
        head, theirs = await digest(pair.source, key)
        if seen is None:
            return "not at the destination"
        ours = (await digest(pair.target, key))[1]
    except (Gone, Moved):
        return None
    except Corrupt as error:
        return str(error)
    if seen.mark is not None and pair.ours(key, seen) and (seen.mark.incarnation, seen.mark.version) != (head.incarnation, head.version):
        return None if seen.untouched else WRITTEN_TO
    return "; ".join(_differences(theirs, ours))


def _differences(theirs: Digest, ours: Digest) -> list[str]:
    heads = [name for name, value in theirs.head.items() if ours.head[name] != value]
    parts = [f"head: {', '.join(heads)}"] if heads else []
    for name in ("state", "entries", "blobs"):
        here: Part = getattr(theirs, name)
        there: Part = getattr(ours, name)
        if here != there:
            parts.append(f"{name}: {_told(here)} at the source, {_told(there)} at the destination{_alike(here, there)}")
    return parts


def _told(part: Part) -> str:
    return f"{part.count:,}" + (f" ({part.hidden:,} hidden)" if part.hidden else "")


def _alike(here: Part, there: Part) -> str:
    return ", with other content" if (here.count, here.hidden) == (there.count, there.hidden) else ""


async def _left(pair: Pair, there: set[str]) -> dict[str, str | None]:
    """The copies of sessions that the source has no more."""
    left = [session_id async for session_id, _ in listed(pair.target, pair.tenant) if session_id not in there]
    return {session_id: "gone at the source" for session_id in left if await is_ours(pair, session_id)}
