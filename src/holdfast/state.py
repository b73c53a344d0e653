"""The state of a session: JSON-like values by key, written per key, never lost silently.

`Cells` is what one handle knows and has staged; `State` is the mapping people use, over all keys or those of one cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol, get_origin

import msgspec

from .backend import Put, StateRow
from .entries import STATE, Entry, NewEntry
from .errors import Corrupt, InvalidId, InvalidValue, UsageError
from .ids import new_id
from .values import decode, encode

Scope = Literal["user", "app"]
MISSING: Any = object()
MAX_KEY_BYTES = 1024
CACHE_PREFIX = "\x1fcache:"
"""Keys of the non-volatile cache: no key of a user can begin so."""
_HIDDEN = "\x1f"
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
"""Types nobody can change in place."""


class _Live(NamedTuple):
    """A container in somebody's hands: `data` is the stored form it is compared with, None if it is yet to be stored at all."""

    value: Any
    data: bytes | None
    as_: Any = None


class Cells:
    """What one handle knows of a session's state: the stored rows up to version `synced`, what is staged, and what was handed out."""

    def __init__(self) -> None:
        self.rows: dict[str, StateRow] = {}
        self.synced = 0
        self._staged: dict[str, bytes | None] = {}
        self._live: dict[str, _Live] = {}
        self.cleared = False

    def get(self, key: str) -> Any:
        """The value under `key`, or `KeyError`. A container stays the caller's: changes inside it count at the next commit."""
        if key in self._live:
            return self._live[key].value
        if key in self._staged:
            data = self._staged[key]
        else:
            row = self.rows.get(key)
            data = row and row.value
        if data is None:
            raise KeyError(key)
        value = decode(data)
        if type(value) not in _PLAIN:
            self._live[key] = _Live(value, data)
        return value

    def get_as(self, key: str, as_: type[Any]) -> Any:
        """As `get`, built as an `as_` where it isn't one. What is built takes the place of what was handed out before."""
        value = self.get(key)
        live = self._live.get(key)
        if (live and live.as_ == as_) or (get_origin(as_) is None and isinstance(value, as_)):
            return value
        data = encode_value(key, value)
        built = decode(data, as_)
        if live:
            self._live[key] = _Live(built, encode_value(key, built) if data == live.data else live.data, as_)
        return built

    def set(self, key: str, value: Any) -> None:
        data = encode_value(key, value)
        self._live.pop(key, None)
        self._staged.pop(key, None)
        if type(value) in _PLAIN:
            self._staged[key] = data
        else:
            self._live[key] = _Live(value, None)

    def delete(self, key: str) -> None:
        if not self.has(key):
            raise KeyError(key)
        self._live.pop(key, None)
        self._staged[key] = None

    def clear(self) -> None:
        """Forget everything, staged and stored, as if the session were new."""
        self._staged, self._live, self.rows, self.cleared = {}, {}, {}, True

    def keys(self) -> list[str]:
        """Every key with a value, sorted."""
        return sorted(key for key in {*self.rows, *self._staged, *self._live} if self.has(key))

    def has(self, key: str) -> bool:
        return key in self._live or (self._staged[key] if key in self._staged else self._stored(key)) is not None

    def pending(self) -> tuple[Put, ...]:
        """What the next commit has to write: whatever was set or deleted, and handed-out containers that are no longer what they were.

        A value that was set is written even where the same is known to be stored: somebody else may have written since.
        """
        wanted = dict(self._staged)
        for key, (value, data, _) in self._live.items():
            if (now := encode_value(key, value)) != data:
                wanted[key] = now
        return tuple(Put(key, data) for key, data in wanted.items())

    def touched(self, key: str) -> bool:
        return self.cleared or any(put.key == key for put in self.pending())

    def written(self, puts: tuple[Put, ...], version: int, *, made: bool, erased: bool) -> None:
        """The commit of `puts` went through: what is staged and unchanged since is stored now, as `version`.

        `made`: the commit itself made that version; a claim or a heartbeat makes none, and what others wrote is yet to be read. A staged
        `clear` stays staged until a commit has `erased` the session.
        """
        if self.cleared and not erased:
            return
        self.cleared = False
        for put in puts:
            self.rows[put.key] = StateRow(put.value, version)
            if self._staged.get(put.key, MISSING) == put.value:
                del self._staged[put.key]
            if put.key in self._live:
                self._live[put.key] = self._live[put.key]._replace(data=put.value)
        if made and version == self.synced + 1:
            self.synced = version

    def update(self, rows: Mapping[str, StateRow], whole: bool, version: int) -> None:
        """What the store says has changed, up to `version`. Handed-out containers stay with their holder until `detach`."""
        self.rows = dict(rows) if whole else {**self.rows, **rows}
        self.synced = version

    def detach(self, key: str | None = None) -> None:
        """Let go of handed-out containers that hold no change: the next `get` reads the stored value."""
        for name, (value, data, _) in list(self._live.items()):
            if key in (None, name) and encode_value(name, value) == data:
                del self._live[name]

    def _stored(self, key: str) -> bytes | None:
        row = self.rows.get(key)
        return row.value if row else None


def encode_value(key: str, value: Any) -> bytes:
    """The stored form, or an `InvalidValue` that names the key."""
    try:
        return encode(value)
    except InvalidValue as error:
        raise InvalidValue(f"state[{unprefixed(key)!r}] can't be stored: {error}") from None


def check_key(key: object) -> str:
    """`key` itself when it can name a state value; `InvalidId` otherwise."""
    if type(key) is str and 0 < len(key) <= MAX_KEY_BYTES // 4 and key.isprintable():
        return key
    if not isinstance(key, str):
        raise InvalidId(f"a state key must be a string, not {type(key).__name__} {key!r:.80}")
    if not key or not key.isprintable() or len(key) * 4 > MAX_KEY_BYTES < len(key.encode()):
        raise InvalidId(f"state key {key[:80]!r}: 1 to {MAX_KEY_BYTES} bytes of printable text are allowed")
    return key


def unprefixed(key: str) -> str:
    """The key without what sets a part of the state apart from users' own: the cache, and what agents and adapters keep."""
    return key.partition(":")[2] if key.startswith("\x1f") else key


class StateChange(NamedTuple):
    """A key of the state was set to `value`, or deleted, by the commit that wrote entry `seq` at `time` (unix microseconds)."""

    key: str
    value: Any
    deleted: bool
    seq: int
    time: int
    run_id: str | None
    agent: str | None


class _Changed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a state entry: the stored forms of what was set, and what was deleted."""

    v: int
    set: dict[str, msgspec.Raw] = {}
    deleted: tuple[str, ...] = ()


def change_entry(puts: tuple[Put, ...], beside: tuple[NewEntry, ...], time: int) -> NewEntry | None:
    """The entry that tells what a commit changes in the state; None where it changes no key that people know."""
    known = [put for put in puts if not put.key.startswith(_HIDDEN)]
    if not known:
        return None
    values = {put.key: msgspec.Raw(put.value) for put in known if put.value is not None}
    body = msgspec.json.encode(_Changed(1, values, tuple(put.key for put in known if put.value is None)))
    run = beside[0] if beside else None
    return NewEntry(new_id(), STATE, body, run and run.run_id, run and run.agent, time)


def changes_in(entry: Entry) -> list[StateChange]:
    """What a state entry tells, key by key; `Corrupt` where it can't be read."""
    try:
        told = msgspec.json.decode(entry.body, type=_Changed)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"state entry {entry.id} (seq {entry.seq}) is not readable: {error}") from error
    about = (entry.seq, entry.time, entry.run_id, entry.agent)
    values = [StateChange(key, decode(bytes(value)), False, *about) for key, value in told.set.items()]
    return values + [StateChange(key, None, True, *about) for key in told.deleted]


class KeyValues(MutableMapping[str, Any]):
    """A mapping with the verbs `get set has delete clear keys values items update`."""

    def set(self, key: str, value: Any) -> None:
        """The same as `self[key] = value`."""
        self[key] = value

    def has(self, key: str) -> bool:
        """The same as `key in self`."""
        return key in self

    def delete(self, key: str) -> None:
        """The same as `del self[key]`: `KeyError` when there is none."""
        del self[key]

    def clear(self) -> None:
        """Delete every key; in a state that is staged as any other deletion."""
        for key in list(self):
            del self[key]


class VolatileCache(KeyValues):
    """Values of one run: any objects, in memory, never stored."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)


class Owner(Protocol):
    """What a `State` asks of its session."""

    cells: Cells

    async def change(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Read, change and write one key until nobody came between; the value written. `change` gets `MISSING` for no value."""
        ...

    async def commit(self) -> int:
        """Write what is staged; the version after it."""
        ...


class State(KeyValues):
    """A session's state. Reading and plain writing are immediate and stage; `increment`, `append` and `set_if` are awaited and atomic."""

    def __init__(self, owner: Owner, prefix: str = "") -> None:
        self._owner = owner
        self._cells = owner.cells
        self._prefix = prefix

    def __getitem__(self, key: str) -> Any:
        try:
            return self._cells.get(self._prefix + check_key(key))
        except KeyError:
            raise KeyError(key) from None  # without the prefix of the cache

    def get(self, key: str, default: Any = None, /, *, as_: type[Any] | None = None) -> Any:
        """The value, or `default`. `as_` builds a value of that type from what is stored; changes inside it count as well."""
        full = self._prefix + check_key(key)
        try:
            return self._cells.get(full) if as_ is None else self._cells.get_as(full, as_)
        except KeyError:
            return default

    def __setitem__(self, key: str, value: Any) -> None:
        self._cells.set(self._prefix + check_key(key), value)

    def __delitem__(self, key: str) -> None:
        try:
            self._cells.delete(self._prefix + check_key(key))
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.isprintable() and self._cells.has(self._prefix + key)

    def __iter__(self) -> Iterator[str]:
        own = [key for key in self._cells.keys() if key.startswith(self._prefix)]  # noqa: SIM118  # not a mapping
        return iter([key.removeprefix(self._prefix) for key in own if self._prefix or not key.startswith("\x1f")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"State({dict(self)!r})"

    async def commit(self) -> int:
        """Write what is staged, in one atomic commit (of a session: with all that is staged on it); the version after it."""
        return await self._owner.commit()

    async def increment(self, key: str, by: float | Decimal = 1) -> Any:
        """Add `by` to a number (0 when there is none) and return the sum. Nobody's increment is lost, whoever else writes."""
        return await self._change(key, lambda value: _sum(key, value, by))

    async def append(self, key: str, *items: Any) -> list[Any]:
        """Add `items` to the end of a list (empty when there is none) and return it. Nobody's items are lost."""
        return await self._change(key, lambda value: _extended(key, value, items))

    async def set_if(self, key: str, value: Any, *, expected: Any = None) -> bool:
        """Set `key` if its value equals `expected` (None: if it has none); whether it was set."""
        wanted = None if expected is None else encode_value(key, expected)

        def change(current: Any) -> Any:
            found = None if current is MISSING or current is None else encode_value(key, current)
            if found != wanted and current != expected:  # the stored forms of equal dicts may differ in their order
                raise _Declined
            return value

        try:
            await self._change(key, change)
        except _Declined:
            return False
        return True

    async def _change(self, key: str, change: Callable[[Any], Any]) -> Any:
        full = self._prefix + check_key(key)
        if self._cells.touched(full):
            raise UsageError(f"state key {key!r} has changes that were not committed: commit them before an atomic change")
        return await self._owner.change(full, change)


class _Declined(Exception):
    """`set_if` found another value."""


def _sum(key: str, value: Any, by: Any) -> Any:
    if not _is_number(by):
        raise InvalidValue(f"state[{key!r}] can't be incremented by a {type(by).__name__}: give a number")
    if value is MISSING or value is None:
        return by
    if not _is_number(value):
        return _not_a(key, value, "number")
    try:
        return value + by
    except TypeError:  # float and Decimal
        kind = type(value).__name__
        raise InvalidValue(f"state[{key!r}] is a {kind}, to which a {type(by).__name__} can't be added: increment it by a {kind}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _extended(key: str, value: Any, items: tuple[Any, ...]) -> list[Any]:
    if value is MISSING or value is None:
        return list(items)
    return [*value, *items] if isinstance(value, list) else _not_a(key, value, "list")


def _not_a(key: str, value: Any, what: str) -> Any:
    raise InvalidValue(f"state[{key!r}] is a {type(value).__name__}, not a {what}: set it to a {what} first")
