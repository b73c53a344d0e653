"""What a line that begins with / does in `holdfast chat`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from .. import Session, SessionInfo, UsageError
from ..entries import CANCELLED, ERROR, INTERRUPTED, MESSAGE, PAUSED, RUN, RUNNING, Entry
from .lines import interruptible
from .output import Columns, ago, counted, facts, one_line, table, working
from .views import state_table, stored

if TYPE_CHECKING:
    from .conversation import Conversation

UNFINISHED = (ERROR, CANCELLED, INTERRUPTED, PAUSED)
"""How a run has ended with which one can go on."""
_LISTED = 20
_PAGE = 64
_LIST = Columns(("#", "id", "name", "messages", "updated", ""), right=("#", "messages"), cut=("name",), spare=("messages",))
Work = Callable[["Conversation", str], Awaitable[None]]


class Command(NamedTuple):
    """What it is called with, and what it does."""

    takes: str
    work: Work


COMMANDS: dict[str, Command] = {}


def command(name: str, takes: str = "") -> Callable[[Work], Work]:
    """Add what `/name` does; its docstring is its help."""

    def register(work: Work) -> Work:
        COMMANDS[name] = Command(takes, work)
        return work

    return register


async def obey(chat: Conversation, line: str) -> None:
    """Do what the line says; a command may be cut short as long as it is clear."""
    name, _, rest = line[1:].partition(" ")
    fits = [name] if name in COMMANDS else [it for it in COMMANDS if name and it.startswith(name)]
    if len(fits) != 1:
        raise UsageError(f"there is no /{name}: /help lists what there is; a line that begins with a space is sent as it is")
    command = COMMANDS[fits[0]]
    if rest.strip() and not command.takes:
        raise UsageError(f"/{fits[0]} takes nothing more")
    await command.work(chat, rest.strip())


@command("help")
async def help_(chat: Conversation, _: str) -> None:
    """list these commands"""
    about = {f"/{name} {it.takes}".strip(): inspect.getdoc(it.work) or "" for name, it in COMMANDS.items()}
    chat.terminal.answer(about, [facts(about.items())])


# --- sessions --------------------------------------------------------------------------------------------------------


@command("sessions")
async def sessions(chat: Conversation, _: str) -> None:
    """list the newest sessions"""
    page = await chat.store.list(user_id=chat.terminal.user, limit=_LISTED)
    chat.listed = [it.id for it in page.items]
    rows = (_row(number, it, chat.session) for number, it in enumerate(page.items, 1))
    chat.terminal.answer({"sessions": page.items}, [table(_LIST, rows, chat.terminal.out.width)] if page.items else "no sessions")


def _row(number: int, it: SessionInfo, here: Session) -> dict[str, str]:
    return {
        "#": str(number),
        "id": it.id,
        "name": it.name or "",
        "messages": f"{it.counts.messages:,}",
        "updated": ago(it.updated_at),
        "": "here" if it.id == here.id else "waiting" if it.waiting else "",
    }


@command("switch", "ID")
async def switch(chat: Conversation, which: str) -> None:
    """go on in another session: its id, the beginning of it, or its number in the list"""
    if not which:
        raise UsageError("/switch ID: say which one; /sessions lists them")
    await chat.enter(await _meant(chat, which))


async def _meant(chat: Conversation, which: str) -> str:
    if await chat.store.has(which, user_id=chat.terminal.user):
        return which
    if which.isdecimal() and 0 < int(which) <= len(chat.listed):
        return chat.listed[int(which) - 1]
    with working("looking for it"):
        fits = [it.id async for it in chat.store.sessions(user_id=chat.terminal.user) if it.id.startswith(which)]
    if len(fits) != 1:
        raise UsageError(
            f"{which!r} begins the ids of {len(fits)} sessions" if fits else f"there is no session {which!r}; /sessions lists them"
        )
    return fits[0]


@command("new")
async def new(chat: Conversation, _: str) -> None:
    """begin a new session"""
    await chat.enter(None)


@command("name", "[TEXT]")
async def name(chat: Conversation, text: str) -> None:
    """name this session; without a text the model names it"""
    if text:
        await chat.session.rename(text)
    else:
        _there(chat)
        with working("asking the model"):
            await interruptible(chat.agent.set_session_name(chat.session.id, autogenerate=True, user_id=chat.terminal.user))
        await chat.session.refresh()
    chat.terminal.answer({"name": chat.session.name}, f"named: {one_line(chat.session.name)}")


@command("fork", "[NAME]")
async def fork(chat: Conversation, text: str) -> None:
    """go on in a copy of this session, which stays as it is"""
    _there(chat)
    forked = await chat.session.fork(name=text or None)
    chat.remark(f"a copy of {chat.session.id}")
    await chat.enter(forked.id)


# --- this session ----------------------------------------------------------------------------------------------------


@command("retry")
async def retry(chat: Conversation, _: str) -> None:
    """go on with the last run, if it failed, was cancelled or waits"""
    _there(chat)
    last = await chat.session.runs(last=1)
    if not last or last[0].status not in UNFINISHED:
        told = " under way, or its process ended a moment ago: try again in a minute" if last and last[0].status == RUNNING else ""
        raise UsageError(f"the last run is{told or f' {last[0].status}: nothing to go on with'}" if last else "nothing was said yet")
    await chat.go_on(last[0].id)


@command("rewind", "[N]")
async def rewind(chat: Conversation, text: str) -> None:
    """take back the last exchange, or the last N"""
    number = _number(text, 1)
    _there(chat)
    said = await exchanges(chat.session, number)
    taken = sum(entry.message().role == "user" for entry in said)
    if not taken:
        raise UsageError("there is nothing to take back")
    await chat.session.rewind(to=await _begin(chat.session, said[0].seq) - 1)
    told = f"took back {counted(taken, 'exchange')}: kept in the record, no longer sent"
    chat.terminal.answer({"exchanges": taken}, told)


async def exchanges(session: Session, number: int) -> list[Entry]:
    """The messages of the newest `number` exchanges: each begins with what a person said."""
    limit = _PAGE * number
    while True:
        entries = await session.entries(last=limit, kinds=(MESSAGE,), light=True)
        begins = [place for place, entry in enumerate(entries) if entry.message().role == "user"][-number:]
        if len(begins) == number or len(entries) < limit:
            return entries[begins[0] :] if begins else []
        limit *= 4


async def _begin(session: Session, seq: int) -> int:
    """Where the run begins whose input is at `seq`: with the entry before it, for what an agent was given."""
    here = await session.entries(after=seq - 2, before=seq + 1)
    before, it = here[0], here[-1]
    return before.seq if before.kind == RUN and before.run_id == it.run_id else it.seq


@command("compact")
async def compact(chat: Conversation, _: str) -> None:
    """have the model sum up all but the newest exchanges, for an agent that sends summaries"""
    _there(chat)
    with working("asking the model"):
        text = await interruptible(chat.agent.compact(chat.session.id, user_id=chat.terminal.user))
    chat.terminal.answer({"summary": text}, one_line(text) if text else "nothing to sum up: the newest exchanges are sent as they are")


@command("clear", "[yes]")
async def clear(chat: Conversation, text: str) -> None:
    """remove everything that was said and kept in this session, for good"""
    _there(chat)
    if text != "yes" and not chat.lines.asks:
        raise UsageError("clearing can't be undone: say /clear yes where there is no terminal to ask on")
    if text == "yes" or chat.ask(f"Remove everything in session {chat.session.id} for good? [y/N] ").lower() in ("y", "yes"):
        chat.session.clear()
        await chat.session.commit()
        chat.terminal.answer({"cleared": chat.session.id}, f"cleared {chat.session.id}")


@command("history", "[N]")
async def history(chat: Conversation, text: str) -> None:
    """show the last 5 exchanges, or the last N"""
    number = _number(text, 5)
    _there(chat)
    await chat.show_last(number)


@command("state")
async def state(chat: Conversation, _: str) -> None:
    """show the session's state"""
    _there(chat)
    await chat.session.refresh()
    values = stored(chat.session.state)
    chat.terminal.answer({"state": values}, [state_table(values)])


@command("quit")
async def quit_(chat: Conversation, _: str) -> None:
    """leave, as Ctrl-D does"""
    chat.over = True


def _there(chat: Conversation) -> None:
    if not chat.session.version:
        raise UsageError("nothing was said in this session yet")


def _number(text: str, default: int) -> int:
    if text and not (text.isdecimal() and int(text)):
        raise UsageError(f"{text!r} is no number: write how many, 1 or more")
    return int(text or default)
