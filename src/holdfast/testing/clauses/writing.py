"""Writing: a commit happens whole or not at all, and does what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...backend import (
    Backend,
    BlobDrop,
    ClaimAct,
    Commit,
    Counts,
    Create,
    Erase,
    Head,
    HeadPatch,
    Key,
    Put,
    Range,
    ReadPlan,
    Window,
)
from ...errors import Conflict, Fenced, SessionBusy, SessionExists, SessionGone, SessionNotFound, TooLarge
from ...ids import new_incarnation
from ..suite import Opener, clause
from ..tools import (
    VISIBLE,
    blob,
    bodies,
    check_gapless,
    content,
    contents,
    created,
    creating,
    fresh,
    head_of,
    note,
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

_FULL: dict[str, Any] = {
    "hide": (Range(1, 1),),
    "puts": puts(a="new", b="new"),
    "blobs": (blob("a", "new"), blob("b", "new")),
    "drops": (BlobDrop("files", "dropped"),),
    "patch": HeadPatch(name="new", metadata={"new": 1}, waiting=True, ttl=1000),
    "counts": Counts(messages=1),
}
"""One of everything that a commit can change, but entries."""


async def _filled(backend: Backend, key: Key) -> Head:
    blobs = (blob("a", "old"), blob("dropped", "old"))
    return await created(backend, key, entries=notes("old"), puts=puts(a="old"), blobs=blobs, claim=ClaimAct("take", "old"))


async def _leaves_all_as_it_was(open: Opener, kind: type[Exception], make: Callable[[Head], Commit]) -> None:
    """A commit that would change everything is refused as `kind` and changes nothing."""
    async with opened(open) as backend:
        key = fresh()
        head = await _filled(backend, key)
        before = content(await read(backend, key))
        with refused(kind):
            await backend.commit(key, make(head))
        assert content(await read(backend, key)) == before


@clause()
async def a_wrong_expect_changes_nothing(open: Opener) -> None:
    """`expect` is the whole session's version: not that one, and nothing of the commit happens."""
    await _leaves_all_as_it_was(open, Conflict, lambda head: writing(head, entries=notes("new"), expect=head.version - 1, **_FULL))


@clause()
async def a_wrong_key_version_changes_nothing(open: Opener) -> None:
    """`if_version` on the second of two keys refuses the first one too."""
    full = _FULL | {"puts": (Put("b", b"new"), Put("a", b"new", if_version=0))}
    await _leaves_all_as_it_was(open, Conflict, lambda head: writing(head, entries=notes("new"), **full))


@clause()
async def an_old_fence_changes_nothing(open: Opener) -> None:
    """A commit under a claim that is not the newest is refused whole."""
    await _leaves_all_as_it_was(open, Fenced, lambda head: writing(head, entries=notes("new"), fence=head.fence - 1, **_FULL))


@clause()
async def a_claim_refused_changes_nothing(open: Opener) -> None:
    """Input that comes with a claim is not stored when the claim is not given."""
    take = ClaimAct("take", "other")
    await _leaves_all_as_it_was(open, SessionBusy, lambda head: writing(head, entries=notes("new"), claim=take, **_FULL))


@clause()
async def creating_what_exists_changes_nothing(open: Opener) -> None:
    """An exclusive creation of a session that is there is refused whole."""
    create = Create(new_incarnation(), exclusive=True)
    await _leaves_all_as_it_was(open, SessionExists, lambda _: creating(create=create, entries=notes("new"), **_FULL))


@clause()
async def a_writer_of_another_life_changes_nothing(open: Opener) -> None:
    """A commit for another incarnation is refused whole."""
    await _leaves_all_as_it_was(open, SessionGone, lambda _: writing(Head(new_incarnation()), entries=notes("new"), **_FULL))


@clause()
async def a_body_too_large_changes_nothing(open: Opener) -> None:
    """One byte over the declared size, as an entry, a value or a blob, refuses the whole commit."""
    async with opened(open) as backend:
        limit = backend.capabilities.max_entry_bytes
    large = bytes(limit + 1)
    for more in ({"entries": (note("new"), note(large))}, {"puts": (Put("z", large),)}, {"blobs": (blob("z", large),)}):
        parts = _FULL | {"entries": notes("new")} | more
        await _leaves_all_as_it_was(open, TooLarge, lambda head, parts=parts: writing(head, **parts))


@clause()
async def a_commit_creates_only_when_told_to(open: Opener) -> None:
    """Without `create` there is `SessionNotFound` (and `SessionGone` for one that was seen), and no session after it."""
    async with opened(open) as backend:
        key = fresh()
        bare = creating(create=None, entries=notes("new"))
        with refused(SessionNotFound):
            await backend.commit(key, bare)
        with refused(SessionGone):
            await backend.commit(key, writing(Head(new_incarnation()), create=Create(new_incarnation())))
        assert await backend.read(key, ReadPlan()) is None


@clause()
async def the_log_has_no_gaps(open: Opener) -> None:
    """Every entry's seq follows the one before it, whatever other commits come between."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        for n in range(12):
            parts = ({"entries": notes(*"abc"[: n % 4])}, {"puts": puts(n=str(n))}, {"hide": (Range(1, n),)})[n % 3]
            head = await wrote(backend, key, head, **parts)
        with refused(Conflict):
            await backend.commit(key, writing(head, entries=notes("refused"), expect=0))
        await wrote(backend, key, head, entries=notes("last"))
        check_gapless(await read(backend, key))


@clause()
async def each_change_is_one_version(open: Opener) -> None:
    """Whatever a commit changes, and however much, the version grows by one, from 1 at creation."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        assert head.version == 1
        single: tuple[dict[str, Any], ...] = tuple({name: part} for name, part in _FULL.items())
        for n, parts in enumerate(({"entries": notes("a", "b")}, *single, {"erase": Erase("content", new_incarnation())}, _FULL), 2):
            outcome = await backend.commit(key, writing(head, **parts))
            head = head_of(outcome)
            assert (head.version, outcome.version, outcome.seq) == (n, n, head.seq), parts


@clause()
async def contact_and_heartbeats_are_no_version(open: Opener) -> None:
    """Taking, renewing and releasing a claim, or an empty commit, leaves version and entries where they are."""
    async with opened(open) as backend:
        key = fresh()
        head = first = await created(backend, key, entries=notes("a"))
        for claim in (None, ClaimAct("take", "me"), ClaimAct("renew"), ClaimAct("renew"), ClaimAct("release")):
            head = await wrote(backend, key, head, claim=claim)
            assert (head.version, head.seq) == (first.version, first.seq), claim
        await wrote(backend, key, head, expect=first.version, entries=notes("b"))


@clause()
async def counts_add_up(open: Opener) -> None:
    """Counts are running totals of every commit."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, counts=Counts(messages=2, bytes=10))
        head = await wrote(backend, key, head, counts=Counts(runs=1, messages=1, input_tokens=7))
        await wrote(backend, key, head, counts=Counts(output_tokens=5, model_calls=2, tool_calls=3, micros=4))
        found = (await read(backend, key)).head.counts
        assert found == Counts(runs=1, messages=3, input_tokens=7, output_tokens=5, bytes=10, model_calls=2, tool_calls=3, micros=4)


@clause()
async def a_patch_changes_only_what_it_names(open: Opener) -> None:
    """Fields are set, None clears them; metadata and service ids are merged by key, None removes one."""
    async with opened(open) as backend:
        key = fresh()
        first = HeadPatch(
            name="n", agent="a", kind="k", parent="p", metadata={"a": 1, "b": {"c": [1, None]}}, service_ids={"": "x", "y": "z"}
        )
        head = await created(backend, key, patch=first)
        await wrote(backend, key, head, patch=HeadPatch(agent=None, metadata={"a": None, "d": "é"}, service_ids={"": "new"}, waiting=True))
        head = (await read(backend, key)).head
        assert (head.name, head.agent, head.kind, head.parent, head.waiting) == ("n", None, "k", "p", True)
        assert head.metadata == {"b": {"c": [1, None]}, "d": "é"}
        assert head.service_ids == {"": "new", "y": "z"}


@clause()
async def a_commit_may_hide_its_own_entries(open: Opener) -> None:
    """Hiding comes after adding: a range may reach into the commit's own entries."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, entries=notes("a", "b"))
        await wrote(backend, key, head, entries=notes("c", "d"), hide=(Range(2, 3),))
        assert await bodies(backend, key) == ["a", "d"]
        assert texts(await read(backend, key)) == list("abcd")


@clause()
async def hiding_beyond_the_end_stays_in_the_session(open: Opener) -> None:
    """A range wider than the log hides what is there, and later entries and other sessions not."""
    async with opened(open) as backend:
        key, other = fresh(), fresh()
        head = await created(backend, key, entries=notes("a", "b"))
        await created(backend, other, entries=notes("x", "y"))
        head = await wrote(backend, key, head, hide=(Range(0, 1 << 40),))
        await wrote(backend, key, head, entries=notes("c"))
        assert await bodies(backend, key) == ["c"]
        assert await bodies(backend, other) == ["x", "y"]


@clause()
async def erased_and_written_anew_in_one_commit(open: Opener) -> None:
    """Erasing comes first: what the same commit writes is all there is, from seq 1, in a new life with the same owner and metadata."""
    async with opened(open) as backend:
        key = fresh()
        await created(
            backend, key, entries=notes("old"), puts=puts(a="old"), blobs=(blob("a", "old"),), patch=HeadPatch(metadata={"kept": 1})
        )
        head, life = (await read(backend, key)).head, new_incarnation()
        erase = Erase("content", life)
        await wrote(backend, key, head, erase=erase, entries=notes("new"), puts=puts(b="new"), blobs=(blob("b", "new"),))
        now = await read(backend, key)
        check_gapless(now)
        assert (texts(now), values(now), contents(now)) == (["new"], {"b": "new"}, {("files", "b"): b"new"})
        assert (now.head.incarnation, now.head.version, now.head.metadata) == (life, head.version + 1, {"kept": 1})


@clause()
async def a_blob_is_kept_or_replaced(open: Opener) -> None:
    """`if_absent` keeps the blob that is there, a plain put replaces it; drops come before puts."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, blobs=(blob("a", "1"), blob("b", "1"), blob("c", "1")))
        more = (blob("a", "2", if_absent=True), blob("b", "2"), blob("c", "2", if_absent=True), blob("d", "2", if_absent=True))
        await wrote(backend, key, head, drops=(BlobDrop("files", "c"),), blobs=more)
        found = contents(await read(backend, key))
        assert found == {("files", "a"): b"1", ("files", "b"): b"2", ("files", "c"): b"2", ("files", "d"): b"2"}


@clause()
async def blobs_are_dropped_by_namespace(open: Opener) -> None:
    """A drop without key or prefix empties one namespace."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, blobs=(blob("a", ""), blob("b", ""), blob("a", "", "other")))
        await wrote(backend, key, head, drops=(BlobDrop("files"),))
        assert list(contents(await read(backend, key))) == [("other", "a")]


@clause()
async def the_answer_is_of_the_moment_after(open: Opener) -> None:
    """A plan that comes with a commit is answered with the commit's own effects in it, and with nothing later."""
    async with opened(open) as backend:
        key = fresh()
        outcome = await backend.commit(key, creating(entries=notes("a"), puts=puts(k="1"), blobs=(blob("b", "1"),), answer=VISIBLE))
        assert outcome.snapshot == await read(backend, key, VISIBLE)
        head = head_of(outcome)
        plan = ReadPlan(state_since=head.version, entries=Window(limit=1))
        outcome = await backend.commit(key, writing(head, entries=notes("b"), puts=puts(k=None), answer=plan))
        assert outcome.snapshot is not None
        assert texts(outcome.snapshot) == ["b"]
        assert values(outcome.snapshot) == {}
        assert outcome.snapshot.head == outcome.head
        assert (await backend.commit(key, writing(head_of(outcome)))).snapshot is None


@clause()
async def version_zero_means_no_such_key(open: Opener) -> None:
    """`if_version` 0 writes a key that isn't there, never was or not any more, and refuses one that is."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        head = await wrote(backend, key, head, puts=(Put("k", b"1", if_version=0),))
        with refused(Conflict) as caught:
            await backend.commit(key, writing(head, puts=(Put("k", b"2", if_version=0),)))
        assert (caught.error.key, caught.error.found) == ("k", head.version)
        head = await wrote(backend, key, head, puts=(Put("k", None),))
        await wrote(backend, key, head, puts=(Put("k", b"3", if_version=0),))
        assert values(await read(backend, key)) == {"k": "3"}


@clause()
async def a_key_version_is_of_its_last_change(open: Opener) -> None:
    """`if_version` accepts the version of the key's last change, however the session has moved since, and no older one."""
    async with opened(open) as backend:
        key = fresh()
        first = await created(backend, key, puts=puts(k="1"))
        head = await wrote(backend, key, first, puts=puts(other="1"), entries=notes("a"))
        head = await wrote(backend, key, head, puts=(Put("k", b"2", if_version=first.version),))
        with refused(Conflict):
            await backend.commit(key, writing(head, puts=(Put("k", b"3", if_version=first.version),)))
        assert values(await read(backend, key))["k"] == "2"


@clause()
async def deleting_a_key_that_is_not_there_is_nothing(open: Opener) -> None:
    """It is no error, and no key appears."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        await wrote(backend, key, head, puts=puts(a=None))
        assert values(await read(backend, key)) == {}


@clause()
async def a_head_stays_small(open: Opener) -> None:
    """Names, metadata and service ids are bounded together, by what they come to and not by what one commit adds; the field is named."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, patch=HeadPatch(metadata={"a": "x" * 40_000}))
        for field, patch in (("name", HeadPatch(name="n" * 70_000)), ("metadata", HeadPatch(metadata={"b": "x" * 40_000}))):
            with refused(TooLarge) as caught:
                await wrote(backend, key, head, entries=notes("never"), patch=patch)
            assert field in str(caught.error)
        assert (await read(backend, key)).head == head
        await wrote(backend, key, head, patch=HeadPatch(metadata={"a": None, "b": "x" * 40_000}))


@clause()
async def a_lost_race_to_create_changes_nothing(open: Opener) -> None:
    """What a new session begins with is for a new one only: whoever comes second neither writes it nor moves the version."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, create=Create(1, patch=HeadPatch(kind="first", ttl=100)))
        second = await created(backend, key, create=Create(2, patch=HeadPatch(kind="second", ttl=5)))
        assert (head.version, head.kind, head.ttl) == (1, "first", 100)
        assert (second.version, second.incarnation, second.kind, second.ttl) == (1, 1, "first", 100)
