"""Read plans: one statement each, so that one snapshot answers it all in one round trip.

Every row has the same ten columns (part, number, version, time, flag, four texts, data): the head is part 0, state 1, entries 2, and
the ranges of blobs 3, 4 and so on.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from psycopg.types.numeric import Int8

from ...backend import Blob, BlobRange, Key, ReadPlan, Snapshot, StateRow, Window
from ...entries import MESSAGE, Entry
from .heads import Known, decode_head

LAST_KEY = "\U0010ffff"
MOST = (1 << 62) - 1
"""More than any seq or number."""

Row = tuple[Any, ...]
Statement = tuple[bytes, dict[str, Any]]
"""SQL and its parameters."""

_HEAD = """WITH s AS MATERIALIZED (SELECT n, rev, floor, head FROM {schema}.sessions WHERE tenant = %(tenant)s AND session_id = %(session)s)
SELECT 0, n, rev, 0::bigint, false, NULL::text, NULL::text, NULL::text, NULL::text, head FROM s"""
_STATE = """SELECT 1, 0, t.version, 0, t.gone, t.key, NULL, NULL, NULL, t.value FROM s JOIN {schema}.state t ON t.n = s.n
WHERE CASE WHEN %(since)s <= s.floor THEN NOT t.gone ELSE t.version > %(since)s END"""
_COLUMNS = "e.seq, e.version, e.time, {flag}, e.entry_id, e.kind, e.run_id, e.agent, e.body"
_SPAN = "e.n = s.n AND e.seq > %(after)s AND e.seq < %(before)s"


class _Shape(NamedTuple):
    """What the text of a statement depends on."""

    state: bool
    window: tuple[str, bool, bool] | None
    blobs: tuple[tuple[bool, bool, bool], ...]


def statement(schema: str, key: Key, plan: ReadPlan) -> Statement:
    """The SQL that answers `plan`, and its parameters."""
    window = plan.entries
    shape = _Shape(
        plan.state_since is not None,
        None if window is None else (_way(window), window.hidden, window.newest),
        tuple((it.namespace is not None, it.keys is not None, it.data) for it in plan.blobs),
    )
    values: dict[str, Any] = {"tenant": key.tenant, "session": key.session_id}
    if plan.state_since is not None:
        values["since"] = Int8(plan.state_since)
    if window is not None:
        values |= _window_values(window)
    for place, it in enumerate(plan.blobs):
        values |= _blob_values(place, it)
    return _sql(schema, shape), values


def _way(window: Window) -> str:
    """How to find its entries: along the log, along a run, or along each of some rare kinds."""
    if window.run_id is not None:
        return "run of kinds" if window.kinds else "run"
    if window.kinds:
        return "log of kinds" if MESSAGE in window.kinds else "rare"
    return "log"


def _window_values(window: Window) -> dict[str, Any]:
    values: dict[str, Any] = {
        "after": Int8(max(window.after, 0)),
        "before": Int8(MOST if window.before is None else max(window.before, 0)),
        "limit": None if window.limit is None else Int8(window.limit),
    }
    if window.kinds:
        values["kinds"] = list(dict.fromkeys(window.kinds))
    if window.run_id is not None:
        values["run"] = window.run_id
    return values


def _blob_values(place: int, it: BlobRange) -> dict[str, Any]:
    values: dict[str, Any] = {} if it.namespace is None else {f"space{place}": it.namespace}
    if it.keys is not None:
        return values | {f"keys{place}": list(it.keys)}
    return values | {f"first{place}": it.prefix, f"last{place}": it.prefix + LAST_KEY}


@lru_cache(512)
def _sql(schema: str, shape: _Shape) -> bytes:
    parts = [_HEAD]
    if shape.state:
        parts.append(_STATE)
    if shape.window is not None:
        parts.append(f"SELECT 2, e.* FROM s CROSS JOIN LATERAL ({_entries(*shape.window)}) e")
    parts += [_blobs(place, *it) for place, it in enumerate(shape.blobs)]
    return "\nUNION ALL ".join(parts).replace("{schema}", schema).encode()


def _entries(way: str, hidden: bool, newest: bool) -> str:
    """The scan of the log, merged with that of what is hidden: each bounded by the limit."""
    order = f"ORDER BY seq {'DESC' if newest else 'ASC'} LIMIT %(limit)s"
    scans = [_scan("entries", way, order)] + ([_scan("hidden", way, order)] if hidden else [])
    return scans[0] if len(scans) == 1 else " UNION ALL ".join(f"({scan})" for scan in scans) + f" {order}"


def _scan(table: str, way: str, order: str) -> str:
    columns, source = _COLUMNS.format(flag=str(table == "hidden").lower()), f"{{schema}}.{table} e"
    if way == "rare":
        one = f"SELECT {columns} FROM {source} WHERE {_SPAN} AND e.kind = k.kind AND e.kind <> 'message' {order}"
        return f"SELECT r.* FROM unnest(%(kinds)s::text[]) AS k (kind) CROSS JOIN LATERAL ({one}) r {order}"
    conditions = (" AND e.run_id = %(run)s" if way.startswith("run") else "") + (" AND e.kind = ANY (%(kinds)s)" if "kinds" in way else "")
    return f"SELECT {columns} FROM {source} WHERE {_SPAN}{conditions} {order}"


def _blobs(place: int, named: bool, exact: bool, data: bool) -> str:
    space = f" AND b.namespace = %(space{place})s" if named else ""
    keys = f"= ANY (%(keys{place})s)" if exact else f"BETWEEN %(first{place})s AND %(last{place})s"
    return (
        f"SELECT {3 + place}, 0, 0, 0, false, b.namespace, b.key, b.type, NULL, {'b.data' if data else 'NULL'}"
        f" FROM s JOIN {{schema}}.blobs b ON b.n = s.n WHERE b.key {keys}{space}"
    )


def answer(key: Key, plan: ReadPlan, rows: list[Row]) -> tuple[Known, Snapshot] | None:
    """The head as it is stored, expired or not, and what `plan` asks for, from the rows of its statement."""
    if not rows:
        return None
    _, n, rev, *_, data = next(row for row in rows if row[0] == 0)
    head = decode_head(key, data)
    whole = plan.state_since is not None and plan.state_since <= head.floor
    return Known(n, rev, data), Snapshot(
        head,
        None if plan.state_since is None else {row[5]: StateRow(row[9], row[2]) for row in rows if row[0] == 1},
        whole,
        None if plan.entries is None else sorted((_entry(row) for row in rows if row[0] == 2), key=attrgetter("seq")),
        _sorted_blobs(rows) if plan.blobs else None,
    )


def _entry(row: Row) -> Entry:
    _, seq, version, time, hidden, entry_id, kind, run_id, agent, body = row
    return Entry(seq, entry_id, kind, body, run_id, agent, time, version, hidden)


def _sorted_blobs(rows: list[Row]) -> list[Blob]:
    return [Blob(row[5], row[6], row[7], row[9]) for row in sorted((row for row in rows if row[0] > 2), key=itemgetter(0, 5, 6))]
