"""LangGraph's own conformance tests, on every database."""

# pyright: reportMissingTypeStubs=false
# The conformance package lacks `py.typed`.

from collections.abc import AsyncIterator

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from langgraph.checkpoint.conformance import checkpointer_test, validate

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver
from holdfast.ids import new_id

from ..adapters.test_langgraph_conformance import TESTS


@pytest.mark.parametrize("cache", [0, 16], ids=["uncached", "cached"])
async def test_every_capability(url: str, cache: int) -> None:
    async def savers() -> AsyncIterator[HoldfastSaver]:
        async with Store.open(url, cache=cache, tenant=new_id()) as store:
            yield HoldfastSaver(store)

    report = await validate(checkpointer_test(name="holdfast")(savers))
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name: result.tests_passed for name, result in report.results.items() if result.detected and result.passed} == TESTS
