"""A model without a model: a small HTTP server that speaks OpenAI's protocol and answers from a script or a rule.

    with ModelServer([call("find_order", order_id="7"), "It is on its way."]) as server:
        client = OpenAI(base_url=server.base_url, api_key="none")

It serves `/v1/responses` and `/v1/chat/completions`, whole or streamed, and `/v1/models`, on 127.0.0.1 only. It never passes for a real
model: whatever model is asked for, the answer names `holdfast-scripted`, and every response has an `x-holdfast-scripted` header.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

MODEL = "holdfast-scripted"

Events: TypeAlias = Iterable[tuple[str | None, Any]]
"""Server-sent events: name (None for none) and data."""


@dataclass(frozen=True)
class Call:
    """One tool call of an answer; `arguments` is a JSON value, or a string that is sent as it is."""

    name: str
    arguments: Any = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says to one request: text, tool calls, both, or an error status; `reasoning`: what it thinks before.

    `delay`: seconds before it. `hold`: it waits until this event is set, or the server closes. `halfway`: so does the second half of a
    streamed one. `cut`: the connection breaks in the middle of it. `raw`: this JSON body instead of all that, under `status`.
    """

    text: str | None = None
    calls: tuple[Call, ...] = ()
    status: int = 200
    delay: float = 0.0
    hold: threading.Event | None = None
    halfway: threading.Event | None = None
    cut: bool = False
    raw: Any = None
    reasoning: str | None = None


def call(name: str, **arguments: Any) -> Answer:
    """An answer that asks for one tool."""
    return Answer(calls=(Call(name, arguments),))


@dataclass(frozen=True)
class Request:
    """What the server was asked: its place among all (from 1), and its JSON body. Credentials are not recorded."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def input(self) -> list[dict[str, Any]]:
        """The conversation it carries: the input items, or the messages of a chat completion."""
        given = self.body.get("input", self.body.get("messages"))
        return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))


Script: TypeAlias = Iterable["Answer | str"]
Rule: TypeAlias = Callable[[Request], "Answer | str"]


class ModelServer:
    """The server, from `with` to its end; `answers` is a script (one answer per request, in order) or a rule.

    A request that comes when the script is over gets status 400 and no retry of a client helps it.
    """

    def __init__(self, answers: Script | Rule = ()) -> None:
        self._rule = answers if callable(answers) else _following(answers)
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._held: set[threading.Event] = set()
        self._busy = 0
        self._closing = False
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="holdfast-model-server", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop: held answers are dropped, their clients see a broken connection. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            held = list(self._held)
        for event in held:
            event.set()
        server.shutdown()
        server.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, timeout=5)

    @property
    def base_url(self) -> str:
        """What a client takes as its `base_url`."""
        if self._server is None:
            raise RuntimeError("this ModelServer is not running: use it in a `with` block")
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> list[Request]:
        """Every request for an answer so far, in the order of their arrival."""
        with self._changed:
            return list(self._requests)

    def wait_for(self, number: int, *, timeout: float = 30.0) -> Request:
        """The request of this number, as soon as it has arrived; `TimeoutError` if it doesn't."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= number, timeout):
                raise TimeoutError(f"request {number} did not come within {timeout:g} s: there were {len(self._requests)}")
            return self._requests[number - 1]

    # --- for the handler ---

    def received(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> Request:
        with self._changed:
            self._busy += 1
            request = Request(len(self._requests) + 1, method, path, headers, body)
            self._requests.append(request)
            self._changed.notify_all()
            return request

    def answer(self, request: Request) -> Answer | None:
        """The answer when its time has come; None when the server closes before."""
        try:
            said = self._rule(request)
        except Exception as error:  # the rule is the caller's code; its client is who is waiting
            said = Answer(status=400, text=f"the rule of this ModelServer failed at request {request.number}: {error!r}")
        answer = Answer(text=said) if isinstance(said, str) else said
        with self._changed:
            if self._changed.wait_for(lambda: self._closing, answer.delay):
                return None
        return answer if answer.hold is None or self.waited(answer.hold) else None

    def waited(self, event: threading.Event) -> bool:
        """Wait until this is set; whether the server goes on."""
        with self._changed:
            self._held.add(event)
            if self._closing:
                return False
        event.wait()
        return not self._closing

    def done(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()


def _following(script: Script) -> Rule:
    answers = iter(list(script))

    def rule(request: Request) -> Answer | str:
        over = _error(f"the script of this ModelServer is over: it has no answer to request {request.number}", "script_over")
        return next(answers, Answer(status=400, raw=over))

    return rule


# --- HTTP ------------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, models: ModelServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "holdfast-model-server"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "holdfast"}]})
        else:
            self._unknown()

    def do_POST(self) -> None:
        shape = _SHAPES.get(self.path.partition("?")[0])
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if shape is None:
            return self._unknown()
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            with suppress(ConnectionError):  # a client that has gone in the middle of its request
                self._send(400, _error("the request's body is not a JSON object", "invalid_request_error"))
            return None
        models = cast(_Server, self.server).models
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in ("authorization", "cookie")}
        request = models.received("POST", self.path, headers, cast("dict[str, Any]", body))
        try:
            with suppress(ConnectionError):  # the client has gone: nobody to answer
                self._answer(request, models.answer(request), shape)
        finally:
            models.done()
        return None

    def _answer(self, request: Request, answer: Answer | None, shape: _Shape) -> None:
        if answer is None:
            self.close_connection = True
        elif answer.raw is not None or answer.status >= 400:
            default = _error(answer.text or f"scripted error {answer.status}", "scripted_error")
            self._send(answer.status, default if answer.raw is None else answer.raw)
        elif request.streamed:
            self._stream(shape.events(request, answer), answer)
        else:
            self._send(200, shape.whole(request, answer), cut=answer.cut)

    def _unknown(self) -> None:
        self._send(404, _error(f"{self.command} {self.path} is not served here", "not_found"))

    def _head(self, status: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "content_type": kind,
            "connection": "close",
            "x_holdfast_scripted": "answered from a script",
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _send(self, status: int, body: Any, *, cut: bool = False) -> None:
        data = json.dumps(body).encode()
        self._head(status, "application/json", content_length=str(len(data)))
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def _stream(self, events: Events, answer: Answer) -> None:
        self._head(200, "text/event-stream", transfer_encoding="chunked")
        sent = list(events)
        self._send_events(sent[: len(sent) // 2])
        if answer.halfway is not None:
            cast(_Server, self.server).models.waited(answer.halfway)
        if not answer.cut:
            self._send_events(sent[len(sent) // 2 :])
            self.wfile.write(b"0\r\n\r\n")

    def _send_events(self, events: Sequence[tuple[str | None, Any]]) -> None:
        for name, data in events:
            text = (f"event: {name}\n" if name else "") + f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
            chunk = text.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what was asked is in `requests`."""


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


# --- the two protocols -----------------------------------------------------------------------------------------------

_run = os.urandom(6).hex()
_numbers = count(1)


def _id(prefix: str) -> str:
    """An id that no other process makes: clients tell items apart by it."""
    return f"{prefix}_{_run}{next(_numbers):06x}"


def _arguments(call: Call) -> str:
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def _tokens(*texts: str) -> int:
    """An estimate; nothing here counts tokens."""
    return sum(len(text) for text in texts) // 4 + 1


def _pieces(text: str) -> Iterator[str]:
    """The text in the small pieces a model streams."""
    yield from (text[start : start + 12] for start in range(0, len(text), 12))


class _Shape:
    """One of the two protocols."""

    def whole(self, request: Request, answer: Answer) -> dict[str, Any]:
        raise NotImplementedError

    def events(self, request: Request, answer: Answer) -> Events:
        raise NotImplementedError


class _Responses(_Shape):
    def whole(self, request: Request, answer: Answer) -> dict[str, Any]:
        items = [self._thought(_id("rs"), answer.reasoning)] if answer.reasoning else []
        items += [self._message(_id("msg"), answer.text)] if answer.text is not None else []
        items += [
            {
                "id": _id("fc"),
                "type": "function_call",
                "call_id": _id("call"),
                "name": it.name,
                "arguments": _arguments(it),
                "status": "completed",
            }
            for it in answer.calls
        ]
        asked, said = _tokens(json.dumps(request.input)), _tokens(answer.text or "", *map(_arguments, answer.calls))
        return {
            "id": _id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": request.body.get("instructions"),
            "metadata": request.body.get("metadata") or {},
            "model": MODEL,
            "output": items,
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": request.body.get("tool_choice") or "auto",
            "tools": request.body.get("tools") or [],
            "top_p": None,
            "usage": {
                "input_tokens": asked,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": said,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": asked + said,
            },
        }

    def events(self, request: Request, answer: Answer) -> Events:
        whole = self.whole(request, answer)
        begun: dict[str, Any] = whole | {"status": "in_progress", "output": [], "usage": None}
        numbers = count()

        def event(kind: str, **fields: Any) -> tuple[str, Any]:
            return kind, {"type": kind, "sequence_number": next(numbers), **fields}

        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        for index, item in enumerate(whole["output"]):
            inner = {"message": self._say, "reasoning": self._think, "function_call": self._ask}[item["type"]]
            for kind, fields in inner(index, item):
                yield event(kind, **fields)
        yield event("response.completed", response=whole)

    def _think(self, index: int, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        part = item["summary"][0]
        at = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        yield "response.output_item.added", {"output_index": index, "item": item | {"summary": []}}
        yield "response.reasoning_summary_part.added", {**at, "part": part | {"text": ""}}
        for piece in _pieces(part["text"]):
            yield "response.reasoning_summary_text.delta", {**at, "delta": piece}
        yield "response.reasoning_summary_text.done", {**at, "text": part["text"]}
        yield "response.reasoning_summary_part.done", {**at, "part": part}
        yield "response.output_item.done", {"output_index": index, "item": item}

    def _say(self, index: int, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        text = item["content"][0]["text"]
        at = {"item_id": item["id"], "output_index": index, "content_index": 0}
        empty: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield "response.output_item.added", {"output_index": index, "item": item | {"status": "in_progress", "content": []}}
        yield "response.content_part.added", {**at, "part": empty}
        for piece in _pieces(text):
            yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**at, "text": text, "logprobs": []}
        yield "response.content_part.done", {**at, "part": empty | {"text": text}}
        yield "response.output_item.done", {"output_index": index, "item": item}

    def _ask(self, index: int, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        at = {"item_id": item["id"], "output_index": index}
        yield "response.output_item.added", {"output_index": index, "item": item | {"status": "in_progress", "arguments": ""}}
        for piece in _pieces(item["arguments"]):
            yield "response.function_call_arguments.delta", {**at, "delta": piece}
        yield "response.function_call_arguments.done", {**at, "name": item["name"], "arguments": item["arguments"]}
        yield "response.output_item.done", {"output_index": index, "item": item}

    @staticmethod
    def _thought(id: str, text: str) -> dict[str, Any]:
        return {"id": id, "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}

    @staticmethod
    def _message(id: str, text: str) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {"id": id, "type": "message", "role": "assistant", "status": "completed", "content": content}


class _ChatCompletions(_Shape):
    def whole(self, request: Request, answer: Answer) -> dict[str, Any]:
        calls = [{"id": _id("call"), "type": "function", "function": {"name": it.name, "arguments": _arguments(it)}} for it in answer.calls]
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        message |= ({"tool_calls": calls} if calls else {}) | ({"reasoning_content": answer.reasoning} if answer.reasoning else {})
        asked, said = _tokens(json.dumps(request.input)), _tokens(answer.text or "", *map(_arguments, answer.calls))
        return {
            "id": _id("chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if calls else "stop"}],
            "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        }

    def events(self, request: Request, answer: Answer) -> Events:
        whole = self.whole(request, answer)
        same = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
        choice = whole["choices"][0]

        def chunk(delta: dict[str, Any], finish: str | None = None) -> tuple[None, Any]:
            return None, same | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

        yield chunk({"role": "assistant", "content": None if answer.text is None else ""})
        for piece in _pieces(answer.reasoning or ""):
            yield chunk({"reasoning_content": piece})
        for piece in _pieces(answer.text or ""):
            yield chunk({"content": piece})
        for index, it in enumerate(choice["message"].get("tool_calls", ())):
            yield chunk({"tool_calls": [it | {"index": index, "function": it["function"] | {"arguments": ""}}]})
            for piece in _pieces(it["function"]["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, choice["finish_reason"])
        options: dict[str, Any] = request.body.get("stream_options") or {}
        if options.get("include_usage"):
            yield None, same | {"choices": [], "usage": whole["usage"]}
        yield None, "[DONE]"


_SHAPES: dict[str, _Shape] = {"/v1/responses": _Responses(), "/v1/chat/completions": _ChatCompletions()}
