"""The DynamoDB backend keeps every promise, on two emulators."""

from collections.abc import Generator
from functools import partial

import pytest

from holdfast.backends.dynamodb import DynamoDBBackend
from holdfast.testing import BackendSuite, Opener

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
    capabilities = DynamoDBBackend.capabilities

    @pytest.fixture
    def opener(self, ministack: dynamodb.Server) -> Opener:
        return partial(dynamodb.backend, ministack.port)
