"""`holdfast chat`, and `CLI.main()`: talk to an agent in a session that stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import Store, UsageError
from ..runtime import loading
from ..runtime.stores import lasts
from .command import DEFAULT_FILE, ENVIRONMENT, Terminal, settings
from .output import working

if TYPE_CHECKING:
    from .. import Agent

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:OBJECT]",
        show_default=False,
        help="An Agent: desk:agent, path/to/desk.py:agent; the only one of a module: desk.py.",
    ),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Talk to a model without an agent of your own, such as openai:gpt-5.2.")]
Instructions = Annotated[str | None, typer.Option(metavar="TEXT", help="With --model: its instructions.")]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="With --model: a service that speaks OpenAI's protocol. openai:NAME asks it by Responses, NAME by Chat Completions.",
    ),
]
SessionId = Annotated[str | None, typer.Option(metavar="ID", help="Go on in this session, or begin it. Without it: a new one.")]
Last = Annotated[bool, typer.Option("--last", help="Go on in the session that was used last.")]
Which = Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Which one, where there are several.")]


async def chat(
    terminal: Terminal,
    target: Target = None,
    *,
    model: Model = None,
    instructions: Instructions = None,
    base_url: BaseUrl = None,
    agent: Which = None,
    session: SessionId = None,
    last: Last = False,
) -> None:
    """Talk to an agent, in a session that stays.

    Its answers are shown as they come; /help lists what else there is. A line from a pipe is a turn. The store is --store, the agent's own,
    or as with the other commands; ./holdfast.db is made if need be.
    """
    if (target is None) == (model is None):
        raise UsageError("say whom to talk to: MODULE:OBJECT, or --model NAME; see `holdfast chat --help`")
    if model is None and (instructions or base_url):
        raise UsageError("--instructions and --base-url go with --model: an agent of your own has its own")
    found = loading.found(target, agent) if target is not None else loading.made(model or "", instructions, base_url)
    given = {"--model": model, "--instructions": instructions, "--base-url": base_url, "--agent": agent}
    words = ["holdfast", "chat", *([target] if target else []), *_words(given)]
    await _talk(terminal, found, found.name or target or model or "", words, session, last=last)


def own(names: Mapping[str, Any]) -> Any:
    """The command of `CLI.main()`: to talk to the agents among `names`, those of the calling module."""

    async def talk(terminal: Terminal, *, agent: Which = None, session: SessionId = None, last: Last = False) -> None:
        """Talk to an agent, in a session that stays.

        Its answers are shown as they come; /help lists what else there is. A line from a pipe is a turn.
        """
        place = Path(str(names.get("__file__") or "this module")).name
        found = loading.chosen(names, agent, place)
        words = ["python", sys.argv[0], *_words({"--agent": agent})]
        await _talk(terminal, found, found.name or place, words, session, last=last)

    return talk


def _words(given: Mapping[str, str | None]) -> Sequence[str]:
    return [word for name, value in given.items() if value is not None for word in (name, value)]


async def _talk(terminal: Terminal, agent: Agent, title: str, words: Sequence[str], session_id: str | None, *, last: bool) -> None:
    """The conversation; exit code 1 when a turn of a piped one failed."""
    from .conversation import Conversation

    if session_id is not None and last:
        raise UsageError("give either --session or --last")
    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # nothing but the conversation is shown
    common = {"--store": terminal.url, "--tenant": terminal.given_tenant, "--user": terminal.user}
    async with _store(terminal, agent) as store:
        agent.store = store
        talk = Conversation(terminal, store, agent, title, [*words, *_words(common)])
        await talk.enter(await _last(terminal, store) if last else session_id or agent.session_id)
        if not await talk.talk():
            raise typer.Exit(1)


def _store(terminal: Terminal, agent: Agent) -> Store:
    """--store; the agent's own, seen as this caller; or where the other commands look, made there if need be."""
    own = agent.store
    if terminal.url is None and lasts(own.backend):
        return Store(own.backend, tenant=terminal.given_tenant or own.tenant, as_admin=terminal.user is None, ttl=own.ttl)
    if terminal.url is None and ENVIRONMENT not in os.environ and settings() is None:
        terminal.url = f"sqlite:///{DEFAULT_FILE}"
    return terminal.store(create=True)


async def _last(terminal: Terminal, store: Store) -> str:
    """The conversation that was used last. Lists are by creation, so all are looked at."""
    newest, when = None, datetime.fromtimestamp(0, UTC)
    with working("looking for the last session"):
        async for it in store.sessions(user_id=terminal.user):
            if it.kind == "session" and it.parent is None and it.updated_at > when:
                newest, when = it.id, it.updated_at
    if newest is None:
        raise UsageError("there is no session to go on in: leave out --last to begin one")
    return newest
