"""What a server's and a driver's errors mean, in one place."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ...errors import NotAStore, OutcomeUnknown, StoreClosed, StoreError, StoreFull, StoreReadOnly, StoreUnavailable

LOST = (RedisError, OSError, TimeoutError, EOFError)
"""What a connection raises when it can't be made or breaks."""

_REPLIES: tuple[tuple[type[RedisError], type[StoreError], str], ...] = (
    (ReadOnlyError, StoreReadOnly, "it is a read-only replica; name the primary in the URL"),
    (OutOfMemoryError, StoreFull, "it has no memory left (maxmemory); nothing of this commit was written"),
    (NoPermissionError, StoreReadOnly, "this user may not do that (see `ACL GETUSER`)"),
    (AuthenticationError, StoreUnavailable, "it refuses this login; check user and password in the URL"),
    (BusyLoadingError, StoreUnavailable, "it is still loading its data; try again"),
    (ClusterDownError, StoreUnavailable, "its cluster is down; see `CLUSTER INFO`"),
    (TryAgainError, StoreUnavailable, "a hash slot is on its way to another node; try again"),
    (AskError, NotAStore, "it is a node of a cluster; add ?cluster=true to the URL"),
)
_WORDS: tuple[tuple[str, type[StoreError], str], ...] = (
    ("no permissions", StoreReadOnly, "this user may not write (see `ACL GETUSER`)"),
    ("can't access", StoreReadOnly, "this user may not use keys under this prefix (see `ACL GETUSER`)"),
    ("MISCONF", StoreUnavailable, "it can't write to its disk and refuses writes"),
    ("NOREPLICAS", StoreUnavailable, "too few replicas are linked (min-replicas-to-write); nothing of this commit was written"),
    ("BUSY", StoreUnavailable, "a script keeps it busy"),
    ("max number of clients", StoreUnavailable, "it has as many clients as it takes (maxclients)"),
    ("WRONGTYPE", NotAStore, "another program's keys are under this prefix; give ?prefix="),
    ("unknown command", NotAStore, "it does not know a command; Redis 7.0 or later, or Valkey, is needed"),
)


def refused(where: str, error: Exception) -> StoreError:
    """Our error for an error that the server at `where` gave as its answer: nothing was written."""
    for theirs, ours, words in _REPLIES:
        if isinstance(error, theirs):
            return ours(f"{where}: {words}" + _said(error))
    for word, ours, words in _WORDS:
        if word.lower() in str(error).lower() or word == getattr(error, "status_code", None):
            return ours(f"{where}: {words}" + _said(error))
    return StoreError(f"{where}: the server says: {error}")


def unreachable(where: str, error: BaseException) -> StoreError:
    """Our error for a connection that could not be made."""
    if isinstance(error, AuthenticationError | BusyLoadingError | ResponseError):
        return refused(where, error)
    if isinstance(error, InvalidResponse):
        return NotAStore(f"{where}: what answers there is no Redis: {error}")
    return StoreUnavailable(f"{where}: can't connect; is the server up, and the URL right?{_said(error)}")


def broken(where: str, error: BaseException, *, writing: bool) -> StoreError:
    """Our error for a connection that broke, or took too long, before the answer came."""
    if isinstance(error, InvalidResponse):
        return NotAStore(f"{where}: what answers there is no Redis: {error}")
    why = "took too long to answer (raise timeout in the URL)" if isinstance(error, TimeoutError) else "the connection broke"
    if writing:
        return OutcomeUnknown(f"{where}: {why} while a commit was under way: repeat the same commit to learn its outcome{_said(error)}")
    return StoreUnavailable(f"{where}: {why}{_said(error)}")


def closed(where: str) -> StoreClosed:
    return StoreClosed(f"{where}: this store was closed; open it again with Store.open(...)")


def _said(error: BaseException) -> str:
    return f" ({error})" if str(error) else ""
