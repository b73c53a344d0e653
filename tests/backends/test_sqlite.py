"""The SQLite backend keeps every promise."""

from functools import partial
from pathlib import Path

import pytest

from holdfast.backends.sqlite import SQLiteBackend
from holdfast.testing import BackendSuite, Opener


class TestSQLite(BackendSuite):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return partial(SQLiteBackend, str(tmp_path / "store.db"))
