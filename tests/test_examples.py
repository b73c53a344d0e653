"""The examples as a newcomer runs them; those of one framework are run by the tests of its adapter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("agents", reason="the openai-agents extra is not installed")
pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from examples import agent_app, agent_app_sync, demo, one_conversation, openai_agents_app
from holdfast.testing.model_server import ModelServer

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


def run(example: str, folder: Path, said: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
    """The example on a database in `folder`, with `said` typed in."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, example, f"sqlite:///{folder / 'chat.db'}"]
    return subprocess.run(command, env=clean | env, input=said, capture_output=True, text=True, timeout=60, check=False)


def test_one_conversation_in_two_frameworks(tmp_path: Path) -> None:
    done = run(one_conversation.__file__, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)


@pytest.mark.parametrize("app", [agent_app.__file__, agent_app_sync.__file__, openai_agents_app.__file__], ids=lambda it: Path(it).stem)
def test_a_desk_goes_on_where_it_was_closed(app: str, tmp_path: Path) -> None:
    with ModelServer(demo.scripted) as server:
        model = {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "none",
            "NO_PROXY": "127.0.0.1",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        }
        first = run(app, tmp_path, "Where is my order 1007?\n\n", **model)
        second = run(app, tmp_path, "Which city did you say?\nPlease refund it.\n", **model)
    assert (first.stdout, first.stderr, first.returncode) == ("desk> [scripted] Order 1007: a blue kettle, now in Leipzig.\n", "", 0)
    assert second.stdout.splitlines() == [
        "desk> [scripted] Leipzig.",
        "desk> [scripted] Refund R-1007 started for order 1007 (broken).",
    ]
