"""The SDK's own suite with our sessions in the place of its own."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.judges.sources import Source

SDK = Source(
    project="openai-agents",
    version="0.24.0",
    sha256="4b4b285f4fed81fdf1b4ac426a9101658d9cd29b4fb1aaeee18f639b77e704e3",
    file="openai_agents-0.24.0.tar.gz",
)
FILES = (
    "memory/test_session.py",
    "memory/test_session_limit.py",
    "memory/test_openai_responses_compaction_session.py",
    "memory/test_compaction_model_visibility.py",
    "memory/test_compaction_suffix.py",
    "extensions/memory/test_encrypt_session.py",
    "deferred_session_writes",
    "test_agent_runner.py",
    "test_agent_runner_streamed.py",
    "test_cancel_streaming.py",
    "test_handoff_history_duplication.py",
    "test_hitl_session_scenario.py",
    "test_max_turns.py",
    "test_native_tool_failure_history.py",
    "test_programmatic_tool_calling.py",
    "test_run_impl_resume_paths.py",
    "test_runner_guardrail_resume.py",
    "test_soft_cancel.py",
    "test_tool_batch_failure_history.py",
    "test_tool_failure_boundaries.py",
)
ENOUGH = 850
"""So many tests must have made one of our sessions and passed: fewer, and the swap has stopped working."""
HERE = Path(__file__).parent


def expected() -> dict[str, str]:
    """The tests that can't pass, each with its reason."""
    groups = tomllib.loads((HERE / "expected.toml").read_text("utf-8"))["failures"]
    return {test: group["reason"] for group in groups for test in group["tests"]}


def complaints(outcomes: dict[str, str], expected: dict[str, str], *, enough: int = ENOUGH) -> list[str]:
    """What is not as expected, in either direction."""
    failed = {test for test, outcome in outcomes.items() if outcome == "failed"}
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    return [
        *(f"failed: {test}" for test in sorted(failed - expected.keys())),
        *(f"expected to fail and didn't: {test}" for test in sorted(expected.keys() - failed)),
        *([f"only {passed} tests that made one of our sessions passed, not {enough}"] if passed < enough else []),
    ]


def test_the_sdks_own_suite_passes_with_our_sessions(tmp_path: Path) -> None:
    root, report = SDK.unpack(tmp_path, "tests", "pyproject.toml"), tmp_path / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "swap", "-p", "no:cacheprovider", "--tb=short"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "JUDGE_REPORT": str(report)}
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in FILES)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    assert complaints(json.loads(report.read_text("utf-8")), expected()) == [], done.stdout[-50_000:]


def test_a_change_in_either_direction_is_a_complaint() -> None:
    outcomes = {f"t{number}": "passed" for number in range(ENOUGH)} | {"known": "failed"}
    assert complaints(outcomes, {"known": "private"}) == []
    assert complaints(outcomes | {"t0": "failed"}, {"known": "private"}) == ["failed: t0", f"only {ENOUGH - 1} {TOO_FEW}"]
    assert complaints(outcomes | {"known": "passed"}, {"known": "private"}) == ["expected to fail and didn't: known"]
    assert complaints({}, {}) == [f"only 0 {TOO_FEW}"]


TOO_FEW = f"tests that made one of our sessions passed, not {ENOUGH}"
