"""SIGKILL at the steps of teams and workflows, and at random moments: no stored step or tool is done again by itself."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import holdfast.sync
from holdfast import ToolResult
from holdfast.testing.model_server import ModelServer

from ..agents.conftest import check_valid
from .flow_child import rule
from .test_agent_kills import LEASE, Warm

EFFECTS = {"team": {1, 2}, "shared": {1, 2}, "flow": {1, 2, 3}}


class WarmFlows(Warm):
    """A process that forks others, which run flows."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.chaos.flow_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        while self._next()[0] != "warm":
            pass


@pytest.fixture(scope="module")
def warm() -> Generator[WarmFlows]:
    process = WarmFlows()
    yield process
    process.close()


class Course:
    """One run of a flow, killed and gone on with, and what is to be true of it."""

    def __init__(self, bed: Bed, kind: str, *, careful: bool = True, confirm: bool = False) -> None:
        self.bed, self.kind, self.careful = bed, kind, careful
        self.id = f"s{len(bed.courses)}"
        self.job: dict[str, Any] = bed.job | {"session": self.id, "run_id": "r", "kind": kind, "confirm": confirm}
        self.retried = Counter[int]()
        self.stored: dict[str, list[Any]] = {}
        bed.courses.append(self)

    def killed(self, *, decisions: Any = (), stop_at: int | None = None, kill_after: float | None = None) -> None:
        """A process that runs it, or goes on with it, dies; what was stored before is still there."""
        self.bed.warm.run(self.job | {"lease": LEASE, "decisions": list(decisions), "stop_at": stop_at}, kill_after=kill_after)
        self.check_kept()

    def check_kept(self) -> None:
        """Every result that was seen is there, in its place among the results of its session."""
        for info in self.bed.store.sessions():
            if info.id == self.id or info.id.startswith(f"{self.id}/"):
                session = self.bed.store.get(info.id)
                assert session is not None
                found = [(part.id, part.response) for it in session.get_messages() for part in it.parts if isinstance(part, ToolResult)]
                seen = self.stored.setdefault(info.id, [])
                assert found[: len(seen)] == seen, "a stored result has gone or moved"
                self.stored[info.id] = found

    def finish(self) -> None:
        """Go on with it in other processes, and decide what has to be decided, until it is completed."""
        gave = self.bed.warm.run(self.job | {"lease": LEASE})
        for _ in range(8):
            if gave["status"] != "paused":
                break
            gave = self.bed.warm.run(self.job | {"lease": LEASE, "decisions": self.decided(gave["asked"])})
        assert (gave["status"], gave["content"]) == ("completed", "done"), gave

    def decided(self, asked: list[Any]) -> list[dict[str, Any]]:
        """As people who look first whether it was done, or as people who do it again."""
        found: list[dict[str, Any]] = []
        for id, kind, n in asked:
            if kind == "confirmation":
                found.append({"requirement": id, "outcome": "approve"})
            elif self.careful and self.effects[n]:
                found.append({"requirement": id, "outcome": "supply", "value": f"paid {n}"})
            else:
                self.retried[n] += 1
                found.append({"requirement": id, "outcome": "retry"})
        return found

    @property
    def effects(self) -> Counter[int]:
        """How often each payment was made."""
        lines = [line.split() for line in Path(self.job["effects"]).read_text().splitlines()]
        return Counter(int(n) for id, n in lines if id == self.id)

    def check_finished(self) -> None:
        self.check_kept()
        effects = self.effects
        assert set(effects) == EFFECTS[self.kind]
        assert all(times <= 1 + self.retried[n] for n, times in effects.items()), (effects, self.retried)
        if self.careful:
            assert set(effects.values()) == {1}, effects
        for id in self.stored:
            session = self.bed.store.get(id)
            assert session is not None
            assert (session.info.waiting, session.requirements()) == (False, [])
            assert {run.status for run in session.runs()} == {"completed"}
            calls = [part[0] for part in self.stored[id]]
            assert len(calls) == len(set(calls)), "two results for one call"


class Bed:
    """A store on disk, a model, a process that forks, and the courses of a test."""

    def __init__(self, warm: Warm, server: ModelServer, folder: Path) -> None:
        self.warm, self.server = warm, server
        url, effects = f"sqlite:///{folder}/chat.db", folder / "effects"
        effects.touch()
        self.store = holdfast.sync.Store.open(url)
        self.job = {"url": url, "base_url": server.base_url, "effects": str(effects)}
        self.courses: list[Course] = []

    def steps(self, kind: str) -> int:
        """How many steps a whole run has."""
        whole = Course(self, kind)
        gave = self.warm.run(whole.job)
        assert gave["status"] == "completed", gave
        return gave["steps"]

    def check(self) -> None:
        for course in self.courses:
            course.finish()
            course.check_finished()
        for request in self.server.requests:
            check_valid(request)
        assert self.store.call(self.store.aio.backend.check()) == []  # type: ignore[attr-defined]


@pytest.fixture
def bed(warm: WarmFlows, tmp_path: Path) -> Generator[Bed]:
    with ModelServer(rule) as server:
        made = Bed(warm, server, tmp_path)
        with made.store:
            yield made


@pytest.mark.parametrize(("kind", "stride"), [("team", 2), ("shared", 3), ("flow", 2)])
def test_a_kill_at_the_steps_of_a_flow(bed: Bed, kind: str, stride: int) -> None:
    steps = bed.steps(kind)
    for step in range(0, steps, stride):
        Course(bed, kind, careful=step % 4 != 0).killed(stop_at=step)
    bed.check()


def test_kills_at_random_moments_of_flows_and_of_what_goes_on_with_them(bed: Bed) -> None:
    began = time.monotonic()
    bed.steps("flow")
    long = time.monotonic() - began
    for n in range(6):
        course = Course(bed, ("team", "flow", "shared")[n % 3], careful=n % 2 == 0)
        for _ in range(2):
            course.killed(kill_after=random.uniform(0, long))
    bed.check()


@pytest.mark.parametrize("kind", ["team", "flow"])
def test_a_kill_between_a_persons_consent_and_its_effect(bed: Bed, kind: str) -> None:
    for step in range(1, 16, 3):
        course = Course(bed, kind, confirm=True)
        gave = bed.warm.run(course.job | {"lease": LEASE})
        assert gave["status"] == "paused", gave
        course.killed(stop_at=step, decisions=course.decided(gave["asked"]))
    bed.check()
