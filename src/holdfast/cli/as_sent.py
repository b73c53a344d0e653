"""What a run sent to its model, for `holdfast sessions show --as-sent`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from .. import Message, Session, Store, ToolResult, UsageError, system
from ..entries import RUN
from ..ids import from_micros
from ..messages import to_otel
from .command import Terminal
from .output import counted, facts, moment, one_line, safe
from .transcript import STYLES, Transcript

if TYPE_CHECKING:
    from rich.text import Text as Line

    from ..agents.record import Request, Sent

LAST = "last"
_NAMED = 5
MADE_UP = "made up: no result is stored"


async def answer(terminal: Terminal, store: Store, session: Session, run: str, *, full: bool) -> None:
    """Answer with what `run` of the session sent: an id, the beginning of one, or `last`."""
    from ..agents.record import as_sent

    run_id = await _found(session, run)
    sent = await as_sent(session, run_id) or []
    while all(it.copied for it in sent) and (origin := await _origin(terminal, store, session)) is not None:
        there = await as_sent(origin, run_id)
        if there is None:
            break
        session, sent = origin, there
    terminal.answer(_document(session, run_id, sent), _page(terminal, session, run_id, sent, full))


async def _origin(terminal: Terminal, store: Store, session: Session) -> Session | None:
    origin = session.info.origin
    return None if origin is None else await store.get(origin.session_id, user_id=terminal.user)


async def _found(session: Session, run: str) -> str:
    """The one run that is meant; rewound ones count."""
    told = await session.entries(kinds=(RUN,), hidden=True)
    ids = list(dict.fromkeys(entry.run_id for entry in told if entry.run_id is not None))
    meant = ids[-1:] if run == LAST else [run] if run in ids else [it for it in ids if it.startswith(run)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UsageError(f"{run!r} begins the ids of {len(meant)} runs: {', '.join(meant[:_NAMED])}{', ...' * (len(meant) > _NAMED)}")
    raise UsageError(f"session {session.id!r} has no run {run!r}: `holdfast sessions show {session.id} --runs` lists them")


# --- as JSON ---------------------------------------------------------------------------------------------------------


def _document(session: Session, run_id: str, sent: list[Sent]) -> dict[str, Any]:
    return {"session_id": session.id, "run_id": run_id, "tries": [_try_record(it) for it in sent]}


def _try_record(it: Sent) -> dict[str, Any]:
    window = it.attempt.window
    return {
        "attempt": it.attempt.number,
        "status": it.attempt.status,
        "error": it.attempt.error,
        "started": from_micros(it.attempt.started),
        "model": it.attempt.asked(0)[0],
        "instructions": it.instructions,
        "past": it.past,
        "history": window and window.get("history"),
        "requests": [_request_record(request) for request in it.requests],
    }


def _request_record(it: Request) -> dict[str, Any]:
    return {
        "model": it.model,
        "instructions": it.instructions,
        "messages": [to_otel(message) for message in it.messages],
        "new": it.new,
        "answer": it.answer and to_otel(it.answer),
        "whole": it.whole,
    }


# --- for people ------------------------------------------------------------------------------------------------------


def _page(terminal: Terminal, session: Session, run_id: str, sent: list[Sent], full: bool) -> Iterator[Any]:
    yield facts((("session", session.id), ("run", run_id)))
    for number, it in enumerate(sent, 1):
        yield ""
        yield _title(f"try {number} of {len(sent)}" if len(sent) > 1 else "sent", _about(it))
        yield from _tried(Transcript(terminal.out, full=full), session, it)


def _tried(transcript: Transcript, session: Session, it: Sent) -> Iterator[Any]:
    if it.instructions:
        yield _title("instructions")
        yield from transcript.said(system(it.instructions))
    if not it.requests:
        yield _title("nothing was sent")
    told = it.instructions
    for number, request in enumerate(it.requests, 1):
        if request.instructions and request.instructions != told:
            told = request.instructions
            yield _title("instructions", f"of {request.model}, from here on")
            yield from transcript.said(system(told))
        yield _title(f"request {number}", _past(session, it) if number == 1 else f"all of request {number - 1}, and")
        yield from _told(transcript, request.messages[len(request.messages) - request.new :])
    if it.requests:
        yield from _answer(transcript, it.requests[-1])


def _answer(transcript: Transcript, it: Request) -> Iterator[Any]:
    if it.answer is None:
        yield _title("no answer was stored")
        return
    yield _title("answer", "" if it.whole else "broken off")
    yield from transcript.said(it.answer)


def _told(transcript: Transcript, messages: tuple[Message, ...]) -> Iterator[Any]:
    for message in messages:
        yield _heading(message)
        yield from transcript.said(message)


def _past(session: Session, it: Sent) -> str:
    """How much of what was said before the run was sent with it."""
    if it.copied:
        assert session.info.origin is not None
        return f"what was sent of the past is known in session {session.info.origin.session_id!r} alone, from which this is a copy"
    if it.past is None or it.attempt.window is None:
        return "what was sent of the past was not recorded"
    history = cast("dict[str, Any] | None", it.attempt.window.get("history"))
    if history is None:
        return "nothing of the past: history is switched off"
    about = f"{counted(it.past, 'message')} of the past, about {counted(history['tokens'], 'token')}" if it.past else "nothing of the past"
    about += ", the first a summary of what came before" if "summary" in history else ""
    if "tool_calls" in history:
        about += f", with no more than {counted(history['tool_calls'], 'tool call')}"
    return f"{about}; older messages were cut" if history["cut"] else about


def _about(it: Sent) -> str:
    model, _ = it.attempt.asked(0)
    return ", ".join(filter(None, (model and f"to {model}", moment(from_micros(it.attempt.started)), it.attempt.status, it.attempt.error)))


def _title(text: str, more: str = "") -> Line:
    from rich.text import Text as Line

    return Line(text, style="bold").append(f"  {safe(more)}" if more else "", style="not bold dim")


def _heading(message: Message) -> Line:
    from rich.text import Text as Line

    line = Line("    ").append(one_line(message.role), style=STYLES.get(message.role, "bold"))
    return line.append(f"  {MADE_UP}", style="dim") if _is_made_up(message) else line


def _is_made_up(message: Message) -> bool:
    from ..agents.history import UNKNOWN

    return any(isinstance(part, ToolResult) and part.response == UNKNOWN for part in message.parts)
