"""Reading the whole table for what is wrong with it."""

from __future__ import annotations

from .client import Table


def check(table: Table) -> list[str]:
    return []
