"""`Recall`: brings an index up to date with a store, and searches in it what the store still holds.

The store alone says what there is and whose it is. The index may lag behind, and any process may bring it up to date at any time: how
far each session is indexed is written together with its documents, and a write that comes from an older reading is refused and made anew.
Nothing is shown that the store has not confirmed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec

from ..backend import Backend, Filter, Head, Key, ReadPlan, Snapshot, Window
from ..entries import MESSAGE, Entry
from ..errors import InvalidValue, SessionGone, Unsupported
from ..ids import SCOPE_PREFIXES, check_id, check_session_id, from_micros, to_micros
from ..large import restored
from ..runs import pause
from ..session import Session
from ..store import Store
from ..wrappers.cache import CachedBackend
from .index import Document, Found, Index, Standing, Wanted
from .passages import documents, names_something, words_of
from .sqlite import open as open_index

if TYPE_CHECKING:
    from ..agents.around import Middleware

log = logging.getLogger("holdfast.recall")

Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]]]]
"""Gives a vector for each text, in their order, all of one length."""

MOST = 100
_PAGE = 200
_HEADS = 200
_EMBEDDED_AT_ONCE = 64
_QUERY = 2000
"""Letters of a query that are embedded."""
_RANKED = 50
_STEADY = 10
_NAMED, _ASKED = (0.5, 0.02, 1.0), (0.05, 0.02, 1.0)
"""Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a place in a ranking is worth weight / (`_STEADY` + place). The weights of
all the words, of any of them, and of meaning. What is named is lifted above what is merely near; where a question is asked in plain words,
those decide between neighbours, and where there is no meaning to go by. Measured by `bench recall`.
"""
_ROUNDS = 20


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was said. `text` is the part of the message that fits best, `seq` the entry; the higher the `score` the better.

    Scores order the hits of one search and mean nothing else.
    """

    session_id: str
    name: str | None
    seq: int
    run_id: str | None
    agent: str | None
    role: str
    text: str
    time: datetime
    score: float


class _Step(msgspec.Struct, frozen=True):
    """What brings the index nearer to the store."""

    standing: Standing | None
    documents: list[Document] = []
    hidden: list[int] = []


class Recall:
    """Search in what was said in a store's sessions, by words, and with `embed` by meaning.

    `index`: a URL (`sqlite:///recall.db`, `memory://`) or an `Index`. `embed`: `MiniLM()`, or any function that gives vectors; `model` is
    the name its vectors are kept under, where it has no `model` of its own. `tool_results`: what tools answered is found too. `shared`:
    to an agent's run without a user (`tools`), the sessions without an owner are open. `plain`: an index in plain text is wanted though
    the store encrypts; `Unsupported` without it.
    """

    def __init__(
        self,
        store: Store | str,
        index: Index | str = "sqlite:///recall.db",
        embed: Embed | None = None,
        *,
        model: str | None = None,
        tool_results: bool = False,
        shared: bool = False,
        plain: bool = False,
    ) -> None:
        self.store = Store.shared(store)
        if self.store.backend.capabilities.sealed and not plain and index != "memory://":
            raise Unsupported(
                "this store encrypts what it holds, and an index keeps the text of messages as it is: pass plain=True to have that,"
                " index='memory://' to keep it in memory alone, or no Recall"
            )
        self.index: Index = open_index(index) if isinstance(index, str) else index
        self.shared = shared
        self._embed = embed
        self._model = _model(embed, model)
        self._tool_results = tool_results
        self._open = False
        self._working: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish the updates under way, and let go of the index. The store stays open."""
        await self.settled()
        await self.index.close()

    # --- keeping up ---

    async def update(self, session_id: str | None = None, *, updated_after: datetime | None = None, rebuild: bool = False) -> int:
        """Bring the index up to date with a session, or with all there are; how many pieces of messages came in.

        Only what is new is read and embedded; what was rewound, cleared, deleted or has expired goes. `updated_after`: look only at
        sessions written to after this time, and do not look for those that are gone. `rebuild`: with everything anew, as after another
        `embed`. `InvalidValue` for an index that was made with another one.
        """
        if sum([session_id is not None, updated_after is not None, rebuild]) > 1:
            raise InvalidValue("update takes one of session_id=, updated_after= and rebuild= at most")
        await self._ready(anew=rebuild)
        if session_id is not None:
            return await self._update(check_session_id(session_id))
        known = await self.index.standings(self.store.tenant)
        seen: set[str] = set()
        taken = 0
        async for name, head in self._heads(None if updated_after is None else to_micros("updated_after", updated_after)):
            seen.add(name)
            if not _is_current(known.get(name), head):
                taken += await self._update(name)
        for name in known.keys() - seen if updated_after is None else ():
            taken += await self._update(name)  # gone, or made anew since
        return taken

    async def forget(self, session_id: str) -> None:
        """Take a session out of the index. While it lives, nothing of it is taken in again, unless it is cleared and begins anew."""
        await self._ready()
        key = Key(self.store.tenant, check_session_id(session_id))
        while True:
            was, head = await self._standing(key), await self._head(key)
            standing = None if head is None else Standing(head.incarnation, user_id=head.user_id, forgotten=True)
            if was == standing or await self.index.put(key, was, standing):
                return

    async def _heads(self, updated_after: int | None) -> AsyncIterator[tuple[str, Head]]:
        cursor: str | None = None
        while True:
            page = await self._backend.list(Filter(tenant=self.store.tenant, updated_after=updated_after), cursor, _HEADS)
            for name, head in page.items:
                if not name.startswith(SCOPE_PREFIXES):
                    yield name, head
            if (cursor := page.cursor) is None:
                return

    async def _update(self, session_id: str) -> int:
        """One session, step by step until a reading tells nothing new: one that was deleted meanwhile is told so by the last."""
        key, taken = Key(self.store.tenant, session_id), 0
        while True:
            was = await self._standing(key)
            step = await self._step(key, was, take=True)
            if step is None:
                return taken
            vectors = await self._vectors([it.text for it in step.documents])
            if await self.index.put(key, was, step.standing, step.documents, vectors, hidden=step.hidden):
                taken += len(step.documents)

    async def _settle(self, key: Key) -> None:
        """Let go of what the store does not show any more, and take nothing in."""
        was = await self._standing(key)
        step = await self._step(key, was, take=False)
        if step is not None:
            await self.index.put(key, was, step.standing, hidden=step.hidden)

    async def _step(self, key: Key, was: Standing | None, *, take: bool) -> _Step | None:
        """What to do next with a session that is indexed as it `was`; None where nothing is."""
        window = Window(after=was.seq if was else 0, limit=_PAGE, newest=False, kinds=(MESSAGE,)) if take else None
        snapshot = await self._backend.read(key, ReadPlan(entries=window))
        if snapshot is None:
            return None if was is None else _Step(None)
        head, new = snapshot.head, snapshot.entries or []
        if was is not None and was.incarnation != head.incarnation:
            return _Step(Standing(head.incarnation, hides=head.hides, user_id=head.user_id))
        if was is not None and was.forgotten:
            return None
        hidden = await self._hidden(key, was) if was is not None and was.hides != head.hides else []
        seq = (was.seq if was else 0) if not take else head.seq if len(new) < _PAGE else new[-1].seq
        standing = Standing(head.incarnation, seq, head.hides, head.user_id)
        if standing == was:
            return None
        return _Step(standing, documents(await self._whole(key, head, new), tool_results=self._tool_results), hidden)

    async def _whole(self, key: Key, head: Head, entries: list[Entry]) -> list[Entry]:
        """The entries with their large values; none of them once the life that `head` tells of has ended."""

        async def read(plan: ReadPlan) -> Snapshot | None:
            snapshot = await self._backend.read(key, plan)
            return snapshot if snapshot is not None and snapshot.head.incarnation == head.incarnation else None

        try:
            return await restored(read, entries)
        except SessionGone:
            return []

    async def _hidden(self, key: Key, was: Standing) -> list[int]:
        """The indexed entries that are hidden by now."""
        found: list[int] = []
        page: list[Entry] | None = None
        while page is None or len(page) == _PAGE:
            after = page[-1].seq if page else 0
            window = Window(after=after, before=was.seq + 1, limit=_PAGE, newest=False, kinds=(MESSAGE,), hidden=True)
            snapshot = await self._backend.read(key, ReadPlan(entries=window))
            page = snapshot.entries or [] if snapshot is not None else []
            found += [entry.seq for entry in page if entry.hidden]
        return found

    async def _vectors(self, texts: list[str]) -> list[Sequence[float]]:
        found: list[Sequence[float]] = []
        for start in range(0, len(texts) if self._embed is not None else 0, _EMBEDDED_AT_ONCE):
            found += await self._embedded(texts[start : start + _EMBEDDED_AT_ONCE])
        return found

    async def _embedded(self, texts: list[str]) -> Sequence[Sequence[float]]:
        assert self._embed is not None
        vectors = await self._embed(texts)
        if len(vectors) != len(texts):
            raise InvalidValue(f"embed={self._model!r} gave {len(vectors)} vectors for {len(texts)} texts: give one for each, in order")
        return vectors

    # --- searching ---

    async def search(
        self,
        query: str,
        *,
        user_id: str | None,
        limit: int = 10,
        session_id: str | None = None,
        agent: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> list[Hit]:
        """The messages that fit best, the best first, each confirmed by the store: there, this user's, not rewound.

        `user_id`: whose sessions; None for those without an owner, or, where the store was opened `as_admin`, everybody's. `session_id`,
        `agent`, `after`, `before` (aware datetimes, not included) narrow it. Any text is a query; one without a letter or a digit finds
        nothing. What was said since the last `update` is not found yet.
        """
        return await self.find(
            query,
            limit,
            user_id=None if user_id is None else check_id(user_id, "user id"),
            everybody=user_id is None and self.store.as_admin,
            session_id=None if session_id is None else check_session_id(session_id),
            agent=agent,
            after=None if after is None else to_micros("after", after),
            before=None if before is None else to_micros("before", before),
        )

    async def find(self, query: str, limit: int, **where: Any) -> list[Hit]:
        """As `search`, `where` in the words of `Wanted`; for the tools."""
        if not isinstance(query, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"query={query!r:.80}: give text")
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise InvalidValue(f"limit={limit!r:.80}: give a whole number from 1 to {MOST}")
        await self._ready()
        words = words_of(query)
        vector = (await self._embedded([query.strip()[:_QUERY]]))[0] if self._embed is not None and words else None
        wanted = Wanted(tenant=self.store.tenant, words=words, vector=vector, limit=max(_RANKED, 2 * limit), **where)
        weights = _NAMED if names_something(query) else _ASKED
        hits: list[Hit] = []
        for _ in range(_ROUNDS if words else 0):  # of sessions that went meanwhile, each round lets go
            hits, stale = await self._confirmed(_fused(await self.index.search(wanted), weights), wanted, limit)
            if not stale or len(hits) == limit:
                break
        return hits

    async def _confirmed(self, found: Sequence[tuple[float, Found]], wanted: Wanted, limit: int) -> tuple[list[Hit], bool]:
        """The first `limit` of what is found that the store has, and whether something is gone, which has left the index now."""
        hits: list[Hit] = []
        stale: set[str] = set()
        heads = await self._heads_of(list(dict.fromkeys(it.session_id for _, it in found))[:limit])
        for score, it in found:
            if len(hits) == limit:
                break
            if it.session_id not in heads:
                heads |= await self._heads_of([it.session_id])
            head = heads[it.session_id]
            if head is None or not _shows(it.standing, head):
                stale.add(it.session_id)
            elif wanted.everybody or head.user_id == wanted.user_id:
                hits.append(_hit(score, it, head))
        for name in stale:
            await self._settle(Key(self.store.tenant, name))
        return hits, bool(stale)

    async def _heads_of(self, names: Sequence[str]) -> dict[str, Head | None]:
        found = await asyncio.gather(*(self._head(Key(self.store.tenant, name)) for name in names))
        return dict(zip(names, found, strict=True))

    # --- for agents ---

    def tools(self, *, current: bool = False) -> list[Callable[..., Any]]:
        """Tools for `Agent(tools=...)`: `search_past_sessions` and `read_past_session`, for the model to look up what was said before.

        They reach the sessions of the run's own user, but for the session of the run itself (`current`: with it). A run without a user
        reaches its own session alone; with `Recall(shared=True)`, every session without an owner.
        """
        from .tools import tools

        return tools(self, current=current)

    def keeper(self) -> Middleware:
        """Middleware that brings the index up to date after each run of an agent, in the background: no answer waits for it.

        What fails is logged, and made up for by the next `update`.
        """
        from .keeper import Keeper

        return Keeper(self)

    def soon(self, session: Session) -> None:
        """Bring the index up to date with this session once the run that is under way here has ended; for `keeper`."""
        task = asyncio.get_running_loop().create_task(self._later(session))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def settled(self) -> None:
        """Wait for the updates that runs have begun on this event loop."""
        here = asyncio.get_running_loop()
        while mine := [task for task in self._working if task.get_loop() is here]:
            await asyncio.wait(mine)

    async def _later(self, session: Session) -> None:
        wait = 0.002
        while session.running_here() is not None:  # its last commit is still to come
            await pause(wait)
            wait = min(wait * 1.5, 0.25)
        try:
            await self.update(session.id)
        except Exception as error:  # whatever an embedding service raises: the run has ended well, and nobody waits here
            log.warning("the index is behind until the next update: session_id=%s error=%s", session.id, type(error).__name__)

    # --- between ---

    @property
    def _backend(self) -> Backend:
        """The store's, without its cache: an index reads every session once, and a cache would lose those in use by it."""
        backend = self.store.backend
        return backend.inner if isinstance(backend, CachedBackend) else backend

    async def _ready(self, *, anew: bool = False) -> None:
        if anew or not self._open:
            await self.index.open(self._model, anew=anew)
            self._open = True

    async def _standing(self, key: Key) -> Standing | None:
        return (await self.index.standings(key.tenant, key.session_id)).get(key.session_id)

    async def _head(self, key: Key) -> Head | None:
        snapshot = await self._backend.read(key, ReadPlan())
        return snapshot and snapshot.head

    async def around(self, session_id: str, window: Window) -> tuple[Head, list[Entry]] | None:
        """A session's head and some of its entries, or None; for the tools, which look whose it is."""
        key = Key(self.store.tenant, check_session_id(session_id))
        snapshot = await self._backend.read(key, ReadPlan(entries=window))
        return snapshot and (snapshot.head, await self._whole(key, snapshot.head, snapshot.entries or []))


def _model(embed: Embed | None, given: str | None) -> str | None:
    """The name under which the vectors of `embed` are kept."""
    if embed is None:
        if given is not None:
            raise InvalidValue(f"model={given!r} names the vectors of embed=, which is missing")
        return None
    if not callable(embed):
        raise InvalidValue(f"embed={embed!r:.80}: give MiniLM(), or a function that takes texts and is awaited for their vectors")
    found = given or getattr(embed, "model", None) or getattr(embed, "__qualname__", None) or type(embed).__qualname__
    return str(found)


def _is_current(was: Standing | None, head: Head) -> bool:
    if was is not None and was.forgotten:
        return was.incarnation == head.incarnation
    return was == Standing(head.incarnation, head.seq, head.hides, head.user_id)


def _shows(standing: Standing, head: Head) -> bool:
    """Whether what was indexed at `standing` is still there: the same life, nothing hidden since, the same owner."""
    return (head.incarnation, head.hides, head.user_id) == (standing.incarnation, standing.hides, standing.user_id)


def _fused(rankings: Sequence[Sequence[Found]], weights: Sequence[float]) -> list[tuple[float, Found]]:
    """One ranking of messages, the best first: each with the piece that stands highest in one of the rankings."""
    scores: dict[tuple[str, int], float] = {}
    pieces: dict[tuple[str, int], tuple[int, Found]] = {}
    for weight, ranking in zip(weights, rankings, strict=False):
        messages = dict[tuple[str, int], Found]()
        for it in ranking:
            messages.setdefault((it.session_id, it.document.seq), it)
        for place, (message, it) in enumerate(messages.items()):
            scores[message] = scores.get(message, 0.0) + weight / (_STEADY + place)
            if message not in pieces or place < pieces[message][0]:
                pieces[message] = (place, it)
    return [(scores[it], pieces[it][1]) for it in sorted(scores, key=lambda it: scores[it], reverse=True)]


def _hit(score: float, it: Found, head: Head) -> Hit:
    said = it.document
    return Hit(
        session_id=it.session_id,
        name=head.name,
        seq=said.seq,
        run_id=said.run_id,
        agent=said.agent,
        role=said.role,
        text=said.text,
        time=from_micros(said.time),
        score=score,
    )
