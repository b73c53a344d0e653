"""The command line as a whole: its groups, its version, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup

import holdfast

from .. import HoldfastError, SessionExists, SessionNotFound, UsageError
from . import config, copy, db, keys, search, sessions
from .chat import chat
from .command import COMMON, CONTEXT, Terminal, command, help_alone, known_as, option
from .output import failed
from .serve import serve

USAGE, FAULT, INTERRUPTED = 2, 1, 130
_HINTS: dict[type[HoldfastError], str] = {
    SessionNotFound: "`holdfast sessions list` shows those there are",
    SessionExists: "choose another id",
}


class Root(TyperGroup):
    """The top of the command tree. Exit codes: 1 the store's fault, 2 the caller's, 130 interrupted."""

    def main(self, *_: Any, args: Sequence[str] | None = None, **__: Any) -> NoReturn:
        words = sys.argv[1:] if args is None else list(args)
        _at_the_edge(words, lambda: super(Root, self).main(words, "holdfast", standalone_mode=False))


class Alone(TyperCommand):
    """A command that is a program by itself, with the same exit codes."""

    def main(self, *_: Any, args: Sequence[str] | None = None, **__: Any) -> NoReturn:
        words = sys.argv[1:] if args is None else list(args)
        _at_the_edge(words, lambda: super(Alone, self).main(words, self.name, standalone_mode=False))


def _at_the_edge(words: Sequence[str], work: Callable[[], Any]) -> NoReturn:
    """Do the work of a process, and leave it: an error is one line and a code."""
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        code = _hush()
    except typer.Abort:  # Ctrl-C at a question
        code = INTERRUPTED
    except (HoldfastError, typer.TyperException, OSError) as error:
        failed(_name(error), _message(error), as_json="--json" in words)
        code = _code(error)
    if code == INTERRUPTED and sys.stderr.isatty():
        print(file=sys.stderr)  # the shell's prompt begins on a line of its own
    sys.exit(code or 0)


def _hush() -> int:
    """Whoever read our output has gone: say nothing more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAULT


def _name(error: Exception) -> str:
    return "UsageError" if isinstance(error, typer.TyperException) else type(error).__name__


def _message(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        where = getattr(error, "ctx", None)
        return error.format_message().rstrip(".") + (f"; see `{where.command_path} --help`" if where else "")
    if isinstance(error, OSError) and not isinstance(error, HoldfastError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return "; ".join([str(error), *(hint for kind, hint in _HINTS.items() if isinstance(error, kind))])


def _code(error: Exception) -> int:
    return USAGE if isinstance(error, UsageError | typer.TyperException) else FAULT


_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
app = typer.Typer(cls=Root, **_PLAIN)
command(app, "chat")(chat)
command(app, "serve")(serve)
app.add_typer(sessions.app, name="sessions")
app.add_typer(db.app, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
copy.register(app)
search.register(app)


@app.callback(invoke_without_command=True)
@known_as(CONTEXT, option("version", bool, False, "--version", help="Show the version and leave."), *COMMON)
def root(ctx: typer.Context, *, version: bool, **common: Any) -> None:
    """Durable sessions for AI agents: look at them, move them, look after their database."""
    if version:
        Terminal(**common).answer({"version": holdfast.__version__}, f"holdfast {holdfast.__version__}")
        raise typer.Exit
    help_alone(ctx)


def main() -> None:
    """The `holdfast` executable."""
    _prepare()
    app()


def alone(work: Callable[..., Any], name: str) -> None:
    """One command, as for `command`, as the executable `name`."""
    program = typer.Typer(**_PLAIN)
    command(program, name, cls=Alone)(work)
    _prepare()
    program()


def _prepare() -> None:
    signal.signal(signal.SIGINT, _interrupt)
    cast("TextIOWrapper[Any]", sys.stdout).reconfigure(errors="backslashreplace")  # a locale without a letter shows its escape


def _interrupt(*_: object) -> NoReturn:
    """A handler of our own keeps asyncio from taking Ctrl-C for itself, which would leave a prompt or a long read waiting."""
    raise KeyboardInterrupt
