"""Errors as problem documents (RFC 9457): what went wrong in words for whoever called, and nothing of the inside.

`type` is `about:blank`, so `title` is the status in words; `detail` says what to change. A provider's failure is a 502 with the ids under
which the run is stored; its text stays in the log.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .. import (
    AlreadyDecided,
    Conflict,
    Fenced,
    FileNotFound,
    HoldfastError,
    InvalidId,
    InvalidValue,
    MissingExtra,
    SessionBusy,
    SessionExists,
    SessionGone,
    SessionNotFound,
    StoreClosed,
    StoreError,
    StoreUnavailable,
    TooLarge,
    Unsupported,
    UsageError,
)

log = logging.getLogger("holdfast.server")
MEDIA_TYPE = "application/problem+json"
_STATUSES: tuple[tuple[type[HoldfastError], int], ...] = (
    (SessionNotFound, 404),
    (FileNotFound, 404),
    (SessionGone, 410),
    (SessionExists, 409),
    (SessionBusy, 409),
    (Conflict, 409),
    (Fenced, 409),
    (AlreadyDecided, 409),
    (TooLarge, 413),
    (Unsupported, 501),
    (MissingExtra, 500),
    (InvalidId, 422),
    (InvalidValue, 422),
    (UsageError, 422),
    (StoreUnavailable, 503),
    (StoreClosed, 503),
    (StoreError, 500),
)
"""By the first class that fits."""


class Problem(Exception):
    """An answer that is an error: `more` are further members of the document."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}

    def response(self) -> Response:
        return Response(msgspec.json.encode(self.document()), self.status, self.headers, MEDIA_TYPE)


def not_found(what: str) -> Problem:
    """For what isn't there, and for what is another's: the two look the same."""
    return Problem(404, f"there is no {what}")


def problem_of(error: Exception, **more: Any) -> Problem:
    """The answer to an error: ours say what to change, a stranger's text is not passed on."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            if status >= 500:
                log.error("the store failed: error=%s", type(error).__name__, exc_info=error)
                return Problem(status, _ABOUT_STORE[status], headers={"retry-after": "1"} if status == 503 else None, **more)
            return Problem(status, str(error), headers={"retry-after": "1"} if kind is SessionBusy else None, **more)
    log.error("an unforeseen error: error=%s", type(error).__name__, exc_info=error)
    return Problem(500, "something went wrong here; it is in the server's log", **more)


_ABOUT_STORE = {
    503: "the store is not available at the moment; nothing was written, try again",
    500: "the store failed; it is in the server's log",
    501: "this store can't do that",
}


def provider_failed(error: Exception, *, run_id: str, session_id: str) -> Problem:
    """A run that failed with something that is not ours: its model's provider, or the agent's own code."""
    told = "the agent's run failed; it is stored, and the same run_id goes on from there"
    return Problem(502, told, run_id=run_id, session_id=session_id, error=type(error).__name__)


async def answer(request: Request, error: Exception) -> Response:
    """The handler of every error that a route raises."""
    return problem_of(error).response()
