"""What every backend's `from_url` needs: the options of a store URL read by name, and the URL as it may be shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ..errors import InvalidURL

Reader = Callable[[str], Any]
"""Gives an option's value from its text; `ValueError` says what it must be."""


def split(url: str) -> SplitResult:
    """The parts of `url`; `InvalidURL` where it has none."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # read late, and raises then
    except ValueError as error:  # half an IPv6 address, a port that is no number
        raise InvalidURL(f"store URL {shown(url)!r} can't be read as a URL: {error}") from None
    return parts


def options(url: str, known: dict[str, Reader]) -> dict[str, Any]:
    """The URL's options, each read by its own reader; an unknown, repeated or malformed one is named."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(split(url).query, keep_blank_values=True):
        if name not in known:
            raise InvalidURL(f"store URL {shown(url)!r}: unknown option {name!r}; there are {', '.join(sorted(known))}")
        if name in found:
            raise InvalidURL(f"store URL {shown(url)!r}: option {name} is given twice")
        try:
            found[name] = known[name](text)
        except ValueError as error:
            raise InvalidURL(f"store URL {shown(url)!r}: {name}={text!r}: {error}") from None
    return found


def one_of(*words: str) -> Reader:
    """Reads one of `words`, in any case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be {', '.join(words[:-1])} or {words[-1]}")
        return text.lower()

    return read


def seconds(text: str) -> float:
    """Reads a number of seconds, a day at most."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("it must be a number of seconds") from None
    if not 0 <= value < 86_400:
        raise ValueError("it must be between 0 and 86400 seconds")
    return value


def whole(low: int, high: int) -> Reader:
    """Reads a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return int(text)

    return read


def shown(url: str) -> str:
    """The URL for error messages: without what may be a password, and without the values of options."""
    scheme, split, rest = url.partition("://") if "://" in url else ("", "", url)
    login, at, place = rest.rpartition("@")
    if at and ":" in login:
        rest = f"{login.partition(':')[0]}:***@{place}"
    place, mark, query = rest.partition("?")
    names = [option.partition("=")[0] for option in query.split("&")]
    return f"{scheme}{split}{place}{mark}{'&'.join(names)}"[:200]
