"""The side of a session that the engine knows: what a handle has seen, how it reads and commits, and how it holds the claim."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from msgspec import UNSET

from . import large, runs
from .backend import (
    Backend,
    Blob,
    BlobPut,
    BlobRange,
    ClaimAct,
    Commit,
    Counts,
    Erase,
    Head,
    HeadPatch,
    Key,
    Outcome,
    Put,
    ReadPlan,
    Snapshot,
)
from .beside import erase as erase_beside
from .beside import those_beside
from .errors import Conflict, Fenced, SessionBusy, SessionGone, SessionNotFound, StoreError, UsageError
from .ids import new_id, new_incarnation, now
from .info import Link, checked, touch
from .rules import changes, may_use
from .runs import WAIT
from .state import MISSING, Cells, change_entry, encode_value
from .values import decode

MOST = 2**53


class Handle:
    """One session of a store, as somebody holds it: what was last seen of it, and what is staged. `Session` is what people use."""

    def __init__(self, id: str, user_id: str | None) -> None:
        self.id = id
        self.user_id = user_id
        self.cells = Cells()
        self._link: Link | None = None
        self._head: Head | None = None
        self._service_id: Any = UNSET
        self._fence: int | None = None
        self._scopes: dict[str, Handle] = {}
        self.begins_with: HeadPatch | None = None
        """For a handle that has read nothing: what the session has in its head from its first write on, should that create it."""

    # --- where it is, and what has been seen of it ---

    @property
    def version(self) -> int:
        """The version this handle has last seen; 0 before there is one."""
        return self._head.version if self._head else 0

    @property
    def life(self) -> int:
        """The mark of this life of the session, which ends with `clear` and `delete`."""
        return self._seen.incarnation

    @property
    def hides(self) -> int:
        """How many times entries of it were hidden, as this handle has last seen it."""
        return self._seen.hides

    @property
    def key(self) -> Key:
        """Where the session lives."""
        return Key(self._linked.tenant, self.id)

    def attach(self, link: Link, snapshot: Snapshot | None) -> None:
        """Tie the handle to a store and let it know what is there."""
        self._link = link
        if snapshot is not None:
            self._learn(snapshot)

    @property
    def attached(self) -> bool:
        """Whether the handle belongs to a store."""
        return self._link is not None

    @property
    def backend(self) -> Backend:
        """Where the session is stored."""
        return self._linked.backend

    @property
    def _linked(self) -> Link:
        if self._link is None:
            raise UsageError(f"session {self.id!r} belongs to no store yet: use `session = await store.session({self.id!r})`")
        return self._link

    @property
    def _seen(self) -> Head:
        if self._head is None:
            raise SessionNotFound(f"session {self.id!r} is not in a store yet")
        return self._head

    @property
    def _staged(self) -> bool:
        own = self.cells.cleared or self._service_id is not UNSET or bool(self.cells.pending())
        return own or any(it.cells.pending() for it in self._scopes.values())

    # --- reading ---

    async def look(self, plan: ReadPlan) -> Snapshot:
        """What `plan` asks for, of one moment of the session, as it is stored."""
        return await self._read(plan)

    async def blobs(self, namespace: str, *, prefix: str = "") -> list[Blob]:
        """The blobs of one namespace whose keys begin with `prefix`, in the order of keys."""
        wanted = BlobRange(namespace=namespace, prefix=prefix)
        return (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or []

    async def _read(self, plan: ReadPlan) -> Snapshot:
        snapshot = await self._peek(plan)
        self._learn(snapshot)
        if snapshot.head.ttl is not None:
            await touch(self._linked, self.key, snapshot.head, self.user_id)
        return snapshot

    async def _peek(self, plan: ReadPlan) -> Snapshot:
        """A read of which the handle learns nothing: what is written next is judged by what was seen before."""
        link = self._linked
        snapshot = await link.backend.read(self.key, plan)
        if snapshot is None and self._head is None:
            raise SessionNotFound(f"there is no {self.key}")
        if snapshot is None or (self._head and snapshot.head.incarnation != self._head.incarnation):
            raise SessionGone(f"session {self.id!r} was cleared, deleted or expired since this handle last saw it: open it again")
        if not may_use(snapshot.head, self.user_id, not link.as_admin):
            raise SessionNotFound(f"there is no {self.key} for this caller: it has become another user's")
        return snapshot

    def _learn(self, snapshot: Snapshot) -> None:
        self._head = snapshot.head
        if snapshot.state is not None and not self.cells.cleared:
            self.cells.update(snapshot.state, snapshot.state_whole, snapshot.head.version)

    # --- writing ---

    async def write(
        self,
        *,
        id: str | None = None,
        fresh: bool = False,
        time: int | None = None,
        staged: bool = True,
        puts: tuple[Put, ...] = (),
        erase: Erase | None = None,
        patch: HeadPatch | None = None,
        claim: ClaimAct | None = None,
        fence: int | None = None,
        detach: str | None = None,
        **parts: Any,
    ) -> Outcome:
        """One commit of this handle, `parts` as in `Commit`. With `staged`, what is staged is part of it.

        While the handle holds the claim (`run`, `claim`), every commit of it carries the fence. `detach` names a state key whose
        handed-out container gives way to what was written. `fresh`: the `id` has not been used before, so no repetition is looked for.
        A handle that has read nothing yet creates the session where it isn't.
        """
        link, head, service_id = self._linked, self._head, self._service_id
        repeats, id = id is not None and not fresh, id or new_id()
        if staged:
            await self._write_scopes(id, fresh=not repeats)
            puts += self.cells.pending()
            erase = erase or (Erase("content", new_incarnation()) if self.cells.cleared else None)
            patch = self._patch_service_id(patch)
        if head is None:
            parts["create"] = link.create(self.begins_with)
        if fence is None and not (claim and claim.act == "take"):
            fence = self._fence
        time = time or now()
        if link.state_history:
            _tell_changes(puts, time, parts)
        commit = Commit(
            id=id,
            time=time,
            incarnation=head.incarnation if head else None,
            base=MOST if fresh and head is None else 0 if repeats or head is None else head.version,
            user_id=self.user_id,
            check_owner=not link.as_admin,
            puts=puts,
            erase=erase,
            patch=patch and checked(patch),
            claim=claim,
            fence=fence,
            **parts,
        )
        others = [] if erase is None else await those_beside(link, self.key, head)
        outcome = await link.backend.commit(self.key, large.lightened(self.key, commit))
        self._advance(head, outcome.head)
        if detach is not None:
            self.cells.detach(detach)
        self._written(commit, outcome)
        if staged and self._service_id is service_id:
            self._service_id = UNSET
        await self._let_go(others, head, outcome)
        return outcome

    async def _let_go(self, others: list[Key], head: Head | None, outcome: Outcome) -> None:
        """Remove the sessions that were beside the life that a commit has ended; not those of a later one, by repeating it."""
        if head is not None or not outcome.repeated:
            for it in others:
                await erase_beside(self._linked, it, head.user_id if head else self.user_id)

    def _written(self, commit: Commit, outcome: Outcome) -> None:
        """What was staged is stored, by this commit or by the one that it repeats."""
        erased = commit.erase is not None
        if outcome.repeated:
            self.cells.synced = 0  # others may have written since it was applied: the next read tells
        elif erased:
            self.cells.synced = outcome.version - 1
        self.cells.written(commit.puts, outcome.version, made=changes(commit) and not outcome.repeated, erased=erased)
        if outcome.snapshot is not None:
            self._learn(outcome.snapshot)
        if commit.claim is not None and commit.claim.act == "release":
            self._fence = None

    async def _write_scopes(self, id: str, *, fresh: bool) -> None:
        """What is staged on wider state goes first, under the same id: said again, the whole is still one."""
        for record in list(self._scopes.values()):  # a tool beside this one may ask for another meanwhile
            if record.cells.pending():
                await record.write(id=id, fresh=fresh)

    def _advance(self, sent: Head | None, head: Head | None) -> None:
        """Take in the head that a commit sent at head `sent` came back with, unless a newer one has been seen since."""
        seen = self._head
        late = seen is not sent and seen and head and (seen.incarnation != head.incarnation or seen.version > head.version)
        if head is not None and not late:
            self._head = head

    def _patch_service_id(self, patch: HeadPatch | None) -> HeadPatch | None:
        if self._service_id is UNSET:
            return patch
        return msgspec.structs.replace(patch or HeadPatch(), service_ids={"": self._service_id})

    async def change(self, key: str, change: Callable[[Any], Any]) -> Any:
        """As `state.Owner.change`."""
        patience = runs.Patience(WAIT)
        while True:
            row = self.cells.rows.get(key)
            value = change(MISSING if row is None or row.value is None else decode(row.value))
            put = Put(key, encode_value(key, value), row.version if row and row.value is not None else 0)
            try:
                await self.write(puts=(put,), staged=False, detach=key)
            except Conflict as conflict:
                await patience.again(conflict)
                await self._read(ReadPlan(state_since=self.cells.synced))
            else:
                return value

    # --- the claim ---

    async def take(self, wait: float, take: ClaimAct, **parts: Any) -> Outcome:
        """Commit `parts` together with taking the claim, as soon as it is free or has stood still for its lease."""
        runs.check_lease(take.lease)
        if self._fence is not None:
            raise UsageError(f"this handle holds {self.key} already: use the run or the claim around this, or another handle to wait")
        patience = runs.Patience(wait)
        while True:
            try:
                return await self.write(claim=take, **parts)
            except SessionBusy as busy:
                if patience.over():
                    raise SessionBusy(
                        f"{self.key} is still held by another run after {wait:g} s: wait longer, or cancel that run",
                        fence=busy.fence,
                        beat=busy.beat,
                        lease=busy.lease,
                    ) from None
                take = msgspec.structs.replace(take, seen=patience.watch(busy.fence, busy.beat, busy.lease))
                await patience.step()

    def standing(self, patience: runs.Patience) -> tuple[int, int] | None:
        """The (fence, beat) of the claim as last seen, once it has stood still for its lease before the eyes of `patience`."""
        claim = self._seen.claim
        return None if claim is None else patience.watch(self._seen.fence, claim.beat, claim.lease)

    def held_by(self, run_id: str) -> int | None:
        """The fence of the claim that this run holds, as last seen; None while it holds none."""
        claim = self._seen.claim
        return self._seen.fence if claim is not None and claim.holder == run_id else None

    async def fence_of(self, taken: str) -> int | None:
        """The fence of the claim that the commit with this id took; None where it took none, or it is over."""
        try:
            head = (await self._read(ReadPlan())).head
        except (SessionGone, SessionNotFound):
            return None
        return head.fence if head.claim is not None and head.claim.taken == taken else None

    async def beat(self, fence: int, *blobs: BlobPut) -> None:
        """One heartbeat, and what is told along with it. It leaves the handle alone, for it may come from another thread than its own."""
        link = self._linked
        renew = link.commit(self.user_id, incarnation=self._seen.incarnation, fence=fence, blobs=blobs, claim=ClaimAct("renew"))
        await link.backend.commit(self.key, renew)

    def forget_claim(self) -> None:
        """Commits of this handle carry no fence any more; the claim itself is left as it is."""
        self._fence = None

    @contextmanager
    def _beating(self, fence: int, lease: float, lost: Callable[[], object] | None = None) -> Generator[None]:
        """Show that the holder lives, three times a lease, until the body ends or is fenced."""
        from asyncio import create_task, sleep

        async def beat() -> None:
            try:
                while True:
                    await sleep(lease / 3)
                    with suppress(StoreError):  # the next beat may get through
                        await self.beat(fence)
            except (Fenced, SessionGone, SessionNotFound):
                if lost is not None:
                    lost()

        beating = create_task(beat())
        self._fence = fence
        try:
            yield
        finally:
            self.forget_claim()
            beating.cancel()

    async def _release(self, fence: int) -> None:
        with suppress(SessionGone, SessionNotFound):
            await self.write(claim=ClaimAct("release"), fence=fence, staged=False)

    async def _release_of(self, taken: str) -> None:
        fence = await self.fence_of(taken)
        if fence is not None:
            await self._release(fence)


def _tell_changes(puts: tuple[Put, ...], time: int, parts: dict[str, Any]) -> None:
    """Add what a commit changes in the state to its entries, before the others, and to what it counts."""
    entries = parts.get("entries", ())
    told = change_entry(puts, entries, time)
    if told is not None:
        parts["entries"] = (told, *entries)
        parts["counts"] = (parts.get("counts") or Counts()) + Counts(bytes=len(told.body))
