"""What a traced store tells of its sessions' lives, of sizes, and of its cache."""

from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from holdfast import Conflict, Store, user
from holdfast.agents import Agent, tool
from holdfast.backend import Backend
from holdfast.backends.memory import MemoryBackend
from holdfast.models import OpenAIChat
from holdfast.sync import Store as BlockingStore
from holdfast.testing.model_server import ModelServer, call
from holdfast.testing.tools import created, fresh, notes, refused, writing
from holdfast.wrappers import EncryptedBackend, TracedBackend

Event = tuple[str, dict[str, Any]]


class Told:
    """A store that is traced, and what was told."""

    def __init__(self, backend: Backend | None = None, **options: Any) -> None:
        self._logs, self._metrics = InMemoryLogRecordExporter(), InMemoryMetricReader()
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.tracers = TracerProvider(shutdown_on_exit=False)
        meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.plain = Store(backend or MemoryBackend(), **options)
        self.store = self.plain.traced(tracer_provider=self.tracers, meter_provider=meters, logger_provider=loggers)

    def events(self, session_id: str | None = None) -> list[Event]:
        """The events of one session, or all: short names, and the attributes beside the session's id."""
        found: list[Event] = []
        for it in self._logs.get_finished_logs():
            attributes = dict(it.log_record.attributes or {})
            session = attributes.pop("gen_ai.conversation.id")
            if session_id in (None, session):
                found.append(((it.log_record.event_name or "").removeprefix("holdfast.session."), attributes))
        return found

    def names(self, session_id: str | None = None) -> list[str]:
        return [name for name, _ in self.events(session_id)]

    def all(self) -> str:
        return "".join([it.to_json() for it in self._logs.get_finished_logs()])

    def points(self, name: str) -> list[Any]:
        data: Any = self._metrics.get_metrics_data()
        metrics = [metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def cache(self) -> dict[str, int]:
        names = ("hits", "misses", "evictions", "sessions", "bytes")
        return {name: sum(point.value for point in self.points(f"holdfast.cache.{name}")) for name in names}


async def test_a_session_s_life_is_told() -> None:
    told = Told()
    session = await told.store.session("a", user_id="ada lovelace")
    await session.append(user("SECRET"))
    await session.rename("SECRET name")
    fork = await session.fork("b")
    session.clear()
    await session.commit()
    await told.store.delete("b", user_id="ada lovelace")
    assert fork.id == "b"
    assert told.events("a") == [("created", {}), ("renamed", {}), ("cleared", {})]
    assert told.events("b") == [("forked", {"holdfast.session.origin": "a"}), ("deleted", {})]
    assert "SECRET" not in told.all()
    assert "lovelace" not in told.all()


async def test_getting_a_session_that_is_there_creates_none() -> None:
    told = Told()
    await told.store.session("a")
    await (await told.store.session("a")).append(user("hi"))
    await told.store.import_([line async for line in told.store.export("a")], session_id="b")
    assert told.events() == [("created", {}), ("created", {})]


async def test_a_repeated_commit_and_a_refused_one_tell_nothing() -> None:
    told, key = Told(), fresh()
    head = await created(told.store.backend, key)
    commit = writing(head, base=0, entries=notes("a"))
    for _ in range(2):
        await told.store.backend.commit(key, commit)
    with refused(Conflict):
        await told.store.backend.commit(key, writing(head, expect=99))
    assert told.events() == [("created", {})]


@tool(confirm=True)
def refund(order_id: str) -> str:
    """Pay an order back."""
    return f"paid {order_id}"


async def test_runs_are_told_of_where_they_begin_wait_go_on_and_end() -> None:
    told = Told()
    with ModelServer([call("refund", order_id="SECRET"), "Done.", "Again."]) as server:
        model = OpenAIChat(id="scripted", base_url=server.base_url, api_key="none")
        agent = Agent(model, tools=[refund], store=told.store)
        paused = await agent.run("SECRET", session_id="s")
        await agent.continue_run(paused, [paused.requirements[0].approve()])
        other = await agent.run("SECRET", session_id="s")
    run = {"holdfast.run.id": paused.run_id, "holdfast.run.attempt": 1}
    last = {"holdfast.run.id": other.run_id, "holdfast.run.attempt": 1}
    completed = {"holdfast.run.status": "completed"}
    assert told.events("s") == [
        ("created", {}),
        ("run_started", run),
        ("paused", run),
        ("resumed", run),
        ("run_ended", run | completed),
        ("run_started", last),
        ("run_ended", last | completed),
    ]
    assert "SECRET" not in told.all()


async def test_a_run_that_failed_is_told_by_its_status() -> None:
    told = Told()
    session = await told.store.session("s")
    with pytest.raises(RuntimeError):
        async with session.run(user("hi")):
            raise RuntimeError("SECRET")
    assert [attributes.get("holdfast.run.status") for name, attributes in told.events("s") if name == "run_ended"] == ["error"]
    assert "SECRET" not in told.all()


async def test_what_is_sealed_below_is_not_read() -> None:
    """Inside an encryption the store's own events are told, and those of runs are not: their entries can't be read there."""
    inside = Told()
    store = Store(EncryptedBackend(inside.store.backend, keys=[b"k" * 32]))
    session = await store.session("s")
    async with session.run(user("hi")):
        pass
    assert inside.names("s") == ["created"]
    outside = Told(EncryptedBackend(MemoryBackend(), keys=[b"k" * 32]))
    async with (await outside.store.session("s")).run(user("hi")):
        pass
    assert outside.names("s") == ["created", "run_started", "run_ended"]


async def test_a_user_s_wider_state_is_not_told_of() -> None:
    told = Told()
    session = await told.store.session("s", user_id="SECRET-user")
    scope = await session.scope("user")
    scope["k"] = "v"
    await session.commit()
    assert told.names() == ["created"]
    assert "SECRET" not in told.all()


async def test_an_event_belongs_to_the_span_it_happened_in() -> None:
    told = Told()
    with told.tracers.get_tracer("mine").start_as_current_span("request"):
        trace_id = get_current_span().get_span_context().trace_id
        await told.store.session("s")
    assert [it.log_record.trace_id for it in told._logs.get_finished_logs()] == [trace_id]  # pyright: ignore[reportPrivateUsage]


# --- figures ---------------------------------------------------------------------------------------------------------


async def test_sizes_of_commits_and_of_sessions() -> None:
    told, key = Told(), fresh()
    head = await created(told.store.backend, key, entries=notes("a" * 100))
    await told.store.backend.commit(key, writing(head, entries=notes("b" * 50)))
    (commits,), (sessions,) = told.points("holdfast.commit.size"), told.points("holdfast.session.size")
    assert (commits.count, commits.sum, commits.max) == (2, 150, 100)
    assert (sessions.count, dict(sessions.attributes)) == (2, {"db.system.name": "memory", "db.operation.name": "commit"})


async def test_what_caches_hold_adds_up_and_ends_with_them() -> None:
    first = Told(cache=2)
    for name in "abc":
        await (await first.store.session(name)).append(user("hi"))
        await first.store.get(name)
    stats = first.store.cache_stats
    assert (stats.evictions, stats.sessions) == (1, 2)
    assert first.cache() == {name: getattr(stats, name) for name in ("hits", "misses", "evictions", "sessions", "bytes")}
    await first.store.close()
    assert first.cache() | {"hits": 0, "misses": 0} == {"hits": 0, "misses": 0, "evictions": 1, "sessions": 0, "bytes": 0}


def test_a_traced_store_is_the_same_store_otherwise() -> None:
    store = Store.open("memory://", cache=5, tenant="t", ttl=60.0, as_admin=True)
    traced = store.traced()
    assert isinstance(traced.backend, TracedBackend)
    assert (traced.tenant, traced.ttl, traced.as_admin, traced.cached(9)) == ("t", 60.0, True, traced)
    blocking = BlockingStore.open("memory://").traced()
    with blocking as it:
        it.session("s")
        assert it.aio.backend.capabilities == store.backend.capabilities
