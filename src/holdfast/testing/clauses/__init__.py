"""The clauses, by theme. Importing a file registers its clauses."""

from . import (
    claims,
    copying,
    crashes,
    life,
    listing,
    loops,
    many_writers,
    ownership,
    reading,
    repeats,
    seeing,
    values,
    watching,
    writing,
)

from . import closing  # isort: skip  # the last one: after it an in-memory backend is closed

__all__ = [
    "claims",
    "closing",
    "copying",
    "crashes",
    "life",
    "listing",
    "loops",
    "many_writers",
    "ownership",
    "reading",
    "repeats",
    "seeing",
    "values",
    "watching",
    "writing",
]
