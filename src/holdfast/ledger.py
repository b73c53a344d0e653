"""Every session of a small database as one value: what a backend needs that keeps all it has in one place.

The memory backend is a `Ledger` under a lock; one that loads, changes and saves it is as good (`docs/backends.md`). It holds encoded
bytes, never the caller's objects, and `msgspec` can encode it whole. Nothing here waits, locks or reads a clock but for expiry.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from .backend import Blob, Commit, Counts, Filter, Head, Key, Outcome, Page, ReadPlan, Snapshot, StateRow
from .entries import MESSAGE, Entry
from .errors import SessionGone, SessionNotFound
from .ids import now
from .rules import COMMITS_KEPT, GRAVE_SECONDS, TOMBSTONES_KEPT, alive, asked, digest, judge, matches, numbered, repeated, select

_PAGE_WORK = 1000
"""How many sessions one page of a list looks at before it gives the next cursor."""

_seq = attrgetter("seq")
_encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(Head).decode


class Record(msgspec.Struct):
    """All of one session. `number` is its place in the order of creation; `commits` is what each commit id did that moved the version."""

    number: int
    stored_head: bytes
    entries: list[Entry] = []
    hidden: list[Entry] = []
    state: dict[str, StateRow] = {}
    blobs: dict[tuple[str, str], Blob] = {}
    commits: dict[str, tuple[bytes, int, int]] = {}

    @property
    def head(self) -> Head:
        return _decode_head(self.stored_head)

    def key_version(self, key: str) -> int:
        """The version of a key's last change; 0 where there is no value."""
        row = self.state.get(key)
        return row.version if row and row.value is not None else 0

    def answer(self, plan: ReadPlan) -> Snapshot:
        """What `plan` asks for."""
        head, since, window = self.head, plan.state_since, plan.entries
        whole = since is not None and since <= head.floor
        return Snapshot(
            head,
            None if since is None else self._state(since, whole),
            whole,
            None if window is None else select(sorted(self.entries + self.hidden, key=_seq) if window.hidden else self.entries, window),
            self._blobs(plan) if plan.blobs else None,
        )

    def _state(self, since: int, whole: bool) -> dict[str, StateRow]:
        return {key: row for key, row in self.state.items() if (row.value is not None if whole else row.version > since)}

    def _blobs(self, plan: ReadPlan) -> list[Blob]:
        found = [(it, self.blobs[place]) for it in plan.blobs for place in sorted(self.blobs) if asked(it, *place)]
        return [blob if it.data else replace(blob, data=None) for it, blob in found]

    def apply(self, commit: Commit, head: Head) -> None:
        """Everything `commit` writes, in the order of the contract; `head` is what `judge` made of it."""
        if commit.drops:
            self.blobs = {place: blob for place, blob in self.blobs.items() if not any(asked(drop, *place) for drop in commit.drops)}
        for put in commit.blobs:
            if not (put.if_absent and (put.namespace, put.key) in self.blobs):
                self.blobs[put.namespace, put.key] = Blob(put.namespace, put.key, put.type, put.data)
        for put in commit.puts:
            if put.value is not None or put.key in self.state:
                self.state[put.key] = StateRow(put.value, head.version)
        for seq, it in enumerate(commit.entries, head.seq - len(commit.entries) + 1):
            self.entries.append(Entry(seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, head.version))
        for span in commit.hide:
            self._hide(span.first, span.last)
        moved = not self.stored_head or head.version > self.head.version
        self.stored_head = _encode_head(head)
        if moved or commit.erase is not None:
            self.commits[commit.id] = (digest(commit), head.version, head.seq)
        if len(self.commits) > COMMITS_KEPT:
            del self.commits[next(iter(self.commits))]

    def _hide(self, first: int, last: int) -> None:
        low, high = bisect_left(self.entries, first, key=_seq), bisect_right(self.entries, last, key=_seq)
        self.hidden = sorted(self.hidden + [replace(entry, hidden=True) for entry in self.entries[low:high]], key=_seq)
        del self.entries[low:high]

    def forget_tombstones(self) -> None:
        """Drop the tombstones once they are many; the head's floor says so."""
        buried = [row.version for row in self.state.values() if row.value is None]
        if len(buried) > TOMBSTONES_KEPT:
            self.state = {key: row for key, row in self.state.items() if row.value is not None}
            self.stored_head = _encode_head(replace(self.head, floor=max(buried)))

    def fill(self, source: Record, upto: int | None, head: Head) -> Head:
        """Take over a copy of `source` up to seq `upto`; `head` with the seq and the counts of what was copied."""
        taken = [entry for entry in source.entries if upto is None or entry.seq <= upto]
        self.entries = [replace(entry, seq=seq, version=head.version) for seq, entry in enumerate(taken, 1)]
        self.state = {key: StateRow(row.value, head.version) for key, row in source.state.items() if row.value is not None}
        self.blobs = dict(source.blobs)
        messages, runs = sum(entry.kind == MESSAGE for entry in taken), {entry.run_id for entry in taken} - {None}
        counts = head.counts + Counts(runs=len(runs), messages=messages, bytes=sum(len(entry.body) for entry in taken))
        return replace(head, seq=head.seq + len(taken), counts=counts)


class Ledger(msgspec.Struct):
    """Sessions by key, and the lives that have ended. The methods are those of a backend, without waiting."""

    created: int = 0
    records: dict[Key, Record] = {}
    graves: dict[tuple[Key, int], int] = {}
    """When each life ended, in unix microseconds."""

    def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        record = self._living(key)
        return record and record.answer(plan)

    def commit(self, key: Key, commit: Commit) -> Outcome:
        return self._commit(key, commit, None, None)

    def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        origin = self._living(source)
        if origin is None:
            raise SessionNotFound(f"there is no {source}")
        return self._commit(target, commit, origin, upto)

    def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        below = numbered(cursor, self.created + 1)
        mine = sorted(
            ((it.number, key) for key, it in self.records.items() if key.tenant == filter.tenant and it.number < below), reverse=True
        )
        time, items = now(), list[tuple[str, Head]]()
        for place, (number, key) in enumerate(mine, 1):
            head = self.records[key].head
            if alive(head, time) and matches(filter, head):
                items.append((key.session_id, head))
            if place < len(mine) and (len(items) == limit or place == _PAGE_WORK):
                return Page(items, str(number))
        return Page(items, None)

    def sweep(self, limit: int) -> int:
        time = now()
        gone = [key for key, record in self.records.items() if not alive(record.head, time)][:limit]
        for key in gone:
            self._bury(key)
        for record in self.records.values():
            record.forget_tombstones()
        old = time - GRAVE_SECONDS * 1_000_000
        for grave in [grave for grave, ended in self.graves.items() if ended < old]:
            del self.graves[grave]
        return len(gone)

    def _living(self, key: Key) -> Record | None:
        record = self.records.get(key)
        return record if record is not None and alive(record.head, now()) else None

    def _bury(self, key: Key) -> None:
        if key in self.records:
            self.graves[key, self.records.pop(key).head.incarnation] = now()

    def _commit(self, key: Key, commit: Commit, source: Record | None, upto: int | None) -> Outcome:
        record = self._living(key)
        if record is not None and commit.id in record.commits:
            seen, version, seq = record.commits[commit.id]
            repeated(key, commit, seen)
            return Outcome(record.head, version, seq, record.answer(commit.answer) if commit.answer else None, repeated=True)
        if commit.create is not None and self._ended(key, commit.create.incarnation):
            raise SessionGone(f"{key} is gone: it was deleted or expired since you last saw it")
        head = judge(key, record and record.head, commit, record.key_version if record else lambda _: 0)
        if record is None or commit.erase is not None:
            self._bury(key)
        if head is None:
            return Outcome(None, record.head.version + 1 if record else 0, 0)
        if record is None or commit.erase is not None:
            record = Record(record.number if record else self._number(), b"")
        if source is not None:
            head = record.fill(source, upto, head)
        record.apply(commit, head)
        self.records[key] = record
        return Outcome(head, head.version, head.seq, record.answer(commit.answer) if commit.answer else None)

    def _ended(self, key: Key, incarnation: int) -> bool:
        """Whether this life is over: buried, or expired and not yet swept."""
        record = self.records.get(key)
        expired = record is not None and not alive(record.head, now()) and record.head.incarnation == incarnation
        return expired or (key, incarnation) in self.graves

    def _number(self) -> int:
        self.created += 1
        return self.created
