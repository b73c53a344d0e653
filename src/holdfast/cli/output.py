"""How the terminal speaks: text made safe, JSON, tables, sizes, times, progress. Rich is imported only when something is drawn."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (escape sequences begin with one) and those that turn the direction of text; not line ends and tabs."""
_UNBOUND = 1_000_000_000
"""Columns of an output that is no terminal: nothing is wrapped or cut for a program to put together again."""
_LONG_FILE = 4_000_000
_GAP, _CUT = 2, 12


# --- safe text -------------------------------------------------------------------------------------------------------


def safe(text: str) -> str:
    """`text` with whatever would steer a terminal written as an escape, `\\x1b`."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def one_line(text: str | None) -> str:
    """`text` made safe, on one line."""
    return " ".join(safe(text or "").split())


def json_text(value: object) -> str:
    """`value` as JSON on one line, safe to show."""
    return safe_json(msgspec.json.encode(value).decode())


def readable(value: object) -> str:
    """`value` as JSON for people: with spaces, safe to show."""
    return safe_json(msgspec.json.format(msgspec.json.encode(value), indent=0).decode())


def safe_json(text: str) -> str:
    """The same JSON with what would steer a terminal escaped: it can only stand inside strings."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# --- where it goes ---------------------------------------------------------------------------------------------------


def write_json(value: object) -> None:
    """One JSON document, or one of several lines, on stdout; in UTF-8 whatever the locale says."""
    sys.stdout.buffer.write(json_text(_whole(value)).encode() + b"\n")
    sys.stdout.flush()


def _whole(value: Any) -> Any:
    """`value` with the fields of its structs spelled out, defaults too: a script can count on every key."""
    match value:
        case msgspec.Struct():
            return _whole(msgspec.structs.asdict(value))
        case dict():
            return {key: _whole(item) for key, item in cast("dict[str, Any]", value).items()}
        case list():
            return [_whole(item) for item in cast("list[Any]", value)]
        case _:
            return value


def failed(error: str, message: str, *, as_json: bool) -> None:
    """An error on stderr: one line."""
    line = json_text({"error": error, "message": message}) if as_json else f"holdfast: {one_line(message)}"
    print(line, file=sys.stderr)


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file to write that takes the place of `path` once it is whole; a pipe or a device is written to as it is."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def console(*, stderr: bool = False) -> Console:
    """Where people read. Colours and wrapping are for terminals only; nothing in the text is taken for markup."""
    from rich.console import Console

    bound = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if bound else _UNBOUND, markup=False, highlight=False, emoji=False)


# --- shapes ----------------------------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """Headings: `right` are numbers, `cut` may lose their end on a narrow terminal, `spare` go first where even that is not enough."""

    names: tuple[str, ...]
    right: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()


def table(columns: Columns, rows: Iterable[Mapping[str, str]], width: int) -> Table:
    """Rows under headings, on `width` columns of the terminal."""
    from rich.table import Table
    from rich.text import Text

    cells = [{name: one_line(row[name]) for name in columns.names} for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    shown = _fitting(columns, cells, width)
    for name in shown:
        made.add_column(name, justify="right" if name in columns.right else "left", no_wrap=name not in columns.cut)
    for row in cells:
        made.add_row(*(Text(row[name], no_wrap=True, overflow="ellipsis" if name in columns.cut else "fold") for name in shown))
    return made


def _fitting(columns: Columns, cells: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """The columns there is room for: empty ones give way first, then the spare ones."""
    from rich.cells import cell_len

    widths = {name: max((cell_len(row[name]) for row in cells), default=0) for name in columns.names}
    least = {name: max(min(widths[name], _CUT) if name in columns.cut else widths[name], len(name)) + _GAP for name in columns.names}
    shown = list(columns.names)
    for name in (*(name for name in columns.cut if not widths[name]), *columns.spare):
        if sum(least[it] for it in shown) - _GAP > width and name in shown:
            shown.remove(name)
    return shown


def facts(pairs: Iterable[tuple[str, str | None]]) -> Table:
    """Names and values, those without a value left out."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid("name", "value", padding=(0, 2, 0, 0))
    for name, value in pairs:
        if value:
            made.add_row(Text(name, style="dim"), Text(one_line(value)))
    return made


def size(count: int) -> str:
    """Bytes for people."""
    for power, unit in enumerate(("B", "kB", "MB", "GB")):
        if (value := count / 1000**power) < 999.5:
            return f"{value:.1f} {unit}" if power and value < 99.5 else f"{value:.0f} {unit}"
    return f"{count / 1e12:,.1f} TB"


def counted(count: int, noun: str) -> str:
    """`1 message`, `1,200 messages`; entry becomes entries."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def moment(time: datetime) -> str:
    """A time of day in the zone of whoever reads it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def ago(time: datetime) -> str:
    """How long since, or until, `time`."""
    seconds = (datetime.now(UTC) - time).total_seconds()
    span = _span(abs(seconds))
    return "just now" if span is None else f"{span} ago" if seconds > 0 else f"in {span}"


def _span(seconds: float) -> str | None:
    for unit, length, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48), ("days", 86_400, 60), ("months", 2_629_746, 24)):
        if seconds < most * length:
            whole = int(seconds / length)
            return None if unit == "s" and whole < 5 else f"{whole} {unit}"
    return f"{int(seconds / 31_556_952)} years"


# --- progress, on a terminal's stderr only ---------------------------------------------------------------------------


@contextmanager
def working(what: str) -> Generator[None]:
    """A spinner while something takes long."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


@contextmanager
def reading(file: BinaryIO, what: str) -> Generator[Iterable[bytes]]:
    """`file`, with a bar that follows how far it is read when it is long."""
    err = console(stderr=True)
    length = os.fstat(file.fileno()).st_size if err.is_terminal else 0
    if length < _LONG_FILE:
        yield file
        return
    from rich.progress import wrap_file

    with wrap_file(file, length, description=what, console=err, transient=True) as followed:
        yield followed
