"""What the OpenAPI document says of credentials: which operations ask for them, and what they may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from .callers import caller

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the identity provider."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}


def describe_credentials(app: FastAPI) -> None:
    """Have the document of an application that asks for credentials say so."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {}).setdefault("securitySchemes", {}).update(_SCHEMES)
        for path, method in _asking(app):
            document["paths"][path][method]["security"] = [{name: []} for name in _SCHEMES]
        return document

    app.openapi = openapi


def _asking(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The operations for which somebody has to be known."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.include_in_schema and _asks(route.dependant):
            yield from ((str(context.path), method.lower()) for method in route.methods or ())


def _asks(it: Dependant) -> bool:
    return it.call is caller or any(_asks(inner) for inner in it.dependencies)
