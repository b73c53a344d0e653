"""An index in one SQLite file: FTS5 for words, vectors in a table for meaning, and no extension of SQLite.

The file has a rollback journal instead of a write-ahead log: what a transaction lets go of is in no file once it is done. Its flushes are
those of `synchronous=normal`: an index can be made anew. By meaning, every
vector within reach is compared, with NumPy: some milliseconds for ten thousand.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from math import sqrt
from os.path import abspath
from typing import Any, TypeVar

from ..backend import Key
from ..backends._sql import load, named
from ..backends.sqlite import from_url
from ..backends.sqlite.connections import Connection, Patience, closed, connect, mapped
from ..backends.urls import shown
from ..errors import InvalidURL, InvalidValue, MissingExtra, NotAStore, SchemaMismatch
from ..forks import Forkable, forget_forks, watch_forks
from .index import Document, Found, Standing, Wanted

T = TypeVar("T")

SQL = named(load(__name__, "queries.sql"))
VERSION = 1
_APPLICATION = 0x48465243  # "HFRC", written into the file's header
_BUSY_SECONDS = 30.0
_COMPARED_AT_ONCE = 1024
_MEMORY = ":memory:"


def open(url: str) -> SQLiteIndex:
    """An index by URL: `sqlite:///recall.db`, made where it isn't, or `memory://`, which ends with this object. `InvalidURL`."""
    if url == "memory://":
        return SQLiteIndex(_MEMORY)
    if not isinstance(url, str) or not url.startswith("sqlite://") or "?" in url:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidURL(f"index URL {shown(str(url))!r}: write 'sqlite:///recall.db' or 'memory://'; there are no options")
    return SQLiteIndex(from_url(url).path)


class SQLiteIndex(Forkable):
    """The index in the file at `path`. Calls of one process take turns, each in a thread beside its event loop."""

    def __init__(self, path: str) -> None:
        self.path = path if path == _MEMORY else abspath(path)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._model: str | None = None
        self._closed = False
        watch_forks(self)

    # --- life ---

    async def open(self, model: str | None, *, anew: bool = False) -> None:
        if model is not None and find_spec("numpy") is None:
            raise MissingExtra('recall by meaning needs numpy, which is not installed: pip install "holdfast[recall]"')
        self._model = model
        await self._do(lambda it: _prepare(it, self.path, model, anew=anew))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._let_go)
            forget_forks(self)

    def _let_go(self) -> None:
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def before_fork(self) -> None:
        self._lock.acquire()
        if self.path != _MEMORY:  # a file's connection must not be in two processes
            self._disconnect()

    def after_fork(self, *, child: bool) -> None:
        self._lock.release()

    async def _do(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._on_thread, work)

    def _on_thread(self, work: Callable[[Connection], T]) -> T:
        with self._lock, mapped(self.path):
            if self._closed:
                raise closed(self.path)
            if self._connection is None:
                self._connection = _connected(self.path)
            return work(self._connection)

    # --- writing ---

    async def put(
        self,
        key: Key,
        was: Standing | None,
        standing: Standing | None,
        documents: Sequence[Document] = (),
        vectors: Sequence[Sequence[float]] = (),
        *,
        hidden: Sequence[int] = (),
    ) -> bool:
        packed = [_packed(vector) for vector in vectors]
        size = _size(packed)

        def work(it: Connection) -> bool:
            with _transaction(it):
                if documents:
                    _check_model(it, self.path, self._model, size)
                return _put(it, key, was, standing, documents, packed, hidden)

        return await self._do(work)

    # --- reading ---

    async def standings(self, tenant: str, session_id: str | None = None) -> dict[str, Standing]:
        rows = await self._do(lambda it: it.execute(SQL["standings"], (tenant, session_id)).fetchall())
        return {name: _standing(told) for name, *told in rows}

    async def search(self, wanted: Wanted) -> list[list[Found]]:
        return await self._do(lambda it: _search(it, self.path, wanted))


# --- the file --------------------------------------------------------------------------------------------------------


def _connected(path: str) -> Connection:
    connection = connect(path, patience=Patience(_BUSY_SECONDS), synchronous="normal", vfs=None, writable=True)
    try:
        with _transaction(connection):
            _ensure(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _ensure(it: Connection, path: str) -> None:
    """Make an empty file an index, or check that what is there is one this library can use."""
    application, version = it.pragma("application_id"), it.pragma("user_version")
    if application == _APPLICATION and version == VERSION:
        return
    if application == _APPLICATION:
        raise SchemaMismatch(f"{path}: an index of version {version}, this library has {VERSION}: delete the file, `update` makes it anew")
    if application or version or it.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        raise NotAStore(f"{path}: this SQLite database is no index but something else; name another file")
    it.execute(load(__name__, "schema.sql"))
    it.pragma("application_id", _APPLICATION)
    it.pragma("user_version", VERSION)


@contextmanager
def _transaction(it: Connection) -> Generator[None]:
    it.execute("BEGIN IMMEDIATE")
    try:
        yield
        it.execute("COMMIT")
    finally:
        if it.in_transaction:
            it.execute("ROLLBACK")


def _prepare(it: Connection, path: str, model: str | None, *, anew: bool) -> None:
    """See to it that vectors of `model` may come; with `anew`, let go of everything first."""
    with _transaction(it):
        if anew:
            _let_go(it, it.execute(SQL["all_documents"]))
            it.execute(SQL["drop_remembered"])
        if not it.execute(SQL["any_document"]).fetchone():
            it.execute(SQL["drop_fact"], ("model",))
            if model is not None:
                it.execute(SQL["set_fact"], ("model", model))
        elif model is not None:
            _check_model(it, path, model, None)


def _check_model(it: Connection, path: str, model: str | None, size: int | None) -> None:
    """`InvalidValue` where vectors of `model`, of `size` bytes each, can't lie beside those that are there."""
    row, other = it.execute(SQL["fact"], ("model",)).fetchone(), it.execute(SQL["any_vector"]).fetchone()
    found = row and row[0]
    fix = "give the same embed=, another index=, or make it anew: `await recall.update(rebuild=True)`, `holdfast search --rebuild`"
    if found != model:
        here = f"vectors of {found!r}" if found else "words alone"
        raise InvalidValue(f"{path} holds {here}, and this is {f'for vectors of {model!r}' if model else 'for words alone'}: {fix}")
    if size is not None and other is not None and other[0] != size:
        raise InvalidValue(f"{path} holds vectors of {other[0] // 4} numbers, and {model!r} gave {size // 4}: {fix}")


# --- what is put -----------------------------------------------------------------------------------------------------


def _put(
    it: Connection,
    key: Key,
    was: Standing | None,
    standing: Standing | None,
    documents: Sequence[Document],
    packed: Sequence[bytes],
    hidden: Sequence[int],
) -> bool:
    row = it.execute(SQL["standing"], (key.tenant, key.session_id)).fetchone()
    if (_standing(row[1:]) if row else None) != was:
        return False
    session = row and row[0]
    if was is not None and (standing is None or standing.forgotten or standing.incarnation != was.incarnation):
        _let_go(it, it.execute(SQL["documents_of"], (session,)))
    for seq in hidden:
        _let_go(it, it.execute(SQL["documents_at"], (session, seq)))
    if standing is None:
        it.execute(SQL["drop_session"], (session,))
        return True
    told = (standing.incarnation, standing.seq, standing.hides, standing.user_id, standing.forgotten)
    if session is None:
        (session,) = it.execute(SQL["add_session"], (*key, *told)).fetchone()
    else:
        it.execute(SQL["move_session"], (session, *told))
    for number, document in enumerate(documents):
        _add(it, session, document, packed[number] if packed else None)
    return True


def _add(it: Connection, session: int, document: Document, packed: bytes | None) -> None:
    told = (document.seq, document.piece, document.run_id, document.agent, document.role, document.time)
    (number,) = it.execute(SQL["add_document"], (session, *told)).fetchone()
    it.execute(SQL["add_words"], (number, document.text))
    if packed is not None:
        it.execute(SQL["add_vector"], (number, packed))


def _let_go(it: Connection, rows: Iterator[tuple[Any, ...]] | Any) -> None:
    """Remove these documents, their words and their vectors."""
    for (number,) in list(rows):
        for name in ("drop_words", "drop_vector", "drop_document"):
            it.execute(SQL[name], (number,))


def _packed(vector: Sequence[float]) -> bytes:
    """The vector, brought to length 1; `InvalidValue` for one without direction."""
    length = sqrt(sum(number * number for number in vector))
    if not 0 < length < float("inf"):
        raise InvalidValue(f"an embedding of {len(vector)} numbers has length {length}: it can't be compared with any other")
    return array("f", [number / length for number in vector]).tobytes()


def _size(packed: Sequence[bytes]) -> int | None:
    sizes = {len(it) for it in packed}
    if len(sizes) > 1:
        raise InvalidValue(f"embeddings of one call have {sorted(size // 4 for size in sizes)} numbers: they can't be compared")
    return sizes.pop() if sizes else None


def _standing(row: Sequence[Any]) -> Standing:
    incarnation, seq, hides, user_id, forgotten = row
    return Standing(incarnation, seq, hides, user_id, bool(forgotten))


# --- what is found ---------------------------------------------------------------------------------------------------


def _search(it: Connection, path: str, wanted: Wanted) -> list[list[Found]]:
    it.execute("BEGIN")  # all from one moment
    try:
        rankings = [_by_words(it, wanted, between) for between in (" AND ", " OR ")]
        if wanted.vector is not None:
            rankings.append(_by_meaning(it, path, wanted, _packed(wanted.vector)))
        return [[_shown(it, number) for number in ranking] for ranking in rankings]
    finally:
        it.execute("ROLLBACK")


def _by_words(it: Connection, wanted: Wanted, between: str) -> list[int]:
    """The documents with the words, those first in which they weigh most (BM25)."""
    if not wanted.words:
        return []
    where, given = _where(wanted)
    match = between.join(f'"{word}"' for word in wanted.words)
    rows = it.execute(SQL["by_words"].format(where=where), given | {"words": match, "limit": wanted.limit})
    return [number for (number,) in rows]


def _by_meaning(it: Connection, path: str, wanted: Wanted, vector: bytes) -> list[int]:
    """The documents whose vectors are nearest to this one by cosine."""
    import numpy as np

    where, given = _where(wanted)
    asked: Any = np.frombuffer(vector, dtype=np.float32)
    best: list[tuple[float, int]] = []
    rows = iter(it.execute(SQL["by_meaning"].format(where=where), given))
    while some := list(islice(rows, _COMPARED_AT_ONCE)):
        if len(some[0][1]) != len(vector):
            raise InvalidValue(f"{path} holds vectors of {len(some[0][1]) // 4} numbers, and the query's has {len(vector) // 4}")
        table: Any = np.frombuffer(b"".join([packed for _, packed in some]), dtype=np.float32).reshape(len(some), -1)
        scores: Any = table @ asked
        nearest: list[int] = np.argpartition(-scores, min(wanted.limit, len(some)) - 1)[: wanted.limit].tolist()
        best = sorted([*best, *((float(scores[at]), int(some[at][0])) for at in nearest)], reverse=True)[: wanted.limit]
    return [number for _, number in best]


def _where(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The conditions on sessions and documents, and what they compare with."""
    given = {"tenant": wanted.tenant}
    given |= {} if wanted.everybody else {"user_id": wanted.user_id}
    optional = {name: getattr(wanted, name) for name in ("session_id", "but", "agent", "after", "before")}
    given |= {name: value for name, value in optional.items() if value is not None}
    return " AND ".join(_CONDITIONS[name] for name in given), given


_CONDITIONS = {
    "tenant": "s.tenant = :tenant",
    "user_id": "s.user_id IS :user_id",
    "session_id": "s.session_id = :session_id",
    "but": "s.session_id <> :but",
    "agent": "d.agent = :agent",
    "after": "d.time > :after",
    "before": "d.time < :before",
}


def _shown(it: Connection, number: int) -> Found:
    session_id, *told = it.execute(SQL["shown"], (number,)).fetchone()
    return Found(session_id, _standing(told[:5]), Document(*told[5:]))
