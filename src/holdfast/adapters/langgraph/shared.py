"""One store per URL for the whole process, opened by its first use and closed at the end of the process."""

from __future__ import annotations

from ... import Store

_stores: dict[str, Store] = {}


def shared(store: Store | str) -> Store:
    """`store` itself, or the one that its URL names."""
    if isinstance(store, str):
        return _stores.get(store) or _stores.setdefault(store, Store.open(store))
    return store
