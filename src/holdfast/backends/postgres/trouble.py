"""What PostgreSQL's errors mean: ours, with the server and the database named and never a password."""

from __future__ import annotations

import psycopg
import psycopg_pool
from psycopg import errors

from ...errors import (
    Corrupt,
    HoldfastError,
    InvalidValue,
    OutcomeUnknown,
    SchemaMismatch,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    TooLarge,
)

AGAIN = (errors.SerializationFailure, errors.DeadlockDetected)
"""The database asks for the same work once more: nothing of it was done."""

_MEANINGS: tuple[tuple[tuple[str, ...], type[HoldfastError], str], ...] = (
    (("53100",), StoreFull, "no space left on the server's disk; nothing of this was written"),
    (("53",), StoreUnavailable, "the server is at its limit"),
    (("25006",), StoreReadOnly, "this server only reads (a standby?); name the primary in the URL"),
    (("42501",), StoreReadOnly, "the database role lacks a permission; grant it USAGE of the schema and all rights on what is in it"),
    (("57014",), StoreUnavailable, "the server ended it for taking too long; nothing was written"),
    (("55P03",), StoreUnavailable, "somebody else writes this session; nothing was written"),
    (("40001", "40P01"), StoreUnavailable, "others were in the way too many times; nothing was written"),
    (("3F000", "42P01", "42883", "42703"), SchemaMismatch, "the tables or functions of a store are missing; run `holdfast db migrate`"),
    (("54000",), TooLarge, "a name is too long for an index"),
    (("22021", "22P05"), InvalidValue, "a name holds a character that the database can't store"),
    (("XX001", "XX002"), Corrupt, "the database is damaged; restore a backup"),
)
_BROKEN = ("08", "57P01", "57P02", "57P05", "25P03", "40003")
"""SQLSTATEs, or beginnings of them, after which the connection is gone."""


def translate(where: str, error: BaseException, *, writing: bool) -> HoldfastError:
    """Our error for the driver's, whose words it keeps. `writing`: a commit was under way, and a broken connection leaves it open."""
    if isinstance(error, psycopg_pool.PoolClosed):
        return closed(where)
    if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        return StoreUnavailable(f"{where}: no connection to be had: {_words(error)}")
    if isinstance(error, psycopg.Error) and error.sqlstate is not None and not error.sqlstate.startswith(_BROKEN):
        return _meaning(where, error, error.sqlstate)
    if isinstance(error, psycopg.DataError):
        return InvalidValue(f"{where}: a name holds a character that the database can't store: {_words(error)}")
    if isinstance(error, TimeoutError | psycopg.OperationalError | psycopg.InterfaceError):
        return broken(where, _words(error), writing=writing)
    return StoreError(f"{where}: PostgreSQL says: {_words(error)}")


def _meaning(where: str, error: psycopg.Error, state: str) -> HoldfastError:
    for states, ours, words in _MEANINGS:
        if state.startswith(states):
            return ours(f"{where}: {words} ({_words(error)})")
    return StoreError(f"{where}: PostgreSQL says: {_words(error)} ({state})")


def broken(where: str, words: str, *, writing: bool) -> StoreError:
    """The error for a connection that broke or fell silent."""
    if writing:
        return OutcomeUnknown(f"{where}: the connection broke in mid-commit ({words}): repeat the same commit to learn what became of it")
    return StoreUnavailable(f"{where}: the server can't be reached or doesn't answer: {words}")


def closed(where: str) -> StoreClosed:
    return StoreClosed(f"{where}: this store was closed; open it again with Store.open(...)")


def _words(error: BaseException) -> str:
    """The driver's first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
