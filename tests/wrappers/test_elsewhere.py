"""All wrappers on top of each other keep every promise of a database over a network too."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import msgspec
import pytest

from holdfast.backend import Backend, Capabilities
from holdfast.ids import new_id
from holdfast.store import backend_for
from holdfast.testing import BackendSuite, Opener

from ..servers import dynamodb, postgres
from ..servers.redis import redis8, server
from .test_suites import all_of_them

NETWORKED = Capabilities(durable=True, multi_process=True, watch=True)


def over(url: str) -> Backend:
    return all_of_them(backend_for(url))


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield f"{it.url}?appendfsync=always"


@pytest.fixture(scope="module")
def dynamodb_url() -> Generator[str]:
    for it in dynamodb.started(dynamodb.dynoxide()):
        yield f"dynamodb://{dynamodb.REGION}/{dynamodb.TABLE}?endpoint=http://127.0.0.1:{it.port}"


class TestRedis(BackendSuite):
    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(over, f"{redis_url}&prefix={new_id()}:")


class TestPostgres(BackendSuite):
    capabilities = NETWORKED

    @pytest.fixture
    def opener(self) -> Opener:
        return partial(over, postgres.shared().fresh())


class TestDynamoDB(BackendSuite):
    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, dynamodb_url: str) -> Opener:
        return partial(over, dynamodb_url)


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "dynamodb"])
def test_the_wrapped_declare_what_the_bare_do(scheme: str) -> None:
    bare = backend_for(f"{scheme}://127.0.0.1:1/0" if scheme != "dynamodb" else "dynamodb://eu-west-1/x")
    given, bare = all_of_them(bare).capabilities, bare.capabilities
    assert msgspec.structs.replace(given, max_entry_bytes=0) == msgspec.structs.replace(bare, max_entry_bytes=0, sealed=True)
