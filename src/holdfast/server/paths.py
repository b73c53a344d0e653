"""Ids in paths may hold slashes: a slash that was written `%2F` belongs to an id, and does not part it. Only `.` and `..` can be no ids."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

NAMED: dict[str, Any] = {"minLength": 1, "maxLength": 1024, "pattern": "^[^\\u0000-\\u001f\\u007f]+$"}
"""What a document says of ids: they are of printable characters, and have at most 1,024 bytes."""
_STEPS = (".", "..")
"""Clients take such steps out of a path before they send it, so nobody could ask for what is called so."""
NO_STEP: dict[str, Any] = {"not": {"enum": list(_STEPS)}}
_SLASH = "\ue000"
"""Stands for such a slash on the way through the router. No id can hold it: it is no printable character."""


class SlashesInIds:
    """Middleware: the router sees paths in which ids are whole, the routes see the ids as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%2f" in raw.lower():
            text = raw.decode("latin-1").partition("?")[0]
            scope = {**scope, "path": unquote(text.replace("%2f", "%2F").replace("%2F", _SLASH))}
        await self._app(scope, receive, send)


def _whole(value: str) -> str:
    return value.replace(_SLASH, "/")


def no_step(value: str) -> str:
    """An id that is to be part of a path: it is none of the steps."""
    if value in _STEPS:
        raise ValueError(f"{value!r} is no id here: it means a folder in every URL; choose another")
    return value


Whole = Annotated[str, AfterValidator(_whole), Path(json_schema_extra=NAMED)]
"""An id, or a key, of a path as it was written."""
