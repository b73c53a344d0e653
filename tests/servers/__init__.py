"""Real servers that the tests start themselves, on loopback and free ports, and stop by their process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 30.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(ready: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Return once `ready()` is true; `TimeoutError` names `what` was waited for."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


@contextmanager
def serving(
    command: Sequence[str], ready: Callable[[], bool], *, log: Path, env: dict[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """The server `command` starts, for the length of the block; what it prints is in `log`, and in the error if it does not come up."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=os.environ | (env or {}))

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read_text('utf-8', 'replace')[-2000:]}")
        return ready()

    try:
        wait_until(up, command[0])
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
