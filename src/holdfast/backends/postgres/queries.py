"""The named statements of `queries.sql`, for one schema."""

from __future__ import annotations

from functools import lru_cache

from .._sql import load, named

_TEXTS = named(load(__name__, "queries.sql"))


@lru_cache(64)
def queries(schema: str) -> dict[str, bytes]:
    """Every statement by name, with the schema's name in it."""
    return {name: text.replace("{schema}", schema).encode() for name, text in _TEXTS.items()}


def definitions(schema: str) -> bytes:
    """What makes the tables and functions of a store in an empty schema."""
    return load(__name__, "schema.sql").replace("{schema}", schema).replace("{channel}", channel(schema)).encode()


def channel(schema: str) -> str:
    """Where commits that somebody watches are told."""
    return f"holdfast_{schema}"[:63]
