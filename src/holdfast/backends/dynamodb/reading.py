"""Reading a plan: one query from the head downwards where that is enough, otherwise range by range.

DynamoDB reads item by item: a transaction may fall between two of them. What is read must vouch for itself: the log by its gapless
seqs, the rest by its versions and by the head, which is read first and, after more than one request, last again. Where that fails the
answer is `Torn`, and is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from ...backend import Blob, BlobRange, ReadPlan, Snapshot, StateRow, Window
from ...entries import MESSAGE, Entry
from ...errors import Corrupt, StoreUnavailable
from ...ids import now
from ...rules import alive, asked, select
from . import layout
from .client import Op, Patience, Table
from .layout import HEAD, PAGE, SEVERAL, Block, Item, Stored, address

_OPENING_STATE = 30
"""State keys that the first query of a session makes room for, as long as nothing is known of it."""
_MOST_STATE = 200
_OPENING_ENTRIES = 400
_SPARE_BLOCKS = 8
_GAP = 64
"""Hidden entries that are sooner read over than jumped over."""
_PARTS_AT_ONCE = 40
"""An answer has 16 MB at most."""
_TORN = 5
"""What is torn so often under one and the same head was not torn by a writer."""
_FIRST = "0"
"""Where the sort keys of lives begin."""


class Torn(Exception):
    """What was read is not of one moment."""


class Seen(NamedTuple):
    """An answer, the head item it came with, and how many state items there were (None: not counted)."""

    snapshot: Snapshot | None
    item: Item | None
    states: int | None = None


def living(item: Item | None) -> Stored | None:
    """What the head item holds, unless it has expired."""
    stored = None if item is None else layout.stored_of(item)
    return stored if stored is not None and alive(stored.head, now()) else None


def read(table: Table, pk: str, plan: ReadPlan, states: int | None = None, last: Item | None = None) -> Seen:
    """The plan's answer from one moment. `states`: how many state items there were, `last`: the head item, as far as that is known."""
    patience, last_head, same = Patience(table.seconds), None, 0
    ahead = last is not None and not _is_known(layout.stored_of(last), plan)
    while True:
        try:
            return _once(table, pk, plan, states, ahead=ahead)
        except Torn as torn:
            head = table.get(address(pk, HEAD))
            last_head, same = head, same + 1 if head == last_head else 0
            if same == _TORN:
                raise Corrupt(f"table {table.name}: items of {pk!r} are missing: `holdfast db check` tells which") from torn
            if not patience.again():
                raise StoreUnavailable(f"table {table.name}: {pk!r} changed faster than it could be read") from torn


def _once(table: Table, pk: str, plan: ReadPlan, states: int | None, *, ahead: bool) -> Seen:
    """`ahead`: the session is known to be further than the plan's author."""
    if not ahead and _may_be_known(plan):
        item = table.get(address(pk, HEAD))
        stored = living(item)
        if stored is None:
            return Seen(None, item)
        if _is_known(stored, plan):
            return Seen(_snapshot(stored, plan, [], []), item)
    if _opens(plan, states) and (seen := _opening(table, pk, plan, states)):
        return seen
    return _thorough(table, pk, plan)


def _may_be_known(plan: ReadPlan) -> bool:
    """Whether the head alone may answer a reader that knows the session."""
    window = plan.entries
    return not plan.blobs and plan.state_since != 0 and (window is None or window.after > 0 or window.limit == 0)


def _is_known(stored: Stored, plan: ReadPlan) -> bool:
    window = plan.entries
    return not _wants_state(stored, plan) and (window is None or window.after >= stored.head.seq or window.limit == 0)


def _wants_state(stored: Stored, plan: ReadPlan) -> bool:
    return plan.state_since is not None and (plan.state_since <= stored.head.floor or plan.state_since < stored.state_at)


def _snapshot(
    stored: Stored, plan: ReadPlan, entries: list[Entry], blobs: list[Blob], state: dict[str, StateRow] | None = None
) -> Snapshot:
    since, floor = plan.state_since, stored.head.floor
    return Snapshot(
        stored.head,
        None if since is None else state or {},
        since is not None and since <= floor,
        None if plan.entries is None else entries,
        blobs if plan.blobs else None,
    )


# --- one query -------------------------------------------------------------------------------------------------------


def _opens(plan: ReadPlan, states: int | None) -> bool:
    window = plan.entries
    if plan.blobs or (plan.state_since is None and (states or 0) > _OPENING_STATE) or (states or 0) > _MOST_STATE:
        return False
    return window is None or (
        window.newest
        and window.before is None
        and window.limit is not None
        and window.limit <= _OPENING_ENTRIES
        and not _is_rare(window)
        and not window.hidden
    )


def _opening(table: Table, pk: str, plan: ReadPlan, states: int | None) -> Seen | None:
    """The answer of one page: head, state, newest blocks. None where it is not all in there."""
    blocks = 1 if plan.entries is None or plan.entries.limit is None else plan.entries.limit + _SPARE_BLOCKS
    limit = 1 + (_OPENING_STATE if states is None else states + 2) + blocks
    items, whole = table.page(pk, _FIRST, HEAD, limit)
    if not items or items[0][layout.SORT]["S"] != HEAD:
        return Seen(None, None)
    stored = living(items[0])
    if stored is None:
        return Seen(None, items[0])
    state, log, ended = _parted(items[1:], stored.life)
    if stored.redo is not None or not (ended or log or whole):
        return None
    entries = _opened(table, pk, stored, plan.entries, log, whole=ended or whole) if plan.entries else []
    if entries is None:
        return None
    rows = _state(table, pk, stored, plan, state)
    if any(row.version > stored.head.version for row in rows.values()):
        raise Torn
    return Seen(_snapshot(stored, plan, entries, [], rows), items[0], len(state))


def _parted(items: list[Item], life: int) -> tuple[list[Item], list[Item], bool]:
    """The state items, the log items, and whether the log ends among them. Items of other lives that are still there are left out."""
    own = layout.under(life)
    state, log = list[Item](), list[Item]()
    for item in items:
        sort: str = item[layout.SORT]["S"]
        if sort.startswith(f"{own}{layout.STATE}/"):
            state.append(item)
        elif sort.startswith(f"{own}{layout.LOG}/"):
            log.append(item)
        elif sort < own or sort.startswith(own):
            return state, log, True
    return state, log, False


def _opened(table: Table, pk: str, stored: Stored, window: Window, log: list[Item], *, whole: bool) -> list[Entry] | None:
    """The window's entries out of the newest blocks; None where there are not enough of them."""
    blocks = (_block(table, pk, item) for item in log if _first_of(item) <= stored.head.seq)
    found, matched, reached = list[Entry](), 0, stored.head.seq + 1
    for block in blocks:
        if block.last != reached - 1:
            raise Torn
        reached = block.first
        entries = [entry for entry in block.entries(stored.hidden) if not entry.hidden]
        found[:0] = entries
        matched += len(select(entries, window))
        if matched >= (window.limit or 0) or reached <= window.after + 1:
            return select(found, window)
    if reached == 1:
        return select(found, window)
    if whole:
        raise Torn
    return None


# --- range by range --------------------------------------------------------------------------------------------------


def _thorough(table: Table, pk: str, plan: ReadPlan) -> Seen:
    item = table.get(address(pk, HEAD))
    stored = living(item)
    if stored is None:
        return Seen(None, item)
    redo = load_redo(table, pk, stored)
    state, count = dict[str, StateRow](), None
    if _wants_state(stored, plan):
        items = ranged(table, pk, f"{layout.under(stored.life)}{layout.STATE}/", redo)
        state, count = _state(table, pk, stored, plan, items), len(items)
    entries = window_of(table, pk, stored, plan.entries) if plan.entries else []
    blobs = [blob for it in plan.blobs for blob in _blobs(table, pk, stored, it, redo)]
    if count is not None or plan.blobs:
        _check_still(table, pk, stored, plan)
    return Seen(_snapshot(stored, plan, entries, blobs, state), item, count)


def _check_still(table: Table, pk: str, stored: Stored, plan: ReadPlan) -> None:
    """The head again: nothing of what was read has changed since it was read first."""
    last, version = living(table.get(address(pk, HEAD))), stored.head.version
    if last is None or last.head.incarnation != stored.head.incarnation or last.head.floor != stored.head.floor:
        raise Torn
    if (plan.state_since is not None and last.state_at > version) or (plan.blobs and last.blobs_at > version):
        raise Torn


def ranged(table: Table, pk: str, prefix: str, redo: dict[str, Op]) -> list[Item]:
    """Every item whose sort key begins so, in order, with what is still to be carried out."""
    found = {it[layout.SORT]["S"]: it for page in table.query(pk, prefix, prefix + "\U0010ffff") for it in page}
    return _overlaid(found, {sort: op for sort, op in redo.items() if sort.startswith(prefix)})


def _overlaid(found: dict[str, Item], redo: dict[str, Op]) -> list[Item]:
    for sort, op in redo.items():
        if op.act == "Put":
            found[sort] = op.item
        else:
            found.pop(sort, None)
    return [found[sort] for sort in sorted(found)]


def load_redo(table: Table, pk: str, stored: Stored) -> dict[str, Op]:
    """The writes of the newest commit that are still to be carried out, by sort key."""
    if stored.redo is None:
        return {}
    data = _joined(table, pk, stored.life, *stored.redo)
    ops: list[tuple[str, Item]] = msgspec.msgpack.decode(data)
    return {item[layout.SORT]["S"]: Op(act, item) for act, item in ops}


def _joined(table: Table, pk: str, life: int, parts: str, count: int) -> bytes:
    """A large value put together; `Torn` where a part is gone, for it was replaced meanwhile."""
    keys = [address(pk, layout.part_key(life, parts, n)) for n in range(count)]
    found = {
        item[layout.SORT]["S"]: item["data"]["B"] for start in range(0, count, 40) for item in table.get_many(keys[start : start + 40])
    }
    try:
        return b"".join([found[key[layout.SORT]["S"]] for key in keys])
    except KeyError as error:
        raise Torn from error


def value_of(table: Table, pk: str, item: Item) -> bytes:
    """The item's value, from its parts if it lies in parts."""
    if "data" in item:
        return item["data"]["B"]
    life = int(item[layout.SORT]["S"][:12], 16)
    return _joined(table, pk, life, item["parts"]["S"], int(item["count"]["N"]))


# --- state and blobs -------------------------------------------------------------------------------------------------


def _state(table: Table, pk: str, stored: Stored, plan: ReadPlan, items: list[Item]) -> dict[str, StateRow]:
    since = plan.state_since
    if since is None:
        return {}
    whole = since <= stored.head.floor
    rows = ((state_name(it), it, int(it["version"]["N"])) for it in items)
    return {
        name: StateRow(None if "gone" in it else value_of(table, pk, it), version)
        for name, it, version in rows
        if ("gone" not in it if whole else version > since)
    }


def state_name(item: Item) -> str:
    return item["name"]["S"] if "name" in item else item[layout.SORT]["S"][15:]


def blob_place(item: Item) -> tuple[str, str]:
    """A blob's namespace and key."""
    return item["namespace"]["S"], item["name"]["S"]


def blobs_in(table: Table, pk: str, life: int, it: BlobRange, redo: dict[str, Op]) -> list[Item]:
    """The items of the range's blobs, by namespace and key."""
    if it.keys is not None and it.namespace is not None:
        sorts = {layout.blob_key(life, it.namespace, key) for key in it.keys}
        found = {item[layout.SORT]["S"]: item for item in table.get_many([address(pk, sort) for sort in sorts])}
        items = _overlaid(found, {sort: op for sort, op in redo.items() if sort in sorts})
    else:
        items = ranged(table, pk, layout.blob_prefix(life, it.namespace, it.prefix if it.keys is None else ""), redo)
    return sorted((item for item in items if asked(it, *blob_place(item))), key=blob_place)


def _blobs(table: Table, pk: str, stored: Stored, it: BlobRange, redo: dict[str, Op]) -> list[Blob]:
    items = blobs_in(table, pk, stored.life, it, redo)
    return [Blob(*blob_place(item), item["type"]["S"], value_of(table, pk, item) if it.data else None) for item in items]


# --- windows ---------------------------------------------------------------------------------------------------------


def _is_rare(window: Window) -> bool:
    """Whether the journal leads to the window's entries sooner than the log does: nearly every commit has messages."""
    return window.run_id is not None or (bool(window.kinds) and MESSAGE not in window.kinds)


def window_of(table: Table, pk: str, stored: Stored, window: Window) -> list[Entry]:
    """The window's entries, in order."""
    low, high = max(window.after + 1, 1), stored.head.seq if window.before is None else min(window.before - 1, stored.head.seq)
    if low > high or window.limit == 0:
        return []
    spans = [(low, high)] if window.hidden else _visible(stored.hidden, low, high)
    newest_first: Iterable[tuple[int, int]] = reversed(spans)
    if _is_rare(window):
        newest_first = _candidates(table, pk, stored, window, spans)
    found, matched = list[Entry](), 0
    for first, last in newest_first if window.newest else list(newest_first)[::-1]:
        left = None if window.limit is None else window.limit - matched
        for block in _back(table, pk, stored, first, last, left) if window.newest else _forth(table, pk, stored, first, last, left):
            entries = [it for it in block.entries(stored.hidden) if first <= it.seq <= last and (window.hidden or not it.hidden)]
            found += entries
            matched += len(select(entries, window))
            if window.limit is not None and matched >= window.limit:
                return select(sorted(found, key=_seq), window)
    return select(sorted(found, key=_seq), window)


def _seq(entry: Entry) -> int:
    return entry.seq


def _visible(hidden: tuple[tuple[int, int], ...], low: int, high: int) -> list[tuple[int, int]]:
    """What is left of low..high without the hidden ranges that are worth a jump."""
    spans, start = list[tuple[int, int]](), low
    for first, last in hidden:
        if last - first >= _GAP and last >= start and first <= high:
            if first > start:
                spans.append((start, first - 1))
            start = last + 1
    return [*spans, (start, high)] if start <= high else spans


def _back(table: Table, pk: str, stored: Stored, low: int, high: int, limit: int | None) -> Iterator[Block]:
    """The blocks that hold low..high, the newest first."""
    life, reached = stored.life, high + 1
    top, bottom = layout.log_key(life, high), layout.log_key(life, 0)
    for page in table.query(pk, bottom, top, backwards=True, limit=_wanted(low, high, limit)):
        for item in page:
            block = _block(table, pk, item)
            if block.last < reached - 1 or (reached <= high and block.last != reached - 1):
                raise Torn
            yield block
            reached = block.first
            if reached <= low:
                return
    raise Torn


def _forth(table: Table, pk: str, stored: Stored, low: int, high: int, limit: int | None) -> Iterator[Block]:
    """The blocks that hold low..high, the oldest first."""
    life, reached = stored.life, low
    if low > 1:
        block = next(_back(table, pk, stored, low, low, 1))
        yield block
        reached = block.last + 1
    if reached > high:
        return
    for page in table.query(pk, layout.log_key(life, reached), layout.log_key(life, high), limit=_wanted(low, high, limit)):
        for item in page:
            block = _block(table, pk, item)
            if block.first != reached:
                raise Torn
            yield block
            reached = block.last + 1
    if reached <= high:
        raise Torn


def _wanted(low: int, high: int, limit: int | None) -> int | None:
    """How many blocks to ask for: each holds an entry or more. None: as many as fill a page."""
    most = high - low + 2 if limit is None else min(limit + _SPARE_BLOCKS, high - low + 2)
    return most if most <= _OPENING_ENTRIES else None


def _first_of(item: Item) -> int:
    return int(item[layout.SORT]["S"][15:], 16)


def _block(table: Table, pk: str, item: Item) -> Block:
    try:
        rows = layout.rows_of(value_of(table, pk, item))
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{pk!r}: the entries at {item[layout.SORT]['S']} are not readable: {error}") from error
    return Block(_first_of(item), int(item["last"]["N"]), int(item["version"]["N"]), rows)


# --- the journal -----------------------------------------------------------------------------------------------------


def journal(table: Table, pk: str, stored: Stored, pages: dict[int, bytes], floor: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of the commits after version `floor`, and maybe some before it: (version of the last one, records), the newest first.

    `pages` is what is known already, and learns what is read.
    """
    version = stored.head.version
    if stored.journal and version > floor:
        yield version, stored.journal
    newest = (version - len(stored.journal) // layout.RECORD_BYTES) // PAGE
    for page, data in _pages(table, pk, stored.life, newest, floor // PAGE + 1, pages):
        yield page * PAGE, data


def _pages(table: Table, pk: str, life: int, newest: int, oldest: int, known: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """The journal's pages from `newest` down to `oldest`: those that are known, and then those that one query finds."""
    while newest >= oldest and newest in known:
        yield newest, known[newest]
        newest -= 1
    if newest < oldest:
        return
    for items in table.query(pk, layout.journal_key(life, oldest), layout.journal_key(life, newest), backwards=True):
        for item in items:
            page = int(item[layout.SORT]["S"][15:], 16)
            known[page] = item["data"]["B"]
            yield page, known[page]


def _candidates(table: Table, pk: str, stored: Stored, window: Window, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Parts of `spans` that hold every entry of the window's kinds and run, the newest first: what lies close together is one part."""
    span, count = None, 0
    for first, last in _promising(table, pk, stored, window, spans):
        if span is not None and span[0] - last <= _GAP and (window.limit is None or count < window.limit):
            span, count = (first, span[1]), count + 1
            continue
        if span is not None:
            yield span
        span, count = (first, last), 1
    if span is not None:
        yield span


def _promising(table: Table, pk: str, stored: Stored, window: Window, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where in `spans` the commits lie that the journal says may have such entries, the newest first."""
    if not spans:
        return
    kinds = layout.kinds_mask(window.kinds) if window.kinds else 0xFFFF
    runs = {SEVERAL} if window.run_id is None else {SEVERAL, layout.run_mark((window.run_id,))}
    last, promises = stored.head.seq, False
    for record in (record for version, data in journal(table, pk, stored, {}) for _, record in layout.records(data, version)):
        if promises:
            yield from _within(spans, record.seq + 1, last)
        last = record.seq
        promises = bool(record.kinds & kinds) and (window.run_id is None or record.run in runs)
        if last < spans[0][0]:
            return
    if promises:
        yield from _within(spans, 1, last)


def _within(spans: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """The parts of `spans` that lie in first..last, the newest first."""
    cut = [(max(low, first), min(high, last)) for low, high in reversed(spans)]
    return [(low, high) for low, high in cut if low <= high]
