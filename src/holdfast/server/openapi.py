"""The OpenAPI document: what FastAPI knows, and what it can't: how errors look, which answers are streams, when a run is begun only."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from .problems import MEDIA_TYPE

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong (RFC 9457). `run_id` and `session_id` are of a run that failed, `errors` of a request.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "run_id": {"type": "string"},
        "session_id": {"type": "string"},
        "error": {"type": "string", "description": "The kind of error a run has failed with."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "why": {"type": "string"}},
                "required": ["at", "why"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": True,
}
_ABOUT = {
    400: "The request can't be read.",
    401: "The request shows no credentials that are good.",
    403: "The caller may not do this.",
    404: "It isn't there, or is another's: the two look the same.",
    409: "It is there already, another run holds the session, or somebody else was first.",
    410: "The session was cleared, deleted or has expired meanwhile.",
    413: "The request, or what is to be stored, is too large.",
    415: "The body is not sent as `application/json`.",
    422: "The request makes no sense: `detail` says what to change.",
    429: "Too many requests.",
    500: "Something went wrong here.",
    502: "The agent's run failed: it is stored under `run_id`.",
    503: "The store is away, or this server has no room at the moment.",
}
_EVERY, _WITH_ID, _WITH_BODY, _WRITES = (401, 403, 422, 429, 500, 503), (404, 410), (400, 413, 415), (409,)
_OPEN = ("health", "ready")
"""Operations that ask nobody who they are and nothing of a request."""
_RUNS = ("run_agent", "decide")
_FOLLOWS = ("follow_run", "follow_session", "follow_sessions")
_RUN_TELLS = (
    *("run_started", "text_delta", "reasoning_delta", "tool_called", "tool_answered", "handed_over"),
    *("run_ended", "problem"),
)
_TELLS = {
    "run_agent": _RUN_TELLS,
    "decide": _RUN_TELLS,
    "follow_run": _RUN_TELLS,
    "follow_session": ("entry", "session", "partial", "cleared", "gone", "problem"),
    "follow_sessions": ("ready", "session", "deleted", "reload", "problem"),
}
"""The events of each stream, by its operation."""
_LOCATION = {"Location": {"description": "Where the run is read.", "schema": {"type": "string", "format": "uri-reference"}}}


def operation_id(route: APIRoute) -> str:
    """An operation is called as its function."""
    return route.name


def describe(app: FastAPI) -> None:
    """Have the document of an application say all of it."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = _PROBLEM
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, method, operation in _operations(document):
            _describe(path, method, operation)
        return document

    app.openapi = openapi


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    name, responses = operation["operationId"], operation["responses"]
    responses.pop("422", None)
    for status in _statuses(name, path, method, operation):
        title = HTTPStatus(status).phrase
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses[str(status)] = {"description": f"{title}. {_ABOUT[status]}", "content": content}
    if name in _RUNS:
        responses["200"]["content"] = _json("RunTold")
        responses["202"] = {"description": "The run goes on in the background.", "content": _json("RunBegun"), "headers": _LOCATION}
    if name in (*_RUNS, *_FOLLOWS):
        responses["200"].setdefault("content", {})["text/event-stream"] = {"schema": _events(name)}
    if name in _FOLLOWS and not any(it["name"] == "Last-Event-ID" for it in operation.get("parameters", ())):
        pattern = r"^[0-9]{1,15}(\.[0-9]{1,15}(\.[0-9a-f]{1,12})?)?$" if name == "follow_session" else "^[0-9]{1,17}$"
        behind = {"required": False, "schema": {"type": "string", "pattern": pattern}}
        header = {"name": "Last-Event-ID", "in": "header", "description": "The id of the event behind which to go on.", **behind}
        query = {"name": "after", "in": "query", "description": "The same, for who can't set a header.", **behind}
        operation.setdefault("parameters", []).extend([header, query])


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}


def _events(name: str) -> dict[str, Any]:
    """One event of a stream."""
    members = {
        "event": {"type": "string", "enum": list(_TELLS[name])},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "description": "Given as `Last-Event-ID` it goes on behind this event."},
    }
    return {"type": "object", "description": "One server-sent event.", "properties": members, "required": ["event", "data"]}


def _statuses(name: str, path: str, method: str, operation: dict[str, Any]) -> list[int]:
    if name in _OPEN:
        return [503] if name == "ready" else []
    with_id = "{" in path or name in (*_RUNS, "list_sessions", "create_session")  # a page, or a session of another, is not there either
    found = [*_EVERY, *(_WITH_ID if with_id else ()), *(_WITH_BODY if "requestBody" in operation else ())]
    return sorted([*found, *(_WRITES if method != "get" or "state" in path else ()), *((502,) if name in _RUNS else ())])
