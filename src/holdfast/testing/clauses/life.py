"""Life: gone is gone, however late a writer comes; and what has expired is gone before anybody sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...backend import Backend, ClaimAct, Commit, Erase, Filter, Head, HeadPatch, Key, Range, ReadPlan
from ...errors import SessionGone, SessionNotFound
from ...ids import new_incarnation, now
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    SECOND,
    blob,
    bodies,
    content,
    contents,
    created,
    creating,
    fresh,
    listed,
    notes,
    opened,
    puts,
    read,
    refused,
    texts,
    values,
    writing,
    wrote,
)

_PAST = 100
"""Sessions that are to be expired live one second, and were last used so many seconds ago: nobody has to wait."""


def _old(**parts: Any) -> Commit:
    """Creates a session that has expired already."""
    return creating(time=now() - _PAST * SECOND, patch=HeadPatch(ttl=1), **parts)


async def _full(backend: Backend, key: Key) -> Head:
    head = await created(backend, key, entries=notes("old", "older"), puts=puts(a="old", b="old"), blobs=(blob("a", "old"),))
    head = await wrote(backend, key, head, puts=puts(b=None))
    return await wrote(backend, key, head, hide=(Range(1, 1),))


async def _clear(backend: Backend, key: Key, head: Head) -> None:
    await wrote(backend, key, head, erase=Erase("content", new_incarnation()))


async def _delete(backend: Backend, key: Key, head: Head) -> None:
    outcome = await backend.commit(key, writing(head, erase=Erase("session")))
    assert outcome.head is None


async def _expire(backend: Backend, key: Key, head: Head) -> None:
    await backend.commit(key, writing(head, time=now() - _PAST * SECOND, patch=HeadPatch(ttl=1)))


async def _refuses_the_late(open: Opener, end: Callable[[Backend, Key, Head], Awaitable[None]]) -> None:
    async with opened(open) as backend:
        key = fresh()
        head = await _full(backend, key)
        await end(backend, key, head)
        before = await backend.read(key, EVERYTHING)
        for late in (
            writing(head, entries=notes("late")),
            writing(head, puts=puts(a="late")),
            writing(head, claim=ClaimAct("take", "late")),
        ):
            with refused(SessionGone):
                await backend.commit(key, late)
        assert await backend.read(key, EVERYTHING) == before


@clause()
async def a_writer_from_before_a_clear_is_refused(open: Opener) -> None:
    """Clearing begins a new life: a writer of the old one gets `SessionGone`."""
    await _refuses_the_late(open, _clear)


@clause()
async def a_writer_from_before_a_deletion_is_refused(open: Opener) -> None:
    """Nobody who has seen a session brings it back once it is deleted."""
    await _refuses_the_late(open, _delete)


@clause()
async def a_writer_from_before_expiry_is_refused(open: Opener) -> None:
    """Nobody who has seen a session brings it back once it has expired."""
    await _refuses_the_late(open, _expire)


@clause()
async def a_cleared_session_is_empty(open: Opener) -> None:
    """Entries, hidden ones too, state, tombstones and blobs are gone; the session is there, under the same owner."""
    async with opened(open) as backend:
        key = fresh()
        head = await _full(backend, key)
        await _clear(backend, key, head)
        found = await read(backend, key)
        assert (found.entries, found.state, found.blobs) == ([], {}, [])
        assert (found.head.seq, found.head.version, found.head.fence) == (0, head.version + 1, head.fence)


@clause()
async def a_deleted_session_is_not_there(open: Opener) -> None:
    """It is neither read nor listed, and can't be deleted again."""
    async with opened(open) as backend:
        key = fresh()
        head = await _full(backend, key)
        await _delete(backend, key, head)
        assert await backend.read(key, EVERYTHING) is None
        assert await listed(backend, Filter(tenant=key.tenant)) == []
        with refused(SessionNotFound):
            await backend.commit(key, writing(head, incarnation=None, erase=Erase("session")))


async def _begins_empty(open: Opener, end: Callable[[Backend, Key, Head], Awaitable[None]]) -> None:
    async with opened(open) as backend:
        key = fresh()
        old = await _full(backend, key)
        await end(backend, key, old)
        head = await created(backend, key, entries=notes("new"))
        found = await read(backend, key)
        assert (texts(found), values(found), contents(found)) == (["new"], {}, {})
        assert found.state == {}
        assert (head.seq, head.hides) == (1, 0)
        with refused(SessionGone):
            await backend.commit(key, writing(old, entries=notes("late")))


@clause()
async def a_session_made_anew_begins_empty(open: Opener) -> None:
    """After a deletion the same id is a new session with nothing of the old one, and the old one's writers are refused."""
    await _begins_empty(open, _delete)


@clause()
async def a_session_made_anew_after_expiry_begins_empty(open: Opener) -> None:
    """Creating over an expired session that nobody has swept finds nothing of it."""
    await _begins_empty(open, _expire)


async def _stays_gone(open: Opener, end: Callable[[Backend, Key, Head], Awaitable[None]]) -> None:
    async with opened(open) as backend:
        key, first = fresh(), creating(entries=notes("first"), puts=puts(a="1"))
        outcome = await backend.commit(key, first)
        assert outcome.head is not None
        await end(backend, key, outcome.head)
        before = await backend.read(key, EVERYTHING)
        for _ in range(2):
            with refused(SessionGone):
                await backend.commit(key, first)
        assert await backend.read(key, EVERYTHING) == before


@clause()
async def a_creation_repeated_after_deletion_creates_nothing(open: Opener) -> None:
    """The commit that made a session, tried again after it was deleted, does not bring it back."""
    await _stays_gone(open, _delete)


@clause()
async def a_creation_repeated_after_a_clear_writes_nothing(open: Opener) -> None:
    """The commit that made a session, tried again after it was cleared, does not bring its content back."""
    await _stays_gone(open, _clear)


@clause()
async def a_creation_repeated_after_expiry_creates_nothing(open: Opener) -> None:
    """The commit that made a session, tried again after it expired, swept or not, does not bring it back."""
    await _stays_gone(open, _expire)


@clause()
async def a_creation_repeated_after_a_new_life_writes_nothing(open: Opener) -> None:
    """The commit that made a deleted session, tried again when the id lives anew, leaves the new life alone."""

    async def replace(backend: Backend, key: Key, head: Head) -> None:
        await _delete(backend, key, head)
        await created(backend, key, entries=notes("new"))

    await _stays_gone(open, replace)


@clause()
async def what_has_expired_is_not_there(open: Opener) -> None:
    """Before any sweep an expired session is not read, not listed, not written to, not copied and no obstacle to a new one."""
    async with opened(open) as backend:
        key, other = fresh(), fresh()
        await backend.commit(key, _old(entries=notes("old")))
        assert await backend.read(key, EVERYTHING) is None
        assert await listed(backend, Filter(tenant=key.tenant)) == []
        with refused(SessionNotFound):
            await backend.commit(key, creating(create=None, entries=notes("late")))
        with refused(SessionNotFound):
            await backend.copy(key, None, other, creating())
        assert await backend.read(other, ReadPlan()) is None


@clause()
async def a_sweep_removes_what_has_expired(open: Opener) -> None:
    """At most `limit` at a time, and nothing that lives."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        await backend.sweep(100_000)
        for n in range(5):
            await backend.commit(Key(tenant, f"old-{n}"), _old(entries=notes("old")))
            await backend.commit(Key(tenant, f"new-{n}"), creating(patch=HeadPatch(ttl=1000), entries=notes("new")))
        swept = [await backend.sweep(2) for _ in range(4)]
        assert max(swept) <= 2
        assert await listed(backend, Filter(tenant=tenant)) == [f"new-{n}" for n in reversed(range(5))]
        assert await bodies(backend, Key(tenant, "new-0")) == ["new"]


@clause()
async def a_late_writer_is_refused_after_the_sweep(open: Opener) -> None:
    """What expired and was swept away does not come back by a writer, nor by the commit that made it."""
    async with opened(open) as backend:
        key, first = fresh(), creating(entries=notes("old"))
        head = (await backend.commit(key, first)).head
        assert head is not None
        await _expire(backend, key, head)
        await backend.sweep(100_000)
        for late in (first, writing(head, entries=notes("late"))):
            with refused(SessionGone):
                await backend.commit(key, late)
        assert await backend.read(key, EVERYTHING) is None


@clause()
async def every_commit_puts_off_expiry(open: Opener) -> None:
    """A session expires `ttl` seconds after its last commit, an empty one too; without `ttl` never."""
    async with opened(open) as backend:
        key, time = fresh(), now()
        head = await created(backend, key, time=time, patch=HeadPatch(ttl=1000))
        assert head.expires == time + 1000 * SECOND
        head = await wrote(backend, key, head, time=time + 10 * SECOND)
        assert (head.expires, head.version) == (time + 1010 * SECOND, 1)
        assert (await read(backend, key)).head == head
        head = await wrote(backend, key, head, patch=HeadPatch(ttl=None))
        assert head.expires is None


@clause()
async def a_live_claim_holds_up_expiry(open: Opener) -> None:
    """While somebody holds the session it does not expire, however short its time to live."""
    async with opened(open) as backend:
        key, past = fresh(), now() - 10 * SECOND
        await created(backend, key, time=past, patch=HeadPatch(ttl=1), claim=ClaimAct("take", "me", lease=1000), entries=notes("a"))
        assert await bodies(backend, key) == ["a"]
        head = (await read(backend, key)).head
        await wrote(backend, key, head, time=past, fence=head.fence, claim=ClaimAct("release"))
        assert await backend.read(key, EVERYTHING) is None


@clause()
async def one_session_s_end_is_nobody_else_s(open: Opener) -> None:
    """Clearing, deleting and sweeping leave every other session as it was."""
    async with opened(open) as backend:
        ends = (_clear, _delete, _expire)
        keys = [fresh() for _ in range(2 * len(ends) + 1)]
        heads = [await _full(backend, key) for key in keys]
        kept = {key: content(await read(backend, key)) for key in keys[::2]}
        for end, key, head in zip(ends, keys[1::2], heads[1::2], strict=True):
            await end(backend, key, head)
        await backend.sweep(100_000)
        assert {key: content(await read(backend, key)) for key in keys[::2]} == kept


@clause()
async def a_deletion_among_writers_ends_them_all(open: Opener) -> None:
    """Writers at work when a session is deleted are refused from then on; nothing of theirs is there afterwards."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        writers = [asyncio.create_task(_write_until_gone(backend, key, head)) for _ in range(4)]
        while (await read(backend, key)).head.seq < 40:  # noqa: ASYNC110  # a database has no event to wait for
            await asyncio.sleep(0)
        await _delete(backend, key, head)
        await asyncio.gather(*writers)
        assert await backend.read(key, EVERYTHING) is None


async def _write_until_gone(backend: Backend, key: Key, head: Head) -> None:
    with refused(SessionGone):
        while True:
            await backend.commit(key, writing(head, base=0, entries=notes("x")))
            await asyncio.sleep(0)
