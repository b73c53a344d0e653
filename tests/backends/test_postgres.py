"""The PostgreSQL backend keeps every promise."""

from __future__ import annotations

from functools import partial

import pytest

from holdfast.backends.postgres import PostgresBackend, from_url
from holdfast.testing import BackendSuite, Opener

from ..servers.postgres import shared


class TestPostgres(BackendSuite):
    capabilities = PostgresBackend.capabilities

    @pytest.fixture
    def opener(self) -> Opener:
        return partial(from_url, shared().fresh())
