"""`POST /run` of our server beside the same of agno's AgentOS: both on SQLite, with a model that answers at once, asked in turn.

agno is installed in a folder of its own, once: its dependencies need not agree with ours.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import msgspec

HERE = Path(__file__).parent
AGNO = HERE.parent / ".judges" / "bench-agno"
PACKAGES = ("agno[os]==3.1.10", "greenlet", "sqlalchemy")
THEIRS = "agno AgentOS"
OURS = {"Holdfast, pydantic-ai": "pydantic-ai", "Holdfast, an engine that costs nothing": "instant"}
Ask = Callable[[], None]


class Measured(msgspec.Struct, frozen=True):
    """Seconds of a request that comes alone, the median; and requests a second from four callers of it at once."""

    alone: dict[str, float]
    together: dict[str, float]


def python_with_agno() -> Path:
    """The Python that has it, made if need be."""
    python = AGNO / "bin" / "python"
    if not (AGNO / "ready").exists():
        venv.create(AGNO, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
        (AGNO / "ready").touch()
    return python


@contextmanager
def served(command: list[str]) -> Generator[None]:
    """A server process, from when it answers until the block ends; its port is the last but one, or last, number among the words."""
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "filled" not in (line := process.stdout.readline()):
            if not line:
                raise RuntimeError(f"{command[1]} ended before it had filled its database")
        _wait(int(next(word for word in reversed(command) if word.isdecimal())))
        yield
    finally:
        process.kill()
        process.wait()


def _wait(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asking(name: str, port: int, session_id: str = "s") -> Ask:
    """One request to this server over a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    question = "q" * 200
    if name == THEIRS:
        path, kind = "/agents/desk/runs", "application/x-www-form-urlencoded"
        body = urlencode({"message": question, "session_id": session_id, "user_id": "u", "stream": "false"})
    else:
        path, kind = "/run", "application/json"
        body = json.dumps({"agent": "desk", "message": question, "session_id": session_id})

    def ask() -> None:
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{name} answered {answer.status}: {text[:300]!r}")

    return ask


def measure(folder: Path, past: int, rounds: int) -> Measured:
    """Requests to a session of `past` runs: one of each server in turn, then for some seconds each, in turn too."""
    ports = {name: free_port() for name in (THEIRS, *OURS)}
    with ExitStack() as stack:
        for name, port in ports.items():
            database = str(folder / f"{port}-{past}.db")
            script = [str(python_with_agno()), "bench/agno_server.py"] if name == THEIRS else [sys.executable, "-m", "bench.our_server"]
            stack.enter_context(served([*script, database, str(past), str(port), *([OURS[name]] if name in OURS else [])]))
        return Measured(_alone(ports, rounds), _together(ports, max(rounds // 20, 2)))


def _alone(ports: dict[str, int], rounds: int) -> dict[str, float]:
    asks = {name: asking(name, port) for name, port in ports.items()}
    times: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(rounds + 5):
        for name, ask in asks.items():
            start = time.perf_counter()
            ask()
            if number >= 5:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _together(ports: dict[str, int], rounds: int) -> dict[str, float]:
    """Four callers on the long session at once; each server has a second, then the next, and again."""
    counts: dict[str, list[int]] = {name: [] for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            counts[name].append(_in_a_second([asking(name, port) for _ in range(4)]))
    return {name: statistics.median(values) for name, values in counts.items()}


def _in_a_second(asks: list[Ask]) -> int:
    done, end = [0] * len(asks), time.perf_counter() + 1

    def work(place: int) -> None:
        while time.perf_counter() < end:
            asks[place]()
            done[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(asks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)
