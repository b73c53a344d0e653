"""What a person types: lines with editing and history on a terminal, plain ones from a pipe; and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from typing import Any, TypeVar, cast

T = TypeVar("T")

_MORE = "\\"
_BOLD = "\x01\x1b[1m\x02", "\x01\x1b[0m\x02"  # between 1 and 2: what takes no room on the line, for readline


class Interrupted(Exception):
    """Ctrl-C ended what was under way; it has recorded that."""


class Lines:
    """Where lines come from. `asks`: whether somebody is there to be asked."""

    def __init__(self) -> None:
        cast("TextIOWrapper[Any]", sys.stdin).reconfigure(errors="replace")
        self.asks = sys.stdin.isatty()
        self._edits = self.asks and sys.stdout.isatty()
        if self._edits:
            with suppress(ImportError):
                import_module("readline")  # from now on input() edits

    def read(self, prompt: str) -> str | None:
        """The next line, those continued with a backslash joined; None at the end. `KeyboardInterrupt` at Ctrl-C."""
        line = self._line(prompt)
        while line is not None and line.endswith(_MORE):
            more = self._line("… " if self.asks else "")
            line = line[: -len(_MORE)] + "\n" + (more or "")
        return line

    def _line(self, prompt: str) -> str | None:
        if not self.asks:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        try:
            return input(self._shown(prompt))
        except EOFError:
            return None

    def _shown(self, prompt: str) -> str:
        if self._edits:
            return f"{_BOLD[0]}{prompt}{_BOLD[1]}"
        print(prompt, end="", file=sys.stderr, flush=True)  # stdout is for the answers alone
        return ""

    def remember(self, said: Iterable[str]) -> None:
        """Make these lines the ones that the arrow keys bring back."""
        if self._edits:
            with suppress(ImportError):
                import readline

                readline.clear_history()
                for line in said:
                    readline.add_history(line)


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. At Ctrl-C it is cancelled, and once it has ended this raises `Interrupted`; a second one ends the program."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    came = False

    def interrupt(*_: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise Interrupted from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def unechoed() -> Generator[None]:
    """Keys typed meanwhile wait for the next line instead of being shown in between."""
    try:
        import termios
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
