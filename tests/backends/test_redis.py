"""Redis 8, Valkey 9 and a cluster keep every promise, through the cache and through TLS too."""

import asyncio
import gc
from collections.abc import Generator
from functools import partial
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from holdfast.backend import Backend, Capabilities, Key, Range
from holdfast.backends import redis
from holdfast.backends.redis import RedisBackend
from holdfast.ids import new_id
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import bodies, created, creating, fresh, notes, opened, writing, wrote
from holdfast.wrappers.cache import CachedBackend

from ..servers.redis import cluster, redis8, server, system_redis, valkey9


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(scope="module")
def valkey_url() -> Generator[str]:
    with server(valkey9()) as it:
        yield it.url


@pytest.fixture(scope="module")
def system_url() -> Generator[str]:
    with server(system_redis() or "redis-server") as it:
        yield it.url


@pytest.fixture(scope="module")
def cluster_url() -> Generator[str]:
    with cluster(redis8()) as it:
        yield it.url


NETWORKED = Capabilities(durable=True, multi_process=True, watch=True)


class TestRedis(BackendSuite):
    """Where the server says that it flushes every write."""

    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(redis.from_url, f"{redis_url}?appendfsync=always&prefix={new_id()}:")


class TestValkey(BackendSuite):
    """Where every commit asks to be flushed."""

    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, valkey_url: str) -> Opener:
        return partial(redis.from_url, f"{valkey_url}?waitaof=1&prefix={new_id()}:")


if system_redis() is not None:

    class TestSystemRedis(BackendSuite):
        """The system's own, where there is one: a Redis 7.0 on many."""

        capabilities = NETWORKED

        @pytest.fixture
        def opener(self, system_url: str) -> Opener:
            return partial(redis.from_url, f"{system_url}?appendfsync=always&prefix={new_id()}:")


class TestCluster(BackendSuite):
    """Three primaries, and every commit flushed, and received by a replica."""

    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, cluster_url: str) -> Opener:
        return partial(redis.from_url, f"{cluster_url}&waitaof=1&wait=1&prefix={new_id()}:")


def cached(url: str) -> Backend:
    return CachedBackend(redis.from_url(url), 3)


class TestCachedRedis(BackendSuite):
    capabilities = NETWORKED

    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(cached, f"{redis_url}?appendfsync=always&prefix={new_id()}:")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client's own: on some Pythons it leaves a transport
async def test_a_user_s_cluster_client_is_left_alone(cluster_url: str) -> None:
    client: Any = RedisCluster.from_url(cluster_url.partition("?")[0])
    backend, key = RedisBackend(client, prefix=f"{new_id()}:"), fresh()
    await created(backend, key, entries=notes("a"))
    await backend.close()
    assert await client.ping()
    await client.aclose()
    del client, backend
    gc.collect()
    await asyncio.sleep(0.05)  # its connections end in the loop that made them


async def test_a_long_fork_between_two_nodes(cluster_url: str) -> None:
    """Whole, and of one moment though the origin is written and rewound meanwhile."""
    async with opened(partial(redis.from_url, f"{cluster_url}&prefix={new_id()}:")) as backend:
        assert isinstance(backend, RedisBackend)
        key = fresh()
        slots = {Key(key.tenant, f"fork-{n}"): backend.layout.place(Key(key.tenant, f"fork-{n}")).slot for n in range(50)}
        here = backend.layout.place(key).slot
        target = next(other for other, slot in slots.items() if slot // 5461 != here // 5461)
        head = await created(backend, key)
        for start in range(0, 1200, 100):
            head = await wrote(backend, key, head, entries=notes(*map(str, range(start, start + 100))))

        async def disturb() -> None:
            for n in range(20):
                await backend.commit(key, writing(head, base=0, entries=notes("later")))
                if n in (3, 9):
                    await backend.commit(key, writing(head, base=0, hide=(Range(1100, 1100 + n),)))

        await asyncio.gather(backend.copy(key, 1200, target, creating()), disturb())
        fork = await bodies(backend, target)
        assert [fork == [str(n) for n in range(1200) if not 1099 <= n < 1100 + last] for last in (-1, 3, 9)].count(True) == 1
        assert await backend.check() == []
