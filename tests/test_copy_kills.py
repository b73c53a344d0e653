"""A copy that is killed, at every single write and in the middle of anything: whole at any time, and the same in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.backend import (
    Backend,
    Commit,
    Filter,
    Key,
    Outcome,
)
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.copying import Pair, copy
from holdfast.copying.marks import stage_tenant
from holdfast.ids import now
from holdfast.testing.processes import Child
from holdfast.testing.tools import SECOND, listed, puts, read

from .copy_child import TENANT, check_whole, copy_until_killed, grow, key
from .copy_child import write as write_in_a_process
from .copy_tools import delete, pair_in_memory, paired, same, settled, small, touched, write

KILLS = 24


async def test_killed_again_and_again_while_the_source_is_written_to(tmp_path: Path) -> None:
    """After every SIGKILL each session at the destination is whole; once the writer has stopped, one more copy makes both the same."""
    source, target = (partial(SQLiteBackend, str(tmp_path / name), synchronous="off") for name in ("source.db", "target.db"))
    chance, staged = random.Random(), 0
    async with paired((source, target)) as pair:
        for n in range(8):
            await grow(pair.source, f"s-{n}", 200)
        with Child(write_in_a_process, source) as writer:
            assert await writer.said() == "ready"
            for _ in range(KILLS):
                with Child(copy_until_killed, source, target) as copier:
                    assert await copier.said() == "ready"
                    await asyncio.sleep(chance.uniform(0, 0.12))
                    copier.kill()
                    assert copier.rest() == []
                await check_whole(pair.target)
                staged += bool(await listed(pair.target, Filter(tenant=stage_tenant(TENANT))))
            writer.pipe.send("stop")
            assert await writer.said() == "stopped"
        assert staged, "no kill met a session that was being staged"
        settled(await copy(pair))
        await same(pair)
        assert await check_whole(pair.target) > 4
        assert isinstance(pair.target, SQLiteBackend)
        assert await pair.target.check() == []


class Died(Exception):
    """The process is gone."""


class Dying:
    """A backend whose process dies at one of its writes: before or after it is done."""

    def __init__(self, backend: Backend, writes: int, *, done: bool) -> None:
        self.backend, self.left, self.done = backend, writes, done
        self.capabilities, self.read, self.list = backend.capabilities, backend.read, backend.list

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self._write(lambda: self.backend.commit(key, commit))

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        return await self._write(lambda: self.backend.copy(source, upto, target, commit))

    async def _write(self, write: Callable[[], Awaitable[Outcome]]) -> Outcome:
        self.left -= 1
        if self.left < 0 and not self.done:
            raise Died
        outcome = await write()
        if self.left < 0:
            raise Died
        return outcome


async def _half_way() -> Pair:
    """A pair with something of everything still to do: sessions to make, to bring, to make anew, to take away, small and staged."""
    pair = pair_in_memory()
    for name, count in {"small": 2, "small-": 2, "long": 40, "gone": 3, "again": 4, "again long": 30}.items():
        await grow(pair.source, name, count)
    await copy(pair)
    await delete(pair.source, "gone")
    for name, count in {"again": 2, "again long": 31}.items():
        await delete(pair.source, name)
        await grow(pair.source, name, count)
    for name, count in {"small": 1, "long": 1, "new": 3, "new long": 37}.items():
        await grow(pair.source, name, count)
    head = (await read(pair.source, key("small-"))).head
    await write(pair.source, "small-", puts=puts(x="1"))
    await touched(pair.source, "small-", head, now() + 99 * SECOND)
    await touched(pair.source, "new", (await read(pair.source, key("new"))).head, now() + 99 * SECOND)
    return pair


@pytest.mark.parametrize("done", [False, True])
async def test_killed_at_every_single_write(monkeypatch: pytest.MonkeyPatch, done: bool) -> None:
    small(monkeypatch)
    number = 0
    for number in range(1000):
        pair = await _half_way()
        dying: Any = Dying(pair.target, number, done=done)
        try:
            await copy(msgspec.structs.replace(pair, target=dying))
            break
        except Died:
            await check_whole(pair.target)
            settled(await copy(pair))
            await same(pair)
    assert number > 30
