"""The Terraform modules are what the code needs: the same table, and a policy of exactly the calls that are made."""

import re
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.backend import BlobDrop, Erase, Filter, HeadPatch, Key, Put, Range, ReadPlan, Window
from holdfast.backends.dynamodb import DynamoDBBackend, schema
from holdfast.backends.dynamodb.layout import EXPIRY
from holdfast.entries import SUMMARY
from holdfast.ids import now
from holdfast.testing.tools import EVERYTHING, SECOND, blob, created, creating, fresh, note, notes, puts, read, writing, wrote

from .servers import dynamodb

MODULES = Path(__file__).parents[1] / "deploy" / "terraform"


class Body(msgspec.Struct):
    """What stands between a block's braces: values as they are written, and blocks by their words."""

    values: dict[str, str] = {}
    blocks: list[tuple[tuple[str, ...], "Body"]] = []

    def all(self, *words: str) -> "list[Body]":
        return [body for found, body in self.blocks if found[: len(words)] == words]

    def one(self, *words: str) -> "Body":
        (found,) = self.all(*words)
        return found

    def text(self, name: str) -> str:
        return self.values[name].strip('"')

    def list(self, name: str) -> "list[str]":
        return re.findall(r'"([^"]+)"', self.values[name])


_BLOCK = re.compile(r'(\w+)((?:\s+"[^"]+")*)\s*\{')
_VALUE = re.compile(r"(\w+)\s*=\s*(.+)", re.DOTALL)


def parsed(module: str) -> Body:
    """A module's files, as far as Terraform's language is used in them: blocks, values, lists over several lines, comments."""
    whole = Body({}, [])
    for file in sorted((MODULES / module).glob("*.tf")):
        lines = iter([line.partition("# ")[0].strip() for line in file.read_text("utf-8").splitlines()])
        _fill(whole, lines)
    return whole


def _fill(body: Body, lines: Any) -> None:
    for line in lines:
        if line == "}":
            return
        if match := _BLOCK.fullmatch(line):
            inner = Body({}, [])
            body.blocks.append(((match[1], *re.findall(r'"([^"]+)"', match[2])), inner))
            _fill(inner, lines)
        elif match := _VALUE.fullmatch(line):
            body.values[match[1]] = _closed(match[2], lines)


def _closed(value: str, lines: Any) -> str:
    while sum(map(value.count, "([{")) > sum(map(value.count, ")]}")):
        value += " " + next(lines)
    return value


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> Body:
    return parsed("dynamodb").one("resource", "aws_dynamodb_table")


def test_the_keys_are_the_code_s(table: Body) -> None:
    wanted = schema.definition()
    assert [table.text("hash_key"), table.text("range_key")] == [it["AttributeName"] for it in wanted["KeySchema"]]
    assert {it.text("name"): it.text("type") for it in table.all("attribute")} == {
        it["AttributeName"]: it["AttributeType"] for it in wanted["AttributeDefinitions"]
    }
    assert table.text("billing_mode") == wanted["BillingMode"]


def test_the_indexes_are_the_code_s(table: Body) -> None:
    found = {
        it.text("name"): ([it.text("hash_key"), it.text("range_key")], it.text("projection_type"), _included(it))
        for it in table.all("global_secondary_index")
    }
    assert found == {
        it["IndexName"]: (
            [key["AttributeName"] for key in it["KeySchema"]],
            it["Projection"]["ProjectionType"],
            it["Projection"].get("NonKeyAttributes", []),
        )
        for it in schema.definition()["GlobalSecondaryIndexes"]
    }


def _included(index: Body) -> list[str]:
    return index.list("non_key_attributes") if "non_key_attributes" in index.values else []


def test_time_to_live_is_on_the_code_s_attribute(table: Body) -> None:
    ttl = table.one("ttl")
    assert (ttl.text("attribute_name"), ttl.text("enabled")) == (EXPIRY, "true")


# --- the policy ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture
async def backend(server: dynamodb.Server) -> AsyncGenerator[DynamoDBBackend]:
    it = dynamodb.backend(server.port)
    yield it
    await it.close()


async def test_the_policy_allows_what_is_called_and_nothing_else(backend: DynamoDBBackend) -> None:
    """By every verb of the backend and each way that it takes; a transaction needs the permissions of its parts."""
    table, index = set[str](), set[str]()

    def note_down(event_name: str, request: Any, **_: Any) -> None:
        name, body = event_name.rpartition(".")[2], msgspec.json.decode(request.body)
        if name == "TransactWriteItems":
            table.update(
                {"Put": "PutItem", "Delete": "DeleteItem"}.get(act, "ConditionCheckItem") for it in body["TransactItems"] for act in it
            )
        else:
            (index if "IndexName" in body else table).add(name)

    backend.client.meta.events.register("before-send.dynamodb", note_down)
    await use_all(backend)
    table_policy, index_policy = parsed("dynamodb").one("data", "aws_iam_policy_document").all("statement")
    assert set(table_policy.list("actions")) == {f"dynamodb:{name}" for name in table}
    assert set(index_policy.list("actions")) == {f"dynamodb:{name}" for name in index}
    assert index_policy.list("resources")[0].endswith("/index/*")


def test_every_call_in_the_code_is_known_here() -> None:
    """A call that the test above does not make would be missing from the policy unnoticed."""
    source = "".join(path.read_text("utf-8") for path in Path(schema.__file__).parent.glob("*.py"))
    called = set(re.findall(r'(?:_call|ask)\(\s*"(\w+)"', source)) | set(re.findall(r'"((?:put|delete)_item)"', source))
    making = {"create_table", "update_time_to_live"}
    actions = {
        action.partition(":")[2]
        for it in parsed("dynamodb").one("data", "aws_iam_policy_document").all("statement")
        for action in it.list("actions")
    }
    assert {_action(name) for name in called - making} | {"ConditionCheckItem"} == actions | {"TransactWriteItems"}


def _action(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


async def use_all(backend: DynamoDBBackend) -> None:
    key, target = fresh(), fresh()
    large = (note(b"x" * (6 << 20)),)
    head = await created(
        backend, key, entries=notes("a"), puts=puts(k="1"), blobs=(blob("b", "1"),), user_id="ada", patch=HeadPatch(waiting=True)
    )
    parts: dict[str, Any] = {"user_id": "ada", "puts": (Put("k", b"2", if_version=1), Put("n", None)), "hide": (Range(1, 1),)}
    head = await wrote(backend, key, head, drops=(BlobDrop("files"),), blobs=(blob("c", "1", if_absent=True),), **parts)
    head = await wrote(backend, key, head, entries=large, user_id="ada", blobs=tuple(blob(str(n), "x") for n in range(150)))
    head = await wrote(backend, key, head, drops=(BlobDrop("files", "c"),), user_id="ada")
    for plan in (EVERYTHING, ReadPlan(entries=Window(kinds=(SUMMARY,))), ReadPlan(state_since=1, entries=Window(after=1))):
        await read(backend, key, plan)
    await backend.copy(key, None, target, creating())
    await backend.commit(target, creating(create=None, erase=Erase("content", 1), puts=(Put("k", b"1", if_version=1),)))
    await backend.commit(key, writing(head, user_id="ada", erase=Erase("session")))
    for filter in (Filter(tenant=target.tenant), Filter(tenant=key.tenant, user_id="ada"), Filter(tenant=key.tenant, waiting=True)):
        await backend.list(filter, None, 10)
    await backend.commit(Key(key.tenant, "old"), creating(time=now() - 100 * SECOND, patch=HeadPatch(ttl=1)))
    await backend.sweep(100)
    await backend.status()
    await backend.check()


# --- Valkey ----------------------------------------------------------------------------------------------------------


def test_a_valkey_evicts_nothing_and_speaks_tls() -> None:
    module = parsed("valkey")
    given = {it.text("name"): it.text("value") for it in module.one("resource", "aws_elasticache_parameter_group").all("parameter")}
    assert given["maxmemory-policy"] == "noeviction"
    group = module.one("resource", "aws_elasticache_replication_group")
    assert (group.text("engine"), group.text("transit_encryption_enabled")) == ("valkey", "true")
    assert "valkeys://" in module.one("output", "url").values["value"]
