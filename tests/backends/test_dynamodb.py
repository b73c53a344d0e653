"""The DynamoDB backend keeps every promise, on two emulators."""

from collections.abc import Generator
from functools import partial

import pytest

from holdfast.backends.dynamodb import DynamoDBBackend
from holdfast.testing import CLAUSES, BackendSuite, Opener

from ..servers import dynamodb


@pytest.fixture(scope="module")
def dynoxide() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture(scope="module")
def ministack() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.ministack())


class TestDynoxide(BackendSuite):
    capabilities = DynamoDBBackend.capabilities

    @pytest.fixture
    def opener(self, dynoxide: dynamodb.Server) -> Opener:
        return partial(dynamodb.backend, dynoxide.port)


class TestMinistack(BackendSuite):
    """Another emulator: what depends on the service, and not the clauses that are long because they write much."""

    capabilities = DynamoDBBackend.capabilities

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("name", [name for name in CLAUSES if not any(word in name for word in ("many", "crash", "disagree"))])

    @pytest.fixture
    def opener(self, ministack: dynamodb.Server) -> Opener:
        return partial(dynamodb.backend, ministack.port)
