"""`holdfast sessions`: look at sessions, change them, move them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer

from .. import Entry, InvalidValue, Session, SessionGone, SessionInfo, Store, Unsupported, UsageError
from ..backend import Watch
from . import as_sent as sent
from .command import Terminal, command, group
from .output import counted, one_line, reading, replacing, safe_json, working
from .transcript import TOLD, Transcript, record
from .views import header, overview, run_table, state_table, stored

app = group("Look at sessions, change them, move them.")

SessionId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
SessionIds = Annotated[list[str], typer.Argument(metavar="ID", show_default=False)]
Full = Annotated[bool, typer.Option("--full", help="Show long tool calls and results whole.")]


# --- list ------------------------------------------------------------------------------------------------------------


@command(app, "list")
async def list_(
    terminal: Terminal,
    *,
    user_id: Annotated[str | None, typer.Option(metavar="ID", help="Only this user's.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this in their name, in any case.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those where a human has to decide.")] = False,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only those updated after this time, in ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only those updated before this time.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only those with this in their metadata; VALUE is JSON or plain text.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after an earlier page.")] = None,
) -> None:
    """List sessions, the newest first."""
    if terminal.user is not None and user_id not in (None, terminal.user):
        raise UsageError(f"as user {terminal.user!r} you see your own sessions only: leave out --user to look for {user_id!r}'s")
    wanted: dict[str, Any] = {
        "user_id": user_id or terminal.user,
        "name": name,
        "waiting": waiting or None,
        "updated_after": _time("--since", since),
        "updated_before": _time("--until", until),
        "metadata": dict(map(_pair, meta or ())),
    }
    async with terminal.store() as store:
        found, cursor = await _filled(store, wanted, limit, cursor)
    terminal.answer({"sessions": found, "cursor": cursor}, (overview(page, terminal.out.width) for page in [found] if page))
    if not found:
        terminal.note("no sessions")
    if cursor is not None:
        terminal.note(f"there are more: --cursor {cursor}")


async def _filled(store: Store, wanted: dict[str, Any], limit: int, cursor: str | None) -> tuple[list[SessionInfo], str | None]:
    """One full page, put together of short ones, and the cursor of the next."""
    found: list[SessionInfo] = []
    while True:
        page = await store.list(**wanted, limit=limit - len(found), cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None or len(found) >= limit:
            return found, cursor


def _time(option: str, text: str | None) -> datetime | None:
    """A time without a zone is one of whoever asks."""
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {text!r}: write a time such as 2026-11-20, '2026-11-20 08:00' or 2026-11-20T08:00Z") from None


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--meta {text!r}: write KEY=VALUE")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value


# --- show ------------------------------------------------------------------------------------------------------------


@command(app, "show")
async def show(
    terminal: Terminal,
    session_id: SessionId,
    *,
    last: Annotated[int, typer.Option(min=1, metavar="N", help="Only the newest so many entries.")] = 20,
    hidden: Annotated[bool, typer.Option("--hidden", help="Show those too that were rewound, popped or replaced.")] = False,
    state: Annotated[bool, typer.Option("--state", help="Show its state and its cache too.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Show its newest runs too.")] = False,
    as_sent: Annotated[
        str | None,
        typer.Option("--as-sent", metavar="RUN", help="Show instead what this run (an id, its beginning, or `last`) sent to the model."),
    ] = None,
    full: Full = False,
) -> None:
    """Show one session: what it is and what was said."""
    async with terminal.store() as store:
        session = await terminal.session(store, session_id)
        if as_sent is not None:
            await sent.answer(terminal, store, session, as_sent, full=full)
            return
        entries = await session.entries(last=last + 1, kinds=TOLD, hidden=hidden)
        document: dict[str, Any] = {"session": session.info, "entries": [record(entry) for entry in entries[-last:]]}
        if state:
            document |= {"state": stored(session.state), "cache": stored(session.get_non_volatile_cache())}
        if runs:
            document["runs"] = await session.runs()
    terminal.answer(document, _page(terminal, document, entries, last, full))


def _page(terminal: Terminal, document: dict[str, Any], entries: list[Entry], last: int, full: bool) -> Iterator[Any]:
    yield header(document["session"])
    if "state" in document:
        yield from ("\nstate", state_table(document["state"]), "\ncache", state_table(document["cache"]))
    if "runs" in document:
        yield from ("\nruns", run_table(document["runs"], terminal.out.width))
    yield ""
    if len(entries) > last:
        yield f"... {counted(entries[1].seq - 1, 'entry')} above, --last N shows more"
    transcript = Transcript(terminal.out, full=full)
    for entry in entries[-last:]:
        yield from transcript.lines(entry)


@command(app, "tail")
async def tail(
    terminal: Terminal,
    session_id: SessionId,
    *,
    last: Annotated[int, typer.Option(min=1, metavar="N", help="Begin with the newest so many entries.")] = 10,
    full: Full = False,
) -> None:
    """Follow a session as it grows, until Ctrl-C. With --json: one line for each entry."""
    transcript = Transcript(terminal.out, full=full)
    async with terminal.store() as store:
        session = await terminal.session(store, session_id)
        async for entry in _followed(store, session, last):
            terminal.answer(record(entry), transcript.lines(entry))


async def _followed(store: Store, session: Session, last: int) -> AsyncIterator[Entry]:
    """The newest entries, then each new one; `SessionGone` when the session is."""
    backend = store.backend
    if not (backend.capabilities.watch and isinstance(backend, Watch)):
        raise Unsupported("this store can't watch a session: repeat `holdfast sessions show` instead")
    seq = 0
    for entry in await session.entries(last=last, kinds=TOLD):
        seq = entry.seq
        yield entry
    async for _ in backend.watch(session.key, session.version):
        for entry in await session.entries(after=seq, kinds=TOLD):
            seq = entry.seq
            yield entry
    raise SessionGone(f"session {session.id!r} was deleted or has expired")


# --- change ----------------------------------------------------------------------------------------------------------


@command(app, "rename")
async def rename(
    terminal: Terminal, session_id: SessionId, name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
) -> None:
    """Give a session a name for people; an empty NAME takes it away."""
    async with terminal.store() as store:
        session = await terminal.session(store, session_id)
        await session.rename(name or None)
    terminal.answer(session.info, f"{session_id} is named {one_line(name)}" if name else f"{session_id} has no name")


@command(app, "fork")
async def fork(
    terminal: Terminal,
    session_id: SessionId,
    new: Annotated[str | None, typer.Argument(metavar="NEW", help="The new id; made up if left out.", show_default=False)] = None,
    *,
    at: Annotated[int | None, typer.Option(min=1, metavar="SEQ", help="Copy up to this entry only.")] = None,
) -> None:
    """Copy a session under a new id. The copy remembers where it came from; the two share nothing."""
    async with terminal.store() as store:
        forked = await (await terminal.session(store, session_id)).fork(new, at=at)
    terminal.answer(forked.info, f"forked {session_id} to {forked.id}")


@command(app, "delete")
async def delete(
    terminal: Terminal,
    session_ids: SessionIds,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete sessions and everything they hold."""
    async with terminal.store() as store:
        await _all_there(terminal, store, session_ids)
        if not yes:
            _ask(session_ids)
        for session_id in session_ids:
            await store.delete(session_id, user_id=terminal.user)
    terminal.answer({"deleted": session_ids}, (f"deleted {session_id}" for session_id in session_ids))


async def _all_there(terminal: Terminal, store: Store, session_ids: list[str]) -> None:
    for session_id in session_ids:
        if not await store.has(session_id, user_id=terminal.user):
            raise terminal.missing(session_id)


def _ask(session_ids: list[str]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("deleting can't be undone: say --yes where there is no terminal to ask on")
    if not typer.confirm(f"Delete {', '.join(map(one_line, session_ids))} for good?", err=True):
        raise typer.Exit(1)


# --- move ------------------------------------------------------------------------------------------------------------


@command(app, "export")
async def export(
    terminal: Terminal,
    session_ids: SessionIds,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, whole or not at all.")] = None,
) -> None:
    """Write sessions with everything they hold as JSON Lines, one after the other."""
    async with terminal.store() as store:
        await _all_there(terminal, store, session_ids)
        if output is None:
            await _export(terminal, store, session_ids, sys.stdout.buffer)
            return
        with replacing(output) as file:
            lines = await _export(terminal, store, session_ids, file)
    terminal.answer({"file": str(output), "sessions": session_ids, "lines": lines}, f"wrote {counted(lines, 'line')} to {output}")


async def _export(terminal: Terminal, store: Store, session_ids: list[str], file: IO[bytes]) -> int:
    """How many lines. They are written as they are stored, but made safe for somebody's eyes."""
    seen = file.isatty()
    lines = 0
    for session_id in session_ids:
        async for line in store.export(session_id, user_id=terminal.user):
            file.write((safe_json(line) if seen else line).encode() + b"\n")
            lines += 1
    return lines


@command(app, "import")
async def import_(
    terminal: Terminal,
    file: Annotated[typer.FileBinaryRead, typer.Argument(metavar="FILE", help="What export wrote; - is stdin.", show_default=False)],
    *,
    id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="Another id than the exported one.")] = None,
) -> None:
    """Make sessions again from an export: all of them, or none when anything is wrong. Makes the database file if need be."""
    with reading(file, "reading") as followed:
        exports = _split(_text(followed))
    if id is not None and len(exports) > 1:
        raise UsageError(f"--id names one session, {file.name} holds {len(exports)}")
    made: list[SessionInfo] = []
    async with terminal.store(create=True) as store, AsyncExitStack() as undo:
        for lines in exports:
            with working("storing"):
                session = await store.import_(lines, session_id=id, user_id=terminal.user)
            undo.push_async_callback(store.delete, session.id, user_id=terminal.user)
            made.append(session.info)
        undo.pop_all()
    terminal.answer({"sessions": made}, (f"imported {it.id}: {counted(it.counts.messages, 'message')}" for it in made))


def _text(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise InvalidValue(f"line {number}: not UTF-8 text, so not an export") from None


def _split(lines: Iterable[str]) -> list[list[str]]:
    """The lines of each session: every one begins with its head."""
    exports: list[list[str]] = [[]]
    for line in lines:
        if exports[-1] and line.startswith('{"holdfast":'):
            exports.append([])
        exports[-1].append(line)
    return exports
