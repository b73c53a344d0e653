"""A disk to experiment with: an apsw VFS that counts the flushes of the log, takes its time for one, and can be full."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count

import apsw

_numbers = count()


class Disk(apsw.VFS):
    """Registered under `name` as long as the `disk` block lasts."""

    def __init__(self, flush_seconds: float) -> None:
        self.name = f"disk-{next(_numbers)}"
        self.flush_seconds = flush_seconds
        self.flushes = 0
        self.room: int | None = None
        """Bytes that may still be written; None: any number."""
        super().__init__(self.name, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> _File:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._log:
            self._disk.flushes += 1
            time.sleep(self._disk.flush_seconds)

    def xWrite(self, data: bytes, offset: int) -> None:
        disk = self._disk
        if disk.room is not None:
            disk.room -= len(data)
            if disk.room < 0:
                raise apsw.FullError("no space left on this disk")
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType]  # apsw names a buffer type it doesn't export


@contextmanager
def disk(*, flush_seconds: float = 0.0) -> Generator[Disk]:
    made = Disk(flush_seconds)
    try:
        yield made
    finally:
        made.unregister()
