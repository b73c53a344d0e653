"""The table as it must be: keys, indexes, time to live. Made by `create`, or by deploy/terraform/dynamodb, which a test holds to this."""

from __future__ import annotations

import time
from typing import Any

from ...errors import NotAStore, StoreUnavailable
from . import layout
from .client import Table
from .layout import EXPIRY, INDEXES, ORDER, PARTITION, SORT

VERSION = 1
_ACTIVE_SECONDS = 300.0

PROJECTIONS: dict[str, dict[str, Any]] = {
    layout.BY_TENANT: {"ProjectionType": "INCLUDE", "NonKeyAttributes": [layout.DUE]},
    layout.BY_USER: {"ProjectionType": "KEYS_ONLY"},
    layout.BY_WAITING: {"ProjectionType": "KEYS_ONLY"},
}


def _schema(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


def definition() -> dict[str, Any]:
    """The request that makes the table, without its name."""
    types = dict.fromkeys((PARTITION, SORT, *INDEXES.values()), "S") | {ORDER: "N"}
    return {
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()],
        "KeySchema": _schema(PARTITION, SORT),
        "BillingMode": "PAY_PER_REQUEST",
        "GlobalSecondaryIndexes": [
            {"IndexName": index, "KeySchema": _schema(owner, ORDER), "Projection": PROJECTIONS[index]} for index, owner in INDEXES.items()
        ],
    }


def check(table: Table) -> None:
    """`NotAStore` unless the table is there and is ours."""
    found = table.describe()
    if found is None:
        raise NotAStore(f"there is no table {table.name!r} for this account, region and endpoint: `holdfast db create -s URL` makes it")
    if _keys(found) != {PARTITION: "HASH", SORT: "RANGE"}:
        raise NotAStore(f"table {table.name}: its keys are {_keys(found)}, not {PARTITION} and {SORT}: it is something else's")
    indexes = {it["IndexName"]: _keys(it) for it in found.get("GlobalSecondaryIndexes") or ()}
    for index, owner in INDEXES.items():
        if indexes.get(index) != {owner: "HASH", ORDER: "RANGE"}:
            raise NotAStore(f"table {table.name}: it has no index {index} on {owner} and {ORDER}: see deploy/terraform/dynamodb")


def _keys(it: dict[str, Any]) -> dict[str, str]:
    return {key["AttributeName"]: key["KeyType"] for key in it["KeySchema"]}


def create(table: Table) -> list[str]:
    """Make the table where there is none and wait until it can be used; what was done, in words. Doing it again does nothing."""
    done: list[str] = []
    if table.describe() is None:
        table.ask("create_table", **definition())
        done.append(f"made table {table.name} with the indexes {', '.join(INDEXES)}, billed by request")
    _wait(table)
    check(table)
    if _expiring(table) != EXPIRY:
        table.ask("update_time_to_live", TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRY})
        done.append(f"enabled time to live on {EXPIRY}")
    return done


def _wait(table: Table) -> None:
    end = time.monotonic() + _ACTIVE_SECONDS
    while (table.describe() or {}).get("TableStatus") != "ACTIVE":
        if time.monotonic() > end:
            raise StoreUnavailable(f"table {table.name} is not active after {_ACTIVE_SECONDS:g} seconds: it may become so yet")
        time.sleep(0.5)


def _expiring(table: Table) -> str | None:
    told: dict[str, str] = table.ask("describe_time_to_live").get("TimeToLiveDescription") or {}
    return told.get("AttributeName") if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") else None


def status(table: Table) -> dict[str, Any]:
    """Facts for people. DynamoDB counts items and bytes about every six hours."""
    check(table)
    found = table.describe() or {}
    sessions = next((it.get("ItemCount", 0) for it in found.get("GlobalSecondaryIndexes") or () if it["IndexName"] == layout.BY_TENANT), 0)
    billing: dict[str, str] = found.get("BillingModeSummary") or {}
    return {
        "table": table.name,
        "arn": found.get("TableArn", ""),
        "schema": VERSION,
        "state": found.get("TableStatus", ""),
        "billing": billing.get("BillingMode", "PROVISIONED"),
        "time_to_live": _expiring(table) or "off",
        "sessions": sessions,
        "items": found.get("ItemCount", 0),
        "stored_bytes": found.get("TableSizeBytes", 0),
    }
