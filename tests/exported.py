"""What an OpenTelemetry SDK has been told in this process."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from holdfast import Store
from holdfast.agents.telemetry import Telemetry


class Exported:
    """What an SDK has been told."""

    def __init__(self) -> None:
        self._spans, self._metrics, self._logs = InMemorySpanExporter(), InMemoryMetricReader(), InMemoryLogRecordExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def traced(self, store: Store) -> Store:
        return store.traced(tracer_provider=self.tracers, meter_provider=self.meters, logger_provider=self.loggers)

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order they began."""
        return sorted(self._spans.get_finished_spans(), key=lambda it: it.start_time or 0)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The attributes of the spans with this name."""
        return [dict(it.attributes or {}) for it in self.spans if it.name == name]

    def one(self, name: str) -> dict[str, Any]:
        (found,) = self.named(name)
        return found

    def conversations(self) -> set[str]:
        return {str((it.attributes or {})["gen_ai.conversation.id"]) for it in self.spans}

    def tree(self, *, but: str = "holdfast.") -> list[str]:
        """The spans' names, each indented under its parent, siblings in order of name where they begin together."""
        spans = [it for it in self.spans if not it.name.startswith(but)]
        return [line for root in spans if root.parent is None for line in self._branch(root, spans, "")]

    def _branch(self, it: ReadableSpan, spans: list[ReadableSpan], indent: str) -> list[str]:
        below = [child for child in spans if child.parent is not None and child.parent.span_id == id_of(it)]
        return [indent + it.name, *(line for child in below for line in self._branch(child, spans, indent + "  "))]

    def errors(self) -> dict[str, str]:
        """The types of the errors of spans that are errors."""
        failed = [it for it in self.spans if it.status.status_code is StatusCode.ERROR]
        return {it.name: str((it.attributes or {}).get("error.type")) for it in failed}

    def points(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        data: Any = self._metrics.get_metrics_data()
        metrics = [metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def everything(self) -> str:
        """All that left the process, as text."""
        data: Any = self._metrics.get_metrics_data()
        return "".join([*(it.to_json() for it in self.spans), data.to_json(), *(it.to_json() for it in self._logs.get_finished_logs())])


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id
