"""One store for each test, on each database that a server of ours runs; and one of the two model protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest

from holdfast import Store
from holdfast.ids import new_id

from ..agents.conftest import Models, chat, counted, counting, memory
from ..servers import dynamodb, postgres
from ..servers.redis import redis8, server

__all__ = ["chat", "counted", "counting", "memory"]


@pytest.fixture(scope="session")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(scope="session")
def dynamodb_url() -> Generator[str]:
    for it in dynamodb.started(dynamodb.dynoxide()):
        yield f"dynamodb://eu-central-1/{dynamodb.TABLE}?endpoint=http://127.0.0.1:{it.port}"


@pytest.fixture(params=["redis", "postgres", "dynamodb"])
def url(request: pytest.FixtureRequest) -> str:
    """A store URL; what is in there already is of other tenants."""
    return postgres.shared().fresh() if request.param == "postgres" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def tenant() -> str:
    return new_id()


@pytest.fixture
async def store(url: str, tenant: str) -> AsyncGenerator[Store]:
    async with Store.open(url, tenant=tenant) as opened:
        yield opened


@pytest.fixture
def models() -> Generator[Models]:
    made = Models("responses")
    yield made
    made.close()
