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
    """Another emulator: the clauses about what the service itself decides, its conditions, expiry and transactions."""

    capabilities = DynamoDBBackend.capabilities

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        words = ("claim", "copy", "expect", "expir", "fence", "gone", "heartbeat", "large", "repeated", "version")
        mine = [name for name, it in CLAUSES.items() if not it.lacks(DynamoDBBackend.capabilities)]
        metafunc.parametrize("name", [name for name in mine if any(word in name for word in words)])

    @pytest.fixture
    def opener(self, ministack: dynamodb.Server) -> Opener:
        return partial(dynamodb.backend, ministack.port)
