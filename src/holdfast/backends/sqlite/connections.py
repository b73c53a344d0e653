"""SQLite connections: how they are opened, what their errors mean, and how they end."""

from __future__ import annotations

import atexit
import math
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import apsw

from ...errors import Corrupt, NotAStore, StoreClosed, StoreError, StoreFull, StoreReadOnly, StoreUnavailable

_IDLE_READERS = 8


@contextmanager
def mapped(path: str) -> Generator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except apsw.Error as error:
        raise translate(path, error) from error


def translate(path: str, error: apsw.Error) -> StoreError:
    """Our error for SQLite's: the file and the way out are named."""
    for kinds, ours, words in _MEANINGS:
        if isinstance(error, kinds):
            return ours(f"{path}: {words}" + _details(path, error))
    return StoreError(f"{path}: SQLite says: {error}")


_MEANINGS: tuple[tuple[tuple[type[apsw.Error], ...], type[StoreError], str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        StoreUnavailable,
        "locked by another process for too long; raise busy_timeout in the URL or end what holds it",
    ),
    ((apsw.FullError,), StoreFull, "no space left on the disk; nothing of this commit was written"),
    ((apsw.ReadOnlyError,), StoreReadOnly, "the file or its folder can't be written by this user"),
    ((apsw.NotADBError,), NotAStore, "this file is not a SQLite database; name another file or move it away"),
    ((apsw.CorruptError,), Corrupt, "the database is damaged; run `holdfast db check` and restore a backup"),
    ((apsw.CantOpenError,), StoreUnavailable, "can't be opened; "),
    (
        (apsw.IOError,),
        StoreUnavailable,
        "the disk refused to read or write it; look for a full disk or quota, a failing disk (the system's log), a network drive (use a"
        " local disk)",
    ),
)


def _details(path: str, error: apsw.Error) -> str:
    if isinstance(error, apsw.IOError):
        return f": {error}"
    return _why_closed(path) if isinstance(error, apsw.CantOpenError) else ""


def _why_closed(path: str) -> str:
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        return f"make the folder {folder} first"
    if Path(path).is_dir():
        return "it is a folder, name a file in it"
    return f"check the permissions of {folder} and of the file"


class Patience:
    """A busy handler: waits in short random steps until its deadline, or not at all."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waits = True
        self._deadline = 0.0

    def __call__(self, tries: int) -> bool:
        if not self.waits:
            return False
        if tries == 0:
            self._deadline = time.monotonic() + self.seconds
        elif time.monotonic() > self._deadline:
            return False
        time.sleep(random.uniform(0.0002, 0.002) * min(tries + 1, 5))
        return True


def connect(path: str, *, patience: Patience | None, synchronous: str, vfs: str | None, writable: bool) -> Connection:
    """One connection with the settings every connection of a store has; it checkpoints neither by itself nor when it is closed."""
    opened = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs=vfs)
    opened.wal_autocheckpoint(0)
    opened.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection = cast("Connection", opened)
    connection.set_busy_handler(patience)
    connection.pragma("synchronous", synchronous)
    if writable:
        connection.pragma("secure_delete", 1)  # "fast" would leave what lay on freed pages readable
    if not writable:
        connection.pragma("query_only", 1)
    return connection


class Readers:
    """Idle read connections. Whoever takes one has it alone, on whichever thread; taking and giving back need no lock."""

    def __init__(self, path: str, synchronous: str, vfs: str | None) -> None:
        self._path, self._synchronous, self._vfs = path, synchronous, vfs
        self._idle: deque[Connection] = deque()
        self._made = 0
        self._making = threading.Lock()  # held while the store lets go of every connection
        self._halted = False
        self._ended = False
        self._counting = threading.Lock()

    def take(self, patience: Patience | None = None) -> Connection:
        """An idle connection, or a new one: even making one reads the file, and waits as `patience` says."""
        try:
            return self._make(patience) if self._halted else self._idle.pop()
        except IndexError:
            return self._make(patience)

    def give(self, connection: Connection) -> None:
        if len(self._idle) < _IDLE_READERS:
            self._idle.append(connection)
        else:
            connection.close()
            self._count(-1)

    def halt(self, seconds: float = math.inf) -> None:
        """Close every connection, waiting (at most `seconds`) for the reads under way, and let no new one be made until `resume`."""
        self._making.acquire()
        self._halted = True  # idle ones are ours to close: readers in a hurry must not pass them on among themselves
        deadline = time.monotonic() + seconds
        while self._made and time.monotonic() < deadline:
            try:
                self._idle.pop().close()
            except IndexError:
                time.sleep(0.0005)
            else:
                self._count(-1)
        with self._counting:
            pass  # whoever counted last has let go: a fork must not copy the lock locked

    def resume(self) -> None:
        self._halted = False
        self._making.release()

    def end(self, seconds: float) -> None:
        """Let go for good: whoever still asks for a connection is told that the store was closed."""
        self.halt(seconds)
        self._ended = True
        self._making.release()

    def _make(self, patience: Patience | None) -> Connection:
        with self._making:
            if self._ended:
                raise closed(self._path)
            self._count(1)
        try:
            return connect(self._path, patience=patience, synchronous=self._synchronous, vfs=self._vfs, writable=False)
        except BaseException:
            self._count(-1)
            raise

    def _count(self, change: int) -> None:
        with self._counting:
            self._made += change


class Cursor(Protocol):
    """What this package uses of `apsw.Cursor`."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def close(self, force: bool = False) -> None: ...


class Connection(Protocol):
    """What this package uses of `apsw.Connection`, with rows typed loosely: a column is what the schema says it is."""

    @property
    def in_transaction(self) -> bool: ...

    @property
    def filename_wal(self) -> str: ...

    def execute(self, statements: str, bindings: Sequence[Any] | Mapping[str, Any] | None = None) -> Cursor: ...

    def pragma(self, name: str, value: bool | int | str | None = None) -> Any: ...

    def changes(self) -> int: ...

    def config(self, op: int, *args: int) -> int: ...

    def set_busy_handler(self, callable: Callable[[int], bool] | None) -> None: ...

    def set_wal_hook(self, callable: Callable[[Any, str, int], int] | None) -> None: ...

    def wal_checkpoint(self, dbname: str | None = None, mode: int = 0) -> tuple[int, int]: ...

    def close(self, force: bool = False) -> None: ...


class AtExit(Protocol):
    """What ends with the interpreter if nobody ended it before."""

    def at_exit(self) -> None: ...


_open: weakref.WeakSet[AtExit] = weakref.WeakSet()


def end_at_exit(holder: AtExit) -> None:
    """`holder` ends with the interpreter."""
    _open.add(holder)


def ended(holder: AtExit) -> None:
    """The opposite of `end_at_exit`."""
    _open.discard(holder)


def _at_exit() -> None:
    for holder in list(_open):
        holder.at_exit()


atexit.register(_at_exit)


def closed(path: str) -> StoreClosed:
    return StoreClosed(f"{path}: this store was closed; open it again with Store.open(...)")
