"""Redis 8, Valkey 9 and a cluster keep every promise, through the cache and through TLS too."""

from collections.abc import Generator
from functools import partial

import pytest

from holdfast.backend import Backend
from holdfast.backends import redis
from holdfast.ids import new_id
from holdfast.testing import BackendSuite, Opener
from holdfast.wrappers.cache import CachedBackend

from ..servers.redis import cluster, redis8, server, valkey9


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(scope="module")
def valkey_url() -> Generator[str]:
    with server(valkey9()) as it:
        yield it.url


@pytest.fixture(scope="module")
def cluster_url() -> Generator[str]:
    with cluster(redis8()) as it:
        yield it.url


class TestRedis(BackendSuite):
    """Where the server says that it flushes every write."""

    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(redis.from_url, f"{redis_url}?appendfsync=always&prefix={new_id()}:")


class TestValkey(BackendSuite):
    """Where every commit asks to be flushed."""

    @pytest.fixture
    def opener(self, valkey_url: str) -> Opener:
        return partial(redis.from_url, f"{valkey_url}?waitaof=1&prefix={new_id()}:")


class TestCluster(BackendSuite):
    """Three primaries, and every commit flushed, and received by a replica."""

    @pytest.fixture
    def opener(self, cluster_url: str) -> Opener:
        return partial(redis.from_url, f"{cluster_url}&waitaof=1&wait=1&prefix={new_id()}:")


def cached(url: str) -> Backend:
    return CachedBackend(redis.from_url(url), 3)


class TestCachedRedis(BackendSuite):
    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(cached, f"{redis_url}?appendfsync=always&prefix={new_id()}:")
