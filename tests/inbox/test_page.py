"""The page as it is served: what a browser is told of it, and what it is made of."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import holdfast.server.inbox
from holdfast import Agent, Store
from holdfast.models import OpenAIResponses
from holdfast.runtime import Runtime
from holdfast.runtime.settings import ServerSettings
from holdfast.server import create_app

STATIC = Path(holdfast.server.inbox.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
LARGEST = 150_000


@asynccontextmanager
async def client(*, inbox: bool = True) -> AsyncGenerator[httpx.AsyncClient]:
    runtime = Runtime(Store.open("memory://"))
    runtime.register(Agent(OpenAIResponses(id="gpt-5.2", api_key="none"), name="desk"))
    transport = httpx.ASGITransport(create_app(runtime, ServerSettings(inbox=inbox)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as it:
        yield it


@pytest.mark.parametrize("path", ["/", "/inbox"])
async def test_the_page_may_run_its_own_files_only(path: str) -> None:
    async with client() as it:
        answer = await it.get(path)
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert "default-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r"(?:https?:)?//\w", answer.text) == []


async def test_every_file_it_names_is_there_and_asked_for_again() -> None:
    async with client() as it:
        for path in FILES:
            answer = await it.get(f"/inbox/static/{path.name}")
            assert answer.content == path.read_bytes()
            assert answer.headers["cache-control"] == "no-cache"
            again = await it.get(f"/inbox/static/{path.name}", headers={"if-none-match": answer.headers["etag"]})
            assert again.status_code == 304
        assert (await it.get("/inbox/static/../__init__.py")).status_code == 404


async def test_without_the_inbox_there_is_no_page() -> None:
    async with client(inbox=False) as it:
        assert [(await it.get(path)).status_code for path in ("/", "/inbox", "/inbox/static/main.js")] == [404, 404, 404]
        assert (await it.get("/agents")).status_code == 200


@pytest.mark.parametrize("path", FILES, ids=lambda it: it.name)
def test_nothing_turns_text_into_markup_or_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\(\"style\"|style=", text)
    assert not re.search(r"(?:https?:|url\()//", text)
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < LARGEST
    assert [path.name for path in FILES if len(path.read_text("utf-8").splitlines()) > 500] == []
