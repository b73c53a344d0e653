"""Lists: every bucket's newest, merged. And what a sweep removes: a bucket's expired, one by one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...backend import Filter, Head, Key, Page
from ...errors import Corrupt, InvalidValue
from ...ids import now
from ...rules import alive, matches
from .connections import Packed
from .errors import refused
from .layout import BUCKETS, HEAD, LIVES, SLOTS, Layout, key_of, quoted
from .loops import Loop
from .plans import head_of
from .scripts import SWEEP, TIDY

_PAGE_WORK = 1000
"""How many sessions one page of a list looks at before it gives the next cursor."""
_LEAST = 6
"""Rows of each bucket that are asked for at least."""

_log = logging.getLogger("holdfast")


class Row(NamedTuple):
    """A session in a list: by `number`, then `bucket`, the newest first."""

    number: int
    bucket: int
    member: bytes


async def page(loop: Loop, names: Layout, filter: Filter, cursor: str | None, limit: int) -> Page:
    """One page, newest created first; at most `_PAGE_WORK` sessions are looked at."""
    items: list[tuple[str, Head]] = []
    last: Row | None = None
    async with aclosing(_walk(loop, names, _index(filter), _below(cursor), limit + 1)) as rows:
        looked = 0
        async for row, head in rows:
            if last is not None and (len(items) == limit or looked == _PAGE_WORK):
                return Page(items, f"{last.number}.{last.bucket}")
            last, looked = row, looked + 1
            if head is not None and matches(filter, head):
                items.append((key_of(row.member).session_id, head))
    return Page(items, None)


async def _walk(
    loop: Loop, names: Layout, words: bytes, below: tuple[int, int] | None, at_once: int
) -> AsyncGenerator[tuple[Row, Head | None]]:
    """Every row below a place with its living head, the newest first; so many heads are read at once."""
    complete = False
    while not complete:
        rows, complete = await _rows(loop, names, words, below, max(_LEAST, 2 * at_once // BUCKETS))
        for start in range(0, len(rows), at_once):
            for found in await _heads(loop, names, words, rows[start : start + at_once]):
                yield found
        below = rows[-1][:2] if rows else below


def _index(filter: Filter) -> bytes:
    tenant = quoted(filter.tenant)
    if filter.user_id is not None:
        return b"user:" + tenant + b"/" + filter.user_id.encode()
    return (b"waiting:" if filter.waiting else b"all:") + tenant


def _below(cursor: str | None) -> tuple[int, int] | None:
    if cursor is None:
        return None
    number, dot, bucket = cursor.partition(".")
    if not (dot and cursor.isascii() and number.isdecimal() and bucket.isdecimal() and len(cursor) < 24):
        raise InvalidValue(f"cursor {cursor!r:.80} is not one that a list returned")
    return int(number), int(bucket)


async def _rows(loop: Loop, names: Layout, words: bytes, below: tuple[int, int] | None, each: int) -> tuple[list[Row], bool]:
    """The newest rows below a place, without a gap, and whether there are no more: some buckets may have told less than they have."""
    asked = [(SLOTS[bucket], _question(names.index(bucket, words), bucket, below, each)) for bucket in range(BUCKETS)]
    rows: list[Row] = []
    horizon = (-1, -1)
    for bucket, answer in enumerate(_fine(loop, await loop.nodes.send_all(asked))):
        mine = [Row(int(score), bucket, member) for member, score in zip(answer[::2], answer[1::2], strict=True)]
        rows += mine
        if len(mine) == each:
            horizon = max(horizon, mine[-1][:2])
    return sorted((row for row in rows if row[:2] >= horizon), reverse=True), horizon == (-1, -1)


def _question(name: bytes, bucket: int, below: tuple[int, int] | None, each: int) -> Packed:
    top = b"+inf" if below is None else b"%b%d" % (b"" if bucket < below[1] else b"(", below[0])
    return [b"ZRANGE", name, top, b"-inf", b"BYSCORE", b"REV", b"LIMIT", b"0", b"%d" % each, b"WITHSCORES"]


async def _heads(loop: Loop, names: Layout, words: bytes, rows: list[Row]) -> list[tuple[Row, Head | None]]:
    """The living head of each row; None where it is another session's by now, or nobody's, and then the row goes too."""
    keys = [key_of(row.member) for row in rows]
    asked: list[tuple[int, Packed]] = []
    for row, key in zip(rows, keys, strict=True):
        asked.append((SLOTS[row.bucket], [b"HMGET", _key(names, key, HEAD), b"n", b"head"]))
    time, found, stale = now(), list[tuple[Row, Head | None]](), list[tuple[int, Packed]]()
    for row, key, (number, data) in zip(rows, keys, _fine(loop, await loop.nodes.send_all(asked)), strict=True):
        if number is None or int(number) != row.number:
            call = TIDY.call((_key(names, key, HEAD), names.index(row.bucket, words)), (row.member, b"%d" % row.number))
            stale.append((SLOTS[row.bucket], call))
            found.append((row, None))
        else:
            found.append((row, alive(_readable(key, data), time)))
    await loop.nodes.send_all(stale)  # one that doesn't know the script yet leaves the row to the next list
    return found


def _readable(key: Key, data: bytes) -> Head | None:
    """The head, or None and a warning in the log: one session's damage is not the others'. Whoever names the session gets `Corrupt`."""
    try:
        return head_of(key, data)
    except Corrupt as error:
        _log.warning("left out: tenant=%r session=%r: %s", key.tenant, key.session_id, error)
        return None


def _key(names: Layout, key: Key, which: int) -> bytes:
    return names.place(key).keys[which - 1]


def _fine(loop: Loop, answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise refused(loop.nodes.where, answer)
    return answers


# --- sweeping --------------------------------------------------------------------------------------------------------


async def sweep(loop: Loop, names: Layout, limit: int) -> int:
    """Remove up to `limit` sessions whose time is over; how many. What they held, the database forgets by itself: their rows are left."""
    time, gone = now(), 0
    for bucket in range(BUCKETS):
        while gone < limit and (step := await _sweep_bucket(loop, names, bucket, time, min(limit - gone, 100))):
            gone += step[0]
            if step[1]:
                break
    return gone


async def _sweep_bucket(loop: Loop, names: Layout, bucket: int, time: int, limit: int) -> tuple[int, bool] | None:
    """(how many went, whether that was all); None where there were none."""
    expiring = names.expiring(bucket)
    command = [b"ZRANGE", expiring, b"-inf", b"%d" % time, b"BYSCORE", b"LIMIT", b"0", b"%d" % limit, b"WITHSCORES"]
    (rows,) = _fine(loop, await loop.nodes.send(SLOTS[bucket], [command], writing=False))
    if not rows:
        return None
    gone = 0
    for member, score in zip(rows[::2], rows[1::2], strict=True):
        gone += await _remove(loop, names, expiring, member, score)
    return gone, len(rows) < 2 * limit


async def _remove(loop: Loop, names: Layout, expiring: bytes, member: bytes, score: bytes) -> int:
    place = names.place(key_of(member))
    (user,) = _fine(loop, await loop.nodes.send(place.slot, [[b"HGET", place.keys[LIVES - 1], b"user"]], writing=False))
    keys = [*place.keys, expiring, names.everyone(place), names.waiting(place)]
    if user:
        keys.append(names.of_user(place, user.decode()))
    (gone,) = await SWEEP.run(loop.nodes, place.slot, keys, (member, score), writing=True)
    return int(gone)
