"""Agents on every database: the tests of agents that take a store, with other stores."""

import inspect
from types import ModuleType

from ..agents import (
    test_following,
    test_handoff,
    test_resuming,
    test_run,
    test_run_ids,
    test_stream,
    test_summaries,
    test_together,
    test_tools,
)
from ..agents.test_summaries import desk, quiet

__all__ = ["desk", "quiet"]

HERE = {"models", "chat", "store", "stream", "how", "desk"}
"""The fixtures and parameters that are the same here."""
LONG = {"test_cancelling_at_every_await_leaves_a_true_record"}
"""Tests whose point is the number of tries, not the database."""


def elsewhere(module: ModuleType) -> dict[str, object]:
    """The module's tests that can be run with another store."""
    tests = {name: it for name, it in vars(module).items() if name.startswith("test_") and name not in LONG}
    taken = {name: set(inspect.signature(it).parameters) for name, it in tests.items()}
    return {name: tests[name] for name, given in taken.items() if "store" in given and given <= HERE}


for _module in (
    test_following,
    test_handoff,
    test_resuming,
    test_run,
    test_run_ids,
    test_stream,
    test_summaries,
    test_together,
    test_tools,
):
    globals().update(elsewhere(_module))


def test_there_are_many() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 20
