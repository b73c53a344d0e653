"""The layout's version, what a server says about itself, and whether what is stored is sound."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import msgspec
from redis.crc import key_slot
from redis.exceptions import NoPermissionError, ResponseError

from ...backend import Head
from ...errors import Corrupt, NotAStore, SchemaMismatch, Unsupported
from .connections import Packed, Pool
from .errors import refused
from .layout import HEAD, HIDDEN, LOG, OLDEST, VERSION, key_of
from .plans import head_of
from .scripts import PROBE

if TYPE_CHECKING:
    from . import RedisBackend
    from .loops import Loop

_LEAST_VERSION = (7, 0)
_SCAN = 500
_EVICTING = "may throw sessions away when memory is short (maxmemory-policy {}); set it to noeviction"


class Schema(msgspec.Struct, frozen=True):
    """The layout's version, and the oldest one whose code may write it."""

    version: int
    oldest: int


# --- opening ---------------------------------------------------------------------------------------------------------


async def ensure(loop: Loop, backend: RedisBackend) -> None:
    """Check the server and the layout under the prefix, and begin one where there is none."""
    for pool in (await loop.nodes.servers())[:1]:
        _check_server(pool.where, await _info(pool, b"server"))
    for pool in await loop.nodes.servers():
        if backend.durability.appendfsync == "always":
            await _check_flushes(pool)
        if backend.durability.waitaof:
            await _check_waitaof(pool)
    await _schema(loop, backend, begin=True)


async def probe(loop: Loop, backend: RedisBackend) -> None:
    """Raise what a commit would meet in its midst: a user who may send some of its commands and not others must not begin."""
    names = backend.layout.probes
    await PROBE.run(loop.nodes, _slot(names[0]), names, (), writing=False)


async def migrate(loop: Loop, backend: RedisBackend) -> tuple[int, int]:
    """There is one version so far."""
    found = await _schema(loop, backend, begin=True)
    return found.version, max(found.version, VERSION)


async def _schema(loop: Loop, backend: RedisBackend, *, begin: bool) -> Schema:
    name = backend.layout.schema
    commands: list[Packed] = [[b"GET", name]]
    if begin:
        commands.insert(0, [b"SET", name, msgspec.json.encode(Schema(VERSION, OLDEST)), b"NX"])
    answers = await loop.nodes.send(_slot(name), commands, writing=False)
    where = loop.nodes.where
    if isinstance(answers[-1], ResponseError):
        raise refused(where, answers[-1])
    if answers[-1] is None:
        if begin:
            raise refused(where, answers[0])
        return Schema(0, 0)
    return _understood(where, name, answers[-1])


def _understood(where: str, name: bytes, data: bytes) -> Schema:
    try:
        found = msgspec.json.decode(data, type=Schema)
    except msgspec.DecodeError as error:
        raise NotAStore(f"{where}: key {name.decode()} belongs to something else; give another ?prefix=") from error
    if found.oldest > VERSION:
        raise SchemaMismatch(
            f"{where}: layout {found.version} is for holdfast with layout {found.oldest} or later, this one has {VERSION}; upgrade"
            " holdfast, there is nothing to migrate here"
        )
    return found


def _slot(name: bytes) -> int:
    return int(key_slot(name))


def _check_server(where: str, info: dict[str, str]) -> None:
    version = info.get("redis_version")
    if info and version is None:
        raise NotAStore(f"{where}: what answers there is neither Redis nor Valkey")
    if version and tuple(int(part) for part in version.split(".")[:2]) < _LEAST_VERSION:
        raise NotAStore(f"{where}: this is Redis {version}; {'{}.{}'.format(*_LEAST_VERSION)} or later is needed, or Valkey")
    if info.get("redis_mode") == "sentinel":
        raise NotAStore(f"{where}: this is a sentinel; name the server, or give RedisBackend(client=Sentinel(...).master_for(...))")


async def _info(pool: Pool, section: bytes) -> dict[str, str]:
    """A section of INFO; empty where this user may not ask."""
    (answer,) = await pool.exchange([[b"INFO", section]], writing=False)
    if isinstance(answer, NoPermissionError):
        return {}
    if isinstance(answer, ResponseError):
        raise refused(pool.where, answer)
    lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


async def _config(pool: Pool, *names: bytes) -> dict[str, str]:
    """Settings by name; empty where the server doesn't tell, as hosted ones don't."""
    (answer,) = await pool.exchange([[b"CONFIG", b"GET", *names]], writing=False)
    if isinstance(answer, ResponseError):
        return {}
    words = [word.decode(errors="replace") for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


async def _check_flushes(pool: Pool) -> None:
    found = await _config(pool, b"appendonly", b"appendfsync")
    if found and found != {"appendonly": "yes", "appendfsync": "always"}:
        raise Unsupported(
            f"{pool.where}: the URL says appendfsync=always, and the server has appendonly {found.get('appendonly')} with appendfsync"
            f" {found.get('appendfsync')}; set it so, or ask for waitaof=1 instead"
        )


async def _check_waitaof(pool: Pool) -> None:
    (answer,) = await pool.exchange([[b"WAITAOF", b"1", b"0", b"1"]], writing=False)
    if isinstance(answer, ResponseError):
        raise Unsupported(f"{pool.where}: waitaof=1 needs Redis 7.2 or Valkey, with appendonly yes; the server says: {answer}")


# --- facts -----------------------------------------------------------------------------------------------------------


async def status(loop: Loop, backend: RedisBackend) -> dict[str, Any]:
    """Facts about the server and the store: versions, what persistence and eviction mean for sessions, how many there are."""
    pools = await loop.nodes.servers()
    server, memory = await _info(pools[0], b"server"), await _info(pools[0], b"memory")
    config = await _config(pools[0], b"appendonly", b"appendfsync", b"save", b"maxmemory-policy")
    schema = await _schema(loop, backend, begin=False)
    kind = "valkey" if "valkey_version" in server else "redis"
    return {
        "backend": "redis",
        "server": f"{kind} {server.get('valkey_version') or server.get('redis_version', 'of unknown version')}",
        "where": ", ".join(pool.where for pool in pools),
        "cluster": backend.server.cluster,
        "schema": schema.version,
        "library_schema": VERSION,
        "persistence": _persistence(config, await _info(pools[0], b"persistence")),
        "eviction": _eviction(config, memory),
        "durable": backend.capabilities.durable,
        "sessions": sum([1 async for _ in _sessions(loop, backend)]) if schema.version else 0,
    }


def _persistence(config: dict[str, str], info: dict[str, str]) -> str:
    if not config and not info:
        return "the server doesn't tell"
    if config.get("appendonly", "yes" if info.get("aof_enabled") == "1" else "no") != "yes":
        return "snapshots only: a crash loses what came after the last one" if config.get("save") else "none: a restart loses everything"
    return {
        "always": "every write is flushed before it is answered",
        "everysec": "writes are flushed every second: a power cut loses up to two seconds",
        "no": "writes are flushed when the system likes",
    }.get(config.get("appendfsync", ""), "an append-only file; the server doesn't tell how often it is flushed")


def _eviction(config: dict[str, str], info: dict[str, str]) -> str:
    policy = config.get("maxmemory-policy") or info.get("maxmemory_policy")
    if policy is None:
        return "the server doesn't tell"
    return "nothing is evicted" if policy == "noeviction" else _EVICTING.format(policy)


async def _sessions(loop: Loop, backend: RedisBackend) -> AsyncGenerator[bytes]:
    """The name of the head of every session."""
    for pool in await loop.nodes.servers():
        cursor = b"0"
        while True:
            pattern = _escaped(backend.layout.prefix) + b"{*}s:*:h"
            (answer,) = await pool.exchange([[b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN]], writing=False)
            if isinstance(answer, ResponseError):
                raise refused(pool.where, answer)
            for name in dict.fromkeys(answer[1]):
                yield name
            if (cursor := answer[0]) == b"0":
                break


def _escaped(text: bytes) -> bytes:
    return b"".join(b"\\" + bytes((it,)) if it in b"*?[]\\^" else bytes((it,)) for it in text)


# --- soundness -------------------------------------------------------------------------------------------------------


async def check(loop: Loop, backend: RedisBackend) -> list[str]:
    """Every session's head against its log and its rows in the indexes. Commits may go on: a session that moves is looked at again."""
    problems: list[str] = []
    async for name in _sessions(loop, backend):
        member = name[name.index(b"}s:") + 3 : -len(b":h")]
        problems += [f"{key_of(member)}: {problem}" for problem in await _check_session(loop, backend, member)]
    return problems


async def _check_session(loop: Loop, backend: RedisBackend, member: bytes) -> list[str]:
    place = backend.layout.place(key_of(member))
    head, log, hidden = (place.keys[which - 1] for which in (HEAD, LOG, HIDDEN))
    names = backend.layout
    for _ in range(10):
        first, count, ends, spans, rank, again = await loop.nodes.send(
            place.slot,
            [
                [b"HMGET", head, b"head", b"mark", b"n"],
                [b"XLEN", log],
                [b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1"],
                [b"ZRANGE", hidden, b"0", b"-1"],
                [b"ZSCORE", names.everyone(place), member],
                [b"HGET", head, b"mark"],
            ],
            writing=False,
        )
        if first[1] == again:
            break
    else:
        return []
    if first[0] is None:
        return []
    try:
        found = head_of(key_of(member), first[0])
    except Corrupt as error:
        return [str(error)]
    return [*_check_log(found, count, ends, spans), *_check_row(first[2], rank)]


def _check_log(head: Head, count: int, ends: list[Any], spans: list[bytes]) -> list[str]:
    last = int(ends[0][0].partition(b"-")[0]) if ends else 0
    problems = [] if count == last == head.seq else [f"its log has {count} entries up to {last}, its head says {head.seq}"]
    if spans and int(spans[-1].partition(b"-")[2]) > head.seq:
        problems.append("it hides entries that it doesn't have")
    return problems


def _check_row(number: bytes | None, rank: bytes | None) -> list[str]:
    if number is None or rank is None or int(number) != int(rank):
        return ["its row in the list of sessions is not the one its head says"]
    return []
