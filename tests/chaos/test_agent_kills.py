"""SIGKILL at every step of a run that calls tools, and at random moments: nothing stored is lost, nothing is done twice unasked."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import holdfast.sync
from holdfast import Message, ToolResult
from holdfast.models import OpenAIResponses
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, call

from ..agents.conftest import check_valid, sent

LEASE = 0.05
"""So short that a dead process is known for dead soon; a silent one loses its claim only to somebody who asks."""
BATCH_STEPS, ROW_STEPS = 18, 22
"""The commits of a run and its three effects, before and after each."""


class Warm:
    """A process that forks others, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.chaos.agent_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._expect("begun")  # the run with which it imports everything

    def close(self) -> None:
        self._in.close()
        self._process.wait(10)
        self._out.close()

    def run(self, job: dict[str, Any], *, kill_after: float | None = None) -> dict[str, Any]:
        """What the job's process says it gave; nothing when it was killed (at its step, or so many seconds after its beginning)."""
        print(json.dumps(job), file=self._in)
        self._expect("begun")
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(self._pid, signal.SIGKILL)
        gave: dict[str, Any] = {}
        while (said := self._next())[0] != "exited":
            if said[0] == "stopped":
                os.kill(self._pid, signal.SIGKILL)
            else:
                gave = said[2]
        return gave

    def _expect(self, what: str) -> None:
        said = self._next()
        assert said[0] == what, said
        self._pid = said[1]

    def _next(self) -> list[Any]:
        line = self._out.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)


@pytest.fixture(scope="module")
def warm() -> Generator[Warm]:
    process = Warm()
    yield process
    process.close()


def model(request: Request) -> Answer | str:
    """Pays three times, at once or one after the other."""
    said = sent(request)
    last = max(place for place, text in enumerate(said) if text in ("batch", "row", "follow"))
    done = sum(text.startswith("=") for text in said[last:])
    if said[last] == "follow":
        return "fine"
    if said[last] == "batch":
        return "done" if done else Answer(calls=tuple(Call("pay", {"n": n}) for n in (1, 2, 3)))
    return "done" if done == 3 else call("pay", n=done + 1)


class Course:
    """One session, its one run, and what is to be true of both."""

    def __init__(self, bed: Bed, prompt: str, *, idempotent: bool = False, careful: bool = True) -> None:
        self.bed = bed
        self.id = f"s{len(bed.courses)}"
        self.job: dict[str, Any] = bed.job | {"session": self.id, "run_id": "r", "prompt": prompt, "idempotent": idempotent}
        self.idempotent = idempotent
        self.careful = careful
        self.prompt = prompt
        self.results: list[Message] = []
        self.retried = Counter[int]()
        bed.courses.append(self)

    def killed(self, *, stop_at: int | None = None, kill_after: float | None = None, decisions: Any = ()) -> None:
        """A process that runs it, or goes on with it, dies."""
        job = self.job | {"stop_at": stop_at, "lease": LEASE, "decisions": list(decisions)}
        gave = self.bed.warm.run(job, kill_after=kill_after)
        assert kill_after is not None or not gave, f"the run never came to step {stop_at}: it has stored less often than it should"
        self.check_interrupted()

    def check_interrupted(self) -> None:
        """What a killed process leaves: the input once, and a status that is true."""
        session = self.bed.store.get(self.id)
        if session is None:
            assert not self.effects, "a tool ran before the input was stored"
            return
        deadline = time.monotonic() + 5
        while (status := self._status(session)) == "running" and time.monotonic() < deadline:
            time.sleep(LEASE / 5)
        log = session.get_messages()
        answered = log[-1].text == "done"
        assert status == ("completed" if answered else "paused" if status == "paused" else "interrupted"), (status, log)
        assert [it.text for it in log].count(self.prompt) == 1
        results = [it for it in log if it.role == "tool"]
        assert results[: len(self.results)] == self.results, "a stored result has gone or moved"
        self.results = results

    def _status(self, session: holdfast.sync.Session) -> str:
        session.refresh()
        (run,) = session.runs()
        return run.status

    def finish(self) -> None:
        """Go on with it in other processes, and decide what has to be decided, until it is completed."""
        gave = self.bed.warm.run(self.job)
        for _ in range(4):
            if gave["status"] != "paused":
                break
            assert not self.idempotent
            gave = self.bed.warm.run(self.job | {"decisions": self.decided(gave["asked"])})
        assert (gave["status"], gave["content"]) == ("completed", "done"), gave

    def decided(self, asked: list[Any]) -> list[dict[str, Any]]:
        """As people who look first whether it was done, or as people who do it again."""
        found: list[dict[str, Any]] = []
        for id, kind, n in asked:
            assert kind == "unknown"
            if self.careful and self.effects[n]:
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
        session = self.bed.store.session(self.id)
        log, (run,) = session.get_messages(), session.runs()
        assert run.status == "completed"
        assert [it.text for it in log].count(self.prompt) == [it.text for it in log].count("done") == 1
        assert [it for it in log if it.role == "tool"][: len(self.results)] == self.results
        given = [part.response for it in log for part in it.parts if isinstance(part, ToolResult)]
        assert sorted(given) == ["paid 1", "paid 2", "paid 3"]
        assert session.info.waiting is False
        effects = self.effects
        assert set(effects) == {1, 2, 3}
        if not self.idempotent:
            assert all(effects[n] <= 1 + self.retried[n] for n in effects), (effects, self.retried)
        if self.careful and not self.idempotent:
            assert set(effects.values()) == {1}, effects


class Bed:
    """A store on disk, a model, a process that forks, and the courses of a test."""

    def __init__(self, warm: Warm, server: ModelServer, folder: Path) -> None:
        self.warm, self.server = warm, server
        url, effects = f"sqlite:///{folder}/chat.db", folder / "effects"
        effects.touch()
        self.store = holdfast.sync.Store.open(url)
        self.job = {"url": url, "base_url": server.base_url, "effects": str(effects)}
        self.courses: list[Course] = []

    def check(self) -> None:
        """Every course ends well, each session goes on, and everything the model was asked was valid."""
        for course in self.courses:
            course.finish()
            course.check_finished()
        agent = holdfast.sync.Agent(OpenAIResponses(id="m", base_url=self.server.base_url, api_key="none"), store=self.store)
        for course in self.courses:
            assert agent.run("follow", session_id=course.id, wait=0).content == "fine"
        for request in self.server.requests:
            check_valid(request)
        assert self.store.call(self.store.aio.backend.check()) == []  # type: ignore[attr-defined]


@pytest.fixture
def bed(warm: Warm, tmp_path: Path) -> Generator[Bed]:
    with ModelServer(model) as server:
        made = Bed(warm, server, tmp_path)
        with made.store:
            yield made


@pytest.mark.parametrize(("prompt", "steps"), [("batch", BATCH_STEPS), ("row", ROW_STEPS)])
def test_a_kill_at_every_step(bed: Bed, prompt: str, steps: int) -> None:
    whole = Course(bed, prompt)
    assert bed.warm.run(whole.job | {"stop_at": steps})["status"] == "completed", f"there are more than {steps} steps"
    whole.check_interrupted()
    for step in range(steps):
        Course(bed, prompt, careful=step % 2 == 0).killed(stop_at=step)
    assert len(whole.bed.store.list(limit=100).items) == steps  # all but the one that was killed before its first commit
    bed.check()


def test_kills_at_random_moments_of_runs_and_of_what_goes_on_with_them(bed: Bed) -> None:
    courses = [Course(bed, prompt, idempotent=n % 3 == 0, careful=n % 2 == 0) for n in range(6) for prompt in ("batch", "row")]
    began = time.monotonic()
    courses[0].finish()
    long = time.monotonic() - began
    for course in courses:
        for _ in range(2):
            course.killed(kill_after=random.uniform(0, long))
    bed.check()


@pytest.mark.parametrize("step", range(0, 10, 3))
def test_a_kill_between_a_decision_and_its_effect(bed: Bed, step: int) -> None:
    """A decision is used once: what was decided and broken off is asked again, not done again."""
    course = Course(bed, "row", careful=False)
    course.killed(stop_at=6)
    gave = bed.warm.run(course.job)
    assert gave["status"] == "paused"
    course.killed(stop_at=step, decisions=course.decided(gave["asked"]))
    bed.check()
