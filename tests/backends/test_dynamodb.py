"""The DynamoDB backend keeps every promise, on two emulators."""

import asyncio
from collections.abc import Generator
from functools import partial

import pytest

from holdfast.testing import BackendSuite, Opener

from ..servers import dynamodb


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    try:
        with dynamodb.dynoxide() as it:
            asyncio.run(made(it))
            yield it
    except dynamodb.Missing as missing:
        pytest.skip(f"no DynamoDB to test with: {missing}")


async def made(server: dynamodb.Server) -> None:
    backend = dynamodb.backend(server.port)
    await backend.create()
    await backend.close()


class TestDynamoDB(BackendSuite):
    @pytest.fixture
    def opener(self, server: dynamodb.Server) -> Opener:
        return partial(dynamodb.backend, server.port)
