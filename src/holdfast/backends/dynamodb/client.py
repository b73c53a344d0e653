"""The table: boto3's client behind a dozen calls, tried again for as long as it makes sense, its errors turned into ours in one place.

A request that may have been carried out though its answer was lost is sent again as it was: a transaction under the same token, which
DynamoDB recognises; a single write, whose condition then refuses it, is recognised by its author (`Stored.mark`).
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProxyConnectionError,
    TokenRetrievalError,
)

from ...errors import HoldfastError, NotAStore, OutcomeUnknown, StoreError, StoreFull, StoreReadOnly, StoreUnavailable
from .layout import INDEXES, ORDER, PARTITION, SORT, Item

PATIENCE = 15.0
"""Seconds for which a throttled, contended or unreachable request is tried again."""
TRANSACTION_ITEMS = 100
TRANSACTION_BYTES = 3_800_000
"""A transaction takes 4 MB: items count with their names and overhead, so ours are counted with room to spare."""
_BATCH_READ, _BATCH_WRITE = 100, 25
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_CONTENDED = 0.02, 1.0, 0.05

_CONTENDED = {"TransactionConflictException", "TransactionConflict", "ReplicatedWriteConflictException"}
"""Refused because somebody else writes the same item right now."""
_BUSY = _CONTENDED | {
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "RequestLimitExceeded",
    "ThrottlingException",
    "ThrottlingError",
    "ThrottledException",
    "LimitExceededException",
}
"""Refused, and nothing was done."""
_UNSURE = {"InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "TransactionInProgressException"}
"""May have been done, or is being done."""
_NOBODY = {
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
}
_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
_NO_LOGIN = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)


class Client(Protocol):
    """What is used of boto3's DynamoDB client."""

    @property
    def meta(self) -> Any: ...
    def get_item(self, **request: Any) -> dict[str, Any]: ...
    def put_item(self, **request: Any) -> dict[str, Any]: ...
    def update_item(self, **request: Any) -> dict[str, Any]: ...
    def delete_item(self, **request: Any) -> dict[str, Any]: ...
    def query(self, **request: Any) -> dict[str, Any]: ...
    def scan(self, **request: Any) -> dict[str, Any]: ...
    def batch_get_item(self, **request: Any) -> dict[str, Any]: ...
    def batch_write_item(self, **request: Any) -> dict[str, Any]: ...
    def transact_write_items(self, **request: Any) -> dict[str, Any]: ...
    def describe_table(self, **request: Any) -> dict[str, Any]: ...
    def create_table(self, **request: Any) -> dict[str, Any]: ...
    def describe_time_to_live(self, **request: Any) -> dict[str, Any]: ...
    def update_time_to_live(self, **request: Any) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Op(NamedTuple):
    """One item's part in a write: `Put` it, `Delete` it or only `ConditionCheck` it, where `condition` holds (as `where` makes it)."""

    act: str
    item: Item
    condition: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        return size_of(self.item) if self.act == "Put" else 200

    @property
    def sort(self) -> str:
        return self.item[SORT]["S"]

    def request(self, table: str) -> dict[str, Any]:
        what = {"Item": self.item} if self.act == "Put" else {"Key": {name: self.item[name] for name in (PARTITION, SORT)}}
        conditions = {} if self.condition is None else self.condition | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        return {"TableName": table, **what, **conditions}


class Refused(Exception):
    """These ops' conditions did not hold: `found` is what is there instead (None: nothing), by the op's place. Nothing was written."""

    def __init__(self, found: dict[int, Item | None]) -> None:
        super().__init__(f"conditions failed: {sorted(found)}")
        self.found = found


_NAME = re.compile(r"#\w+")


def where(expression: str, **values: int | str | bytes) -> dict[str, Any]:
    """A condition: `#name` in it stands for an attribute, `:name` for one of `values`."""
    found: dict[str, Any] = {"ConditionExpression": expression}
    if names := _NAME.findall(expression):
        found["ExpressionAttributeNames"] = {name: name[1:] for name in names}
    if values:
        found["ExpressionAttributeValues"] = {f":{name}": _typed(value) for name, value in values.items()}
    return found


def _typed(value: int | str | bytes) -> dict[str, Any]:
    if isinstance(value, int):
        return {"N": str(value)}
    return {"B": value} if isinstance(value, bytes) else {"S": value}


def size_of(item: Item) -> int:
    """What the item counts for, a little more rather than less."""
    values = [value for typed in item.values() for value in typed.values() if not isinstance(value, bool)]
    return 100 + sum([len(name) for name in item]) + sum([len(it.encode() if isinstance(it, str) else it) for it in values])


def _between(pk: str, low: str, high: str, backwards: bool, keys_only: bool) -> dict[str, Any]:
    request: dict[str, Any] = {
        "KeyConditionExpression": "#p = :p AND #s BETWEEN :low AND :high",
        "ExpressionAttributeNames": {"#p": PARTITION, "#s": SORT},
        "ExpressionAttributeValues": {":p": {"S": pk}, ":low": {"S": low}, ":high": {"S": high}},
        "ScanIndexForward": not backwards,
        "ConsistentRead": True,
    }
    return request | {"ProjectionExpression": "#p, #s"} if keys_only else request


class Patience:
    """How long to go on trying: pauses of random length, longer each time, until the end."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    def again(self, longest: float = _LONGEST_PAUSE) -> bool:
        """Wait a moment; False when the time is over. Among writers who all go on at once, whoever pauses long is always too late."""
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(random.uniform(0, self._pause), left))
        self._pause = min(self._pause * 2, longest)
        return True


class Table:
    """One table of one client. Its methods block."""

    def __init__(self, client: Callable[[], Client], name: str, patience: float = PATIENCE) -> None:
        self._client = client
        self.name = name
        self.seconds = patience

    # --- reading ---

    def get(self, key: Item) -> Item | None:
        return self._call("get_item", Key=key, ConsistentRead=True).get("Item")

    def get_many(self, keys: Sequence[Item]) -> Iterator[Item]:
        """Those of the items that are there, in no order."""
        for start in range(0, len(keys), _BATCH_READ):
            left: dict[str, Any] = {self.name: {"Keys": list(keys[start : start + _BATCH_READ]), "ConsistentRead": True}}
            patience = Patience(self.seconds)
            while left:
                answer = self._call("batch_get_item", table=False, RequestItems=left)
                found: list[Item] = answer["Responses"].get(self.name) or []
                yield from found
                left = answer.get("UnprocessedKeys") or {}
                if left and not found and not patience.again():
                    raise self._throttled()

    def query(
        self, pk: str, low: str, high: str, *, backwards: bool = False, limit: int | None = None, keys_only: bool = False
    ) -> Iterator[list[Item]]:
        """The items with low <= sort key <= high, page by page as DynamoDB gives them; `limit`: items of a page at most."""
        return (answer["Items"] for answer in self._pages(_between(pk, low, high, backwards, keys_only), limit))

    def page(self, pk: str, low: str, high: str, limit: int) -> tuple[list[Item], bool]:
        """Up to `limit` items from the highest sort key down, and whether these are all there are. One request."""
        answer = next(self._pages(_between(pk, low, high, True, False), limit))
        return answer["Items"], "LastEvaluatedKey" not in answer

    def listed(self, index: str, owner: str, below: int, limit: int) -> Iterator[list[Item]]:
        """The index's entries of one list with place < below, the newest first: keys only."""
        request: dict[str, Any] = {
            "IndexName": index,
            "KeyConditionExpression": "#l = :l AND #o < :o",
            "ExpressionAttributeNames": {"#l": INDEXES[index], "#o": ORDER},
            "ExpressionAttributeValues": {":l": {"S": owner}, ":o": {"N": str(below)}},
            "ScanIndexForward": False,
        }
        return (answer["Items"] for answer in self._pages(request, limit))

    def scan(self, start: Item | None = None, **request: Any) -> Generator[tuple[list[Item], Item | None]]:
        """Pages of the whole table or index, and where the next one begins."""
        while True:
            if start:
                request["ExclusiveStartKey"] = start
            answer = self._call("scan", **request)
            start = answer.get("LastEvaluatedKey")
            yield answer["Items"], start
            if start is None:
                return

    def _pages(self, request: dict[str, Any], limit: int | None) -> Generator[dict[str, Any]]:
        if limit is not None:
            request["Limit"] = limit
        while True:
            answer = self._call("query", **request)
            yield answer
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    # --- writing ---

    def write(self, ops: Sequence[Op]) -> None:
        """All of them or none: one request. `Refused` where a condition does not hold."""
        if len(ops) == 1 and ops[0].act != "ConditionCheck":
            name = "put_item" if ops[0].act == "Put" else "delete_item"
            self._call(name, table=False, writes=True, **ops[0].request(self.name))
        else:
            items = [{op.act: op.request(self.name)} for op in ops]
            self._call("transact_write_items", table=False, writes=True, token=True, TransactItems=items)

    def put_all(self, items: Iterable[Item]) -> None:
        """Put every item, whatever is there; no more than what was asked is written when it is cut short."""
        self._batches([{"PutRequest": {"Item": item}} for item in items])

    def delete_all(self, keys: Iterable[Item]) -> None:
        self._batches([{"DeleteRequest": {"Key": key}} for key in keys])

    def _batches(self, requests: list[dict[str, Any]]) -> None:
        for start in range(0, len(requests), _BATCH_WRITE):
            left: dict[str, Any] = {self.name: requests[start : start + _BATCH_WRITE]}
            patience = Patience(self.seconds)
            while True:
                left = self._call("batch_write_item", table=False, writes=True, RequestItems=left).get("UnprocessedItems") or {}
                if not left:
                    break
                if not patience.again():
                    raise self._throttled()

    def _throttled(self) -> StoreUnavailable:
        return StoreUnavailable(f"table {self.name}: throttled for {self.seconds:g} seconds")

    def count_up(self, pk: str, sort: str) -> int:
        """The next number of a counter, 1 the first time; one that is handed out and lost is nobody's."""
        answer = self._call(
            "update_item",
            writes=True,
            Key={PARTITION: {"S": pk}, SORT: {"S": sort}},
            UpdateExpression="ADD #n :one",
            ExpressionAttributeNames={"#n": "number"},
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        return int(answer["Attributes"]["number"]["N"])

    # --- the table itself ---

    def describe(self) -> dict[str, Any] | None:
        """What DynamoDB says of the table; None where there is none."""
        try:
            return self._call("describe_table")["Table"]
        except NotAStore:
            return None

    def ask(self, name: str, **request: Any) -> dict[str, Any]:
        """Any other request about the table."""
        return self._call(name, writes=True, **request)

    # --- trying ---

    def _call(self, name: str, *, table: bool = True, writes: bool = False, token: bool = False, **request: Any) -> dict[str, Any]:
        if table:
            request["TableName"] = self.name
        patience, unsure = Patience(self.seconds), False
        if token:
            request["ClientRequestToken"] = str(uuid.uuid4())
        while True:
            try:
                return getattr(self._client(), name)(**request)
            except (ClientError, BotoCoreError) as error:
                trouble = self._sorted(error, writes)
                unsure = unsure or trouble.unsure
                if trouble.final is not None:
                    raise trouble.final from error
                if not patience.again(_LONGEST_CONTENDED if trouble.contended else _LONGEST_PAUSE):
                    raise self._given_up(error, writes and unsure) from error
                if token and not trouble.unsure and not unsure:
                    request["ClientRequestToken"] = str(uuid.uuid4())

    def _given_up(self, error: Exception, unsure: bool) -> HoldfastError:
        if unsure:
            return OutcomeUnknown(
                f"table {self.name}: the connection broke in mid-commit ({error}): repeat the commit to learn its outcome"
            )
        return StoreUnavailable(f"table {self.name}: not within {self.seconds:g} seconds: {error}")

    def _sorted(self, error: ClientError | BotoCoreError, writes: bool) -> _Trouble:
        if not isinstance(error, ClientError):
            return self._sorted_connection(error)
        answer: dict[str, Any] = cast("dict[str, Any]", error.response)  # pyright: ignore[reportUnknownMemberType]  # botocore has no types
        code, message = answer.get("Error", {}).get("Code", ""), answer.get("Error", {}).get("Message", "")
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ConditionalCheckFailedException":
            return _Trouble(Refused({0: answer.get("Item")}))
        if code == "TransactionCanceledException":
            return _cancelled(self.name, answer.get("CancellationReasons") or [], message)
        if code in _BUSY:
            return _Trouble(None, contended=code in _CONTENDED)
        if code in _UNSURE or status >= 500:
            return _Trouble(None, unsure=True)
        return _Trouble(_final(self.name, code, message, writes))

    def _sorted_connection(self, error: BotoCoreError) -> _Trouble:
        if isinstance(error, _NOT_SENT):
            return _Trouble(None)
        if isinstance(error, HTTPClientError | ConnectionError):
            return _Trouble(None, unsure=True)
        if isinstance(error, (*_NO_LOGIN, NoRegionError)):
            return _Trouble(StoreUnavailable(f"table {self.name}: {error}: see the credentials and region that boto3 looks for"))
        return _Trouble(StoreError(f"table {self.name}: {error}"))


class _Trouble(NamedTuple):
    """What an error means: `final`, or another try. `unsure`: the request may have been carried out; `contended`: other writers."""

    final: Exception | None
    unsure: bool = False
    contended: bool = False


def _cancelled(table: str, reasons: Sequence[dict[str, Any]], message: str) -> _Trouble:
    """A transaction did not happen: for a condition, or for company or throttling, which pass."""
    codes = [reason.get("Code") or "None" for reason in reasons]
    failed = {n: reasons[n].get("Item") or None for n, code in enumerate(codes) if code == "ConditionalCheckFailed"}
    if failed:
        return _Trouble(Refused(failed))
    other = next((n for n, code in enumerate(codes) if code not in _BUSY | {"None", "DuplicateItem"}), None)
    if other is None and reasons:
        return _Trouble(None, contended={*codes} <= _CONTENDED | {"None"})
    code, why = (codes[other], reasons[other].get("Message")) if other is not None else ("TransactionCanceled", message)
    return _Trouble(_final(table, code, why or message, writes=True))


def _final(table: str, code: str, message: str, writes: bool) -> HoldfastError:
    if code == "ResourceNotFoundException":
        return NotAStore(f"there is no table {table!r} for this account, region and endpoint: `holdfast db create -s URL` makes it")
    if code in ("AccessDeniedException", "AccessDenied"):
        kind = StoreReadOnly if writes else StoreUnavailable
        return kind(f"table {table}: access denied: {message}; deploy/terraform/dynamodb has the policy that is needed")
    if code in _NOBODY:
        return StoreUnavailable(f"table {table}: the credentials are not accepted ({code}): {message}")
    if code == "ItemCollectionSizeLimitExceeded" or code == "ItemCollectionSizeLimitExceededException":
        return StoreFull(f"table {table}: {message}")
    return StoreError(f"table {table}: {code}: {message}")
