"""DynamoDB: one table, no server, billed by request.

boto3 blocks, so its requests run on threads of the backend's own: any event loop may use it. A commit is one write request, whatever it
changes; a session is opened by one query, however long it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import boto3.session  # pyright: ignore[reportMissingTypeStubs]
from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
from botocore.exceptions import BotoCoreError  # pyright: ignore[reportMissingTypeStubs]

from ...backend import Capabilities, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ...errors import InvalidURL, StoreClosed, StoreUnavailable
from ...forks import Forkable, forget_forks, watch_forks
from ...rules import check_sizes, mere_contact
from .. import urls
from . import checking, layout, listing, schema
from .cleaning import Sweeper
from .client import PATIENCE, Client, Table
from .lanes import THREADS, Lanes
from .writing import Author, Heads

T = TypeVar("T")

_FIRST_WATCH, _LONGEST_WATCH = 0.1, 2.0
_CONNECT_SECONDS, _ANSWER_SECONDS = 3, 10

__all__ = ["DynamoDBBackend"]


def from_url(url: str) -> DynamoDBBackend:
    """`dynamodb://region/table`, or `dynamodb:///table` for the region boto3 finds; options `endpoint`, `profile`, `patience`."""
    parts = urls.split(url)
    table = unquote(parts.path[1:])
    if not table or "/" in table or parts.username is not None or parts.port is not None or parts.fragment:
        raise InvalidURL(f"store URL {urls.shown(url)!r}: write dynamodb://region/table, or dynamodb:///table for your default region")
    known: dict[str, urls.Reader] = {"endpoint": _endpoint, "profile": str, "patience": urls.seconds}
    return DynamoDBBackend(table, region=parts.hostname, **urls.options(url, known))


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a URL such as http://127.0.0.1:8000")
    return text


class DynamoDBBackend(Forkable):
    """Sessions in the DynamoDB table `table`.

    `region`, `endpoint`, `profile`: as boto3 knows them; what is left out comes from where boto3 looks for it. An endpoint on loopback is
    an emulator, and is given made-up credentials. `client`: a boto3 DynamoDB client of your own instead; it is never closed, and a forked
    process can't use it. `patience`: seconds for which a throttled, contended or unreachable request is tried again.
    """

    capabilities = Capabilities(durable=True, multi_process=True, watch=True)

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        profile: str | None = None,
        patience: float = PATIENCE,
        client: Any = None,
    ) -> None:
        self._make = partial(_clients.make, region, endpoint, profile)
        self._given = client
        self._client: Client | None = client
        self._closed = self._ready = self._inherited = False
        self.table = Table(self._connected, table, patience)
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._lanes: Lanes | None = None
        self._author = Author(self.table, Heads())
        self._sweeper = Sweeper(self.table)

    # --- life ---

    async def open(self) -> None:
        self._check_open()
        if not self._ready:
            await self._run(lambda: schema.check(self.table))
            self._ready = True

    async def create(self) -> list[str]:
        """Make the table where there is none: what was done, in words."""
        return await self._run(lambda: schema.create(self.table))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        forget_forks(self)
        if self._lanes is not None:
            await asyncio.to_thread(self._lanes.end)
        if self._client is not None and self._given is None:
            self._client.close()

    async def migrate(self) -> tuple[int, int]:
        await self.open()
        return schema.VERSION, schema.VERSION

    def _check_open(self) -> None:
        if self._closed:
            raise self._over()

    def _over(self) -> StoreClosed:
        return StoreClosed(f"table {self.table.name}: this store was closed: open it again with Store.open(...)")

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, child: bool) -> None:
        """A child has no threads and must not speak on its parent's connections: it begins anew, with a client of its own."""
        if child:
            self._inherited = self._given is not None
            self._client = self._given
            self._reset()
        else:
            self._lock.release()

    @property
    def client(self) -> Client:
        """boto3's client: the given one, or the backend's own."""
        return self._connected()

    def _connected(self) -> Client:
        if self._inherited:
            raise StoreClosed(f"table {self.table.name}: a client from before the fork can't be used here: make a backend with a new one")
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._make()
        return self._client

    # --- reading ---

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        await self.open()
        return await self._run(lambda: self._author.read(key, plan))

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        await self.open()
        return await self._run(lambda: listing.page(self.table, filter, cursor, limit))

    async def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        pause = _FIRST_WATCH
        while (snapshot := await self.read(key, ReadPlan())) is not None:
            if snapshot.head.version > after:
                after, pause = snapshot.head.version, _FIRST_WATCH
                yield after
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_WATCH)

    # --- writing ---

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        await self.open()
        lane = None if mere_contact(commit) else layout.partition(key)
        return await self._run(lambda: self._author.commit(key, commit), lane)

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        check_sizes(commit, self.capabilities.max_entry_bytes)
        await self.open()
        return await self._run(lambda: self._author.copy(source, upto, target, commit), layout.partition(target))

    async def sweep(self, limit: int) -> int:
        await self.open()
        return await self._run(lambda: self._sweeper.sweep(limit))

    # --- maintenance ---

    async def status(self) -> dict[str, Any]:
        return await self._run(lambda: schema.status(self.table))

    async def check(self) -> list[str]:
        await self.open()
        return await self._run(lambda: checking.check(self.table))

    async def _run(self, work: Callable[[], T], lane: str | None = None) -> T:
        self._check_open()
        lanes = self._lanes
        if lanes is None:
            with self._lock:
                lanes = self._lanes = self._lanes or Lanes(self._over)
        return await lanes.run(work, lane)


class _Clients(Forkable):
    """Makes clients, one at a time: boto3's sessions are not for two threads. One is kept for each profile, for it has read much."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str | None, Any] = {}
        watch_forks(self)

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, child: bool) -> None:
        self._lock.release()

    def make(self, region: str | None, endpoint: str | None, profile: str | None) -> Client:
        """A client that tries nothing again by itself: `Table` does, knowing what it asked for."""
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=THREADS,
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
            tcp_keepalive=True,
            parameter_validation=False,
        )
        login = {"aws_access_key_id": "holdfast", "aws_secret_access_key": "holdfast"} if endpoint and _is_loopback(endpoint) else {}
        try:
            with self._lock:
                session = self._sessions.get(profile) or self._sessions.setdefault(profile, boto3.session.Session(profile_name=profile))
                return cast("Client", session.client("dynamodb", region_name=region, endpoint_url=endpoint, config=config, **login))
        except BotoCoreError as error:
            raise StoreUnavailable(f"no client for DynamoDB: {error}") from error


_clients = _Clients()


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
