"""Seeing each other: whatever one backend object writes, every other one sees at its next read. A cache is right or it is wrong here."""

from __future__ import annotations

import random
from typing import Any

from ...backend import Backend, BlobDrop, ClaimAct, Erase, Head, HeadPatch, Key, Range, ReadPlan, Snapshot, Window
from ...errors import SessionGone
from ...ids import new_incarnation
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
    head_of,
    notes,
    puts,
    read,
    refused,
    values,
    writing,
    wrote,
)

_TURN = ReadPlan(state_since=0, entries=Window(limit=8))


async def _agree(one: Backend, other: Backend, key: Key) -> None:
    """Both give the same answers, the second one having known the session from before."""
    for plan in (_TURN, ReadPlan(), ReadPlan(entries=Window(newest=False)), VISIBLE, EVERYTHING):
        assert _told_by(await read(other, key, plan)) == _told_by(await read(one, key, plan)), plan


def _told_by(snapshot: Snapshot) -> tuple[Any, ...]:
    """What a reader learns, whichever way the backend chose to tell the state."""
    return snapshot.head, snapshot.entries, snapshot.state and values(snapshot), snapshot.blobs


async def _told(open: Opener, **parts: Any) -> None:
    """The other backend has read the session, then `parts` is committed: it must see all of it."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key, entries=notes(*"abcdef"), puts=puts(k="1", gone="1"), blobs=(blob("b", "1"),))
        for plan in (_TURN, VISIBLE):
            await read(other, key, plan)
        await wrote(one, key, head, **parts)
        await _agree(one, other, key)
        await wrote(other, key, (await read(other, key)).head, entries=notes("answer"))
        await _agree(other, one, key)


@clause()
async def another_s_entries_are_seen(open: Opener) -> None:
    """New entries are in the next reading of everybody."""
    await _told(open, entries=notes("x", "y"))


@clause()
async def another_s_state_is_seen(open: Opener) -> None:
    """Changed and new keys are in the next reading of everybody."""
    await _told(open, puts=puts(k="2", new="1"))


@clause()
async def another_s_deletion_is_seen(open: Opener) -> None:
    """A deleted key is in nobody's next reading."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key, puts=puts(k="1", gone="1"))
        assert values(await read(other, key, _TURN)) == {"k": "1", "gone": "1"}
        head = await wrote(one, key, head, puts=puts(gone=None))
        assert values(await read(other, key, _TURN)) == {"k": "1"}
        await wrote(one, key, head, puts=puts(k="2"))
        assert values(await read(other, key, _TURN)) == {"k": "2"}


@clause()
async def another_s_hides_are_seen(open: Opener) -> None:
    """A hidden entry is in nobody's next window, whether alone or with new entries after it."""
    await _told(open, hide=(Range(2, 4),))
    await _told(open, hide=(Range(5, 7),), entries=notes("x", "y"))


@clause()
async def another_s_blobs_are_seen(open: Opener) -> None:
    """Replaced, new and dropped blobs are so in the next reading of everybody."""
    await _told(open, blobs=(blob("b", "2"), blob("c", "1")))
    await _told(open, drops=(BlobDrop("files", "b"),))


@clause()
async def another_s_patch_is_seen(open: Opener) -> None:
    """Name, owner and time to live are in everybody's next head."""
    await _told(open, patch=HeadPatch(name="new", metadata={"a": 1}, ttl=500))
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key)
        await read(other, key)
        await wrote(one, key, head, user_id="ada")
        assert (await read(other, key, ReadPlan())).head.user_id == "ada"


@clause()
async def another_s_heartbeat_is_seen(open: Opener) -> None:
    """Claims and heartbeats move no version, and are seen all the same."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key)
        for claim in (ClaimAct("take", "run"), ClaimAct("renew"), ClaimAct("release")):
            await read(other, key, _TURN)
            head = await wrote(one, key, head, claim=claim)
            assert (await read(other, key, _TURN)).head == head


@clause()
async def another_s_clear_is_seen(open: Opener) -> None:
    """After a clear nobody reads anything from before it, though versions go on."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key, entries=notes("a", "b"), puts=puts(k="1"), blobs=(blob("b", "1"),))
        for plan in (_TURN, VISIBLE):
            await read(other, key, plan)
        head = await wrote(one, key, head, erase=Erase("content", new_incarnation()))
        assert await bodies(other, key) == []
        assert values(await read(other, key)) == {}
        assert contents(await read(other, key)) == {}
        await wrote(one, key, head, entries=notes("x", "y", "z"))
        assert await bodies(other, key, Window(limit=8)) == ["x", "y", "z"]


@clause()
async def another_s_deletion_of_the_session_is_seen(open: Opener) -> None:
    """A deleted session is there for nobody, and one made anew is the new one for everybody."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key, entries=notes("a", "b"), puts=puts(k="1"))
        await read(other, key, _TURN)
        await one.commit(key, writing(head, erase=Erase("session")))
        assert await other.read(key, _TURN) is None
        with refused(SessionGone):
            await other.commit(key, writing(head, entries=notes("late")))
        await created(one, key, entries=notes("new"), puts=puts(n="1"))
        assert await bodies(other, key, Window(limit=8)) == ["new"]
        assert values(await read(other, key, _TURN)) == {"n": "1"}


@clause()
async def a_deletion_seen_by_a_stranger_is_seen_by_all(open: Opener) -> None:
    """A session deleted and made anew with as many versions as before is not taken for the old one."""
    async with both(open) as (one, other):
        key = fresh()
        head = await created(one, key, entries=notes("old"), puts=puts(k="old"))
        await read(other, key, _TURN)
        await one.commit(key, writing(head, erase=Erase("session")))
        await created(one, key, entries=notes("new"), puts=puts(k="new"))
        assert await bodies(other, key, Window(limit=8)) == ["new"]
        assert values(await read(other, key, _TURN)) == {"k": "new"}


@clause()
async def two_backends_never_disagree(open: Opener) -> None:
    """Any course of commits through either of two backends leaves both with the same answers, whatever each has read before."""
    async with both(open) as backends:
        key, dice = fresh(), random.Random(5)  # the same course each time
        head = await created(backends[0], key)
        for turn in range(150):
            writer, reader = dice.sample(backends, 2)
            parts = _any_parts(dice, head, str(turn))
            head = head_of(await writer.commit(key, writing(head, base=dice.choice((0, head.version)), **parts)))
            if dice.random() < 0.7:
                assert await reader.read(key, _any_plan(dice, head)) is not None
            if turn % 3 == 0:
                await _agree(writer, reader, key)
        check_gapless(await read(backends[1], key))


def _any_parts(dice: random.Random, head: Head, text: str) -> dict[str, Any]:
    some: tuple[dict[str, Any], ...] = (
        {"entries": notes(text)},
        {"entries": notes(text, text), "puts": puts(**{f"k{dice.randrange(4)}": text})},
        {"puts": puts(**{f"k{dice.randrange(4)}": dice.choice((None, text))})},
        {"hide": (Range(max(head.seq - 1, 1), head.seq),)},
        {"hide": (Range(max(head.seq - 9, 1), max(head.seq - 7, 1)),), "entries": notes(text)},
        {"blobs": (blob(f"b{dice.randrange(3)}", text),)},
        {"patch": HeadPatch(name=text)},
        {"erase": Erase("content", new_incarnation())} if dice.random() < 0.2 else {},
    )
    return dice.choice(some)


def _any_plan(dice: random.Random, head: Head) -> ReadPlan:
    window = Window(limit=dice.choice((None, 1, 4)), after=dice.choice((0, head.seq, max(head.seq - 2, 0))), newest=dice.random() < 0.7)
    return ReadPlan(state_since=dice.choice((None, 0, head.version)), entries=dice.choice((None, window)))
