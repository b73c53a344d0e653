"""What a store forgets, in transactions of a few sessions each: nobody waits long for one."""

from __future__ import annotations

from msgspec.structs import replace
from psycopg.types.numeric import Int8

from ...backend import Key
from ...ids import now
from ...rules import GRAVE_SECONDS, TOMBSTONES_KEPT
from .connections import Connection, Worker, ask
from .heads import encode_head, readable_head
from .queries import queries

_SESSIONS = 20
_GRAVES = 1000


async def sweep(worker: Worker, schema: str, limit: int) -> int:
    """Remove up to `limit` expired sessions, then tombstones and graves nobody needs."""
    gone = 0
    while gone < limit:
        wanted = min(limit - gone, _SESSIONS)
        step = await worker.run(lambda connection, most=wanted: _expired(connection, schema, most))
        gone += step
        if step < wanted:
            break
    for n in await worker.run(lambda connection: _with_tombstones(connection, schema, limit)):
        await worker.run(lambda connection, n=n: _drop_tombstones(connection, schema, n))
    while await worker.run(lambda connection: _forget_graves(connection, schema)) == _GRAVES:
        pass
    return gone


async def _expired(connection: Connection, schema: str, most: int) -> int:
    [[(gone,)]] = await ask(connection, (queries(schema)["sweep"], {"now": Int8(now()), "most": most}))
    return gone


async def _with_tombstones(connection: Connection, schema: str, most: int) -> list[int]:
    [rows] = await ask(connection, (queries(schema)["with_tombstones"], {"kept": TOMBSTONES_KEPT, "most": Int8(most)}))
    return [n for (n,) in rows]


async def _drop_tombstones(connection: Connection, schema: str, n: int) -> None:
    """All of them, and say so in the head: who last saw the state before the newest one reads it whole."""
    sql, place = queries(schema), {"n": Int8(n)}
    async with connection.transaction():
        [rows] = await ask(connection, (sql["lock"], place))
        head = readable_head(Key(rows[0][0], rows[0][1]), rows[0][2]) if rows else None
        if not head:
            return
        [[(floor,)]] = await ask(connection, (sql["drop_tombstones"], place))
        if floor:
            await ask(connection, (sql["raise_floor"], place | {"floor": Int8(floor), "head": encode_head(replace(head, floor=floor))}))


async def _forget_graves(connection: Connection, schema: str) -> int:
    before = now() - GRAVE_SECONDS * 1_000_000
    [[(forgotten,)]] = await ask(connection, (queries(schema)["forget_graves"], {"before": Int8(before), "most": _GRAVES}))
    return forgotten
