"""What every command shares: its options, the store they name, and where its answer goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import cached_property
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .. import Session, SessionNotFound, Store, UsageError
from ..runtime.settings import FILE, SessionSettings, read
from . import output

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])
Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, None]])

ENVIRONMENT = "HOLDFAST_STORE"
DEFAULT_FILE = "holdfast.db"
_SESSION = ("HOLDFAST_SESSION__", "AK_SESSION__")


def option(name: str, kind: Any, default: Any, *flags: str, **extra: Any) -> Parameter:
    """An option as a parameter; `extra` goes to `typer.Option`."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, typer.Option(*flags, **extra)])


CONTEXT = Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
COMMON = (
    option(
        "store",
        str | None,
        None,
        "--store",
        "-s",
        metavar="URL",
        help=f"The store, such as sqlite:///chat.db. Without it: ${ENVIRONMENT}, what is set, ./{DEFAULT_FILE} if it exists.",
    ),
    option("tenant", str | None, None, "--tenant", metavar="NAME", help="Whose sessions: nothing crosses tenants. [default: default]"),
    option(
        "user",
        str | None,
        None,
        "--user",
        metavar="ID",
        help="Act as this user. Without it you are an admin, who sees everybody's sessions.",
    ),
    option("json", bool, False, "--json", help="Answer in JSON on stdout, and errors in JSON on stderr."),
)
"""The options of every command, and of `holdfast` itself: `holdfast -s URL sessions list` works too."""


class Terminal:
    """What a command is given: whose call it is, which store it is about, and how to answer."""

    def __init__(self, *, store: str | None = None, tenant: str | None = None, user: str | None = None, json: bool = False) -> None:
        self.url = store
        self.given_tenant = tenant
        self.tenant = tenant or "default"
        self.user = user
        self.json = json

    @cached_property
    def out(self) -> Console:
        """What people read, on stdout."""
        return output.console()

    def store(self, *, create: bool = False) -> Store:
        """The store, still to be entered. `create`: a database file that isn't there is made instead of refused."""
        url, ttl = self._place()
        store = Store.open(url, tenant=self.tenant, as_admin=self.user is None, ttl=ttl)
        path = getattr(store.backend, "path", None)
        if not create and isinstance(path, str) and not Path(path).exists():
            raise UsageError(f"{path}: there is no such file; `holdfast db migrate` makes a store there")
        return store

    async def session(self, store: Store, session_id: str) -> Session:
        """The session, which must be there."""
        session = await store.get(session_id, user_id=self.user)
        if session is None:
            raise self.missing(session_id)
        return session

    def missing(self, session_id: str) -> SessionNotFound:
        whose = "" if self.user is None else f" for user {self.user!r}"
        return SessionNotFound(f"there is no session {session_id!r}{whose}")

    def answer(self, value: object, shown: str | Iterable[Any]) -> None:
        """The command's answer: `value` as a JSON document, or for people what is `shown`, text or renderables of Rich."""
        if self.json:
            output.write_json(value)
            return
        for item in (shown,) if isinstance(shown, str) else shown:
            self.out.print(output.safe(item) if isinstance(item, str) else item)

    def note(self, text: str, *, wrap: bool = True) -> None:
        """A remark beside the answer, on stderr; none with --json. `wrap=False` leaves a line whole, for somebody to copy."""
        if not self.json:
            output.console(stderr=True).print(output.safe(text), style="dim", soft_wrap=not wrap)

    def _place(self) -> tuple[str, float | None]:
        """The store's URL, and for how long what is begun in it is kept."""
        url = self.url or os.environ.get(ENVIRONMENT)
        if url is not None:
            return url, None
        if (where := settings()) is not None:
            self.tenant = self.given_tenant or where.tenant
            return where.place(), where.seconds()
        if not Path(DEFAULT_FILE).exists():
            raise UsageError(f"no store: name one with --store URL (such as sqlite:///chat.db) or in ${ENVIRONMENT}")
        return f"sqlite:///{DEFAULT_FILE}", None


def settings() -> SessionSettings | None:
    """Where the environment and config.yaml say that sessions are; None where they say nothing."""
    if not (os.environ.get("HOLDFAST_CONFIG") or Path(FILE).is_file() or any(name.startswith(_SESSION) for name in os.environ)):
        return None
    found = read(os.environ)
    return found.settings.session if any(name.startswith("session.") for name in found.sources) else None


def known_as(*parameters: Parameter) -> Callable[[F], F]:
    """Let Typer know a function that takes `**options` by these parameters."""

    def decorate(function: F) -> F:
        function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature asks for first
        return function

    return decorate


def command(group: typer.Typer, name: str, **extra: Any) -> Callable[[Work], Work]:
    """Add an async function to `group`: it is called with a `Terminal` and its own parameters, the common options are added to them.

    `extra` goes to Typer.
    """

    def register(work: Work) -> Work:
        own = list(signature(work, eval_str=True).parameters.values())[1:]

        @group.command(name, help=getdoc(work), **extra)
        @known_as(CONTEXT, *own, *COMMON)
        def run(ctx: typer.Context, **given: Any) -> None:
            outer = ctx.find_root().params
            common: dict[str, Any] = {it.name: given.pop(it.name) or outer[it.name] for it in COMMON}
            asyncio.run(work(Terminal(**common), **given))

        return work

    return register


def help_alone(ctx: typer.Context) -> None:
    """The callback of a group: without a command, show what there is."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def group(about: str) -> typer.Typer:
    """A group of commands about one noun."""
    made = typer.Typer(help=about)
    made.callback(invoke_without_command=True)(help_alone)
    return made
