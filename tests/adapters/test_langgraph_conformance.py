"""LangGraph's own conformance tests: every capability is found, and every one of its tests passes."""

# pyright: reportMissingTypeStubs=false
# The conformance package lacks `py.typed`.

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from langgraph.checkpoint.conformance import checkpointer_test, validate

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver

TESTS = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}


@pytest.mark.parametrize("cache", [0, 16], ids=["uncached", "cached"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_every_capability(kind: str, cache: int, tmp_path: Path) -> None:
    async def savers() -> AsyncIterator[HoldfastSaver]:
        url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'threads.db'}"
        async with Store.open(url, cache=cache) as store:
            yield HoldfastSaver(store)

    report = await validate(checkpointer_test(name=f"holdfast-{kind}")(savers))
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name: result.tests_passed for name, result in report.results.items() if result.detected and result.passed} == TESTS
