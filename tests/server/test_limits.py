"""How much one caller, one request and one worker may take; and what is counted of it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from holdfast.runtime.settings import Limits
from holdfast.server import limits
from holdfast.server.limits import Rates
from holdfast.testing.model_server import Answer, ModelServer, Request

from .conftest import serving, tail
from .crowd import KEYS, application, bearing, client, desk


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    with ModelServer(desk) as server:
        yield server.base_url


@asynccontextmanager
async def limited(address: str, **limits: Any) -> AsyncGenerator[FastAPI]:
    """An application with these limits, its store open."""
    app = application(address, limits=Limits(**limits))
    async with app.router.lifespan_context(app):
        yield app


async def counted(app: FastAPI, name: str, **labels: str) -> float:
    """What the metrics say under this name, with these labels and any others."""
    async with client(app, "root") as root:
        text = (await root.get("/metrics")).text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [it for it in text.splitlines() if re.match(rf"{name}[{{ ]", it) and all(label in it for label in wanted)]
    return sum(float(it.rpartition(" ")[2]) for it in lines)


# --- rates -----------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(rate=st.floats(0.1, 100), burst=st.integers(1, 50), steps=st.lists(st.floats(0, 2), max_size=200))
def test_no_more_than_the_burst_and_the_rate(rate: float, burst: int, steps: list[float]) -> None:
    clock = Clock()
    rates, taken = Rates(rate, burst, clock=clock), 0
    for step in steps:
        clock.now += step
        taken += rates.take("ada") == 0
    assert taken <= burst + clock.now * rate + 1e-6
    assert taken >= min(len(steps), burst)


@given(rate=st.floats(0.1, 100), burst=st.integers(1, 50))
def test_whoever_waits_as_told_is_let_in(rate: float, burst: int) -> None:
    clock = Clock()
    rates = Rates(rate, burst, clock=clock)
    while not (wait := rates.take("ada")):
        pass
    assert rates.take("bob") == 0
    clock.now += wait * 1.000001
    assert rates.take("ada") == 0


def test_a_rate_of_none_limits_nothing() -> None:
    rates = Rates(0, 1)
    assert not any(rates.take("ada") for _ in range(1000))


def test_callers_that_were_quiet_longest_are_forgotten_first() -> None:
    rates = Rates(0.001, 1)
    for who in ("ada", "bob", *range(9_999)):
        rates.take(who)
    assert rates.take("bob") > 0
    assert rates.take("ada") == 0


async def test_a_caller_that_asks_too_fast_is_told_when_to_come_back(address: str) -> None:
    async with limited(address, rate=0.01, burst=3) as app, client(app, "ada") as ada, client(app, "bob") as bob, client(app) as nobody:
        answers = [await ada.get("/agents") for _ in range(5)]
        assert [it.status_code for it in answers] == [200, 200, 200, 429, 429]
        assert answers[3].headers["content-type"] == "application/problem+json"
        assert 90 <= int(answers[3].headers["retry-after"]) <= 100
        assert (await bob.get("/agents")).status_code == 200
        for path in ("/health", "/ready"):
            assert {(await it.get(path)).status_code for it in (nobody, ada) for _ in range(5)} == {200}
        assert await counted(app, "holdfast_http_requests_limited_total", limit="rate") == 2


async def test_guessing_is_slowed_and_keeps_nobody_else_out(address: str) -> None:
    async with limited(address) as app, client(app, authorization="Bearer hf_guess") as stranger, client(app, "ada") as ada:
        told = [(await stranger.get("/agents")).status_code for _ in range(20)]
        assert told[0] == 401
        assert told[-1] == 429
        assert (await ada.get("/agents")).status_code == 200  # from the same address
        assert await counted(app, "holdfast_http_requests_refused_total", why="credentials") == 20


# --- bodies ----------------------------------------------------------------------------------------------------------


async def pieces(sizes: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b" " * size


@pytest.mark.parametrize("how", ["announced", "in-pieces", "without-a-key"])
async def test_a_body_over_the_limit_is_refused(address: str, how: str) -> None:
    app = application(address, limits=Limits(body=1000))
    async with serving(app) as server:
        content: Any = b" " * 1001 if how != "in-pieces" else pieces([400, 400, 400])
        headers = {"content-type": "application/json"} | ({} if how == "without-a-key" else bearing("ada"))
        refused = await server.post("/run", content=content, headers=headers)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await server.get("/health")).status_code == 200
        assert await counted(app, "holdfast_http_requests_limited_total", limit="body") == 1


@pytest.mark.parametrize("how", ["announced", "in-pieces"])
async def test_a_body_at_the_limit_is_not(address: str, how: str) -> None:
    body = b'{"session_id": "one"}'
    async with limited(address, body=len(body)) as app, serving(app) as server:

        async def halves() -> AsyncIterator[bytes]:
            yield body[:10]
            yield body[10:]

        content: Any = body if how == "announced" else halves()
        headers = {"content-type": "application/json"} | bearing("ada")
        assert (await server.post("/sessions", content=content, headers=headers)).status_code == 201


@pytest.mark.parametrize("how", ["announced", "in-pieces"])
async def test_a_client_that_reads_when_it_has_sent_everything_is_told_why(address: str, how: str) -> None:
    whole, headers = 20_000_000, {"content-type": "application/json", **bearing("ada")}

    def sent(url: str) -> tuple[int, str]:
        body: Any = b" " * whole if how == "announced" else (b" " * (whole // 20) for _ in range(20))
        try:
            urlopen(Asked(f"{url}/run", body, headers))  # it reads nothing before all is written
        except HTTPError as error:
            return error.code, error.read().decode()
        raise AssertionError("it was taken")

    async with serving(application(address, limits=Limits(body=1000))) as server:
        for _ in range(3):
            status, told = await asyncio.to_thread(sent, str(server.base_url))
            assert (status, "at most 1000 bytes" in told) == (413, True)


async def test_what_is_sent_beyond_the_limit_is_not_kept(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends without end is answered while it sends, and then not read any more: the server does not wait for the end."""
    monkeypatch.setattr(limits, "_DROPS", 100_000)
    app = application(address, limits=Limits(body=1000))
    async with serving(app) as server:
        reader, writer = await asyncio.open_connection(server.base_url.host, server.base_url.port)
        head = f"POST /run HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS['ada']}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
        await writer.drain()
        assert b"413" in await asyncio.wait_for(reader.readline(), 5)
        with suppress(ConnectionError):
            async with asyncio.timeout(15):
                while not reader.at_eof():
                    writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()


# --- what one worker may take ----------------------------------------------------------------------------------------


async def test_streams_and_runs_have_their_number() -> None:
    hold = threading.Event()

    def slow(request: Request) -> Answer:
        return Answer(text="Hello.", hold=hold)

    with ModelServer(slow) as server:
        app = application(server.base_url, limits=Limits(streams=1, runs=1))
        async with serving(app) as http:
            http.headers.update(bearing("ada"))
            assert (await http.post("/sessions", json={"session_id": "one"})).status_code == 201
            asked: dict[str, Any] = {"message": "hi", "session_id": "one", "agent": "desk"}
            async with tail(http, "/sessions/one/events") as listening:
                await listening.until(bool)
                assert await counted(app, "holdfast_streams_open") == 1
                for answer in (await http.get("/sessions/one/events"), await http.post("/run", json=asked | {"stream": True})):
                    assert answer.status_code == 503
                    assert answer.headers["retry-after"]
                assert await counted(app, "holdfast_http_requests_limited_total", limit="streams") == 2
                running = asyncio.create_task(http.post("/run", json=asked))
                await listening.until(lambda got: any(it.name == "entry" for it in got))
                assert await counted(app, "holdfast_runs_under_way") == 1
                refused = await http.post("/run", json=asked | {"session_id": "two"})
                assert refused.status_code == 503
                hold.set()
                assert (await running).status_code == 200
            while app.state.serving.streams.open:  # noqa: ASYNC110  # that its client has gone sets no event
                await asyncio.sleep(0.01)
            async with tail(http, "/sessions/one/events") as again:
                await again.until(bool)


# --- metrics ---------------------------------------------------------------------------------------------------------


async def test_requests_are_counted_by_route_and_never_by_id(address: str) -> None:
    async with limited(address) as app, client(app, "ada") as ada:
        for path in ("/sessions/my-own-id", "/sessions/a%2Fb", "/sessions/my-own-id/state/key", "/nowhere/my-own-id"):
            assert (await ada.get(path)).status_code == 404
        await ada.request("BREW", "/sessions/my-own-id")
        assert await counted(app, "holdfast_http_requests_total", route="/sessions/{session_id}", method="GET", status="404") == 2
        assert await counted(app, "holdfast_http_requests_total", route="other", status="404") == 1
        assert await counted(app, "holdfast_http_requests_total", method="other") == 1
        assert await counted(app, "holdfast_http_request_seconds_count", route="/sessions/{session_id}", method="GET") == 2
        async with client(app, "root") as root:
            assert "my-own-id" not in (await root.get("/metrics")).text


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}], ids=["whole", "stream", "background"])
async def test_runs_and_tokens_are_counted_however_they_run(address: str, how: dict[str, bool]) -> None:
    async with limited(address) as app, client(app, "ada") as ada:
        await ada.post("/run", json={"message": "hi", "session_id": "one", "agent": "desk", **how})
        await app.state.serving.going.settled(5)
        assert await counted(app, "holdfast_runs_total", agent="desk", status="completed") == 1
        assert await counted(app, "holdfast_tokens_total", direction="input") > 0
        await ada.post("/run", json={"message": "refund 7", "session_id": "one", "agent": "desk", **how})
        await app.state.serving.going.settled(5)
        assert await counted(app, "holdfast_runs_total", agent="desk", status="paused") == 1


@pytest.mark.parametrize("how", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_runs_that_fail_are_counted(how: dict[str, bool]) -> None:
    with ModelServer(lambda request: Answer(status=400)) as server:
        async with limited(server.base_url) as app, client(app, "ada") as ada:
            await ada.post("/run", json={"message": "hi", "session_id": "one", "agent": "desk", **how})
            assert await counted(app, "holdfast_runs_total", agent="desk", status="error") == 1


_WORKER = """
import asyncio, sys
from tests.server.crowd import application, client

async def main():
    app = application("http://127.0.0.1:1")
    async with client(app, "ada") as ada, client(app, "root") as root:
        for _ in range(3):
            await ada.get("/agents")
        print((await root.get("/metrics")).text)

asyncio.run(main())
"""


def test_workers_that_share_a_folder_answer_for_all(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    told = [subprocess.run([sys.executable, "-c", _WORKER], env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    lines = [it for it in told[1].stdout.splitlines() if it.startswith("holdfast_http_requests_total") and 'route="/agents"' in it]
    assert [it.rpartition(" ")[2] for it in lines] == ["6.0"]


async def test_what_is_made_for_metrics_is_the_applications_own(address: str) -> None:
    async with limited(address) as one, limited(address) as other, client(one, "ada") as ada:
        await ada.get("/agents")
        assert await counted(one, "holdfast_http_requests_total", route="/agents") == 1
        assert await counted(other, "holdfast_http_requests_total", route="/agents") == 0
