"""The OpenAI Agents SDK's own tests of sessions, on every database."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ..judges.openai_agents.test_suite import HERE, SDK, complaints, expected

FILES = (
    "memory/test_session.py",
    "memory/test_session_limit.py",
    "memory/test_openai_responses_compaction_session.py",
    "memory/test_compaction_suffix.py",
    "extensions/memory/test_encrypt_session.py",
    "test_hitl_session_scenario.py",
)
ENOUGH, FEW = 100, 10


def test_the_sdks_own_tests_of_sessions_pass(url: str, tmp_path: Path) -> None:
    root, report = SDK.unpack(tmp_path, "tests", "pyproject.toml"), tmp_path / "report.json"
    files, enough = (FILES, ENOUGH) if url.startswith("redis") else (FILES[:1], FEW)  # how they are stored does not depend on the rest
    command = [sys.executable, "-m", "pytest", "-q", "-p", "swap", "-p", "no:cacheprovider", "--tb=short"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "JUDGE_REPORT": str(report), "JUDGE_STORE": url}
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    outcomes = json.loads(report.read_text("utf-8"))
    known = {test: reason for test, reason in expected().items() if test in outcomes}
    assert complaints(outcomes, known, enough=enough) == [], done.stdout[-50_000:]
