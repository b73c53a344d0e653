"""SIGKILL, five hundred times and in company: what was acknowledged is there, whole."""

import asyncio
import random
from functools import partial
from itertools import count
from pathlib import Path

from holdfast.backend import Key
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.testing import Opener
from holdfast.testing.clauses.crashes import survive_kills
from holdfast.testing.processes import Child, Pipe
from holdfast.testing.tools import bodies, check_gapless, created, fresh, notes, opened, puts, read, values, writing

KILLS = 500
WRITERS = 4


async def test_nothing_acknowledged_is_lost_in_five_hundred_kills(tmp_path: Path) -> None:
    await survive_kills(partial(SQLiteBackend, str(tmp_path / "store.db")), KILLS, writers=2)


def write_until_killed(open: Opener, key: Key, name: str, pipe: Pipe) -> None:
    async def write() -> None:
        backend = open()
        head = await created(backend, key)
        for n in count():
            turn = f"{name} {n}"
            await backend.commit(key, writing(head, base=0, entries=notes(turn, turn), puts=puts(**{name: str(n)})))
            pipe.send(n)

    asyncio.run(write())


async def test_killing_one_of_several_writers_of_a_session(tmp_path: Path) -> None:
    """Four processes write one session; one after another is killed and replaced. Each one's acknowledged turns are there."""
    open: Opener = partial(SQLiteBackend, str(tmp_path / "store.db"))
    key, acknowledged = fresh(), dict[str, int]()
    living = {f"w{n}": Child(write_until_killed, open, key, f"w{n}") for n in range(WRITERS)}
    for number in range(WRITERS, 30):
        name = random.choice(list(living))
        for child in living.values():
            await child.said()
        acknowledged[name] = last_said(living.pop(name))
        if number < 30 - WRITERS:
            living[f"w{number}"] = Child(write_until_killed, open, key, f"w{number}")
    await check_writers(open, key, acknowledged | {name: last_said(child) for name, child in living.items()})


def last_said(child: Child) -> int:
    child.kill()
    said = child.rest()
    child.__exit__()
    return said[-1] if said else 0


async def check_writers(open: Opener, key: Key, acknowledged: dict[str, int]) -> None:
    async with opened(open) as backend:
        snapshot = await read(backend, key)
        check_gapless(snapshot)
        log = await bodies(backend, key)
        assert log[::2] == log[1::2]
        for name, last in acknowledged.items():
            turns = [int(turn.split()[1]) for turn in log[::2] if turn.startswith(f"{name} ")]
            assert turns == list(range(len(turns)))
            assert turns[-1] in (last, last + 1) or last == 0
            assert values(snapshot)[name] == str(turns[-1])
        assert isinstance(backend, SQLiteBackend)
        assert await backend.check() == []
