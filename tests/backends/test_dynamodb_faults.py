"""Trouble: what no emulator shows is injected at the wire, what a network does is done by a proxy that cuts. Nothing happens twice."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import boto3.session  # pyright: ignore[reportMissingTypeStubs]
import msgspec
import pytest
from botocore.awsrequest import AWSResponse  # pyright: ignore[reportMissingTypeStubs]

from holdfast.backend import Backend, ClaimAct, Erase, Filter, ReadPlan
from holdfast.backends.dynamodb import DynamoDBBackend, from_url, layout
from holdfast.errors import Conflict, InvalidURL, NotAStore, OutcomeUnknown, StoreClosed, StoreReadOnly, StoreUnavailable
from holdfast.testing.processes import Child, Pipe
from holdfast.testing.tools import (
    VISIBLE,
    blob,
    bodies,
    created,
    creating,
    fresh,
    head_of,
    notes,
    puts,
    read,
    refused,
    values,
    writing,
    wrote,
)

from ..servers import dynamodb, free_port
from ..servers.proxy import TO_CLIENT, Proxy


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture
async def backend(server: dynamodb.Server) -> AsyncGenerator[DynamoDBBackend]:
    it = dynamodb.backend(server.port)
    await it.open()
    yield it
    await it.close()


# --- injected --------------------------------------------------------------------------------------------------------


class _Raw:
    """A response's body, as botocore reads it."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self) -> Generator[bytes]:
        yield self.body


def answer(status: int, code: str, **more: Any) -> AWSResponse:
    """An error as DynamoDB words it."""
    body = msgspec.json.encode({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "injected", **more})
    return AWSResponse("http://localhost", status, {"Content-Type": "application/x-amz-json-1.0"}, _Raw(body))


def cancelled(*codes: str) -> AWSResponse:
    return answer(400, "TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


@contextmanager
def failing(backend: DynamoDBBackend, times: int, answered: AWSResponse) -> Generator[list[str]]:
    """The first `times` requests of the block are answered so and never sent; the bodies of all are told."""
    seen: list[str] = []

    def fail(request: Any, **_: Any) -> AWSResponse | None:
        seen.append(request.body.decode())
        return answered if len(seen) <= times else None

    events = backend.client.meta.events
    events.register("before-send.dynamodb", fail)
    try:
        yield seen
    finally:
        events.unregister("before-send.dynamodb", fail)


PASSING = {
    "throughput": answer(400, "ProvisionedThroughputExceededException"),
    "throttled": answer(400, "ThrottlingException"),
    "limit": answer(400, "RequestLimitExceeded"),
    "conflict of one": answer(400, "TransactionConflictException"),
    "conflict": cancelled("TransactionConflict", "None"),
    "throttled inside": cancelled("None", "ThrottlingError"),
    "throughput inside": cancelled("ProvisionedThroughputExceeded", "TransactionConflict"),
    "in progress": answer(400, "TransactionInProgressException"),
    "server error": answer(500, "InternalServerError"),
    "unavailable": answer(503, "ServiceUnavailable"),
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_is_tried_again(backend: DynamoDBBackend, name: str) -> None:
    key = fresh()
    head = await created(backend, key)
    with failing(backend, 3, PASSING[name]) as seen:
        head = await wrote(backend, key, head, entries=notes("a"), puts=puts(k="1"))
    assert len(seen) == 4
    with failing(backend, 2, PASSING[name]):
        assert await bodies(backend, key) == ["a"]
    with failing(backend, 2, PASSING[name]):
        await wrote(backend, key, head, claim=ClaimAct("take", "run"))


async def test_an_unsure_transaction_is_sent_again_as_it_was(backend: DynamoDBBackend) -> None:
    """Under its token, which is how DynamoDB knows it; one that was refused for certain is a new one."""
    key = fresh()
    head = await created(backend, key)
    for name, tokens in (("server error", 1), ("in progress", 1), ("conflict", 3)):
        with failing(backend, 2, PASSING[name]) as seen:
            head = await wrote(backend, key, head, entries=notes("a"))
        assert len({msgspec.json.decode(it)["ClientRequestToken"] for it in seen}) == tokens


async def test_lasting_trouble_has_an_end(server: dynamodb.Server) -> None:
    """Throttled for good, nothing was written: `StoreUnavailable`. Where that can't be known: `OutcomeUnknown`."""
    backend, key = dynamodb.backend(server.port, patience=0.3), fresh()
    head = await created(backend, key)
    for name, kind in (("throttled", StoreUnavailable), ("conflict", StoreUnavailable), ("server error", OutcomeUnknown)):
        with failing(backend, 10_000, PASSING[name]), refused(kind):
            await wrote(backend, key, head, entries=notes("never"))
        with failing(backend, 10_000, PASSING[name]), refused(StoreUnavailable):
            await backend.read(key, ReadPlan())
    assert await bodies(backend, key) == []
    await backend.close()


async def test_a_real_conflict_beside_a_passing_one_is_told(backend: DynamoDBBackend) -> None:
    """A condition that failed counts, whatever else was wrong with the transaction."""
    key = fresh()
    head = await created(backend, key, puts=puts(k="1"))
    other = await wrote(backend, key, head, puts=puts(k="2"))
    with failing(backend, 1, PASSING["conflict"]), refused(Conflict):
        await wrote(backend, key, head, entries=notes("a"), expect=head.version)
    await wrote(backend, key, other, entries=notes("a"), expect=other.version)


async def test_errors_say_what_to_do(backend: DynamoDBBackend) -> None:
    key = fresh()
    head = await created(backend, key)
    denied = answer(400, "AccessDeniedException")
    with failing(backend, 1, denied), refused(StoreReadOnly) as caught:
        await wrote(backend, key, head, entries=notes("a"))
    assert "policy" in str(caught.error)
    with failing(backend, 1, denied), refused(StoreUnavailable):
        await backend.read(key, ReadPlan())
    with failing(backend, 1, answer(400, "UnrecognizedClientException")), refused(StoreUnavailable) as caught:
        await backend.read(key, ReadPlan())
    assert "credentials" in str(caught.error)


@contextmanager
def refusing(backend: DynamoDBBackend, *names: str) -> Generator[None]:
    """Requests of these names are throttled, for as long as the block lasts."""

    def fail(event_name: str, **_: Any) -> AWSResponse | None:
        return PASSING["throttled"] if event_name.rpartition(".")[2] in names else None

    events = backend.client.meta.events
    events.register("before-send.dynamodb", fail)
    try:
        yield
    finally:
        events.unregister("before-send.dynamodb", fail)


async def test_what_fails_after_a_commit_does_not_undo_it(server: dynamodb.Server) -> None:
    """An erasure whose cleaning is throttled has happened, and the next sweep cleans."""
    backend, key = dynamodb.backend(server.port, patience=0.2), fresh()
    head = await created(backend, key, entries=notes("a"), puts=puts(k="1"))
    with refusing(backend, "BatchWriteItem"):
        assert (await backend.commit(key, writing(head, erase=Erase("session")))).head is None
    assert await backend.read(key, ReadPlan()) is None
    held = [it["key"]["S"] for page in backend.table.query(layout.partition(key), "0", "~") for it in page]
    assert len(held) == 2
    assert await backend.check() == []
    await backend.sweep(10)
    assert not [page for page in backend.table.query(layout.partition(key), "0", "~") if page]
    await backend.close()


async def test_an_answer_that_can_t_be_read_leaves_the_commit_to_be_repeated(server: dynamodb.Server) -> None:
    backend, key = dynamodb.backend(server.port, patience=0.2), fresh()
    head = await created(backend, key)
    commit = writing(head, entries=notes("a"), answer=VISIBLE)
    with refusing(backend, "Query", "GetItem"), refused(OutcomeUnknown):
        await backend.commit(key, commit)
    again = await backend.commit(key, commit)
    assert (again.repeated, again.seq) == (True, 1)
    assert again.snapshot == await read(backend, key, VISIBLE)
    await backend.close()


# --- real ------------------------------------------------------------------------------------------------------------


async def test_no_table_names_the_command_that_makes_one(server: dynamodb.Server) -> None:
    backend = dynamodb.backend(server.port, "nowhere")
    for use in (backend.open(), backend.read(fresh(), ReadPlan()), backend.status()):
        with refused(NotAStore) as caught:
            await use
        assert "holdfast db create" in str(caught.error)
    await backend.close()


async def test_another_table_is_not_taken_for_ours(server: dynamodb.Server) -> None:
    backend = dynamodb.backend(server.port, "other")
    keys = [{"AttributeName": "id", "KeyType": "HASH"}]
    types = [{"AttributeName": "id", "AttributeType": "S"}]
    backend.client.create_table(TableName="other", KeySchema=keys, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST")
    with refused(NotAStore):
        await backend.open()
    with refused(NotAStore):
        await backend.create()
    await backend.close()


async def test_nobody_there() -> None:
    backend = dynamodb.backend(free_port(), patience=0.3)
    with refused(StoreUnavailable):
        await backend.open()
    await backend.close()


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for url in ("dynamodb://eu-central-1/t?endpoint=http://192.0.2.1", "dynamodb:///t", "dynamodb://eu-central-1/t?profile=nobody"):
        backend = from_url(url)
        with refused(StoreUnavailable) as caught:
            await backend.open()
        assert any(word in str(caught.error) for word in ("credentials", "region", "profile"))
        await backend.close()


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://eu-central-1",
        "dynamodb://eu-central-1/a/b",
        "dynamodb://me@eu-central-1/t",
        "dynamodb://eu-central-1/t?endpoint=nonsense",
        "dynamodb://eu-central-1/t?region=x",
        "dynamodb://eu-central-1/t?patience=-1",
    ],
)
def test_urls_that_make_no_sense(url: str) -> None:
    with refused(InvalidURL):
        from_url(url)


# --- lost answers ----------------------------------------------------------------------------------------------------

_DEEDS: dict[str, dict[str, Any]] = {
    "a transaction": {"entries": notes("a", "b"), "puts": puts(k="1"), "blobs": (blob("b", "1"),)},
    "a single write": {"claim": ClaimAct("renew"), "fence": 1},
}


@pytest.mark.parametrize("deed", _DEEDS)
async def test_a_lost_answer_is_found_out(server: dynamodb.Server, deed: str) -> None:
    """The connection breaks after the request was carried out: the commit is acknowledged, once, without a false conflict."""
    with Proxy(server.port) as proxy:
        backend, key = dynamodb.backend(proxy.port), fresh()
        head = await created(backend, key, claim=ClaimAct("take", "run"))
        proxy.cut_after(0, TO_CLIENT)
        outcome = await backend.commit(key, writing(head, expect=head.version, **_DEEDS[deed]))
        assert not outcome.repeated
        found = await read(backend, key)
        assert found.head == outcome.head
        assert [entry.body for entry in found.entries or []] == [it.body for it in _DEEDS[deed].get("entries", ())]
        assert found.head.claim is not None
        assert found.head.claim.beat == (1 if "claim" in _DEEDS[deed] else 0)
        await backend.close()


async def test_a_cut_that_lasts_leaves_the_outcome_to_be_found_out(server: dynamodb.Server) -> None:
    with Proxy(server.port) as proxy:
        backend, key = dynamodb.backend(proxy.port, patience=0.5), fresh()
        head = await created(backend, key)
        commit = writing(head, entries=notes("a"), expect=head.version)
        proxy.cut_after(0, TO_CLIENT)
        cutting = asyncio.create_task(_cut_again(proxy))
        with refused(OutcomeUnknown):
            await backend.commit(key, commit)
        cutting.cancel()
        proxy.go_on()
        again = await backend.commit(key, commit)
        assert (again.version, again.seq) == (head.version + 1, 1)
        assert await bodies(backend, key) == ["a"]
        await backend.close()


async def _cut_again(proxy: Proxy) -> None:
    while True:
        proxy.cut_after(0, TO_CLIENT)
        await asyncio.sleep(0.001)


async def test_an_erasure_whose_answer_was_lost(server: dynamodb.Server) -> None:
    with Proxy(server.port) as proxy:
        backend, key = dynamodb.backend(proxy.port), fresh()
        head = await created(backend, key, entries=notes("a"))
        proxy.cut_after(0, TO_CLIENT)
        assert (await backend.commit(key, writing(head, erase=Erase("session")))).head is None
        assert await backend.read(key, ReadPlan()) is None
        await backend.close()


# --- a client of the user's own --------------------------------------------------------------------------------------


def client_of(port: int) -> Any:
    login = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    session: Any = boto3.session.Session()
    return session.client("dynamodb", region_name=dynamodb.REGION, endpoint_url=f"http://127.0.0.1:{port}", **login)


async def test_a_given_client_is_never_closed(server: dynamodb.Server) -> None:
    client, key = client_of(server.port), fresh()
    backend = DynamoDBBackend(dynamodb.TABLE, client=client)
    await created(backend, key, entries=notes("a"), puts=puts(k="1"))
    await backend.close()
    another = DynamoDBBackend(dynamodb.TABLE, client=client)
    assert values(await read(another, key)) == {"k": "1"}
    await another.close()
    client.close()


async def test_a_given_client_s_own_retries_make_no_false_conflict(server: dynamodb.Server) -> None:
    """boto3 sends again by itself what we don't hear of: the write that was carried out the first time is not refused the second."""
    with Proxy(server.port) as proxy:
        client, key = client_of(proxy.port), fresh()
        backend = DynamoDBBackend(dynamodb.TABLE, client=client)
        head = await created(backend, key, claim=ClaimAct("take", "run"))
        for parts in ({"entries": notes("a")}, {"claim": ClaimAct("renew"), "fence": 1}):
            proxy.cut_after(0, TO_CLIENT)
            head = head_of(await backend.commit(key, writing(head, expect=head.version, **parts)))
        assert (head.seq, head.claim and head.claim.beat) == (1, 1)
        await backend.close()
        client.close()


def _fork_with_client(port: int, pipe: Pipe) -> None:
    backend, key = DynamoDBBackend(dynamodb.TABLE, client=client_of(port)), fresh()
    asyncio.run(_created(backend, key))
    if (child := os.fork()) == 0:
        try:
            asyncio.run(_created(backend, key))
        except StoreClosed:
            os._exit(7)
        os._exit(0)
    pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


async def _created(backend: Backend, key: Any) -> None:
    await backend.commit(key, creating())


async def test_a_given_client_says_so_after_a_fork(server: dynamodb.Server) -> None:
    with Child(_fork_with_client, server.port) as child:
        assert await child.said() == 7


async def test_a_list_of_nothing(backend: DynamoDBBackend) -> None:
    assert (await backend.list(Filter(tenant=fresh().tenant), None, 10)).items == []
