"""The table: made by `holdfast db create`, checked by every opening, looked after by `holdfast db`."""

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast import Store, user
from holdfast.backends.dynamodb import schema
from holdfast.backends.dynamodb.layout import EXPIRY
from holdfast.errors import NotAStore

from ..servers import dynamodb


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    try:
        with dynamodb.dynoxide() as it:
            yield it
    except dynamodb.Missing as missing:
        pytest.skip(f"no DynamoDB to test with: {missing}")


def holdfast(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_create_makes_the_table_once(server: dynamodb.Server) -> None:
    url = server.url("made")
    assert "holdfast db create" in holdfast("db", "status", "-s", url).stderr
    first = holdfast("db", "create", "-s", url)
    assert first.returncode == 0, first.stderr
    assert "made table made" in first.stdout
    assert EXPIRY in first.stdout
    again = holdfast("db", "create", "-s", url, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"done": []})
    status = json.loads(holdfast("db", "status", "-s", url, "--json").stdout)
    assert (status["table"], status["billing"], status["time_to_live"]) == ("made", "PAY_PER_REQUEST", EXPIRY)


def test_other_stores_have_nothing_to_create(tmp_path: Path) -> None:
    done = holdfast("db", "create", "-s", f"sqlite:///{tmp_path / 'x.db'}")
    assert (done.returncode, done.stdout.strip()) == (0, "nothing to create: this store makes what it needs at its first use")


async def test_a_store_by_url(server: dynamodb.Server) -> None:
    """What a user writes: the table once, then the store."""
    url = server.url("by-url")
    assert holdfast("db", "create", "-s", url).returncode == 0
    async with Store.open(url, tenant="acme", ttl=3600) as store:
        session = await store.session("ada-1", user_id="ada")
        await session.append(user("hi"))
        assert [message.text for message in await session.get_messages()] == ["hi"]
    listed = holdfast("sessions", "list", "-s", url, "--tenant", "acme")
    assert "ada-1" in listed.stdout, listed.stderr
    assert holdfast("db", "check", "-s", url).stdout.strip() == "ok"
    assert "removed 0" in holdfast("db", "sweep", "-s", url).stdout


async def test_a_table_s_missing_index_or_time_to_live_is_noticed(server: dynamodb.Server) -> None:
    backend = dynamodb.backend(server.port, "bare")
    request = schema.definition() | {"TableName": "bare"}
    backend.client.create_table(**{name: value for name, value in request.items() if name != "GlobalSecondaryIndexes"} | _only_keys())
    with pytest.raises(NotAStore, match="by_tenant"):
        await backend.open()
    await backend.close()
    other = dynamodb.backend(server.port, "no-ttl")
    other.client.create_table(**request | {"TableName": "no-ttl"})
    assert await other.create() == [f"enabled time to live on {EXPIRY}"]
    assert (await other.migrate()) == (schema.VERSION, schema.VERSION)
    await other.close()


def _only_keys() -> dict[str, object]:
    return {"AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("session_id", "key")]}
