"""What a serializer made of messages, remembered: a long list costs what is new in it.

Only for LangGraph's own serializer and LangChain's own message classes, when a message's fields hold nothing but plain values. Nothing
that is kept is ever handed out, and nothing is taken for unchanged unless it is: a message made from memory is a new object with
containers of its own, and a list that was handed out or stored before is compared with what it was, field by field, by identity, what its
containers hold included. Whatever doesn't fit is serialized as if there were no memory.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from .chunks import Chunks, Lists, Ref, Typed
from .recent import Recent

_CLASSES = frozenset((AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage))
_LONG = 8
"""Shorter lists aren't worth it."""
_FORM = 2
"""A marshal version whose bytes tell apart what a serializer would, and that depend on nothing but the value."""
_BYTES = 32 * 1024 * 1024
_LISTS = 4096
_OVERHEAD = 2_000
"""What a message takes beside its text, about."""

_fields = attrgetter("__dict__")
_extra = attrgetter("__pydantic_extra__")
_set = object.__setattr__


class _Template(NamedTuple):
    """A message to make others from: its plain fields, the names of its empty and of its filled containers, and what those hold."""

    kind: type[BaseMessage]
    fields: dict[str, Any]
    given: set[str]
    dicts: tuple[str, ...]
    lists: tuple[str, ...]
    full: tuple[str, ...]
    packed: bytes
    size: int


class _Filled(NamedTuple):
    """What a message's filled containers held."""

    place: int
    names: tuple[str, ...]
    packed: bytes


class _Seen:
    """A list as it was handed out or stored: its very messages, every value of their fields in order, and what was made of them."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.values: list[Any] = []
        self.empty: list[Any] = []
        self.filled: list[_Filled] = []
        self.odd: list[int] = []
        self.refs: list[Ref] = []
        self.chunks: Chunks = {}

    def size(self) -> int:
        return len(self.messages) * _OVERHEAD + sum(len(typed[1]) for typed in self.chunks.values())

    def begins(self, values: list[Any]) -> bool:
        """Whether `values` begins with these messages, and no field of them has changed."""
        if len(values) < len(self.messages) or not all(map(is_, self.messages, values)):
            return False
        if any(self.empty) or not self._as_they_were():
            return False
        return all(marshal_of(self.messages[it.place].__dict__, it.names) == it.packed for it in self.filled)

    def _as_they_were(self) -> bool:
        plain = self._plain()
        found = [*chain.from_iterable(map(dict.values, map(_fields, plain)))]
        return len(found) == len(self.values) and all(map(is_, self.values, found)) and not any(map(_extra, plain))

    def _plain(self) -> list[Any]:
        if not self.odd:
            return self.messages
        odd = {*self.odd}
        return [it for place, it in enumerate(self.messages) if place not in odd]

    def add(self, message: Any) -> bool:
        """Take note of a message as it is now, before it is serialized; whether it is one that can be told to be the same again."""
        place = len(self.messages)
        self.messages.append(message)
        shape = _shape(message)
        if shape is None:
            self.odd.append(place)
            return False
        fields = message.__dict__
        self.values += fields.values()
        self.empty += [fields[name] for name in (*shape[0], *shape[1])]
        if shape[2]:
            self.filled.append(_Filled(place, shape[2], shape[3]))
        return True


class Remembering(Lists):
    """LangGraph's own serializer with a memory of messages; safe in any thread."""

    def __init__(self, serde: JsonPlusSerializer) -> None:
        self.serde = serde
        self._templates: Recent[_Template] = Recent(_BYTES, lambda it: it.size)
        self._seen: Recent[_Seen] = Recent(_BYTES, _Seen.size)
        self._latest: Recent[int] = Recent(_LISTS)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return self.serde.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return self.serde.loads_typed(data)

    def refs(self, values: list[Any], chunks: Chunks, refer: Callable[[Any, Chunks], Ref]) -> list[Ref]:
        """The ref of each of `values`: what `refer` says, or said before of the same message with the same fields."""
        if len(values) < _LONG or not isinstance(values[0], BaseMessage):
            return [refer(value, chunks) for value in values]
        known = self._seen.get(id(values[0]))
        seen = _Seen()
        if known is not None and known.begins(values):
            if len(known.messages) == len(values) and not known.odd:
                chunks |= known.chunks
                return [*known.refs]
            _go_on(seen, known)
            for place in seen.odd:
                seen.refs[place] = refer(values[place], chunks)
        for value in values[len(seen.messages) :]:
            seen.refs.append(refer(value, seen.chunks if seen.add(value) else chunks))
        chunks |= seen.chunks
        self._keep(seen)
        return [*seen.refs]

    def values(self, refs: Sequence[Ref], chunks: Chunks, resolve: Callable[[Ref], Any]) -> list[Any]:
        """The value of each ref: what `resolve` says, or a new message like the one it made of the same chunk before."""
        if len(refs) < _LONG:
            return [resolve(ref) for ref in refs]
        names = [ref for ref in refs if type(ref) is bytes]
        known = self._templates.some(names)
        odd: set[Ref] = set()
        seen = _Seen()
        for ref in refs:
            template = known.get(ref) if type(ref) is bytes else None
            if template is not None:
                _hand_out(template, seen)
                continue
            value = resolve(ref)
            if not seen.add(value):
                odd.add(ref)
            if type(ref) is bytes and (template := _template(value, chunks[ref])) is not None:
                known[ref] = template
                self._templates.put(ref, template)
        seen.refs = [*refs]
        seen.chunks = {name: chunks[name] for name in names if name not in odd}
        if len(names) == len(refs) and isinstance(seen.messages[0], BaseMessage):
            self._keep(seen)
        return [*seen.messages]

    def _keep(self, seen: _Seen) -> None:
        """Under the identity of its first message, which lives as long as it is kept; what began with an earlier copy of that is let go."""
        key, first = id(seen.messages[0]), seen.refs[0]
        if isinstance(first, bytes):
            if (before := self._latest.get(first)) not in (None, key):
                self._seen.drop(before)
            self._latest.put(first, key)
        self._seen.put(key, seen)


def _go_on(seen: _Seen, known: _Seen) -> None:
    """`seen` begins with what is `known`, which has not changed."""
    seen.messages, seen.values, seen.empty = [*known.messages], [*known.values], [*known.empty]
    seen.filled, seen.odd, seen.refs, seen.chunks = [*known.filled], [*known.odd], [*known.refs], {**known.chunks}


# --- one message -----------------------------------------------------------------------------------------------------


def _shape(message: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], bytes] | None:
    """The names of the fields with an empty dict, with an empty list, with a filled container, and what these hold; None if it isn't plain."""
    if type(message) not in _CLASSES or message.__pydantic_extra__ or message.__pydantic_private__:
        return None
    dicts: list[str] = []
    lists: list[str] = []
    full: list[str] = []
    for name, value in message.__dict__.items():
        kind = type(value)
        if kind is dict or kind is list:
            (full if value else dicts if kind is dict else lists).append(name)
        elif not (kind is str or value is None or kind is bool or kind is int or kind is float):
            return None
    if full and not all(_plain(message.__dict__[name]) for name in full):
        return None
    return tuple(dicts), tuple(lists), tuple(full), marshal_of(message.__dict__, full) if full else b""


def marshal_of(fields: dict[str, Any], names: Sequence[str]) -> bytes:
    """What these fields hold, exactly; nothing for what can't be told."""
    try:
        return marshal.dumps([fields[name] for name in names], _FORM)
    except (KeyError, ValueError):
        return b""


def _plain(value: Any, depth: int = 32) -> bool:
    """Whether the value is of JSON's kinds and no subclass of them."""
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return True
    if kind is dict:
        return depth > 0 and all(type(key) is str and _plain(it, depth - 1) for key, it in cast("dict[Any, Any]", value).items())
    return kind is list and depth > 0 and all(_plain(it, depth - 1) for it in cast("list[Any]", value))


def _template(message: Any, typed: Typed) -> _Template | None:
    shape = _shape(message)
    if shape is None:
        return None
    kept = {name: None if type(value) in (dict, list) else value for name, value in message.__dict__.items()}
    return _Template(type(message), kept, {*message.__pydantic_fields_set__}, *shape, len(typed.data) + _OVERHEAD)


def _hand_out(template: _Template, seen: _Seen) -> None:
    """A new message like the template's, noted in `seen`."""
    kind, kept, given, dicts, lists, full, packed, _ = template
    fields = kept.copy()
    empty = seen.empty
    for name in dicts:
        fields[name] = made = {}
        empty.append(made)
    for name in lists:
        fields[name] = made = []
        empty.append(made)
    if full:
        fields.update(zip(full, marshal.loads(packed), strict=True))
        seen.filled.append(_Filled(len(seen.messages), full, packed))
    message = kind.__new__(kind)
    _set(message, "__dict__", fields)
    _set(message, "__pydantic_fields_set__", given.copy())
    _set(message, "__pydantic_extra__", {})
    _set(message, "__pydantic_private__", None)
    seen.messages.append(message)
    seen.values += fields.values()


# --- for each serializer ----------------------------------------------------------------------------------------------

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
