"""Processes of a clause's own: forked from a server that has imported everything, so that one costs milliseconds."""

from __future__ import annotations

import asyncio
import multiprocessing
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_context: Any = multiprocessing.get_context(_METHOD)
if _METHOD == "forkserver":
    _drivers = [f"holdfast.backends.{name}" for name in ("dynamodb", "postgres", "redis", "sqlite")]
    _context.set_forkserver_preload(["__main__", "holdfast.testing", *_drivers])  # one that isn't installed is left out

Pipe = Connection


class Child:
    """A process that runs `target(*arguments, pipe)`; use it in a `with` block, which ends it."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=target, args=(*arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.pipe.close()
        self._process.close()

    async def said(self) -> Any:
        """What the process sends next; `EOFError` once it has ended."""
        while not await asyncio.to_thread(self.pipe.poll, 0.5):  # in short waits, so that a timeout can end it
            pass
        return self.pipe.recv()

    def rest(self) -> list[Any]:
        """Everything an ended process had sent."""
        found: list[Any] = []
        try:
            while True:
                found.append(self.pipe.recv())
        except (EOFError, OSError):
            return found

    def kill(self) -> None:
        """SIGKILL, now; returns when the process is gone."""
        self._process.kill()
        self._process.join()


async def in_processes(work: Callable[..., Awaitable[Any]], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run the coroutine function `work` once per tuple of arguments, each in a process of its own, all at the same time."""
    children = [Child(_run, work, each) for each in arguments]
    try:
        return [_result(await child.said()) for child in children]
    finally:
        for child in children:
            child.__exit__()


def _run(work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...], pipe: Pipe) -> None:
    try:
        pipe.send((asyncio.run(_awaited(work, arguments)), None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))


async def _awaited(work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
    return await work(*arguments)


def _result(said: tuple[Any, str | None]) -> Any:
    result, trouble = said
    assert trouble is None, f"in another process: {trouble}"
    return result
