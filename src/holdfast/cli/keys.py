"""`holdfast keys`: API keys for the server."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from .. import UsageError
from ..server.hashes import hash_of, new_key
from .command import Terminal, command, group

app = group("API keys for the server.")


@command(app, "new")
async def new(
    terminal: Terminal,
    *,
    role: Annotated[Literal["user", "admin"] | None, typer.Option(help="Without it: user, with --user; admin, without.")] = None,
) -> None:
    """Make a key for the server, of the --user and the --tenant you name, and show it this once.

    Only its hash goes into the configuration. Nothing is written anywhere. An admin sees everybody's sessions.
    """
    key, user = new_key(), terminal.user
    if role == "user" and user is None:
        raise UsageError("a key with the role user belongs to somebody: add --user ID")
    entry = _named(hash=hash_of(key), user=user, role=role or ("user" if user else "admin"), tenant=terminal.given_tenant)
    terminal.note("The key, which is shown this once and kept nowhere:")
    terminal.answer({"key": key, "entry": entry}, f"{key}\n")
    terminal.note("What goes into config.yaml, under server: auth: keys:")
    if not terminal.json:
        terminal.answer(None, "\n".join(f"{'- ' if name == 'hash' else '  '}{name}: {json.dumps(value)}" for name, value in entry.items()))


def _named(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
