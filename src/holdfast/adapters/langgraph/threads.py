"""Threads in a store: reading and writing the sessions whose blobs are checkpoints.

Nobody's write waits for another's. Two writers that race leave two blobs under `t/NS/`: the greater id is the newest, and the next writer
takes the other away. Only two things are decided by version: who brings the transcript up to date (the state key `SHOWN`), and that a
writer relies on no chunk that a removal has taken since it last looked: each removal leaves a state key, and such a writer names the next
one and says that it isn't there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from ... import Store
from ...backend import (
    Blob,
    BlobDrop,
    BlobRange,
    Commit,
    Counts,
    Create,
    HeadPatch,
    Key,
    Outcome,
    Put,
    Range,
    ReadPlan,
    Snapshot,
    Window,
)
from ...entries import MESSAGE, SUMMARY, Entry, NewEntry
from ...errors import Conflict, Corrupt, SessionGone, SessionNotFound
from ...ids import new_id, new_incarnation, now
from ...large import lightened
from ...rules import may_use
from ...values import encode
from .chunks import Chunks, Inline, Ref, Typed, elements, name_of, needed
from .known import MARK, REMOVAL, SHOWN, Known
from .recent import Recent
from .records import (
    FORM,
    NAMESPACE,
    Found,
    Place,
    Record,
    Write,
    blobs,
    checkpoint_key,
    chunk_key,
    chunk_of,
    chunk_put,
    found,
    ns_prefix,
    place_of,
    record_of,
    record_puts,
    tip_key,
    tips_prefix,
    write_of,
    write_put,
    writes_prefix,
)
from .transcript import fitting, foreign

_TRIES = 100
_BATCH = 64
_THREADS_KNOWN = 1024
_RECORDS_KEPT = 4096
_CHUNK_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


class Draft(NamedTuple):
    """A checkpoint to be stored, with the chunks it consists of."""

    record: Record
    chunks: Chunks


Show: TypeAlias = Callable[[Ref, Chunks], NewEntry | None]
"""The entry for an element of the channel that the transcript shows; None for what somebody else's entries show already."""
Doomed: TypeAlias = Callable[[dict[Place, Record]], set[Place]]
"""Which of a thread's checkpoints have to go."""


class _Torn(Exception):
    """Something a checkpoint consists of was removed between two reads."""


class Threads:
    """The threads of one store. `channel` is the list of messages that the transcript shows; None for no transcript.

    One `Threads` serves every task, thread and event loop of its process. What it remembers is checked against the store at every use.
    """

    def __init__(self, store: Store, channel: str | None) -> None:
        self.store = store
        self.channel = channel
        self.chunks: Recent[Typed] = Recent(_CHUNK_BYTES, lambda typed: len(typed.data) + 100)
        self._records: Recent[Record] = Recent(_RECORDS_KEPT)
        self._known: Recent[Known] = Recent(_THREADS_KNOWN)

    # --- reading ---

    async def find(self, at: Place, user: str | None) -> tuple[Found, Chunks] | None:
        """The checkpoint at this place and the chunks behind it; None where there is none for this user."""
        if not at.id:
            return await self._until_whole(at, lambda: self._newest(at, user))
        named = await self.several([at], user)
        return named[0] if named else None

    async def several(self, places: Sequence[Place], user: str | None) -> list[tuple[Found, Chunks]]:
        """Those checkpoints of one thread that are there, in this order: one request, and one for chunks that aren't at hand."""
        return await self._until_whole(places[0], lambda: self._several(places, user)) if places else []

    async def places(self, thread: str, ns: str | None, user: str | None) -> list[Place]:
        """The checkpoints of a thread, in one namespace or in all, newest first."""
        snapshot = await self._look(thread, user, blobs(prefix=ns_prefix(ns), data=False))
        return sorted((place_of(thread, blob.key) for blob in _blobs(snapshot)), key=lambda place: place.id, reverse=True)

    async def ancestors(self, at: Place, user: str | None) -> AsyncIterator[tuple[Found, Chunks]]:
        """The checkpoint's parent, that one's parent and so on, read by the batch: mostly they are the ones before it."""
        places = await self.places(at.thread, at.ns, user)
        near: dict[str, tuple[Found, Chunks]] = {}
        walked: set[str] = set()
        id = at.id or max((place.id for place in places), default="")
        while id and id not in walked:
            if id not in near:
                batch = [place for place in places if place.id <= id][:_BATCH]
                near = {it.place.id: (it, chunks) for it, chunks in await self.several(batch, user)}
            if id not in near:
                return
            if walked:
                yield near[id]
            walked.add(id)
            id = near[id][0].record.parent or ""

    async def marked(self, user: str | None) -> AsyncIterator[str]:
        """The ids of all threads, or of one user's."""
        cursor: str | None = None
        while True:
            page = await self.store.list(user_id=user, metadata=MARK, cursor=cursor, limit=200)
            for info in page.items:
                yield info.id
            if (cursor := page.cursor) is None:
                return

    async def said_elsewhere(self, thread: str, user: str | None) -> list[Entry]:
        """The messages of the session that no checkpoint of its thread has brought there."""
        snapshot = await self._look(thread, user, window=Window(kinds=(MESSAGE,)))
        entries = [entry for entry in (snapshot.entries or [] if snapshot else []) if foreign(entry)]
        return await self.store.handle(thread, user_id=user).whole(entries)

    def version(self, thread: str) -> int:
        """The session's version when this process has last looked."""
        known = self._known.get(thread)
        return known.version if known else 0

    async def check_newest(self, at: Place, user: str | None, version: int) -> None:
        """`Conflict` unless this is the newest checkpoint of its namespace, as it was at that version of the session."""
        await self._look(at.thread, user, blobs(prefix=tips_prefix(at.ns)), ns=at.ns)
        known = self._known.get(at.thread) or Known()
        if at.id != max(known.tips.get(at.ns, ()), default=""):
            raise Conflict(version, known.version)

    async def _until_whole(self, at: Place, read: Callable[[], Awaitable[T]]) -> T:
        for _ in range(_TRIES):
            with suppress(_Torn):
                return await read()
        raise Corrupt(f"thread {at.thread!r}, namespace {at.ns!r}: chunks of checkpoint {at.id or 'the newest one'} are missing")

    async def _several(self, places: Sequence[Place], user: str | None) -> list[tuple[Found, Chunks]]:
        keys = {checkpoint_key(place): place for place in places}
        snapshot = await self._look(places[0].thread, user, blobs(keys=keys), *(blobs(prefix=writes_prefix(place)) for place in places))
        near = {blob.key: blob for blob in _blobs(snapshot)}
        there = [found(place, record_of(near[key]), near.values()) for key, place in keys.items() if key in near]
        chunks = await self._gathered(places[0].thread, user, [ref for it in there for ref in it.refs], near=near.values())
        return [(it, chunks) for it in there]

    async def _newest(self, at: Place, user: str | None) -> tuple[Found, Chunks] | None:
        """One request where this process knows the newest checkpoint already; otherwise one to find it and one for its parts."""
        guess, seen = self._guess(at)
        have: Chunks = {}
        parts = [*self._parts(guess, seen, have)] if seen else ()
        snapshot = await self._look(at.thread, user, blobs(prefix=tips_prefix(at.ns)), *parts, ns=at.ns)
        near = _blobs(snapshot)
        newest = max((blob for blob in near if blob.key.startswith("t/")), key=lambda blob: place_of(at.thread, blob.key), default=None)
        if newest is None:
            return None
        place, record = place_of(at.thread, newest.key), record_of(newest)
        if seen is None or place != guess:
            near = _blobs(await self._look(at.thread, user, *self._parts(place, record, have)))
        it = found(place, record, near)
        return it, await self._gathered(at.thread, user, it.refs, near=near, have=have)

    def _guess(self, at: Place) -> tuple[Place, Record | None]:
        """The newest checkpoint as this process has last seen it."""
        known = self._known.get(at.thread)
        place = at._replace(id=max(known.tips.get(at.ns, ()), default="") if known else "")
        return place, self._records.get(_record_key(place, known)) if known else None

    def _parts(self, place: Place, record: Record, have: Chunks) -> Iterator[BlobRange]:
        """What belongs to the checkpoint beside its record, as far as that tells and it isn't at hand; `have` gets what is."""
        yield blobs(prefix=writes_prefix(place))
        parts = needed(record.values.values(), self.chunks.get)
        have |= self.chunks.some(parts - have.keys())
        if missing := parts - have.keys():
            yield blobs(keys=map(chunk_key, missing))

    async def _gathered(
        self,
        thread: str,
        user: str | None,
        refs: Sequence[Ref],
        *,
        near: Iterable[Blob] = (),
        have: Chunks | None = None,
        leaves: bool = True,
    ) -> Chunks:
        """Every chunk behind `refs`: one of `have`, of `near`, at hand, or read, level by level. `_Torn` when one isn't there."""
        chunks: Chunks = dict(have or {})

        def find(digest: bytes) -> Typed | None:
            typed = chunks.get(digest) or self.chunks.get(digest)
            if typed is not None:
                chunks[digest] = typed
            return typed

        chunks |= self._remember(near)
        while True:
            parts = needed(refs, find, leaves=leaves)
            chunks |= self.chunks.some(parts - chunks.keys())
            if not (missing := parts - chunks.keys()):
                return chunks
            read = self._remember(_blobs(await self._look(thread, user, blobs(keys=map(chunk_key, missing)))))
            if read.keys() != missing:
                raise _Torn
            chunks |= read

    def _remember(self, near: Iterable[Blob]) -> Chunks:
        """The chunks among `near`."""
        chunks = dict(chunk_of(blob) for blob in near if blob.key.startswith("k/") and blob.data is not None)
        self._keep(chunks)
        return chunks

    async def _look(
        self, thread: str, user: str | None, *ranges: BlobRange, ns: str | None = None, window: Window | None = None, load: bool = True
    ) -> Snapshot | None:
        """Read, and remember how the thread is; `ns` is the namespace whose newest checkpoints `ranges` ask for.

        Only who loads a thread sees another life of it: who goes on writing to one that has ended gets `SessionGone`.
        """
        while True:
            known = self._known.get(thread) or Known()
            plan = ReadPlan(state_since=known.version, blobs=ranges, entries=window)
            snapshot = await self.store.backend.read(Key(self.store.tenant, thread), plan)
            if not load and known.incarnation not in (None, snapshot and snapshot.head.incarnation):
                raise SessionGone(f"thread {thread!r} was deleted, cleared or expired while it was written to")
            if snapshot is None:
                self._known.put(thread, Known())
                return None
            if not may_use(snapshot.head, user, not self.store.as_admin):
                return None
            if known.incarnation in (None, snapshot.head.incarnation):
                if snapshot.head.version >= known.version:
                    self._learn(thread, known, snapshot, ns)
                await self.store.touch(thread, snapshot.head, user_id=user)
                return snapshot
            self._known.drop(thread)

    def _learn(self, thread: str, known: Known, snapshot: Snapshot, ns: str | None) -> None:
        known.learn(snapshot)
        tips: set[str] = set()
        for blob in _blobs(snapshot):
            if blob.key[:2] in ("c/", "t/") and blob.data is not None:
                place = place_of(thread, blob.key)
                self._records.put(_record_key(place, known), record_of(blob))
                tips |= {place.id} if blob.key.startswith("t/") else set()
        if ns is not None:
            known.tips[ns] = frozenset(tips)
        self._known.put(thread, known)

    # --- writing ---

    async def put(
        self, at: Place, parent: str, user: str | None, draft: Callable[[Record | None], Draft], entry: Show, fence: int | None = None
    ) -> None:
        """Store the checkpoint that `draft` makes of its parent's record (None where there is none), in one commit.

        It is the newest of its namespace if its id is the greatest; in the root namespace the session then shows its messages.
        """
        for attempt in range(_TRIES):
            known = await self._known_well(at, parent, user)
            removals = known.removals
            before = self._records.get(_record_key(at._replace(id=parent), known)) if parent else None
            made = draft(before)
            try:
                commit, new = await self._storing(at, user, known, before, made, entry)
                outcome = await self._commit(at.thread, msgspec.structs.replace(commit, fence=fence))
            except (Conflict, _Torn):
                self._known.put(at.thread, Known(known.incarnation))
                if attempt == _TRIES - 1:
                    raise
                continue
            self._keep(new)
            known.follow(commit, outcome)
            known.tips[at.ns] = frozenset(tip for tip in {*known.tips.get(at.ns, ()), at.id} if tip >= at.id)
            self._records.put((at, known.incarnation, removals), made.record)
            return

    async def put_writes(self, at: Place, user: str | None, writes: Iterable[Write], chunks: Chunks, fence: int | None = None) -> None:
        """Store pending writes of a checkpoint, which may come later, in one commit."""
        known = self._known.get(at.thread) or await self._known_well(at, "", user)
        puts = (*(write_put(at, write) for write in writes), *(chunk_put(digest, typed) for digest, typed in chunks.items()))
        commit = self._begun(known, user, blobs=puts, fence=fence)
        known.follow(commit, await self._commit(at.thread, commit))
        self._keep(chunks)

    async def remove(self, thread: str, user: str | None, doomed: Doomed, entry: Show) -> None:
        """Remove the checkpoints that `doomed` chooses, their pending writes and every chunk that nothing refers to any more."""
        while (snapshot := await self._look(thread, user, blobs(prefix="c/"))) is not None:
            records = {place_of(thread, blob.key): record_of(blob) for blob in _blobs(snapshot)}
            gone = doomed(records)
            if not gone:
                return
            try:
                commit = await self._removing(thread, user, {at: it for at, it in records.items() if at not in gone}, gone, entry)
                await self._commit(thread, msgspec.structs.replace(commit, expect=snapshot.head.version))
            except (Conflict, _Torn):
                continue
            finally:
                self._known.drop(thread)
            return

    async def delete(self, thread: str, user: str | None) -> None:
        """Remove the session with everything it holds; nothing happens where there is none for this user."""
        await self.store.delete(thread, user_id=user)
        self._known.drop(thread)

    async def copy(self, source: str, target: str, user: str | None) -> None:
        """A new session with all of this one. `SessionNotFound` without a source, `SessionExists` where there is a target."""
        session = await self.store.get(source, user_id=user)
        if session is None:
            raise SessionNotFound(f"there is no {Key(self.store.tenant, source)}")
        await session.fork(target)
        self._known.drop(target)

    async def _known_well(self, at: Place, parent: str, user: str | None) -> Known:
        """What is known of the thread: enough to write a checkpoint to this namespace, its parent's record too. Read if it isn't enough."""
        known = self._known.get(at.thread)
        if known is not None and (known.incarnation is None or (at.ns in known.tips and self._has(at._replace(id=parent), known))):
            return known
        keys = blobs(keys=[checkpoint_key(at._replace(id=parent))] if parent else [])
        await self._look(at.thread, user, blobs(prefix=tips_prefix(at.ns)), keys, ns=at.ns, load=False)
        return self._known.get(at.thread) or Known()

    def _has(self, at: Place, known: Known) -> bool:
        return not at.id or self._records.get(_record_key(at, known)) is not None

    def _begun(self, known: Known, user: str | None, **parts: Any) -> Commit:
        """A commit to a thread of which this is known; it creates the session where there is none."""
        fresh = known.incarnation is None
        born = HeadPatch(metadata=MARK, ttl=self.store.ttl)
        return Commit(
            id=new_id(),
            time=now(),
            incarnation=known.incarnation,
            base=known.version,
            create=Create(new_incarnation(), patch=born) if fresh else None,
            user_id=user,
            check_owner=not self.store.as_admin,
            patch=HeadPatch(metadata=MARK) if not fresh and not known.marked else None,
            **parts,
        )

    async def _commit(self, thread: str, commit: Commit) -> Outcome:
        key = Key(self.store.tenant, thread)
        return await self.store.backend.commit(key, lightened(key, commit))

    async def _storing(
        self, at: Place, user: str | None, known: Known, before: Record | None, made: Draft, entry: Show
    ) -> tuple[Commit, Chunks]:
        """The commit that stores a checkpoint: its record, and those chunks, given too, that its parent's record doesn't refer to."""
        tips = known.tips.get(at.ns, frozenset[str]())
        stored = needed(before.values.values(), self.chunks.get) if before else set[bytes]()
        newest = at.id >= max(tips, default="")
        puts = record_puts(made.record, checkpoint_key(at), *([tip_key(at)] if newest else []))
        new = {digest: typed for digest, typed in made.chunks.items() if digest not in stored}
        puts += [chunk_put(digest, typed) for digest, typed in new.items()]
        drops = tuple(BlobDrop(NAMESPACE, tip_key(at._replace(id=tip))) for tip in tips if tip < at.id)
        unremoved = (Put(f"{REMOVAL}{known.removals + 1}", None, if_version=0),) if stored else ()
        commit = self._begun(known, user, blobs=tuple(puts), drops=drops if newest else (), puts=unremoved)
        if not newest or at.ns or self.channel not in made.record.values:
            return commit, new
        return await self._showing(at.thread, user, known, commit, before, made, entry), new

    async def _showing(
        self, thread: str, user: str | None, known: Known, commit: Commit, before: Record | None, made: Draft, entry: Show
    ) -> Commit:
        """`commit`, and the transcript shows the messages of `made` after it, if nobody has come between since `known` was known.

        Where it shows those of the record before, only what is new is looked at; otherwise the entries are read.
        """
        version, on = known.shown_version, known.shown
        ref, old = made.record.values.get(self.channel or ""), before and before.values.get(self.channel or "")
        puts = (*commit.puts, Put(SHOWN, _shown(ref), if_version=version))
        if on == _shown(ref):
            return msgspec.structs.replace(commit, puts=puts)
        refs = [it for it in (ref, old if on == _shown(old) else None) if it is not None]
        pages = await self._gathered(thread, user, refs, have=made.chunks, leaves=False)
        new, shown = elements(ref, pages), elements(old, pages) if on == _shown(old) else None
        hide: tuple[Range, ...] = ()
        if shown is not None and new[: len(shown)] == shown:
            kept = len(shown)
        else:
            snapshot = await self._look(thread, user, window=Window(kinds=(MESSAGE, SUMMARY)), load=False)
            there = (snapshot.entries or []) if snapshot else []
            entries = [it for it in there if it.kind == MESSAGE]
            if any(map(foreign, entries)):
                chunks = await self._gathered(thread, user, new, have=made.chunks)
                new = [it for it in new if entry(it, chunks) is not None]
            kept, hide = fitting(entries, [name_of(it) for it in new])
            if hide:  # a summary that was written after one of them may tell of it
                hide += tuple([Range(it.seq, it.seq) for it in there if it.kind == SUMMARY and it.seq > hide[0].first])
        chunks = await self._gathered(thread, user, new[kept:], have=made.chunks)
        entries = tuple(it for it in (entry(it, chunks) for it in new[kept:]) if it is not None)
        size = sum(len(it.body) for it in entries)
        counts = Counts(messages=len(entries), bytes=size) if entries else None
        return msgspec.structs.replace(commit, entries=entries, hide=hide, counts=counts, puts=puts)

    async def _removing(self, thread: str, user: str | None, left: dict[Place, Record], gone: set[Place], entry: Show) -> Commit:
        ranges = (blobs(prefix="w/"), blobs(prefix="t/", data=False), blobs(prefix="k/", data=False))
        near = _blobs(await self._look(thread, user, *ranges))
        writes = [write_of(blob).value for blob in near if blob.key.startswith("w/") and place_of(thread, blob.key) not in gone]
        refs = [*writes, *(ref for record in left.values() for ref in record.values.values())]
        pages = await self._gathered(thread, user, refs, leaves=False)
        live = {*map(chunk_key, needed(refs, pages.get))}
        newest = [max(at for at in left if at.ns == ns) for ns in {at.ns for at in left}]
        tips = {tip_key(at): at for at in newest}
        there = {blob.key for blob in near}
        keys = [checkpoint_key(at) for at in gone] + [
            key for key in there if key[:2] in ("k/", "t/") and key not in live and key not in tips
        ]
        drops = [BlobDrop(NAMESPACE, key) for key in keys] + [BlobDrop(NAMESPACE, prefix=writes_prefix(at)) for at in gone]
        known = self._known.get(thread) or Known()
        commit = self._begun(
            known,
            user,
            blobs=tuple(put for key, at in tips.items() if key not in there for put in record_puts(left[at], key)),
            drops=tuple(drops),
            puts=(Put(f"{REMOVAL}{known.removals + 1}", encode(True), if_version=0),),
        )
        if self.channel is None:
            return commit
        root = max((at for at in left if not at.ns), default=None)
        empty = Record(FORM, None, Inline("null", b""), Inline("null", b""), {})
        return await self._showing(thread, user, known, commit, None, Draft(left[root] if root else empty, {}), entry)

    def _keep(self, chunks: Chunks) -> None:
        for digest, typed in chunks.items():
            self.chunks.put(digest, typed)


def _record_key(at: Place, known: Known) -> tuple[Place, int | None, int]:
    """A record is remembered for one life of its thread, and until something is removed from it."""
    return at, known.incarnation, known.removals


def _blobs(snapshot: Snapshot | None) -> list[Blob]:
    return (snapshot.blobs if snapshot else None) or []


def _shown(ref: Ref | None) -> bytes | None:
    """What the state says of the transcript: which list it shows."""
    return None if ref is None else encode(name_of(ref))
