"""The suite is sharp: each deliberate fault is found by the clause that is there for it, and by nothing else being wrong."""

from functools import partial
from pathlib import Path

import pytest

from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.testing import CLAUSES, check
from holdfast.wrappers.base import Wrapper

from .sabotaged import ON_DISK, SABOTAGES

CONTROL = "entries_come_back_with_every_field"
"""Every sabotaged backend still works."""
CRASH = "nothing_acknowledged_is_lost_in_a_crash"


@pytest.mark.parametrize(("sabotage", "clause"), SABOTAGES, ids=[sabotage.__name__ for sabotage, _ in SABOTAGES])
async def test_the_fault_is_found(sabotage: type[Wrapper], clause: str) -> None:
    wrong, sound = MemoryBackend(), MemoryBackend()
    assert await check(lambda: Wrapper(sound), only=[clause]) == {clause: None}
    found = await check(lambda: sabotage(wrong), only=[CONTROL, clause])
    assert found[CONTROL] is None
    assert found[clause] is not None


@pytest.mark.parametrize("sabotage", ON_DISK)
async def test_what_a_crash_would_lose_is_found(sabotage: type[Wrapper], tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    assert await check(partial(SQLiteBackend, path), only=[CRASH]) == {CRASH: None}
    found = await check(partial(sabotage, path), only=[CRASH])  # pyright: ignore[reportArgumentType]  # made from a path
    assert found[CRASH] is not None


def test_every_fault_is_of_a_clause() -> None:
    assert {clause for _, clause in SABOTAGES} <= CLAUSES.keys()
