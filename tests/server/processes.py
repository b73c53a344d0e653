"""`holdfast serve` as a process of its own, over a model that stays in the test's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.testing.model_server import ModelServer

DESK = """
import os

from holdfast import Agent
from holdfast.agents import tool
from holdfast.models import OpenAIChat


@tool(confirm=True)
def refund(order: str) -> str:
    "Give the money back."
    return f"{order} refunded"


def look(order: str) -> str:
    "Where an order is."
    return f"{order} has shipped"


desk = Agent(OpenAIChat(id="gpt-5.2", base_url=os.environ["MODEL"], api_key="none"), name="desk", tools=[look, refund])
"""


class Process:
    """A server that answers; `about` is what it said of itself."""

    def __init__(self, process: subprocess.Popen[str], about: dict[str, Any]) -> None:
        self.process, self.about = process, about
        self.url: str = about["url"]

    @property
    def workers(self) -> set[int]:
        """The processes that it has begun and that live."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        return {int(it) for it in told if _lives(int(it))}

    def signal(self, sig: int) -> None:
        self.process.send_signal(sig)

    def ended(self, within: float = 20) -> int:
        """Its exit code."""
        return self.process.wait(within)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def command(folder: Path, *words: str) -> list[str]:
    (folder / "desk.py").write_text(DESK, "utf-8")
    return [sys.executable, "-c", "from holdfast.cli import main; main()", "serve", *words]


def environment(model: ModelServer | None, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "OPENAI_", "AK_"))}
    return clean | {"MODEL": model.base_url if model else "", "NO_PROXY": "127.0.0.1", "HOLDFAST_SERVER__LIMITS__RATE": "0"} | more


@contextmanager
def served(folder: Path, model: ModelServer, *words: str, **env: str) -> Generator[Process]:
    """`holdfast serve desk.py` with more words, once it answers; killed at the end if it is still there."""
    log = (folder / "serve.log").open("a")
    process = subprocess.Popen(
        command(folder, "desk.py", "--port", "0", "--json", *words),
        cwd=folder,
        env=environment(model, **env),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    it: Process | None = None
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "serve.log").read_text("utf-8")
        it = Process(process, json.loads(line))
        yield it
    finally:
        workers = it.workers if it is not None and process.poll() is None else set[int]()
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            for pid in (*workers, process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        log.close()


def until(there: Any, within: float = 20) -> None:
    """Wait for this to be true."""
    end = time.monotonic() + within
    while not there():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
