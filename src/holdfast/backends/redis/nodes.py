"""Which server a request goes to: the one there is, or the node of a cluster that has the slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, ReadOnlyError, ResponseError, TryAgainError

from ...errors import NotAStore, OutcomeUnknown, StoreError, StoreUnavailable
from .connections import Address, Packed, Pool, Settings
from .errors import refused

_PASSING = (ClusterDownError, MasterDownError, TryAgainError)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.3


class Nodes(Protocol):
    """The servers of one store, for one event loop. Answers come in the order of the commands, a server's errors as values."""

    where: str

    async def send(self, slot: int, commands: Sequence[Packed], *, writing: bool) -> list[Any]:
        """Commands about keys of one slot, in one exchange."""
        ...

    async def send_all(self, requests: Sequence[tuple[int, Packed]]) -> list[Any]:
        """Commands that write nothing (or may be sent twice), about keys of any slots: one exchange for each server."""
        ...

    async def pool_of(self, slot: int) -> Pool: ...

    async def servers(self) -> list[Pool]:
        """Every server that has slots of its own."""
        ...

    def pools(self) -> list[Pool]:
        """Every server with connections."""
        ...


class OneServer:
    """A server that has every key."""

    def __init__(self, settings: Settings, address: Address) -> None:
        self._pool = Pool(settings, address)
        self.where = self._pool.where

    async def send(self, slot: int, commands: Sequence[Packed], *, writing: bool) -> list[Any]:
        return await self._pool.exchange(commands, writing=writing)

    async def send_all(self, requests: Sequence[tuple[int, Packed]]) -> list[Any]:
        return await self._pool.exchange([command for _, command in requests], writing=False) if requests else []

    async def pool_of(self, slot: int) -> Pool:
        return self._pool

    async def servers(self) -> list[Pool]:
        return [self._pool]

    def pools(self) -> list[Pool]:
        return [self._pool]


class ClusterNodes:
    """The primaries of a cluster, by the slots they have; learnt from any node, and anew when one moved or is gone.

    Where a slot's node is down, requests wait for another to take over, for as long as `timeout` says. All that is sent may be sent
    again: a script that was applied finds its own mark or its commit's id.
    """

    def __init__(self, settings: Settings, seeds: list[Address]) -> None:
        self.where = "{}:{}".format(*seeds[0])
        self._settings = settings
        self._seeds = seeds
        self._pools: dict[Address, Pool] = {}
        self._slots: list[tuple[int, int, Address]] = []
        self._moved: dict[int, Address] = {}
        self._learning = asyncio.Lock()
        self._learnt = 0

    async def send(self, slot: int, commands: Sequence[Packed], *, writing: bool) -> list[Any]:
        deadline, pause, unknown = time.monotonic() + self._settings.timeout, _FIRST_PAUSE, None
        asked: Address | None = None
        while True:
            learnt = self._learnt
            try:
                pool = self._pool(asked) if asked else await self.pool_of(slot)
                answers = await pool.exchange([[b"ASKING"], *commands] if asked else commands, writing=writing)
                trouble, answers = _trouble(answers), answers[1:] if asked else answers
                if trouble is None:
                    return answers
                asked = self._redirected(slot, trouble)
                error: StoreError = refused(pool.where, trouble)
                if isinstance(trouble, AskError) and time.monotonic() < deadline:
                    continue
            except OutcomeUnknown as broken:
                error, asked, unknown = broken, None, broken
            except StoreUnavailable as broken:
                error, asked = broken, None
            if time.monotonic() + pause > deadline:
                raise unknown or error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            await self._learn(learnt, patient=True)

    async def send_all(self, requests: Sequence[tuple[int, Packed]]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        parts: dict[Address, list[int]] = {}
        for place, (slot, _) in enumerate(requests):
            parts.setdefault((await self.pool_of(slot)).address, []).append(place)
        await asyncio.gather(*(self._send_part(requests, places, answers) for places in parts.values()))
        return answers

    async def _send_part(self, requests: Sequence[tuple[int, Packed]], places: list[int], answers: list[Any]) -> None:
        """All of one node's in one exchange; what has moved, or a node that is gone, is asked for one by one."""
        pool = await self.pool_of(requests[places[0]][0])
        try:
            found = await pool.exchange([requests[place][1] for place in places], writing=False)
        except StoreUnavailable:
            found = [TryAgainError("")] * len(places)
        for place, answer in zip(places, found, strict=True):
            if _trouble([answer]) is not None:
                slot, command = requests[place]
                (answer,) = await self.send(slot, [command], writing=False)
            answers[place] = answer

    async def pool_of(self, slot: int) -> Pool:
        if (address := self._moved.get(slot)) is not None:
            return self._pool(address)
        if not self._slots:
            await self._learn(self._learnt)
        for first, last, address in self._slots:
            if first <= slot <= last:
                return self._pool(address)
        raise StoreUnavailable(f"{self.where}: no node of the cluster has hash slot {slot}; see `CLUSTER INFO`")

    async def servers(self) -> list[Pool]:
        if not self._slots:
            await self._learn(self._learnt)
        return [self._pool(address) for address in dict.fromkeys(address for _, _, address in self._slots)]

    def pools(self) -> list[Pool]:
        return list(self._pools.values())

    def _pool(self, address: Address) -> Pool:
        return self._pools.get(address) or self._pools.setdefault(address, Pool(self._settings, address))

    def _redirected(self, slot: int, trouble: ResponseError) -> Address | None:
        """Remember where a slot has moved to; where to ask just once."""
        if not isinstance(trouble, AskError):
            return None
        where: Address = str(trouble.host), trouble.port  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # untyped
        if isinstance(trouble, MovedError):
            self._moved[slot] = where
            return None
        return where

    async def _learn(self, learnt: int, *, patient: bool = False) -> None:
        """Ask one node after another for the slots, unless somebody has since `learnt`. `patient`: none answering is no error yet."""
        async with self._learning:
            if self._learnt != learnt:
                return
            error: StoreError | None = None
            for address in dict.fromkeys([*(it[2] for it in self._slots), *self._seeds]):
                try:
                    (answer,) = await self._pool(address).exchange([[b"CLUSTER", b"SLOTS"]], writing=False)
                except StoreError as trouble:
                    error = trouble
                    continue
                self._slots = _slots(self._pool(address), answer)
                self._moved.clear()
                self._learnt += 1
                return
            if not patient and error is not None:
                raise error


def _trouble(answers: list[Any]) -> ResponseError | None:
    """The error among the answers that says to ask again, or elsewhere."""
    for answer in answers:
        if isinstance(answer, (AskError, ReadOnlyError, *_PASSING)):
            return answer
    return None


def _slots(pool: Pool, answer: Any) -> list[tuple[int, int, Address]]:
    if isinstance(answer, ResponseError):
        if "cluster support disabled" in str(answer):
            raise NotAStore(f"{pool.where}: this server is in no cluster; leave cluster=true out of the URL")
        raise refused(pool.where, answer)
    return [(first, last, ((primary[0] or b"").decode() or pool.address[0], primary[1])) for first, last, primary, *_ in answer]
