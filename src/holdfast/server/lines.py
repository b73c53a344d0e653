"""What is shown of sessions beside their heads: the newest line of each, how its last run ended, how an unnamed one begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from .. import Entry, SessionInfo, Store
from ..backend import Head, Key, ReadPlan, Snapshot, Window
from ..entries import ERROR, MESSAGE, RUN, RUNNING
from ..ids import now
from ..large import restored
from ..rules import may_use
from ..runs import event_of

Status = Literal["running", "waiting", "error", "interrupted", "idle"]
Read = Callable[[ReadPlan], Awaitable[Snapshot | None]]
LINE = 200
"""Characters of a line at most."""
_WINDOW = Window(limit=8, kinds=(MESSAGE, RUN))
_FIRST = Window(after=0, newest=False, limit=3, kinds=(MESSAGE,))
_AT_ONCE = 16
_ROLES = ("user", "assistant")


Line = tuple[str | None, Status, str | None]
"""What was said last, the status, and what a person said first in a session without a name."""


async def lines(store: Store, infos: Sequence[SessionInfo], user_id: str | None) -> list[Line]:
    """The lines and the status of each, one small read for each (two for a long one without a name), a few of them at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(info: SessionInfo) -> Line:
        async with gate:
            return await _line(store, info, user_id)

    return await asyncio.gather(*[one(info) for info in infos])


def status_of(info: SessionInfo, ended: Status = "idle") -> Status:
    """What a session is about at the moment; `ended`: how its last run did, which counts while nothing goes on."""
    return "running" if info.running else "waiting" if info.waiting else ended


async def _line(store: Store, info: SessionInfo, user_id: str | None) -> Line:
    key = Key(store.tenant, info.id)

    async def read(plan: ReadPlan) -> Snapshot | None:
        return await store.backend.read(key, plan)

    snapshot = await read(ReadPlan(entries=_WINDOW))
    if snapshot is None or not may_use(snapshot.head, user_id, not store.as_admin):
        return None, status_of(info), None
    found = snapshot.entries or []
    spoken = next((entry for entry in reversed(found) if entry.kind == MESSAGE and _is_line(entry)), None)
    status = status_of(info, _ended(snapshot.head, found))
    if info.name is None and len(found) == _WINDOW.limit:
        begun = await read(ReadPlan(entries=_FIRST))
        found = (begun and begun.entries) or []
    first = None if info.name else next((it for it in found if it.kind == MESSAGE and it.message().role == "user"), None)
    return await _text(read, spoken), status, await _text(read, first)


async def _text(read: Read, entry: Entry | None) -> str | None:
    return None if entry is None else line_of((await restored(read, [entry]))[0].message().text)


def _is_line(entry: Entry) -> bool:
    message = entry.message()
    return message.role in _ROLES and bool(message.text)


def line_of(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: 4 * LINE].split())
    return line if len(line) <= LINE else f"{line[: LINE - 1]}…"


def _ended(head: Head, found: Sequence[Entry]) -> Status:
    """`interrupted` where nobody drives the newest run, and nothing can have hidden its end: a fork leaves it behind, a rewind hides it."""
    newest = next((entry for entry in reversed(found) if entry.kind == RUN), None)
    status = None if newest is None else event_of(newest).status
    if status == ERROR:
        return "error"
    if newest is None or status != RUNNING or head.hides or (head.claim is not None and head.claim.seems_alive(now())):
        return "idle"
    return "idle" if head.origin is not None and newest.version == 1 else "interrupted"
