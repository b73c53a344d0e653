"""Where things lie: the names of keys, the buckets that share a hash slot, and the bytes of an entry, a state value and a blob's place.

{prefix}schema                       the version of this layout
{prefix}{<bucket>}s:<tenant>/<id>:h  of a session: see `WORDS`
{prefix}{<bucket>}i:all:<tenant>     of a bucket: the sessions of a tenant by the number of their creation; so for `user:`, `waiting:`
{prefix}{<bucket>}i:expiring         its sessions with a time to live, by their expiry
{prefix}{<bucket>}i:last             the newest number of creation
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from zlib import crc32

import msgspec
from redis.crc import key_slot

from ...backend import Key
from ...entries import Entry, NewEntry
from ...errors import Corrupt

VERSION = 1
OLDEST = 1
"""The oldest version of this library's layout that may write what this one writes."""
BUCKETS = 64
COMMITS_PER_BOOK = 1024
"""A commit id is looked for in two books, the older of which is emptied when the newer is full."""

HEAD, LOG, HIDDEN, KINDS, RUNS, STATE, VERSIONS, TOMBS, BLOBS, NAMES, BOOK_0, BOOK_1, LIVES, TURN = range(1, 15)
"""The keys of one session, by their place among the keys of a script.

HEAD: hash of `head` (JSON), `mark` (who wrote it last), `floor`, `n` (its number). LOG: stream, an entry's id is `seq-version`. HIDDEN:
sorted set of disjoint ranges `first-last` by last. KINDS: `kind NUL seq` of visible entries that are no messages. RUNS: run -> first and
last seq. STATE: key -> `version:value`. VERSIONS, TOMBS: keys by the version of their last change, with a value and without. BLOBS:
`t` + place -> type, `d` + place -> data. NAMES: places in order. BOOKs: commit id -> digest and result. LIVES: incarnations that have
ended or will; it outlives the session by a week. TURN: the commit that others wait for, a moment.
"""
WORDS = tuple(b":" + word for word in b"h log hidden kinds runs state versions tombs blobs names b0 b1 lives turn".split())


def _tags() -> tuple[bytes, ...]:
    """A tag for each bucket: the smallest number whose slot lies in its 64th of all slots, so that any number of nodes has its share."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < BUCKETS:
        tag = b"%d" % number
        found.setdefault(key_slot(tag) * BUCKETS // 16384, tag)
        number += 1
    return tuple(found[bucket] for bucket in range(BUCKETS))


TAGS = _tags()
SLOTS = tuple(key_slot(tag) for tag in TAGS)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where one session lies: its bucket, its name in the bucket's indexes, its keys and the channel of its commits."""

    bucket: int
    slot: int
    member: bytes
    tenant: bytes
    keys: tuple[bytes, ...]
    channel: bytes


class Layout:
    """The names of everything under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.schema = self.prefix + b"schema"
        self.probes = self.prefix + b"{probe}", self.prefix + b"{probe}2"
        self._buckets = tuple(b"%b{%b}" % (self.prefix, tag) for tag in TAGS)
        self.place = lru_cache(4096)(self._place)

    def _place(self, key: Key) -> Place:
        tenant = quoted(key.tenant)
        path = tenant + b"/" + key.session_id.encode()
        bucket = crc32(path) % BUCKETS
        base = self._buckets[bucket] + b"s:" + path
        return Place(bucket, SLOTS[bucket], path, tenant, tuple(base + word for word in WORDS), base + b":told")

    def index(self, bucket: int, words: bytes) -> bytes:
        return self._buckets[bucket] + b"i:" + words

    def everyone(self, place: Place) -> bytes:
        return self.index(place.bucket, b"all:" + place.tenant)

    def of_user(self, place: Place, user_id: str) -> bytes:
        return self.index(place.bucket, b"user:" + place.tenant + b"/" + user_id.encode())

    def waiting(self, place: Place) -> bytes:
        return self.index(place.bucket, b"waiting:" + place.tenant)

    def expiring(self, bucket: int) -> bytes:
        return self.index(bucket, b"expiring")

    def last(self, bucket: int) -> bytes:
        return self.index(bucket, b"last")


def quoted(tenant: str) -> bytes:
    """A tenant's name without a slash."""
    return tenant.replace("%", "%25").replace("/", "%2F").encode()


def key_of(member: bytes) -> Key:
    """The key of a session by its name in an index."""
    tenant, _, session_id = member.decode().partition("/")
    return Key(tenant.replace("%2F", "/").replace("%25", "%"), session_id)


# --- names in order --------------------------------------------------------------------------------------------------

AFTER_ALL = b"\xff"
"""Greater than any byte of UTF-8."""


def plain(text: str) -> bytes:
    """The text without NUL, in the same order: what stands before a NUL in a sorted name."""
    if "\0" in text or "\1" in text:
        text = text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text.encode()


def unplain(data: bytes) -> str:
    text = data.decode()
    return text.replace("\1\1", "\0").replace("\1\2", "\1") if "\1" in text else text


def blob_place(namespace: str, key: str) -> bytes:
    return plain(namespace) + b"\0" + plain(key)


def kind_place(kind: str, seq: int) -> bytes:
    return plain(kind) + b"\0%016d" % seq


# --- an entry --------------------------------------------------------------------------------------------------------


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, str | None, int, bytes]).decode


def packed(it: NewEntry | Entry) -> bytes:
    """What of an entry has no field of its own: id, agent, time, body. Its seq and version are the stream's id, kind and run are fields."""
    return _pack((it.id, it.agent, it.time, it.body))


def unpacked(row: Any, hidden: bool = False) -> Entry:
    """An entry of the log: `[id, [kind, run, "", packed]]`."""
    place: bytes = row[0]
    kind, run, _, rest = row[1]
    seq, _, version = place.partition(b"-")
    try:
        id, agent, time, body = _unpack(rest)
    except msgspec.DecodeError as error:
        raise Corrupt(f"entry {int(seq)} of a log is not readable: {error}") from error
    return Entry(int(seq), id, unplain(kind), body, run.decode() or None, agent, time, int(version), hidden)
