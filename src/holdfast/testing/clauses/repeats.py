"""Repeats: committing twice is committing once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ...backend import Backend, ClaimAct, Commit, Create, Erase, Head, HeadPatch, Key, Outcome, Range
from ...errors import CommitReused
from ...ids import new_incarnation
from ..suite import Opener, clause
from ..tools import (
    VISIBLE,
    blob,
    bodies,
    both,
    content,
    created,
    creating,
    fresh,
    head_of,
    notes,
    opened,
    puts,
    read,
    refused,
    writing,
    wrote,
)


async def _once(backend: Backend, key: Key, commit: Commit) -> Outcome:
    """Commit twice: the second time gets the first's result and changes nothing."""
    first = await backend.commit(key, commit)
    before = content(await read(backend, key))
    again = await backend.commit(key, commit)
    assert not first.repeated
    assert again.repeated
    assert (again.version, again.seq) == (first.version, first.seq)
    assert content(await read(backend, key)) == before
    return again


async def _of_each_kind(open: Opener, **parts: Any) -> None:
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, entries=notes("a", "b"), puts=puts(k="1"), blobs=(blob("b", "1"),))
        await _once(backend, key, writing(head, **parts))
        await _once(backend, key, writing((await read(backend, key)).head, base=0, **parts))


@clause()
async def a_repeated_commit_of_entries_is_one(open: Opener) -> None:
    """The same commit again adds no entry."""
    await _of_each_kind(open, entries=notes("c", "d"), puts=puts(k="2"))


@clause()
async def a_repeated_commit_of_state_is_one(open: Opener) -> None:
    """The same commit again writes no key."""
    await _of_each_kind(open, puts=puts(k="2", new="1"))


@clause()
async def a_repeated_commit_of_blobs_is_one(open: Opener) -> None:
    """The same commit again writes no blob."""
    await _of_each_kind(open, blobs=(blob("b", "2"),))


@clause()
async def a_repeated_patch_is_one(open: Opener) -> None:
    """The same commit again changes nothing of the head."""
    await _of_each_kind(open, patch=HeadPatch(name="n", metadata={"a": 1}))


@clause()
async def a_repeated_hide_is_one(open: Opener) -> None:
    """The same commit again hides nothing more, even if its own entries are what it hid."""
    await _of_each_kind(open, hide=(Range(1, 1),))
    await _of_each_kind(open, entries=notes("c"), hide=(Range(1, 9),))


@clause()
async def a_repeated_clear_is_one(open: Opener) -> None:
    """Erasing the content again does not erase what was written after it."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, entries=notes("old"))
        clear = writing(head, erase=Erase("content", new_incarnation()), entries=notes("new"))
        await wrote(backend, key, head_of(await backend.commit(key, clear)), entries=notes("later"))
        assert (await backend.commit(key, clear)).repeated
        assert await bodies(backend, key) == ["new", "later"]


@clause()
async def a_repeated_creation_is_one(open: Opener) -> None:
    """Creating with the same commit again is no `SessionExists` and no second life."""
    async with opened(open) as backend:
        key = fresh()
        await _once(backend, key, creating(create=Create(new_incarnation(), exclusive=True), entries=notes("a")))


@clause()
async def a_repeated_begin_takes_one_claim(open: Opener) -> None:
    """A run's first commit, repeated, finds the claim its own: no `SessionBusy`, the same fence."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        again = await _once(backend, key, writing(head, entries=notes("input"), claim=ClaimAct("take", "run-1")))
        assert head_of(again).fence == head.fence + 1


@clause()
async def a_repeated_end_is_no_fence_error(open: Opener) -> None:
    """A run's last commit, repeated after it released the claim, is answered, not fenced."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, claim=ClaimAct("take", "run-1"))
        await _once(backend, key, writing(head, entries=notes("output"), fence=head.fence, claim=ClaimAct("release")))


@clause()
async def a_strict_commit_repeated_is_no_conflict(open: Opener) -> None:
    """`expect` and `if_version` are judged once: the repetition is recognised before them."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        await _once(backend, key, writing(head, entries=notes("a"), puts=puts(k="1"), expect=head.version))


@clause()
async def a_repetition_is_known_after_many_commits(open: Opener) -> None:
    """At least the last 1,024 commits of a session are recognised, though the author remembers no version."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        early = [writing(head, base=0, **parts) for parts in ({"entries": notes("a")}, {"puts": puts(k="1")}, {"hide": (Range(1, 1),)})]
        firsts = [await backend.commit(key, commit) for commit in early]
        await _repeat(backend, key, early, firsts)
        for n, many in enumerate((50, 950)):
            later = (writing(head, base=0, **({"entries": notes("x")} if it % 2 else {"puts": puts(k=f"{n}.{it}")})) for it in range(many))
            await asyncio.gather(*(backend.commit(key, commit) for commit in later))
            await _repeat(backend, key, early, firsts)


async def _repeat(backend: Backend, key: Key, commits: list[Commit], firsts: list[Outcome]) -> None:
    for commit, first in zip(commits, firsts, strict=True):
        again = await backend.commit(key, commit)
        assert (again.repeated, again.version, again.seq) == (True, first.version, first.seq)


@clause()
async def an_id_with_other_content_is_refused(open: Opener) -> None:
    """The same commit id with another body, value, blob or hide is an error and writes nothing."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, entries=notes("a"))
        parts: dict[str, Any] = {"entries": notes("b"), "puts": puts(k="1"), "blobs": (blob("b", "1"),)}
        first = writing(head, **parts)
        await backend.commit(key, first)
        before = content(await read(backend, key))
        for other in (
            {"entries": notes("c")},
            {"puts": puts(k="2")},
            {"blobs": (blob("b", "2"),)},
            {"hide": (Range(1, 1),)},
            {"entries": ()},
        ):
            with refused(CommitReused):
                await backend.commit(key, msgspec.structs.replace(first, **other))
        assert content(await read(backend, key)) == before


@clause()
async def an_id_is_one_session_s_own(open: Opener) -> None:
    """The same commit id in two sessions is two commits."""
    async with opened(open) as backend:
        one, other = fresh(), fresh()
        commit = creating(entries=notes("a"))
        assert not (await backend.commit(one, commit)).repeated
        assert not (await backend.commit(other, commit)).repeated


@clause()
async def one_commit_from_many_tasks_is_one(open: Opener) -> None:
    """Eight tries of one commit at once, through two backends: one writes, all get its result."""
    async with both(open) as backends:
        key = fresh()
        head = await created(backends[0], key)
        commit = writing(head, base=0, entries=notes("a", "b"), puts=puts(k="1"))
        ended = await asyncio.gather(*(backends[n % 2].commit(key, commit) for n in range(8)))
        assert sorted(it.repeated for it in ended) == [False] + [True] * 7
        assert {(it.version, it.seq) for it in ended} == {(head.version + 1, 2)}
        assert await bodies(backends[1], key) == ["a", "b"]


@clause()
async def a_repetition_is_answered_from_now(open: Opener) -> None:
    """The plan of a repeated commit is answered, with what came since; `Outcome.head` is the head now."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        commit = writing(head, entries=notes("a"), answer=VISIBLE)
        after: Head = head_of(await backend.commit(key, commit))
        after = await wrote(backend, key, after, entries=notes("b"))
        again = await backend.commit(key, commit)
        assert again.head == after
        assert again.snapshot == await read(backend, key, VISIBLE)
