"""How the value of a channel is stored: once.

A value that is worth it is taken apart: each element of a list and each value of a dict becomes a chunk, named by the hash of its
serialized bytes, so that a list that grew by one message stores one message, and what a node wrote is what the channel then holds. What
is left of the value is a `Ref`, a few bytes that say how to put it together again. `refer` and `resolve` are pure: the same value has
the same ref and the same chunks, whoever stored it before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, Union, cast

import msgspec
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]  # the value of a channel as savers get it

REFS = "holdfast/refs"
"""Type of the chunks that hold refs, not a serialized value."""
_CHUNK = 128
"""A serialized value of at least so many bytes is a chunk of its own."""
_SPLIT = 1024
_ELEMENT = 32
"""A list of small values is taken apart from `_SPLIT` bytes on, when its elements have `_ELEMENT` bytes on average."""
_TAIL = 8
_PAGE = 1024
_BOX = 512
_DEPTH = 2
"""How deep containers are taken apart: a dict of lists of messages is."""


class Typed(NamedTuple):
    """What a serializer made of a value."""

    type: str
    data: bytes


class Inline(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="v"):
    """A small value, serialized."""

    type: str
    data: bytes


class Items(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="l"):
    """A list: pages (chunks of refs), then the elements after them. How it is cut depends on its length alone."""

    pages: tuple[bytes, ...]
    tail: tuple[Ref, ...]


class Fields(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="d"):
    """A dict with string keys: a list of them, and their values."""

    keys: Ref
    values: tuple[Ref, ...]


class Boxed(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="b"):
    """A ref in a chunk of its own: a dict of many keys."""

    digest: bytes


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="s"):
    """A `DeltaChannel`'s snapshot of this value."""

    value: Ref


Ref: TypeAlias = Union[bytes, Inline, Items, Fields, Boxed, Snapshot]  # noqa: UP007  # msgspec resolves this one inside the classes above
"""bytes: the digest of the chunk that is the value."""

Chunks: TypeAlias = dict[bytes, Typed]

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], tuple[Ref, ...]] = msgspec.msgpack.Decoder(tuple[Ref, ...]).decode


class Lists(ABC):
    """A serializer that has a way of its own with lists, and with the same outcome."""

    @abstractmethod
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]: ...

    @abstractmethod
    def loads_typed(self, data: tuple[str, bytes]) -> Any: ...

    @abstractmethod
    def refs(self, values: list[Any], chunks: Chunks, refer: Callable[[Any, Chunks], Ref]) -> list[Ref]:
        """What `refer` says of each of them."""

    @abstractmethod
    def values(self, refs: Sequence[Ref], chunks: Chunks, resolve: Callable[[Ref], Any]) -> list[Any]:
        """What `resolve` says of each of them."""


@lru_cache(maxsize=256)
def _page(data: bytes) -> tuple[tuple[Ref, ...], frozenset[bytes] | None]:
    """The refs of a page; when each of them is a chunk, these once more."""
    refs = _decode(data)
    return refs, frozenset(cast("tuple[bytes, ...]", refs)) if all(type(ref) is bytes for ref in refs) else None


def digest_of(typed: Typed) -> bytes:
    """The name of a chunk."""
    return blake2b(typed.type.encode() + b"\0" + typed.data, digest_size=16).digest()


def name_of(ref: Ref) -> str:
    """What tells one value from another; the name of its chunk where the value is one."""
    return (ref if isinstance(ref, bytes) else digest_of(Typed(REFS, _encode(ref)))).hex()


# --- taking apart ----------------------------------------------------------------------------------------------------


def refer(value: Any, serde: SerializerProtocol, chunks: Chunks, *, split: bool = False) -> Ref:
    """The ref of `value`; the chunks it consists of are added to `chunks`. `split`: take a list apart in any case."""
    if split and type(value) is list:
        return _items(_refer_each(cast("list[Any]", value), serde, chunks, _DEPTH - 1), chunks)
    return _refer(value, serde, chunks, _DEPTH)


def _refer_each(values: list[Any], serde: SerializerProtocol, chunks: Chunks, depth: int) -> list[Ref]:
    if isinstance(serde, Lists):
        return serde.refs(values, chunks, lambda value, into: _refer(value, serde, into, depth))
    return [_refer(value, serde, chunks, depth) for value in values]


def _refer(value: Any, serde: SerializerProtocol, chunks: Chunks, depth: int) -> Ref:
    if depth and value and type(value) is list:
        return _refer_list(cast("list[Any]", value), serde, chunks, depth)
    if depth and value and type(value) is dict:
        return _refer_dict(cast("dict[Any, Any]", value), serde, chunks, depth)
    if isinstance(value, _DeltaSnapshot):
        return Snapshot(_refer(value.value, serde, chunks, depth))
    return _leaf(value, serde, chunks)


def _leaf(value: Any, serde: SerializerProtocol, chunks: Chunks) -> Ref:
    typed = Typed(*serde.dumps_typed(value))
    return _chunk(typed, chunks) if len(typed.data) >= _CHUNK else Inline(*typed)


def _chunk(typed: Typed, chunks: Chunks) -> bytes:
    digest = digest_of(typed)
    chunks[digest] = typed
    return digest


def _refer_list(values: list[Any], serde: SerializerProtocol, chunks: Chunks, depth: int) -> Ref:
    found: Chunks = {}
    refs = _refer_each(values, serde, found, depth - 1)
    if not found:
        size = sum(len(ref.data) for ref in refs if isinstance(ref, Inline))
        if size < _SPLIT or size < _ELEMENT * len(refs):
            return _leaf(values, serde, chunks)
    chunks |= found
    return _items(refs, chunks)


def _items(refs: list[Ref], chunks: Chunks) -> Items:
    """The list of these elements. Its pages are as long as a binary number's ones, so that growing by one rarely makes a new one."""
    pages: list[bytes] = []
    done = 0
    while (blocks := (len(refs) - done) // _TAIL) > 0:
        size = min(_TAIL << blocks.bit_length() - 1, _PAGE)
        pages.append(_chunk(Typed(REFS, _encode(refs[done : done + size])), chunks))
        done += size
    return Items(tuple(pages), tuple(refs[done:]))


def _refer_dict(values: dict[Any, Any], serde: SerializerProtocol, chunks: Chunks, depth: int) -> Ref:
    if not all(type(key) is str for key in values):
        return _leaf(values, serde, chunks)
    found: Chunks = {}
    refs = tuple(_refer(value, serde, found, depth - 1) for value in values.values())
    if not found:
        return _leaf(values, serde, chunks)
    fields = Fields(_leaf(list(values), serde, found), refs)
    chunks |= found
    data = _encode((fields,))
    return Boxed(_chunk(Typed(REFS, data), chunks)) if len(data) > _BOX else fields


# --- putting together ------------------------------------------------------------------------------------------------


def resolve(ref: Ref, serde: SerializerProtocol, chunks: Chunks) -> Any:
    """The value of `ref`, a copy of its own; `chunks` has every one that `needed` named."""
    if isinstance(ref, bytes):
        return serde.loads_typed(chunks[ref])
    if isinstance(ref, Inline):
        return serde.loads_typed((ref.type, ref.data))
    if isinstance(ref, Items):
        refs = elements(ref, chunks)
        if isinstance(serde, Lists):
            return serde.values(refs, chunks, lambda element: resolve(element, serde, chunks))
        return [resolve(element, serde, chunks) for element in refs]
    if isinstance(ref, Fields):
        return {key: resolve(it, serde, chunks) for key, it in zip(resolve(ref.keys, serde, chunks), ref.values, strict=True)}
    if isinstance(ref, Boxed):
        return resolve(_decode(chunks[ref.digest].data)[0], serde, chunks)
    return _DeltaSnapshot(resolve(ref.value, serde, chunks))


def elements(ref: Ref | None, chunks: Mapping[bytes, Typed]) -> list[Ref]:
    """The refs of a list's elements; none for what isn't a list that was taken apart. `KeyError` where a page is not in `chunks`."""
    if not isinstance(ref, Items):
        return []
    return [element for page in ref.pages for element in _page(chunks[page].data)[0]] + list(ref.tail)


def needed(refs: Iterable[Ref], find: Callable[[bytes], Typed | None], *, leaves: bool = True) -> set[bytes]:
    """The digest of every chunk behind `refs`, as far as they can be followed: what is behind a page that `find` lacks isn't known.

    `leaves=False`: only of those chunks that hold refs.
    """
    found: set[bytes] = set()
    _need(refs, find, leaves, found)
    return found


def _need(refs: Iterable[Ref], find: Callable[[bytes], Typed | None], leaves: bool, found: set[bytes]) -> None:
    for ref in refs:
        if isinstance(ref, bytes):
            if leaves:
                found.add(ref)
        elif isinstance(ref, Items):
            _behind(ref.pages, find, leaves, found)
            _need(ref.tail, find, leaves, found)
        elif isinstance(ref, Fields):
            _need((ref.keys, *ref.values), find, leaves, found)
        elif isinstance(ref, Boxed):
            _behind((ref.digest,), find, leaves, found)
        elif isinstance(ref, Snapshot):
            _need((ref.value,), find, leaves, found)


def _behind(digests: Iterable[bytes], find: Callable[[bytes], Typed | None], leaves: bool, found: set[bytes]) -> None:
    for digest in digests:
        found.add(digest)
        if (typed := find(digest)) is not None:
            refs, plain = _page(typed.data)
            if plain is None:
                _need(refs, find, leaves, found)
            elif leaves:
                found |= plain
