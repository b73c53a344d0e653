"""Each wrapper alone, and all of them on top of each other, keep every promise of what they wrap."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast.backend import Backend
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.errors import Unsupported
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import refused
from holdfast.wrappers import CachedBackend, EncryptedBackend, RetriedBackend, TracedBackend

KEYS = [b"first" * 8, b"older" * 8]
BY_NAME = {"filters_select", "the_few_are_found_among_the_many"}
"""Clauses that list by name or metadata."""


def encrypted(inner: Backend) -> Backend:
    return EncryptedBackend(inner, keys=KEYS)


def cached_over_encrypted(inner: Backend) -> Backend:
    return CachedBackend(encrypted(inner), 3)


def all_of_them(inner: Backend) -> Backend:
    return TracedBackend(CachedBackend(RetriedBackend(encrypted(inner)), 3))


def over_sqlite(wrap: Callable[[Backend], Backend], path: Path) -> Backend:
    return wrap(SQLiteBackend(str(path)))


class OverMemory(BackendSuite):
    capabilities = MemoryBackend.capabilities
    wrap: Callable[[Backend], Backend]

    @pytest.fixture
    def opener(self) -> Opener:
        backend = MemoryBackend()
        return lambda: type(self).wrap(backend)


class OverSQLite(BackendSuite):
    wrap: Callable[[Backend], Backend]

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return partial(over_sqlite, type(self).wrap, tmp_path / "store.db")


class TestEncryptedMemory(OverMemory):
    wrap = staticmethod(encrypted)


class TestEncryptedSQLite(OverSQLite):
    wrap = staticmethod(encrypted)


class TestEncryptedNames(OverMemory):
    wrap = staticmethod(partial(EncryptedBackend, keys=KEYS, names=True))

    def test_clause(self, name: str, opener: Opener) -> Any:
        if name not in BY_NAME:
            super().test_clause(name, opener)
            return
        with refused(Unsupported):
            super().test_clause(name, opener)


class TestRetriedMemory(OverMemory):
    wrap = RetriedBackend


class TestRetriedSQLite(OverSQLite):
    wrap = RetriedBackend


class TestTracedMemory(OverMemory):
    wrap = TracedBackend


class TestTracedSQLite(OverSQLite):
    wrap = TracedBackend


class TestCachedOverEncryptedMemory(OverMemory):
    wrap = staticmethod(cached_over_encrypted)


class TestAllMemory(OverMemory):
    wrap = staticmethod(all_of_them)


class TestAllSQLite(OverSQLite):
    wrap = staticmethod(all_of_them)


def test_a_wrapper_s_packages_are_imported_when_it_is_asked_for() -> None:
    code = """
import sys, holdfast.wrappers
def loaded(): print(*sorted({"cryptography", "opentelemetry"} & sys.modules.keys()))
for name in ("RetriedBackend", "EncryptedBackend", "TracedBackend"): getattr(holdfast.wrappers, name); loaded()
try: holdfast.wrappers.Nothing
except AttributeError as error: print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing = "module 'holdfast.wrappers' has no attribute 'Nothing'"
    assert ended.stdout.split("\n") == ["", "cryptography", "cryptography opentelemetry", missing, ""]
