"""Workers are restarted, and killed, under load: no run is lost, none is done twice, and every client is told everything once, in order."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast import Store
from holdfast.testing.model_server import Answer, ModelServer, Request
from tests.server.conftest import Sent, events
from tests.server.processes import Process, served
from tests.servers.redis import redis8, server

CLIENTS = 8
LEASE = 2


class Talk:
    """One client's runs, each begun by a call that it repeats until it has been told the end."""

    def __init__(self, http: httpx.AsyncClient, name: str, *, follows: bool) -> None:
        self.http, self.name, self.follows = http, name, follows
        self.told: dict[str, list[Sent]] = {}
        self.breaks = 0

    async def go_on(self, over: asyncio.Event) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            await self._run(f"{self.name}-{number}")

    async def _run(self, key: str) -> None:
        got = self.told[key] = []
        while not _ended(got):
            again = self.follows and bool(got) and got[-1].name != "run_ended"
            with suppress(httpx.TransportError):
                await (self._follow if again else self._begin)(key, got)
            if not _ended(got):
                self.breaks += 1
                await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _begin(self, key: str, got: list[Sent]) -> None:
        body = {"message": f"Tell me of {key}.", "session_id": self.name, "stream": True}
        headers = {"idempotency-key": key} | _seen(got)
        async with self.http.stream("POST", "/run", json=body, headers=headers) as response:
            await _take(response, got)

    async def _follow(self, key: str, got: list[Sent]) -> None:
        async with self.http.stream("GET", f"/sessions/{self.name}/runs/{key}/events", headers=_seen(got)) as response:
            await _take(response, got)


async def _take(response: httpx.Response, got: list[Sent]) -> None:
    if response.status_code == 503:
        return
    assert response.status_code == 200, await response.aread()
    async for event in events(response):
        if event.name != "problem":
            got.append(event)


def _seen(got: list[Sent]) -> dict[str, str]:
    return {"last-event-id": str(got[-1].id)} if got else {}


def _ended(got: list[Sent]) -> bool:
    return bool(got) and got[-1].name == "run_ended" and got[-1]["output"]["status"] != "interrupted"


class Background:
    """A client that leaves its runs to the server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.accepted: list[str] = []

    async def go_on(self, over: asyncio.Event) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            key = f"bg-{number}"
            body = {"message": f"Tell me of {key}.", "session_id": f"back-{number % 3}", "background": True, "run_id": key}
            while True:
                try:
                    answer = await self.http.post("/run", json=body)
                except httpx.TransportError:
                    continue
                if answer.status_code == 202:
                    break
                assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.05)
            self.accepted.append(key)
            await asyncio.sleep(0.4)


def model(request: Request) -> Answer:
    """It says another thing each time, and takes some time over the second half of it."""
    halfway = threading.Event()
    timer = threading.Timer(random.choice((0.05, 0.1, 0.3, 1.5)), halfway.set)
    timer.daemon = True
    timer.start()
    text = f"{request.number}: of {request.input[-1]['content']} there is a lot to be told, and here it is told at some length."
    return Answer(text=text, halfway=halfway)


@pytest.fixture
def slow() -> Generator[ModelServer]:
    with ModelServer(model) as server:
        yield server


async def _renewed(server: Process, old: set[int]) -> None:
    async with asyncio.timeout(60):
        while len(server.workers) != 2 or server.workers & old:  # noqa: ASYNC110  # they are processes
            await asyncio.sleep(0.05)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'chat.db'}"
    else:
        with server(redis8()) as it:
            yield it.url


async def test_restarts_under_load_lose_nothing(tmp_path: Path, slow: ModelServer, store: str) -> None:
    words = ("--workers", "2", "--grace", "0.5", "--store", store)
    with served(tmp_path, slow, *words, HOLDFAST_SERVER__LEASE=str(LEASE)) as workers:
        async with httpx.AsyncClient(base_url=workers.url, timeout=60, limits=httpx.Limits(max_connections=None)) as http:
            over, talks, back = asyncio.Event(), [Talk(http, f"talk-{n}", follows=n % 2 == 0) for n in range(CLIENTS)], Background(http)
            going = [asyncio.create_task(it.go_on(over)) for it in (*talks, back)]
            await asyncio.sleep(1)
            for _ in range(2):
                old = workers.workers
                workers.signal(signal.SIGHUP)
                await _renewed(workers, old)
            killed = sorted(workers.workers)[0]
            os.kill(killed, signal.SIGKILL)
            await _renewed(workers, {killed})
            await asyncio.sleep(1)
            over.set()
            async with asyncio.timeout(40):
                await asyncio.gather(*going)
                await _all_ended(http, back)
            assert sum([it.breaks for it in talks]) > 4  # or nothing was tried
            for talk in talks:
                for key, told in talk.told.items():
                    await _told_right(http, talk.name, key, told)
        workers.signal(signal.SIGTERM)
        assert workers.ended() == 0
    runs = [(talk.name, key) for talk in talks for key in talk.told]
    await _done_once(store, [*runs, *[(f"back-{int(key[3:]) % 3}", key) for key in back.accepted]])


async def _all_ended(http: httpx.AsyncClient, back: Background) -> None:
    for key in back.accepted:
        while (await _run(http, f"back-{int(key[3:]) % 3}", key))["status"] != "completed":  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.2)


async def _run(http: httpx.AsyncClient, session: str, key: str) -> dict[str, Any]:
    return (await http.get(f"/sessions/{session}/runs/{key}")).json()


async def _told_right(http: httpx.AsyncClient, session: str, key: str, told: list[Sent]) -> None:
    """Each stored event came once, in order; the pieces of the last try are the stored answer."""
    numbers = [int(it.id or 0) for it in told]
    assert numbers == sorted(set(numbers)), key
    replayed: list[Sent] = []
    async with http.stream("GET", f"/sessions/{session}/runs/{key}/events") as response:
        await _take(response, replayed)
    stored = {int(it.id or 0): it.name for it in replayed if it.name not in ("text_delta", "run_ended")}
    assert {number: it.name for number, it in zip(numbers, told, strict=True) if number in stored} == stored, key
    assert told[-1]["output"]["status"] == "completed", key
    assert _said(told) == _said(replayed) == told[-1]["output"]["content"], key


def _said(told: list[Sent]) -> str:
    """What the last try said."""
    start = max([place for place, it in enumerate(told) if it.name == "run_started"])
    return "".join([it["delta"] for it in told[start:] if it.name == "text_delta"])


async def _done_once(store: str, runs: list[tuple[str, str]]) -> None:
    """Each run has one input and one answer, and is completed once."""
    async with Store.open(store, as_admin=True) as it:
        for session_id, key in runs:
            session = await it.get(session_id)
            assert session is not None
            _, log = await session.run_log(key)
            roles = Counter([entry.message().role for entry in log if entry.kind == "message" and not entry.hidden])
            ends = [entry.data()["status"] for entry in log if entry.kind == "run"]
            assert ends.count("completed") == 1, (key, ends)
            assert roles["user"] == 1, (key, roles)
            assert roles["assistant"] >= 1, (key, roles)
