"""The folder for what tests fetch, outside version control, shared by all processes that run tests."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".judges"


@contextmanager
def alone() -> Generator[Path]:
    """The folder, for one process at a time: what one of them fetches is there for the others."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE
