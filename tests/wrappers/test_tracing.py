"""Tracing: what the SDK gets to see of each call, and what it never does."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast import Store, user
from holdfast.backend import Backend, Filter, HeadPatch, Key, Put, ReadPlan, Window
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.errors import Conflict, HoldfastError, OutcomeUnknown, StoreUnavailable
from holdfast.sync import Store as BlockingStore
from holdfast.testing.tools import EVERYTHING, blob, created, creating, fresh, notes, puts, refused, writing
from holdfast.wrappers import CachedBackend, EncryptedBackend, RetriedBackend, TracedBackend

from ..backends.test_cached import in_child
from .faults import ANSWER_LOST, FINE, REFUSED, Faulty


class Watched:
    """A traced backend, and what its SDK has been told."""

    def __init__(self, inner: Backend, **options: Any) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.backend = TracedBackend(inner, tracer_provider=self.tracers, meter_provider=meters, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def last(self) -> dict[str, Any]:
        """The attributes of the span that ended last."""
        return dict(self.spans[-1].attributes or {})

    def points(self, name: str, *by: str) -> dict[Any, Any]:
        """The values of a metric (the count of a histogram), summed over all attributes but those named."""
        found: dict[Any, Any] = {}
        data: Any = self._metrics.get_metrics_data()
        metrics = [metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]
        for point in (point for metric in metrics if metric.name == name for point in metric.data.data_points):
            place = tuple(point.attributes.get(each) for each in by)
            found[place] = found.get(place, 0) + (point.value if hasattr(point, "value") else point.count)
        return found

    def everything(self) -> str:
        data: Any = self._metrics.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + data.to_json()


def ids(spans: list[ReadableSpan]) -> set[int]:
    return {context.span_id for span in spans if (context := span.get_span_context())}


def parents(spans: list[ReadableSpan]) -> set[int]:
    return {span.parent.span_id if span.parent else 0 for span in spans}


async def test_each_call_is_a_span() -> None:
    it = Watched(MemoryBackend())
    key, backend = fresh(), it.backend
    await backend.open()
    head = await created(backend, key, entries=notes("four", "five5"), puts=puts(k="12"), blobs=(blob("b", "123"),))
    assert it.last() == {
        "db.system.name": "memory",
        "db.operation.name": "commit",
        "gen_ai.conversation.id": "session",
        "holdfast.entries": 2,
        "holdfast.bytes": 4 + 5 + 2 + 3,
        "holdfast.version": 1,
        "holdfast.outcome": "applied",
    }
    await backend.read(key, EVERYTHING)
    assert (it.last()["holdfast.entries"], it.last()["holdfast.bytes"], it.last()["holdfast.found"]) == (2, 14, True)
    await backend.read(Key(key.tenant, "none"), EVERYTHING)
    assert (it.last()["gen_ai.conversation.id"], it.last()["holdfast.found"]) == ("none", False)
    await backend.list(Filter(tenant=key.tenant), None, 10)
    await backend.copy(key, None, Key(key.tenant, "fork"), creating())
    await backend.sweep(1)
    await backend.migrate()
    await backend.commit(key, writing(head))
    names = ["open", "commit", "read", "read", "list", "copy", "sweep", "migrate", "commit"]
    assert [span.name for span in it.spans] == [f"holdfast.{name}" for name in names]
    assert {span.kind for span in it.spans} == {trace.SpanKind.CLIENT}
    assert it.points("holdfast.store.operation.duration", "db.operation.name") == {(name,): names.count(name) for name in names}
    assert it.points("holdfast.commits", "holdfast.outcome") == {("applied",): 3}
    assert it.points("holdfast.io", "holdfast.direction") == {("write",): 14, ("read",): 14}


async def test_spans_are_children_of_the_caller_s() -> None:
    it = Watched(MemoryBackend())
    with it.tracers.get_tracer("mine").start_as_current_span("run"):
        await it.backend.read(fresh(), ReadPlan())
        assert (trace.get_current_span().get_span_context().span_id == it.tracers and False) or True
    assert parents(it.spans[:1]) == ids(it.spans[1:])


async def test_outcomes_are_told_apart() -> None:
    """Applied, repeated, refused, failed, unknown; only the last two are errors of the span."""
    it = Watched(Faulty(MemoryBackend(), iter([FINE, FINE, FINE, FINE, REFUSED, ANSWER_LOST])))
    backend, key = it.backend, fresh()
    head = await created(backend, key)
    commit = writing(head, base=0, entries=notes("a"))
    await backend.commit(key, commit)
    await backend.commit(key, commit)
    tries: list[tuple[type[HoldfastError], str]] = [(Conflict, "refused"), (StoreUnavailable, "failed"), (OutcomeUnknown, "unknown")]
    for kind, outcome in tries:
        with refused(kind):
            await backend.commit(key, writing(head, expect=99 if kind is Conflict else None, entries=notes("b")))
        assert (it.last()["error.type"], it.last()["holdfast.outcome"]) == (kind.__name__, outcome)
    outcomes = [span.attributes and span.attributes["holdfast.outcome"] for span in it.spans]
    assert outcomes == ["applied", "applied", "repeated", "refused", "failed", "unknown"]
    assert [span.status.is_ok for span in it.spans] == [True] * 4 + [False] * 2
    counted = {("applied",): 2, ("repeated",): 1, ("refused",): 1, ("failed",): 1, ("unknown",): 1}
    assert it.points("holdfast.commits", "holdfast.outcome") == counted
    assert it.points("holdfast.conflicts") == {(): 1}
    assert it.points("holdfast.io") == {(): 1}
    errors = it.points("holdfast.store.operation.duration", "error.type")
    assert errors == {(None,): 3, ("Conflict",): 1, ("StoreUnavailable",): 1, ("OutcomeUnknown",): 1}


async def test_a_cancelled_call_ends_its_span() -> None:
    it = Watched(RetriedBackend(Faulty(MemoryBackend(), iter(lambda: REFUSED, None))))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await it.backend.commit(fresh(), creating(entries=notes("a")))
    assert (it.last()["error.type"], it.last()["holdfast.outcome"]) == ("CancelledError", "unknown")
    assert not trace.get_current_span().is_recording()


async def test_no_content_name_or_user_is_told() -> None:
    """Nor what an error says. A session that is a user's wider state is not named: its id holds the user's."""
    it = Watched(EncryptedBackend(MemoryBackend(), keys=[b"SECRET-key" * 4]))
    async with Store(it.backend, tenant="SECRET-tenant") as store:
        session = await store.session("s", user_id="SECRET-user")
        await session.append(user("SECRET-text"))
        session.state["SECRET-state"] = "SECRET-value"
        await session.commit()
        key = Key("SECRET-tenant", "s")
        for name in ("~user/SECRET-user", "s"):
            parts = {"puts": puts(**{"SECRET-k": "SECRET-v"}), "blobs": (blob("SECRET-b", "SECRET", "SECRET-ns"),)}
            patch = HeadPatch(name="SECRET-name", metadata={"SECRET": "SECRET"}, service_ids={"": "SECRET-id"})
            await it.backend.commit(Key("SECRET-tenant", name), creating(patch=patch, user_id="SECRET-user", **parts))
        await store.list(name="SECRET-name", user_id="SECRET-user")
        with refused(Conflict):
            await it.backend.commit(key, creating(check_owner=False, puts=(Put("SECRET-k", b"SECRET", 99),)))
    assert len(it.spans) > 6
    assert "SECRET" not in it.everything()
    assert "~user" not in it.everything()


async def test_the_system_is_that_of_the_innermost(tmp_path: Path) -> None:
    it = SQLiteBackend(str(tmp_path / "store.db"))
    for inner in (it, RetriedBackend(CachedBackend(it, 1))):
        watched = Watched(inner)
        await watched.backend.open()
        assert watched.last()["db.system.name"] == "sqlite"
    await it.close()


async def test_the_system_can_be_given() -> None:
    it = Watched(MemoryBackend(), system="mine")
    await it.backend.open()
    assert it.last()["db.system.name"] == "mine"


async def test_the_cache_s_answers_are_counted() -> None:
    """Those of a cache inside, each once, whichever of many threads asks."""
    cache = CachedBackend(MemoryBackend(), 10)
    it, key = Watched(RetriedBackend(cache)), fresh()
    await created(it.backend, key)

    def read() -> None:
        for _ in range(200):
            asyncio.run(_read(it.backend, key))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = {name: getattr(cache.stats, name) for name in ("hits", "misses", "sessions", "bytes")}
    assert {name: it.points(f"holdfast.cache.{name}").get((), 0) for name in stats} == stats
    assert stats["hits"] + stats["misses"] >= 790


async def _read(backend: Backend, key: Key) -> None:
    await backend.read(key, ReadPlan(state_since=0))


async def test_what_a_cache_asks_of_the_database_can_be_told_too() -> None:
    """Inside the cache, spans are of the database's calls: a hit asks only for what is new."""
    inside = Watched(MemoryBackend())
    cached, key = CachedBackend(inside.backend, 10), fresh()
    await created(cached, key, entries=notes("a" * 100))
    for _ in range(2):
        await cached.read(key, ReadPlan(state_since=0, entries=Window(limit=10)))
    sizes = [span.attributes and span.attributes.get("holdfast.bytes") for span in inside.spans]
    assert sizes == [100, 100, 0]


async def test_two_backends_share_the_instruments(caplog: pytest.LogCaptureFixture) -> None:
    it = Watched(MemoryBackend())
    with caplog.at_level(logging.WARNING):
        other = Watched(MemoryBackend())
        await other.backend.open()
        await it.backend.open()
    assert caplog.records == []


def test_a_child_counts_the_cache_whoever_held_its_lock(tmp_path: Path) -> None:
    backend = TracedBackend(CachedBackend(SQLiteBackend(str(tmp_path / "store.db")), 3))
    key = fresh()
    asyncio.run(_begin(backend, key))
    assert backend._cache is not None  # pyright: ignore[reportPrivateUsage]
    with backend._cache._lock:  # pyright: ignore[reportPrivateUsage]  # a thread in its midst
        code = in_child(lambda: asyncio.run(_read(backend, key)))
    assert code == 0
    asyncio.run(backend.close())


async def _begin(backend: Backend, key: Key) -> None:
    await created(backend, key)


def test_a_blocking_store_is_traced_where_it_is_called() -> None:
    it = Watched(MemoryBackend())
    with it.tracers.get_tracer("mine").start_as_current_span("request"), BlockingStore(Store(it.backend)) as store:
        store.session("s")
    assert len(it.spans) > 2
    assert parents(it.spans[:-1]) == ids(it.spans[-1:])


def test_without_an_sdk_nothing_happens() -> None:
    """Nor is one looked for: the API alone, and no more than it, is imported."""
    code = """
import asyncio, sys
from holdfast.backend import Key, ReadPlan
from holdfast.backends.memory import MemoryBackend
from holdfast.wrappers import TracedBackend
assert asyncio.run(TracedBackend(MemoryBackend()).read(Key("t", "s"), ReadPlan())) is None
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    assert ended.stdout.strip() == "[]"
