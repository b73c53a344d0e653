"""What the tests of agents share: scripted models behind HTTP, in both protocols, whose every request is checked; stores that count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from holdfast import RunInfo, Session, Store
from holdfast.agents import Agent, Event, RunEnded, RunOutput
from holdfast.backend import Backend, Commit, Key, Outcome, ReadPlan, Snapshot
from holdfast.backends.memory import MemoryBackend
from holdfast.models import OpenAIChat, OpenAIResponses
from holdfast.testing.model_server import ModelServer, Request, Rule, Script
from holdfast.wrappers.base import Wrapper

PROTOCOLS = {"responses": OpenAIResponses, "chat": OpenAIChat}


class Models:
    """Model servers that live as long as a test; at its end each request they got is checked."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.servers: list[ModelServer] = []
        self._open = ExitStack()

    def serve(self, answers: Script | Rule) -> ModelServer:
        self.servers.append(self._open.enter_context(ModelServer(answers)))
        return self.servers[-1]

    def model(self, server: ModelServer, **settings: Any) -> Any:
        """The model that `server` is, by its description."""
        return PROTOCOLS[self.protocol](id="scripted", base_url=server.base_url, api_key="none", settings=settings)

    def impatient(self, server: ModelServer) -> Model:
        """The same as the engine's own object, with a client that does not try again by itself."""
        make = OpenAIResponsesModel if self.protocol == "responses" else OpenAIChatModel
        client = AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        return make("scripted", provider=OpenAIProvider(openai_client=client))

    def agent(self, answers: Script | Rule | ModelServer, **options: Any) -> Agent:
        """An agent whose model answers like this; its server is the newest of `servers`."""
        server = answers if isinstance(answers, ModelServer) else self.serve(answers)
        return Agent(self.model(server), **options)

    @property
    def requests(self) -> list[Request]:
        """What was asked of all servers, server by server."""
        return [request for server in self.servers for request in server.requests]

    def close(self) -> None:
        for request in self.requests:
            check_valid(request)
        self._open.close()


@pytest.fixture(params=PROTOCOLS)
def models(request: pytest.FixtureRequest) -> Generator[Models]:
    """Both protocols, one after the other."""
    made = Models(str(request.param))
    yield made
    made.close()


@pytest.fixture
def chat() -> Generator[Models]:
    """One protocol, for what has nothing to do with it."""
    made = Models("chat")
    yield made
    made.close()


class Counting(Wrapper):
    """Counts requests to a backend, and can do something before each."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.made: list[str] = []
        self.before: Callable[[Key, Commit], Awaitable[None]] | None = None

    @property
    def count(self) -> int:
        return len(self.made)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        self.made.append("read")
        return await super().read(key, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.made.append("commit")
        if self.before is not None:
            await self.before(key, commit)
        return await super().commit(key, commit)


@pytest.fixture
def counting() -> Counting:
    return Counting(MemoryBackend())


@pytest.fixture
def counted(counting: Counting) -> Store:
    return Store(counting)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as opened:
        yield opened


@pytest.fixture
async def memory() -> AsyncGenerator[Store]:
    """For what has nothing to do with where it is stored."""
    async with Store.open("memory://") as opened:
        yield opened


@pytest.fixture
async def file_store(tmp_path: Path) -> AsyncGenerator[Store]:
    """For what needs more than one process."""
    async with Store.open(f"sqlite:///{tmp_path}/chat.db") as opened:
        yield opened


# --- looking at what happened ----------------------------------------------------------------------------------------


async def ended(agent: Agent, prompt: Any, *, stream: bool, **options: Any) -> RunOutput:
    """The output of a run, whole or streamed."""
    run: Any = agent.run
    return await run(prompt, stream=True, **options).output() if stream else await run(prompt, **options)


async def told(events: Any) -> list[Event]:
    return [event async for event in events]


async def there(agent: Agent, session_id: str, user_id: str | None = None) -> Session:
    """The session as somebody who comes later sees it."""
    found = await agent.get_session(session_id, user_id=user_id)
    assert found is not None
    return found


async def statuses(session: Session) -> list[str]:
    return [run.status for run in await session.runs()]


async def texts(session: Session) -> list[str]:
    """The log in short: texts, `name(...)` for calls, `=result` for results."""
    return [short(message) for message in await session.get_messages()]


def short(message: Any) -> str:
    return " ".join(_short(part) for part in message.parts)


def _short(part: Any) -> str:
    if hasattr(part, "response"):
        return f"={part.response}"
    return f"{part.name}()" if hasattr(part, "arguments") else str(getattr(part, "content", part))


async def only_run(session: Session) -> RunInfo:
    (run,) = await session.runs()
    return run


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for `condition`; a test that waits in vain fails here, not in a timeout of its own."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what changes is in the database
            await asyncio.sleep(0.002)


async def settled() -> None:
    """Wait for what goes on in the background on this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    summing_up = {it for it in others if "_later" in repr(it.get_coro())}
    if summing_up:
        await asyncio.wait(summing_up, timeout=10)


def output_of(events: list[Event]) -> RunOutput:
    last = events[-1]
    assert isinstance(last, RunEnded)
    return last.output


# --- what a model is sent --------------------------------------------------------------------------------------------


def sent(request: Request) -> list[str]:
    """The conversation in a request in short, the same for both protocols, without instructions."""
    return [text for item in request.input for text in _sent(item)]


def _sent(item: dict[str, Any]) -> list[str]:
    kind = item.get("type", "message")
    if kind == "function_call":
        return [f"{item['name']}()"]
    if kind == "function_call_output" or item.get("role") == "tool":
        return [f"={item.get('output', item.get('content'))}"]
    calls = [f"{it['function']['name']}()" for it in item.get("tool_calls") or ()]
    return [*([text] if (text := _text(item)) and item["role"] not in ("system", "developer") else []), *calls]


def _text(item: dict[str, Any]) -> str:
    content = item.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def check_valid(request: Request) -> None:
    """Each call is answered once, right after the answer that made it; no result is without a call; no message is empty."""
    waiting: set[str] = set()
    for item in request.input:
        made, answer = calls_in(item), item.get("tool_call_id") or (item.get("call_id") if "output" in item else None)
        where = f"request {request.number}: {item}"
        if answer is not None:
            assert answer in waiting, f"a result without its call, {where}"
            waiting.discard(answer)
            continue
        assert not waiting or (made and item.get("type") == "function_call"), f"{waiting} have no result before {where}"
        assert made or _text(item) or not isinstance(item.get("content"), str), f"nothing is in {where}"
        assert len(set(made)) == len(made), f"one id twice, {where}"
        waiting.update(made)
    assert not waiting, f"{waiting} have no result in request {request.number}"


def calls_in(item: dict[str, Any]) -> list[str]:
    """The ids of the calls in one item of a request."""
    return [item["call_id"]] if item.get("type") == "function_call" else [it["id"] for it in item.get("tool_calls") or ()]
