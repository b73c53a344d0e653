"""Large values of messages: each is kept once, as a blob of its session, and is read when it is needed.

A log whose bodies hold media or long results carries them in every read, once for each turn that said them. So the large strings, arrays
and objects of a large body go into blobs, and placeholders (`messages.LEFT_OUT`) stand in their places. What is taken out are stretches of
the body's own bytes, so that the whole body is the same to the byte. The projection of a message and a framework's payload beside it
usually hold the same text: it is stored once.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from .backend import BlobPut, BlobRange, Commit, Key, ReadPlan, Snapshot
from .entries import LARGE, MESSAGE, Entry, NewEntry
from .errors import Corrupt, HoldfastError, SessionGone
from .messages import FORM, LEFT_OUT, LIGHT, Message, Part, Text, decode_message, encode_message

Stored = TypeVar("Stored", Entry, Message)

THRESHOLD = 16 * 1024
"""Bodies up to this many bytes stay as they are."""
STRING = 4 * 1024
"""In larger ones, strings of so many bytes are taken out,"""
CONTAINER = 16 * 1024
"""and arrays and objects that have so many left then."""

_KEYS_AT_ONCE, _BYTES_AT_ONCE = 100, 8 * 1024 * 1024
_WHOLE, _LIGHT = (b'{"v":%d,' % form for form in (FORM, LIGHT))
_MARK = msgspec.json.encode(LEFT_OUT)[:-1]
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_HEAD = re.compile(rb'"(data:[^":,\\]{0,200},)')
"""What a data URL has before its content: it stays, for the content alone is what others keep of the same media."""
_HELD = re.compile(rb'(?<!\\)%s(text|json):([0-9a-f]{32}):([0-9]+)(?::(data:[^":,\\]{0,200},))?"' % re.escape(_MARK))
"""A placeholder: a quote within a string has a backslash before it, and what begins so in a light body is no user's own."""


# --- taking out ------------------------------------------------------------------------------------------------------


def lightened(key: Key, commit: Commit) -> Commit:
    """`commit` with the large values of its messages as blobs of the session `key`: the same for the same commit."""
    if not any(len(entry.body) > THRESHOLD for entry in commit.entries):
        return commit
    salt = blake2b(f"{key.tenant}\0{key.session_id}".encode()).digest()
    blobs: dict[str, bytes] = {}
    entries = tuple([_lightened(entry, salt, blobs) for entry in commit.entries])
    saved = sum([len(entry.body) for entry in commit.entries]) - sum([len(entry.body) for entry in entries])
    return replace(
        commit,
        entries=entries,
        blobs=(*commit.blobs, *(BlobPut(LARGE, name, "application/json", data, if_absent=True) for name, data in blobs.items())),
        counts=commit.counts and replace(commit.counts, bytes=commit.counts.bytes - saved),
    )


def _lightened(entry: NewEntry, salt: bytes, blobs: dict[str, bytes]) -> NewEntry:
    if entry.kind != MESSAGE or len(entry.body) <= THRESHOLD:
        return entry
    body, taken = split(entry.body, salt)
    blobs |= taken
    return replace(entry, body=body)


def split(body: bytes, salt: bytes = b"") -> tuple[bytes, dict[str, bytes]]:
    """The light form of a message's body, and by their keys the values taken out; the body itself where there are none.

    A key is a hash of the value and of `salt`. Containers stay where their absence would make another message of a light one.
    """
    for containers in (True, False):
        cuts = _cuts(body, containers=containers) if body.startswith(_WHOLE) else []
        taken = {_key(value, salt): value for value in (_parted(body[cut.start : cut.end])[1] for cut in cuts)}
        light = _LIGHT + b"".join(_with_placeholders(body, cuts, salt))[len(_WHOLE) :]
        if taken and _comes_back(light):
            return light, taken
    return body, {}


def _comes_back(light: bytes) -> bool:
    """Whether a reader who has the message only gets its body again."""
    try:
        return _body(decode_message(light)) == light
    except HoldfastError:
        return False


def _with_placeholders(body: bytes, cuts: Sequence[_Cut], salt: bytes) -> Iterator[bytes]:
    place = 0
    for cut in cuts:
        whole = body[cut.start : cut.end]
        head, value = _parted(whole)
        kind, rest = b"text" if value.startswith(b'"') else b"json", b":" + head if head else b""
        yield body[place : cut.start]
        yield b'%s%s:%s:%d%s"' % (_MARK, kind, _key(value, salt).encode(), _length(whole), rest)
        place = cut.end
    yield body[place:]


def _parted(value: bytes) -> tuple[bytes, bytes]:
    """What of a value stays, if anything, and what is taken out."""
    found = _HEAD.match(value)
    return (found[1], b'"' + value[found.end() :]) if found else (b"", value)


def _key(value: bytes, salt: bytes) -> str:
    return blake2b(value, digest_size=16, key=salt).hexdigest()


def _length(value: bytes) -> int:
    """The bytes of a text as UTF-8, of anything else as JSON."""
    if not value.startswith(b'"'):
        return len(value)
    return len(msgspec.json.decode(value, type=str).encode()) if b"\\" in value else len(value) - 2


class _Cut(NamedTuple):
    """A stretch of a body that is taken out."""

    start: int
    end: int


_PLACEHOLDER = len(_MARK) + 48
"""About how long one is."""


class _Open:
    """An array or object that has begun: where, how many cuts there were before it, what those inside it have saved."""

    __slots__ = ("cuts", "saved", "start")

    def __init__(self, start: int, cuts: int) -> None:
        self.start = start
        self.cuts = cuts
        self.saved = 0


def _cuts(body: bytes, *, containers: bool) -> list[_Cut]:
    """What is to be taken out, in order. A container is taken out with all that is in it; what makes the message one stays."""
    cuts: list[_Cut] = []
    around: list[_Open] = []
    field = b""
    for token in _TOKEN.finditer(body):
        start, end = token.span()
        first = body[start]
        if first == 0x22:  # a string
            if end - start >= STRING or body.startswith(_MARK, start):
                cuts.append(_Cut(start, end))
                around[-1].saved += end - start - _PLACEHOLDER
            elif len(around) == 1:
                field = token[0]
        elif first in b"[{":
            around.append(_Open(start, len(cuts)))
        else:
            it = around.pop()
            inside = len(around) > 2 or (len(around) == 2 and field == b'"native"')
            if containers and inside and end - it.start - it.saved >= CONTAINER:
                cuts[it.cuts :] = [_Cut(it.start, end)]
                it.saved = end - it.start - _PLACEHOLDER
            if around:
                around[-1].saved += it.saved
    return cuts


# --- bringing in -----------------------------------------------------------------------------------------------------


def is_light(it: Entry | NewEntry | Message) -> bool:
    """Whether values of it were left out."""
    return it.light if isinstance(it, Message) else it.body.startswith(_LIGHT) and it.kind == MESSAGE


def left_out(items: Iterable[Entry | NewEntry | Message]) -> dict[str, int]:
    """By their keys, the sizes of the values that `items` lack."""
    return {key.decode(): int(size) for it in items if is_light(it) for _, key, size, _ in _HELD.findall(_body(it))}


def reads(wanted: Mapping[str, int]) -> Iterator[BlobRange]:
    """What to read to have the values, a bounded number of bytes at once (or one value)."""
    keys: list[str] = []
    size = 0
    for key, more in wanted.items():
        if keys and (len(keys) == _KEYS_AT_ONCE or size + more > _BYTES_AT_ONCE):
            yield BlobRange(namespace=LARGE, keys=tuple(keys))
            keys, size = [], 0
        keys.append(key)
        size += more
    if keys:
        yield BlobRange(namespace=LARGE, keys=tuple(keys))


async def restored(read: Callable[[ReadPlan], Awaitable[Snapshot | None]], items: Sequence[Stored]) -> list[Stored]:
    """`items` with the values that were left out; `SessionGone` where `read` finds their session no more."""
    values: dict[str, bytes] = {}
    for wanted in reads(left_out(items)):
        if (snapshot := await read(ReadPlan(blobs=(wanted,)))) is None:
            raise SessionGone("the session was cleared, deleted or expired while its large values were read")
        values |= {blob.key: blob.data for blob in snapshot.blobs or [] if blob.data is not None}
    return [whole(it, values) for it in items]


def whole(it: Stored, values: Mapping[str, bytes]) -> Stored:
    """`it` with the values that were left out; `Corrupt` where one is missing."""
    if not is_light(it):
        return it
    try:
        body = joined(_body(it), values)
    except KeyError as missing:
        raise Corrupt(f"message {it.id}: its large value {missing} is not in the session any more") from None
    made: Any = decode_message(body, it.id, it.run_id) if isinstance(it, Message) else replace(it, body=body)
    return made


def joined(light: bytes, values: Mapping[str, bytes]) -> bytes:
    """The opposite of `split`; `KeyError` names a value that isn't there."""
    return _WHOLE + _HELD.sub(lambda held: _value(held, values), light)[len(_LIGHT) :]


def _value(held: re.Match[bytes], values: Mapping[str, bytes]) -> bytes:
    value = values[held[2].decode()]
    return b'"' + held[4] + value[1:] if held[4] else value


def _body(it: Entry | NewEntry | Message) -> bytes:
    """The light body of a light entry or message."""
    return _LIGHT + encode_message(replace(it, light=False))[len(_WHOLE) :] if isinstance(it, Message) else it.body


def size_of(part: Part) -> int:
    """How many bytes a part of a light message has when it is whole: those of a text, of any other part as JSON."""
    encoded = msgspec.json.encode(part.content if isinstance(part, Text) else part)
    more = sum([int(held[3]) + 2 * (held[1] == b"text") - len(held[0]) for held in _HELD.finditer(encoded)])
    return len(encoded) + more - 2 * isinstance(part, Text)
