"""A session of more than a page, put together where nobody looks until it is whole.

It is staged under its own id in a tenant that is nobody's, all entries visible, for a fork takes the visible ones: which of them are
hidden is in the mark, and hidden by the commit that publishes. What a killed process has staged is gone on with.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from msgspec.structs import replace

from ..backend import Backend, Create, Erase, Head, HeadPatch, Key, ReadPlan, Window
from ..entries import Entry
from ..errors import SessionNotFound
from ..ids import new_incarnation, now
from .commits import commit, counted, new_entries
from .marks import Mark, look, stage_of
from .reading import Moved, joined, names_at, new_blobs, spans

STAGED_SECONDS = 7 * 86_400.0
"""What nobody has gone on with for so long expires."""


class Staged(NamedTuple):
    """What is staged: its mark, and its head (None: nothing yet)."""

    mark: Mark
    head: Head | None


class Stage:
    """Fills a staged session; `Moved` wherever source or destination were changed under it."""

    def __init__(self, source: Backend, target: Backend, key: Key, page: int) -> None:
        self.source, self.target, self.key, self.page = source, target, key, page
        self.place = stage_of(key)

    async def fill(self, empty: Mark) -> Staged:
        """The staged session with every entry and blob that there was at first; `empty` is the mark it begins with."""
        staged, upto = await self._found(empty), None
        while True:
            window = Window(after=staged.mark.seq, limit=self.page, newest=False, hidden=True)
            snapshot = await self.source.read(self.key, ReadPlan(entries=window))
            if snapshot is None or staged.mark.incarnation not in (0, snapshot.head.incarnation) or staged.mark.seq > snapshot.head.seq:
                await self.drop()
                raise Moved
            upto = snapshot.head.seq if upto is None else upto  # a writer as fast as we are must not keep us here
            if not snapshot.entries or staged.mark.seq >= upto:
                return await self._with_blobs(replace(staged.mark, incarnation=snapshot.head.incarnation), staged.head)
            staged = await self._add(staged, snapshot.head, snapshot.entries)

    async def drop(self) -> None:
        """Remove what is staged, if anything is."""
        with suppress(SessionNotFound):
            await self.target.commit(self.place, commit(now(), erase=Erase("session")))

    async def _found(self, empty: Mark) -> Staged:
        seen = await look(self.target, self.place)
        if seen is None:
            return Staged(empty, None)
        if seen.mark is None or not seen.untouched or not seen.mark.names(empty.source, self.key):
            await self.drop()
            raise Moved
        return Staged(seen.mark, seen.head)

    async def _add(self, staged: Staged, source: Head, entries: list[Entry]) -> Staged:
        mark = staged.mark
        hides = mark.hides if mark.seq else source.hides  # at another count of hides in the end all of them are looked at again
        hidden = joined((*mark.hidden, *spans(entries)))
        mark = replace(mark, incarnation=source.incarnation, seq=entries[-1].seq, hides=hides, hidden=hidden)
        return await self._onto(mark, staged.head, entries=new_entries(entries), counts=counted(entries))

    async def _with_blobs(self, mark: Mark, head: Head | None) -> Staged:
        wanted, there = await names_at(self.source, self.key), await names_at(self.target, self.place)
        async for source, puts in new_blobs(self.source, self.key, wanted, self.target, self.place, there):
            if source.incarnation != mark.incarnation:
                raise Moved
            if puts:
                mark, head = await self._onto(mark, head, blobs=puts)
        return Staged(mark, head)

    async def _onto(self, mark: Mark, head: Head | None, **parts: Any) -> Staged:
        """One more commit to the staged session, with its mark."""
        made = head.version + 1 if head else 1
        parts["blobs"] = (*parts.get("blobs", ()), mark.blob(made))
        if head is None:
            parts |= {"create": Create(new_incarnation(), exclusive=True), "patch": HeadPatch(kind="staged", ttl=STAGED_SECONDS)}
        else:
            parts |= {"incarnation": head.incarnation, "expect": head.version}
        outcome = await self.target.commit(self.place, commit(now(), **parts))
        return Staged(replace(mark, made=made), outcome.head)
