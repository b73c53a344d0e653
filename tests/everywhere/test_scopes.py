"""State of wider scope on every database: the tests of the engine that take a store, with other stores."""

import inspect

from ..engine import test_scopes as scopes

_EXPIRY = "test_it_outlives_the_sessions_and_their_time"
"""Wants a store with a time to live."""

for _name, _it in vars(scopes).items():
    if _name.startswith("test_") and set(inspect.signature(_it).parameters) == {"store"} and _name != _EXPIRY:
        globals()[_name] = _it


def test_there_are_some() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 6
