"""The memory backend keeps every promise but those of a disk."""

import pytest

from holdfast.backends.memory import MemoryBackend
from holdfast.testing import BackendSuite, Opener


class TestMemory(BackendSuite):
    capabilities = MemoryBackend.capabilities

    @pytest.fixture
    def opener(self) -> Opener:
        backend = MemoryBackend()
        return lambda: backend
