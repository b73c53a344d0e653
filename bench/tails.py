"""Many clients of one worker: live tails, and how late the last of them is told; the inbox's first page among many sessions."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import httpx
import msgspec

from holdfast import Store, assistant, user

from .serve import free_port, served


class Measured(msgspec.Struct, frozen=True):
    """Seconds until all were open, and from each run's answer to when the last client had its end; clients that missed or doubled one."""

    opened: float
    delays: list[float]
    wrong: int


class Tail:
    """A client of one session, over a socket of its own: the seqs of the entries it was told of."""

    def __init__(self, port: int, session_id: str) -> None:
        self._port, self._session = port, session_id
        self.seqs: list[int] = []
        self.last = 0.0
        self.moved = asyncio.Event()

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET /sessions/{self._session}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await self._reader.readuntil(b"\r\n\r\n")
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for line in self._reader:
            if line.startswith(b"id: "):
                self.seqs.append(int(line[4:].split(b".")[0]))
                self.moved.set()
            elif line.startswith(b"event: entry"):
                self.last = time.perf_counter()

    async def has(self, seq: int) -> None:
        """Wait until it was told of this entry."""
        while not self.seqs or self.seqs[-1] < seq:
            self.moved.clear()
            await self.moved.wait()

    def close(self) -> None:
        self._task.cancel()
        self._writer.close()


async def measure(folder: Path, clients: int, sessions: int, runs: int) -> Measured:
    """`clients` over `sessions` sessions, and `runs` runs on the first of them."""
    port = free_port()
    command = [sys.executable, "-m", "bench.our_server", str(folder / "tails.db"), "1", str(port), "instant"]
    with served(command):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            names = [f"s{number}" for number in range(sessions)]
            for name in names:
                await client.post("/sessions", json={"session_id": name})
            tails = [Tail(port, names[number % sessions]) for number in range(clients)]
            start = time.perf_counter()
            for place in range(0, clients, 50):
                await asyncio.gather(*[it.open() for it in tails[place : place + 50]])
            opened = time.perf_counter() - start
            followed = [it for place, it in enumerate(tails) if place % sessions == 0]
            delays = [await _delay(client, names[0], followed) for _ in range(runs)]
            found = [[seq for seq, before in zip(it.seqs, [0, *it.seqs], strict=False) if seq != before] for it in followed]
            for it in tails:
                it.close()
    wanted = max(found, key=len)
    return Measured(opened, delays, sum(seqs != sorted(set(seqs)) or seqs[-1] != wanted[-1] for seqs in found))


async def _delay(client: httpx.AsyncClient, session_id: str, tails: list[Tail]) -> float:
    """From a run's answer to when the last client was told of its last entry."""
    (await client.post("/run", json={"agent": "desk", "message": "hi", "session_id": session_id})).raise_for_status()
    answered = time.perf_counter()
    last = (await client.get(f"/sessions/{session_id}/entries", params={"limit": 1})).json()["items"][-1]["seq"]
    await asyncio.wait_for(asyncio.gather(*[it.has(last) for it in tails]), 60)
    return max(0.0, max(it.last for it in tails) - answered)


async def first_page(folder: Path, sessions: int, rounds: int) -> list[float]:
    """Seconds of a request for the inbox's first page, with the last line of each, in a store of so many sessions."""
    path = folder / "inbox.db"
    async with Store.open(f"sqlite:///{path}?synchronous=off") as store:
        for start in range(0, sessions, 500):
            await asyncio.gather(*[_begun(store, number) for number in range(start, min(start + 500, sessions))])
    port = free_port()
    command = [sys.executable, "-m", "bench.our_server", str(path), "1", str(port), "instant"]
    times: list[float] = []
    with served(command):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for number in range(rounds + 3):
                start = time.perf_counter()
                answer = await client.get("/sessions", params={"limit": 50, "lines": "true"})
                if number >= 3:
                    times.append(time.perf_counter() - start)
                assert len(answer.raise_for_status().json()["items"]) == 50
    return times


async def _begun(store: Store, number: int) -> None:
    session = store.handle(f"session-{number}", user_id=f"user-{number % 1000}")
    await session.append(user("Where is my order?"), assistant("On its way."))
