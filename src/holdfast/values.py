"""The stored form of a value: what goes in comes out as itself, or is refused before anything is written.

A stored value is the JSON array `[form, value]`. JSON's own types stand for themselves; everything else is a tag, an object
whose one key is `$`:

    {"$": ["datetime", "2026-01-02T03:04:05+01:00"]}    kind and payload
    {"$": ["type", ["shop.Order", {"id": 7}]]}          an instance of a class: its name and what it holds
    {"$": ["dict", [["$", 1], [2, "b"]]]}               a dict in pairs: one with the key `$`, or keys that are not str

A dict with the key `$` is only ever written in pairs, so no value can pass for a tag. The same value gives the same bytes in
every process: dicts keep their order, sets are sorted by what their elements are stored as. A new kind takes a new form number.
Decoding calls registered classes and those the caller names; it imports nothing and evaluates nothing that is stored.
"""

from __future__ import annotations

import dataclasses
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from math import isfinite
from operator import methodcaller
from types import NoneType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints, overload
from uuid import UUID

import msgspec

from .errors import Corrupt, InvalidValue, MissingExtra, SchemaMismatch

_T = TypeVar("_T")
_Convert: TypeAlias = Callable[[Any], Any]
_Packer: TypeAlias = Callable[[Any, int], object]
_Scope: TypeAlias = tuple[object, ...]

FORM = 1
"""Version of the stored form of a value."""

MAX_DEPTH = 200
"""How deep a value may nest: a list or dict counts one level, anything tagged two. Reading stays clear of the recursion limit."""

_TAG = "$"
_STR = frozenset({str})
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep, or contains itself: store a flatter value"
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(tuple[int, Any]).decode


class Tagged(msgspec.Struct, frozen=True, eq=False):
    """A value of a class nobody registered: encodes to the bytes it came from. Two are equal when they are stored alike."""

    name: str
    data: Any

    def __eq__(self, other: object) -> bool:
        return encode(self) == encode(other) if isinstance(other, Tagged) else NotImplemented

    def __hash__(self) -> int:
        return hash(encode(self))


class _Codec(msgspec.Struct, frozen=True):
    """How instances of one class are stored: `encode` gives what is packed under `name`, `decode` takes it back."""

    cls: type
    name: str
    encode: _Convert
    decode: _Convert


_BY_NAME: dict[str, _Codec] = {}
_BY_CLASS: dict[type, _Codec] = {}


def encode(value: object) -> bytes:
    """The stored form of `value`; `InvalidValue` names the place inside it that has none, and the fix.

    Not kept: a tzinfo that is neither a `timezone` nor a `ZoneInfo` and the name of a `timezone` (the offset is), the private
    attributes of pydantic models, and that two places hold the same object. Errors of a class's own `to_dict` or `encode` pass through.
    """
    try:
        return _to_json((FORM, _pack(value, 0)))
    except _Refused as refused:
        raise InvalidValue(refused.message()) from None
    except RecursionError as error:
        raise InvalidValue(f"value: {_TOO_DEEP}") from error


@overload
def decode(data: bytes, as_: None = None) -> Any: ...
@overload
def decode(data: bytes, as_: type[_T]) -> _T: ...
def decode(data: bytes, as_: Any = None) -> Any:
    """The value in `data`; an instance of a class nobody registered comes back as `Tagged`.

    With `as_`, that class and those its annotations name are built too (`list[Order]` names `Order`), and `InvalidValue` says that
    the value isn't one. Bytes that `encode` can't have written raise `Corrupt`, those of a later Holdfast `SchemaMismatch`, a
    time in a zone this machine doesn't know `MissingExtra`. Pydantic models are validated.
    """
    try:
        form, body = _from_json(data)
        if form not in _FORMS:
            raise SchemaMismatch(f"a stored value has form {form}, this Holdfast reads up to {FORM}: upgrade holdfast")
        value = _FORMS[form](body, data, as_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"a stored value is not readable: {error}") from error
    return value if as_ is None else _narrow(value, as_)


@overload
def register(
    cls: type[_T], *, name: str | None = None, encode: Callable[[_T], object] | None = None, decode: Callable[[Any], _T] | None = None
) -> type[_T]: ...
@overload
def register(
    *, name: str | None = None, encode: _Convert | None = None, decode: _Convert | None = None
) -> Callable[[type[_T]], type[_T]]: ...
def register(cls: Any = None, *, name: str | None = None, encode: _Convert | None = None, decode: _Convert | None = None) -> Any:
    """Make instances of `cls` come back as themselves; a function and a decorator, with or without arguments.

    `name` is what is stored, by default `module.qualname`; registering a class again under a new name keeps the old one readable.
    `encode` gives any value with a stored form, `decode` takes it back. Without them an Enum is kept by member name, a dataclass,
    Struct, pydantic model or named tuple by its fields, another class by its `to_dict` and `from_dict`. `InvalidValue` when the
    name belongs to another class or there is no way to store this one.
    """
    if cls is None:
        return partial(register, name=name, encode=encode, decode=decode)
    name, shape = name or _name(cls), _shape(cls) or (None, None)
    encode, decode = encode or shape[0], decode or shape[1]
    if encode is None or decode is None or cls in _PACKERS:
        raise InvalidValue(f"{_name(cls)} can't be registered like this: give encode= and decode=, and a class of your own")
    if (owner := _owner(name)) not in (None, _name(cls)):
        raise InvalidValue(f"the name {name!r} is taken by {owner}: give {_name(cls)} another with name=")
    _BY_NAME[name] = _BY_CLASS[cls] = _Codec(cls, name, encode, decode)
    return cls


def _owner(name: str) -> str | None:
    """The class that has taken `name`, by its own name: a reloaded class is another object of the same name."""
    return _name(_BY_NAME[name].cls) if name in _BY_NAME else None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


# Packing: from a value to what JSON can hold.


class _Refused(Exception):
    """Climbs out of the value, each container adding its step, so that a path costs nothing until something is refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.steps: list[object] = []

    def message(self) -> str:
        steps = [f'["{it}"]' if isinstance(it, str) and it.isprintable() else f"[{it!r}]" for it in reversed(self.steps)]
        return f"value{''.join(steps if len(steps) < 20 else [*steps[:9], '...', *steps[-9:]])}: {self}"


def _pack(value: object, depth: int) -> object:
    return _PACKERS.get(type(value), _pack_object)(value, depth)


def _tag(kind: str, payload: object) -> dict[str, object]:
    return {_TAG: [kind, payload]}


def _pack_int(value: int, depth: int) -> object:
    # Beyond 64 bits other JSON readers lose digits; hexadecimal, since Python limits the length of decimal integers.
    return value if -(2**63) <= value < 2**63 else _tag("int", f"{value:x}")


def _pack_float(value: float, depth: int) -> object:
    return value if isfinite(value) else _tag("float", repr(value))


def _pack_str(value: str, depth: int) -> str:
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as error:
        raise _Refused(f"str with a lone surrogate at {error.start}: replace it, e.g. s.encode('utf-8', 'replace').decode()") from None
    return value


def _pack_list(items: Iterable[object], depth: int) -> list[object]:
    if depth >= MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    packed: list[object] = []
    try:
        for item in items:
            packed.append(_PACKERS.get(type(item), _pack_object)(item, depth + 1))
    except _Refused as refused:
        refused.steps.append(len(packed))
        raise
    return packed


def _pack_dict(value: dict[Any, object], depth: int) -> dict[str, object]:
    if depth >= MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    if _TAG in value or not _STR.issuperset(map(type, value)):
        return _pack_pairs(value, depth + 1)
    packed: dict[str, object] = {}
    key = None
    try:
        for key, item in value.items():
            packed[key if key.isascii() else _pack_str(key, 0)] = _PACKERS.get(type(item), _pack_object)(item, depth + 1)
    except _Refused as refused:
        refused.steps.append(key)
        raise
    return packed


def _pack_pairs(value: dict[Any, object], depth: int) -> dict[str, object]:
    pairs: list[tuple[object, object]] = []
    key = None
    try:
        for key, item in value.items():
            pairs.append((_pack(key, depth + 1), _pack(item, depth + 1)))
    except _Refused as refused:
        refused.steps.append(key)
        raise
    _by_bytes(key for key, _ in pairs)
    return _tag("dict", pairs)


def _pack_set(value: Iterable[object], depth: int) -> dict[str, object]:
    elements = _by_bytes(_pack_list(value, depth + 1))
    return _tag(type(value).__name__, [elements[key] for key in sorted(elements)])


def _by_bytes(packed: Iterable[object]) -> dict[bytes, object]:
    """What is packed, by its JSON. Two alike are refused: read back they may be equal, and one would be lost."""
    found: dict[bytes, object] = {}
    for item in packed:
        if found.setdefault(_to_json(item), item) is not item:
            raise _Refused("two keys or elements that would be stored alike: keep one, or keep them in a list")
    return found


def _pack_moment(value: datetime | time, depth: int) -> dict[str, object]:
    """The ISO text; with a zone's key and the fold where there are any."""
    zone = _zone_key(value)
    text = value.replace(tzinfo=None).isoformat() if zone else value.isoformat()
    return _tag(type(value).__name__, [text, zone, value.fold] if zone or value.fold else text)


def _zone_key(value: datetime | time) -> str | None:
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        return None
    from zoneinfo import ZoneInfo  # here, because few values need it and it takes 2 ms to import

    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    if value.utcoffset() is None:
        raise _Refused(f"{type(value).__name__} whose zone gives no offset ({zone!r}): use zoneinfo.ZoneInfo or datetime.timezone")
    return None


def _pack_object(value: object, depth: int) -> dict[str, object]:
    codec = _BY_CLASS.get(type(value)) or _unregistered(type(value))
    return _tag("type", [codec.name, _pack(codec.encode(value), depth + 1)])


def _unregistered(cls: type) -> _Codec:
    base, shape, name = _builtin_base(cls), _shape(cls), _name(cls)
    if base and not issubclass(cls, Enum):
        plain = base.__name__
        raise _Refused(f"{name} would come back as a plain {plain}: convert it with {plain}(...) or register({cls.__name__}, ...)")
    if shape is None:
        raise _Refused(f"{name} has no stored form: convert it to plain data or register({cls.__name__}, encode=..., decode=...)")
    if (owner := _owner(name)) not in (None, name):
        raise _Refused(f"{name} is the name {owner} is registered under: register({cls.__name__}, name=...)")
    return _Codec(cls, name, *shape)


# Unpacking: from what JSON holds back to the value. A scope is the classes whose annotations are known beside the registered ones.


def _read_1(body: object, data: bytes, as_: object) -> Any:
    return _unpack(body, (as_,)) if b'"$"' in data else body


_FORMS: dict[int, Callable[[Any, bytes, Any], Any]] = {1: _read_1}


def _unpack(value: Any, scope: _Scope) -> Any:
    kind = value.__class__
    if kind is list:
        return [_unpack(item, scope) for item in value]
    if kind is not dict:
        return value
    return _untag(value, scope) if _TAG in value else {key: _unpack(item, scope) for key, item in value.items()}


def _untag(tag: dict[str, Any], scope: _Scope) -> Any:
    match tag[_TAG] if len(tag) == 1 else None:
        case ["type", [str(name), data]]:
            return _untag_type(name, data, scope)
        case [str(kind), payload] if kind in _READERS:
            return _untag_builtin(kind, _unpack(payload, scope))
        case _:
            raise Corrupt(f"a stored value holds a tag this form doesn't have: {str(tag[_TAG])[:40]}")


def _untag_builtin(kind: str, payload: object) -> Any:
    wanted, read = _READERS[kind]
    try:
        if isinstance(payload, wanted):
            return read(payload)
    except (TypeError, ValueError, ArithmeticError, OSError) as error:
        raise Corrupt(f"a stored {kind} is not readable: {error}") from error
    raise Corrupt(f"a stored {kind} is not readable: it holds a {type(payload).__name__}")


def _untag_type(name: str, data: object, scope: _Scope) -> Any:
    codec = _BY_NAME.get(name) or next((family[name] for family in map(_family, scope) if name in family), None)
    if codec is None:
        return Tagged(name, _unpack(data, scope))
    return _build(codec, _unpack(data, (*scope, codec.cls)))


def _build(codec: _Codec, data: object) -> Any:
    try:
        return codec.decode(data)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        fix = "register it with a decode= that reads the older form"
        raise InvalidValue(f"what is stored as {codec.name} doesn't fit {_name(codec.cls)} ({error}): {fix}") from error


def _narrow(value: Any, as_: Any) -> Any:
    """`value` if it is an `as_`; what nobody registered is built as one, whatever its stored name: the class may have moved."""
    cls = get_origin(as_) or as_
    if not isinstance(cls, type):
        raise InvalidValue(f"as_ takes a class, or a container such as list[Order], not {as_}")
    if type(value) is Tagged and (shape := _shape(cls)):
        value = _build(_Codec(cls, value.name, *shape), value.data)
    if not isinstance(value, cls):
        found = value.name if isinstance(value, Tagged) else _name(value.__class__)
        raise InvalidValue(f"the stored value is a {found}, not a {_name(cls)}: read it as what it is, or without as_")
    return value


def _read_moment(cls: Any, payload: Any) -> Any:
    if isinstance(payload, str):
        return cls.fromisoformat(payload)
    text, zone, fold = payload
    moment = cls.fromisoformat(text).replace(fold=fold)
    return moment.replace(tzinfo=_zone(zone)) if zone else moment


def _zone(key: str) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(key)
    except ZoneInfoNotFoundError as error:
        raise MissingExtra(f"a stored time is in the zone {key}, which this machine doesn't know: pip install tzdata") from error


# What a class says about itself.


def _builtin_base(cls: type) -> type | None:
    return next((base for base in cls.__mro__[1:] if base in _PACKERS), None)


@lru_cache(maxsize=1024)
def _shape(cls: Any) -> tuple[_Convert, _Convert] | None:
    """How to take instances apart and build them, or None; fields come before `to_dict`, because they are exact."""
    if cls in _PACKERS:
        return None
    if issubclass(cls, Enum):
        return _enum_data, partial(_build_enum, cls)
    if _builtin_base(cls):
        return (tuple, lambda fields: cls(*fields)) if hasattr(cls, "_fields") else None
    if hasattr(cls, "__dataclass_fields__") and not _wants_more_than_fields(cls):
        return _dataclass_data, partial(_build_dataclass, cls)
    if hasattr(cls, "__struct_fields__"):
        return msgspec.structs.asdict, lambda fields: cls(**fields)
    if hasattr(cls, "model_validate") and hasattr(cls, "model_fields"):
        return _model_data, partial(_build_model, cls)
    if hasattr(cls, "to_dict") and hasattr(cls, "from_dict"):
        return methodcaller("to_dict"), cls.from_dict
    return None


def _enum_data(member: Enum) -> object:
    # A combination of flags has a value, but is no member.
    return member.name if member.name in type(member).__members__ else member.value


def _build_enum(cls: Any, data: object) -> Any:
    return cls[data] if isinstance(data, str) else cls(data)


def _wants_more_than_fields(cls: Any) -> bool:
    """Whether a dataclass has an InitVar without a default: its fields alone can't build it."""
    return any("InitVar" in str(it.type) and it.default is dataclasses.MISSING for it in cls.__dataclass_fields__.values())


def _dataclass_data(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)}


def _build_dataclass(cls: Any, data: dict[str, Any]) -> Any:
    init = {field.name: field.init for field in dataclasses.fields(cls)}
    value = cls(**{key: item for key, item in data.items() if init.get(key, True)})
    for key, item in data.items():
        object.__setattr__(value, key, item)  # again: fields that __init__ doesn't take, and those __post_init__ changes
    return value


def _model_data(value: Any) -> object:
    # Not model_dump: it drops what a subclass adds to its field's type, and turns nested models into dicts.
    data: dict[str, object] = {name: getattr(value, name) for name in value.__class__.model_fields} | (value.model_extra or {})
    return data["root"] if getattr(value, "__pydantic_root_model__", False) else data


def _build_model(cls: Any, data: object) -> Any:
    if any(field.validation_alias for field in cls.model_fields.values()):
        return cls.model_validate(data, by_alias=False, by_name=True)  # pydantic 2.11; fields are stored by their own names
    return cls.model_validate(data)


@lru_cache(maxsize=1024)
def _family(root: Any) -> dict[str, _Codec]:
    """The classes that a type and its annotations name, and theirs in turn, by the names they have unregistered."""
    found: dict[str, _Codec] = {}
    hints = [root]
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        if isinstance(hint, type) and _name(hint) not in found and (shape := _shape(hint)):
            found[_name(hint)] = _Codec(hint, _name(hint), *shape)
            hints += _annotations(hint)
    return found


def _annotations(cls: Any) -> Iterable[Any]:
    if hasattr(cls, "model_fields"):
        return [field.annotation for field in cls.model_fields.values()]
    try:
        return get_type_hints(cls).values()
    except (NameError, AttributeError, TypeError):
        return ()  # names that only a type checker sees: the classes they stand for have to be registered


# The built-in types: the simple ones in one table, class -> what a payload must be, how it is made, how it is read.

_SCALARS: dict[type, tuple[type, _Convert, _Convert]] = {
    date: (str, date.isoformat, date.fromisoformat),
    timedelta: (list, lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
    Decimal: (str, str, Decimal),
    UUID: (str, str, UUID),
    bytes: (str, lambda value: b2a_base64(value, newline=False).decode(), partial(a2b_base64, strict_mode=True)),
    bytearray: (str, lambda value: b2a_base64(value, newline=False).decode(), lambda text: bytearray(a2b_base64(text, strict_mode=True))),
}


def _pack_scalar(value: object, depth: int) -> dict[str, object]:
    cls = type(value)
    return _tag(cls.__name__.lower(), _SCALARS[cls][1](value))


_PACKERS: dict[Any, _Packer] = {
    NoneType: lambda value, depth: value,
    bool: lambda value, depth: value,
    int: _pack_int,
    float: _pack_float,
    str: _pack_str,
    list: _pack_list,
    dict: _pack_dict,
    tuple: lambda value, depth: _tag("tuple", _pack_list(value, depth + 1)),
    set: _pack_set,
    frozenset: _pack_set,
    datetime: _pack_moment,
    time: _pack_moment,
    Tagged: lambda value, depth: _tag("type", [value.name, _pack(value.data, depth + 1)]),
    **dict.fromkeys(_SCALARS, _pack_scalar),
}

_READERS: dict[str, tuple[type | tuple[type, ...], _Convert]] = {
    "int": (str, lambda text: int(text, 16)),
    "float": (str, float),
    "dict": (list, dict),
    "tuple": (list, tuple),
    "set": (list, set),
    "frozenset": (list, frozenset),
    "datetime": ((str, list), partial(_read_moment, datetime)),
    "time": ((str, list), partial(_read_moment, time)),
    **{cls.__name__.lower(): (wanted, read) for cls, (wanted, _, read) in _SCALARS.items()},
}
