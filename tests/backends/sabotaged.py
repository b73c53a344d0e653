"""Backends that are wrong on purpose, each with one fault, and the clause of the suite that must find it."""

from __future__ import annotations

import asyncio
import fnmatch
from typing import Any

from msgspec.structs import replace

from holdfast.backend import (
    Backend,
    Blob,
    BlobPut,
    BlobRange,
    ClaimAct,
    Commit,
    Counts,
    Create,
    Erase,
    Filter,
    Head,
    Key,
    Outcome,
    Page,
    ReadPlan,
    Snapshot,
    StateRow,
    Window,
)
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.entries import Entry
from holdfast.errors import Conflict, SessionBusy, SessionGone
from holdfast.ids import new_id, new_incarnation, now
from holdfast.wrappers.base import Wrapper

SABOTAGES: list[tuple[type[Wrapper], str]] = []
"""(the wrong backend, the clause that finds it)"""


def found_by(clause: str) -> Any:
    def register(sabotage: type[Wrapper]) -> type[Wrapper]:
        SABOTAGES.append((sabotage, clause))
        return sabotage

    return register


class Altering(Wrapper):
    """Passes on another commit than it was given."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self.inner.commit(key, self.altered(key, commit))

    def altered(self, key: Key, commit: Commit) -> Commit:
        raise NotImplementedError


class Misreading(Wrapper):
    """Gives another answer than it was given."""

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.inner.read(key, plan)
        return snapshot and self.misread(key, plan, snapshot)

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        raise NotImplementedError


# --- rules that are not kept -----------------------------------------------------------------------------------------


@found_by("a_wrong_expect_changes_nothing")
class IgnoresExpect(Altering):
    """Writes whatever the version is."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        return replace(commit, expect=None)


@found_by("a_wrong_key_version_changes_nothing")
class IgnoresKeyVersions(Altering):
    """Writes a key whatever its version is."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        return replace(commit, puts=tuple(replace(put, if_version=None) for put in commit.puts))


@found_by("who_was_taken_over_is_fenced")
class IgnoresFences(Altering):
    """Lets a run that was taken over write on."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        return replace(commit, fence=None)


@found_by("a_session_of_a_user_refuses_others")
class IgnoresOwners(Altering):
    """Lets anybody write."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        return replace(commit, check_owner=False)


@found_by("a_repeated_commit_of_entries_is_one")
class ForgetsCommits(Altering):
    """Takes a repetition for a new commit."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        return replace(commit, id=new_id())


@found_by("an_id_with_other_content_is_refused")
class ForgetsContent(Altering):
    """Knows a repeated id, and not whether it is the same commit."""

    first: dict[tuple[Key, str], Commit]

    def altered(self, key: Key, commit: Commit) -> Commit:
        self.first = getattr(self, "first", {})
        return self.first.setdefault((key, commit.id), commit)


@found_by("heartbeats_disturb_nobody")
class CountsHeartbeats(Altering):
    """Makes a version of every heartbeat."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        beat = commit.claim is not None and commit.claim.act == "renew"
        return replace(commit, counts=Counts()) if beat else commit


@found_by("a_heartbeat_carries_blobs_and_moves_nothing")
class EmptiesHeartbeats(Altering):
    """Takes a heartbeat for nothing but one."""

    def altered(self, key: Key, commit: Commit) -> Commit:
        beat = commit.claim is not None and commit.claim.act == "renew"
        return replace(commit, blobs=(), drops=()) if beat else commit


@found_by("a_creation_repeated_after_deletion_creates_nothing")
class ForgetsGraves(Wrapper):
    """Does not remember lives that have ended."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        try:
            return await self.inner.commit(key, commit)
        except SessionGone:
            if commit.create is None:
                raise
            return await self.inner.commit(key, replace(commit, create=Create(new_incarnation())))


@found_by("a_writer_from_before_a_deletion_is_refused")
class Resurrects(Wrapper):
    """Makes a session anew for a writer that comes late."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        try:
            return await self.inner.commit(key, commit)
        except SessionGone:
            return await self.inner.commit(key, replace(commit, incarnation=None, create=Create(new_incarnation())))


@found_by("a_held_session_is_busy")
class TakesOverAtOnce(Wrapper):
    """Gives the claim to whoever comes last."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        try:
            return await self.inner.commit(key, commit)
        except SessionBusy as busy:
            take = ClaimAct("take", "thief", seen=(busy.fence, busy.beat))
            return await self.inner.commit(key, replace(commit, claim=take))


@found_by("what_has_expired_is_not_there")
class ExpiresWhenSwept(Wrapper):
    """Shows what has expired until somebody sweeps."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        late = commit.patch is not None and isinstance(commit.patch.ttl, float | int) and commit.time < now() - 50_000_000
        return await self.inner.commit(key, replace(commit, time=now() + 60_000_000) if late else commit)


# --- atomicity -------------------------------------------------------------------------------------------------------


@found_by("a_wrong_expect_changes_nothing")
class AppliesHalf(Wrapper):
    """Has written the state when it finds out that the commit is refused."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        try:
            return await self.inner.commit(key, commit)
        except Conflict:
            await self.inner.commit(key, Commit(id=new_id(), time=now(), check_owner=False, puts=commit.puts))
            raise


@found_by("a_commit_is_never_interleaved")
class WritesOneByOne(Wrapper):
    """Writes the entries of one commit one after another."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if len(commit.entries) > 1 and commit.create is None:
            await self.inner.commit(key, replace(commit, id=new_id(), entries=commit.entries[:1]))
            await asyncio.sleep(0)
            commit = replace(commit, entries=commit.entries[1:])
        return await self.inner.commit(key, commit)


@found_by("a_cancelled_commit_is_whole_or_not")
class HalvesWhenCancelled(Wrapper):
    """Writes the state after the entries, and may be cancelled between the two."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.entries and commit.puts:
            await self.inner.commit(key, replace(commit, id=new_id(), puts=()))
            await asyncio.sleep(0)
            commit = replace(commit, entries=())
        return await self.inner.commit(key, commit)


@found_by("one_plan_is_one_moment")
class TearsReads(Wrapper):
    """Reads the head and the state in one moment, the entries in another."""

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        first = await self.inner.read(key, replace(plan, entries=None))
        await asyncio.sleep(0.002)
        second = await self.inner.read(key, ReadPlan(entries=plan.entries))
        return replace(first, entries=second.entries) if first and second else None


@found_by("the_answer_is_of_the_moment_after")
class AnswersTooEarly(Wrapper):
    """Answers a commit's plan from before the commit."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        before = await self.inner.read(key, commit.answer) if commit.answer else None
        outcome = await self.inner.commit(key, commit)
        return replace(outcome, snapshot=before or outcome.snapshot)


# --- what is left over -----------------------------------------------------------------------------------------------


@found_by("a_cleared_session_is_empty")
class KeepsBlobsOnClear(Wrapper):
    """Clears a session but for its blobs."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.erase is not None and commit.erase.what == "content":
            old = await self.inner.read(key, ReadPlan(blobs=(BlobRange(),)))
            kept = [BlobPut(it.namespace, it.key, it.type, it.data or b"") for it in (old and old.blobs) or []]
            commit = replace(commit, blobs=(*kept, *commit.blobs))
        return await self.inner.commit(key, commit)


@found_by("a_session_made_anew_begins_empty")
class KeepsHiddenOnDelete(Misreading):
    """Deletes a session but for its hidden entries."""

    left: dict[Key, list[Entry]]

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.erase == Erase("session"):
            old = await self.inner.read(key, ReadPlan(entries=Window(hidden=True)))
            self.left = {key: [entry for entry in (old and old.entries) or [] if entry.hidden]}
        return await self.inner.commit(key, commit)

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        if plan.entries is None or not plan.entries.hidden:
            return snapshot
        return replace(snapshot, entries=getattr(self, "left", {}).get(key, []) + (snapshot.entries or []))


@found_by("fork_and_origin_go_their_own_ways")
class CopiesByReference(Wrapper):
    """A fork's blobs are its origin's."""

    origins: dict[Key, Key]

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        self.origins = {target: source}
        return await self.inner.copy(source, upto, target, commit)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.inner.read(key, plan)
        origin = await self.inner.read(getattr(self, "origins", {}).get(key, key), plan)
        return replace(snapshot, blobs=origin.blobs) if snapshot and origin else snapshot


# --- answers ---------------------------------------------------------------------------------------------------------


@found_by("a_deletion_is_told_to_whoever_knew_the_key")
class LosesTombstones(Misreading):
    """Tells what was written since, and not what was deleted."""

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        state = snapshot.state and {name: row for name, row in snapshot.state.items() if row.value is not None}
        return replace(snapshot, state=state)


@found_by("what_is_given_out_is_a_copy")
class SharesLiveObjects(Misreading):
    """Gives the same head object to everybody."""

    heads: dict[tuple[Key, int, int], Head]

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        self.heads = getattr(self, "heads", {})
        head = snapshot.head
        return replace(snapshot, head=self.heads.setdefault((key, head.incarnation, head.version), head))


@found_by("order_is_never_a_clock_s")
class OrdersByClock(Misreading):
    """Sorts the log by the time its writers gave."""

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, entries=snapshot.entries and sorted(snapshot.entries, key=lambda entry: entry.time))


@found_by("the_newest_entries_come_in_order")
class TakesTheOldest(Wrapper):
    """Cuts a window at the wrong end."""

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self.inner.read(key, replace(plan, entries=plan.entries and replace(plan.entries, newest=False)))


@found_by("bodies_come_back_byte_for_byte")
class KeepsText(Misreading):
    """Takes bodies for text."""

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        entries = [replace(it, body=it.body.decode(errors="replace").encode()) for it in snapshot.entries or []]
        return replace(snapshot, entries=snapshot.entries and entries)


@found_by("prefixes_of_blobs_are_literal")
class TakesPrefixesForPatterns(Wrapper):
    """Finds blobs with the database's own wildcards."""

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.inner.read(key, replace(plan, blobs=tuple(replace(it, prefix="") for it in plan.blobs)))
        found: list[Blob] = (snapshot and snapshot.blobs) or []
        patterns = [it.prefix.replace("_", "?").replace("%", "*") + "*" for it in plan.blobs]
        return snapshot and replace(snapshot, blobs=[it for it in found if any(fnmatch.fnmatchcase(it.key, p) for p in patterns)])


@found_by("any_printable_id_is_a_session_of_its_own")
class FoldsCase(Wrapper):
    """Takes two ids for one when only their case differs."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self.inner.commit(Key(key.tenant, key.session_id.casefold()), commit)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self.inner.read(Key(key.tenant, key.session_id.casefold()), plan)


@found_by("tenants_see_nothing_of_each_other")
class MixesTenants(Wrapper):
    """Keeps every tenant's sessions in one place."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self.inner.commit(Key("default", key.session_id), commit)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return await self.inner.read(Key("default", key.session_id), plan)


@found_by("a_write_does_not_move_a_session")
class ListsByUse(Wrapper):
    """Lists first what was used last, so that pages move under writes."""

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        everything = (await self.inner.list(filter, None, 10_000)).items
        items = sorted(everything, key=lambda item: item[1].updated, reverse=True)
        first = int(cursor or 0)
        return Page(items[first : first + limit], str(first + limit) if first + limit < len(items) else None)


@found_by("pages_are_stable_under_writes")
class PagesByOffset(Wrapper):
    """Counts sessions from the top: a deletion between two pages makes it skip one."""

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        items = (await self.inner.list(filter, None, 10_000)).items
        first = int(cursor or 0)
        return Page(items[first : first + limit], str(first + limit) if first + limit < len(items) else None)


# --- caches ----------------------------------------------------------------------------------------------------------


@found_by("another_s_entries_are_seen")
class NeverValidates(Wrapper):
    """A cache that believes nobody else writes."""

    known: dict[tuple[Key, str], Snapshot | None]

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        self.known = getattr(self, "known", {})
        if (key, repr(plan)) not in self.known:
            self.known[key, repr(plan)] = await self.inner.read(key, plan)
        return self.known[key, repr(plan)]

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.known = {}
        return await self.inner.commit(key, commit)


@found_by("another_s_deletion_is_seen")
class MissesDeletions(Misreading):
    """A cache that adds what is new and never takes away a key."""

    known: dict[tuple[Key, int], dict[str, StateRow]]

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        self.known = getattr(self, "known", {})
        life = key, snapshot.head.incarnation
        if plan.state_since != 0:
            return snapshot
        self.known[life] = self.known.get(life, {}) | (snapshot.state or {})
        return replace(snapshot, state=self.known[life])


@found_by("another_s_hides_are_seen")
class MissesHides(Misreading):
    """A cache that adds new entries and never takes one away."""

    known: dict[tuple[Key, int], dict[int, Entry]]

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        self.known = getattr(self, "known", {})
        if plan.entries != Window(limit=8):
            return snapshot
        tail = self.known.setdefault((key, snapshot.head.incarnation), {})
        tail |= {entry.seq: entry for entry in snapshot.entries or []}
        return replace(snapshot, entries=[tail[seq] for seq in sorted(tail)][-8:])


@found_by("a_deletion_seen_by_a_stranger_is_seen_by_all")
class TrustsVersions(Misreading):
    """A cache that validates by the version alone, and takes a new life for the old one."""

    known: dict[tuple[Key, int, str], Snapshot]

    def misread(self, key: Key, plan: ReadPlan, snapshot: Snapshot) -> Snapshot:
        self.known = getattr(self, "known", {})
        return self.known.setdefault((key, snapshot.head.version, repr(plan)), snapshot)


# --- where it runs ---------------------------------------------------------------------------------------------------


@found_by("one_backend_serves_many_loops")
class KeepsToItsLoop(Wrapper):
    """Has a client that belongs to the event loop of its first use."""

    loop: asyncio.AbstractEventLoop

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        running = asyncio.get_running_loop()
        self.loop = getattr(self, "loop", running)
        if running is not self.loop:
            raise RuntimeError("the client is attached to a different loop")
        return await self.inner.commit(key, commit)


@found_by("it_works_without_a_loop")
class SuspendsAnyway(Wrapper):
    """Declares that it works in place, and doesn't."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        await asyncio.sleep(0)
        return await self.inner.commit(key, commit)


@found_by("a_closed_backend_says_so")
class WorksOnClosed(Wrapper):
    """Goes on after it was closed."""

    async def close(self) -> None:
        pass


class AcknowledgesFirst(Wrapper):
    """Says that a commit is done, and writes it to the disk soon after."""

    def __init__(self, path: str) -> None:
        super().__init__(SQLiteBackend(path))
        self.front: Backend = MemoryBackend()
        self.behind: set[asyncio.Task[Outcome]] = set()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        outcome = await self.front.commit(key, commit)
        self.behind.add(asyncio.create_task(self.inner.commit(key, commit)))
        return outcome


class WritesInTwoSteps(Wrapper):
    """Writes a turn's state after its entries."""

    def __init__(self, path: str) -> None:
        super().__init__(SQLiteBackend(path))

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.entries and commit.puts:
            await self.inner.commit(key, replace(commit, id=new_id(), puts=()))
            commit = replace(commit, entries=())
        return await self.inner.commit(key, commit)


ON_DISK = (AcknowledgesFirst, WritesInTwoSteps)
