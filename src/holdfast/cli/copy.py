"""`holdfast copy`: every session of a tenant from one store to another."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import Store, UsageError
from ..copying import Difference, Pair, Report, Tell, Verified, finish, verify
from ..copying import copy as copied
from .command import Terminal, command
from .output import Columns, console, counted, one_line, table

_PLAIN_SECONDS = 5.0
"""How often a line tells of progress where there is no terminal for a bar."""
_NAMED = 10


def register(app: typer.Typer) -> None:
    """Add the command to the top of the tree."""
    command(app, "copy")(copy)


async def copy(
    terminal: Terminal,
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store to copy from; it may be in use.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="DST", help="The store to copy to; made if need be.", show_default=False)],
    *,
    passes: Annotated[int, typer.Option(min=1, metavar="N", help="Go over the source at most so often, while it changes.")] = 10,
    compare: Annotated[bool, typer.Option("--verify/--no-verify", help="Read both sides whole in the end and compare them.")] = True,
    last: Annotated[bool, typer.Option("--finish", help="Then take out what copies are recognised by: this was the last time.")] = False,
) -> None:
    """Copy every session of a tenant to another store, and what has changed since the last time. Can be interrupted and repeated.

    Exit code 1: something was not copied, differs, or was still moving.
    """
    if terminal.user is not None or terminal.url is not None:
        raise UsageError("copy takes two stores, and everybody's sessions: leave out --user and --store")
    async with _opened(source, terminal) as here, _opened(target, terminal, create=True) as there:
        pair = Pair(here.backend, there.backend, terminal.tenant, _name(source, here))
        if pair.name == _name(target, there):
            raise UsageError("the two stores are one and the same")
        with _following(terminal) as tell:
            report = await copied(pair, passes=passes, tell=tell)
            verified = await verify(pair, tell=tell) if compare else None
            whole = _whole(report, verified)
            finished = await finish(pair, tell=tell) if last and whole else None
    document = {"source": pair.name, "tenant": pair.tenant, "copied": report, "verified": verified, "finished": finished}
    terminal.answer(document, _told(terminal, report, verified, finished))
    if last and not whole:
        terminal.note("not finished: copy again")
    if not whole:
        raise typer.Exit(1)


def _opened(url: str, terminal: Terminal, *, create: bool = False) -> Store:
    store = Store.open(url, tenant=terminal.tenant, as_admin=True)
    path = getattr(store.backend, "path", None)
    if not create and isinstance(path, str) and not Path(path).exists():
        raise UsageError(f"{path}: there is no such file")
    return store


def _name(url: str, store: Store) -> str:
    """What a copy remembers its source by: the file, or where the server is and a digest of the options; never a password."""
    path = getattr(store.backend, "path", None)
    if isinstance(path, str):
        return f"sqlite:///{Path(path).resolve()}"
    scheme, _, rest = url.partition("://")
    place, _, options = rest.rpartition("@")[2].partition("?")
    return f"{scheme}://{place}" + (f" ({blake2b(options.encode(), digest_size=4).hexdigest()})" if options else "")


def _whole(report: Report, verified: Verified | None) -> bool:
    lacking = report.moving or report.refused
    return not (lacking or (verified is not None and (verified.different or verified.moving)))


# --- what is said ----------------------------------------------------------------------------------------------------


def _told(terminal: Terminal, report: Report, verified: Verified | None, finished: int | None) -> Iterator[Any]:
    made = f"{report.made:,} made, {report.brought:,} brought up to date, {report.gone:,} taken away"
    yield f"{counted(report.sessions, 'session')} in {'1 pass' if report.passes == 1 else f'{report.passes} passes'}: {made}"
    if verified is not None:
        yield f"verified: {counted(verified.same, 'session')} the same on both sides"
    moving = sorted({*report.moving, *(verified.moving if verified else ())})
    if moving:
        yield f"{counted(len(moving), 'session')} still moving at the source, copy again for the newest: {_some(moving)}"
    wrong = _wrong(report, verified)
    if wrong:
        yield f"{counted(len(wrong), 'session')} not copied, or different:"
        yield table(Columns(("id", "why"), cut=("why",)), ({"id": it.session_id, "why": it.why} for it in wrong), terminal.out.width)
    if finished is not None:
        yield f"finished: {counted(finished, 'mark')} taken out"


def _wrong(report: Report, verified: Verified | None) -> list[Difference]:
    found = {it.session_id: it for it in (*(verified.different if verified else ()), *report.refused)}
    return [found[name] for name in sorted(found)]


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return ", ".join([*map(one_line, names[:_NAMED]), *more])


# --- progress --------------------------------------------------------------------------------------------------------


@contextmanager
def _following(terminal: Terminal) -> Generator[Tell]:
    """A bar on a terminal, a line now and then elsewhere; nothing with --json."""
    err = console(stderr=True)
    if terminal.json or not err.is_terminal:
        yield _Lines(terminal)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        shown = bars.add_task("listing", total=None)
        yield lambda what, done, total: bars.update(shown, description=what, completed=done, total=total)


class _Lines:
    """Tells of progress by notes: the end of every part, and where one takes long something in between."""

    def __init__(self, terminal: Terminal) -> None:
        self._note = terminal.note
        self._next = time.monotonic() + _PLAIN_SECONDS

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == total > 0 or time.monotonic() >= self._next:
            self._next = time.monotonic() + _PLAIN_SECONDS
            self._note(f"{what}: {done:,} of {counted(total, 'session')}")
