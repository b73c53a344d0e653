"""Listing: newest first, complete, and in pages that no writer can disturb."""

from __future__ import annotations

from typing import Any

from ...backend import Backend, Erase, Filter, HeadPatch, Key
from ...ids import now
from ..suite import Opener, clause
from ..tools import SECOND, created, creating, fresh, listed, notes, opened, read, writing, wrote


async def _sessions(backend: Backend, tenant: str, number: int, **parts: Any) -> list[str]:
    """Create `number` sessions; their ids, the newest first."""
    names = [f"s{n:03}" for n in range(number)]
    for name in names:
        await created(backend, Key(tenant, name), **parts)
    return names[::-1]


@clause()
async def the_newest_session_comes_first(open: Opener) -> None:
    """The order is that of creation, in every page size, and the last page has no cursor."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        names = await _sessions(backend, tenant, 12)
        for limit in (1, 5, 11, 12, 13, 100):
            assert await listed(backend, Filter(tenant=tenant), limit) == names
        assert await listed(backend, Filter(tenant=fresh().tenant)) == []


@clause()
async def a_list_shows_the_heads(open: Opener) -> None:
    """Each item is the session's head as a read gives it."""
    async with opened(open) as backend:
        key = fresh()
        await created(backend, key, user_id="ada", patch=HeadPatch(name="n", metadata={"a": 1}, waiting=True), entries=notes("a"))
        page = await backend.list(Filter(tenant=key.tenant), None, 10)
        assert page.items == [(key.session_id, (await read(backend, key)).head)]


@clause()
async def a_write_does_not_move_a_session(open: Opener) -> None:
    """Committing to an old session leaves it in its place: the order is creation's, not use's."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        names = await _sessions(backend, tenant, 4)
        oldest = Key(tenant, names[-1])
        await wrote(backend, oldest, (await read(backend, oldest)).head, entries=notes("a"), patch=HeadPatch(name="new"))
        assert await listed(backend, Filter(tenant=tenant)) == names


@clause()
async def creation_s_clock_does_not_order(open: Opener) -> None:
    """A session made by a writer whose clock is behind is still the newest."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        for n, behind in enumerate((0, 1000, 500)):
            await created(backend, Key(tenant, f"s{n}"), time=now() - behind * SECOND)
        assert await listed(backend, Filter(tenant=tenant), 1) == ["s2", "s1", "s0"]


@clause()
async def pages_are_stable_under_writes(open: Opener) -> None:
    """Sessions made, deleted and changed between two pages: those that stay are seen once each, in order."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        names = await _sessions(backend, tenant, 12)
        gone, found, cursor = {names[1], names[4], names[11]}, list[str](), None
        for turn in range(100):
            page = await backend.list(Filter(tenant=tenant), cursor, 3)
            found += [session_id for session_id, _ in page.items]
            await created(backend, Key(tenant, f"later-{turn}"))
            await _disturb(backend, tenant, names[11 - turn % 12], gone)
            if (cursor := page.cursor) is None:
                break
        kept = [name for name in names if name not in gone]
        assert [name for name in found if name not in gone] == kept
        assert len(found) == len(set(found))


async def _disturb(backend: Backend, tenant: str, name: str, gone: set[str]) -> None:
    key = Key(tenant, name)
    head = (await read(backend, key)).head
    erase = Erase("session") if name in gone else None
    await backend.commit(key, writing(head, erase=erase, patch=HeadPatch(name="changed")))


@clause()
async def filters_select(open: Opener) -> None:
    """By user, waiting, kind, parent, part of the name in any case, metadata and time of update; together all must hold."""
    async with opened(open) as backend:
        tenant, time = fresh().tenant, now()
        patches = {
            "a": HeadPatch(name="Große Reise", kind="chat", parent="p", waiting=True, metadata={"x": 1, "y": [1, {"z": None}]}),
            "b": HeadPatch(name="große%reise", kind="chat", metadata={"x": 1}),
            "c": HeadPatch(name="other", kind="run", parent="p", waiting=True, metadata={"x": "1"}),
            "d": HeadPatch(),
        }
        for n, (name, patch) in enumerate(patches.items()):
            await created(backend, Key(tenant, name), user_id="ada" if n % 2 else "bob", patch=patch, time=time + n * SECOND)
        for conditions, wanted in _FILTERS:
            moved = {field: time + value if field.startswith("updated") else value for field, value in conditions.items()}
            assert "".join(await listed(backend, Filter(tenant=tenant, **moved), 1)) == wanted, conditions


_FILTERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "dcba"),
    ({"user_id": "ada"}, "db"),
    ({"user_id": "nobody"}, ""),
    ({"waiting": True}, "ca"),
    ({"waiting": False}, "db"),
    ({"user_id": "bob", "waiting": True}, "ca"),
    ({"user_id": "ada", "waiting": True}, ""),
    ({"kind": "chat"}, "ba"),
    ({"kind": "session"}, "d"),
    ({"parent": "p"}, "ca"),
    ({"name": "REISE"}, "ba"),
    ({"name": "große r"}, "a"),
    ({"name": "%"}, "b"),
    ({"name": "_"}, ""),
    ({"metadata": {"x": 1}}, "ba"),
    ({"metadata": {"x": 1, "y": [1, {"z": None}]}}, "a"),
    ({"metadata": {"y": None}}, ""),
    ({"updated_after": 0}, "dcb"),
    ({"updated_after": SECOND, "updated_before": 3 * SECOND}, "c"),
    ({"updated_before": 0}, ""),
)


@clause()
async def filters_follow_changes(open: Opener) -> None:
    """A session is found by what it is now: after a decision it waits no more, after adoption it is its user's."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, patch=HeadPatch(waiting=True))
        assert await listed(backend, Filter(tenant=key.tenant, waiting=True)) == [key.session_id]
        await wrote(backend, key, head, user_id="ada", patch=HeadPatch(waiting=False))
        assert await listed(backend, Filter(tenant=key.tenant, waiting=True)) == []
        assert await listed(backend, Filter(tenant=key.tenant, waiting=False, user_id="ada")) == [key.session_id]


@clause()
async def the_few_are_found_among_the_many(open: Opener) -> None:
    """A page may be short, but following the cursor finds every match, hundreds of others in between."""
    async with opened(open) as backend:
        tenant, wanted = fresh().tenant, list[str]()
        for n in range(400):
            if hit := n % 133 == 0:
                wanted.insert(0, f"s{n}")
            await created(backend, Key(tenant, f"s{n}"), patch=HeadPatch(name="needle" if hit else "hay", metadata={"hit": hit}))
        assert await listed(backend, Filter(tenant=tenant, name="needle"), 2) == wanted
        assert await listed(backend, Filter(tenant=tenant, metadata={"hit": True}), 1) == wanted


@clause()
async def the_expired_are_not_listed(open: Opener) -> None:
    """Expired sessions are in no page, and pages of nothing else come to an end."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        for n in range(9):
            old = {"time": now() - 100 * SECOND, "patch": HeadPatch(ttl=1)}
            await backend.commit(Key(tenant, f"s{n}"), creating(**({} if n == 4 else old)))
        assert await listed(backend, Filter(tenant=tenant), 2) == ["s4"]
