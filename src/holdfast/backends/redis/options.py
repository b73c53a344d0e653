"""Which server, and how: read from a URL, or taken from a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from redis.asyncio import Redis, RedisCluster

from ...errors import InvalidURL, InvalidValue
from .. import urls
from .connections import OWN_WAY, Address, Packed, Settings, secure
from .nodes import ClusterNodes, Nodes, OneServer

_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 5.0
_CONNECTIONS = 32
_WAIT_SECONDS = 2.0
_SERVER_URLS = "redis://[user:password@]host:port/db"


class Server(msgspec.Struct, frozen=True):
    """A server, or nodes of a cluster to ask for the others."""

    settings: Settings
    seeds: list[Address]
    cluster: bool = False

    @property
    def where(self) -> str:
        return "{}:{}".format(*self.seeds[0])

    def nodes(self) -> Nodes:
        return ClusterNodes(self.settings, self.seeds) if self.cluster else OneServer(self.settings, self.seeds[0])


class Durability(msgspec.Struct, frozen=True, kw_only=True):
    """What a server must have done before a commit counts as done; `wait_seconds` is how long it may take.

    `wait`: so many replicas have received it. `waitaof`: the primary has flushed it to its disk (Redis 7.2 or later).
    `appendfsync`: "always" states that the server flushes every write before it answers; it is asked whether it does.
    """

    wait: int = 0
    waitaof: bool = False
    appendfsync: str | None = None
    wait_seconds: float = _WAIT_SECONDS

    def durable(self, cluster: bool) -> bool:
        """Whether an acknowledged commit survives the loss of power, and in a cluster that of a primary: a replica takes its place."""
        flushed = self.waitaof or self.appendfsync == "always"
        return flushed and (self.wait >= 1 or not cluster)

    def commands(self) -> list[Packed]:
        """What is sent after each commit."""
        patience = b"%d" % (1000 * self.wait_seconds)
        flush: list[Packed] = [[b"WAITAOF", b"1", b"0", patience]] if self.waitaof else []
        return [*flush, [b"WAIT", b"%d" % self.wait, patience]] if self.wait else flush


def from_url(url: str) -> tuple[Server, str, Durability]:
    """Server, prefix and durability that a URL names.

    `cluster`, `prefix`; `timeout`, `connect_timeout` (seconds); `connections` (of one event loop to one server, at most);
    `wait`, `waitaof`, `wait_timeout`, `appendfsync` as in `Durability`; for TLS `ca`, `cert`, `key` (files), `verify`.
    """
    parts = urls.split(url)
    tls = parts.scheme in ("rediss", "valkeys")
    given = urls.options(url, _OPTIONS | (_TLS_OPTIONS if tls else {}))
    if not parts.hostname or parts.fragment:
        raise InvalidURL(f"store URL {urls.shown(url)!r}: write {_SERVER_URLS}")
    cluster = given.get("cluster", False)
    options: dict[str, Any] = {"db": _database(url, parts.path, cluster)} if not cluster or parts.path else {}
    options |= {name: unquote(value) for name, value in (("username", parts.username), ("password", parts.password)) if value}
    options |= {_TLS_NAMES[name]: given[name] for name in _TLS_NAMES if name in given}
    if tls and not given.get("verify", True):
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    elif tls:
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    server = Server(_settings(secure(tls), options, given), [(unquote(parts.hostname), parts.port or 6379)], cluster)
    names = {"wait": "wait", "waitaof": "waitaof", "appendfsync": "appendfsync", "wait_timeout": "wait_seconds"}
    return server, given.get("prefix", "holdfast:"), Durability(**{ours: given[name] for name, ours in names.items() if name in given})


def from_client(client: Redis | RedisCluster | None) -> Server:
    """A server as a client knows it: host, login, TLS and the like; how answers are decoded and repeated is our own concern."""
    if client is None:
        raise InvalidValue("RedisBackend(...) takes a redis.asyncio client, or write Store.open('redis://host:6379/0')")
    given = {"timeout": _TIMEOUT}
    if isinstance(client, RedisCluster):
        nodes = list(client.nodes_manager.startup_nodes.values())
        options = dict(nodes[0].connection_kwargs)
        return Server(_settings(nodes[0].connection_class, options, given), [(it.host, int(it.port)) for it in nodes], True)
    pool = client.connection_pool
    options: dict[str, Any] = dict(pool.connection_kwargs)
    seed = options.get("host", options.get("path", "localhost")), int(options.get("port", 6379))
    return Server(_settings(pool.connection_class, options, given), [seed])


def _settings(kind: Any, options: dict[str, Any], given: dict[str, Any]) -> Settings:
    connect = given.get("connect_timeout", options.get("socket_connect_timeout") or _CONNECT_TIMEOUT)
    own = {"client_name": "holdfast", "socket_keepalive": True} | options | OWN_WAY | {"socket_connect_timeout": connect}
    return Settings(
        kind=kind,
        options={name: value for name, value in own.items() if name not in ("host", "port")},
        timeout=given.get("timeout", _TIMEOUT),
        connect_timeout=connect,
        connections=given.get("connections", _CONNECTIONS),
    )


def _database(url: str, path: str, cluster: bool) -> int:
    text = path.strip("/") or "0"
    if not (text.isascii() and text.isdecimal()) or (cluster and int(text)):
        words = "a cluster has database 0 only" if cluster else f"the database is a number, as in {_SERVER_URLS}"
        raise InvalidURL(f"store URL {urls.shown(url)!r}: {words}")
    return int(text)


def _yes_or_no(text: str) -> bool:
    return bool(urls.one_of("true", "false")(text) == "true")


def _flag(text: str) -> bool:
    return bool(urls.whole(0, 1)(text))


def _prefix(text: str) -> str:
    if "{" in text or "}" in text or not text.isprintable():
        raise ValueError("it must be printable, without braces: they tell a cluster which keys belong together")
    return text


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "cluster": _yes_or_no,
    "prefix": _prefix,
    "timeout": urls.seconds,
    "connect_timeout": urls.seconds,
    "connections": urls.whole(1, 10_000),
    "wait": urls.whole(0, 100),
    "waitaof": _flag,
    "wait_timeout": urls.seconds,
    "appendfsync": urls.one_of("always", "everysec"),
}
_TLS_OPTIONS: dict[str, Callable[[str], Any]] = {"ca": str, "cert": str, "key": str, "verify": _yes_or_no}
_TLS_NAMES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
