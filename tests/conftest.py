"""The order of the tests: what takes longest comes first, so that no process is left alone with it at the end."""

from __future__ import annotations

import pytest

LONG = (
    "tests/judges/openai_agents",
    "tests/everywhere/test_openai_agents",
    "tests/server/test_rolling",
    "tests/server/test_serve",
    "tests/inbox/test_inbox",
    "tests/test_demo",
    "tests/chaos",
    "tests/adapters/test_openai_agents_compaction",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda it: min((place for name, place in places.items() if it.nodeid.startswith(name)), default=len(LONG)))
