"""`holdfast serve`: agents and their sessions over HTTP, in one process or several."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import UsageError
from .command import Terminal
from .output import facts

if TYPE_CHECKING:
    from ..runtime.settings import Found, ServerSettings
    from ..server.process import Serve, Server

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODULE:OBJECT]...",
        show_default=False,
        help="Agents: desk:agent, path/to/desk.py:agent; a module or a file alone for all of its agents.",
    ),
]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, metavar="N", help="0: any that is free. [default: 8000]")]
Count = Annotated[int | None, typer.Option("--workers", min=1, max=256, metavar="N", help="Processes that serve. [default: 1]")]
Grace = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Time for runs when it is told to stop. [default: 20]")]
Worker = Annotated[str | None, typer.Option("--worker", hidden=True)]


async def serve(
    terminal: Terminal,
    targets: Targets = None,
    *,
    host: Host = None,
    port: Port = None,
    workers: Count = None,
    grace: Grace = None,
    worker: Worker = None,
) -> None:
    """Serve agents and their sessions over HTTP: the API, and the inbox, a page in which people see and lead the conversations.

    What is not said here is taken from the environment and from config.yaml; the store is --store, theirs, the first agent's own, or
    ./holdfast.db. Ctrl-C or SIGTERM stops it: runs are given their time, then handed over. SIGHUP replaces several workers one by one.
    """
    if terminal.user is not None:
        raise UsageError("--user is no option of the server: it acts for whoever calls it")
    found, asked = _asked(terminal, targets or [], {"host": host, "port": port, "workers": workers, "grace": grace})
    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")
    from ..server import process

    process.log_to_stderr()
    if worker is not None:
        await _work(found, asked, worker)
        return
    settings = process.server_settings(found, asked)
    process.check_exposed(settings)
    listening = process.bound(settings.host, settings.port)
    if settings.workers > 1:
        await _several(terminal, settings, listening)
        return
    runtime = process.set_up(found, asked)

    def ready(server: Server) -> None:
        _answer(terminal, settings, listening, process.about(runtime))

    await process.serve(runtime, listening, ready=ready)


def _asked(terminal: Terminal, targets: list[str], server: dict[str, Any]) -> tuple[Found, Serve]:
    from ..runtime.settings import read
    from ..server.process import Serve

    given = {name: value for name, value in server.items() if value is not None}
    return read(os.environ), Serve(targets=targets, store=terminal.url, tenant=terminal.given_tenant, server=given)


async def _work(found: Found, asked: Serve, wires: str) -> None:
    """One of several workers."""
    from ..server import process
    from ..server.workers import Wires, watch_parent

    its = Wires.parse(wires)
    runtime = process.set_up(found, asked)
    process.check_shared(runtime.settings.server, runtime.store)

    def ready(server: Server) -> None:
        watch_parent(its.parent, server.stop)
        its.say(process.about(runtime))

    await process.serve(runtime, socket.socket(fileno=its.listening), ready=ready)


async def _several(terminal: Terminal, settings: ServerSettings, listening: socket.socket) -> None:
    from ..server.workers import Workers

    # a worker reads these very words again, and the environment and the file as they are when it begins
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", *sys.argv[1:], "--worker"]
    workers = Workers(command, settings.workers, listening, lambda about: _answer(terminal, settings, listening, about))
    if code := await workers.run():
        raise typer.Exit(code)


def _answer(terminal: Terminal, settings: ServerSettings, listening: socket.socket, about: dict[str, Any]) -> None:
    """What whoever started it wants to know, once requests are answered."""
    url = _url(listening)
    more: dict[str, Any] = {
        "url": url,
        "inbox": f"{url}/" if about["inbox"] else None,
        "docs": f"{url}/openapi.json",
        "workers": settings.workers,
    }
    value = about | more
    shown: list[tuple[str, str | None]] = [
        ("inbox", value["inbox"]),
        ("API", url),
        ("described in", value["docs"]),
        ("store", value["store"]),
    ]
    shown += [("agents", ", ".join(about["agents"])), ("workers", str(settings.workers) if settings.workers > 1 else None)]
    terminal.answer(value, ["", facts(shown), ""])
    terminal.note("Ctrl-C stops it.")
    sys.stdout.flush()


def _url(listening: socket.socket) -> str:
    """Where a person on this machine finds it."""
    given, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(given, str(given))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
