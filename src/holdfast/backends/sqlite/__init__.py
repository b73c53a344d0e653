"""SQLite: one file, many processes, the default.

Writes go through one connection per process (`writer`), reads through a few of their own, which WAL mode never makes wait for a
writer. Small reads run on the calling thread: they take less time than handing them over would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os.path import abspath, expanduser
from typing import Any, TypeVar
from urllib.parse import unquote

import apsw

from ...backend import Capabilities, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ...errors import InvalidURL
from ...forks import Forkable, forget_forks, watch_forks
from ...rules import check_sizes, mere_contact
from .. import urls
from . import log, schema
from .connections import Connection, Patience, Readers, closed, end_at_exit, ended, mapped, translate
from .sweeping import sweep
from .writer import Writer

T = TypeVar("T")

_SMALL_READ = 512
"""Entries a read may return and still run in place."""
_SMALL_COMMIT = 64 * 1024
_SMALL_PAGE = 100
_IN_PLACE_BYTES = 512 * 1024
"""Bytes of values and bodies a read in place may meet; then it is begun again on a thread."""
_WATCH_SECONDS = 0.05
_LAST_READS_SECONDS = 10.0

__all__ = ["SQLiteBackend"]


def from_url(url: str) -> SQLiteBackend:
    """`sqlite:///relative.db` or `sqlite:////absolute.db`, with the options `synchronous`, `busy_timeout` and `vfs`."""
    if "#" in url:
        raise InvalidURL(f"store URL {urls.shown(url)!r}: write %23 for a # in a file's name")
    parts = urls.split(url)
    path = unquote(parts.path[1:])
    if not path.isprintable():
        raise InvalidURL(f"store URL {urls.shown(url)!r}: the file's name holds a character that can't be printed")
    if parts.netloc or not path:
        raise InvalidURL(f"store URL {urls.shown(url)!r}: write sqlite:///relative.db or sqlite:////absolute.db (three or four slashes)")
    if path == ":memory:":
        raise InvalidURL("store URL 'sqlite:///:memory:': use memory:// to keep sessions in memory")
    known = {"synchronous": urls.one_of("full", "normal", "off"), "busy_timeout": urls.seconds, "vfs": str}
    return SQLiteBackend(expanduser(path), **urls.options(url, known))


class SQLiteBackend(Forkable):
    """Sessions in the SQLite file at `path`.

    `synchronous`: "full" (the default: an acknowledged commit survives a power cut), "normal" (survives a crash of the process, a power
    cut may take the newest commits), "off". `busy_timeout`: seconds to wait for another process's write. `vfs`: an apsw VFS by name.
    """

    capabilities = Capabilities(durable=True, multi_process=True, watch=True, in_place=True)

    def __init__(self, path: str, *, synchronous: str = "full", busy_timeout: float = 30.0, vfs: str | None = None) -> None:
        self.path = path = abspath(path)  # the folder of the process may change, and connections are opened at any time
        self.writer = Writer(path, patience=busy_timeout, synchronous=synchronous, vfs=vfs)
        self._readers = Readers(path, synchronous, vfs)
        self._patience = busy_timeout
        self._ready = False
        self._closed = False
        self._threads: ThreadPoolExecutor | None = None

    # --- life ---

    async def open(self) -> None:
        self._check_open()
        if not self._ready:
            with mapped(self.path):
                await self._aside(lambda: schema.ensure(self.path, self._patience))
            watch_forks(self)
            end_at_exit(self)
            self._ready = True

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ready:
            ended(self)
            await self._aside(self.at_exit)
            forget_forks(self)
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def migrate(self) -> tuple[int, int]:
        self._check_open()
        with mapped(self.path):
            return await self._aside(lambda: schema.migrate(self.path, self._patience))

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self.path)

    def before_fork(self) -> None:
        self.writer.before_fork()
        self._readers.halt()

    def after_fork(self, *, child: bool) -> None:
        self.writer.after_fork(child=child)
        self._readers.resume()
        if child:
            self._threads = None

    def at_exit(self) -> None:
        self._readers.end(_LAST_READS_SECONDS)
        self.writer.close()

    # --- reading ---

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        if _small(plan):
            try:
                return await self._read(lambda connection: log.read(connection, key, plan, _IN_PLACE_BYTES), small=True)
            except log.Heavy:
                pass
        return await self._read(lambda connection: log.read(connection, key, plan), small=False)

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        return await self._read(lambda connection: log.list_sessions(connection, filter, cursor, limit), small=limit <= _SMALL_PAGE)

    async def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        while (snapshot := await self.read(key, ReadPlan())) is not None:
            if snapshot.head.version > after:
                after = snapshot.head.version
                yield after
            await asyncio.sleep(_WATCH_SECONDS)

    # --- writing ---

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        if not self._ready:
            await self.open()
        if mere_contact(commit):
            return await self._aside(lambda: self.writer.attempt(lambda connection: log.commit(connection, key, commit)))
        return await self.writer.run(lambda connection: log.commit(connection, key, commit), small=_small_commit(commit))

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        if not self._ready:
            await self.open()
        return await self.writer.run(lambda connection: log.copy(connection, source, upto, target, commit), small=False)

    async def sweep(self, limit: int) -> int:
        if not self._ready:
            await self.open()
        return await sweep(partial(self.writer.run, small=False), partial(self._read, small=False), limit)

    # --- maintenance ---

    async def status(self) -> dict[str, Any]:
        self._check_open()
        with mapped(self.path):
            return await self._aside(lambda: schema.status(self.path))

    async def check(self) -> list[str]:
        await self.open()
        return await self._read(schema.check, small=False)

    # --- where work runs ---

    async def _read(self, work: Callable[[Connection], T], *, small: bool) -> T:
        if not self._ready or self._closed:
            await self.open()
        if small:
            try:
                return self._in_place(work)
            except apsw.BusyError:
                pass  # somebody recovers or resets the log: wait for that off the event loop
            except apsw.Error as error:
                raise translate(self.path, error) from error
        with mapped(self.path):
            return await self._aside(lambda: self._with_reader(work, Patience(self._patience)))

    def _in_place(self, work: Callable[[Connection], T]) -> T:
        lent = self.writer.lend()
        if lent is None:
            return self._with_reader(work, None)
        try:
            return work(lent)
        finally:
            self.writer.take_back()

    def _with_reader(self, work: Callable[[Connection], T], patience: Patience | None) -> T:
        connection = self._readers.take(patience)
        try:
            if patience is not None:
                connection.set_busy_handler(patience)
            return work(connection)
        finally:
            if patience is not None:
                connection.set_busy_handler(None)
            self._readers.give(connection)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Run `work` off the event loop, or right here when there is none."""
        if asyncio._get_running_loop() is None:  # pyright: ignore[reportPrivateUsage]  # the one that doesn't raise
            return work()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(4, "holdfast-reader")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _small(plan: ReadPlan) -> bool:
    window = plan.entries
    return not plan.blobs and (window is None or (window.limit is not None and window.limit <= _SMALL_READ))


def _small_commit(commit: Commit) -> bool:
    if commit.erase is not None or commit.drops or sum([it.last - it.first for it in commit.hide]) >= _SMALL_READ:
        return False
    if commit.answer is not None and not _small(commit.answer):
        return False
    size = sum([len(entry.body) for entry in commit.entries])
    if commit.puts:
        size += sum([len(put.value) for put in commit.puts if put.value is not None])
    if commit.blobs:
        size += sum([len(blob.data) for blob in commit.blobs])
    return size < _SMALL_COMMIT
