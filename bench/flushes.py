"""Counting flushes: an apsw VFS that passes everything on and counts every sync of a write-ahead log."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count

import apsw

_counts: dict[str, int] = {}
_seconds: dict[str, float] = {}
_numbers = count()


class _File(apsw.VFSFile):
    def __init__(self, vfs: str, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:  # SQLite's name
        start = time.perf_counter()
        super().xSync(flags)
        if self._log:
            _counts[self._vfs] += 1
            _seconds[self._vfs] += time.perf_counter() - start


class _VFS(apsw.VFS):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> _File:  # SQLite's name
        return _File(self.name, name, flags)


@contextmanager
def counting_vfs() -> Generator[str]:
    """The name of a fresh counting VFS, for `SQLiteBackend(vfs=...)`."""
    name = f"counting-{next(_numbers)}"
    _counts[name], _seconds[name] = 0, 0.0
    vfs = _VFS(name)
    try:
        yield name
    finally:
        vfs.unregister()


def flushes(vfs: str) -> int:
    """How often a log was flushed through this VFS."""
    return _counts[vfs]


def seconds(vfs: str) -> float:
    """How long those flushes took, together."""
    return _seconds[vfs]
