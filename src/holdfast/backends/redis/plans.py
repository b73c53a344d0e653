"""A plan as the scripts read it, and what they answer as a snapshot."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import msgspec

from ...backend import Blob, BlobRange, Head, Key, ReadPlan, Snapshot, StateRow, Window
from ...entries import MESSAGE, Entry
from ...errors import Corrupt
from .layout import AFTER_ALL, plain, unpacked, unplain

NO_PLAN = [b"0"]
_decode_head = msgspec.json.Decoder(Head).decode


def head_of(key: Key, data: bytes) -> Head:
    """The head that was stored as `data`; `Corrupt` where it is none."""
    try:
        return _decode_head(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the head of {key} is not readable: {error}; restore a backup, or delete its keys") from error


# --- asking ----------------------------------------------------------------------------------------------------------


def words(plan: ReadPlan) -> list[bytes]:
    """The plan, as `answer` in answer.lua takes it."""
    found = [b"" if plan.state_since is None else b"%d" % plan.state_since]
    if plan.entries is None:
        found.append(b"0")
    else:
        found += _window(plan.entries)
    found.append(b"%d" % len(plan.blobs))
    for it in plan.blobs:
        found += _range(it)
    return found


def _window(it: Window) -> list[bytes]:
    kinds = [plain(kind) for kind in dict.fromkeys(it.kinds)]
    rare = bool(kinds) and it.run_id is None and MESSAGE not in it.kinds
    return [
        b"1",
        b"%d" % it.after,
        b"%d" % (-1 if it.before is None else max(it.before, 0)),
        b"%d" % (-1 if it.limit is None else it.limit),
        b"1" if it.newest else b"0",
        b"1" if it.hidden else b"0",
        (it.run_id or "").encode(),
        b"1" if rare else b"0",
        b"%d" % len(kinds),
        *kinds,
        b"1" if it.hidden else b"0",
    ]


def _range(it: BlobRange) -> list[bytes]:
    data = b"1" if it.data else b"0"
    if it.keys is not None:
        keys = sorted(plain(key) for key in set(it.keys))
        if it.namespace is None:
            return [b"any", data, b"%d" % len(keys), *keys]
        return [b"keys", data, b"%d" % len(keys), *(plain(it.namespace) + b"\0" + key for key in keys)]
    if it.namespace is not None:
        return [b"range", data, *span(it.namespace, it.prefix)]
    return [b"prefix", data, plain(it.prefix)]


def span(namespace: str, prefix: str) -> tuple[bytes, bytes]:
    """The range of names in a namespace that begin so, as sorted sets are asked for it."""
    first = plain(namespace) + b"\0" + plain(prefix)
    return b"[" + first, b"(" + first + AFTER_ALL


# --- being answered --------------------------------------------------------------------------------------------------


def snapshot(head: Head, plan: ReadPlan, answer: list[Any]) -> Snapshot:
    """What the plan's answer says about a session with this head."""
    whole, state = (False, None) if plan.state_since is None else _state(answer[0])
    return Snapshot(
        head,
        state,
        whole,
        None if plan.entries is None else _entries(plan.entries, answer[1], answer[2]),
        _blobs(plan.blobs, answer[3]) if plan.blobs else None,
    )


def _state(answer: list[Any]) -> tuple[bool, dict[str, StateRow]]:
    whole, live, dead = answer
    found: dict[str, StateRow] = {}
    for name, value in zip(live[::2], live[1::2], strict=True):
        version, _, data = value.partition(b":")
        found[name.decode()] = StateRow(data, int(version))
    for name, version in zip(dead[::2], dead[1::2], strict=True):
        found[name.decode()] = StateRow(None, int(version))
    return bool(whole), found


def _entries(window: Window, rows: list[Any], hidden: list[bytes]) -> list[Entry]:
    if window.newest:
        rows.reverse()
    if not hidden:
        return [unpacked(row) for row in rows]
    firsts, lasts = [int(it.partition(b"-")[0]) for it in hidden], [int(it.partition(b"-")[2]) for it in hidden]
    return [unpacked(row, _within(firsts, lasts, int(row[0].partition(b"-")[0]))) for row in rows]


def _within(firsts: list[int], lasts: list[int], seq: int) -> bool:
    place = bisect_left(lasts, seq)
    return place < len(lasts) and firsts[place] <= seq


def _blobs(ranges: tuple[BlobRange, ...], answer: list[Any]) -> list[Blob]:
    return [blob for it, found in zip(ranges, answer, strict=True) for blob in _range_of(it, found)]


def _range_of(it: BlobRange, found: list[bytes]) -> list[Blob]:
    step = 3 if it.data else 2
    rows = (found[place : place + step] for place in range(0, len(found), step))
    return [Blob(*_place(row[0]), row[1].decode(), row[2] if it.data else None) for row in rows]


def _place(name: bytes) -> tuple[str, str]:
    namespace, _, key = name.partition(b"\0")
    return unplain(namespace), unplain(key)
