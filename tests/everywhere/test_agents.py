"""Agents on every database: the tests of agents that take a store, with other stores."""

import inspect
from importlib import import_module
from types import ModuleType

from ..agents.test_summaries import desk, quiet

__all__ = ["desk", "quiet"]

MODULES = ("following", "handoff", "resuming", "run", "run_ids", "stream", "summaries", "together", "tools")
HERE = {"models", "chat", "store", "stream", "how", "desk"}
"""The fixtures and parameters that are the same here."""
LONG = {"test_cancelling_at_every_await_leaves_a_true_record"}
"""Tests whose point is the number of tries, not the database."""


def elsewhere(module: ModuleType) -> dict[str, object]:
    """The module's tests that can be run with another store."""
    tests = {name: it for name, it in vars(module).items() if name.startswith("test_") and name not in LONG}
    taken = {name: set(inspect.signature(it).parameters) for name, it in tests.items()}
    return {name: tests[name] for name, given in taken.items() if "store" in given and given <= HERE}


for _name in MODULES:
    globals().update(elsewhere(import_module(f"..agents.test_{_name}", __package__)))


def test_there_are_many() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 20
