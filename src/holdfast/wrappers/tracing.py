"""Tracing: spans, events and figures of a backend's calls, by the OpenTelemetry API alone; without an SDK it does nothing.

Told are ids of sessions, counts, sizes, outcomes and the types of errors: never content, names, users, or the text of an error.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from ..backend import Backend, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ..errors import Conflict, HoldfastError, MissingExtra, OutcomeUnknown, UsageError
from ..forks import Forkable, watch_forks
from ..ids import SCOPE_PREFIXES
from .base import Wrapper
from .cache import cache_of

try:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_tracer, use_span
except ModuleNotFoundError as error:
    raise MissingExtra('tracing needs opentelemetry-api, which is not installed: pip install "holdfast[otel]"') from error

from .lifecycle import CacheFigures, Lifecycle

_SYSTEMS = {"postgres": "postgresql", "dynamodb": "aws.dynamodb"}
"""What `db.system.name` calls a backend whose module is named otherwise."""
_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_BYTES = tuple(4**power for power in range(3, 14))


class TracedBackend(Wrapper, Forkable):
    """Tells of every call but `watch`, `status` and `check`: outermost, of what the caller asked; inside, of what the database was asked.

    `system`: the database's name by the semantic conventions, where it can't be seen from the backend. The providers are the process's own
    unless given. Spans are `holdfast.<method>`, events those of `wrappers.lifecycle`. Metrics:

    - `holdfast.store.operation.duration`: histogram, seconds, of every call;
    - `holdfast.commits`: commits and copies, by `holdfast.outcome`: `applied`, `repeated`, `refused` (by the rules), `failed` (the store
      could not), `unknown` (the connection broke, or the caller was cancelled);
    - `holdfast.conflicts`: those refused with `Conflict`;
    - `holdfast.io`: bytes of bodies, values and blobs read, or written by commits that were applied, by `holdfast.direction`;
    - `holdfast.commit.size`: histogram, bytes of bodies, values and blobs, of the commits that were applied;
    - `holdfast.session.size`: histogram, bytes of the bodies of a session's entries, after each of them;
    - `holdfast.cache.hits`, `.misses`, `.evictions`, `.sessions`, `.bytes`: what the cache inside this wrapper did and holds.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        system: str | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        super().__init__(inner)
        meter = get_meter("holdfast", meter_provider=meter_provider)
        self._tracer = get_tracer("holdfast", tracer_provider=tracer_provider)
        self._system = system or _system(inner)
        self._events = Lifecycle(logger_provider)
        self.duration = meter.create_histogram(
            "holdfast.store.operation.duration", "s", "Duration of a backend's call", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self.commits = meter.create_counter("holdfast.commits", "{commit}", "Commits by outcome")
        self.conflicts = meter.create_counter("holdfast.conflicts", "{commit}", "Commits that found another version than they expected")
        self.io = meter.create_counter("holdfast.io", "By", "Bytes of bodies, values and blobs")
        self.commit_size = meter.create_histogram(
            "holdfast.commit.size", "By", "Size of a commit", explicit_bucket_boundaries_advisory=_BYTES
        )
        self.session_size = meter.create_histogram(
            "holdfast.session.size", "By", "Size of a session's entries", explicit_bucket_boundaries_advisory=_BYTES
        )
        cache = cache_of(inner)
        self._cache = CacheFigures(cache, meter, self._system) if cache is not None else None
        watch_forks(self)

    def after_fork(self, *, child: bool) -> None:
        if child and self._cache is not None:
            self._cache.after_fork()

    async def open(self) -> None:
        with self._call("open"):
            await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()
        self.tell_cache(closed=True)

    async def migrate(self) -> tuple[int, int]:
        with self._call("migrate"):
            return await self.inner.migrate()

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        with self._call("read", key) as call:
            snapshot = await self.inner.read(key, plan)
            call.read(snapshot)
        return snapshot

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        with self._call("commit", key, commit) as call:
            outcome = await self.inner.commit(key, commit)
            call.wrote(outcome)
            self._events.committed(key, commit, outcome)
        return outcome

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        with self._call("copy", target, commit) as call:
            outcome = await self.inner.copy(source, upto, target, commit)
            call.wrote(outcome)
            self._events.copied(source, target, outcome)
        return outcome

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        with self._call("list") as call:
            page = await self.inner.list(filter, cursor, limit)
            call.tell(sessions=len(page.items))
        return page

    async def sweep(self, limit: int) -> int:
        with self._call("sweep") as call:
            swept = await self.inner.sweep(limit)
            call.tell(sessions=swept)
        return swept

    def _call(self, name: str, key: Key | None = None, commit: Commit | None = None) -> _Call:
        attributes: dict[str, str | int] = {"db.system.name": self._system, "db.operation.name": name}
        known = {"gen_ai.conversation.id": key.session_id} if key and not key.session_id.startswith(SCOPE_PREFIXES) else {}
        span = self._tracer.start_span(f"holdfast.{name}", kind=SpanKind.CLIENT, attributes=attributes | known)
        return _Call(self, span, attributes, commit)

    def tell_cache(self, *, closed: bool = False) -> None:
        """Count what the cache did since it was last asked."""
        if self._cache is not None:
            self._cache.tell(closed=closed)


class _Call:
    """One call under way: a span, and what is counted when it ends."""

    def __init__(self, of: TracedBackend, span: Span, attributes: dict[str, str | int], commit: Commit | None) -> None:
        self._of = of
        self._span = span
        self._attributes = attributes
        self._commit = commit
        self._outcome = "applied"
        self._current = use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> Self:
        self._current.__enter__()
        if self._commit is not None:
            self.tell(entries=len(self._commit.entries), bytes=_written(self._commit))
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        seconds = time.perf_counter() - self._began
        if error is not None:
            self._failed(error)
        self._of.duration.record(seconds, self._attributes)
        if self._commit is not None:
            self.tell(outcome=self._outcome)
            self._of.commits.add(1, self._attributes | {"holdfast.outcome": self._outcome})
        self._of.tell_cache()
        self._current.__exit__(None, None, None)

    def tell(self, **facts: Any) -> None:
        """More attributes of the span."""
        for name, value in facts.items():
            self._span.set_attribute(f"holdfast.{name}", value)

    def read(self, snapshot: Snapshot | None) -> None:
        self.tell(found=snapshot is not None)
        if snapshot is not None:
            size = _size(snapshot)
            self.tell(version=snapshot.head.version, entries=len(snapshot.entries or ()), bytes=size)
            self._count(size, "read")

    def wrote(self, outcome: Outcome) -> None:
        self.tell(version=outcome.version)
        if outcome.repeated:
            self._outcome = "repeated"
        elif self._commit is not None:
            self._sized(_written(self._commit), outcome)
        if outcome.snapshot is not None:
            self._count(_size(outcome.snapshot), "read")

    def _sized(self, size: int, outcome: Outcome) -> None:
        self._count(size, "write")
        self._of.commit_size.record(size, self._attributes)
        if outcome.head is not None:
            self._of.session_size.record(outcome.head.counts.bytes, self._attributes)

    def _count(self, size: int, direction: str) -> None:
        if size:
            self._of.io.add(size, self._attributes | {"holdfast.direction": direction})

    def _failed(self, error: BaseException) -> None:
        """A refusal is an answer; only what the store could not do is an error of the span."""
        self._attributes = self._attributes | {"error.type": type(error).__qualname__}
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._outcome = _outcome(error)
        if isinstance(error, Conflict):
            self._of.conflicts.add(1, self._attributes)
        if self._outcome != "refused":
            self._span.set_status(StatusCode.ERROR)


def _outcome(error: BaseException) -> str:
    if isinstance(error, OutcomeUnknown) or not isinstance(error, HoldfastError):
        return "unknown"
    return "refused" if isinstance(error, UsageError) else "failed"


def _written(commit: Commit) -> int:
    bodies = sum([len(entry.body) for entry in commit.entries])
    return bodies + sum([len(put.value or b"") for put in commit.puts]) + sum([len(blob.data) for blob in commit.blobs])


def _size(snapshot: Snapshot) -> int:
    bodies = sum([len(entry.body) for entry in snapshot.entries or ()])
    state = sum([len(row.value or b"") for row in (snapshot.state or {}).values()])
    return bodies + state + sum([len(blob.data or b"") for blob in snapshot.blobs or ()])


def _system(backend: Backend) -> str:
    """The innermost backend's name: of its module here, of its class elsewhere."""
    while isinstance(backend, Wrapper):
        backend = backend.inner
    kind = type(backend)
    _, ours, rest = kind.__module__.partition("holdfast.backends.")
    name = rest.partition(".")[0]
    return _SYSTEMS.get(name, name) if ours else kind.__name__
