"""Telemetry of runs: spans and metrics by the OpenTelemetry GenAI conventions, by the API alone; without an SDK it does nothing.

Told are ids, names, counts, durations and the types of errors. Text of messages, arguments and results is told where it is asked for
(`content`), the text of an error never: it may hold either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from ..entries import CANCELLED, ERROR
from ..errors import MissingExtra
from ..messages import Message, assistant, to_otel
from .around import Middleware, ModelCall, Next, RunInvocation, ToolInvocation
from .pipeline import Pipeline
from .tools import Waits

try:
    from opentelemetry.metrics import Histogram, MeterProvider, get_meter
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_tracer, use_span
except ModuleNotFoundError as error:
    raise MissingExtra('telemetry needs opentelemetry-api, which is not installed: pip install "holdfast[otel]"') from error

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Where the conventions want the buckets of a model call's duration."""
LONG = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
"""The same for runs, which are many calls."""
TOKENS = tuple(4**power for power in range(14))
"""The same for tokens of a call."""
_PUT_OFF = {"CallDeferred", "ApprovalRequired", "GraphInterrupt"}
"""What pydantic-ai and LangGraph raise for a call that waits for somebody, by name: this module is imported without them."""
_TOLD = "ToolFailed"
"""What it raises in place of what a tool has raised, which is its cause."""

Labels = dict[str, Any]


class Telemetry(Middleware):
    """Spans and metrics of an agent's runs: `Agent(middleware=[Telemetry()])`, first in the list; members and steps have it of their own.

    `content`: tell messages, instructions, arguments and results too, in the GenAI schema. `users`: tell whose run it is. The providers are
    the process's own unless given. Spans: `invoke_agent {name}` or `invoke_workflow {name}`, in it `chat {model}`, `execute_tool {name}`
    and `step {name}`; the session's id is the `gen_ai.conversation.id` of each. A run that pauses, and one that is cancelled, is no error.
    """

    def __init__(
        self,
        *,
        content: bool = False,
        users: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._content = content
        self._users = users
        self._tracer = get_tracer("holdfast", tracer_provider=tracer_provider)
        meter = get_meter("holdfast", meter_provider=meter_provider)

        def histogram(name: str, unit: str, what: str, bounds: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=bounds)

        self._calls = histogram("gen_ai.client.operation.duration", "s", "Duration of a model call", SECONDS)
        self._tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens of a model call", TOKENS)
        self._agents = histogram("gen_ai.invoke_agent.duration", "s", "Duration of a run of an agent", LONG)
        self._workflows = histogram("gen_ai.invoke_workflow.duration", "s", "Duration of a run of a workflow", LONG)
        self._tools = histogram("gen_ai.execute_tool.duration", "s", "Duration of a tool's execution", SECONDS)
        self._steps = histogram("holdfast.step.duration", "s", "Duration of a workflow's step", SECONDS)

    async def on_invocation(self, invocation: RunInvocation, call_next: Next) -> None:
        flow = isinstance(invocation.agent.crew.engine, Pipeline)
        operation, kind = ("invoke_workflow", "workflow") if flow else ("invoke_agent", "agent")
        name = invocation.agent.name
        labels = _known({"gen_ai.operation.name": operation, f"gen_ai.{kind}.name": name})
        facts = {"gen_ai.conversation.id": invocation.session.id, "holdfast.run.id": invocation.run_id}
        counted = self._workflows if flow else self._agents
        with self._during(_title(operation, name), SpanKind.INTERNAL, counted, labels, facts) as part:
            outer, status = _run.get(), ERROR
            _run.set(_Run(part, name, flow))
            try:
                await call_next()
                status = invocation.output.status if invocation.output else status
            except BaseException as error:
                status = ERROR if isinstance(error, Exception) else CANCELLED
                raise
            finally:
                _run.set(outer)
                self._ran(part, invocation, status)

    async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
        asked = _known({"gen_ai.provider.name": call.provider, "gen_ai.request.model": call.model})
        if (run := _run_of(call)) is not None:
            run.part.label(asked)  # a run has those of its newest call
        labels = {"gen_ai.operation.name": "chat"} | asked
        facts = _inside(call) | ({"gen_ai.request.stream": True} if call.stream else {})
        with self._during(_title("chat", call.model), SpanKind.CLIENT, self._calls, labels, facts) as part:
            try:
                await call_next()
            finally:
                self._answered(part, call)

    async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
        run = _run.get()
        if run is not None and run.flow:
            title, counted = _title("step", call.name), self._steps
            labels = _known({"gen_ai.workflow.name": run.name, "holdfast.step.name": call.name})
            facts = {"holdfast.step.path": call.id}
        else:
            title, counted = _title("execute_tool", call.name), self._tools
            labels = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name, "gen_ai.tool.type": "function"}
            labels |= _known({"gen_ai.agent.name": call.agent})
            facts = {"gen_ai.tool.call.id": call.id}
        with self._during(title, SpanKind.INTERNAL, counted, labels, _inside(call) | facts) as part:
            self._show(part, lambda: {"gen_ai.tool.call.arguments": call.arguments})
            await call_next()
            self._show(part, lambda: {} if call.result is UNSET else {"gen_ai.tool.call.result": call.result})

    # --- what is told at the end ---

    def _ran(self, part: _Part, invocation: RunInvocation, status: str) -> None:
        part.tell({"holdfast.run.status": status, "holdfast.run.attempt": invocation.attempt})
        if self._users:
            part.tell({"holdfast.user.id": invocation.session.user_id})
        self._show(part, lambda: _conversation(invocation.input, _answer(invocation), None))

    def _answered(self, part: _Part, call: ModelCall) -> None:
        part.label({"gen_ai.response.model": call.response_model})
        part.tell(
            {
                "gen_ai.response.id": call.response_id,
                "gen_ai.response.finish_reasons": [call.finish_reason] if call.finish_reason else None,
                "gen_ai.usage.input_tokens": call.input_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
            }
        )
        if call.failure is not None:
            part.broke(call.failure)
        for kind, tokens in (("input", call.input_tokens), ("output", call.output_tokens)):
            if tokens:
                self._tokens.record(tokens, part.labels | {"gen_ai.token.type": kind})
            if tokens and (run := _run_of(call)) is not None:
                run.part.add(f"gen_ai.usage.{kind}_tokens", tokens)
        told = [{"type": "text", "content": call.instructions}] if call.instructions else None
        self._show(part, lambda: {"gen_ai.system_instructions": told} | _conversation(call.messages, call.answer, call.finish_reason))

    # --- how ---

    def _show(self, part: _Part, content: Callable[[], Labels]) -> None:
        """Tell what was said, as JSON, if it was asked for."""
        if self._content and part.span.is_recording():
            part.tell({name: _json(value) for name, value in content().items() if value is not None})

    @contextmanager
    def _during(self, title: str, kind: SpanKind, counted: Histogram, labels: Labels, facts: Labels) -> Generator[_Part]:
        """A span that is current meanwhile, with its `labels` (which the metric has too) and other `facts`."""
        part = _Part(self._tracer.start_span(title, kind=kind, attributes=labels | _known(facts)), labels)
        began = time.perf_counter()
        with use_span(part.span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield part
            except BaseException as error:
                part.failed(error)
                raise
            finally:
                counted.record(time.perf_counter() - began, part.labels)


class _Part:
    """A span under way, and the attributes of what is counted at its end."""

    def __init__(self, span: Span, labels: Labels) -> None:
        self.span = span
        self.labels = labels
        self._sums: dict[str, int] = {}

    def tell(self, facts: Labels) -> None:
        """More attributes; what is None is left out."""
        self.span.set_attributes(_known(facts))

    def label(self, facts: Labels) -> None:
        """More attributes, of the metric too."""
        self.labels |= _known(facts)
        self.tell(facts)

    def add(self, name: str, number: int) -> None:
        """More of what the span has the sum of."""
        self._sums[name] = self._sums.get(name, 0) + number
        self.span.set_attribute(name, self._sums[name])

    def failed(self, error: BaseException) -> None:
        """A call that waits for people has not failed, nor has one that was cancelled."""
        name = type(error).__name__
        if isinstance(error, Waits) or name in _PUT_OFF:
            self.tell({"holdfast.waits": True})
        elif not isinstance(error, Exception):
            self.tell({"holdfast.cancelled": True})
        else:
            self.broke(type(error.__cause__ if name == _TOLD and error.__cause__ else error).__qualname__)

    def broke(self, kind: str) -> None:
        """It failed, by an error of this type."""
        self.label({"error.type": kind})
        self.span.set_status(StatusCode.ERROR)


class _Run(NamedTuple):
    """The run that calls are made for."""

    part: _Part
    name: str | None
    flow: bool


_run: ContextVar[_Run | None] = ContextVar("holdfast_telemetry", default=None)


def _run_of(call: ModelCall | ToolInvocation) -> _Run | None:
    """The run that a call is made for; None for one that is made for another purpose, maybe after a run whose context it has."""
    return None if isinstance(call, ModelCall) and call.purpose != "answer" else _run.get()


def _title(operation: str, name: str | None) -> str:
    return f"{operation} {name}" if name else operation


def _known(facts: Labels) -> Labels:
    return {name: value for name, value in facts.items() if value is not None}


def _inside(call: ModelCall | ToolInvocation) -> Labels:
    """What the span of each call has."""
    run = _run_of(call)
    name = None if run is not None and run.flow else call.agent
    purpose = call.purpose if isinstance(call, ModelCall) and call.purpose != "answer" else None
    facts = {"gen_ai.conversation.id": call.session.id, "gen_ai.agent.name": name, "holdfast.purpose": purpose}
    return _known(facts | ({} if purpose else {"holdfast.run.id": call.run_id}))


def _answer(invocation: RunInvocation) -> Message | None:
    output = invocation.output
    return None if output is None or output.content is None else assistant(output.text)


def _conversation(given: Sequence[Message], answer: Message | None, reason: str | None) -> Labels:
    """What was sent and what was said, in the schema."""
    said = None if answer is None else [to_otel(answer) | {"finish_reason": reason or "stop"}]
    return {"gen_ai.input.messages": [to_otel(it) for it in given] or None, "gen_ai.output.messages": said}


def _json(value: Any) -> str:
    """Any value as JSON; what is none is told by its text, or its type: a run does not fail for what is told of it."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f'"{type(value).__name__}"'
