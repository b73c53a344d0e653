"""`holdfast search`: what was said, found by words and by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import MissingExtra, UsageError
from .command import Terminal, command
from .output import Columns, moment, table, working

if TYPE_CHECKING:
    from ..recall import Hit

_HITS = Columns(("session", "at", "when", "who", "text"), right=("at",), cut=("session", "text"), spare=("when",))
_EXCERPT = 160


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "search")(search)


async def search(
    terminal: Terminal,
    query: Annotated[str, typer.Argument(metavar="QUERY", show_default=False)],
    *,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only in this session.")] = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The index, such as sqlite:///recall.db: it is brought up to date, and searched by meaning too."
            " Without it the store is read anew each time, and searched by words.",
        ),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="By words alone.")] = False,
    update: Annotated[bool, typer.Option("--update/--no-update", help="Bring the index up to date first.")] = True,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index anew, as for another model.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="At most so many.")] = 10,
) -> None:
    """Find what was said in all sessions, by words and by meaning."""
    from ..recall import Recall

    if index is None and (rebuild or not update):
        raise UsageError("--rebuild and --no-update are about an index that is kept: name it with --index URL")
    embed = None if words or index is None else _embedder(terminal)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(terminal.store())
        recall = await stack.enter_async_context(Recall(store, index or "memory://", embed))
        if update or rebuild:
            with working("indexing"):
                await recall.update(rebuild=rebuild)
        found = await recall.search(query, user_id=terminal.user, session_id=session, limit=limit)
    terminal.answer({"hits": found}, (table(_HITS, _rows(page, query), terminal.out.width) for page in [found] if page))
    if not found:
        terminal.note("nothing found")


def _embedder(terminal: Terminal) -> Any:
    """What gives vectors, where it is installed."""
    from ..recall import MiniLM

    try:
        return MiniLM()
    except MissingExtra as error:
        terminal.note(f"by words alone: {error}")
        return None


def _rows(hits: Sequence[Hit], query: str) -> list[dict[str, str]]:
    from ..recall.passages import excerpt

    return [
        {
            "session": it.session_id,
            "at": str(it.seq),
            "when": moment(it.time),
            "who": it.role,
            "text": excerpt(it.text, query, _EXCERPT),
        }
        for it in hits
    ]
