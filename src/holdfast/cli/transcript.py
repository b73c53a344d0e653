"""A session's entries as people read them, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .. import Blob, Compaction, Entry, File, Message, Reasoning, Text, ToolCall, ToolResult, Uri
from ..entries import KINDS, MESSAGE, RUN, STATE
from ..ids import from_micros
from ..messages import Part, to_otel
from .output import moment, one_line, readable, safe, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Line

TOLD = tuple(kind for kind in KINDS if kind not in (RUN, STATE))
"""The kinds of entries that a transcript tells."""
_INDENT = 6
_FOLDED_CHARS, _FOLDED_LINES = 400, 4
STYLES = {"user": "bold cyan", "assistant": "bold green", "tool": "bold yellow", "system": "bold magenta"}


class Piece(NamedTuple):
    """Something said in a message; `detail` may be folded."""

    text: str
    style: str = ""
    detail: bool = True


def record(entry: Entry) -> dict[str, Any]:
    """An entry for --json: a message in the OpenTelemetry form, any other kind as its data."""
    body = {"message": to_otel(entry.message())} if entry.kind == MESSAGE else {"data": entry.data()}
    fields = {name: getattr(entry, name) for name in ("seq", "id", "kind", "run_id", "agent", "version", "hidden")}
    return fields | {"time": from_micros(entry.time)} | body


class Transcript:
    """Tells entries in order. It remembers the tools called, so that a result can be shown with the name of its tool."""

    def __init__(self, console: Console, *, full: bool) -> None:
        self._console = console
        self._full = full
        self._tools: dict[str, str] = {}

    def lines(self, entry: Entry) -> Iterator[Line]:
        """One entry: a line that says whose it is and when, and below it what it says."""
        message = entry.message() if entry.kind == MESSAGE else None
        yield _heading(entry, message)
        yield from self.said(message) if message else self._wrapped(Piece(readable(entry.data()), "dim"))

    def said(self, message: Message) -> Iterator[Line]:
        """What is in a message, without a line above."""
        for piece in self._pieces(message):
            yield from self._wrapped(piece)

    def _pieces(self, message: Message) -> Iterator[Piece]:
        for part in message.parts:
            if isinstance(part, ToolCall) and part.id is not None:
                self._tools[part.id] = part.name
            yield self._piece(part)

    def _piece(self, part: Part) -> Piece:
        match part:
            case Text(content):
                return Piece(content, detail=False)
            case Reasoning(content):
                return Piece(f"(thinking) {content}", "dim italic")
            case ToolCall(name, _, given):
                return Piece(f"→ {name}({arguments(given)})", "yellow")
            case ToolResult(response, call):
                tool = self._tools.get(call or "", call)
                return Piece(f"← {f'{tool}: ' if tool else ''}{value(response)}", "yellow")
            case Compaction(_, content):
                return Piece(f"(compaction) {content or ''}", "dim")
            case Blob(modality, content, mime_type):
                return Piece(f"({mime_type or modality}, {size(len(content) * 3 // 4)})", "dim")
            case Uri(modality, place, mime_type) | File(modality, place, mime_type):
                return Piece(f"({mime_type or modality}, {place})", "dim")
            case _:
                data = to_otel(Message("", (part,)))["parts"][0]
                return Piece(f"({data.pop('type')}) {value(data)}", "dim")

    def _wrapped(self, piece: Piece) -> Iterator[Line]:
        from rich.text import Text as Line

        text = safe(piece.text if self._full or not piece.detail else _folded(piece.text))
        for line in Line(text.expandtabs(4), style=piece.style).wrap(self._console, self._console.width - _INDENT):
            line.rstrip()
            yield Line(" " * _INDENT).append_text(line) if line else line


def _heading(entry: Entry, message: Message | None) -> Line:
    from rich.text import Text as Line

    role = message.role if message else entry.kind
    who = message.name or (entry.agent if role == "assistant" else None) if message else entry.agent
    line = Line(f"{entry.seq:>4}  ", style="dim").append(one_line(role), style=STYLES.get(role, "bold"))
    line.append(f"  {one_line(who)}" if who else "").append(f"  {moment(from_micros(entry.time))}", style="dim")
    return line.append("  hidden", style="red") if entry.hidden else line


def arguments(given: Any) -> str:
    """The arguments of a call as in a call."""
    if isinstance(given, dict):
        named = cast("dict[str, Any]", given)
        return ", ".join(f"{name}={readable(value)}" for name, value in named.items())
    return "" if given is None else value(given)


def value(it: Any) -> str:
    """A result of a tool as text."""
    return it if isinstance(it, str) else readable(it)


def _folded(text: str) -> str:
    """The beginning of a long text, and how long it is."""
    head = "\n".join(text[:_FOLDED_CHARS].split("\n")[:_FOLDED_LINES])
    return text if head == text else f"{head} … ({size(len(text.encode()))} in all, --full shows it)"
