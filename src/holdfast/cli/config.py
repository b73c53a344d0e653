"""`holdfast config`: what is set, where it was set, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from .. import Store, UsageError
from ..runtime.checks import check_jwt
from ..runtime.loading import check_there
from ..runtime.settings import Found, Jwt, known, read, shown
from . import output
from .command import Terminal, command, group

app = group("What is set: in the environment, and in config.yaml.")
File = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Instead of $HOLDFAST_CONFIG, or ./config.yaml if it exists.")]
DEFAULT = "default"


@command(app, "show")
async def show(terminal: Terminal, *, config: File = None) -> None:
    """Show every setting, its value, and where it was set. Passwords are stars."""
    found = read(os.environ, file=config)
    rows = rows_of(found)
    if terminal.json:
        terminal.answer(rows, "")
        return
    columns = output.Columns(("setting", "value", "set by"), cut=("value",))
    texts = [{"setting": row["name"], "value": text(row["value"]), "set by": row["source"]} for row in rows]
    terminal.out.print(output.table(columns, texts, terminal.out.width))


@command(app, "check")
async def check(terminal: Terminal, *, config: File = None) -> None:
    """Check the settings: an error names what is unknown or makes no sense, and where it was set."""
    found = read(os.environ, file=config)
    _check_whole(found)
    place = dict(shown(found.settings))["session.url"] or found.settings.session.type
    terminal.answer({"set": found.sources, "store": place}, f"{len(found.sources)} of {len(known())} settings are set; sessions in {place}")


def _check_whole(found: Found) -> None:
    """What can be told only of several settings together, or of what is there, as `holdfast serve` tells it: `UsageError`."""
    server, session = found.settings.server, found.settings.session
    if (jwt := server.auth.jwt) != Jwt():
        check_jwt(jwt)
    with _of(found, "session.url" if session.url else f"session.{session.type}"):
        store = Store.open(session.place())  # connects to nothing
    if find_spec("uvicorn") is not None:  # without the extra there is nothing that could serve
        _check_served(found, store)
    for target in found.settings.agents:
        with _of(found, "agents"):
            check_there(target)


def _check_served(found: Found, store: Store) -> None:
    from ..server.process import check_exposed, check_shared

    server = found.settings.server
    with _of(found, "server.cors" if "*" in server.cors else "server.host"):
        check_exposed(server)
    with _of(found, "server.workers"):
        check_shared(server, store)


@contextmanager
def _of(found: Found, name: str) -> Generator[None]:
    """Say of an error which setting it is about, and where that was set."""
    try:
        yield
    except UsageError as error:
        source = next((source for it, source in found.sources.items() if it.startswith(name)), DEFAULT)
        told = str(error)
        raise UsageError(f"{source}: {told if told.startswith(name) else f'{name}: {told}'}") from None


def rows_of(found: Found) -> list[dict[str, Any]]:
    """Each setting: its name, its value and its source."""
    return [{"name": name, "value": value, "source": found.sources.get(name, DEFAULT)} for name, value in shown(found.settings)]


def text(value: Any) -> str:
    """A value as it is written in a file."""
    return value if isinstance(value, str) else "" if value is None else output.readable(value)
