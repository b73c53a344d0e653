"""What a SQLite store does inside a transaction: reading a plan, applying a commit, listing, copying, sweeping.

Everything here is plain functions over a connection; who calls them, on which thread and in which transaction, is not their concern.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from ...backend import (
    Blob,
    BlobRange,
    Commit,
    Counts,
    Filter,
    Head,
    Key,
    Outcome,
    Page,
    ReadPlan,
    Snapshot,
    StateRow,
    Window,
)
from ...entries import Entry
from ...errors import Corrupt, SessionGone, SessionNotFound
from ...ids import now
from ...rules import COMMITS_KEPT, alive, digest, judge, matches, numbered, repeated
from .._sql import load, named
from .connections import Connection

SQL = named(load(__name__, "queries.sql"))
MAX_SEQ = (1 << 32) - 1
_LAST_KEY = "\U0010ffff"
_COLUMNS = "id, entry_id, kind, body, run_id, agent, time, version"
_PAGE_WORK = 1000

_log = logging.getLogger("holdfast")
encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(Head).decode


def span(n: int, after: int = 0, before: int | None = None) -> tuple[int, int]:
    """The rowids of session `n`'s entries with after < seq < before, both ends included."""
    return n << 32 | max(after, 0) + 1, n << 32 | (MAX_SEQ if before is None else min(before - 1, MAX_SEQ))


def find(connection: Connection, key: Key) -> tuple[int, Head] | None:
    """The session's number and head, expired or not."""
    row = connection.execute(SQL["session"], key).fetchone()
    return row and (row[0], _head(key, row[1]))


def _head(key: Key, data: bytes) -> Head:
    try:
        return _decode_head(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the head of {key} is not readable: {error}; restore a backup, or delete its row") from error


def readable_head(key: Key, data: bytes) -> Head | None:
    """The head, or None and a warning in the log: one session's damage is not the others'. Whoever names the session gets `Corrupt`."""
    try:
        return _head(key, data)
    except Corrupt as error:
        _log.warning("left out: tenant=%r session=%r: %s", key.tenant, key.session_id, error)
        return None


# --- reading ---------------------------------------------------------------------------------------------------------


class Heavy(Exception):
    """A read in place met more bytes than it may."""


def read(connection: Connection, key: Key, plan: ReadPlan, most: int | None = None) -> Snapshot | None:
    """The plan's answer from one moment: while the cursor of the head stands on its row, SQLite keeps showing that moment.

    `Heavy` where it has more than about `most` bytes.
    """
    cursor = connection.execute(SQL["session"], key)
    try:
        row = cursor.fetchone()
        return row and snapshot(connection, (row[0], _head(key, row[1])), plan, most)
    finally:
        cursor.close(True)


def snapshot(connection: Connection, found: tuple[int, Head] | None, plan: ReadPlan, most: int | None = None) -> Snapshot | None:
    """As `read`, inside whatever transaction is open."""
    if found is None or not alive(found[1], now()):
        return None
    n, head = found
    whole = plan.state_since is not None and plan.state_since <= head.floor
    return Snapshot(
        head,
        None if plan.state_since is None else _state(connection, n, head, plan.state_since, whole, most),
        whole,
        None if plan.entries is None else _entries(connection, n, head, plan.entries, most),
        [blob for it in plan.blobs for blob in _blobs(connection, n, it)] if plan.blobs else None,
    )


def _state(connection: Connection, n: int, head: Head, since: int, whole: bool, most: int | None) -> dict[str, StateRow]:
    if whole:
        rows = connection.execute(SQL["state"], (n,))
    elif since < head.version:
        rows = connection.execute(SQL["state_since"], (n, since))
    else:
        return {}
    return {key: StateRow(value, version) for key, value, version in (rows if most is None else _light(rows, 1, most))}


def _entries(connection: Connection, n: int, head: Head, window: Window, most: int | None) -> list[Entry]:
    if window.after >= head.seq:
        return []
    low, high = span(n, window.after, window.before)
    kinds = tuple(dict.fromkeys(window.kinds))
    base = n << 32
    cursor = connection.execute(
        _window_sql(kinds, window.run_id is not None, window.hidden, window.newest),
        {"low": low, "high": high, "run": window.run_id, "limit": -1 if window.limit is None else window.limit}
        | {f"kind{i}": kind for i, kind in enumerate(kinds)},
    )
    rows = cursor.fetchall() if most is None or head.counts.bytes < most else list(_light(cursor, 3, most))
    if window.newest:
        rows.reverse()
    return [Entry(row[0] - base, row[1], row[2], row[3], row[4], row[5], row[6], row[7], bool(row[8])) for row in rows]


def _light(rows: Iterable[tuple[Any, ...]], column: int, most: int) -> Iterator[tuple[Any, ...]]:
    """`rows` for as long as their values in `column` have no more than `most` bytes together."""
    for row in rows:
        most -= len(row[column] or b"")
        if most < 0:
            raise Heavy
        yield row


@lru_cache(256)
def _window_sql(kinds: tuple[str, ...], of_run: bool, hidden: bool, newest: bool) -> str:
    """One bounded scan per table and rare kind, merged. The log itself is the index of messages, `entries_rare` that of all other kinds."""
    order = f"ORDER BY id {'DESC' if newest else 'ASC'} LIMIT :limit"
    run = " AND run_id = :run" if of_run else ""
    conditions = [""]
    if kinds and ("message" in kinds or of_run):
        conditions = [f" AND kind IN ({', '.join(f':kind{i}' for i in range(len(kinds)))})"]
    elif kinds:
        conditions = [f" AND kind = :kind{i} AND kind <> 'message'" for i in range(len(kinds))]
    scans = [
        f"SELECT {_COLUMNS}, {int(table == 'hidden')} FROM {table} WHERE id BETWEEN :low AND :high{run}{condition} {order}"
        for table in (("entries", "hidden") if hidden else ("entries",))
        for condition in conditions
    ]
    if len(scans) == 1:
        return scans[0]
    return " UNION ALL ".join(f"SELECT * FROM ({scan})" for scan in scans) + f" {order}"


def _blobs(connection: Connection, n: int, it: BlobRange) -> list[Blob]:
    columns = "namespace, key, type, data" if it.data else "namespace, key, type, NULL"
    where = "n = :n" + ("" if it.namespace is None else " AND namespace = :namespace")
    where += " AND key BETWEEN :prefix AND :prefix || :last" if it.keys is None else " AND key IN (SELECT value FROM json_each(:keys))"
    rows = connection.execute(
        f"SELECT {columns} FROM blobs WHERE {where} ORDER BY namespace, key",  # fixed words
        {"n": n, "namespace": it.namespace, "prefix": it.prefix, "last": _LAST_KEY, "keys": msgspec.json.encode(it.keys).decode()},
    )
    return [Blob(*row) for row in rows]


def list_sessions(connection: Connection, filter: Filter, cursor: str | None, limit: int) -> Page:
    """One page, newest created first, from the index that fits; at most `_PAGE_WORK` sessions are looked at."""
    below = numbered(cursor, MAX_SEQ)
    where = "tenant = :tenant AND n < :below"
    if filter.user_id is not None:
        where += " AND user_id = :user"
    elif filter.waiting:
        where += " AND waiting"
    rows = connection.execute(
        f"SELECT n, session_id, head FROM sessions WHERE {where} ORDER BY n DESC LIMIT {_PAGE_WORK + 1}",
        {"tenant": filter.tenant, "below": below, "user": filter.user_id},
    )
    time = now()
    items: list[tuple[str, Head]] = []
    seen = below
    for place, (n, session_id, data) in enumerate(rows):
        if len(items) == limit or place == _PAGE_WORK:
            return Page(items, str(seen))
        seen = n
        head = readable_head(Key(filter.tenant, session_id), data)
        if head and alive(head, time) and matches(filter, head):
            items.append((session_id, head))
    return Page(items, None)


# --- committing ------------------------------------------------------------------------------------------------------


def commit(connection: Connection, key: Key, commit: Commit) -> Outcome:
    """Apply one commit; everything that can refuse it is asked before the first write."""
    return _commit(connection, key, commit, None)


def copy(connection: Connection, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
    """As `Backend.copy`: the rows never leave the database."""
    origin = _living(connection, source)
    if origin is None:
        raise SessionNotFound(f"there is no {source}")
    return _commit(connection, target, commit, (origin[0], upto))


def _living(connection: Connection, key: Key) -> tuple[int, Head] | None:
    found = find(connection, key)
    return found if found and alive(found[1], now()) else None


def _commit(connection: Connection, key: Key, commit: Commit, copied: tuple[int, int | None] | None) -> Outcome:
    stored = find(connection, key)
    living = stored if stored and alive(stored[1], now()) else None
    if living and (before := _applied(connection, living, key, commit)):
        return before
    ended = None if living or not stored else stored[1].incarnation
    if commit.create is not None and (commit.create.incarnation == ended or _buried(connection, key, commit.create.incarnation)):
        raise SessionGone(f"{key} is gone: it was deleted or expired since you last saw it")
    head = judge(key, living[1] if living else None, commit, _key_version(connection, living))
    if stored and (head is None or not living):
        remove(connection, key, *stored)
    if head is None:
        return Outcome(None, stored[1].version + 1 if stored else 0, 0)
    return _apply(connection, key, living, commit, head, copied)


def _key_version(connection: Connection, living: tuple[int, Head] | None) -> Any:
    def version(key: str) -> int:
        row = connection.execute(SQL["key_version"], (living[0], key)).fetchone() if living else None
        return row[0] if row else 0

    return version


def _applied(connection: Connection, living: tuple[int, Head], key: Key, commit: Commit) -> Outcome | None:
    """The first result of this very commit, looked for among the commits after the version its author had seen."""
    n, head = living
    floor = max(commit.base, head.version - COMMITS_KEPT)
    if floor >= head.version:
        return None
    found = _find_among_entries(connection, n, head, floor, commit.id) or _find_among_commits(connection, n, floor, commit.id)
    if found is None:
        return None
    version, seen, seq = found
    repeated(key, commit, seen)
    answer = snapshot(connection, living, commit.answer) if commit.answer else None
    return Outcome(head, version, seq, answer, repeated=True)


def _find_among_entries(connection: Connection, n: int, head: Head, floor: int, commit_id: str) -> tuple[int, bytes, int] | None:
    """From the last entry of each commit to the last of the one before it, wherever they lie: as many steps as there are commits."""
    row = connection.execute(SQL["find_among_entries"], (n << 32 | head.seq, floor, commit_id)).fetchone()
    return (row[0], row[1], row[2] & MAX_SEQ) if row else None


def _find_among_commits(connection: Connection, n: int, floor: int, commit_id: str) -> tuple[int, bytes, int] | None:
    row = connection.execute(SQL["find_commit"], (*span(n, floor), commit_id)).fetchone()
    return (row[0] & MAX_SEQ, row[1], row[2]) if row else None


def _buried(connection: Connection, key: Key, incarnation: int) -> bool:
    return connection.execute(SQL["grave"], (*key, incarnation)).fetchone() is not None


def _apply(
    connection: Connection,
    key: Key,
    living: tuple[int, Head] | None,
    commit: Commit,
    head: Head,
    copied: tuple[int, int | None] | None,
) -> Outcome:
    if living is None:
        row = connection.execute(SQL["add_session"], (*key, head.user_id, head.waiting, head.expires, b"")).fetchone()
        n, old = row[0], None
    else:
        n, old = living
    if old and commit.erase is not None:
        _empty(connection, key, n, old)
    if copied is not None:
        head = _copy_into(connection, n, head, *copied)
    if commit.blobs or commit.drops:
        _write_blobs(connection, n, commit)
    for put in commit.puts:
        sql = "put_state" if put.value is not None else "bury_state"
        connection.execute(SQL[sql], (n, put.key, head.version) if put.value is None else (n, put.key, head.version, put.value))
    _write_entries(connection, n, commit, head, old)
    for it in commit.hide:
        ids = span(n, it.first - 1, it.last + 1)
        connection.execute(SQL["hide"], ids)
        connection.execute(SQL["unlist"], ids)
    _write_head(connection, n, old, head)
    answer = snapshot(connection, (n, head), commit.answer) if commit.answer else None
    return Outcome(head, head.version, head.seq, answer)


def _write_entries(connection: Connection, n: int, commit: Commit, head: Head, old: Head | None) -> None:
    if commit.entries:
        number, last = len(commit.entries), n << 32 | head.seq
        mark: tuple[str | None, bytes | None, int | None] = (None, None, None)
        for rowid, it in enumerate(commit.entries, last - number + 1):
            if rowid == last:
                mark = (commit.id, digest(commit), number)
            connection.execute(SQL["add_entry"], (rowid, head.version, *mark, it.id, it.kind, it.run_id, it.agent, it.time, it.body))
    elif old is None or head.version > old.version:
        connection.execute(SQL["add_commit"], (n << 32 | head.version, commit.id, digest(commit), head.seq))
        if head.version > COMMITS_KEPT:
            connection.execute(SQL["forget_commits"], (n << 32, n << 32 | head.version - COMMITS_KEPT))


def _write_head(connection: Connection, n: int, old: Head | None, head: Head) -> None:
    data = encode_head(head)
    if old and (old.user_id, old.waiting, old.expires) == (head.user_id, head.waiting, head.expires):
        connection.execute(SQL["set_head"], (n, data))
    else:
        connection.execute(SQL["set_head_and_indexes"], (n, data, head.user_id, head.waiting, head.expires))


def _write_blobs(connection: Connection, n: int, commit: Commit) -> None:
    for drop in commit.drops:
        if drop.key is not None:
            connection.execute(SQL["drop_blob"], (n, drop.namespace, drop.key))
        else:
            connection.execute(SQL["drop_blobs"], (n, drop.namespace, drop.prefix, drop.prefix + _LAST_KEY))
    for put in commit.blobs:
        sql = "put_blob_if_absent" if put.if_absent else "put_blob"
        connection.execute(SQL[sql], (n, put.namespace, put.key, put.type, put.data))


def _copy_into(connection: Connection, n: int, head: Head, source: int, upto: int | None) -> Head:
    connection.execute(SQL["copy_entries"], (n << 32, head.version, *span(source, 0, None if upto is None else upto + 1)))
    copied = connection.changes()
    connection.execute(SQL["copy_state"], (n, head.version, source))
    connection.execute(SQL["copy_blobs"], (n, source))
    messages, runs, size = connection.execute(SQL["count_copied"], span(n)).fetchone()
    counts = head.counts + Counts(runs=runs, messages=messages, bytes=size)
    return msgspec.structs.replace(head, seq=head.seq + copied, counts=counts)


def _empty(connection: Connection, key: Key, n: int, head: Head) -> None:
    """Remove everything the session holds and remember that this life of it has ended."""
    for name in ("erase_entries", "erase_hidden", "erase_commits"):
        connection.execute(SQL[name], (n << 32, n << 32 | MAX_SEQ))
    for name in ("erase_state", "erase_blobs"):
        connection.execute(SQL[name], (n,))
    connection.execute(SQL["bury"], (*key, head.incarnation, now()))


def remove(connection: Connection, key: Key, n: int, head: Head) -> None:
    _empty(connection, key, n, head)
    connection.execute(SQL["erase_session"], (n,))
