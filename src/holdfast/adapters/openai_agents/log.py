"""The items in a session's log: reading them, taking the newest out, putting others in the place of many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from ... import Session
from ...backend import Counts, Range
from ...entries import MESSAGE, SUMMARY, Entry, NewEntry
from ...errors import Conflict, Corrupt
from ...ids import new_id, now
from ...messages import Message, encode_message
from .items import FORMAT, FORMAT_ITEMS, items_of, messages_of, verbatim_of


class Item(NamedTuple):
    """An item and the entry it comes from; `native` says that the SDK wrote it."""

    value: Any
    entry: Entry
    native: bool


async def values(handle: Session, most: int | None) -> list[Any]:
    """The newest `most` items in order, or all."""
    entries = await _entries(handle, most)
    natives = _natives(entries)
    if natives is not None:
        return natives if most is None else natives[-most:]
    found = await _widened(handle, most, entries)
    return [item.value for item in (found if most is None else _valid(found[-most:]))]


async def newest(handle: Session, most: int) -> list[Item]:
    """The items of the newest entries: at least `most` where there are so many."""
    return await _widened(handle, most, await _entries(handle, most))


async def pop(handle: Session) -> Any:
    """Hide the newest item and return it; None where there is none."""
    while True:
        found = await newest(handle, 1)
        if not found:
            return None
        if await _exchange(handle, found[-1:], _rest(found, len(found) - 1)):
            return found[-1].value


async def replace(handle: Session, messages: Sequence[Message]) -> bool:
    """Put `messages` in the place of every item, in one commit."""
    while True:
        everything = _expanded(await handle.entries(kinds=(MESSAGE,)))
        if await _exchange(handle, everything, messages):
            return True


async def replace_end(
    handle: Session, seen: Sequence[Item], start: int, messages: Sequence[Message], expired: Callable[[Any], bool] | None
) -> bool:
    """Put `messages` in the place of `seen[start:]`, in one commit; False when those are not the newest items any more.

    `expired`: of the items before them, the oldest that it is true for go too.
    """
    end = seen[start:]
    first = end[0].entry.seq
    while True:
        found = _valid(_expanded(await handle.entries(after=0 if expired else first - 1, kinds=(MESSAGE,))))
        older = [item for item in found if item.entry.seq < first]
        if _ids(found[len(older) :]) != _ids(item for item in seen if item.entry.seq >= first):
            return False
        if await _exchange(handle, [*_oldest(older, expired), *end], [*_rest(seen, start), *messages]):
            return True


def _oldest(items: list[Item], expired: Callable[[Any], bool] | None) -> list[Item]:
    count = next((n for n, item in enumerate(items) if expired is None or not expired(item.value)), len(items))
    return items[:count]


def _ids(items: Iterable[Item]) -> list[str]:
    return [item.entry.id for item in items]


def _rest(items: Sequence[Item], start: int) -> list[Message]:
    """What else somebody else's message holds, whose entry goes with `items[start:]`."""
    return messages_of([item.value for item in items[:start] if item.entry.seq == items[start].entry.seq])


async def _exchange(handle: Session, items: Sequence[Item], messages: Sequence[Message]) -> bool:
    """Hide the entries of `items` and add `messages`, in one commit; False when the session has moved on since it was read.

    Summaries that were written after one of those entries may tell of it: they are hidden with it.
    """
    time, version = now(), handle.version
    told = await handle.entries(after=min(item.entry.seq for item in items), kinds=(SUMMARY,)) if items else []
    hide = (*_ranges(items), *(Range(it.seq, it.seq) for it in told))
    added = tuple(NewEntry(new_id(), MESSAGE, encode_message(message), time=time) for message in messages)
    counts = Counts(messages=len(added), bytes=sum(len(entry.body) for entry in added))
    try:
        await handle.write(hide=hide, entries=added, counts=counts, expect=version, time=time)
    except Conflict:
        return False
    return True


def _ranges(items: Iterable[Item]) -> tuple[Range, ...]:
    """Where their entries are: messages only, so that the record of runs between them stays in sight."""
    ranges: list[Range] = []
    for seq in sorted({item.entry.seq for item in items}):
        if ranges and ranges[-1].last == seq - 1:
            ranges[-1] = Range(ranges[-1].first, seq)
        else:
            ranges.append(Range(seq, seq))
    return tuple(ranges)


# --- entries as items ------------------------------------------------------------------------------------------------


async def _entries(handle: Session, last: int | None) -> list[Entry]:
    return await handle.entries(last=last, kinds=(MESSAGE,))


async def _widened(handle: Session, most: int | None, entries: list[Entry]) -> list[Item]:
    """The items of `entries`, the newest `most` of them; of more entries as long as those hold fewer items."""
    last = most
    while True:
        found = _valid(_expanded(entries))
        if last is None or most is None or len(found) >= most or len(entries) < last:
            return found
        last *= 2
        entries = await _entries(handle, last)


class _Native(msgspec.Struct, array_like=True):
    format: str
    data: Any


class _Body(msgspec.Struct):
    """Of a message's stored form only what a framework wrote, decoded in the same stroke: this is where reading spends its time."""

    native: _Native | None = None


_decode = msgspec.json.Decoder(_Body).decode


def _natives(entries: list[Entry]) -> list[Any] | None:
    """The items, where the SDK wrote every one of them; None otherwise."""
    try:
        natives = [_decode(entry.body).native for entry in entries]
    except msgspec.DecodeError:
        return None
    found: list[Any] = []
    for it in natives:
        if it is None or it.format not in (FORMAT, FORMAT_ITEMS):
            return None
        if it.format == FORMAT:
            found.append(it.data)
        else:
            found += it.data
    return found


def _expanded(entries: Iterable[Entry]) -> list[Item]:
    found: list[Item] = []
    unnamed: deque[str] = deque()  # ids given to calls that had none, until their results come
    for entry in entries:
        native = _native(entry)
        verbatim = _verbatim(entry, native) if native is not None else None
        if verbatim is not None:
            found.extend(Item(value, entry, native=True) for value in verbatim)
        else:
            found.extend(Item(value, entry, native=False) for value in items_of(entry.message(), entry.id, unnamed))
    return found


def _native(entry: Entry) -> _Native | None:
    try:
        return _decode(entry.body).native
    except msgspec.DecodeError as error:
        entry.message()  # says what is wrong
        raise _unreadable(entry, error) from error


def _verbatim(entry: Entry, native: _Native) -> list[Any] | None:
    try:
        return verbatim_of(native.format, native.data)
    except (ValueError, TypeError) as error:
        raise _unreadable(entry, error) from error


def _unreadable(entry: Entry, error: Exception) -> Corrupt:
    return Corrupt(f"entry {entry.id} (seq {entry.seq}) holds an item of the OpenAI Agents SDK that is not readable: {error}")


def _valid(items: list[Item]) -> list[Item]:
    """Without the converted calls that have no result, and the converted results that have no call."""
    if all(item.native for item in items):
        return items
    ids = {kind: {_call_id(item.value) for item in items if _is(item.value, kind)} for kind in ("function_call", "function_call_output")}
    paired = ids["function_call"] & ids["function_call_output"]
    return [item for item in items if item.native or not item.value.get("call_id") or item.value["call_id"] in paired]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, dict) and cast("dict[str, Any]", value).get("type") == kind


def _call_id(value: dict[str, Any]) -> str:
    return str(value.get("call_id"))
