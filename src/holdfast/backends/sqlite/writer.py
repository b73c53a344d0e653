"""The one writer of a SQLite store: concurrent commits share a transaction and a flush; a lone cheap one runs in place.

A job decides before it writes: what it raises as a `UsageError` is its own answer and leaves the transaction untouched. Any other
error rolls the whole batch back and runs it again job by job, so that one commit's trouble is never another's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import SEEK_END
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import apsw

from ...errors import UsageError
from .connections import Connection, Patience, closed, connect, translate

T = TypeVar("T")

_BATCH = 256
_IN_PLACE_SECONDS = 40e-6
"""Where a COMMIT takes less than a thread switch (a RAM disk, `synchronous=normal`), a lone one is done where it is asked."""
_ATTEMPT_SECONDS = 0.02
_CHECKPOINT_PAGES = 4000
_SLOW_SECONDS = 80e-6
"""Where a COMMIT takes this long, most of it is the flush."""
_ROOM_AHEAD = 32
_ROOM_STEP = 256
_FRAME = 4096 + 24
"""Bytes of a page in the log."""
_RESET_PAGES = 64_000

JobWork = Callable[[Connection], T]


class Job(Generic[T]):
    """One piece of work for the writer. `ticket` goes to whoever is first: the writer to run it, or a cancelled waiter to withdraw it.

    Its waiter is a task of `loop` (`settled`), or a thread (`ended`) where there is no loop.
    """

    __slots__ = ("ended", "error", "loop", "result", "settled", "ticket", "work")

    def __init__(self, work: JobWork[T], loop: asyncio.AbstractEventLoop | None) -> None:
        self.work = work
        self.loop = loop
        if loop is not None:
            self.settled: asyncio.Future[None] = loop.create_future()
        self.ticket = threading.Lock()
        self.ended = threading.Lock()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self, connection: Connection) -> None:
        try:
            self.result, self.error = self.work(connection), None
        except UsageError as refused:
            self.error = refused

    def answer(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # set by run

    async def end(self) -> None:
        """Wait for the end however often the waiter is cancelled: what has begun will be known."""
        while not self.ended.locked():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue


class Writer:
    """Owns the write connection and its thread; both begin with the first job."""

    def __init__(self, path: str, *, patience: float, synchronous: str, vfs: str | None) -> None:
        self._path, self._synchronous, self._vfs = path, synchronous, vfs
        self._patience = Patience(patience)
        self._reset()
        self._closed = False
        self._flush = 1e-3  # seconds a COMMIT takes, a moving average; the first ones go to the thread and teach it
        self.transactions = 0

    def _reset(self) -> None:
        self._lock = threading.Lock()  # held by whoever uses the connection
        self._connection: Connection | None = None
        self._checkpointing = threading.Lock()
        self._jobs: SimpleQueue[tuple[Job[Any], ...] | None] = SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._ended = False
        self._wal_pages = 0
        self._room = 2 * _ROOM_AHEAD  # pages the log's file has room for, as far as we know: a short log stays a short file

    # --- asking ---

    async def run(self, work: JobWork[T], *, small: bool = True) -> T:
        """The result of `work` once it is durable. Cancelling withdraws it if it hasn't begun, and waits for it if it has."""
        if self._closed:
            raise closed(self._path)
        if small and self._flush < _IN_PLACE_SECONDS and self._jobs.empty():
            job: Job[T] = Job(work, None)
            if self._in_place(job):
                return job.answer()
        loop = asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]  # the one that doesn't raise
        return await self._on_loop(work, loop) if loop else self._on_thread(work)

    def _on_thread(self, work: JobWork[T]) -> T:
        job = Job(work, None)
        job.ended.acquire()
        self._submit(job)
        job.ended.acquire()
        return job.answer()

    async def _on_loop(self, work: JobWork[T], loop: asyncio.AbstractEventLoop) -> T:
        job = Job(work, loop)
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = []
            loop.call_soon(self._hand_over, loop)
        gathered.append(job)
        try:
            await job.settled
        except asyncio.CancelledError:
            if not job.ticket.acquire(blocking=False):
                await job.end()
            raise
        return job.answer()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """All that this turn of the loop has asked for goes to the writer at once: that is what shares a flush."""
        if gathered := self._gathered.pop(loop, None):
            self._submit(*gathered)

    def _submit(self, *jobs: Job[Any]) -> None:
        self._jobs.put(jobs)
        if self._ended:
            self._refuse()
        elif self._thread is None:
            self._start()

    def _refuse(self) -> None:
        """Jobs that came after the writer's end are told so."""
        late = [job for job in _waiting(self._jobs) if job.ticket.acquire(blocking=False)]
        for job in late:
            job.error = closed(self._path)
        _settle(late)

    def _start(self) -> None:
        with self._thread_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, args=(self._jobs,), name="holdfast-writer", daemon=True)
                self._thread.start()

    def attempt(self, work: JobWork[T]) -> T:
        """The result of `work`, on this thread; `StoreUnavailable` at once where another process is writing or this one long."""
        if self._closed:
            raise closed(self._path)
        job: Job[T] = Job(work, None)
        if not self._in_place(job, _ATTEMPT_SECONDS):
            raise translate(self._path, apsw.BusyError())
        return job.answer()

    def _in_place(self, job: Job[Any], seconds: float = 0) -> bool:
        """Try `job` on this thread, without waiting for another process, `seconds` at most for this one's; False leaves it undone."""
        if not self._lock.acquire(timeout=seconds):
            return False
        try:
            self._patience.waits = False
            self._batch([job])
        except apsw.BusyError:
            return False
        except apsw.Error as error:
            job.error = translate(self._path, error)
        finally:
            self._patience.waits = True
            self._lock.release()
        self._tidy()
        return True

    def lend(self) -> Connection | None:
        """The write connection for a small read, where commits run in place and nobody uses it: it has in memory what they wrote.

        `take_back` must follow unless the answer is None.
        """
        if self._flush < _IN_PLACE_SECONDS and self._lock.acquire(blocking=False):
            if self._connection is not None:
                self._patience.waits = False
                return self._connection
            self._lock.release()
        return None

    def take_back(self) -> None:
        self._patience.waits = True
        self._lock.release()

    # --- doing ---

    def _loop(self, jobs: SimpleQueue[tuple[Job[Any], ...] | None]) -> None:
        while (first := jobs.get()) is not None:
            batch = [job for job in (*first, *_waiting(jobs)) if job.ticket.acquire(blocking=False)]
            if batch:
                with self._lock:
                    self._run(batch)
                _settle(batch)
            self._tidy()

    def _run(self, batch: list[Job[Any]]) -> None:
        try:
            self._batch(batch)
        except Exception as error:  # a failed transaction is each of its jobs' own answer, found out one by one
            if len(batch) == 1 or isinstance(error, apsw.BusyError):
                self._fail(batch, error)
            else:
                for job in batch:
                    self._run([job])

    def _fail(self, batch: list[Job[Any]], error: Exception) -> None:
        ours = translate(self._path, error) if isinstance(error, apsw.Error) else error
        ours.__cause__ = error if ours is not error else None
        for job in batch:
            job.error = ours

    def _batch(self, batch: list[Job[Any]]) -> None:
        connection = self._connection or self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in batch:
                job.run(connection)
            self._make_room(connection)
            started = time.perf_counter()
            connection.execute("COMMIT")
            self._flush += (min(time.perf_counter() - started, 1e-3) - self._flush) * 0.2
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.transactions += 1

    def _make_room(self, connection: Connection) -> None:
        """Keep the log's file longer than the log, where flushes count: one that makes a file longer takes twice the time.

        Called in a transaction that writes, when nobody else may add to the log. Zeros behind its end are not frames of it to any reader.
        """
        if self._wal_pages + _ROOM_AHEAD < self._room or self._flush < _SLOW_SECONDS or self._vfs is not None:
            return
        with suppress(OSError), open(connection.filename_wal, "r+b") as log:
            pages = log.seek(0, SEEK_END) // _FRAME
            if pages < self._wal_pages + _ROOM_AHEAD:
                pages += log.write(bytes(_FRAME * min(max(pages, _ROOM_AHEAD), _ROOM_STEP))) // _FRAME
            self._room = pages

    def _connect(self) -> Connection:
        connection = connect(self._path, patience=self._patience, synchronous=self._synchronous, vfs=self._vfs, writable=True)
        connection.set_wal_hook(self._committed)
        self._connection = connection
        return connection

    def _committed(self, connection: Any, database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _tidy(self) -> None:
        """Once the log is long, move it into the database on a thread of its own: commits go on meanwhile."""
        if self._wal_pages > _CHECKPOINT_PAGES and self._checkpointing.acquire(blocking=False):
            pages, self._wal_pages = self._wal_pages, 0
            threading.Thread(target=self._checkpoint, args=(pages,), name="holdfast-checkpoint", daemon=True).start()

    def _checkpoint(self, pages: int) -> None:
        """Writers have to wait for it only when a reader has let the log grow huge."""
        mode = apsw.SQLITE_CHECKPOINT_RESTART if pages > _RESET_PAGES else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            patience = Patience(self._patience.seconds)
            connection = connect(self._path, patience=patience, synchronous=self._synchronous, vfs=self._vfs, writable=True)
            try:
                connection.wal_checkpoint(mode=mode)
            finally:
                connection.close()
        except apsw.Error:
            pass  # the log stays as it is, whole, and the next commits ask again
        finally:
            self._checkpointing.release()

    # --- ending, forking ---

    def close(self) -> None:
        """Finish every job already asked for, then let go."""
        self._closed = True
        for loop in list(self._gathered):
            self._hand_over(loop)
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
        self._ended = True
        self._refuse()
        with self._checkpointing, self._lock:
            if self._connection is not None:  # whoever leaves a file last leaves it whole, without a log beside it
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._disconnect()

    def before_fork(self) -> None:
        self._checkpointing.acquire()
        self._lock.acquire()
        self._disconnect()

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._reset()
        else:
            self._lock.release()
            self._checkpointing.release()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _waiting(jobs: SimpleQueue[tuple[Job[Any], ...] | None]) -> Iterator[Job[Any]]:
    """What else is queued right now, about as much as should share a transaction; the end's mark goes back for the loop to find."""
    for _ in range(_BATCH):
        try:
            more = jobs.get_nowait()
        except Empty:
            return
        if more is None:
            jobs.put(None)
            return
        yield from more


def _settle(batch: list[Job[Any]]) -> None:
    """Wake every waiter: threads by their lock, the tasks of one loop by a single call into it."""
    loops: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in batch:
        if job.loop is None:
            job.ended.release()
        else:
            job.ended.acquire(blocking=False)
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with suppress(RuntimeError):  # that loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_wake, jobs)


def _wake(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        if not job.settled.done():
            job.settled.set_result(None)
