"""Several processes on one port, and one that looks after them.

They share the socket that listens, so a connection that waits to be accepted outlives any of them. Whoever dies is replaced. To restart
all, a new one is begun, and once it answers an old one is told to stop: there is never one less. When this process dies, they stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from prometheus_client.multiprocess import mark_process_dead  # pyright: ignore[reportUnknownVariableType]  # it has no types

from .metrics import FOLDER

log = logging.getLogger("holdfast.server")
_QUICK, _LONGEST = 5.0, 30.0
"""A worker that lives less than so many seconds is replaced later each time, at most so many seconds later."""


class Wires(msgspec.Struct, frozen=True, array_like=True):
    """What a worker inherits, by descriptor: the socket, where it says that it answers, and where it sees that this process has died."""

    listening: int
    ready: int
    parent: int

    @classmethod
    def parse(cls, text: str) -> Wires:
        return cls(*map(int, text.split(",")))

    def say(self, about: dict[str, Any]) -> None:
        """The worker answers requests."""
        os.write(self.ready, msgspec.json.encode(about) + b"\n")
        os.close(self.ready)


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.began = time.monotonic()
        self.stopping = False
        self.about: dict[str, Any] | None = None

    def stop(self, sig: int = signal.SIGTERM) -> None:
        self.stopping = True
        with suppress(ProcessLookupError):
            self.process.send_signal(sig)


class Workers:
    """`run()` keeps `count` workers, begun by `command` and the descriptors of `Wires`, until a signal says to stop; the exit code.

    SIGHUP replaces all of them, one by one. `ready` is told, once they answer, what they say of themselves.
    """

    def __init__(self, command: Sequence[str], count: int, listening: socket.socket, ready: Callable[[dict[str, Any]], None]) -> None:
        self._command, self._count, self._listening, self._ready = command, count, listening, ready
        self._workers = set[_Worker]()
        self._tended = set[asyncio.Task[None]]()
        self._signals = 0
        self._stop, self._roll = asyncio.Event(), asyncio.Event()
        self._seen_by_all, self._alive = os.pipe()

    async def run(self) -> int:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            os.environ.setdefault(FOLDER, folder)  # so that whichever worker is asked tells the figures of all
            loop = asyncio.get_running_loop()
            for sig in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(sig, self._told_to_stop)
            loop.add_signal_handler(signal.SIGHUP, self._roll.set)
            try:
                return await self._run()
            finally:
                for it in self._workers:
                    it.stop(signal.SIGKILL)
                os.close(self._alive)
                os.close(self._seen_by_all)

    async def _run(self) -> int:
        first = await self._begin()
        if first.about is None:
            return 0 if self._stop.is_set() else await first.process.wait()
        more = await asyncio.gather(*[self._begin() for _ in range(self._count - 1)])
        if not self._stop.is_set():
            self._ready(first.about)
        for it in (first, *more):
            self._tend(it)
        rolling = asyncio.create_task(self._rolling())
        await self._stop.wait()
        rolling.cancel()
        self._listening.close()
        while self._tended:
            await asyncio.wait(self._tended)
        return 0

    def _told_to_stop(self) -> None:
        """The workers count the signals that reach them as any server does."""
        self._signals += 1
        self._stop.set()
        for it in list(self._workers):
            it.stop(signal.SIGKILL if self._signals > 2 else signal.SIGTERM)

    async def _begin(self) -> _Worker:
        """A worker that answers; `about` is None for one that died before it did."""
        reading, writing = os.pipe()
        wires = (self._listening.fileno(), writing, self._seen_by_all)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                ",".join(map(str, wires)),
                pass_fds=wires,
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for this process, which passes it on in its own way
            )
        finally:
            os.close(writing)
        worker = _Worker(process)
        self._workers.add(worker)
        if self._stop.is_set():
            worker.stop()
        worker.about = await _line(reading)
        if worker.about is None:
            await process.wait()
            self._workers.discard(worker)
        return worker

    def _tend(self, worker: _Worker) -> None:
        task = asyncio.create_task(self._tended_to(worker))
        self._tended.add(task)
        task.add_done_callback(self._tended.discard)

    async def _tended_to(self, worker: _Worker) -> None:
        """One place, until its worker is told to stop: one that dies is replaced."""
        delay = 0.0
        while True:
            code = await worker.process.wait()
            self._workers.discard(worker)
            mark_process_dead(worker.process.pid, os.environ[FOLDER])
            if worker.stopping:
                return
            log.error("a worker has died and is replaced: pid=%s exit=%s", worker.process.pid, code)
            delay = min(max(2 * delay, 0.5), _LONGEST) if time.monotonic() - worker.began < _QUICK else 0.0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
            if self._stop.is_set():
                return
            worker = await self._begin()

    async def _rolling(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            for old in [it for it in self._workers if it.about is not None and not it.stopping]:
                new = await self._begin()
                if new.about is None:
                    log.error("a new worker does not begin, the old ones stay: exit=%s", new.process.returncode)
                    break
                self._tend(new)
                old.stop()
            else:
                log.info("all workers are new")


async def _line(descriptor: int) -> dict[str, Any] | None:
    """The one line that comes by a pipe, None where it ends without."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
    try:
        line = await reader.readline()
    finally:
        transport.close()
    return msgspec.json.decode(line) if line.endswith(b"\n") else None


def watch_parent(descriptor: int, gone: Callable[[], None]) -> None:
    """Call `gone` when the process that looks after this one has died."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        loop.remove_reader(descriptor)
        gone()

    loop.add_reader(descriptor, look)
