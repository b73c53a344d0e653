"""Claims: one run at a time, and a run that was taken over can do no harm. No clock decides."""

from __future__ import annotations

import msgspec

from ...backend import Backend, BlobDrop, ClaimAct, Erase, Head, Key, ReadPlan
from ...errors import Conflict, Fenced, SessionBusy
from ...ids import new_incarnation, now
from ..suite import Opener, clause
from ..tools import (
    SECOND,
    blob,
    bodies,
    both,
    contents,
    created,
    fresh,
    head_of,
    notes,
    opened,
    puts,
    read,
    refused,
    settled,
    writing,
    wrote,
)


async def _held(backend: Backend, key: Key, holder: str = "first", lease: float = 30.0) -> Head:
    return await created(backend, key, claim=ClaimAct("take", holder, lease))


def _over(head: Head, holder: str) -> ClaimAct:
    """Takes over from a holder that was seen standing still."""
    assert head.claim is not None
    return ClaimAct("take", holder, seen=(head.fence, head.claim.beat))


def _holds(head: Head) -> tuple[str, int, float]:
    assert head.claim is not None
    return head.claim.holder, head.claim.beat, head.claim.lease


@clause()
async def a_claim_is_in_the_head(open: Opener) -> None:
    """Who holds the session, its heartbeat and its lease are readable by everybody; releasing leaves no claim."""
    async with opened(open) as backend:
        key = fresh()
        head = await _held(backend, key, "run-1", 12.5)
        assert (await read(backend, key)).head == head
        assert _holds(head) == ("run-1", 0, 12.5)
        head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("renew"))
        assert _holds(head) == ("run-1", 1, 12.5)
        head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("release"))
        assert (await read(backend, key)).head.claim is None


@clause()
async def a_held_session_is_busy(open: Opener) -> None:
    """A second taker gets `SessionBusy`, which tells the fence, beat and lease it has to watch."""
    async with opened(open) as backend:
        key = fresh()
        head = await _held(backend, key, lease=7)
        head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("renew"))
        with refused(SessionBusy) as caught:
            await backend.commit(key, writing(head, claim=ClaimAct("take", "second")))
        assert (caught.error.fence, caught.error.beat, caught.error.lease) == (head.fence, 1, 7)


@clause()
async def a_claim_stops_runs_not_writers(open: Opener) -> None:
    """A commit without a fence goes through while a run holds the session."""
    async with opened(open) as backend:
        key = fresh()
        head = await _held(backend, key)
        await wrote(backend, key, head, entries=notes("a"))
        assert await bodies(backend, key) == ["a"]


@clause()
async def a_repeated_take_or_release_is_one(open: Opener) -> None:
    """A take or a release whose answer got lost is repeated without harm: the same fence, no second holder, no error."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        take = writing(head, claim=ClaimAct("take", "run-1"))
        held = (await backend.commit(key, take)).head
        assert held is not None
        again = (await backend.commit(key, take)).head
        assert again is not None
        assert (again.fence, _holds(again)) == (held.fence, _holds(held))
        release = writing(held, fence=held.fence, claim=ClaimAct("release"))
        await backend.commit(key, release)
        await backend.commit(key, release)
        assert (await read(backend, key)).head.claim is None


@clause()
async def a_heartbeat_carries_blobs_and_moves_nothing(open: Opener) -> None:
    """What a holder tells along with a heartbeat is read at once, replaced and dropped; the version stays, nobody conflicts."""
    async with opened(open) as backend:
        key = fresh()
        head = await _held(backend, key)
        for beat, told in enumerate(("so", "so far"), 1):
            last = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("renew"), blobs=(blob("live", told),))
            found = await read(backend, key)
            assert found.head == last
            assert (last.version, last.seq, _holds(last)[1]) == (head.version, head.seq, beat)
            assert contents(found) == {("files", "live"): told.encode()}
        strict = writing(head, expect=head.version, entries=notes("a"), fence=head.fence)
        after = head_of(await backend.commit(key, strict))
        last = await wrote(backend, key, after, fence=head.fence, claim=ClaimAct("renew"), drops=(BlobDrop("files", "live"),))
        found = await read(backend, key)
        assert (last.version, contents(found)) == (after.version, {})
        other = await wrote(backend, key, last, claim=_over(last, "second"))
        with refused(Fenced):
            late = writing(other, fence=head.fence, claim=ClaimAct("renew"), blobs=(blob("live", "late"),))
            await backend.commit(key, late)
        assert contents(await read(backend, key)) == {}


@clause()
async def a_take_over_needs_the_last_heartbeat(open: Opener) -> None:
    """Only who has seen the newest (fence, beat) takes over; a beat in between refuses it."""
    async with opened(open) as backend:
        key = fresh()
        seen = await _held(backend, key)
        head = await wrote(backend, key, seen, fence=seen.fence, claim=ClaimAct("renew"))
        with refused(SessionBusy):
            await backend.commit(key, writing(head, claim=_over(seen, "second")))
        head = await wrote(backend, key, head, claim=_over(head, "second"))
        assert _holds(head) == ("second", 0, 30.0)
        assert head.fence == seen.fence + 1


@clause()
async def who_was_taken_over_is_fenced(open: Opener) -> None:
    """Whatever the old holder commits, heartbeats and its release too, is refused, and the new holder is undisturbed."""
    async with opened(open) as backend:
        key = fresh()
        old = await _held(backend, key)
        new = await wrote(backend, key, old, claim=_over(old, "second"))
        for late in ({"entries": notes("late")}, {"puts": puts(a="late")}, {"claim": ClaimAct("renew")}, {"claim": ClaimAct("release")}):
            with refused(Fenced):
                await backend.commit(key, writing(new, fence=old.fence, **late))
        assert (await read(backend, key)).head == new


@clause()
async def who_has_released_is_fenced(open: Opener) -> None:
    """A fence ends with its claim, though nobody has taken it since."""
    async with opened(open) as backend:
        key = fresh()
        head = await _held(backend, key)
        head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("release"))
        with refused(Fenced):
            await backend.commit(key, writing(head, fence=head.fence, entries=notes("late")))


@clause()
async def fences_only_grow(open: Opener) -> None:
    """Each take has a greater fence than all before it, across releases, take-overs and clears."""
    async with opened(open) as backend:
        key, fences = fresh(), list[int]()
        head = await created(backend, key)
        for n in range(9):
            claim = ClaimAct("take", f"run-{n}") if head.claim is None else _over(head, f"run-{n}")
            head = await wrote(backend, key, head, claim=claim)
            fences.append(head.fence)
            if n % 3 == 0:
                head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("release"))
            elif n % 3 == 1:
                head = await wrote(backend, key, head, erase=Erase("content", new_incarnation()))
        assert fences == sorted(set(fences))


@clause()
async def a_clear_ends_the_claim(open: Opener) -> None:
    """Clearing a session ends the run that holds it."""
    async with opened(open) as backend:
        key = fresh()
        held = await _held(backend, key)
        head = await wrote(backend, key, held, erase=Erase("content", new_incarnation()))
        assert head.claim is None
        with refused(Fenced):
            await backend.commit(key, writing(head, fence=held.fence, entries=notes("late")))


@clause()
async def heartbeats_disturb_nobody(open: Opener) -> None:
    """A heartbeat does not move the version: whoever expects it still finds it."""
    async with opened(open) as backend:
        key = fresh()
        seen = head = await _held(backend, key)
        for _ in range(3):
            head = await wrote(backend, key, head, fence=head.fence, claim=ClaimAct("renew"))
        await wrote(backend, key, seen, expect=seen.version, entries=notes("a"))
        assert (await read(backend, key, ReadPlan(state_since=seen.version))).head.version == seen.version + 1


@clause()
async def a_claim_and_its_commit_are_one(open: Opener) -> None:
    """Input and claim are stored together, and so are output and release."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        head = await wrote(backend, key, head, entries=notes("input"), claim=ClaimAct("take", "run"))
        assert (head.claim is not None, head.seq) == (True, 1)
        head = await wrote(backend, key, head, entries=notes("output"), fence=head.fence, claim=ClaimAct("release"))
        assert (head.claim is None, head.seq) == (True, 2)
        with refused(Conflict):
            await backend.commit(key, writing(head, expect=0, claim=ClaimAct("take", "other")))
        assert (await read(backend, key)).head == head


@clause()
async def no_wall_clock_ends_a_claim(open: Opener) -> None:
    """A claim taken long ago by the writer's clock is as good as any."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, time=now() - 1000 * SECOND, claim=ClaimAct("take", "slow", lease=1))
        with refused(SessionBusy):
            await backend.commit(key, writing(head, claim=ClaimAct("take", "second", lease=1)))
        await wrote(backend, key, head, time=now() + 1000 * SECOND, fence=head.fence, entries=notes("a"))


@clause()
async def of_many_takers_one_wins(open: Opener) -> None:
    """A free session taken by ten at once has one holder; nine are told that it is busy."""
    async with both(open) as backends:
        key = fresh()
        head = await created(backends[0], key)
        takes = [backends[n % 2].commit(key, writing(head, claim=ClaimAct("take", f"run-{n}"))) for n in range(10)]
        won, lost = await settled(takes, SessionBusy)
        assert (len(won), len(lost)) == (1, 9)
        assert (await read(backends[1], key)).head == head_of(won[0])


@clause()
async def of_many_take_overs_one_wins(open: Opener) -> None:
    """Of ten that have watched the same claim stand still, one takes it over."""
    async with both(open) as backends:
        key = fresh()
        head = await _held(backends[0], key)
        takes = [backends[n % 2].commit(key, writing(head, claim=_over(head, f"run-{n}"))) for n in range(10)]
        won, lost = await settled(takes, SessionBusy)
        assert (len(won), len(lost)) == (1, 9)
        assert {error.fence for error in lost} == {head.fence + 1}
        assert msgspec.structs.replace(head_of(won[0]), claim=None).fence == head.fence + 1
