"""What a run reads of its session's past: one page comes with its first commit, more is read only where the history asks for it."""

from __future__ import annotations

from .. import entries as kinds
from ..entries import QUEUED, Entry
from ..runs import fold
from ..session import Session
from .history import DEEP_PAGE, History, Past, choose
from .summaries import has_summary


async def past_of(session: Session, page: list[Entry], history: History, own: set[str | None]) -> Past:
    """The past to send: out of the newest `page`, and of what is before it while the history wants more.

    A summary that is not in the page costs one request; the runs between the two are not looked at, unless a bound says so.
    """
    entries, whole = page, len(page) < history.page
    older: Entry | None = None
    sought = history.summaries is None
    while True:
        past, more = choose(entries, history, own, whole=whole, older=older, left=await _left(session, entries))
        if more:
            before = await session.entries(last=DEEP_PAGE, before=entries[0].seq, kinds=history.kinds, light=True)
            entries, whole = before + entries, len(before) < DEEP_PAGE
        elif sought or whole or has_summary(entries):
            return past
        else:
            older = next(iter(await session.entries(last=1, before=entries[0].seq, kinds=(kinds.SUMMARY,))), None)
            sought = True


async def _left(session: Session, entries: list[Entry]) -> set[str]:
    """The runs that only seem to wait for their turn: what came after it was rewound, or is not in this fork."""
    if not session.hides and session.info.origin is None:
        return set()
    seeming = fold([it for it in entries if it.kind == kinds.RUN], None)
    found = {run.id: await session.get_run(run.id) for run in seeming if run.status == QUEUED}
    return {id for id, run in found.items() if run is None or run.status != QUEUED}
