"""How much one caller, one request and one worker may take."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem

_KNOWN = 10_000
"""Of so many callers it is known how much they took; of those that were quiet longest it is forgotten first."""


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
        elif _announced(scope) > self._limit:
            problem = Problem(413, self._told, headers={"connection": "close"})
            await problem.response()(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    @property
    def _told(self) -> str:
        return f"the body of a request has at most {self._limit} bytes here"

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(413, self._told)  # the one kind that passes the reading of a body unchanged
            return message

        return counted


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
    return 0
