"""Large values on every database: the tests that take a store, with other stores."""

from .. import test_large
from .test_agents import elsewhere

globals().update(elsewhere(test_large))


def test_there_are_many() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 8
