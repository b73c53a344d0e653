"""How a session lies in the table: which items there are, what their keys are, what is in them.

Everything of a session has its partition key. By sort key, from the top: the head; then each life's items under its incarnation (state,
log, journal, parts of large values, blobs); then graves and marks of what is to be cleaned. Read backwards from the head, a session's
state and its newest entries come first, so one query opens it however long it is.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ...backend import Commit, Head, Key, Range
from ...entries import Entry
from ...errors import Corrupt
from ...rules import GRAVE_SECONDS, digest

Item = dict[str, Any]
"""An item as boto3's client has it: attribute names to typed values."""

PARTITION, SORT = "session_id", "key"
EXPIRY = "expiry_time"
ORDER = "place"
BY_TENANT, BY_USER, BY_WAITING = "by_tenant", "by_user", "by_waiting"
INDEXES = {BY_TENANT: "tenant_list", BY_USER: "user_list", BY_WAITING: "waiting_list"}
"""The indexes for lists, and the partition key of each; they are sorted by `place`, the number that creation handed out."""
DUE = "due"
"""The day (since 1970) on which a session may expire: the one changing attribute in an index, so that commits seldom write there."""

HEAD = "~"
BLOBS, PARTS, JOURNAL, LOG, STATE = "B", "D", "J", "L", "S"
_GRAVE, _DIRT = "!g", "!d"
_APART = "\x1f"
"""Between the names of a composed key: no id holds it, for ids are printable."""
DIRT_LIST = f"{_APART}dirt"
TOMBSTONES = "tombstones"
_COUNTERS = f"{_APART}count"
_ESCAPED = str.maketrans({"\x1e": "\x1e\x1e", _APART: "\x1e-"})

_PARTITION_BYTES = 2048
_NAME_BYTES = 900
PART_BYTES = 350 * 1024
INLINE_BYTES = 300 * 1024
"""A value up to this size lies in its own item, a larger one in parts of `PART_BYTES`: an item takes 400 KB."""
MUCH_BYTES, INLINE_OF_MUCH = 2_000_000, 16 * 1024
"""In a commit of so many bytes to a life that goes on, less lies inline: a transaction takes 4 MB."""
_BLOCK_BYTES, _BLOCK_ENTRIES, _BLOCKS = 32 * 1024, 64, 40
PAGE = 16
"""Commits whose records share one item of the journal."""

_DAY = 86_400


# --- keys ------------------------------------------------------------------------------------------------------------


def composed(*names: str) -> str:
    """One partition key of several names; of a hash where they don't fit."""
    joined = _APART.join(names)
    if len(joined.encode()) <= _PARTITION_BYTES:
        return joined
    return _APART + blake2b(joined.encode(), digest_size=32).hexdigest()


def partition(key: Key) -> str:
    """The partition key: the session id itself for the default tenant."""
    return key.session_id if key.tenant == "default" else composed(key.tenant, key.session_id)


def new_life() -> int:
    """Where the items of a new life go: a place of its own for each try at making it, so that none is in another's way."""
    return int.from_bytes(os.urandom(6), "big")


def new_mark() -> bytes:
    return os.urandom(8)


def under(life: int) -> str:
    """What the sort keys of one life's items begin with."""
    return f"{life:012x}/"


def log_key(life: int, first: int) -> str:
    return f"{under(life)}{LOG}/{first:012x}"


def journal_key(life: int, page: int) -> str:
    return f"{under(life)}{JOURNAL}/{page:012x}"


def part_key(life: int, parts: str, number: int) -> str:
    return f"{under(life)}{PARTS}/{parts}/{number:04x}"


def parts_prefix(life: int, parts: str) -> str:
    return f"{under(life)}{PARTS}/{parts}/"


def state_key(life: int, name: str) -> str:
    return f"{under(life)}{STATE}/{_short(name)}"


def blob_key(life: int, namespace: str, name: str) -> str:
    return f"{under(life)}{BLOBS}/{_short(_address(namespace, name))}"


def blob_prefix(life: int, namespace: str | None, prefix: str) -> str:
    """What the sort keys of such blobs begin with; others may begin so too."""
    start = "" if namespace is None else _cut(_address(namespace, prefix))
    return f"{under(life)}{BLOBS}/{start}"


def grave_key(incarnation: int) -> str:
    return f"{_GRAVE}{incarnation:012x}"


def is_grave(item: Item) -> bool:
    return item[SORT]["S"].startswith(_GRAVE)


def is_dirty(item: Item) -> bool:
    """Whether it says that something is left behind."""
    return item.get(INDEXES[BY_TENANT]) == {"S": DIRT_LIST}


def dirt_key(prefix: str) -> str:
    return f"{_DIRT}{prefix}"


def counter(tenant: str) -> str:
    """The partition key of the counter that orders a tenant's sessions."""
    return f"{_COUNTERS}{_APART}{tenant}"


def is_counter(pk: str) -> bool:
    return pk.startswith(f"{_COUNTERS}{_APART}")


def _address(namespace: str, name: str) -> str:
    return f"{namespace.translate(_ESCAPED)}{_APART}{name}"


def _cut(name: str) -> str:
    """As much of a name as a sort key takes."""
    return name if len(name) * 4 <= _NAME_BYTES else name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _short(name: str) -> str:
    """The name, or its beginning and a hash of it: an item whose name was cut carries it in full."""
    cut = _cut(name)
    return cut if cut == name else f"{cut}{_APART}{blake2b(name.encode(), digest_size=16).hexdigest()}"


# --- the head --------------------------------------------------------------------------------------------------------


class Stored(msgspec.Struct, frozen=True):
    """The head item: the head, and what this backend keeps with it.

    `mark`: random, new with every write of the item, so that a condition on it holds for this very head and no other. `life`: what the sort
    keys of this life begin with, random too. `journal`: records of the commits since the last whole page. `hidden`: ranges of seqs.
    `state_at`, `blobs_at`: the version that last changed them. `large`: some value of this life lies in parts. `redo`: the parts (and their
    number) that hold writes of the newest commit which are still to be carried out. `buried`: tombstones since the floor.
    """

    head: Head
    place: int
    life: int
    mark: bytes
    journal: bytes = b""
    hidden: tuple[tuple[int, int], ...] = ()
    state_at: int = 0
    blobs_at: int = 0
    large: bool = False
    redo: tuple[str, int] | None = None
    buried: int = 0


_REST = ("journal", "hidden", "state_at", "blobs_at", "large", "redo", "buried")
_decode_head = msgspec.json.Decoder(Head).decode
_pack = msgspec.msgpack.Encoder().encode
_unpack_rest = msgspec.msgpack.Decoder(tuple[bytes, tuple[tuple[int, int], ...], int, int, bool, tuple[str, int] | None, int]).decode


def head_item(key: Key, stored: Stored) -> Item:
    head = stored.head
    item: Item = {
        PARTITION: {"S": partition(key)},
        SORT: {"S": HEAD},
        "head": {"S": msgspec.json.encode(head).decode()},
        "life": {"S": f"{stored.life:012x}"},
        "mark": {"B": stored.mark},
        "rest": {"B": _pack([getattr(stored, name) for name in _REST])},
        ORDER: {"N": str(stored.place)},
        INDEXES[BY_TENANT]: {"S": composed(key.tenant)},
    }
    if key.tenant != "default":
        item["tenant"], item["id"] = {"S": key.tenant}, {"S": key.session_id}
    if head.user_id is not None:
        item[INDEXES[BY_USER]] = {"S": composed(key.tenant, head.user_id)}
    if head.waiting:
        item[INDEXES[BY_WAITING]] = {"S": composed(key.tenant)}
    if head.expires is not None:
        item[DUE] = {"N": str(head.expires // (_DAY * 1_000_000))}
    if stored.redo is not None:
        item["redo"] = {"S": stored.redo[0]}
    return item


def stored_of(item: Item) -> Stored:
    """What a head item holds; each call gives values of its own. `Corrupt` where it is unreadable."""
    try:
        head = _decode_head(item["head"]["S"])
        rest: Any = _unpack_rest(item["rest"]["B"])
        return Stored(head, int(item[ORDER]["N"]), int(item["life"]["S"], 16), item["mark"]["B"], *rest)
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise Corrupt(f"the head of {key_of(item)} is not readable: {error}; restore a backup, or delete its item") from error


def key_of(item: Item) -> Key:
    """Whose head it is."""
    if "id" in item:
        return Key(item["tenant"]["S"], item["id"]["S"])
    return Key("default", item[PARTITION]["S"])


def today() -> int:
    return int(time.time()) // _DAY


# --- entries ---------------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry inside its block."""

    id: str
    kind: str
    body: bytes
    run_id: str | None = None
    agent: str | None = None
    time: int = 0


class Block(NamedTuple):
    """Entries of one commit that lie in one item, `first` to `last`."""

    first: int
    last: int
    version: int
    rows: list[Row]

    def entries(self, hidden: tuple[tuple[int, int], ...]) -> list[Entry]:
        return [
            Entry(seq, it.id, it.kind, it.body, it.run_id, it.agent, it.time, self.version, covers(hidden, seq))
            for seq, it in enumerate(self.rows, self.first)
        ]


_decode_rows = msgspec.msgpack.Decoder(list[Row]).decode


def rows_of(data: bytes) -> list[Row]:
    return _decode_rows(data)


def packed(entries: list[Entry]) -> Iterator[tuple[int, int, bytes]]:
    """The blocks of one commit's entries: (first seq, last seq, payload). A block is small, unless there would be too many of them."""
    total = sum([len(it.body) + 60 for it in entries])
    most_bytes, most = max(_BLOCK_BYTES, total // _BLOCKS), max(_BLOCK_ENTRIES, len(entries) // _BLOCKS)
    block, size = list[Entry](), 0
    for entry in entries:
        if block and (size + len(entry.body) > most_bytes or len(block) >= most):
            yield _payload(block)
            block, size = [], 0
        block.append(entry)
        size += len(entry.body) + 60
    if block:
        yield _payload(block)


def _payload(block: list[Entry]) -> tuple[int, int, bytes]:
    rows = [Row(it.id, it.kind, it.body, it.run_id, it.agent, it.time) for it in block]
    return block[0].seq, block[-1].seq, _pack(rows)


# --- hidden ranges ---------------------------------------------------------------------------------------------------


def hide(hidden: tuple[tuple[int, int], ...], spans: Iterable[Range], last: int) -> tuple[tuple[int, int], ...]:
    """The ranges with `spans` added, as far as there are entries (up to seq `last`); sorted, none touching another."""
    added = [(max(span.first, 1), min(span.last, last)) for span in spans]
    merged: list[tuple[int, int]] = []
    for first, end in sorted([*hidden, *((first, end) for first, end in added if first <= end)]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((first, end))
    return tuple(merged)


def covers(hidden: tuple[tuple[int, int], ...], seq: int) -> bool:
    place = bisect_right(hidden, seq, key=itemgetter(0)) - 1
    return place >= 0 and seq <= hidden[place][1]


# --- the journal: what each commit id did ----------------------------------------------------------------------------


RECORD_BYTES = 28


class Record(NamedTuple):
    """What a commit left in the journal: its id (hashed), its content's digest, the last seq after it, and what entries it had."""

    id: bytes
    digest: bytes
    seq: int
    kinds: int
    run: int

    def pack(self) -> bytes:
        return self.id + self.digest + self.seq.to_bytes(6, "big") + self.kinds.to_bytes(2, "big") + self.run.to_bytes(4, "big")


def record_of(commit: Commit, seq: int, entries: Iterable[Entry] = ()) -> Record:
    """The record of `commit`; `entries` are those that came in with it beside its own, copied ones."""
    rows = [*entries, *commit.entries]
    return Record(hashed(commit.id), digest(commit), seq, kinds_mask(it.kind for it in rows), run_mark({it.run_id for it in rows} - {None}))


def hashed(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()


def kinds_mask(kinds: Iterable[str]) -> int:
    """One bit of sixteen for each kind: where the bit isn't set, there is no entry of that kind."""
    mask = 0
    for kind in kinds:
        mask |= 1 << (hashed(kind)[0] & 15)
    return mask


SEVERAL = 0xFFFFFFFF


def run_mark(runs: Iterable[str | None]) -> int:
    """0 for entries of no run, a hash for those of one, `SEVERAL` for more."""
    found = [run for run in runs if run is not None]
    if len(found) > 1:
        return SEVERAL
    return int.from_bytes(hashed(found[0])[:4], "big") % (SEVERAL - 1) + 1 if found else 0


def recorded(data: bytes, last: int, commit_id: bytes) -> tuple[int, Record] | None:
    """The record of this commit (by its hashed id) among those of a page, and its version; `last` is the version of the newest."""
    return next((found for found in records(data, last) if found[1].id == commit_id), None) if commit_id in data else None


def records(data: bytes, last: int) -> Iterator[tuple[int, Record]]:
    """The records of a journal's page by version, the newest first; `last` is the version of the newest."""
    for n, start in enumerate(range(len(data) - RECORD_BYTES, -1, -RECORD_BYTES)):
        it = data[start : start + RECORD_BYTES]
        seq, kinds, run = int.from_bytes(it[16:22], "big"), int.from_bytes(it[22:24], "big"), int.from_bytes(it[24:], "big")
        yield last - n, Record(it[:8], it[8:16], seq, kinds, run)


# --- everything else -------------------------------------------------------------------------------------------------


def address(pk: str, sort: str) -> Item:
    return {PARTITION: {"S": pk}, SORT: {"S": sort}}


def grave_item(pk: str, stored: Stored) -> Item:
    """Remembers that this life has ended; in the dirt list until its items are removed. Only then may it expire itself."""
    return _dirty(pk, grave_key(stored.head.incarnation), under(stored.life), time.time())


def settled_grave(grave: Item) -> Item:
    """The grave once there is nothing left of the life."""
    kept = {name: value for name, value in grave.items() if name not in (INDEXES[BY_TENANT], ORDER)}
    return kept | {EXPIRY: {"N": str(int(time.time()) + GRAVE_SECONDS)}}


def dirt_item(pk: str, prefix: str, due: float) -> Item:
    """Says that the items under `prefix` are nobody's once the time `due` (epoch seconds) has come and this is still there."""
    return _dirty(pk, dirt_key(prefix), prefix, due)


def tombstones_item(pk: str) -> Item:
    """Says that a sweep should drop the session's tombstones."""
    return _dirty(pk, dirt_key(TOMBSTONES), TOMBSTONES, time.time())


def _dirty(pk: str, sort: str, prefix: str, due: float) -> Item:
    return {
        **address(pk, sort),
        "prefix": {"S": prefix},
        INDEXES[BY_TENANT]: {"S": DIRT_LIST},
        ORDER: {"N": str(int(due))},
    }
