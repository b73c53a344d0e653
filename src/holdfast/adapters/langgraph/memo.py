"""What a serializer made of messages, remembered: a long list costs what is new in it.

Only for LangGraph's own serializer and LangChain's own message classes, when a message's fields hold nothing but plain values. Nothing
that is kept is ever handed out, and nothing is taken for unchanged unless it is: a message made from memory is a new object with
containers of its own, and a list that was handed out or stored before is compared with what it was, message by message, field by field,
what its containers hold included. Whatever doesn't fit is serialized as if there were no memory.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Hashable, Sequence
from inspect import getattr_static
from operator import attrgetter, is_
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from .chunks import Chunks, Lists, Ref
from .recent import Recent

_CLASSES = frozenset((AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage))
_FIELDS = frozenset((str, dict, list, type(None)))
"""What a field holds: of these, what is equal is serialized alike; numbers need not be, and are looked at more closely in containers."""
_SHORT = 8
"""Lists of fewer elements aren't worth it."""
_FORM = 2
"""The version of marshal whose bytes depend on nothing but the value, and on all of it."""
_BYTES = 32 * 1024 * 1024
_LISTS = 4096
_OVERHEAD = 2_000
"""What a message takes beside its text, about."""

_fields_of = attrgetter("__dict__")
_extra_of = attrgetter("__pydantic_extra__")
_set = object.__setattr__
_set_given = getattr_static(BaseMessage, "__pydantic_fields_set__").__set__
_set_extra = getattr_static(BaseMessage, "__pydantic_extra__").__set__
_set_private = getattr_static(BaseMessage, "__pydantic_private__").__set__


class _Shape(NamedTuple):
    """A message, kept apart from all others: its class, its fields, and which of them are containers, empty or filled."""

    kind: type[BaseMessage]
    fields: dict[str, Any]
    given: set[str]
    dicts: tuple[str, ...]
    lists: tuple[str, ...]
    full: tuple[str, ...]
    packed: bytes
    """What the filled containers hold."""

    @property
    def size(self) -> int:
        return _OVERHEAD + len(self.packed) + sum(len(value) for value in self.fields.values() if type(value) is str)


class _Filled(NamedTuple):
    """What the filled containers of the message at this place held."""

    place: int
    names: tuple[str, ...]
    packed: bytes


class _Seen:
    """A list as it was handed out or stored: its very messages, what their fields were, what was made of them. Not changed once kept."""

    def __init__(self, before: _Seen | None = None) -> None:
        self.messages: list[Any] = []
        self.fields: list[dict[str, Any]] = [*before.fields] if before else []
        self.filled: list[_Filled] = [*before.filled] if before else []
        self.odd: set[int] = {*before.odd} if before else set()
        """The places of what isn't plain: looked at anew each time."""
        self.shapes: list[_Shape | None] = [*before.shapes] if before else []
        """What the serializer makes of each ref, where it is known."""
        self.refs: list[Ref] = [*before.refs] if before else []
        self.chunks: Chunks = {**before.chunks} if before else {}
        self.size = before.size if before else 0

    def begins(self, values: list[Any]) -> bool:
        """Whether `values` begins with these messages, and nothing in them has changed."""
        if len(values) < len(self.messages) or not all(map(is_, self.messages, values)):
            return False
        plain = [it for place, it in enumerate(self.messages) if place not in self.odd] if self.odd else self.messages
        try:
            if [*map(_fields_of, plain)] != self.fields or any(map(_extra_of, plain)):
                return False
        except ValueError:  # there is an array now, which isn't compared as a whole
            return False
        return all(_packed(self.messages[it.place].__dict__, it.names) == it.packed for it in self.filled)

    def add(self, ref: Ref, now: _Shape | None, chunks: Chunks, stored: _Shape | None = None) -> None:
        """Go on with an element whose message is like `now` and is serialized as `chunks`."""
        place = len(self.refs)
        self.refs.append(ref)
        self.shapes.append(stored)
        if now is None:
            self.odd.add(place)
            return
        self.fields.append(now.fields)
        self.chunks |= chunks
        self.size += now.size
        if now.full:
            self.filled.append(_Filled(place, now.full, now.packed))


class Remembering(Lists):
    """LangGraph's own serializer with a memory of messages; safe in any thread."""

    def __init__(self, serde: JsonPlusSerializer) -> None:
        self.serde = serde
        self._shapes: Recent[_Shape] = Recent(_BYTES, lambda it: it.size)
        self._seen: Recent[_Seen] = Recent(_BYTES, lambda it: it.size)
        self._latest: Recent[int] = Recent(_LISTS)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return self.serde.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return self.serde.loads_typed(data)

    def refs(self, values: list[Any], chunks: Chunks, refer: Callable[[Any, Chunks], Ref]) -> list[Ref]:
        """The ref of each of `values`: what `refer` says, or said before of the same message with the same fields."""
        if len(values) < _SHORT or not isinstance(values[0], BaseMessage):
            return [refer(value, chunks) for value in values]
        known = self._seen.get(id(values[0]))
        if known is not None and not known.begins(values):
            known = None
        if known is not None and len(known.refs) == len(values) and not known.odd:
            chunks |= known.chunks
            return [*known.refs]
        seen = _Seen(known)
        for place in seen.odd:
            seen.refs[place] = refer(values[place], chunks)
        for value in values[len(seen.refs) :]:
            shape, made = _shape(value), cast("Chunks", {})
            seen.add(refer(value, made), shape, made)
            chunks |= made
        chunks |= seen.chunks
        seen.messages = [*values]
        self._keep(seen)
        return [*seen.refs]

    def values(self, refs: Sequence[Ref], chunks: Chunks, resolve: Callable[[Ref], Any]) -> list[Any]:
        """The value of each ref: what `resolve` says, or a new message like the one it made of the same chunk before."""
        if len(refs) < _SHORT or not isinstance(refs[0], bytes):
            return [resolve(ref) for ref in refs]
        seen = _Seen(self._before(refs))
        for place in [place for place, shape in enumerate(seen.shapes) if shape is None]:
            seen.shapes[place] = self._learnt(refs[place], resolve)
        for ref in refs[len(seen.refs) :]:
            shape = self._learnt(ref, resolve)
            seen.add(ref, shape, {} if shape is None else {cast("bytes", ref): chunks[cast("bytes", ref)]}, shape)
        seen.messages = [_made(shape) if shape else resolve(ref) for ref, shape in zip(refs, seen.shapes, strict=True)]
        if isinstance(seen.messages[0], BaseMessage):
            self._keep(seen)
        return [*seen.messages]

    def _before(self, refs: Sequence[Ref]) -> _Seen | None:
        """The list that these go on from."""
        latest = self._latest.get(refs[0])
        seen = None if latest is None else self._seen.get(latest)
        return seen if seen is not None and seen.refs == refs[: len(seen.refs)] else None

    def _learnt(self, ref: Ref, resolve: Callable[[Ref], Any]) -> _Shape | None:
        """What the serializer makes of the chunk; None if that isn't a plain message."""
        if not isinstance(ref, bytes):
            return None
        shape = self._shapes.get(ref)
        if shape is None and (shape := _shape(resolve(ref))) is not None:
            self._shapes.put(ref, shape)
        return shape

    def _keep(self, seen: _Seen) -> None:
        """Under the identity of its first message, which lives as long as it is kept; a list with another copy of that one is let go."""
        key, first = id(seen.messages[0]), seen.refs[0]
        before = self._latest.get(first)
        if before is not None and before != key:
            self._seen.drop(before)
        self._latest.put(first, key)
        self._seen.put(key, seen)


# --- one message -----------------------------------------------------------------------------------------------------


def _shape(message: Any) -> _Shape | None:
    """The message as it is now; None for what isn't a plain one."""
    if type(message) not in _CLASSES or message.__pydantic_extra__ or message.__pydantic_private__:
        return None
    fields = cast("dict[str, Any]", message.__dict__)
    if not all(_plain(value) and type(value) in _FIELDS for value in fields.values()):
        return None
    full = tuple(name for name, value in fields.items() if value and type(value) in (dict, list))
    packed = _packed(fields, full)
    kept = {name: type(value)() if type(value) in (dict, list) else value for name, value in fields.items()}
    dicts, lists = (tuple(name for name, it in kept.items() if type(it) is kind and name not in full) for kind in (dict, list))
    kept.update(zip(full, marshal.loads(packed), strict=True))
    return _Shape(type(message), kept, {*message.__pydantic_fields_set__}, dicts, lists, full, packed)


def _made(shape: _Shape) -> BaseMessage:
    """A new message like this one, with containers of its own."""
    _, kept, given, dicts, lists, full, packed = shape
    fields = kept.copy()
    for name in dicts:
        fields[name] = {}
    for name in lists:
        fields[name] = []
    if full:
        fields.update(zip(full, marshal.loads(packed), strict=True))
    message = object.__new__(shape.kind)
    _set(message, "__dict__", fields)
    _set_given(message, given.copy())
    _set_extra(message, {})
    _set_private(message, None)
    return message


def _packed(fields: dict[str, Any], names: Sequence[str]) -> bytes:
    """What these fields hold, exactly; nothing for what can't be told."""
    try:
        return marshal.dumps([fields[name] for name in names], _FORM)
    except (KeyError, ValueError):
        return b""


def _plain(value: Any, depth: int = 32) -> bool:
    """Whether the value is of JSON's kinds and no subclass of them."""
    kind = cast("type[Any]", type(value))
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if depth <= 0:
        return False
    if kind is dict:
        return all(type(key) is str and _plain(it, depth - 1) for key, it in cast("dict[Any, Any]", value).items())
    return kind is float or (kind is list and all(_plain(it, depth - 1) for it in cast("list[Any]", value)))


# --- for each serializer ---------------------------------------------------------------------------------------------

_remembering: Recent[Remembering] = Recent(64)


def remembering(serde: SerializerProtocol) -> SerializerProtocol:
    """`serde`, with a memory if it is exactly LangGraph's own; the same one each time."""
    if type(serde) is not JsonPlusSerializer:
        return serde
    key: Hashable = id(serde)
    known = _remembering.get(key)
    if known is None or known.serde is not serde:
        known = Remembering(serde)
        _remembering.put(key, known)
    return known
