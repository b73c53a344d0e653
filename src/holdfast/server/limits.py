"""How much one caller, one request and one worker may take."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem, problem_of

_KNOWN = 10_000
"""Of so many callers it is known how much they took; of those that were quiet longest it is forgotten first."""
_DROPS, _DROPS_FOR = 64 * 1024 * 1024, 10.0
"""Bytes, and seconds, of a body that is too large which are read and dropped behind the answer."""


class Rates:
    """A bucket of tokens for each caller: `burst` at once, `rate` a second in the long run; a rate of 0 limits nothing."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, max(burst, 1), clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable) -> float:
        """Take one: 0.0, or the seconds until there is one again."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        left, since = self._buckets.pop(who, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._buckets[who] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _KNOWN:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._rate


def too_many(wait: float) -> Problem:
    """A caller that asks too fast: `wait` is for how many seconds to stop."""
    seconds = str(max(1, math.ceil(wait)))
    return Problem(429, f"too many requests: the next one is answered in {seconds} s", headers={"retry-after": seconds})


class Streams:
    """The answers of this worker that are still being told, at most `limit` of them. `over` is told when one more is asked for."""

    def __init__(self, limit: int, over: Callable[[], object]) -> None:
        self._limit, self._over = limit, over
        self.open = 0

    def check(self) -> None:
        """503 where no more fit."""
        if self.open >= self._limit:
            self._over()
            raise Problem(503, "this server tells as many streams as it may: try again", headers={"retry-after": "5"})


class BodyLimit:
    """Middleware: a request's body has at most `limit` bytes; counted as they come, whatever the request says of itself."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._limit)
        if _announced(scope) > self._limit:
            await problem_of(body.refuse()).response()(scope, receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)


class _Body:
    """The body of one request, and behind it the answer.

    Of one that is refused the rest is read and dropped, up to a bound, before the connection ends: a client that still writes then would
    never read the answer.
    """

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self._limit = receive, send, limit
        self._seen, self._more, self._refused = 0, True, False

    def refuse(self) -> HTTPException:
        """Take no more of it: 413, in the one form that passes the reading of a body unchanged."""
        self._refused = True
        return HTTPException(413, f"the body of a request has at most {self._limit} bytes here", headers={"connection": "close"})

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._seen > self._limit:
            raise self.refuse()
        return message

    async def send(self, message: Message) -> None:
        if not self._refused or message["type"] != "http.response.body" or message.get("more_body"):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_DROPS_FOR):
                await self._drop()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self) -> None:
        dropped = 0
        while self._more and dropped < _DROPS:
            message = await self._receive()
            dropped += len(message.get("body", b""))
            self._more = message.get("more_body", False)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
    return 0
