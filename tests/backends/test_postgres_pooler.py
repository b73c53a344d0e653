"""PostgreSQL behind a transaction pooler: the suite with each transaction on another connection, and nothing left in any session."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Generator
from functools import partial
from urllib.parse import urlsplit

import pytest

from holdfast.backend import ClaimAct, Key, ReadPlan, Window
from holdfast.backends.postgres import PostgresBackend, from_url
from holdfast.testing import CLAUSES, BackendSuite, Opener
from holdfast.testing.tools import created, fresh, notes, opened, puts, writing

from ..servers.postgres import shared

_SERVERS = 12
_WHAT_MATTERS = ("claims", "closing", "copying", "loops", "reading", "repeats", "watching", "writing")
"""The clauses, by their modules, in which a server session, a prepared statement or a transaction of several messages plays a part."""
_TOO_LONG = {"a_repetition_is_known_after_many_commits"}
_SSL_REQUEST, _CANCEL = 80877103, 80877102
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pooler:
    """Lends a server's connection to a client for one transaction at a time, as PgBouncer does in its transaction mode.

    Between two transactions a connection forgets everything (DISCARD ALL), and the next client gets the one that rested longest.
    """

    def __init__(self, server_port: int) -> None:
        self.port, self.transactions = 0, 0
        self._server_port = server_port
        self._clients: set[asyncio.Task[None]] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._idle: asyncio.Queue[Streams] = asyncio.Queue()
        for _ in range(_SERVERS):
            self._idle.put_nowait(await self._connect())
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for writer in self._servers:  # those too that a client had when it went, or that were being greeted
            writer.close()
        await asyncio.gather(*(it.wait_closed() for it in self._servers), return_exceptions=True)

    async def _connect(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port, limit=1 << 26)
        self._servers.add(writer)
        words = b"user\0postgres\0database\0postgres\0client_encoding\0UTF8\0\0"
        writer.write(struct.pack("!II", 8 + len(words), 196608) + words)
        self._greeting = b""
        while True:
            kind, message = await _message(reader)
            if kind not in b"Z":
                self._greeting += message  # what the server says of itself, for every client
            else:
                self._greeting += message
                return reader, writer

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._clients.add(me)  # a loop knows its tasks only weakly
        try:
            if await self._welcome(reader, writer):
                while await self._transaction(reader, writer):
                    pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._clients.discard(me)
            writer.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            (size,) = struct.unpack("!I", await reader.readexactly(4))
            (code,) = struct.unpack("!I", (await reader.readexactly(size - 4))[:4])
            if code == _CANCEL:
                return False
            if code != _SSL_REQUEST:
                writer.write(self._greeting)
                return True
            writer.write(b"N")

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """From a client's first message to the server's word that no transaction is open; False once the client says goodbye."""
        kind, first = await _message(reader)
        if kind == b"X":
            return False
        server = await self._idle.get()
        self.transactions += 1
        try:
            await self._lend(server, kind, first, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            server[1].close()
            self._servers.discard(server[1])
            self._idle.put_nowait(await self._connect())
            raise
        self._idle.put_nowait(server)
        return True

    async def _lend(self, server: Streams, kind: bytes, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server[1].write(first)
        syncs = asyncio.Semaphore(int(kind in b"QS"))
        sending = asyncio.create_task(_send(reader, server[1], syncs))
        await self._answer(server[0], writer, syncs, sending)
        await _forget(server)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, syncs: asyncio.Semaphore, sending: asyncio.Task[None]
    ) -> None:
        while True:
            answering = asyncio.create_task(_message(reader))
            await asyncio.wait({answering, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():  # the client went in the midst
                answering.cancel()
                await sending
            kind, message = await answering
            writer.write(message)
            if kind == b"Z":
                await syncs.acquire()
                if message[-1:] == b"I" and syncs.locked():
                    sending.cancel()
                    return


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, syncs: asyncio.Semaphore) -> None:
    while True:
        kind, message = await _message(reader)
        writer.write(message)
        if kind in b"QS":
            syncs.release()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Its kind, and the whole of it."""
    header = await reader.readexactly(5)
    (size,) = struct.unpack("!I", header[1:])
    return header[:1], header + await reader.readexactly(size - 4)


async def _forget(server: Streams) -> None:
    server[1].write(b"Q" + struct.pack("!I", 16) + b"DISCARD ALL\0")
    while (await _message(server[0]))[0] != b"Z":
        pass


@pytest.fixture(scope="module")
def pooler() -> Generator[Pooler]:
    made = Pooler(shared().port)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def opener(pooler: Pooler) -> Opener:
    url = shared().fresh(pooler="true")
    return partial(from_url, url.replace(f":{urlsplit(url).port}/", f":{pooler.port}/"))


class TestPooled(BackendSuite):
    """All on one schema: a clause has a tenant of its own."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        clauses = [it for it in CLAUSES.values() if it.body.__module__.rpartition(".")[2] in _WHAT_MATTERS and it.name not in _TOO_LONG]
        names = [it.name for it in clauses if not it.lacks(PostgresBackend.capabilities)] + ["many_processes_lose_nothing"]
        metafunc.parametrize("name", names)


async def test_a_turn_is_two_round_trips(pooler: Pooler, opener: Opener) -> None:
    """Beginning it, with the history, is one; ending it is another; and reading a session is one, whatever the plan."""
    key = fresh()
    async with opened(opener) as backend:
        head = await created(backend, key, entries=notes("a"), puts=puts(k="1"))
        before = pooler.transactions
        plan = ReadPlan(state_since=0, entries=Window(limit=20))
        begun = await backend.commit(key, writing(head, entries=notes("in"), claim=ClaimAct("take", "run"), answer=plan))
        assert begun.head is not None
        assert begun.snapshot is not None
        await backend.commit(key, writing(begun.head, entries=notes("out"), fence=begun.head.fence, claim=ClaimAct("release")))
        assert pooler.transactions - before == 2
        await backend.read(key, plan)
        assert pooler.transactions - before == 3


async def test_what_another_has_written_costs_one_more(pooler: Pooler, opener: Opener) -> None:
    """A commit judged upon what was, is judged anew upon what is: one round trip more, and nothing lost."""
    key = fresh()
    async with opened(opener) as one, opened(opener) as other:
        head = await created(one, key)
        await other.commit(Key(*key), writing(head, base=0, entries=notes("theirs")))
        before = pooler.transactions
        outcome = await one.commit(key, writing(head, base=0, entries=notes("ours")))
        assert (outcome.seq, pooler.transactions - before) == (2, 2)
