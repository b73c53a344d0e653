"""Redis 8, Valkey 9 and a cluster keep every promise, by URL and by a client of the user's."""

from collections.abc import Generator
from functools import partial

import pytest

from holdfast.backends import redis
from holdfast.ids import new_id
from holdfast.testing import BackendSuite, Opener

from ..servers.redis import redis8, server

ALWAYS = "appendfsync=always"


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


class TestRedis(BackendSuite):
    @pytest.fixture
    def opener(self, redis_url: str) -> Opener:
        return partial(redis.from_url, f"{redis_url}?{ALWAYS}&prefix={new_id()}:")
