"""A bounded memory of what was used last."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Recent(Generic[T]):
    """The values used last, as many as `room` holds; safe in any thread, and after a fork."""

    def __init__(self, room: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()
        self._room = room
        self._size = size
        _all.add(self)

    def after_fork(self) -> None:
        """Another thread may have held the lock: it isn't there any more."""
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def some(self, keys: Iterable[K]) -> dict[K, T]:
        """Those of `keys` that are there."""
        values = self._values
        with self._lock:
            found = {key: values[key] for key in keys if key in values}
            for key in found:
                values.move_to_end(key)
            return found

    def put(self, key: Hashable, value: T) -> None:
        size = self._size(value)
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._sizes[key] = size
            self._room -= size
            while self._room < 0 and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def drop(self, key: Hashable) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        if self._values.pop(key, None) is not None:
            self._room += self._sizes.pop(key)


_all: weakref.WeakSet[Recent[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for recent in list(_all):
        recent.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
