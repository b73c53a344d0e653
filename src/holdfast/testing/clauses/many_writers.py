"""Many writers: tasks, threads and processes on one session lose nothing, mix nothing and agree on one order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ... import Session, Store, user
from ...backend import Backend, Create, Key, Snapshot
from ...errors import Conflict, SessionExists
from ...ids import new_incarnation
from ..processes import in_processes
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    SECOND,
    VISIBLE,
    both,
    check_gapless,
    created,
    creating,
    fresh,
    note,
    notes,
    opened,
    puts,
    read,
    settled,
    stored,
    texts,
    values,
    writing,
)

WRITERS = 8
TURNS = 50


async def _turns(open: Opener, key: Key, writer: int, turns: int = TURNS) -> None:
    """Turns of two entries and a state key in one commit, and a counter that all writers share; through a store of its own."""
    async with stored(open, key) as store:
        await take_turns(await store.session(key.session_id), writer, turns)


async def take_turns(session: Session, writer: int, turns: int = TURNS) -> None:
    for turn in range(turns):
        session.set(f"writer-{writer}", turn)
        await session.append(user(f"{writer} {turn} asks"), user(f"{writer} {turn} answers"))
        await asyncio.sleep(0)
        await session.state.increment("counter")


async def _check_turns(open: Opener, key: Key) -> None:
    """All turns are there, whole and in the order of each writer, and every reader tells the same."""
    async with both(open) as (one, other), stored(open, key, cache=4) as cached:
        snapshot = await read(one, key)
        check_whole_turns(snapshot, WRITERS, TURNS)
        assert await read(other, key) == snapshot
        session = await cached.session(key.session_id)
        for _ in range(2):
            assert await session.entries() == snapshot.entries
        assert session.get("counter") == WRITERS * TURNS
        assert [session.get(f"writer-{n}") for n in range(WRITERS)] == [TURNS - 1] * WRITERS


def check_whole_turns(snapshot: Snapshot, writers: int, turns: int) -> None:
    """Nothing is lost, doubled or mixed: each turn's two entries follow each other and are of one version."""
    check_gapless(snapshot)
    entries = snapshot.entries or []
    said = [entry.message().text.split() for entry in entries]
    assert len(said) == 2 * writers * turns
    assert [(one[0], one[1], one[2]) for one in said[::2]] == [(two[0], two[1], "asks") for two in said[1::2]]
    assert {two[2] for two in said[1::2]} == {"answers"}
    assert all(one.version == two.version for one, two in zip(entries[::2], entries[1::2], strict=True))
    for writer in range(writers):
        assert [int(turn) for who, turn, _ in said[::2] if who == str(writer)] == list(range(turns))


@clause()
async def many_tasks_lose_nothing(open: Opener) -> None:
    """8 tasks, 50 turns each, half of them on one store and half on one each: 400 whole turns, the counter is 400."""
    key = fresh()
    async with stored(open, key) as store:
        sharing = [take_turns(await store.session(key.session_id), n) for n in range(0, WRITERS, 2)]
        await asyncio.gather(*sharing, *(_turns(open, key, n) for n in range(1, WRITERS, 2)))
    await _check_turns(open, key)


@clause()
async def many_threads_lose_nothing(open: Opener) -> None:
    """8 threads, each with an event loop of its own, on one store: 400 whole turns, the counter is 400."""
    key = fresh()
    async with stored(open, key) as store:
        await store.session(key.session_id)
        await asyncio.gather(*(asyncio.to_thread(_in_a_loop, _handle_turns, store, key, n) for n in range(WRITERS)))
    await _check_turns(open, key)


def _in_a_loop(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    async def all_of_it() -> None:
        await work(*arguments)

    asyncio.run(all_of_it())


async def _handle_turns(store: Store, key: Key, writer: int) -> None:
    await take_turns(await store.session(key.session_id), writer)


@clause(needs=("multi_process",))
async def many_processes_lose_nothing(open: Opener) -> None:
    """8 processes, 50 turns each: 400 whole turns, the counter is 400."""
    key = fresh()
    await in_processes(_turns, [(open, key, n) for n in range(WRITERS)])
    await _check_turns(open, key)


@clause()
async def a_commit_is_never_interleaved(open: Opener) -> None:
    """The entries of one commit follow each other, however many commits of several entries run at once."""
    async with both(open) as backends:
        key = fresh()
        head = await created(backends[0], key)
        commits = [writing(head, base=0, entries=notes(*[str(n)] * 5)) for n in range(40)]
        await asyncio.gather(*(backends[n % 2].commit(key, commit) for n, commit in enumerate(commits)))
        snapshot = await read(backends[0], key)
        check_gapless(snapshot)
        found = texts(snapshot)
        assert found == [text for text in found[::5] for _ in range(5)]
        assert sorted(Counter(found).values()) == [5] * 40
        assert len({entry.version for entry in snapshot.entries or []}) == 40


@clause()
async def of_many_strict_commits_one_wins(open: Opener) -> None:
    """Ten commits that expect the same version: one is written, nine get `Conflict` with the version that is there."""
    async with both(open) as backends:
        key = fresh()
        head = await created(backends[0], key)
        commits = [writing(head, expect=head.version, entries=notes(str(n)), puts=puts(winner=str(n))) for n in range(10)]
        won, lost = await settled((backends[n % 2].commit(key, it) for n, it in enumerate(commits)), Conflict)
        assert (len(won), len(lost)) == (1, 9)
        assert {(error.expected, error.found) for error in lost} == {(head.version, head.version + 1)}
        snapshot = await read(backends[1], key)
        assert texts(snapshot) == [values(snapshot)["winner"]]


@clause()
async def of_many_set_ifs_one_wins(open: Opener) -> None:
    """Ten handles set a key if it has no value: one does, and its value stays."""
    key = fresh()
    async with stored(open, key) as store:
        handles = [await store.session(key.session_id) for _ in range(10)]
        done = await asyncio.gather(*(handle.state.set_if("owner", n) for n, handle in enumerate(handles)))
        assert sum(done) == 1
        assert (await store.session(key.session_id)).get("owner") == done.index(True)


@clause()
async def appending_to_a_list_loses_nothing(open: Opener) -> None:
    """Ten handles append to one list, five times each: all fifty are in it, each handle's in its order."""
    key = fresh()
    async with stored(open, key) as store:

        async def add(writer: int) -> None:
            session = await store.session(key.session_id)
            for n in range(5):
                await session.state.append("list", [writer, n])

        await asyncio.gather(*(add(n) for n in range(10)))
        found = (await store.session(key.session_id)).get("list")
        assert sorted(found) == [[writer, n] for writer in range(10) for n in range(5)]
        assert [n for writer, n in found if writer == 3] == list(range(5))


@clause()
async def counting_goes_on_after_a_deletion(open: Opener) -> None:
    """A key that was deleted counts as not there: `increment` begins anew, from any handle."""
    key = fresh()
    async with stored(open, key) as store, asyncio.timeout(20):
        session = await store.session(key.session_id)
        await session.state.increment("n", 5)
        del session.state["n"]
        await session.commit()
        assert await (await store.session(key.session_id)).state.increment("n") == 1
        await session.refresh()
        assert await session.state.increment("n") == 2


@clause()
async def many_creators_make_one_session(open: Opener) -> None:
    """Ten that get or create the same session at once are on one and the same."""
    async with both(open) as backends:
        key = fresh()
        commits = [creating(entries=notes(str(n))) for n in range(10)]
        await asyncio.gather(*(backends[n % 2].commit(key, commit) for n, commit in enumerate(commits)))
        snapshot = await read(backends[0], key)
        check_gapless(snapshot)
        assert sorted(texts(snapshot)) == [str(n) for n in range(10)]
        assert snapshot.head.incarnation in {it.create.incarnation for it in commits if it.create}


@clause()
async def of_many_exclusive_creators_one_wins(open: Opener) -> None:
    """Ten that create the same new session at once: one does, nine get `SessionExists`."""
    async with both(open) as backends:
        key = fresh()
        commits = [creating(entries=notes(str(n)), create=Create(new_incarnation(), exclusive=True)) for n in range(10)]
        won, lost = await settled((backends[n % 2].commit(key, it) for n, it in enumerate(commits)), SessionExists)
        assert (len(won), len(lost)) == (1, 9)
        assert len(texts(await read(backends[1], key))) == 1


@clause()
async def trouble_of_one_is_not_another_s(open: Opener) -> None:
    """Refused commits among many others at the same moment take none of them with them."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        good = [writing(head, base=0, entries=notes(str(n))) for n in range(20)]
        bad = [writing(head, base=0, entries=notes("bad"), expect=9999) for _ in range(20)]
        mixed = [it for pair in zip(good, bad, strict=True) for it in pair]
        won, lost = await settled((backend.commit(key, it) for it in mixed), Conflict)
        assert (len(won), len(lost)) == (20, 20)
        assert sorted(texts(await read(backend, key)), key=int) == [str(n) for n in range(20)]


@clause()
async def order_is_never_a_clock_s(open: Opener) -> None:
    """Writers whose clocks run backwards or wildly: versions, seqs and what is newest follow the commits, and nothing is lost."""
    async with both(open) as (one, other):
        key, start = fresh(), 1_700_000_000 * SECOND
        head = await created(one, key, time=start)
        for n, offset in enumerate((0, -3600, 7200, -86_400, -86_400, 1)):
            backend: Backend = (one, other)[n % 2]
            time = start + offset * SECOND
            entry = msgspec.structs.replace(note(str(n)), time=time)
            outcome = await backend.commit(key, writing(head, time=time, entries=(entry,), puts=puts(k=str(n))))
            assert outcome.version == n + 2
        for backend in (one, other):
            snapshot = await read(backend, key, VISIBLE)
            assert (texts(snapshot), values(snapshot)) == (list("012345"), {"k": "5"})
        check_gapless(await read(one, key, EVERYTHING))
