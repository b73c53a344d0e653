"""The life of a store's schema in a PostgreSQL database: made, recognised, migrated, described, checked."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg.types.numeric import Int8

from ...backend import Head
from ...errors import NotAStore, SchemaMismatch
from .connections import Connection, ask
from .queries import definitions, queries

VERSION = 1
_OLDEST = 1
"""The lowest version whose code may write what this code makes."""
_MIGRATIONS: dict[int, str] = {}
"""SQL that takes schema N to N + 1, with {schema} for its name. It adds; what old code needs goes one version later."""
_PAGE = 500


async def ensure(connection: Connection, schema: str, where: str) -> None:
    """Make the store where there is none yet, or check that what is there is one this library can use."""
    version = await _version(connection, schema, where)
    if version == 0:
        async with connection.transaction():
            await _create(connection, schema, where)
    elif version < VERSION - 1:
        raise SchemaMismatch(f"{where}: schema {version} is too old for this library ({VERSION}); run `holdfast db migrate`")


async def migrate(connection: Connection, schema: str, where: str) -> tuple[int, int]:
    """Bring the schema up to date in one transaction; (before, after), the same for a newer one that this code may write."""
    async with connection.transaction():
        await ask(connection, (queries(schema)["lock_schema"], {}))
        before = await _version(connection, schema, where)
        if before == 0:
            await _create(connection, schema, where)
        for step in range(before or VERSION, VERSION):
            await connection.execute(_MIGRATIONS[step].replace("{schema}", schema).encode())
        if 0 < before < VERSION:
            await ask(connection, (queries(schema)["raise_version"], {"version": VERSION, "oldest": _OLDEST}))
    return before, max(before, VERSION)


async def _version(connection: Connection, schema: str, where: str) -> int:
    """The schema version; 0 where nothing has been made. `NotAStore`, or `SchemaMismatch` for one that this code is too old to write."""
    sql = queries(schema)
    [[(_, ours, used, encoding)]] = await ask(connection, (sql["schema_there"], {}))
    if encoding != "UTF8":
        raise NotAStore(f"{where}: the database's encoding is {encoding}; make one with `createdb --encoding=UTF8 --template=template0`")
    if used and not ours:
        raise NotAStore(f"{where}: its schema {schema} belongs to something else; name another with ?schema=")
    if not ours:
        return 0
    [[(version, oldest)]] = await ask(connection, (sql["version"], {}))
    if oldest > VERSION:
        raise SchemaMismatch(
            f"{where}: schema {version} is for holdfast with schema {oldest} or later, this one has {VERSION}; upgrade holdfast,"
            " there is nothing to migrate here"
        )
    return version


async def _create(connection: Connection, schema: str, where: str) -> None:
    """In a transaction. Of many that come at once, one makes it and the others find it made."""
    sql = queries(schema)
    await ask(connection, (sql["lock_schema"], {}))
    if await _version(connection, schema, where) == 0:
        [[(there, *_)]] = await ask(connection, (sql["schema_there"], {}))
        if not there:
            await ask(connection, (sql["create_schema"], {}))
        await connection.execute(definitions(schema))
        await ask(connection, (sql["set_version"], {"version": VERSION, "oldest": _OLDEST}))


async def status(connection: Connection, schema: str, where: str) -> dict[str, Any]:
    """Facts about the store: where it is, schema, sizes in bytes, sessions, entries."""
    version = await _version(connection, schema, where)
    facts = {"backend": "postgres", "server": where, "name": schema, "schema": version, "library_schema": VERSION}
    if not version:
        return facts | {"sessions": 0, "entries": 0}
    [[(server, sessions, entries, size)]] = await ask(connection, (queries(schema)["sizes"], {}))
    return facts | {"postgresql": server, "bytes": size, "sessions": sessions, "entries": entries}


async def check(connection: Connection, schema: str) -> list[str]:
    """What Holdfast promises about its rows, from one moment."""
    sql, problems, after = queries(schema), list[str](), 0
    async with connection.transaction():
        await ask(connection, (b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", {}))
        [orphans] = await ask(connection, (sql["orphans"], {}))
        problems += [f"{count} rows of {table} belong to no session" for table, count in orphans if count]
        while rows := (await ask(connection, (sql["all_heads"], {"after": Int8(after), "most": _PAGE})))[0]:
            for n, tenant, session_id, data, *columns in rows:
                what, after = f"session {session_id!r} of tenant {tenant!r}", n
                problems += [f"{what}: {problem}" for problem in _check_session(data, tuple(columns[:5]), tuple(columns[5:]))]
    return problems


def _check_session(data: bytes, indexed: tuple[Any, ...], log: tuple[int, int, int]) -> list[str]:
    try:
        head = msgspec.json.decode(data, type=Head)
    except msgspec.DecodeError as error:
        return [f"its head is not readable: {error}"]
    problems: list[str] = []
    if indexed != (head.incarnation, head.floor, head.user_id, head.waiting, head.expires):
        problems.append("its index columns differ from its head")
    if log != (head.seq, min(head.seq, 1), head.seq):
        problems.append(f"its log has {log[0]} entries from {log[1]} to {log[2]}, its head says {head.seq}")
    return problems
