"""What the server counts, as Prometheus reads it.

Each worker answers for itself. Where `PROMETHEUS_MULTIPROC_DIR` names a folder that all workers share, each answers for all of them.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector  # pyright: ignore[reportUnknownVariableType]  # it has no types
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..agents import RunOutput

if TYPE_CHECKING:
    from .serving import Serving

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.registry = own
        self._requests = Counter("holdfast_http_requests", "Requests answered.", ("route", "method", "status"), registry=own)
        self._seconds = Histogram(
            "holdfast_http_request_seconds", "Time to answer, streams left out.", ("route", "method"), registry=own, buckets=_REQUEST
        )
        self.limited = Counter("holdfast_http_requests_limited", "Requests over a limit.", ("limit",), registry=own)
        self.refused = Counter("holdfast_http_requests_refused", "Requests of callers that may not.", ("why",), registry=own)
        self._runs = Counter("holdfast_runs", "Runs that ended or paused here.", ("agent", "status"), registry=own)
        self._run_seconds = Histogram("holdfast_run_seconds", "How long they took.", ("agent",), registry=own, buckets=_RUN)
        self._tokens = Counter("holdfast_tokens", "Tokens that models read and wrote.", ("agent", "direction"), registry=own)
        self._going = _gauge("holdfast_runs_under_way", "Runs that go on here.", own)
        self._streams = _gauge("holdfast_streams_open", "Answers that are still being told.", own)
        self._hits = Counter("holdfast_cache_hits", "Sessions that the cache had.", registry=own)
        self._misses = Counter("holdfast_cache_misses", "Sessions that it had not.", registry=own)
        self._seen = (0, 0)

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` None for a stream, whose length says nothing of the server."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(route, method).observe(seconds)

    def ended(self, output: RunOutput) -> None:
        """Count a run that ended, or paused."""
        agent, used = output.agent or "", output.metrics
        self._runs.labels(agent, output.status).inc()
        self._run_seconds.labels(agent).observe(used.seconds)
        self._tokens.labels(agent, "input").inc(used.input_tokens)
        self._tokens.labels(agent, "output").inc(used.output_tokens)

    def failed(self, agent: str | None) -> None:
        """Count a run that ended with an error of its provider's."""
        self._runs.labels(agent or "", "error").inc()

    def look(self, here: Serving) -> None:
        """Bring up to date what is counted elsewhere."""
        self._going.set(len(here.going))
        self._streams.set(here.streams.open)
        stats, (hits, misses) = here.runtime.store.cache_stats, self._seen
        self._hits.inc(max(stats.hits - hits, 0))
        self._misses.inc(max(stats.misses - misses, 0))
        self._seen = stats.hits, stats.misses

    def response(self) -> Response:
        """All of it in Prometheus' text format."""
        return Response(generate_latest(_of_all_workers() or self.registry), headers={"content-type": CONTENT_TYPE_LATEST})


def _gauge(name: str, about: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, about, registry=registry, multiprocess_mode="livesum")


def _of_all_workers() -> CollectorRegistry | None:
    if FOLDER not in os.environ:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


class Observed:
    """Middleware: every request is counted under the template of its route, and every stream while it is open."""

    def __init__(self, app: ASGIApp, here: Serving) -> None:
        self._app, self._here = app, here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Observation(self._here, scope, send).of(self._app, receive)
        else:
            await self._app(scope, receive, send)


class _Observation:
    def __init__(self, here: Serving, scope: Scope, send: Send) -> None:
        self._here, self._scope, self._send = here, scope, send
        self._status, self._streams = 500, False

    async def of(self, app: ASGIApp, receive: Receive) -> None:
        began = perf_counter()
        try:
            await app(self._scope, receive, self._noted)
        finally:
            self._here.streams.open -= self._streams
            self._count(perf_counter() - began)

    async def _noted(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._streams = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])
            self._here.streams.open += self._streams
        await self._send(message)

    def _count(self, seconds: float) -> None:
        metrics, route = self._here.metrics, _template(self._scope)
        metrics.request(route, self._scope["method"], self._status, None if self._streams else seconds)
        if self._status == 413:
            metrics.limited.labels("body").inc()
        if FOLDER in os.environ:  # another worker may be asked: it knows of this one what is written down
            metrics.look(self._here)


def _template(scope: Scope) -> str:
    """The route as it was declared: never an id, and one name for all that is no route."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "other"))
