"""Pass by pass over a tenant, until the source has nothing that the destination lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import msgspec

from ..backend import Backend, Filter, Head
from .marks import stage_tenant
from .moving import Item, Pair, Result, apply, is_staged, prepare, remove, unmark
from .reading import page_of
from .staging import Stage

Tell = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how many sessions of it are done, of how many."""

AT_ONCE = 8
"""Sessions that are read at the same time. They are written one after another, for a list is in the order of creation."""
_LISTED = 200


class Difference(msgspec.Struct, frozen=True):
    """A session that was not copied, or is not the same on both sides, and why."""

    session_id: str
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy did: sessions of the source in the end, copies made, brought up to date and taken away, each counted once.

    `moving`: sessions that were written to at the source after the last pass had read them. `refused`: those that can't be copied.
    """

    sessions: int
    passes: int
    made: int
    brought: int
    gone: int
    moving: list[str]
    refused: list[Difference]


def untold(what: str, done: int, total: int) -> None:
    """The `Tell` that tells nobody."""


async def copy(pair: Pair, *, passes: int = 10, tell: Tell = untold) -> Report:
    """Bring everything to the destination, in passes until nothing has changed since the last one, at most so many.

    Sessions that can't be copied are reported and the rest goes on; an error of either store ends the copy, and starting it again
    resumes it.
    """
    items, number = await items_of(pair), 0
    moving, last = {it.session_id for it in items}, dict[str, Result]()
    fates: dict[str, set[str]] = {"made": set(), "brought": set(), "gone": set()}
    while number == 0 or (moving and number < passes):
        number += 1
        results = await _pass(pair, items, moving, f"pass {number}", tell)
        there = {it.session_id for it in items}
        last = {name: it for name, it in last.items() if name in there} | {it.session_id: it for it in results}
        for it in results:
            fates.get(it.fate, set[str]()).add(it.session_id)
        items = await items_of(pair)
        moving = _behind(items, last)
    await _clean(pair, moving)
    fates["brought"] -= fates["made"]
    refused = [Difference(it.session_id, it.why) for it in last.values() if it.fate == "refused"]
    counts = {fate: len(names) for fate, names in fates.items()}
    return Report(sessions=len(items), passes=number, **counts, moving=sorted(moving), refused=refused)


async def finish(pair: Pair, *, tell: Tell = untold) -> int:
    """Take the marks out of the copies: how many there were. From then on they are strangers to a copy."""
    names = [session_id async for session_id, _ in listed(pair.target, pair.tenant)]
    count = 0
    for done, session_id in enumerate(names, 1):
        count += await unmark(pair, session_id)
        tell("finishing", done, len(names))
    await _clean(pair, set())
    return count


async def items_of(pair: Pair) -> list[Item]:
    """The sessions of the source, the oldest first."""
    heads = listed(pair.source, pair.tenant)
    return [Item(name, it.incarnation, it.version, it.expires, page_of(it)) async for name, it in heads][::-1]


async def listed(backend: Backend, tenant: str) -> AsyncGenerator[tuple[str, Head]]:
    """Every session of the tenant, the newest first."""
    cursor: str | None = None
    while True:
        page = await backend.list(Filter(tenant=tenant), cursor, _LISTED)
        for item in page.items:
            yield item
        if (cursor := page.cursor) is None:
            return


def _behind(items: list[Item], last: dict[str, Result]) -> set[str]:
    """The sessions whose copies, as the last results left them, are not what is listed; and those of which only the copy is left."""
    there = {it.session_id: (it.incarnation, it.version) for it in items}
    behind = {name for name, at in there.items() if name not in last or (last[name].fate != "refused" and last[name].at != at)}
    return behind | {name for name, it in last.items() if name not in there and it.at is not None}


async def _pass(pair: Pair, items: list[Item], moving: set[str], what: str, tell: Tell) -> list[Result]:
    results, todo = list[Result](), [it for it in items if it.session_id in moving]
    tell(what, 0, len(todo))
    for at in range(0, len(todo), AT_ONCE):
        some = todo[at : at + AT_ONCE]
        prepared = await asyncio.gather(*(prepare(pair, item) for item in some))
        for item, ready in zip(some, prepared, strict=True):
            results.append(await apply(pair, item, ready))
            tell(what, len(results), len(todo))
    return results + await _removed(pair, {it.session_id for it in items})


async def _removed(pair: Pair, there: set[str]) -> list[Result]:
    left = [session_id async for session_id, _ in listed(pair.target, pair.tenant) if session_id not in there]
    return [it for session_id in left if (it := await remove(pair, session_id)) is not None]


async def _clean(pair: Pair, moving: set[str]) -> None:
    """Remove what copies out of this source have staged and nobody will go on with."""
    staged = [session_id async for session_id, _ in listed(pair.target, stage_tenant(pair.tenant)) if session_id not in moving]
    for session_id in staged:
        if await is_staged(pair, session_id):
            await Stage(pair.source, pair.target, pair.key(session_id), 1).drop()
