"""The documentation is code: every `python` block runs, in order, and prints what the `output` block after it says."""

import ast
import asyncio
import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```output\n(?P<output>.*?)^```)?", re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: page.name)
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


def test_no_page_links_to_a_missing_file() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing
