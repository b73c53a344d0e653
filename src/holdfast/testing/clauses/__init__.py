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

__all__ = [
    "claims",
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
