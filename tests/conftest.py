"""The order of the tests, and what the properties are tried with.

What takes longest comes first, so that no process is left alone with it at the end. Properties are tried with the same inputs each time:
the same code gets the same answer. `make test ARGS="--hypothesis-profile=search"` looks for new ones.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

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

settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda it: min((place for name, place in places.items() if it.nodeid.startswith(name)), default=len(LONG)))
