"""LangGraph's long-term memory in a Holdfast store.

    graph = builder.compile(checkpointer=HoldfastSaver(url), store=HoldfastStore(url))

Each first label of a namespace has a record of its own, with the reserved id `~app/langgraph/LABEL`: what is put into it by one batch is
one commit. An item is a blob under its namespace and key, read by prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from operator import eq, ge, gt, le, lt, ne
from typing import Any, NamedTuple, TypeAlias, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from ... import Store, sync
from ...backend import Blob, BlobDrop, BlobPut, BlobRange, Commit, Create, Filter, HeadPatch, Key, ReadPlan, Snapshot
from ...errors import Conflict, InvalidValue, SessionGone, SessionNotFound
from ...ids import from_micros, new_id, new_incarnation, now
from ...values import decode, encode

KIND = "langgraph-memory"
_RECORD = "~app/langgraph/"
_ITEMS = "langgraph"
_MINUTE = 60_000_000
_Path: TypeAlias = tuple[str, ...]


class _Stored(NamedTuple):
    """An item; times are unix microseconds."""

    namespace: _Path
    key: str
    value: dict[str, Any]
    created: int
    updated: int
    blob: Blob


class HoldfastStore(BaseStore):
    """A LangGraph store in a Holdfast store: a `Store`, or a URL (one store per URL serves the whole process).

    Values are dicts of whatever Holdfast can store. `ttl`: LangGraph's configuration; an item that has expired can't be seen, whatever
    `omit_expired` says, and is removed by whoever comes across it. There is no vector search: a `query` finds the items that hold its
    words, those with the most of them first, and `index` has no effect. A search reads every item below its namespace.
    """

    supports_ttl = True

    def __init__(self, store: Store | str, *, ttl: TTLConfig | None = None) -> None:
        self.store = Store.shared(store)
        self.ttl_config = ttl
        self._blocking = sync.Store(self.store)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """`abatch`, blocking."""
        return self._blocking.call(self.abatch(ops))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The results in the order of `ops`. What is read is as it was before this batch; of two puts of one item the later one counts."""
        asked = list(ops)
        for op in asked:
            validate_op_namespace(op)
        results = [await self._answer(op) for op in asked]
        puts = [op for op in asked if isinstance(op, PutOp)]
        for label in dict.fromkeys(_label(op.namespace) for op in puts):
            await self._put(label, [op for op in puts if _label(op.namespace) == label])
        return results

    # --- reading ---

    async def _answer(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            label = _label(op.namespace)
            snapshot = await self._look(label, _range(keys=(_key(op.namespace, op.key),)))
            found = _living(snapshot)
            await self._tend(label, snapshot, found if op.refresh_ttl else [])
            return Item(**_fields(found[0])) if found else None
        if isinstance(op, SearchOp):
            return await self._search(op)
        return await self._namespaces(op) if isinstance(op, ListNamespacesOp) else None

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        """Newest first; with a query, those that hold the most of its words first."""
        below = _range(prefix=_prefix(op.namespace_prefix))
        looked = {label: await self._look(label, below) for label in op.namespace_prefix[:1] or await self._labels()}
        found = [it for snapshot in looked.values() for it in _living(snapshot)]
        found = [it for it in found if all(_meets(it.value.get(field), wanted) for field, wanted in (op.filter or {}).items())]
        found.sort(key=lambda it: it.updated, reverse=True)
        scored = [(it, _score(it.value, op.query) if op.query else None) for it in found]
        if op.query:
            scored = sorted((it for it in scored if it[1]), key=lambda it: it[1] or 0, reverse=True)
        page = scored[op.offset : op.offset + op.limit]
        for label, snapshot in looked.items():
            await self._tend(label, snapshot, [it for it, _ in page if it.namespace[0] == label] if op.refresh_ttl else [])
        return [SearchItem(**_fields(it), score=score) for it, score in page]

    async def _namespaces(self, op: ListNamespacesOp) -> list[_Path]:
        conditions = op.match_conditions or ()
        labels = {it.path[0] for it in conditions if it.match_type == "prefix" and it.path} - {"*"} or await self._labels()
        found: set[_Path] = set()
        for label in labels:
            snapshot = await self._look(label, _range(data=False))
            found |= {_place(blob.key)[0] for blob in _blobs(snapshot) if not _expired(blob.type)}
        fitting = {namespace[: op.max_depth] for namespace in found if all(_fits(namespace, it) for it in conditions)}
        return sorted(fitting)[op.offset : op.offset + op.limit]

    async def _labels(self) -> list[str]:
        """The first labels of all namespaces."""
        labels: list[str] = []
        cursor: str | None = None
        while True:
            page = await self.store.backend.list(Filter(tenant=self.store.tenant, kind=KIND), cursor, 200)
            labels += [id.removeprefix(_RECORD) for id, _ in page.items]
            if (cursor := page.cursor) is None:
                return sorted(labels)

    async def _tend(self, label: str, snapshot: Snapshot | None, used: Sequence[_Stored]) -> None:
        """Remove what has expired; the time of what was `used` begins anew."""
        gone = tuple(BlobDrop(_ITEMS, blob.key) for blob in _blobs(snapshot) if _expired(blob.type))
        touched = tuple(_refreshed(it.blob) for it in used if _due(it.blob.type))
        if snapshot is not None and (gone or touched):
            with suppress(Conflict, SessionGone, SessionNotFound):  # somebody has just changed something: the next reader will see to it
                await self._commit(label, drops=gone, blobs=touched, expect=snapshot.head.version)

    async def _look(self, label: str, items: BlobRange) -> Snapshot | None:
        return await self.store.backend.read(self._record(label), ReadPlan(blobs=(items,)))

    # --- writing ---

    async def _put(self, label: str, ops: Sequence[PutOp]) -> None:
        keys = {_key(op.namespace, op.key): op for op in ops}
        snapshot = await self._look(label, _range(keys=keys))
        created = {it.blob.key: it.created for it in _living(snapshot)}
        time = now()
        puts = [_blob(key, op, created.get(key, time), time) for key, op in keys.items() if op.value is not None]
        drops = [BlobDrop(_ITEMS, key) for key, op in keys.items() if op.value is None]
        if puts or snapshot is not None:
            new = {"create": Create(new_incarnation(), patch=HeadPatch(kind=KIND))} if snapshot is None else {}
            await self._commit(label, blobs=tuple(puts), drops=tuple(drops), **new)

    async def _commit(self, label: str, **parts: Any) -> None:
        await self.store.backend.commit(self._record(label), Commit(id=new_id(), time=now(), check_owner=False, **parts))

    def _record(self, label: str) -> Key:
        return Key(self.store.tenant, _RECORD + label)


# --- items as blobs --------------------------------------------------------------------------------------------------


def _label(namespace: _Path) -> str:
    return namespace[0] if namespace else ""


def _prefix(namespace: _Path) -> str:
    return "".join(f"{_quoted(label)}/" for label in namespace)


def _key(namespace: _Path, key: str) -> str:
    return _prefix(namespace) + _quoted(key)


def _place(blob_key: str) -> tuple[_Path, str]:
    *labels, key = blob_key.split("/")
    return tuple(map(_plain, labels)), _plain(key)


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _plain(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")


def _range(*, prefix: str = "", keys: Iterable[str] | None = None, data: bool = True) -> BlobRange:
    return BlobRange(namespace=_ITEMS, prefix=prefix, keys=None if keys is None else tuple(keys), data=data)


def _blobs(snapshot: Snapshot | None) -> list[Blob]:
    return (snapshot.blobs if snapshot else None) or []


def _blob(key: str, op: PutOp, created: int, time: int) -> BlobPut:
    return BlobPut(_ITEMS, key, _type(op.ttl, time), encode([_plain_texts(op.value), created, time]))


def _plain_texts(value: Any) -> Any:
    """The same with plain strings: a message's `text` is of a class of LangChain's own."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return str(value)
    if type(value) is dict:
        return {key: _plain_texts(it) for key, it in cast("dict[Any, Any]", value).items()}
    if type(value) is list:
        return [_plain_texts(it) for it in cast("list[Any]", value)]
    return value


def _stored(blob: Blob) -> _Stored:
    value, created, updated = decode(blob.data or b"")
    return _Stored(*_place(blob.key), value, created, updated, blob)


def _living(snapshot: Snapshot | None) -> list[_Stored]:
    return [_stored(blob) for blob in _blobs(snapshot) if not _expired(blob.type)]


def _fields(it: _Stored) -> dict[str, Any]:
    times = {"created_at": from_micros(it.created), "updated_at": from_micros(it.updated)}
    return {"namespace": it.namespace, "key": it.key, "value": it.value, **times}


# --- time to live: in the blob's type, so that a list of keys tells who has expired -------------------------------------


def _type(ttl: float | None, time: int) -> str:
    return "item" if ttl is None else f"item;{ttl};{time + int(ttl * _MINUTE)}"


def _life(type: str) -> tuple[float, int] | None:
    """The minutes to live and when they end, unix microseconds."""
    _, *life = type.split(";")
    return (float(life[0]), int(life[1])) if life else None


def _expired(type: str) -> bool:
    life = _life(type)
    return life is not None and life[1] <= now()


def _due(type: str) -> bool:
    """Whether a tenth of its time has gone by: a read doesn't write more often."""
    life = _life(type)
    return life is not None and life[1] - now() < 0.9 * life[0] * _MINUTE


def _refreshed(blob: Blob) -> BlobPut:
    life = _life(blob.type)
    return BlobPut(_ITEMS, blob.key, _type(life and life[0], now()), blob.data or b"")


# --- which items -----------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"$eq": eq, "$ne": ne, "$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}


def _meets(value: Any, wanted: Any) -> bool:
    """Whether a field's value is as wanted: equal, field by field in a dict, or as the operators say. What can't be compared isn't."""
    if not isinstance(wanted, dict):
        return value == wanted
    conditions = cast("dict[str, Any]", wanted)
    if not any(key.startswith("$") for key in conditions):
        return isinstance(value, dict) and all(_meets(cast("dict[str, Any]", value).get(key), it) for key, it in conditions.items())
    if unknown := conditions.keys() - _COMPARE.keys():
        raise InvalidValue(f"filter operators {sorted(unknown)}: there are {', '.join(_COMPARE)}")
    try:
        return all(_COMPARE[key](value, bound) for key, bound in conditions.items())
    except TypeError:
        return False


def _score(value: Any, query: str) -> float:
    """The share of the query's words that the value's texts hold."""
    words = set(re.findall(r"\w+", query.casefold()))
    held = words & {word for text in _texts(value) for word in re.findall(r"\w+", text.casefold())}
    return len(held) / len(words) if words else 0.0


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for it in cast("dict[Any, Any]", value).values():
            yield from _texts(it)
    elif isinstance(value, list | tuple):
        for it in cast("Sequence[Any]", value):
            yield from _texts(it)


def _fits(namespace: _Path, condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(namespace) >= len(path) and all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
