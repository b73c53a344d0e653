"""A model for every test here: a server that answers from what it is sent, found by the environment as a real one is."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from holdfast.sync import Store
from holdfast.testing.model_server import Answer, ModelServer, Request, call

AGENT, TEAM, KERNEL = "sqlite:///tmp/agent.db", "sqlite:///tmp/team.db", "sqlite:///tmp/kernel.db"


def text_of(item: dict[str, Any]) -> str:
    """What one item of a request says."""
    content = item.get("content", item.get("output", ""))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def texts(request: Request) -> list[str]:
    """What the model was sent, without instructions."""
    return [text_of(item) for item in request.input if item.get("role") != "system"]


def recalling(request: Request) -> Answer | str:
    """Knows a name and a number only if the conversation it is sent tells of them; the first tool is called when asked to look up."""
    last, whole = request.input[-1], " ".join(texts(request))
    if last.get("type") == "function_call_output":
        return f"I looked: {last['output']}"
    question = text_of(last)
    if "look up" in question:
        name = str(request.body["tools"][0]["name"])
        return call(name, member="desk", task=question) if name == "delegate" else call(name)
    if "?" in question:
        name, number = (re.search(pattern, whole) for pattern in (r"name is (\w+)", r"number is (\d+)"))
        return f"{name[1] if name else 'I do not know your name'}, {number[1] if number else 'no number'}."
    return f"You said: {question}"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[ModelServer]:
    """The server, where a client without arguments looks for its model; the test has a folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    Path("tmp").mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with ModelServer(recalling) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server
    for url in (AGENT, TEAM, KERNEL):  # the process has one store for each URL: the next test's is in another folder
        Store.shared(url).close()
