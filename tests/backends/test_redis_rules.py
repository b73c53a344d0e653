"""The scripts write what the rules say: any course of commits leaves Redis and a ledger in memory with the same answers and errors."""

import random
from collections.abc import Callable, Generator
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.backend import (
    Backend,
    BlobDrop,
    BlobRange,
    ClaimAct,
    Commit,
    Counts,
    Create,
    Erase,
    Filter,
    Head,
    HeadPatch,
    Key,
    Put,
    Range,
    ReadPlan,
    Snapshot,
    Window,
)
from holdfast.backends import redis
from holdfast.backends.memory import MemoryBackend
from holdfast.entries import MESSAGE, NOTE, RUN
from holdfast.errors import HoldfastError
from holdfast.ids import new_id, new_incarnation, now
from holdfast.rules import changes
from holdfast.testing.tools import EVERYTHING, SECOND, blob, fresh, listed, note

from ..servers.redis import redis8, server

COMMITS = 400
NAMES = ("a", "b", "a/1", "a\0b", "a\1b", "ü", "")
KINDS = (MESSAGE, NOTE, RUN, "odd\0kind")
VALUES: tuple[Any, ...] = (None, 1, [], {}, "ü")
RUNS = ("one", "two", None)


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


def some(dice: random.Random, most: int, make: Callable[[], Any]) -> tuple[Any, ...]:
    return tuple(make() for _ in range(dice.choice((0, 0, 1, most))))


def any_patch(dice: random.Random) -> HeadPatch | None:
    metadata: dict[str, Any] = {dice.choice("xy"): dice.choice(VALUES)}
    patches = (
        HeadPatch(name="n"),
        HeadPatch(metadata=metadata),
        HeadPatch(waiting=dice.random() < 0.5),
        HeadPatch(ttl=dice.choice((None, 500))),
    )
    return dice.choice((None, None, *patches))


def any_claim(dice: random.Random, head: Head | None) -> ClaimAct | None:
    seen = (head.fence, head.claim.beat) if head is not None and head.claim is not None and dice.random() < 0.7 else None
    return dice.choice((None, None, None, ClaimAct("take", "me", 12.5, seen), ClaimAct("renew"), ClaimAct("release")))


def any_erase(dice: random.Random) -> Erase | None:
    chance = dice.random()
    return Erase("session") if chance < 0.02 else Erase("content", new_incarnation()) if chance < 0.05 else None


def any_commit(dice: random.Random, head: Head | None, old: list[Commit]) -> Commit:
    """A commit of somebody who may have seen this head; sometimes an earlier one, with or without other content."""
    if old and dice.random() < 0.1:
        again = dice.choice(old)
        return again if dice.random() < 0.7 else replace(again, puts=(Put("other", b"1"),))
    version, incarnation = (head.version, head.incarnation) if head else (0, 1)
    known = dice.random() < 0.6
    return Commit(
        id=new_id(),
        time=now() + dice.randrange(-5, 5) * SECOND,
        incarnation=incarnation if known and dice.random() < 0.9 else None,
        base=version if known else 0,
        create=Create(new_incarnation(), exclusive=dice.random() < 0.1, patch=any_patch(dice)) if dice.random() < 0.5 else None,
        user_id=dice.choice((None, "ada", "ada", "bob")),
        check_owner=dice.random() < 0.2,
        expect=dice.choice((None, None, None, None, version, version - 1)),
        fence=head.fence - dice.choice((0, 0, 0, 1)) if head and dice.random() < 0.3 else None,
        entries=some(dice, 4, lambda: note(dice.randbytes(5), dice.choice(KINDS), dice.choice(RUNS))),
        hide=some(dice, 2, lambda: any_range(dice, head)),
        puts=tuple({it.key: it for it in some(dice, 3, lambda: any_put(dice, version))}.values()),
        blobs=some(dice, 3, lambda: blob(dice.choice(NAMES), dice.randbytes(3), dice.choice(NAMES), if_absent=dice.random() < 0.5)),
        drops=some(dice, 1, lambda: BlobDrop(dice.choice(NAMES), dice.choice((None, *NAMES)), dice.choice(("", "a")))),
        patch=any_patch(dice),
        counts=dice.choice((None, Counts(messages=1))),
        claim=any_claim(dice, head),
        erase=any_erase(dice),
        answer=dice.choice((None, EVERYTHING, any_plan(dice, head))),
    )


def any_put(dice: random.Random, version: int) -> Put:
    return Put(dice.choice(NAMES), dice.choice((None, dice.randbytes(4))), dice.choice((None, None, None, version)))


def any_range(dice: random.Random, head: Head | None) -> Range:
    first = dice.randrange(max(head.seq if head else 0, 1) + 2)
    return Range(first, first + dice.choice((0, 1, 5)))


def any_plan(dice: random.Random, head: Head | None) -> ReadPlan:
    seq = head.seq if head else 0
    window = Window(
        after=dice.randrange(seq + 2),
        before=dice.choice((None, dice.randrange(seq + 3))),
        limit=dice.choice((None, 0, 1, 3)),
        newest=dice.random() < 0.5,
        kinds=dice.choice(((), (NOTE,), (RUN, "odd\0kind"), (MESSAGE, NOTE), (RUN, RUN))),
        run_id=dice.choice((None, None, "one", "three")),
        hidden=dice.random() < 0.3,
    )
    namespace = dice.choice((None, *NAMES))
    ranges = (BlobRange(), BlobRange(namespace=namespace, prefix="a"), BlobRange(namespace=namespace, keys=("a", "", "a\0b"), data=False))
    since = dice.choice((None, 0, head.version - dice.randrange(5) if head else 0))
    return ReadPlan(state_since=since if since is None else max(since, 0), entries=window, blobs=dice.choice(((), ranges)))


def told(snapshot: Snapshot | None) -> Any:
    return snapshot and (snapshot.head, snapshot.state_whole, snapshot.state, snapshot.entries, snapshot.blobs)


async def tried(backend: Backend, key: Key, commit: Commit) -> Any:
    """Everything that a commit tells its author: the outcome, or the error."""
    try:
        outcome = await backend.commit(key, commit)
    except HoldfastError as error:
        return type(error), str(error)
    return outcome.head, outcome.version, outcome.seq, outcome.repeated, told(outcome.snapshot)


@pytest.mark.parametrize("seed", range(4))
async def test_any_course_of_commits(url: str, seed: int) -> None:
    dice = random.Random(seed)
    theirs, prefix = MemoryBackend(), new_id()
    ours = [redis.from_url(f"{url}?prefix={prefix}:") for _ in range(2)]
    keys, old = [fresh(), fresh()], list[Commit]()
    for turn in range(COMMITS):
        key = dice.choice(keys)
        snapshot = await theirs.read(key, ReadPlan())
        commit = any_commit(dice, snapshot and snapshot.head, old)
        one = dice.choice(ours)
        assert await tried(one, key, commit) == await tried(theirs, key, commit), (turn, commit)
        old = [*old[-20:], commit] if changes(commit) else old  # of those that change nothing nobody keeps the ids
        plan = dice.choice((EVERYTHING, any_plan(dice, snapshot and snapshot.head)))
        assert told(await one.read(key, plan)) == told(await theirs.read(key, plan)), (turn, plan)
        for filter in (Filter(tenant=key.tenant), Filter(tenant=key.tenant, user_id="ada"), Filter(tenant=key.tenant, waiting=True)):
            assert await listed(one, filter) == await listed(theirs, filter), (turn, filter)
    assert await ours[0].check() == []
    for it in ours:
        await it.close()
