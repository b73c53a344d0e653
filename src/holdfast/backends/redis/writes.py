"""A commit that has been judged, as steps for commit.lua."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from ...backend import BlobDrop, BlobPut, Commit, Counts, Head, Put
from ...entries import Entry, NewEntry
from ...ids import new_id
from ...rules import TOMBSTONES_KEPT, digest
from . import layout
from .layout import BLOBS, BOOK_0, COMMITS_PER_BOOK, HEAD, NAMES, STATE, TOMBS, VERSIONS, Layout, Place
from .plans import NO_PLAN, span, words

_TURN = 250
"""For how long the others wait for one who was too late again and again (milliseconds), if they don't hear of him."""
_NEVER = (b"", b"", b"")
_encode_head = msgspec.json.Encoder().encode


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What was last seen of a session: its head as stored (None: it wasn't there), who wrote that, and how many tombstones it had."""

    mark: bytes = b""
    head: bytes | None = None
    tombs: int = 0


class Mode(msgspec.Struct, frozen=True):
    """Whether to look for a repetition, and whether the author was too late so often that the others should wait."""

    look: bool = True
    late: bool = False


class Copied(msgspec.Struct, frozen=True):
    """What a fork begins with: state, blobs, and entries here or already in keys of their own (`staged`: log, kinds, runs)."""

    state: dict[str, bytes]
    blobs: tuple[BlobPut, ...]
    entries: tuple[Entry, ...]
    number: int
    counts: Counts
    staged: tuple[bytes, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """What commit.lua is sent, and what is so once it has been applied."""

    keys: list[bytes]
    arguments: list[bytes]
    after: Head | None = None
    seen: Seen | None = None


class Steps:
    """Steps in the making. Keys other than the session's own are numbered as they come."""

    def __init__(self, place: Place) -> None:
        self.keys = list(place.keys)
        self.words: list[bytes] = []
        self.count = 0

    def add(self, name: bytes, *arguments: bytes) -> None:
        self.words += (name, b"%d" % len(arguments), *arguments)
        self.count += 1

    def do(self, command: bytes, key: int, *arguments: bytes) -> None:
        self.add(b"do", command, b"%d" % key, *arguments)

    def key(self, name: bytes) -> bytes:
        """The number of a key, for a step that takes one."""
        self.keys.append(name)
        return b"%d" % len(self.keys)

    def unlist(self, name: bytes, member: bytes) -> None:
        self.add(b"do", b"ZREM", self.key(name), member)

    def list(self, name: bytes, member: bytes) -> None:
        self.add(b"list", self.key(name), member)


def _request(
    place: Place, commit: Commit, taken: bytes, steps: Steps, *, mode: Mode, ends: tuple[bytes, bytes, bytes] = _NEVER, plan: bool = True
) -> Request:
    strict = {put.key: put.if_version for put in commit.puts if put.if_version is not None}
    arguments = [
        commit.id.encode(),
        b"1" if mode.look else b"0",
        taken,
        b"" if commit.create is None else b"%d" % commit.create.incarnation,
    ]
    arguments.append(b"%d" % _TURN if mode.late else b"")
    arguments.append(b"%d" % len(strict))
    for name, version in strict.items():
        arguments += (name.encode(), b"%d" % version)
    arguments.append(b"%d" % steps.count)
    arguments += steps.words
    arguments += [b"1", *words(commit.answer)] if plan and commit.answer is not None else NO_PLAN
    arguments += ends
    return Request([*steps.keys, place.channel], arguments)


def question(place: Place, commit: Commit, *, mode: Mode) -> Request:
    """What is so: a commit that takes a head to be there that nobody ever wrote. A repetition is answered."""
    return _request(place, commit, b"?", Steps(place), mode=mode)


def request(
    names: Layout,
    place: Place,
    commit: Commit,
    seen: Seen,
    stored: Head | None,
    living: Head | None,
    after: Head | None,
    *,
    mode: Mode,
    copied: Copied | None,
) -> Request:
    """Everything that `commit` writes where `seen` is so, in the order of the contract; `after` is what `judge` made of `living`."""
    steps = Steps(place)
    if stored is not None and (living is None or after is None or commit.erase is not None):
        steps.add(b"end", b"%d" % stored.incarnation)
    if after is None:
        _unlist(steps, names, place, stored)
        made = _request(place, commit, seen.mark, steps, mode=mode, plan=False)
        return msgspec.structs.replace(made, seen=Seen())
    if living is None:
        _unlist_old(steps, names, place, stored, after)
        steps.add(b"number", steps.key(names.last(place.bucket)))
        steps.list(names.everyone(place), place.member)
    if copied is not None:
        after = _fill(steps, copied, after)
    if seen.tombs > TOMBSTONES_KEPT and living is not None and commit.erase is None:
        after = replace(after, floor=living.version)
        steps.do(b"ZREMRANGEBYSCORE", TOMBS, b"-inf", b"%d" % living.version)
    _write(steps, commit, after)
    _list(steps, names, place, living, after)
    if after.expires != (stored.expires if stored else None):
        _list_expiry(steps, names, place, after)
    mark = b"%d.%b" % (after.incarnation, new_id().encode())
    data = _encode_head(after)
    expires = b"" if after.expires is None else b"%d" % after.expires
    steps.do(b"HSET", HEAD, b"head", data, b"mark", mark, b"floor", b"%d" % after.floor, b"expires", expires)
    if living is None or after.version > living.version:
        _record(steps, commit, after)
    made = _request(place, commit, seen.mark, steps, mode=mode, ends=_ends(stored, after))
    return replace(made, after=after, seen=Seen(mark, data))


def _ends(stored: Head | None, after: Head) -> tuple[bytes, bytes, bytes]:
    """When the session's keys go by themselves (unix milliseconds), its incarnation, its user."""
    if after.expires is None:
        return (b"never" if stored is not None and stored.expires is not None else b""), b"", b""
    return b"%d" % -(-after.expires // 1000), b"%d" % after.incarnation, (after.user_id or "").encode()


# --- content ---------------------------------------------------------------------------------------------------------


def _write(steps: Steps, commit: Commit, after: Head) -> None:
    for it in commit.drops:
        _drop(steps, it)
    for it in commit.blobs:
        _blob(steps, it)
    if commit.puts:
        _state(steps, commit.puts, after.version)
    if commit.entries:
        _log(steps, commit.entries, after.seq - len(commit.entries) + 1, after.version)
    for it in commit.hide:
        first, last = max(it.first, 1), min(it.last, after.seq)
        if first <= last:
            steps.add(b"hide", b"%d" % first, b"%d" % last)


def _log(steps: Steps, entries: tuple[NewEntry | Entry, ...], first: int, version: int) -> None:
    rows: list[bytes] = []
    runs: dict[str, list[int]] = {}
    for seq, it in enumerate(entries, first):
        rows += (layout.plain(it.kind), (it.run_id or "").encode(), layout.packed(it))
        if it.run_id is not None:
            runs.setdefault(it.run_id, [seq, seq])[1] = seq
    steps.add(b"log", b"%d" % version, b"%d" % first, *rows)
    for run, (begin, end) in runs.items():
        steps.add(b"run", run.encode(), b"%d" % begin, b"%d" % end)


def _state(steps: Steps, puts: tuple[Put, ...], version: int) -> None:
    """Of several puts of one key the last one counts."""
    values, named, dead, live = list[bytes](), list[bytes](), list[bytes](), list[bytes]()
    for put in {put.key: put for put in puts}.values():
        name = put.key.encode()
        if put.value is None:
            dead.append(name)
        else:
            values += (name, b"%d:%b" % (version, put.value))
            named += (b"%d" % version, name)
            live.append(name)
    if live:
        steps.do(b"HSET", STATE, *values)
        steps.do(b"ZADD", VERSIONS, *named)
        steps.do(b"ZREM", TOMBS, *live)
    for name in dead:
        steps.add(b"bury", name, b"%d" % version)


def _blob(steps: Steps, it: BlobPut) -> None:
    steps.add(b"blob", layout.blob_place(it.namespace, it.key), it.type.encode(), it.data, b"1" if it.if_absent else b"0")


def _drop(steps: Steps, it: BlobDrop) -> None:
    if it.key is None:
        steps.add(b"drop", *span(it.namespace, it.prefix))
    else:
        name = layout.blob_place(it.namespace, it.key)
        steps.do(b"HDEL", BLOBS, b"t" + name, b"d" + name)
        steps.do(b"ZREM", NAMES, name)


def _record(steps: Steps, commit: Commit, after: Head) -> None:
    turn, place = divmod(after.version, COMMITS_PER_BOOK)
    book = BOOK_0 + turn % 2
    if place == 0:
        steps.do(b"UNLINK", book)
    steps.do(b"HSET", book, commit.id.encode(), digest(commit) + b"%d %d" % (after.version, after.seq))


def recorded(record: bytes) -> tuple[bytes, int, int]:
    """Digest, version and seq of a commit that was applied."""
    version, _, seq = record[8:].partition(b" ")
    return record[:8], int(version), int(seq)


def _fill(steps: Steps, copied: Copied, after: Head) -> Head:
    if copied.staged:
        steps.add(b"adopt", *(steps.key(name) for name in copied.staged))
    elif copied.entries:
        _log(steps, copied.entries, 1, after.version)
    if copied.state:
        _state(steps, tuple(Put(name, value) for name, value in copied.state.items()), after.version)
    for it in copied.blobs:
        _blob(steps, it)
    return replace(after, seq=after.seq + copied.number, counts=after.counts + copied.counts)


# --- indexes ---------------------------------------------------------------------------------------------------------


def _list(steps: Steps, names: Layout, place: Place, living: Head | None, after: Head) -> None:
    if after.user_id is not None and (living is None or after.user_id != living.user_id):
        steps.list(names.of_user(place, after.user_id), place.member)
    if after.waiting and (living is None or not living.waiting):
        steps.list(names.waiting(place), place.member)
    elif living is not None and living.waiting and not after.waiting:
        steps.unlist(names.waiting(place), place.member)


def _list_expiry(steps: Steps, names: Layout, place: Place, after: Head) -> None:
    key = steps.key(names.expiring(place.bucket))
    if after.expires is None:
        steps.add(b"do", b"ZREM", key, place.member)
    else:
        steps.add(b"do", b"ZADD", key, b"%d" % after.expires, place.member)


def _unlist_old(steps: Steps, names: Layout, place: Place, stored: Head | None, after: Head) -> None:
    """Rows of an earlier life that expired, which the database may have forgotten before anybody could sweep."""
    if after.expires is None:
        steps.unlist(names.expiring(place.bucket), place.member)
    if stored is not None and stored.user_id is not None:
        steps.unlist(names.of_user(place, stored.user_id), place.member)
    if not after.waiting:
        steps.unlist(names.waiting(place), place.member)


def _unlist(steps: Steps, names: Layout, place: Place, stored: Head | None) -> None:
    steps.do(b"UNLINK", HEAD)
    for name in (names.everyone(place), names.waiting(place), names.expiring(place.bucket)):
        steps.unlist(name, place.member)
    if stored is not None and stored.user_id is not None:
        steps.unlist(names.of_user(place, stored.user_id), place.member)
