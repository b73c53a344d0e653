"""What people are told of a store: where it is, without logins, and that memory ends with the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import MissingExtra, Store
from holdfast.runtime import Runtime
from holdfast.runtime.stores import lasts, place_of


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://u:p@h:1/3?prefix=x:", "redis://h:1/3"),
        ("redis://h?appendfsync=always", "redis://h:6379/0"),
        ("rediss://:p@ss@h", "rediss://h:6379/0"),
        ("valkey://[::1]/2", "redis://[::1]:6379/2"),
        ("postgresql://u:p@h:5/d?password=x", "postgresql://h:5/d"),
        ("dynamodb://eu-west-1/sessions", "dynamodb:///sessions"),
    ],
)
def test_where_it_is(url: str, place: str) -> None:
    try:
        store = Runtime(url).store
    except MissingExtra as error:
        pytest.skip(str(error))
    assert (place_of(store.backend), lasts(store.backend)) == (place, True)
    assert place_of(Store(store.backend, cache=2).backend) == place


def test_only_memory_ends_with_the_process(tmp_path: Path) -> None:
    memory, file = Store.open("memory://", cache=2).backend, Store.open(f"sqlite:///{tmp_path / 'a.db'}").backend
    assert (lasts(memory), place_of(memory)) == (False, "memory:// (it ends with this process)")
    assert (lasts(file), place_of(file)) == (True, f"sqlite:///{tmp_path / 'a.db'}")


def test_a_backend_of_another_kind_is_told_by_its_name() -> None:
    class Elsewhere:
        capabilities = type("", (), {"durable": False, "multi_process": True})

    assert place_of(Elsewhere()) == "Elsewhere"  # type: ignore[arg-type]  # of a backend only this is asked
