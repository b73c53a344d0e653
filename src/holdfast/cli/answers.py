"""How an answer is shown while it comes: as plain text to a pipe, as Markdown on a terminal."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from .. import ToolCall
from ..agents.events import Event, ReasoningDelta, RunStarted, TextDelta, ToolAnswered, ToolCalled
from .output import counted, one_line, safe
from .transcript import arguments, value

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown
    from rich.segment import Segment

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
_BREAK = re.compile(r"\n\s*\n(?=\S)(?![-*+] |\d+[.)] )")
"""Between two blocks: an empty line, and after it something that does not belong to a list above."""
_THOUGHT, _CALL = 72, 100
TICK = 1 / 12
"""Seconds between two ticks."""


class Shown(Protocol):
    """An answer on its way: enter it, let it `take` the events, leave it; now and then a `tick` shows that time goes by."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def take(self, event: Event) -> None: ...
    def tick(self) -> None: ...


class Plain:
    """Text as it comes, on stdout; tools are told by `note`, thoughts not at all."""

    def __init__(self, note: Callable[[str], None], tools: Tools) -> None:
        self._note = note
        self._begun = False
        self._tools = tools

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_line()

    def take(self, event: Event) -> None:
        """Show what happened."""
        self._tools.take(event)
        if isinstance(event, TextDelta) and event.delta:
            self._begun = not event.delta.endswith("\n")
            sys.stdout.write(safe(event.delta))
            sys.stdout.flush()
        elif isinstance(event, ToolCalled):
            self._end_line()
        elif isinstance(event, ToolAnswered):
            self._note(self._tools.line(event))

    def tick(self) -> None:
        """Nothing moves."""

    def _end_line(self) -> None:
        if self._begun:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._begun = False


class Silent:
    """Nothing of it is shown before its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def take(self, event: Event) -> None:
        """Show nothing."""

    def tick(self) -> None:
        """Nothing moves."""


class Tools:
    """The calls under way, `known` ones to begin with, so that each can be told in one line with its result."""

    def __init__(self, known: Iterable[ToolCall] = ()) -> None:
        self.running: dict[str | None, str] = {it.id: called(it) for it in known}

    def take(self, event: Event) -> None:
        if isinstance(event, ToolCalled):
            self.running[event.id] = called(event)

    def line(self, event: ToolAnswered) -> str:
        """The call that is answered, and the first words of its answer."""
        call = self.running.pop(event.id, event.name or "tool")
        return f"→ {_cut(call, _CALL)}  ← {_cut(one_line(value(event.response)), _CALL)}"


def called(it: ToolCall | ToolCalled) -> str:
    """A call in one line."""
    return one_line(f"{it.name}({arguments(it.arguments)})")


class Drawn:
    """On a terminal: each block is printed for good as soon as it is whole, what is not is drawn anew at the bottom until it is."""

    def __init__(self, console: Console, tools: Tools) -> None:
        from rich.live import Live

        self._console = console
        self._began = time.monotonic()
        self._tools = tools
        self._text = ""
        self._thought = ""
        self._last = ""
        self._waiting = "waiting for the session"
        # Drawn by `tick`, not by a thread: what a thread draws between two steps of a print is not cleared by it.
        self._live = Live(console=console, transient=True, auto_refresh=False, get_renderable=self._now)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        text, self._text = self._text, ""
        self._told_thought()
        self._live.stop()
        self._print(text)

    def take(self, event: Event) -> None:
        """Show what happened."""
        self._tools.take(event)
        match event:
            case RunStarted():
                self._waiting = "waiting for the model"
            case ReasoningDelta(delta):
                self._thought += delta
            case TextDelta(delta) if delta:
                self._told_thought()
                self._text += delta
                self._print_whole()
            case ToolCalled():
                self._told_thought()
                self._print(self._text)
                self._text = ""
            case ToolAnswered():
                self._tell(self._tools.line(event))
            case _:
                pass

    def tick(self) -> None:
        """Draw what is not whole yet anew."""
        self._live.refresh()

    def _told_thought(self) -> None:
        thought, self._thought = one_line(self._thought), ""
        if thought:
            words = counted(len(thought.split()), "word")
            self._tell(f"(thought, {words}) {_cut(thought, _THOUGHT)}")

    def _tell(self, text: str) -> None:
        self._after("line", "block")
        self._console.print(_dim(text, self._console.width))

    def _print_whole(self) -> None:
        whole, self._text = split(self._text)
        self._print(whole)

    def _print(self, text: str) -> None:
        if text.strip():
            self._after("block", "block", "line")
            self._console.print(_Block(text))

    def _after(self, now: str, *apart: str) -> None:
        """An empty line, where what came last is to be `apart` from what is printed `now`."""
        if self._last in apart:
            self._console.print()
        self._last = now

    def _now(self) -> Any:
        if self._text.strip():
            return _Block(self._text, max(self._console.height - 2, 1))
        from rich.spinner import Spinner

        doing = ", ".join(self._tools.running.values()) or ("thinking" if self._thought else self._waiting)
        return Spinner("dots", _dim(f"{_cut(doing, _CALL)} ({time.monotonic() - self._began:.0f} s)", self._console.width - 2), style="dim")


def split(text: str) -> tuple[str, str]:
    """The blocks of Markdown at the beginning of `text` that nothing to come can change, and the rest."""
    for found in reversed(list(_BREAK.finditer(text))):
        if len(_FENCE.findall(text, 0, found.start())) % 2 == 0:
            return text[: found.start()], text[found.end() :]
    return "", text


class _Block:
    """Markdown without the empty lines around it; of a long one the end, as much as `most` lines are."""

    def __init__(self, text: str, most: int | None = None) -> None:
        self._text = text
        self._most = most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(_markdown(self._text), options, pad=False)
        said = [place for place, line in enumerate(lines) if "".join(segment.text for segment in line).strip()]
        shown = lines[said[0] : said[-1] + 1] if said else []
        for line in shown[-self._most :] if self._most else shown:
            yield from _trimmed(line)
            yield Segment.line()


def _trimmed(line: list[Segment]) -> list[Segment]:
    """A line without the spaces at its end that nobody sees."""
    from rich.segment import Segment

    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        last = kept.pop()
        if text := last.text.rstrip():
            return [*kept, Segment(text, last.style)]
    return kept


def _markdown(text: str) -> Markdown:
    """Addresses are shown, not hidden behind words; headings stay at the left."""
    from rich.markdown import Heading, Markdown

    class Left(Heading):
        LEVEL_ALIGN = {}  # noqa: RUF012  # as its base has it

    class Plainly(Markdown):
        elements = Markdown.elements | {"heading_open": Left}

    return Plainly(safe(text), hyperlinks=False, code_theme="ansi_dark")


def _dim(text: str, width: int) -> Any:
    from rich.text import Text

    line = Text(text, style="dim", no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
