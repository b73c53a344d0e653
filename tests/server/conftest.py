"""What the tests of the server share: a desk with a scripted model behind HTTP, its app, and a real server on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from holdfast import Agent
from holdfast.agents import tool
from holdfast.models import OpenAIChat
from holdfast.runtime import Runtime
from holdfast.server import create_app
from holdfast.testing.model_server import Answer, ModelServer, Request, call


@tool(confirm=True)
def refund(order: str) -> str:
    """Give the money back."""
    return f"{order} refunded"


def look(order: str) -> str:
    """Where an order is."""
    return f"{order} has shipped"


def answer(request: Request) -> Answer | str:
    """What the desk's model says: by the words of what it is asked."""
    last = request.input[-1]
    text = last["content"] if isinstance(last["content"], str) else json.dumps(last["content"])
    if last["role"] == "tool":
        return f"Done: {text}"
    if "refund" in text:
        return call("refund", order="A-17")
    if "where is" in text:
        return call("look", order="A-17")
    return Answer(text=f"You said: {text}", delay=0.3 if "slowly" in text else 0.0)


async def until(there: Callable[[], bool], *, within: float = 15) -> None:
    """Wait for this to be true."""
    async with asyncio.timeout(within):
        while not there():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.002)


@pytest.fixture
def model() -> Generator[ModelServer]:
    with ModelServer(answer) as server:
        yield server


def desk(model: ModelServer, store: str) -> Runtime:
    """A runtime with one agent, `desk`, whose model is this server."""
    runtime = Runtime(store)
    runtime.register(Agent(OpenAIChat(id="gpt-5.2", base_url=model.base_url, api_key="none"), name="desk", tools=[refund, look]))
    return runtime


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}?synchronous=off"


@pytest.fixture
async def app(model: ModelServer, place: str) -> AsyncGenerator[FastAPI]:
    app = create_app(desk(model, place))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """Calls the app without a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


class Server(uvicorn.Server):
    """One that leaves the signals of the process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.contextmanager
def listening() -> Generator[socket.socket]:
    """A socket on a free port."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        it.listen(2048)
        yield it


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """A real server of this app, and a client of it."""
    with listening() as it:
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[it]))
        limits = httpx.Limits(max_connections=None)
        url = f"http://127.0.0.1:{it.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=20) as client:
            await until(lambda: server.started or task.done())
            yield client
        server.should_exit = True
        await task


@pytest.fixture
async def served(model: ModelServer, place: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with serving(create_app(desk(model, place))) as client:
        yield client


class Sent(dict[str, Any]):
    """The data of a server-sent event, with its name and id."""

    def __init__(self, name: str, id: str | None, data: str) -> None:
        super().__init__(json.loads(data))
        self.name = name
        self.id = id


async def events(response: httpx.Response) -> AsyncIterator[Sent]:
    """The server-sent events of an answer, as they come."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Sent(fields.get("event", "message"), fields.get("id"), fields["data"])
            fields = {}


class Tail:
    """A client that follows a stream of events until it is closed; what it got is in `got`."""

    def __init__(self, client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
        self.got: list[Sent] = []
        self._new = asyncio.Event()
        self._task = asyncio.create_task(self._read(client, path, headers))

    async def _read(self, client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            async for event in events(response):
                self.got.append(event)
                self._new.set()

    async def until(self, there: Callable[[list[Sent]], bool]) -> list[Sent]:
        """Wait for this to be true of what came."""
        async with asyncio.timeout(15):
            while not there(self.got):
                if self._task.done():
                    self._task.result()
                    raise AssertionError(f"the stream has ended: {self.got}")
                self._new.clear()
                await self._new.wait() if not self._task.done() else None
        return self.got

    def named(self, *names: str) -> list[Sent]:
        return [it for it in self.got if it.name in names]

    async def ended(self) -> list[Sent]:
        """Wait for the server to end it."""
        async with asyncio.timeout(15):
            await self._task
        return self.got

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


@asynccontextmanager
async def tail(client: httpx.AsyncClient, path: str, last: str | None = None) -> AsyncGenerator[Tail]:
    it = Tail(client, path, {} if last is None else {"last-event-id": last})
    try:
        yield it
    finally:
        await it.close()
