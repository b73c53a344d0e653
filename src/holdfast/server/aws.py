"""AWS Lambda: the application behind a function URL, or an HTTP API of API Gateway, by their events of format 2.0.

A function is frozen between two events. So an answer goes out whole, and not before the runs that its request began have ended: there
are no streams, and a run in the background is over when its 202 is told. A run that takes longer than the function may is listed, as by a
server that stops; a schedule's event goes on with what is listed, and removes what has expired.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol
from urllib.parse import quote, unquote

import msgspec
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Message, Scope

from .problems import Problem, problem_of
from .serving import Serving
from .taking import Taking

MOST = 4_500_000
"""Bytes of an answer: in base64 and as JSON it has to stay below the 6 MB that a function may give."""
MARGIN = 2.0
"""Seconds before the function's end at which what is not over is handed over, for the answer to go out."""
_LONG = 900.0
_EVERY = 0.5
"""Seconds between two looks at the list of runs, on a schedule's event."""
Event = Mapping[str, Any]


class Context(Protocol):
    """What Lambda hands over beside the event."""

    def get_remaining_time_in_millis(self) -> int: ...


class Lambda:
    """A handler: `handler = Lambda(create_app(runtime))`. The application starts with the first event, and stays for those after it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._runner = asyncio.Runner()
        self._here: Serving = app.state.serving
        self._stop: asyncio.Event | None = None
        self._life: asyncio.Task[None] | None = None

    def __call__(self, event: Event, context: Context | None = None) -> dict[str, Any]:
        """The answer to one request, in the form that function URLs and API Gateway pass on; to a schedule's event, what was done."""
        seconds = _LONG if context is None else context.get_remaining_time_in_millis() / 1000 - MARGIN
        return self._runner.run(self._handled(event, time.monotonic() + seconds), context=copy_context())

    def close(self) -> None:
        """End the application as a server does: Lambda tells nobody of its end, so this is for tests and tools."""
        with self._runner:
            self._runner.run(self._ended())

    # --- life ---

    async def _handled(self, event: Event, end: float) -> dict[str, Any]:
        if event.get("source") == "aws.events":
            await self._begun()
            return await self._work(end)
        return await self._answer(event, end)

    async def _begun(self) -> None:
        if self._life is None:
            self._here.takes = False  # it has no time of its own to go on with the runs of others
            self._stop, up = asyncio.Event(), asyncio.Event()
            self._life = asyncio.create_task(self._live(up, self._stop))
            started = asyncio.create_task(up.wait())
            await asyncio.wait({self._life, started}, return_when=asyncio.FIRST_COMPLETED)
            if not up.is_set():
                life, self._life = self._life, None  # the next event tries again
                started.cancel()
                await life

    async def _live(self, up: asyncio.Event, stop: asyncio.Event) -> None:
        """One task enters and leaves the lifespan, as whoever wrote it may expect."""
        async with self._app.router.lifespan_context(self._app):
            up.set()
            await stop.wait()

    async def _ended(self) -> None:
        if self._life is not None and self._stop is not None:
            self._stop.set()
            await self._life

    async def _work(self, end: float) -> dict[str, Any]:
        """Go on with the runs that nobody drives, until none is listed or the time is up, and remove what has expired."""
        taking = Taking(self._here.queue, self._here.going, self._here.under)
        while True:
            listed = await taking.look()
            if not listed or time.monotonic() >= end:
                break
            await asyncio.sleep(_EVERY)
        await self._settled(end)
        return {"listed": listed, "removed": await self._here.runtime.store.sweep()}

    # --- one request ---

    async def _answer(self, event: Event, end: float) -> dict[str, Any]:
        try:
            await self._begun()
            exchange = _Exchange(_body(event))
            exchange.check()
            await self._exchanged(exchange, _scope(event), end)
            await self._settled(end)
            return exchange.told()
        except Exception as error:  # the edge of the process: the function's own error page would tell of the inside
            return _told(problem_of(error).response())

    async def _exchanged(self, exchange: _Exchange, scope: Scope, end: float) -> None:
        """Have the application answer; what takes too long, or would never end, is cancelled."""
        work = asyncio.create_task(self._app(scope, exchange.receive, exchange.send))
        streams = asyncio.create_task(exchange.streams.wait())
        await asyncio.wait({work, streams}, timeout=max(0.0, end - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
        streams.cancel()
        late, cut = not work.done(), self._here.going.places
        if late:
            await self._here.going.hand_over()
            work.cancel()
            await asyncio.wait({work})
        with suppress(Exception, asyncio.CancelledError):  # the application has answered by then, and noted it in its log
            await work
        if exchange.streams.is_set():
            raise _no_streams()
        if late:
            raise _too_late(cut)

    async def _settled(self, end: float) -> None:
        """Wait for the runs under way, which would be frozen with the function; hand over what is not over in time."""
        await self._here.going.settled(end - time.monotonic())
        await self._here.going.hand_over()


def _too_late(cut: set[tuple[str, str, str]]) -> Problem:
    told = "the time of this function is up; what is stored is kept, and the same run_id goes on from there"
    return Problem(504, told, runs=[{"session_id": session_id, "run_id": run_id} for _, session_id, run_id in sorted(cut)])


def _no_streams() -> Problem:
    return Problem(501, "there are no streams here: an answer comes whole, so leave out `stream`, and read runs and messages instead")


class _Exchange:
    """A request and its answer, for an ASGI application."""

    def __init__(self, body: bytes) -> None:
        self.streams = asyncio.Event()
        self._asked: list[bytes] = [body]
        self._body = body
        self._status = 500
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []

    def check(self) -> None:
        """501 where a stream is asked for, before the run that would tell it begins."""
        if b'"stream"' in self._body:
            with suppress(msgspec.DecodeError):
                if msgspec.json.decode(self._body, type=_Asked).stream:
                    raise _no_streams()

    async def receive(self) -> Message:
        if self._asked:
            return {"type": "http.request", "body": self._asked.pop(), "more_body": False}
        await asyncio.Event().wait()  # nobody goes away: whoever waits for that is cancelled with the request
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message["headers"])
            if any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in self._headers):
                self.streams.set()
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))

    def told(self) -> dict[str, Any]:
        return _shaped(self._status, self._headers, b"".join(self._parts))


class _Asked(msgspec.Struct):
    stream: Any = False


# --- the event -------------------------------------------------------------------------------------------------------


def _body(event: Event) -> bytes:
    body: str = event.get("body") or ""
    return b64decode(body) if event.get("isBase64Encoded") else body.encode()


def _scope(event: Event) -> Scope:
    if event.get("version") != "2.0":
        raise Problem(501, "this function takes the events of a function URL or an HTTP API, of payload format 2.0")
    about = event["requestContext"]
    http = about["http"]
    path, raw = _path(event)
    headers = [(name.lower().encode("latin-1"), str(value).encode("utf-8")) for name, value in event.get("headers", {}).items()]
    if event.get("cookies"):
        headers.append((b"cookie", "; ".join(event["cookies"]).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": http["method"],
        "scheme": "https",
        "path": path,
        "raw_path": raw,
        "root_path": "",
        "query_string": event.get("rawQueryString", "").encode(),
        "headers": headers,
        "client": (http["sourceIp"], 0),
        "server": (about["domainName"], 443),
    }


def _path(event: Event) -> tuple[str, bytes]:
    """The path without the name of the stage, decoded and as it came. A function URL tells it as it came, an HTTP API has it decoded."""
    about = event["requestContext"]
    path: str = event["rawPath"]
    if ".lambda-url." in about["domainName"]:
        return unquote(path), path.encode("ascii")
    stage = f"/{about.get('stage', '$default')}"
    if path == stage or path.startswith(f"{stage}/"):
        path = path.removeprefix(stage) or "/"
    return path, quote(path).encode("ascii")


# --- the answer ------------------------------------------------------------------------------------------------------


def _told(response: Response) -> dict[str, Any]:
    return _shaped(response.status_code, response.raw_headers, bytes(response.body))


def _shaped(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> dict[str, Any]:
    if len(body) > MOST:
        return _told(Problem(501, f"the answer has {len(body)} bytes, a function may give {MOST}: ask for less at a time").response())
    told: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers):
        if name == "set-cookie":
            cookies.append(value)
        else:
            told[name] = f"{told[name]}, {value}" if name in told else value
    try:
        text, encoded = body.decode(), False
    except UnicodeDecodeError:
        text, encoded = b64encode(body).decode(), True
    return {"statusCode": status, "headers": told, "cookies": cookies, "body": text, "isBase64Encoded": encoded}
