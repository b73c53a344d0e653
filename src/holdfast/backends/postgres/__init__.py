"""PostgreSQL: one schema of one database, any number of processes on any number of machines.

A commit is one call of a function in the database and a read one statement, each a single round trip (`writing`, `plans`); what a commit
does is decided here, by `rules.judge`, as for every backend.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8

from ...backend import Capabilities, Commit, Filter, Head, Key, Outcome, Page, ReadPlan, Snapshot
from ...errors import InvalidURL, InvalidValue
from ...forks import Forkable, forget_forks, watch_forks
from ...ids import now
from ...rules import alive, check_sizes, matches, numbered
from .. import urls
from . import plans, schema
from .connections import CONNECT_SECONDS, Connections, GivenPool, OwnPools, Pool, Worker, ask
from .heads import Heads, readable_head
from .queries import queries
from .sweeping import sweep
from .watching import Listeners
from .writing import Write

_PAGE_WORK = 500
"""Sessions that a page looks at where no index knows the answer."""
_PLAN_ONCE = "-c plan_cache_mode=force_generic_plan"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

__all__ = ["PostgresBackend"]


def _schema(text: str) -> str:
    if not _NAME.fullmatch(text) or text.startswith("pg_"):
        raise ValueError("it must be up to 63 of a-z, 0-9 and _, not beginning with a digit or pg_")
    return text


def _yes(text: str) -> bool:
    return urls.one_of("true", "false")(text) == "true"


_OURS: dict[str, urls.Reader] = {
    "schema": _schema,
    "pool_size": urls.whole(1, 1000),
    "pooler": _yes,
    "timeout": urls.seconds,
    "watch_url": str,
}
"""The options of a URL that are not libpq's."""


def from_url(url: str) -> PostgresBackend:
    """`postgresql://user:password@host/database` with libpq's options and those of `PostgresBackend`."""
    place, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    ours = urlencode([pair for pair in pairs if pair[0] in _OURS])
    theirs = urlencode([pair for pair in pairs if pair[0] not in _OURS], quote_via=quote)
    return PostgresBackend(f"{place}?{theirs}" if theirs else place, **urls.options(f"postgresql:///?{ours}", _OURS))


class PostgresBackend(Forkable):
    """Sessions in one schema of the database that `dsn` names: a URL, or libpq's `key=value` words.

    `schema`: its name. `pool_size`: connections per event loop at most. `timeout`: seconds for one request. `pooler`: there is a
    transaction pooler (PgBouncer) in between: nothing is kept in the server's session, and watching polls. `watch_url`: where to listen
    instead, past the pooler. `pool`: an open pool to use instead of own ones; it works in its own event loop, and is never closed here.
    """

    capabilities = Capabilities(durable=True, multi_process=True, watch=True)

    def __init__(
        self,
        dsn: str = "",
        *,
        schema: str = "holdfast",
        pool_size: int = 10,
        pooler: bool = False,
        timeout: float = 30.0,
        watch_url: str | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.schema = _checked_schema(schema)
        self._connections: Connections = _connections(dsn, pool, pool_size, pooler=pooler)
        self._worker = Worker(self._connections, timeout)
        listened = watch_url or (None if pooler or pool is not None else dsn)
        self._listeners = Listeners(None if listened is None else _conninfo(listened), self.schema, self.where)
        self._heads = Heads()
        self._ready = False
        watch_forks(self)

    # --- life ---

    @property
    def where(self) -> str:
        """The server and the database, for people."""
        return self._connections.where

    async def open(self) -> None:
        if self._ready:
            self._worker.check_open()
        else:
            await self._worker.run(lambda connection: schema.ensure(connection, self.schema, self.where))
            self._ready = True

    async def close(self) -> None:
        await self._worker.close()
        self._listeners.close()
        forget_forks(self)

    async def migrate(self) -> tuple[int, int]:
        return await self._worker.run(lambda connection: schema.migrate(connection, self.schema, self.where))

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._connections.after_fork()
            self._worker.renew()
            self._heads.renew()
            self._listeners.after_fork()

    # --- reading ---

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        if not self._ready:
            await self.open()
        [rows] = await self._worker.run(lambda connection: ask(connection, plans.statement(self.schema, key, plan)))
        found = plans.answer(key, plan, rows)
        self._heads.keep(key, found and found[0])
        return found[1] if found and alive(found[1].head, now()) else None

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        below = numbered(cursor, plans.MOST)
        if not self._ready:
            await self.open()
        name = "list_of_user" if filter.user_id is not None else "list_waiting" if filter.waiting else "list"
        most = limit + 1 if _indexed(filter) else max(limit + 1, _PAGE_WORK)
        values = {"tenant": filter.tenant, "user": filter.user_id, "below": Int8(below), "most": Int8(most), "now": Int8(now())}
        [rows] = await self._worker.run(lambda connection: ask(connection, (queries(self.schema)[name], values)))
        return _page(filter, rows, limit, ended=len(rows) < most)

    async def watch(self, key: Key, after: int) -> AsyncGenerator[int]:
        while True:
            async with self._listeners.ear(key) as ear:
                while not ear.deaf:
                    snapshot = await self.read(key, ReadPlan())
                    if snapshot is None:
                        return
                    if snapshot.head.version > after:
                        after = snapshot.head.version
                        yield after
                    else:
                        await ear.wait()

    # --- writing ---

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        if not self._ready:
            await self.open()
        return await self._worker.run(Write(self.schema, self._heads, key, commit).run, writing=True)

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        if not self._ready:
            await self.open()
        write = Write(self.schema, self._heads, target, commit)
        return await self._worker.run(lambda connection: write.copy(connection, source, upto), writing=True)

    async def sweep(self, limit: int) -> int:
        if not self._ready:
            await self.open()
        return await sweep(self._worker, self.schema, limit)

    # --- maintenance ---

    async def status(self) -> dict[str, Any]:
        return await self._worker.run(lambda connection: schema.status(connection, self.schema, self.where))

    async def check(self) -> list[str]:
        await self.open()
        return await self._worker.run(lambda connection: schema.check(connection, self.schema))


# --- from what the caller gave ---------------------------------------------------------------------------------------


def _checked_schema(name: str) -> str:
    try:
        return _schema(name)
    except ValueError as error:
        raise InvalidValue(f"schema={name!r:.80}: {error}") from None


def _connections(dsn: str, pool: Pool | None, size: int, *, pooler: bool) -> Connections:
    if pool is None:
        return OwnPools(_conninfo(dsn, planned=not pooler), _where(dsn), size=size, pooler=pooler)
    if dsn:
        raise InvalidValue("PostgresBackend takes a dsn or a pool, not both")
    return GivenPool(pool, _where(pool.conninfo) if isinstance(pool.conninfo, str) else "PostgreSQL")


def _conninfo(dsn: str, *, planned: bool = False) -> str:
    """What libpq is told: the caller's words, with a name and an end to waiting where they give none.

    `planned`: a prepared statement is planned once. PostgreSQL would plan those with a LIMIT at each use, which takes longer than they do.
    """
    given = _parsed(dsn)
    ours: dict[str, Any] = {"fallback_application_name": "holdfast", "connect_timeout": CONNECT_SECONDS}
    told = {name: value for name, value in ours.items() if name not in given}
    if planned:
        told["options"] = f"{_PLAN_ONCE} {given.get('options', '')}".strip()
    return conninfo.make_conninfo(dsn, **told)


def _where(dsn: str) -> str:
    given = _parsed(dsn)
    host, port = (given.get(name) for name in ("host", "port"))
    return f"postgresql://{host or ''}{f':{port}' if port else ''}/{given.get('dbname') or ''}"


def _parsed(dsn: str) -> dict[str, Any]:
    """`InvalidURL` for what libpq can't read, in words that hold no password."""
    try:
        return dict(conninfo.conninfo_to_dict(dsn))
    except psycopg.ProgrammingError as error:
        option = re.search(r'(?:parameter|option):? "(\w+)"', str(error))
        about = f"unknown option {option[1]!r}; there are libpq's and {', '.join(sorted(_OURS))}" if option else "libpq can't read it"
        raise InvalidURL(f"store URL {urls.shown(dsn)!r}: {about}") from None


# --- a page of a list ------------------------------------------------------------------------------------------------


def _indexed(filter: Filter) -> bool:
    """Whether an index knows the answer: at most one of user and waiting, and nothing else."""
    only = Filter(tenant=filter.tenant, user_id=filter.user_id, waiting=filter.waiting)
    return filter == only and filter.waiting is not False and None in (filter.user_id, filter.waiting)


def _page(filter: Filter, rows: list[plans.Row], limit: int, *, ended: bool) -> Page:
    items: list[tuple[str, Head]] = []
    seen = None
    for n, session_id, data, living in rows:
        if len(items) == limit:
            return Page(items, str(seen))
        seen = n
        head = readable_head(Key(filter.tenant, session_id), data)
        if head and living and matches(filter, head):
            items.append((session_id, head))
    return Page(items, None if ended else str(seen))
