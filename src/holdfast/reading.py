"""What is read of a session: messages, runs, what they wait for, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from . import entries as kinds
from . import files, large, requirements, runs
from .backend import (
    BlobRange,
    ReadPlan,
    Window,
)
from .entries import INTERRUPTED, PAUSED, QUEUED, Entry
from .errors import InvalidValue, UsageError
from .files import FileInfo
from .handle import MOST, Handle
from .ids import check_id
from .large import Stored
from .messages import Blob, File, Message, Uri, system
from .requirements import Requirement
from .runs import RunInfo
from .state import StateChange, changes_in

_CHAT_ROLES = ("user", "assistant")


class Readings(Handle):
    """The verbs of a `Session` that change nothing."""

    # --- messages ---

    async def get_messages(self, *, last: int | None = None, before: int | None = None, light: bool = False) -> list[Message]:
        """The messages in order: all of them, or the newest `last` (before seq `before`), tool calls and system messages included.

        The instructions of an agent's runs are shown as a system message where a run has others than the one before it.
        `light`: large values are left out, as in `entries`.
        """
        check_numbers(last=last, before=before)
        told: list[Entry] = []
        step = None if last is None else 2 * last + 8
        while True:
            page = await self.entries(last=step, before=told[0].seq if told else before, kinds=(kinds.MESSAGE, kinds.RUN), light=True)
            told = page + told
            if last is None or len(page) < (step or 0) or sum([entry.kind == kinds.MESSAGE for entry in told]) > last:
                break
        shown = list(runs.with_instructions(told))
        texts = await self._instructions({it for it in shown if isinstance(it, str)})
        messages = [texts.get(it, system("")) if isinstance(it, str) else it.message() for it in shown]
        messages = messages if last is None else messages[max(len(messages) - last, 0) :]
        return messages if light else await self.whole(messages)

    async def _instructions(self, keys: set[str]) -> dict[str, Message]:
        """The instructions stored under these keys, as system messages."""
        if not keys:
            return {}
        wanted = BlobRange(namespace=kinds.INSTRUCTIONS, keys=tuple(sorted(keys)))
        found = (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or []
        return {blob.key: system((blob.data or b"").decode()) for blob in found}

    async def get_chat_history(self, *, last: int | None = None) -> list[Message]:
        """What user and assistant said to each other: no tools, no instructions, no empty messages."""
        check_numbers(last=last)
        said: list[Message] = []
        before: int | None = None
        step = None if last is None else max(4 * last, 16)
        while True:
            page = await self.entries(last=step, before=before, kinds=(kinds.MESSAGE,), light=True)
            messages = [message for message in (entry.message() for entry in page) if message.role in _CHAT_ROLES and _says(message)]
            said = messages + said
            if last is None or len(page) < (step or 0) or len(said) >= last:
                return await self.whole(said if last is None else said[max(len(said) - last, 0) :])
            before = page[0].seq

    async def entries(
        self,
        *,
        last: int | None = None,
        first: int | None = None,
        after: int = 0,
        before: int | None = None,
        kinds: tuple[str, ...] = (),
        run_id: str | None = None,
        hidden: bool = False,
        light: bool = False,
    ) -> list[Entry]:
        """Records of the log in order: the newest `last` or the `first` with after < seq < before, of the named kinds and run.

        `light`: large texts, media and results of messages are left out; `whole` brings them in. Otherwise they cost one more read.
        """
        check_numbers(last=last, first=first, after=after, before=before)
        if last is not None and first is not None:
            raise UsageError("entries takes either last=N or first=N")
        if isinstance(kinds, str):
            raise InvalidValue(f"kinds={kinds!r} is a string: give a tuple, ({kinds!r},)")
        limit = last if first is None else first
        window = Window(after=after, before=before, limit=limit, newest=first is None, kinds=kinds, run_id=run_id, hidden=hidden)
        found = (await self._read(ReadPlan(state_since=self.cells.synced, entries=window))).entries or []
        return found if light else await self.whole(found)

    async def whole(self, items: Sequence[Stored]) -> list[Stored]:
        """Messages or entries of this session that were read light, with their large values; what is whole stays as it is, unread.

        A read for every 8 MiB, none where nothing was left out. What the handle knows of the session stays as it was.
        """
        return await large.restored(self._peek, items)

    async def get_summary(self) -> str | None:
        """What the newest summary says of the older part of the conversation; None while there is none, or it was rewound."""
        newest = await self.entries(last=1, kinds=(kinds.SUMMARY,))
        return str(newest[0].data()["text"]) if newest else None

    # --- runs ---

    async def runs(self, *, last: int = 20) -> list[RunInfo]:
        """The newest `last` runs in the order they began."""
        check_numbers(last=last)
        told: list[Entry] = []
        page: list[Entry] | None = None
        while page is None or (page and len(page) == 4 * last and len({entry.run_id for entry in told}) <= last):
            page = await self.entries(last=4 * last, before=told[0].seq if told else None, kinds=(kinds.RUN,))
            told = page + told
        found = self.folded(told)[-last:] if last else []
        if self._seen.hides and any(run.status in (INTERRUPTED, QUEUED) for run in found):
            found = [await self.get_run(run.id) or run for run in found]
        return found

    async def get_run(self, run_id: str) -> RunInfo | None:
        """One run by its id, or None; also one that was rewound."""
        told = await self.entries(kinds=(kinds.RUN,), run_id=check_id(run_id, "run id"), hidden=True)
        return self.folded(told)[-1] if told else None

    async def run_log(self, run_id: str, *, light: bool = False) -> tuple[RunInfo | None, list[Entry]]:
        """One run by its id, or None, with everything recorded under it, hidden entries included; `light` as in `entries`."""
        found = await self.entries(run_id=check_id(run_id, "run id"), hidden=True, light=light)
        told = self.folded([entry for entry in found if entry.kind == kinds.RUN])
        return (told[-1] if told else None), found

    def folded(self, told: list[Entry]) -> list[RunInfo]:
        """The runs that run entries tell of, as they are while the claim is as this handle has last seen it.

        One that was queued where this was forked from is begun there: here it reads as interrupted.
        """
        found = runs.fold(told, self._seen.claim)
        copied = set[str | None]() if self._seen.origin is None else {it.run_id for it in told if it.version == 1}
        return [replace(run, status=INTERRUPTED) if run.status == QUEUED and run.id in copied else run for run in found]

    async def requirements(self, *, members: bool = False) -> list[Requirement]:
        """What paused runs of this session wait for, in the order it was asked.

        What a member of a team waits for in this very session, and its team for it, is listed once: as the team's. `members`: as both.
        """
        told, paused = await self._waits()
        theirs = set[str]() if members else _passed_on(told, paused)
        return [it for it in told.open if it.run_id in paused and it.id not in theirs]

    async def passed_on(self, *, decided: bool = False) -> set[str]:
        """The ids of members' requirements that paused runs of this session have passed on: they are decided here.

        `decided`: only those that have been, while others of the same run are open.
        """
        told, paused = await self._waits()
        return _passed_on(told, paused, told.decided.keys() if decided else told.asked.keys())

    async def _waits(self) -> tuple[requirements.Needs, set[str]]:
        """What runs have asked for, and those of them that are paused. What came with a fork is decided where it was asked."""
        found = await self.entries(kinds=(kinds.REQUIREMENT, kinds.DECISION))
        told = requirements.told(
            [it for it in found if self._seen.origin is None or it.version > 1]
        )  # a fork's first commit are its copies
        asking = {it.run_id for it in told.open}
        return told, {id for id in asking if (run := await self.get_run(id)) is not None and run.status == PAUSED}

    # --- files ---

    async def get_file(self, name: str) -> bytes:
        """The bytes of a file; `FileNotFound` where there is none with this name."""
        wanted = BlobRange(namespace=kinds.FILES, keys=(files.check_name(name),))
        return files.data_of(name, (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(wanted,)))).blobs or [])

    async def list_files(self) -> list[FileInfo]:
        """The files of the session by their names, without reading them."""
        found = (await self._read(ReadPlan(state_since=self.cells.synced, blobs=(files.LISTED,)))).blobs or []
        return [files.info_of(blob) for blob in found]

    # --- all ---

    async def state_history(self, key: str | None = None, *, last: int = 50) -> list[StateChange]:
        """The newest changes of the state (of one key), in order, as far as a store with `state_history=True` wrote them."""
        check_numbers(last=last)
        found: list[StateChange] = []
        before: int | None = None
        while len(found) < last:
            page = await self.entries(last=max(last, 16), before=before, kinds=(kinds.STATE,))
            told = [change for entry in page for change in changes_in(entry)]
            found = [it for it in told if key in (None, it.key)] + found
            if len(page) < max(last, 16):
                break
            before = page[0].seq
        return found[max(len(found) - last, 0) :]

    async def refresh(self) -> None:
        """Bring the handle up to date. Containers taken from the state before keep their changes; unchanged ones are read anew."""
        await self._read(ReadPlan(state_since=self.cells.synced))
        self.cells.detach()


def _passed_on(told: requirements.Needs, paused: set[str], among: Iterable[str] | None = None) -> set[str]:
    asked = [told.asked[id] for id in (told.asked if among is None else among) if id in told.asked]
    return {it.via.requirement for it in asked if it.via is not None and it.run_id in paused}


def _says(message: Message) -> bool:
    """Whether there is anything in it to read or to look at."""
    return bool(message.text) or any(isinstance(part, Blob | Uri | File) for part in message.parts)


def check_numbers(**given: int | None) -> None:
    """Each is left out or a whole number that a database can hold; `InvalidValue` names the one that isn't."""
    for name, value in given.items():
        if value is not None and not (type(value) is int and 0 <= value <= MOST):
            raise InvalidValue(f"{name}={value!r:.80}: give a whole number from 0 to {MOST}, or leave it out")
