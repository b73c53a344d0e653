"""The cache changes nothing: every promise of what it wraps holds through it, whoever writes behind its back."""

from functools import partial
from pathlib import Path

import pytest

from holdfast.backend import Backend
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.testing import BackendSuite, Opener
from holdfast.wrappers.cache import CachedBackend


def cached_sqlite(path: str) -> Backend:
    return CachedBackend(SQLiteBackend(path), 3)


class TestCachedMemory(BackendSuite):
    capabilities = MemoryBackend.capabilities

    @pytest.fixture
    def opener(self) -> Opener:
        backend = MemoryBackend()
        return lambda: CachedBackend(backend, 3)


class TestCachedSQLite(BackendSuite):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return partial(cached_sqlite, str(tmp_path / "store.db"))
