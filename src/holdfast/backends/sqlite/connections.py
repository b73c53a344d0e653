"""SQLite connections: how they are opened, what their errors mean, and how they survive a fork."""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

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
            return ours(f"{path}: {words}" + (_why_closed(path) if isinstance(error, apsw.CantOpenError) else ""))
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
)


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


def connect(path: str, *, patience: Patience | None, synchronous: str, vfs: str | None, writable: bool) -> apsw.Connection:
    """One connection with the settings every connection of a store has; it never checkpoints by itself."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs=vfs)
    if patience is not None:
        connection.set_busy_handler(patience)
    connection.wal_autocheckpoint(0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if not writable:
        connection.execute("PRAGMA query_only = 1")
    return connection


class Readers:
    """Idle read connections. Whoever takes one has it alone, on whichever thread."""

    def __init__(self, path: str, synchronous: str, vfs: str | None) -> None:
        self._path, self._synchronous, self._vfs = path, synchronous, vfs
        self._idle: deque[apsw.Connection] = deque()
        self._busy = 0
        self._free = threading.Condition()
        self._halted = False

    def take(self, patience: Patience | None) -> apsw.Connection:
        with self._free:
            while self._halted:
                self._free.wait()
            self._busy += 1
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except BaseException:
            self._returned()
            raise
        connection.set_busy_handler(patience)
        return connection

    def give(self, connection: apsw.Connection) -> None:
        if len(self._idle) < _IDLE_READERS:
            self._idle.append(connection)
        else:
            connection.close()
        self._returned()

    def halt(self) -> None:
        """Wait for the reads under way, close every connection, and let no new read begin."""
        with self._free:
            self._halted = True
            while self._busy:
                self._free.wait(0.05)
        while self._idle:
            self._idle.pop().close()

    def resume(self) -> None:
        with self._free:
            self._halted = False
            self._free.notify_all()

    def _returned(self) -> None:
        with self._free:
            self._busy -= 1
            if self._halted:
                self._free.notify_all()

    def _connect(self) -> apsw.Connection:
        return connect(self._path, patience=None, synchronous=self._synchronous, vfs=self._vfs, writable=False)


class Forkable(Protocol):
    """What holds SQLite connections: it lets go of all of them around a fork, for locks do not survive one."""

    def before_fork(self) -> None: ...

    def after_fork(self, *, child: bool) -> None: ...

    def at_exit(self) -> None: ...


_open: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch_forks(holder: Forkable) -> None:
    """From now on `holder` is told of forks and of the interpreter's end."""
    _open.add(holder)


def forget(holder: Forkable) -> None:
    """The opposite of `watch_forks`."""
    _open.discard(holder)


def _before_fork() -> None:
    for holder in list(_open):
        holder.before_fork()


def _after_fork(*, child: bool) -> None:
    for holder in list(_open):
        holder.after_fork(child=child)


def _at_exit() -> None:
    for holder in list(_open):
        holder.at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=lambda: _after_fork(child=False), after_in_child=lambda: _after_fork(child=True)
    )
atexit.register(_at_exit)


def closed(path: str) -> StoreClosed:
    return StoreClosed(f"{path}: this store was closed; open it again with Store.open(...)")
