"""Reading: what a plan answers, and that it answers from one moment."""

from __future__ import annotations

import asyncio
import random
from itertools import count

from ...backend import Backend, BlobRange, Filter, Head, HeadPatch, Key, Put, Range, ReadPlan, Window
from ...entries import MESSAGE, NOTE, RUN, Entry
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    VISIBLE,
    blob,
    bodies,
    both,
    check_gapless,
    contents,
    created,
    fresh,
    note,
    notes,
    opened,
    puts,
    read,
    texts,
    values,
    wrote,
)

_KINDS = (MESSAGE, NOTE, RUN)


async def _log(backend: Backend, key: Key) -> list[Entry]:
    """A session of 24 entries of three kinds and two runs, some hidden; all of them."""
    added = tuple(note(str(n), _KINDS[n % 3], ("a", "b", None)[n % 5 % 3]) for n in range(24))
    head = await created(backend, key, entries=added[:10])
    head = await wrote(backend, key, head, entries=added[10:])
    await wrote(backend, key, head, hide=(Range(3, 5), Range(20, 20)))
    return (await read(backend, key)).entries or []


def _expected(log: list[Entry], window: Window) -> list[Entry]:
    found = [
        entry
        for entry in log
        if window.after < entry.seq < (window.before or 10**9)
        and (window.hidden or not entry.hidden)
        and (not window.kinds or entry.kind in window.kinds)
        and window.run_id in (None, entry.run_id)
    ]
    limit = len(found) if window.limit is None else window.limit
    return found[max(len(found) - limit, 0) :] if window.newest else found[:limit]


@clause()
async def a_session_that_is_not_there_reads_as_none(open: Opener) -> None:
    """Reading never creates."""
    async with opened(open) as backend:
        key = fresh()
        assert await backend.read(key, EVERYTHING) is None
        assert await backend.read(key, ReadPlan()) is None


@clause()
async def entries_come_back_with_every_field(open: Opener) -> None:
    """An entry has the id, kind, run, agent, time and body it was given, and the version of its commit."""
    async with opened(open) as backend:
        key, new = fresh(), note("x", MESSAGE, "run-1")
        head = await created(backend, key)
        head = await wrote(backend, key, head, entries=(new,))
        wanted = Entry(1, new.id, new.kind, new.body, new.run_id, new.agent, new.time, head.version)
        assert (await read(backend, key)).entries == [wanted]


@clause()
async def the_newest_entries_come_in_order(open: Opener) -> None:
    """Of more than `limit` entries a window has the newest (or the oldest), always in the order of seq."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, entries=notes(*"abcdef"))
        assert await bodies(backend, key, Window(limit=2)) == ["e", "f"]
        assert await bodies(backend, key, Window(limit=2, newest=False)) == ["a", "b"]
        assert await bodies(backend, key, Window(limit=2, before=4)) == ["b", "c"]
        assert await bodies(backend, key, Window(limit=2, after=2, newest=False)) == ["c", "d"]
        assert await bodies(backend, key, Window(limit=99)) == list("abcdef")


@clause()
async def a_limit_of_zero_reads_no_entry(open: Opener) -> None:
    """Asking for nothing gets an empty list; not asking gets None."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, entries=notes("a"))
        assert (await read(backend, key, ReadPlan(entries=Window(limit=0)))).entries == []
        assert (await read(backend, key, ReadPlan())).entries is None


@clause()
async def every_window_follows_the_rule(open: Opener) -> None:
    """after, before, limit, kinds, run and hidden select together, whatever their combination."""
    async with opened(open) as backend:
        key, dice = fresh(), random.Random(7)  # the same windows each time
        log = await _log(backend, key)
        for _ in range(150):
            window = Window(
                after=dice.choice((0, 2, 4, 17, 24, 99)),
                before=dice.choice((None, None, 1, 5, 12, 24, 99)),
                limit=dice.choice((None, 0, 1, 3, 50)),
                newest=dice.random() < 0.5,
                kinds=dice.choice(((), (NOTE,), (MESSAGE, RUN), (NOTE, RUN), ("summary",))),
                run_id=dice.choice((None, None, "a", "b", "c")),
                hidden=dice.random() < 0.3,
            )
            found = (await read(backend, key, ReadPlan(entries=window))).entries
            assert found == _expected(log, window), window


@clause()
async def a_kind_named_twice_counts_once(open: Opener) -> None:
    """No entry is read twice."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, entries=notes("a", "b"))
        assert await bodies(backend, key, Window(kinds=(NOTE, NOTE))) == ["a", "b"]


@clause()
async def hidden_entries_stay_in_the_record(open: Opener) -> None:
    """What is hidden is in no window, and all there, marked and in its place, when asked for."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, entries=notes(*"abcd"))
        await wrote(backend, key, head, hide=(Range(2, 3),), entries=notes("e"))
        assert await bodies(backend, key) == ["a", "d", "e"]
        assert await bodies(backend, key, Window(limit=2)) == ["d", "e"]
        whole = await read(backend, key)
        check_gapless(whole)
        assert texts(whole) == list("abcde")
        assert [entry.seq for entry in whole.entries or [] if entry.hidden] == [2, 3]


@clause()
async def one_plan_is_one_moment(open: Opener) -> None:
    """Head, state, entries and blobs of one answer belong to one version, while another writer commits them in pairs."""
    async with both(open) as (reader, writer):
        key = fresh()
        head = await created(writer, key, entries=notes("0"), puts=puts(n="0"), blobs=(blob("n", "0"),))
        writing = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(_count_up(open, key, head, 150))))
        for turn in count():
            plan = VISIBLE if turn % 2 else ReadPlan(state_since=0, entries=Window(limit=3))
            snapshot = await read(reader, key, plan)
            newest = texts(snapshot)[-1]
            assert values(snapshot) == {"n": newest}
            assert snapshot.head.seq == int(newest) + 1
            if snapshot.blobs is not None:
                assert contents(snapshot) == {("files", "n"): newest.encode()}
            if writing.done():
                break
            await asyncio.sleep(0)
        await writing


async def _count_up(open: Opener, key: Key, head: Head, last: int) -> None:
    """Commit the numbers up to `last` from a thread and a loop of its own."""
    backend = open()
    for n in range(1, last + 1):
        number = str(n)
        head = await wrote(backend, key, head, entries=notes(number), puts=puts(n=number), blobs=(blob("n", number),))


@clause()
async def changes_of_state_are_told_whole(open: Opener) -> None:
    """What changed since a version, deletions included, turns what a reader knew then into what is there now."""
    async with opened(open) as backend:
        key, dice = fresh(), random.Random(11)
        head = await created(backend, key)
        known = {head.version: dict[str, str]()}
        for n in range(40):
            name = f"k{dice.randrange(6)}"
            head = await wrote(backend, key, head, puts=(Put(name, None if dice.random() < 0.4 else b"%d" % n),))
            known[head.version] = values(await read(backend, key, ReadPlan(state_since=0)))
        for version, before in known.items():
            assert await _caught_up(backend, key, version, before) == known[head.version], f"since {version}"


async def _caught_up(backend: Backend, key: Key, version: int, known: dict[str, str]) -> dict[str, str]:
    snapshot = await read(backend, key, ReadPlan(state_since=version))
    assert snapshot.state is not None
    kept = {} if snapshot.state_whole else {name: value for name, value in known.items() if name not in snapshot.state}
    return kept | values(snapshot)


@clause()
async def a_deletion_is_told_to_whoever_knew_the_key(open: Opener) -> None:
    """A deleted key leaves a tombstone for those who read it before, and none in a whole reading."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, puts=puts(a="1", b="2"))
        seen = head.version
        await wrote(backend, key, head, puts=puts(a=None))
        changed = await read(backend, key, ReadPlan(state_since=seen))
        assert changed.state is not None
        assert changed.state_whole or ("a" in changed.state and changed.state["a"].value is None)
        whole = await read(backend, key, ReadPlan(state_since=0))
        assert whole.state_whole
        assert values(whole) == {"b": "2"}


@clause()
async def sweeping_breaks_no_reader(open: Opener) -> None:
    """After a sweep has dropped tombstones, a reader that is behind them reads all of the state, not less."""
    async with opened(open) as backend:
        key, many = fresh(), {f"k{n}": str(n) for n in range(300)}
        head = await created(backend, key, puts=puts(kept="1", **many))
        seen = head.version
        head = await wrote(backend, key, head, puts=puts(**dict.fromkeys(many)))
        await backend.sweep(1000)
        assert await _caught_up(backend, key, seen, {"kept": "1", **many}) == {"kept": "1"}
        assert await _caught_up(backend, key, head.version, {"kept": "1"}) == {"kept": "1"}


@clause()
async def state_rows_carry_the_version_of_their_change(open: Opener) -> None:
    """Each key knows the version that wrote it last; other keys are untouched."""
    async with opened(open) as backend:
        key = fresh()
        first = await created(backend, key, puts=puts(a="1", b="1"))
        second = await wrote(backend, key, first, puts=puts(b="2"))
        state = (await read(backend, key)).state
        assert state is not None
        assert (state["a"].version, state["b"].version) == (first.version, second.version)


@clause()
async def blobs_are_found_by_namespace_key_and_prefix(open: Opener) -> None:
    """A range of blobs is exact keys, a prefix or all, of one namespace or every one, in order."""
    async with opened(open) as backend:
        key = fresh()
        stored = [blob(name, name, space) for space in ("x", "y") for name in ("a", "a/1", "a/2", "b")]
        await created(backend, key, blobs=tuple(stored))

        async def places(it: BlobRange) -> list[str]:
            return [f"{b.namespace}:{b.key}" for b in (await read(backend, key, ReadPlan(blobs=(it,)))).blobs or []]

        assert await places(BlobRange(namespace="x", keys=("b", "a", "none"))) == ["x:a", "x:b"]
        assert await places(BlobRange(namespace="y", prefix="a/")) == ["y:a/1", "y:a/2"]
        assert await places(BlobRange(namespace="x", prefix="a")) == ["x:a", "x:a/1", "x:a/2"]
        assert await places(BlobRange(keys=("b",))) == ["x:b", "y:b"]
        assert len(await places(BlobRange())) == 8
        assert await places(BlobRange(namespace="z")) == []


@clause()
async def blob_data_is_left_out_on_request(open: Opener) -> None:
    """`data=False` lists blobs with their types and without their bytes."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, blobs=(blob("a", "bytes"),))
        (bare,) = (await read(backend, key, ReadPlan(blobs=(BlobRange(data=False),)))).blobs or []
        assert (bare.namespace, bare.key, bare.type, bare.data) == ("files", "a", "text", None)


@clause()
async def what_is_given_out_is_a_copy(open: Opener) -> None:
    """What a caller changes in what it wrote or was given changes nothing that is stored."""
    async with opened(open) as backend:
        key, metadata = fresh(), {"tags": ["a"]}
        head = await created(backend, key, patch=HeadPatch(metadata=metadata))
        metadata["tags"].append("written")
        head.metadata["tags"].append("returned")
        (await read(backend, key)).head.metadata["tags"].append("read")
        for _, found in (await backend.list(Filter(tenant=key.tenant), None, 10)).items:
            found.metadata["tags"].append("listed")
        assert (await read(backend, key)).head.metadata == {"tags": ["a"]}
