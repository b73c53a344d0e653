"""What a server may be and say: URLs, logins, TLS, a user's own client, errors by name, facts for people, time to live."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast import Store, user
from holdfast.backend import Backend, Erase, Filter, HeadPatch, Key, ReadPlan, Window
from holdfast.backends.redis import RedisBackend, from_url
from holdfast.errors import (
    InvalidURL,
    InvalidValue,
    NotAStore,
    OutcomeUnknown,
    SchemaMismatch,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    Unsupported,
)
from holdfast.ids import new_id, now
from holdfast.testing import check
from holdfast.testing.tools import (
    SECOND,
    blob,
    bodies,
    created,
    creating,
    fresh,
    listed,
    note,
    notes,
    opened,
    puts,
    read,
    refused,
    writing,
    wrote,
)

from ..servers import free_port, wait_until
from ..servers.redis import Server, ask, certificates, clients, redis8, server, system_redis, tls_proxy, valkey9


@pytest.fixture(scope="module")
def it() -> Generator[Server]:
    with server(redis8()) as running:
        yield running


@pytest.fixture
def url(it: Server) -> str:
    return f"{it.url}?prefix={new_id()}:"


# --- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ("redis:///0", "redis://[user:password@]host:port/db"),
        ("redis://:secret@h/a", "number"),
        ("redis://h/1?cluster=true", "database 0 only"),
        ("redis://h?prefix={a}", "braces"),
        ("redis://h?ca=x", "unknown option 'ca'"),
        ("redis://h?wait=many", "whole number"),
        ("redis://h?cluster=maybe", "true or false"),
        ("redis://h:port", "can't be read"),
    ],
)
def test_urls_that_make_no_sense(wrong: str, way_out: str) -> None:
    with refused(InvalidURL) as caught:
        Store.open(wrong)
    assert way_out in str(caught.error)
    assert "secret" not in str(caught.error)


@pytest.mark.parametrize(
    ("options", "durable"),
    [
        ("", False),
        ("wait=1", False),
        ("waitaof=1", True),
        ("appendfsync=always", True),
        ("appendfsync=everysec", False),
        ("cluster=true&waitaof=1", False),
        ("cluster=true&waitaof=1&wait=1", True),
    ],
)
def test_what_calls_itself_durable(options: str, durable: bool) -> None:
    assert from_url(f"valkey://127.0.0.1?{options}").capabilities.durable == durable


async def test_a_store_by_url(url: str) -> None:
    for scheme in ("redis", "valkey"):
        async with Store.open(url.replace("redis", scheme, 1)) as store:
            session = await store.session("ada-1", user_id="ada")
            await session.append(user(f"hi by {scheme}"))
    async with Store.open(url) as store:
        found = await (await store.session("ada-1", user_id="ada")).get_messages()
        assert [message.text for message in found] == ["hi by redis", "hi by valkey"]


def test_nothing_but_a_client(url: str) -> None:
    with refused(InvalidValue) as caught:
        RedisBackend()
    assert "Store.open" in str(caught.error)


# --- a client of the user's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"decode_responses": True, "protocol": 3}])
async def test_a_user_s_client_is_left_alone(it: Server, options: dict[str, Any]) -> None:
    """Its settings are taken, from any loop; it goes on as it was when the store is closed."""
    client: Any = Redis(host="127.0.0.1", port=it.port, db=3, **options)
    key = fresh()
    backend = RedisBackend(client, prefix=f"{new_id()}:")
    await created(backend, key, entries=(note(b"\xff"),))
    again = await asyncio.to_thread(lambda: asyncio.run(read(backend, key)))
    assert [entry.body for entry in again.entries or []] == [b"\xff"]
    await backend.close()
    assert await client.ping()
    assert await client.dbsize() > 0
    await client.flushdb()
    await client.aclose()


# --- logins, TLS -----------------------------------------------------------------------------------------------------


async def test_a_login(tmp_path: Path) -> None:
    with server(redis8(), "--requirepass", "s3cret/:@") as it:
        right = f"redis://:s3cret%2F%3A%40@127.0.0.1:{it.port}/0"
        async with opened(partial(from_url, right)) as backend:
            await created(backend, fresh(), entries=notes("a"))
        for wrong in (right.replace("s3cret", "t0psecret"), it.url):
            backend = from_url(wrong)
            with refused(StoreUnavailable) as caught:
                await backend.open()
            assert f"127.0.0.1:{it.port}" in str(caught.error)
            assert "login" in str(caught.error)
            assert "secret" not in str(caught.error)
            await backend.close()


async def test_a_user_who_may_not_write(it: Server) -> None:
    prefix, key = new_id(), fresh()
    async with opened(partial(from_url, f"{it.url}?prefix={prefix}:")) as backend:
        await created(backend, key, entries=notes("a"))
    rights = ("~*", "&*", "+@read", "+@connection", "+info", "+evalsha", "+eval", "+set", "+hset", "+xadd")
    ask(it.port, "ACL", "SETUSER", "reader", "on", ">pass", *rights)
    backend = from_url(f"redis://reader:pass@127.0.0.1:{it.port}/0?prefix={prefix}:")
    before = await read(backend, key)
    for commit in (
        writing(before.head, entries=notes("b"), puts=puts(k="1")),
        creating(puts=puts(k="1")),
    ):
        with refused(StoreReadOnly) as caught:
            await backend.commit(key, commit)
        assert "may not write" in str(caught.error)
    assert await read(backend, key) == before
    await backend.close()
    ask(it.port, "ACL", "DELUSER", "reader")


TLS_CLAUSES = (
    "bodies_come_back_byte_for_byte",
    "large_bodies_come_back_whole",
    "one_backend_serves_many_loops",
    "it_works_on_both_sides_of_a_fork",
    "a_watcher_hears_of_every_writer",
    "a_closed_backend_says_so",
)


async def test_tls(it: Server) -> None:
    with tls_proxy(it.port) as port:
        url = f"rediss://127.0.0.1:{port}/0?prefix={new_id()}:&ca={certificates() / 'ca.crt'}"
        outcomes = await check(partial(from_url, url), only=TLS_CLAUSES)
        assert outcomes == dict.fromkeys(TLS_CLAUSES)


async def test_tls_with_an_unknown_certificate(it: Server) -> None:
    with tls_proxy(it.port) as port:
        url = f"valkeys://127.0.0.1:{port}/0?prefix={new_id()}:"
        backend = from_url(url)
        with refused(StoreUnavailable) as caught:
            await backend.open()
        assert "certificate" in str(caught.error).lower()
        await backend.close()
        async with opened(partial(from_url, f"{url}&verify=false")) as trusting:
            await created(trusting, fresh())


if system_redis() is not None:

    async def test_tls_of_the_server_s_own() -> None:
        found, folder, port = system_redis(), certificates(), free_port()
        assert found is not None
        files = (
            "--tls-cert-file",
            f"{folder}/server.crt",
            "--tls-key-file",
            f"{folder}/server.key",
            "--tls-ca-cert-file",
            f"{folder}/ca.crt",
        )
        with server(found, "--tls-port", str(port), "--tls-auth-clients", "no", *files):
            async with opened(partial(from_url, f"rediss://127.0.0.1:{port}/0?ca={folder}/ca.crt")) as backend:
                await created(backend, fresh(), entries=notes("a"))


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_nobody_there() -> None:
    port = free_port()
    uses: tuple[Callable[[Backend], Awaitable[object]], ...] = (
        lambda it: it.open(),
        lambda it: it.read(fresh(), ReadPlan()),
        lambda it: it.commit(fresh(), creating()),
    )
    for options in ("", "?cluster=true&timeout=0.1"):
        for use in uses:
            backend = from_url(f"redis://user:secret@127.0.0.1:{port}/0{options}")
            with refused(StoreUnavailable) as caught:
                await use(backend)
            assert f"127.0.0.1:{port}" in str(caught.error)
            assert "secret" not in str(caught.error)
            await backend.close()


@contextmanager
def somebody_else(answer: bytes) -> Generator[int]:
    """A port where another protocol is spoken."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


async def test_somebody_else_there() -> None:
    with somebody_else(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        backend = from_url(f"redis://127.0.0.1:{port}/0")
        with refused(NotAStore) as caught:
            await backend.open()
        assert "no Redis" in str(caught.error)
        await backend.close()


async def test_a_server_that_is_too_old(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.backends.redis.maintenance._LEAST_VERSION", (99, 0))
    backend = from_url(url)
    with refused(NotAStore) as caught:
        await backend.open()
    assert "99.0 or later" in str(caught.error)
    await backend.close()


async def test_memory_that_is_full(it: Server, url: str) -> None:
    key = fresh()
    async with opened(partial(from_url, url)) as backend:
        head = await created(backend, key, entries=notes("a"), puts=puts(k="1"))
        before = await read(backend, key)
        ask(it.port, "CONFIG", "SET", "maxmemory", "1mb")
        try:
            with refused(StoreFull) as caught:
                await wrote(backend, key, head, entries=notes("b"), puts=puts(k="2"))
            assert "maxmemory" in str(caught.error)
            assert await read(backend, key) == before
        finally:
            ask(it.port, "CONFIG", "SET", "maxmemory", "0")
        await wrote(backend, key, head, entries=notes("c"))


async def test_a_replica_says_that_it_is_one(it: Server, url: str) -> None:
    key = fresh()
    async with opened(partial(from_url, url)) as backend:
        head = await created(backend, key, entries=notes("a"))
        with server(redis8(), "--replicaof", "127.0.0.1", str(it.port), "--appendonly", "no") as replica:
            backend = from_url(url.replace(str(it.port), str(replica.port)))
            await asyncio.to_thread(wait_until, lambda: b"master_link_status:up" in ask(replica.port, "INFO", "replication"), "the link")
            assert await bodies(backend, key) == ["a"]
            with refused(StoreReadOnly) as caught:
                await wrote(backend, key, head, entries=notes("b"))
            assert "read-only replica" in str(caught.error)
            await backend.close()


async def test_too_few_replicas(url: str) -> None:
    """What is asked of replicas that there are not is told as unknown, and is written: the repetition is recognised."""
    key = fresh()
    async with opened(partial(from_url, f"{url}&wait=1&wait_timeout=0.05")) as backend:
        commit = creating(entries=notes("a"))
        for _ in range(2):
            with refused(OutcomeUnknown) as caught:
                await backend.commit(key, commit)
            assert "0 of 1 replicas" in str(caught.error)
        assert await bodies(backend, key) == ["a"]


@pytest.mark.parametrize(
    ("content", "kind"), [("text", NotAStore), ('{"version":9,"oldest":1}', None), ('{"version":9,"oldest":9}', SchemaMismatch)]
)
async def test_what_lies_under_the_prefix(it: Server, content: str, kind: type[StoreError] | None) -> None:
    prefix, key = new_id(), fresh()
    ask(it.port, "SET", f"{prefix}:schema", content)
    backend = from_url(f"{it.url}?prefix={prefix}:")
    if kind is None:
        await created(backend, key)
        assert await backend.migrate() == (9, 9)
    else:
        for use in (backend.open(), backend.migrate(), backend.commit(key, creating())):
            with refused(kind) as caught:
                await use
            assert f"127.0.0.1:{it.port}" in str(caught.error)
    await backend.close()


async def test_a_cluster_s_node_and_no_cluster(it: Server, url: str) -> None:
    backend = from_url(f"{url}&cluster=true")
    with refused(NotAStore) as caught:
        await backend.open()
    assert "cluster=true" in str(caught.error)
    await backend.close()


async def test_a_flush_that_is_promised_and_not_done(it: Server, url: str) -> None:
    ask(it.port, "CONFIG", "SET", "appendfsync", "everysec")
    try:
        backend = from_url(f"{url}&appendfsync=always")
        with refused(Unsupported) as caught:
            await backend.open()
        assert "everysec" in str(caught.error)
        await backend.close()
    finally:
        ask(it.port, "CONFIG", "SET", "appendfsync", "always")


async def test_a_flush_that_nobody_can_wait_for() -> None:
    with server(valkey9(), "--appendonly", "no") as it:
        backend = from_url(f"{it.url}?waitaof=1")
        with refused(Unsupported) as caught:
            await backend.open()
        assert "appendonly" in str(caught.error)
        await backend.close()
    with server(valkey9()) as it:
        async with opened(partial(from_url, f"{it.url}?waitaof=1")) as waiting:
            key = fresh()
            head = await created(waiting, key)
            ask(it.port, "CONFIG", "SET", "appendonly", "no")
            with refused(OutcomeUnknown) as caught:
                await wrote(waiting, key, head, entries=notes("a"))
            assert "is written" in str(caught.error)
            assert await bodies(waiting, key) == ["a"]


# --- facts -----------------------------------------------------------------------------------------------------------


async def test_status_in_words(it: Server, url: str) -> None:
    async with opened(partial(from_url, url)) as backend:
        assert isinstance(backend, RedisBackend)
        for _ in range(3):
            await created(backend, fresh())
        facts = await backend.status()
        assert (facts["backend"], facts["schema"], facts["sessions"]) == ("redis", 1, 3)
        assert facts["server"].startswith("redis 8.")
        assert "flushed before it is answered" in facts["persistence"]
        assert facts["eviction"] == "nothing is evicted"
        ask(it.port, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        ask(it.port, "CONFIG", "SET", "appendfsync", "everysec")
        try:
            facts = await backend.status()
            assert "may throw sessions away" in facts["eviction"]
            assert "power cut" in facts["persistence"]
        finally:
            ask(it.port, "CONFIG", "SET", "maxmemory-policy", "noeviction")
            ask(it.port, "CONFIG", "SET", "appendfsync", "always")


async def test_status_of_valkey() -> None:
    with server(valkey9(), "--appendonly", "no", "--maxmemory-policy", "volatile-ttl") as it:
        backend = from_url(it.url)
        facts = await backend.status()
        assert facts["server"].startswith("valkey 9.")
        assert (facts["schema"], facts["sessions"]) == (0, 0)
        assert facts["persistence"] == "none: a restart loses everything"
        assert "noeviction" in facts["eviction"]
        assert ask(it.port, "DBSIZE") == b":0"
        await backend.close()


async def test_check_finds_damage(it: Server, url: str) -> None:
    async with opened(partial(from_url, url)) as backend:
        assert isinstance(backend, RedisBackend)
        keys = [fresh(f"s{n}") for n in range(5)]
        for key in keys:
            await created(backend, key, entries=notes("a", "b"))
        assert await backend.check() == []
        places = [backend.layout.place(key) for key in keys]
        ask(it.port, "HSET", places[0].keys[0].decode(), "head", "nonsense")
        ask(it.port, "DEL", places[1].keys[1].decode())
        ask(it.port, "ZREM", backend.layout.everyone(places[2]).decode(), places[2].member.decode())
        problems = await backend.check()
        assert len(problems) == 3
        for key, words in zip(keys, ("not readable", "0 entries", "list of sessions"), strict=False):
            assert [words in problem for problem in problems if str(key) in problem] == [True]


# --- time to live ----------------------------------------------------------------------------------------------------


async def test_the_database_forgets_by_itself(it: Server) -> None:
    """Without a sweep nothing of an expired session is left but the number of its life and its rows, which a list leaves out."""
    prefix, key = new_id(), fresh()
    async with opened(partial(from_url, f"{it.url}?prefix={prefix}:")) as backend:
        first = creating(
            time=now() - 10 * SECOND,
            patch=HeadPatch(ttl=10.2),
            entries=notes("a"),
            puts=puts(k="1"),
            blobs=(blob("b", "1"),),
            user_id="ada",
        )
        await backend.commit(key, first)
        assert len(names(it, prefix)) > 6
        await asyncio.to_thread(wait_until, lambda: len(held(it, prefix)) == 1, "the database forgets")
        assert await backend.read(key, ReadPlan()) is None
        assert {name.rpartition(":")[2] for name in names(it, prefix) if "}s:" in name} == {"lives"}
        for filter in (Filter(tenant=key.tenant), Filter(tenant=key.tenant, user_id="ada")):
            assert await listed(backend, filter) == []
        assert await backend.sweep(10) == 1
        assert {name.rpartition("}")[2].partition(":")[0] for name in names(it, prefix) if "{" in name} == {"s", "i"}
        assert [name for name in names(it, prefix) if "}i:" in name and not name.endswith("}i:last")] == []


async def test_a_time_to_live_is_on_every_key(it: Server) -> None:
    prefix, key = new_id(), fresh()
    async with opened(partial(from_url, f"{it.url}?prefix={prefix}:")) as backend:
        head = await created(backend, key, entries=notes("a"), patch=HeadPatch(ttl=1000))
        head = await wrote(backend, key, head, puts=puts(k="1"), blobs=(blob("b", "1"),))
        times = {int(ask(it.port, "TTL", name)[1:]) for name in names(it, prefix) if "}s:" in name and not name.endswith(":lives")}
        assert min(times) > 990
        await wrote(backend, key, head, patch=HeadPatch(ttl=None))
        assert {ask(it.port, "TTL", name) for name in names(it, prefix) if "}s:" in name and not name.endswith(":lives")} == {b":-1"}


async def test_nothing_is_left_of_a_deleted_session(it: Server) -> None:
    """But the number of its life, for a week."""
    prefix, key = new_id(), fresh()
    async with opened(partial(from_url, f"{it.url}?prefix={prefix}:")) as backend:
        parts = {"entries": notes("a"), "puts": puts(k="1", l="1"), "blobs": (blob("b", "1"),), "patch": HeadPatch(waiting=True, ttl=1000)}
        head = await created(backend, key, user_id="ada", **parts)
        await backend.commit(key, writing(head, user_id="ada", erase=Erase("session")))
        left = [name for name in names(it, prefix) if "{" in name and not name.endswith("}i:last")]
        assert [name.rpartition(":")[2] for name in left] == ["lives"]
        assert 6.9 * 86_400 < int(ask(it.port, "TTL", left[0])[1:]) <= 7 * 86_400


def held(it: Server, prefix: str) -> list[str]:
    return [name for name in names(it, prefix) if "}s:" in name]


def names(it: Server, prefix: str) -> list[str]:
    words = ask(it.port, "KEYS", f"{prefix}:*").decode().split("\r\n")
    return [word for word in words if word.startswith(prefix)]


# --- connections -----------------------------------------------------------------------------------------------------


async def test_no_connection_is_left(url: str) -> None:
    """After work in loops of several threads, refused and cancelled commits and watches: a closed backend has no connection."""
    with server(redis8()) as it:
        backend, key = from_url(f"{it.url}?connections=4"), fresh()
        head = await created(backend, key)
        for _ in range(3):
            await asyncio.to_thread(lambda: asyncio.run(read(backend, key)))
        tasks = [asyncio.create_task(backend.commit(fresh(), creating(entries=notes("a")))) for _ in range(40)]
        await asyncio.sleep(0.002)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        watch = backend.watch(key, head.version)
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0.05)
        assert 2 <= clients(it.port, "holdfast") <= 5
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await backend.close()
        await asyncio.to_thread(wait_until, lambda: not clients(it.port, "holdfast"), "the end of the connections", 5)


async def test_a_long_fork_is_staged(it: Server) -> None:
    """A log of many parts is copied whole, its windows by kind and run too, and no key of the copying is left."""
    prefix, key = new_id(), fresh()
    async with opened(partial(from_url, f"{it.url}?prefix={prefix}:")) as backend:
        head = await created(backend, key)
        for start in range(0, 1700, 100):
            kinds = tuple(note(str(n), "message" if n % 3 else "run", f"run-{n // 400}") for n in range(start, start + 100))
            head = await wrote(backend, key, head, entries=kinds)
        target = Key(key.tenant, "fork")
        outcome = await backend.copy(key, 1650, target, creating(entries=notes("last")))
        fork = await read(backend, target)
        assert outcome.head == fork.head
        assert [entry.body for entry in fork.entries or []] == [b"%d" % n for n in range(1650)] + [b"last"]
        assert (fork.head.seq, fork.head.counts.runs, fork.head.counts.messages) == (1651, 5, 1100)
        assert await bodies(backend, target, Window(kinds=("run",), limit=2)) == ["1644", "1647"]
        assert await bodies(backend, target, Window(run_id="run-1", limit=2, newest=False)) == ["400", "401"]
        assert isinstance(backend, RedisBackend)
        assert await backend.check() == []
        assert {name.count(":") for name in names(it, prefix) if ":log" in name} == {3}
