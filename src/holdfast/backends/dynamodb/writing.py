"""Committing: judge on the head that is known, write on the condition that it is still that one, and judge again if it isn't."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import NamedTuple

import msgspec

from ...backend import BlobRange, Commit, Head, Key, Outcome, ReadPlan, Snapshot, Window
from ...entries import Entry
from ...errors import Conflict, OutcomeUnknown, SessionGone, SessionNotFound, StoreError, StoreUnavailable, UsageError
from ...ledger import Record as Content
from ...rules import COMMITS_KEPT, judge, repeated
from . import layout
from .cleaning import STAGE_SECONDS, clean, finish_redo, remove
from .client import TRANSACTION_BYTES, TRANSACTION_ITEMS, Op, Refused, Table, where
from .layout import HEAD, PARTITION, SORT, Item, Stored, address
from .reading import blobs_in, journal, living, read
from .writes import Writes, batch_prefix, begun, changed, checks_of, ended, grave_check, with_redo

_KNOWN = 1024
_PAGES, _KEYS = 4 * COMMITS_KEPT // layout.PAGE, 1024
_COMPANY_SECONDS, _MOST_COMPANY = 0.003, 8
_COPIED = ReadPlan(state_since=0, entries=Window(newest=False), blobs=(BlobRange(),))


class Known(NamedTuple):
    """What is remembered of a session: its head item as last seen, how many state items there were, and of its life two things more.

    `pages`: whole pages of the journal. `keys`: versions that state keys have had; by now they may have newer ones.
    """

    item: Item
    states: int | None
    pages: dict[int, bytes]
    keys: dict[str, int]


class Heads:
    """The sessions used last. What is remembered may be old: it is what a commit is tried with, never what is answered."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._known: OrderedDict[str, Known] = OrderedDict()

    def get(self, pk: str) -> Known | None:
        return self._known.get(pk)

    def put(self, pk: str, item: Item | None, states: int | None = None) -> None:
        """Remember the head item (None: there is none), and what is known beside it for as long as the life is the same."""
        with self.lock:
            old = self._known.pop(pk, None)
            if item is None:
                return
            same = old is not None and old.item["life"] == item["life"]
            pages = old.pages if old is not None and same and len(old.pages) < _PAGES else {}
            keys = old.keys if old is not None and same and len(old.keys) < _KEYS else {}
            self._known[pk] = Known(item, states if states is not None or old is None else old.states, pages, keys)
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)


class Author:
    """Carries commits out."""

    def __init__(self, table: Table, heads: Heads) -> None:
        self.table = table
        self.heads = heads

    def commit(self, key: Key, commit: Commit) -> Outcome:
        return _Try(self, key, commit, None).run()

    def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        plan = msgspec.structs.replace(_COPIED, entries=Window(newest=False, before=None if upto is None else upto + 1))
        snapshot = read(self.table, layout.partition(source), plan).snapshot
        if snapshot is None:
            raise SessionNotFound(f"there is no {source}")
        return _Try(self, target, commit, snapshot).run()

    def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        return self.seen(layout.partition(key), plan)

    def seen(self, pk: str, plan: ReadPlan) -> Snapshot | None:
        """The plan's answer; what it tells of the head is remembered."""
        known = self.heads.get(pk)
        found = read(self.table, pk, plan, known.states if known else None, known.item if known else None)
        self.heads.put(pk, found.item, found.states)
        return found.snapshot


class _Moved(Exception):
    """Judge again: the head is `item` now, and under it `kept` are blobs that are there."""

    def __init__(self, item: Item | None, kept: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.item = item
        self.kept = kept


class _Try:
    """One commit on its way."""

    def __init__(self, author: Author, key: Key, commit: Commit, source: Snapshot | None) -> None:
        self.author, self.table, self.heads = author, author.table, author.heads
        self.key, self.pk, self.commit, self.source = key, layout.partition(key), commit, source
        self.place = 0
        self.item: Item | None = None
        """The head that is being judged, and under it the blobs that an `if_absent` has found to be there."""
        self.kept: frozenset[str] = frozenset()
        self.sure = False
        """Whether DynamoDB itself has said that this head is the newest."""

    def run(self) -> Outcome:
        patience = _Company(self.table.seconds)
        known = self.heads.get(self.pk)
        item, fresh = (known.item, False) if known else (self._fetch(), True)
        while True:
            try:
                return self._once(item, fresh)
            except _Moved as moved:
                item, fresh, self.kept = moved.item, True, moved.kept
                patience.again(self.key)
            except UsageError as error:
                if fresh or self.sure or (isinstance(error, Conflict) and error.key is not None):
                    self._check_grave(error)
                    raise
                item, fresh = self._fetch(), True

    def _fetch(self) -> Item | None:
        item = self.table.get(address(self.pk, HEAD))
        self.heads.put(self.pk, item)
        return item

    def _check_grave(self, error: UsageError) -> None:
        """A commit that creates a life which has ended is told that before anything else."""
        create = self.commit.create
        if create is None or isinstance(error, SessionGone):
            return
        if self.table.get(address(self.pk, layout.grave_key(create.incarnation))):
            raise self._gone() from error

    def _gone(self) -> SessionGone:
        return SessionGone(f"{self.key} is gone: it was deleted or expired since you last saw it")

    # --- one judgement ---

    def _once(self, item: Item | None, fresh: bool) -> Outcome:
        key, commit, self.item = self.key, self.commit, item
        old = None if item is None else layout.stored_of(item)
        if old is not None and old.redo is not None:
            finish_redo(self.table, key, old)
            raise _Moved(self._fetch())
        stored = living(item)
        if stored is not None and (before := self._applied(stored, fresh)):
            return before
        if old is not None and stored is None and commit.create is not None and commit.create.incarnation == old.head.incarnation:
            raise self._gone()
        versions = self._versions(stored) if stored is not None else {}
        head = judge(key, stored.head if stored else None, commit, lambda name: versions.get(name, 0))
        if head is None:
            return self._delete(old)
        if stored is None or commit.erase is not None:
            return self._begin(old, stored, head)
        return self._change(stored, head, fresh)

    def _versions(self, stored: Stored) -> dict[str, int]:
        """The versions of keys that have an `if_version`: that very one, for DynamoDB checks it, or a newer one that the key has had.

        `Conflict` for the latter is final, if it is not newer than the head that is judged: this commit can't have happened after it, and
        had it happened before, it would be in the journal.
        """
        known = self.heads.get(self.pk)
        asked = {put.key: put.if_version for put in reversed(self.commit.puts) if put.if_version}
        seen = {name: known.keys.get(name, 0) for name in asked} if known else {}
        return asked | {name: version for name, version in seen.items() if asked[name] < version <= stored.head.version}

    def _applied(self, stored: Stored, fresh: bool) -> Outcome | None:
        """The first result of this very commit, looked for in the journal after the version its author had seen."""
        floor, wanted = max(self.commit.base, stored.head.version - COMMITS_KEPT), layout.hashed(self.commit.id)
        known = self.heads.get(self.pk)
        pages = known.pages if known else {}
        for last, data in journal(self.table, self.pk, stored, pages, floor):
            found = layout.recorded(data, last, wanted)
            if found is None or found[0] <= floor:
                continue
            if not fresh:
                raise _Moved(self._fetch())
            repeated(self.key, self.commit, found[1].digest)
            return self._answered(stored.head, found[0], found[1].seq, repeated=True)
        return None

    def _delete(self, old: Stored | None) -> Outcome:
        if old is None:  # created and erased in one commit: nothing was there and nothing is
            return Outcome(None, 0, 0)
        writes = ended(self.key, old)
        if self.commit.puts:
            writes.deciding += checks_of(old, self.commit, self.pk)
        self._write(writes)
        self.heads.put(self.pk, None)
        self._clean(layout.grave_item(self.pk, old))
        return Outcome(None, old.head.version + 1, 0)

    def _begin(self, old: Stored | None, stored: Stored | None, head: Head) -> Outcome:
        commit = self.commit
        content = Content(0, b"")
        copied = list[Entry]()
        if self.source is not None and stored is None:
            head = content.fill(_content_of(self.source), None, head)
            copied = list(content.entries)
        content.apply(commit, head)
        if stored is None:
            self.place = self.place or self.table.count_up(layout.counter(self.key.tenant), HEAD)
        writes = begun(self.key, old, head, commit, content, stored.place if stored else self.place, copied)
        if commit.create is not None:
            writes.deciding.append(grave_check(self.pk, commit.create.incarnation))
        if stored is not None:
            writes.deciding += checks_of(stored, commit, self.pk)
        self._write(writes, apart=True)
        if old is not None:
            self._clean(layout.grave_item(self.pk, old))
        return Outcome(head, head.version, head.seq, content.answer(commit.answer) if commit.answer else None)

    def _change(self, stored: Stored, head: Head, fresh: bool) -> Outcome:
        commit = self.commit
        if head == stored.head and not commit.puts and commit.create is None:
            if not fresh:
                raise _Moved(self._fetch())
            return self._answered(head, head.version, head.seq)
        writes = changed(self.key, stored, head, commit, self.kept, self._found(stored))
        if commit.create is not None and commit.create.incarnation != head.incarnation:
            writes.deciding.append(grave_check(self.pk, commit.create.incarnation))
        self._write(writes, old=stored)
        self._clean(*writes.orphans)
        return self._answered(head, head.version, head.seq)

    def _clean(self, *marks: Item) -> None:
        """After the commit: what fails now does not undo it, and is left to the next sweep."""
        with suppress(StoreError):
            for mark in marks:
                clean(self.table, mark)

    def _found(self, stored: Stored) -> list[Item]:
        """The items that the commit replaces, where that has to be known: under dropped prefixes, or if there are large values."""
        commit, life = self.commit, stored.life
        prefixes = [drop for drop in commit.drops if drop.key is None]
        found = {
            it[SORT]["S"]: it
            for drop in prefixes
            for it in blobs_in(self.table, self.pk, life, BlobRange(namespace=drop.namespace, prefix=drop.prefix), {})
        }
        if stored.large:
            sorts = {layout.state_key(life, put.key) for put in commit.puts}
            sorts |= {layout.blob_key(life, it.namespace, it.key) for it in commit.blobs}
            sorts |= {layout.blob_key(life, it.namespace, it.key) for it in commit.drops if it.key is not None}
            found |= {it[SORT]["S"]: it for it in self.table.get_many([address(self.pk, sort) for sort in sorts - found.keys()])}
        return list(found.values())

    def _answered(self, head: Head, version: int, seq: int, *, repeated: bool = False) -> Outcome:
        """The outcome, with the plan's answer and its head if there is a plan: what came later is in both of them."""
        plan = self.commit.answer
        if plan is None:
            return Outcome(head, version, seq, None, repeated)
        try:
            snapshot = self.author.seen(self.pk, plan)
        except StoreUnavailable as error:
            raise OutcomeUnknown(
                f"{self.key}: the commit was written, its answer could not be read ({error}): repeat it to learn"
            ) from error
        if snapshot is None:
            raise self._gone()
        return Outcome(snapshot.head, version, seq, snapshot, repeated)

    # --- writing ---

    def _write(self, writes: Writes, *, old: Stored | None = None, apart: bool = False) -> None:
        """Write all of it in one request; what does not fit is staged first. `apart`: the life is new, and all it holds may be staged."""
        ops = writes.all()
        if _fit(ops):
            self._send(writes, ops)
        elif apart:
            held = [op.item for op in writes.held.values()]
            self._staged(writes, writes.deciding, layout.under(writes.stored.life), [*held, *writes.parts])
        else:
            assert old is not None
            if not _fit([*writes.deciding, *writes.held.values()], spare=1):
                self._resolve(writes)
                with_redo(self.key, writes, old)
            self._staged(writes, [*writes.deciding, *writes.held.values()], batch_prefix(writes), writes.parts)
            if writes.stored.redo is not None:
                self._finish(writes.stored)

    def _finish(self, stored: Stored) -> None:
        """After the commit: what fails now is left to the next one."""
        with suppress(StoreError):
            finish_redo(self.table, self.key, stored)
            self._fetch()

    def _staged(self, writes: Writes, ops: list[Op], prefix: str, items: list[Item]) -> None:
        """Put `items` where nobody looks, under a mark, then commit; the mark goes with the commit, or the items with the mark."""
        mark = layout.dirt_item(self.pk, prefix, time.time() + STAGE_SECONDS)
        self.table.write([Op("Put", mark)])
        try:
            self.table.put_all(items)
            unclaimed = where(f"attribute_exists(#{PARTITION}) AND attribute_not_exists(#taken)")
            self._send(writes, [*ops, Op("Delete", mark, unclaimed)])
        except (_Moved, UsageError):
            remove(self.table, self.pk, prefix)
            self.table.write([Op("Delete", mark)])
            raise

    def _send(self, writes: Writes, ops: list[Op]) -> None:
        try:
            self.table.write(ops)
        except Refused as refused:
            found = {ops[n].sort: item for n, item in refused.found.items()}
            if not self._is_mine(writes, found.get(HEAD)):
                self._refused(ops, refused, found)
        if ops[0].act == "Put":
            self.heads.put(self.pk, ops[0].item)
            self._learn({put.key: writes.stored.head.version for put in self.commit.puts if put.value is not None})

    def _learn(self, versions: dict[str, int]) -> None:
        if versions and (known := self.heads.get(self.pk)):
            known.keys.update(versions)

    def _is_mine(self, writes: Writes, item: Item | None) -> bool:
        """Whether the head is what this very try has written: the answer to its first request was lost."""
        return item is not None and "mark" in item and item["mark"]["B"] == writes.stored.mark

    def _refused(self, ops: list[Op], refused: Refused, found: dict[str, Item | None]) -> None:
        """Why a condition did not hold: somebody else's head, an ended life, a key that moved, a blob that is there."""
        if HEAD in found:
            self.heads.put(self.pk, found[HEAD])
            raise _Moved(found[HEAD])
        self.sure = True
        if self.commit.create is not None and layout.grave_key(self.commit.create.incarnation) in found:
            raise self._gone()
        self._check_keys(found)
        there = {sort for sort, item in found.items() if item is not None and "namespace" in item}
        raise _Moved(self.item, self.kept | there) if there else _Moved(self._fetch())

    def _check_keys(self, found: dict[str, Item | None]) -> None:
        """`Conflict` for the first key that is not at its `if_version`; `found` are items by sort key, of whichever life."""
        items = {sort[13:]: item for sort, item in found.items()}
        for put in self.commit.puts:
            name = layout.state_key(0, put.key)[13:]
            if put.if_version is not None and name in items:
                item = items[name]
                version = 0 if item is None or "gone" in item else int(item["version"]["N"])
                if version != put.if_version:
                    self._learn({put.key: version})
                    raise Conflict(put.if_version, version, key=put.key)

    def _resolve(self, writes: Writes) -> None:
        """Decide the conditions on state and blobs now, under the head that was judged: they are not in the commit's own request."""
        asked = [sort for sort, op in writes.held.items() if op.condition is not None]
        there = {it[SORT]["S"]: it for it in self.table.get_many([address(self.pk, sort) for sort in asked])}
        self._check_keys({sort: there.get(sort) for sort in asked})
        for sort in asked:
            if sort in there and "namespace" in there[sort]:
                del writes.held[sort]
            else:
                writes.held[sort] = writes.held[sort]._replace(condition=None)


class _Company:
    """Other writers of the session: short pauses of random length, for whoever pauses long is always too late."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._tries = 0

    def again(self, key: Key) -> None:
        self._tries += 1
        if time.monotonic() > self._end:
            raise StoreUnavailable(f"{key}: other writers were first for all of the time")
        if self._tries > 1:
            time.sleep(random.uniform(0, min(self._tries, _MOST_COMPANY) * _COMPANY_SECONDS))


def _fit(ops: list[Op], spare: int = 0) -> bool:
    return len(ops) + spare <= TRANSACTION_ITEMS and sum([op.size for op in ops]) <= TRANSACTION_BYTES


def _content_of(snapshot: Snapshot) -> Content:
    blobs = {(it.namespace, it.key): it for it in snapshot.blobs or ()}
    return Content(0, b"", entries=snapshot.entries or [], state=snapshot.state or {}, blobs=blobs)
