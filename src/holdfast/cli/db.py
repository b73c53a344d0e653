"""`holdfast db`: how the database is, and what it needs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

from .. import Store, Unsupported
from ..backend import Maintenance
from .command import Terminal, command, group
from .output import counted, facts, size, working

app = group("Look after the database.")

_BATCH = 100
"""Sessions asked for at a time: a backend may remove them in one transaction, and others write in between."""


def _maintenance(store: Store) -> Maintenance:
    if not isinstance(store.backend, Maintenance):
        raise Unsupported("this store tells nothing about itself")
    return store.backend


@runtime_checkable
class Creates(Protocol):
    """A backend whose database has something to be made before its first use."""

    async def create(self) -> list[str]:
        """Make what isn't there yet: what was done, in words."""
        ...


@command(app, "create")
async def create(terminal: Terminal) -> None:
    """Make what the database must have before its first use: DynamoDB's table. Where it is there already, nothing is done."""
    async with AsyncExitStack() as stack:
        backend = terminal.store(create=True).backend
        backend = getattr(backend, "inner", backend)  # what is made is made once, and needs no second try
        stack.push_async_callback(backend.close)
        if not isinstance(backend, Creates):
            terminal.answer({"done": []}, "nothing to create: this store makes what it needs at its first use")
            return
        with working("making the table"):
            done = await backend.create()
    terminal.answer({"done": done}, done or "nothing to create: everything is there")


@command(app, "status")
async def status(terminal: Terminal) -> None:
    """Show where the store is, its schema, its size and what it holds."""
    told = await _maintenance(terminal.store()).status()
    terminal.answer(told, [facts((name.replace("_", " "), _shown(name, value)) for name, value in told.items())])


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return size(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


@command(app, "migrate")
async def migrate(terminal: Terminal) -> None:
    """Bring the database's schema up to this version of Holdfast; make it where there is none yet."""
    before, after = await terminal.store(create=True).backend.migrate()
    if before == after:
        told = f"schema {after}: up to date"
    else:
        told = f"schema {before} -> {after}" if before else f"made a store with schema {after}"
    terminal.answer({"before": before, "after": after}, told)


@command(app, "sweep")
async def sweep(
    terminal: Terminal,
    *,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many. Without it: all there are.")] = None,
) -> None:
    """Remove what has expired from the database: sessions of every tenant, with everything they hold."""
    removed = 0
    async with terminal.store() as store:
        with working("removing what has expired"):
            while batch := _BATCH if limit is None else min(_BATCH, limit - removed):
                removed += (found := await store.sweep(limit=batch))
                if found < batch:
                    break
    terminal.answer({"removed": removed}, f"removed {counted(removed, 'expired session')}")


@command(app, "check")
async def check(terminal: Terminal) -> None:
    """Read the whole database and list everything that is wrong with it; exit code 1 if something is."""
    async with terminal.store() as store:
        with working("checking every session"):
            problems = await _maintenance(store).check()
    terminal.answer({"ok": not problems, "problems": problems}, problems or "ok")
    if problems:
        terminal.note(counted(len(problems), "problem"))
        raise typer.Exit(1)
