"""Copying: a fork is whole, and from then on nobody's but its own."""

from __future__ import annotations

from ... import user
from ...backend import Backend, BlobDrop, Create, Erase, Filter, Head, HeadPatch, Key, Origin, Range, ReadPlan
from ...entries import MESSAGE
from ...errors import SessionExists, SessionNotFound
from ...ids import new_incarnation
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    bodies,
    check_gapless,
    content,
    contents,
    created,
    creating,
    fresh,
    head_of,
    listed,
    note,
    notes,
    opened,
    puts,
    read,
    refused,
    stored,
    texts,
    values,
    writing,
    wrote,
)
from ..tools import blob as blob_of


async def _source(backend: Backend, key: Key) -> Head:
    head = await created(backend, key, entries=notes(*"abcde"), puts=puts(k="1", gone="1"), blobs=(blob_of("b", "1"),))
    return await wrote(backend, key, head, hide=(Range(2, 3),), puts=puts(gone=None))


async def _fork(backend: Backend, source: Key, upto: int | None = None) -> Key:
    target = Key(source.tenant, f"fork-{new_incarnation()}")
    create = Create(new_incarnation(), exclusive=True)
    await backend.copy(source, upto, target, creating(create=create, patch=HeadPatch(origin=Origin(source.session_id, 2))))
    return target


@clause()
async def a_fork_is_whole(open: Opener) -> None:
    """It has the visible entries, renumbered without gaps, the state without tombstones, and the blobs; and it is listed."""
    async with opened(open) as backend:
        key = fresh()
        await _source(backend, key)
        target = await _fork(backend, key)
        fork = await read(backend, target)
        check_gapless(fork)
        assert (texts(fork), values(fork), contents(fork)) == (["a", "d", "e"], {"k": "1"}, {("files", "b"): b"1"})
        assert list(fork.state or {}) == ["k"]
        assert fork.head.origin == Origin(key.session_id, 2)
        assert (fork.head.version, fork.head.hides) == (1, 0)
        assert (await listed(backend, Filter(tenant=key.tenant)))[0] == target.session_id


@clause()
async def a_fork_keeps_the_entries_as_they_are(open: Opener) -> None:
    """Ids, kinds, runs and times are copied; only seq and version are the fork's own."""
    async with opened(open) as backend:
        key = fresh()
        await _source(backend, key)
        target = await _fork(backend, key)
        theirs = [(e.id, e.kind, e.run_id, e.agent, e.time, e.body) for e in (await read(backend, key)).entries or [] if not e.hidden]
        fork = await read(backend, target)
        assert [(e.id, e.kind, e.run_id, e.agent, e.time, e.body) for e in fork.entries or []] == theirs
        assert {e.version for e in fork.entries or []} == {fork.head.version}


@clause()
async def a_fork_counts_what_it_copied(open: Opener) -> None:
    """Its messages, runs and bytes are those of the entries that it has."""
    async with opened(open) as backend:
        key = fresh()
        entries = (note("four", MESSAGE, "run-1"), note("four", MESSAGE, "run-2"), note("six"), note("hidden", MESSAGE))
        head = await created(backend, key, entries=entries)
        await wrote(backend, key, head, hide=(Range(4, 4),))
        counts = (await read(backend, await _fork(backend, key))).head.counts
        assert (counts.messages, counts.runs, counts.bytes) == (2, 2, len("fourfoursix"))


@clause()
async def a_fork_ends_where_asked(open: Opener) -> None:
    """`upto` is a seq of the origin, included; 0 copies no entry."""
    async with opened(open) as backend:
        key = fresh()
        await _source(backend, key)
        for upto, wanted in ((0, []), (1, ["a"]), (3, ["a"]), (4, ["a", "d"]), (99, ["a", "d", "e"])):
            assert await bodies(backend, await _fork(backend, key, upto)) == wanted, upto


@clause()
async def a_fork_outlives_its_origin(open: Opener) -> None:
    """Deleting the origin takes nothing from the fork."""
    async with opened(open) as backend:
        key = fresh()
        head = await _source(backend, key)
        target = await _fork(backend, key)
        before = content(await read(backend, target))
        await backend.commit(key, writing(head, erase=Erase("session")))
        await backend.sweep(100)
        assert content(await read(backend, target)) == before


@clause()
async def fork_and_origin_go_their_own_ways(open: Opener) -> None:
    """What is written, hidden, deleted in one is not so in the other."""
    async with opened(open) as backend:
        key = fresh()
        await _source(backend, key)
        target = await _fork(backend, key)
        before = content(await read(backend, key))
        fork = (await read(backend, target)).head
        blobs = (blob_of("new", "1"),)
        fork = await wrote(backend, target, fork, entries=notes("f"), puts=puts(k="2", n="1"), drops=(BlobDrop("files", "b"),), blobs=blobs)
        await wrote(backend, target, fork, hide=(Range(1, 1),))
        assert content(await read(backend, key)) == before
        forked = content(await read(backend, target))
        await wrote(backend, key, (await read(backend, key)).head, entries=notes("g"), puts=puts(k=None), blobs=(blob_of("b", "3"),))
        assert content(await read(backend, target)) == forked


@clause()
async def a_fork_takes_more_entries(open: Opener) -> None:
    """Entries, state and blobs of the creating commit come after the copied ones."""
    async with opened(open) as backend:
        key, target = fresh(), fresh()
        await _source(backend, key)
        outcome = await backend.copy(key, 1, target, creating(entries=notes("x", "y"), puts=puts(k="2"), answer=EVERYTHING))
        fork = await read(backend, target)
        check_gapless(fork)
        assert (texts(fork), values(fork)) == (["a", "x", "y"], {"k": "2"})
        assert outcome.snapshot == fork
        assert (outcome.seq, outcome.version, head_of(outcome)) == (3, 1, fork.head)


@clause()
async def a_fork_onto_a_session_is_refused(open: Opener) -> None:
    """An exclusive copy onto what exists is `SessionExists` and changes nothing of it."""
    async with opened(open) as backend:
        key, target = fresh(), fresh()
        await _source(backend, key)
        await created(backend, target, entries=notes("mine"), puts=puts(k="mine"))
        before = content(await read(backend, target))
        with refused(SessionExists):
            await backend.copy(key, None, target, creating(create=Create(new_incarnation(), exclusive=True)))
        assert content(await read(backend, target)) == before


@clause()
async def a_fork_of_nothing_is_refused(open: Opener) -> None:
    """Copying what isn't there is `SessionNotFound` and makes no target."""
    async with opened(open) as backend:
        target = fresh()
        with refused(SessionNotFound):
            await backend.copy(fresh(), None, target, creating())
        assert await backend.read(target, ReadPlan()) is None


@clause()
async def a_fork_repeated_is_one(open: Opener) -> None:
    """Copying again with the same commit is answered with the first result."""
    async with opened(open) as backend:
        key, target, commit = fresh(), fresh(), creating(create=Create(new_incarnation(), exclusive=True))
        head = await _source(backend, key)
        first = await backend.copy(key, None, target, commit)
        await wrote(backend, key, head, entries=notes("later"))
        again = await backend.copy(key, None, target, commit)
        assert (again.repeated, again.version, again.seq) == (True, first.version, first.seq)
        assert await bodies(backend, target) == ["a", "d", "e"]


@clause()
async def a_session_forks_through_the_store(open: Opener) -> None:
    """`session.fork` remembers its origin and has its own history from there."""
    async with stored(open, fresh()) as store:
        session = await store.session("origin", user_id="ada")
        await session.append(user("one"))
        await session.append(user("two"))
        fork = await session.fork("fork", at=1)
        await fork.append(user("three"))
        assert [message.text for message in await fork.get_messages()] == ["one", "three"]
        assert [message.text for message in await session.get_messages()] == ["one", "two"]
        assert fork.info.origin == Origin("origin", session.version)
