"""What a SQLite store forgets, in steps of a few milliseconds: between two of them other writers have their turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from ...backend import Head, Key
from ...ids import now
from ...rules import GRAVE_SECONDS, TOMBSTONES_KEPT
from .connections import Connection
from .log import SQL, encode_head, readable_head, remove, span

LONG_AGO = 1
"""When a session that is being removed has expired, by any clock."""
_ROWS = 500
"""Entries that one step removes, or graves."""
_BLOBS = 8

Run = Callable[[Callable[[Connection], Any]], Awaitable[Any]]


async def sweep(write: Run, look: Run, limit: int) -> int:
    """Remove up to `limit` expired sessions, then tombstones and graves nobody needs. Each call of `write` is a transaction of its own."""
    gone, at = 0, (0, 0)
    while gone < limit and (step := await write(lambda connection, left=limit - gone, at=at: _expired(connection, left, at))):
        gone, at = gone + step[0], step[1]
    for n in await look(lambda connection: _with_tombstones(connection, limit)):
        await write(lambda connection, n=n: _drop_tombstones(connection, n))
    while await write(_forget_graves) == _ROWS:
        pass
    return gone


def _expired(connection: Connection, limit: int, at: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
    """Remove expired sessions after `at`, or a part of a long one: (how many are gone, where to go on); None when there are no more."""
    gone, rows = 0, 0
    while gone < limit and rows < _ROWS:
        row = connection.execute(SQL["expired"], (now(), *at)).fetchone()
        if row is None:
            return (gone, at) if gone else None
        n, expires, tenant, session_id, data = row
        key, at = Key(tenant, session_id), (expires, n)
        if (head := readable_head(key, data)) is None:
            continue
        removed, more = _thin(connection, n)
        rows += removed + 10
        if more:
            _write_head(connection, n, replace(head, expires=LONG_AGO))
            return gone, (0, 0)
        remove(connection, key, n, head)
        gone += 1
    return gone, at


def _thin(connection: Connection, n: int) -> tuple[int, bool]:
    """Remove the newest entries and some blobs: (how many, whether there may be more)."""
    removed, more = 0, False
    for name, binding, most in (
        ("thin_entries", (*span(n), _ROWS), _ROWS),
        ("thin_hidden", (*span(n), _ROWS), _ROWS),
        ("thin_blobs", (n, _BLOBS), _BLOBS),
    ):
        connection.execute(SQL[name], binding)
        removed, more = removed + connection.changes(), more or connection.changes() == most
    return removed, more


def _with_tombstones(connection: Connection, limit: int) -> list[int]:
    return [n for n, _ in connection.execute(SQL["count_tombstones"], (TOMBSTONES_KEPT, limit))]


def _drop_tombstones(connection: Connection, n: int) -> None:
    """All of them, and say so in the head: who last saw the state before the newest one reads it whole."""
    row = connection.execute(SQL["head"], (n,)).fetchone()
    head = row and readable_head(Key(row[0], row[1]), row[2])
    (floor,) = connection.execute(SQL["newest_tombstone"], (n,)).fetchone()
    if head and floor:
        connection.execute(SQL["drop_tombstones"], (n,))
        _write_head(connection, n, replace(head, floor=floor))


def _forget_graves(connection: Connection) -> int:
    connection.execute(SQL["forget_graves"], (now() - GRAVE_SECONDS * 1_000_000, _ROWS))
    return connection.changes()


def _write_head(connection: Connection, n: int, head: Head) -> None:
    connection.execute(SQL["set_head_and_indexes"], (n, encode_head(head), head.user_id, head.waiting, head.expires))
