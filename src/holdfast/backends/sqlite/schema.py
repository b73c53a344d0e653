"""The life of a SQLite store's schema: made, recognised, migrated, described, checked."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ...backend import Head
from ...errors import NotAStore, SchemaMismatch, StoreUnavailable
from .._sql import load
from .connections import Connection, Patience, connect
from .log import MAX_SEQ, SQL
from .sweeping import LONG_AGO

VERSION = 1
_OLDEST = 1
"""The lowest version whose code may write what this code makes. A file's `user_version` holds both: 100 * version + oldest."""
_APPLICATION = 0x48464153  # "HFAS", written into the file's header
_MIGRATIONS: dict[int, str] = {}
"""SQL that takes schema N to N + 1."""


def ensure(path: str, patience: float) -> None:
    """Make an empty file a store, or check that what is there is one this library can use."""
    connection = connect(path, patience=Patience(patience), synchronous="full", vfs=None, writable=True)
    try:
        version = _version(connection, path)
        if version == 0:
            _create(connection, path, patience)
        elif version < VERSION - 1:
            raise SchemaMismatch(f"{path}: schema {version} is too old for this library ({VERSION}); run `holdfast db migrate`")
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        connection.close()


def migrate(path: str, patience: float) -> tuple[int, int]:
    """Bring the file's schema up to date in one transaction; (before, after), the same for a newer one that this code may write."""
    ensure_file = not Path(path).exists()
    connection = connect(path, patience=Patience(patience), synchronous="full", vfs=None, writable=True)
    try:
        before = 0 if ensure_file else _version(connection, path)
        if before == 0:
            _create(connection, path, patience)
        elif before > VERSION:
            return before, before
        else:
            _climb(connection)
        return before, VERSION
    finally:
        connection.close()


def _climb(connection: Connection) -> None:
    with _transaction(connection):
        for step in range(connection.pragma("user_version") // 100, VERSION):
            connection.execute(_MIGRATIONS[step])
        connection.pragma("user_version", 100 * VERSION + _OLDEST)


def _version(connection: Connection, path: str) -> int:
    """The schema version; 0 for an empty database. `NotAStore`, or `SchemaMismatch` for one that this code is too old to write."""
    if connection.in_transaction:
        return _version_now(connection, path)
    connection.execute("BEGIN")  # all from one moment: somebody may be making the store
    try:
        return _version_now(connection, path)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version_now(connection: Connection, path: str) -> int:
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    if application == _APPLICATION:
        version, oldest = divmod(version, 100)
        if oldest > VERSION:
            raise SchemaMismatch(
                f"{path}: schema {version} is for holdfast with schema {oldest} or later, this one has {VERSION}; upgrade holdfast,"
                " there is nothing to migrate here"
            )
        return version
    if application or version or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        raise NotAStore(f"{path}: this SQLite database belongs to something else; name another file")
    return 0


def _create(connection: Connection, path: str, patience: float) -> None:
    _use_wal(connection, path, patience)
    with _transaction(connection):
        if _version(connection, path) == 0:  # another process may have been quicker
            connection.execute(load(__name__, "schema.sql"))
            connection.pragma("application_id", _APPLICATION)
            connection.pragma("user_version", 100 * VERSION + _OLDEST)


@contextmanager
def _transaction(connection: Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _use_wal(connection: Connection, path: str, patience: float) -> None:
    """The switch needs the file alone and does not ask the busy handler: try until it works."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if connection.pragma("journal_mode", "wal") == "wal":
                return
            raise StoreUnavailable(f"{path}: this file system can't hold a write-ahead log (a network drive?); use a local disk")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def status(path: str) -> dict[str, Any]:
    """Facts about the file: path, schema, sizes in bytes, sessions, entries."""
    if not Path(path).exists():
        raise StoreUnavailable(f"{path}: there is no such file")
    connection = connect(path, patience=Patience(5), synchronous="full", vfs=None, writable=False)
    try:
        version = _version(connection, path)
        log = Path(path + "-wal")
        return {
            "backend": "sqlite",
            "path": path,
            "schema": version,
            "library_schema": VERSION,
            "sqlite": apsw.sqlite_lib_version(),
            "bytes": Path(path).stat().st_size,
            "log_bytes": log.stat().st_size if log.exists() else 0,
            "sessions": connection.execute(SQL["count_sessions"]).fetchone()[0] if version else 0,
            "entries": connection.execute(SQL["count_entries"]).fetchone()[0] if version else 0,
        }
    finally:
        connection.close()


def check(connection: Connection) -> list[str]:
    """SQLite's own integrity check, then what Holdfast promises about its rows."""
    problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    if problems:
        return problems
    connection.execute("BEGIN")
    try:
        problems += [f"{count} rows of {table} belong to no session" for table, count in connection.execute(SQL["orphans"]) if count]
        for n, tenant, session_id, user_id, waiting, expires, data in connection.execute(SQL["all_heads"]):
            what = f"session {session_id!r} of tenant {tenant!r}"
            problems += [f"{what}: {problem}" for problem in _check_session(connection, n, (user_id, waiting, expires), data)]
    finally:
        connection.execute("COMMIT")
    return problems


def _check_session(connection: Connection, n: int, indexed: tuple[Any, ...], data: bytes) -> list[str]:
    try:
        head = msgspec.json.decode(data, type=Head)
    except msgspec.DecodeError as error:
        return [f"its head is not readable: {error}"]
    problems: list[str] = []
    if indexed != (head.user_id, int(head.waiting), head.expires):
        problems.append("its index columns differ from its head")
    if head.expires == LONG_AGO:
        return problems  # half removed by a sweep, and the next one goes on
    count, first, last = connection.execute(SQL["seqs"], (n << 32, n << 32 | MAX_SEQ)).fetchone()
    if count != head.seq or (count and ((first & MAX_SEQ) != 1 or (last & MAX_SEQ) != head.seq)):
        problems.append(f"its log has {count} entries, its head says {head.seq}")
    return problems
