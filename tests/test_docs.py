"""The documentation is code: every `python` block runs, in order, and prints what the `output` block after it says.

Where a page asks for a model, a server of ours answers, from what it is sent: the pages need no key and no setting.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from holdfast.sync import Store
from holdfast.testing.model_server import Answer, ModelServer, Request, call

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "migrate").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```output\n(?P<output>.*?)^```)?", re.MULTILINE | re.DOTALL)
STORE = re.compile(r'"(sqlite:///[^"?]+)"')


def desk(request: Request) -> Answer | str:
    """A model at an order desk. It knows what it is sent, and asks for the tools it has."""
    texts = [str(item.get("content", item.get("output", ""))) for item in request.input]
    last, question = request.input[-1], texts[-1]
    tools = [tool.get("name") or tool["function"]["name"] for tool in request.body.get("tools", ())]
    if "Name the conversation" in str(request.body.get("instructions")):
        return "A kettle from Leipzig"
    if "Sum up a conversation" in str(request.body.get("instructions")):
        return "The user said: I am Ada. There is a cat."
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return "Which order?" if "has the conversation now" in question else question
    if "hand_over" in tools and "take over" in question:
        return call("hand_over", agent="orders", reason="an order")
    if "search_past_sessions" in tools and "remember" in question:
        return call("search_past_sessions", query=question)
    if "delegate" in tools:
        return call("delegate", member="orders", task=question)
    for word, name in (("refund", "refund"), ("order", "find_order")):
        if word in question and name in tools:
            return call(name, order_id="1007")
    if question == "Who am I?":
        name = re.search(r"I am (\w+)", " ".join(texts))
        return f"You are {name[1]}." if name else "I do not know."
    return "Hello."


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Generator[ModelServer]:
    """The desk, where a client without arguments looks for its model."""
    with ModelServer(desk) as server:
        for name, value in (("OPENAI_BASE_URL", server.base_url), ("OPENAI_API_KEY", "none"), ("NO_PROXY", "127.0.0.1")):
            monkeypatch.setenv(name, value)
        yield server


async def run(code: str, names: dict[str, Any], where: str) -> str:
    """What the block prints; it may await, and its names stay for the next one."""
    printed = io.StringIO()
    compiled = compile(code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(printed):
        result = eval(compiled, names)
        if inspect.isawaitable(result):
            await result
    return printed.getvalue()


def pages_with_code() -> list[Path]:
    return [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}

    text = page.read_text("utf-8")

    async def whole() -> None:
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            printed = await run(block["code"], names, f"{page.name}:{line}")
            if block["output"] is not None:
                assert printed == block["output"], f"{page.name}:{line}"

    asyncio.run(whole())
    for url in STORE.findall(text):  # the process has one store for each URL: the next page's is in another folder
        Store.shared(url).close()


def test_no_page_links_to_a_missing_file() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing
