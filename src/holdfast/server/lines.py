"""What a list of sessions shows beside their heads: the newest line of each, and whether its last run failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from .. import Entry, SessionInfo, Store
from ..backend import Key, ReadPlan, Snapshot, Window
from ..entries import MESSAGE, RUN
from ..large import restored
from ..rules import may_use
from ..runs import ERROR, event_of

Status = Literal["running", "waiting", "error", "idle"]
LINE = 200
"""Characters of a line at most."""
_WINDOW = Window(limit=8, kinds=(MESSAGE, RUN))
_AT_ONCE = 16
_ROLES = ("user", "assistant")


async def lines(store: Store, infos: Sequence[SessionInfo], user_id: str | None) -> list[tuple[str | None, Status]]:
    """The newest line and the status of each, one small read for each, a few of them at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(info: SessionInfo) -> tuple[str | None, Status]:
        async with gate:
            return await _line(store, info, user_id)

    return await asyncio.gather(*[one(info) for info in infos])


def status_of(info: SessionInfo, *, failed: bool = False) -> Status:
    """What a session is about at the moment; `failed` where its last run did."""
    return "running" if info.running else "waiting" if info.waiting else "error" if failed else "idle"


async def _line(store: Store, info: SessionInfo, user_id: str | None) -> tuple[str | None, Status]:
    key = Key(store.tenant, info.id)

    async def read(plan: ReadPlan) -> Snapshot | None:
        return await store.backend.read(key, plan)

    snapshot = await read(ReadPlan(entries=_WINDOW))
    if snapshot is None or not may_use(snapshot.head, user_id, not store.as_admin):
        return None, status_of(info)
    found = snapshot.entries or []
    spoken = next((entry for entry in reversed(found) if entry.kind == MESSAGE and _is_line(entry)), None)
    text = None if spoken is None else line_of((await restored(read, [spoken]))[0].message().text)
    return text, status_of(info, failed=_failed(found))


def _is_line(entry: Entry) -> bool:
    message = entry.message()
    return message.role in _ROLES and bool(message.text)


def line_of(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: 4 * LINE].split())
    return line if len(line) <= LINE else f"{line[: LINE - 1]}…"


def _failed(found: Sequence[Entry]) -> bool:
    newest = next((entry for entry in reversed(found) if entry.kind == RUN), None)
    return newest is not None and event_of(newest).status == ERROR
