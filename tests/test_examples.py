"""The examples as a newcomer runs them; those of one framework are run by the tests of its adapter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("agents", reason="the openai-agents extra is not installed")
pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from examples import one_conversation

PRINTED = """\
OpenAI Agents SDK was sent 1 messages
LangGraph was sent 3 messages
OpenAI Agents SDK was sent 5 messages
LangGraph was sent 7 messages

openai-agents  user      Where is my order 1007?
openai-agents  assistant A blue kettle, in Leipzig.
langgraph      user      Has it left?
langgraph      assistant Today.
openai-agents  user      Thank you.
openai-agents  assistant You are welcome.
langgraph      user      When will it be here?
langgraph      assistant Tomorrow.
"""


def test_one_conversation_in_two_frameworks(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, one_conversation.__file__, f"sqlite:///{tmp_path / 'chat.db'}"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)
