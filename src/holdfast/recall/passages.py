"""From entries to documents: the text of messages, long ones in pieces; and from a query to the words that are looked for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import msgspec

from ..entries import Entry
from ..messages import Message, ToolResult
from .index import Document

SPOKEN = ("user", "assistant")
_PIECE = 900
"""Letters of a piece at most: about as many as an embedding model takes in."""
_ENDS = ("\n\n", "\n", ". ", "! ", "? ", "。", "; ", ", ", " ")
"""Where a long text is cut: at the first of these that is found in the second half of a piece."""
_WORDS = 32
_LETTERS = 64
_READ = 8192
_COMMON = """
    a about all also am an and any are as at be been but by can could did do does doing for from had has have having he her hers him
    his how i if in into is it its just me mine more most my no nor not of on or our ours out over own please s said say she should
    so some t tell than that the their theirs them then there these they this those to too under up us very was we were what when
    where which while who whom whose why will with would you your yours
"""
"""Words that stand in most English messages: looking for them finds everything."""
_UNTOLD = frozenset(_COMMON.split())


def documents(entries: Sequence[Entry], *, tool_results: bool) -> list[Document]:
    """What of these messages can be found, in their order."""
    return [
        Document(entry.seq, number, entry.run_id, entry.agent, message.role, entry.time, text)
        for entry in entries
        for message in (entry.message(),)
        for number, text in enumerate(pieces(_said(message, tool_results=tool_results)))
    ]


def _said(message: Message, *, tool_results: bool) -> str:
    if message.role in SPOKEN:
        return message.text
    return " ".join(_plain(part.response) for part in message.parts if isinstance(part, ToolResult)) if tool_results else ""


def _plain(response: object) -> str:
    return response if isinstance(response, str) else msgspec.json.encode(response).decode()


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of a size that can be compared by meaning, none of them blank."""
    rest = text.strip()
    while len(rest) > _PIECE:
        cut = next((at + len(end) for end in _ENDS if (at := rest.rfind(end, _PIECE // 2, _PIECE)) > 0), _PIECE)
        yield rest[:cut].rstrip()
        rest = rest[cut:].lstrip()
    if rest:
        yield rest


def words_of(query: str) -> tuple[str, ...]:
    """The words of a query that tell something, each once, in their order; the common ones too where there are no others."""
    plain = unicodedata.normalize("NFKC", query[:_READ]).casefold()
    found = dict.fromkeys(word[:_LETTERS] for word in re.findall(r"[^\W_]+", plain))
    telling = [word for word in found if word not in _UNTOLD]
    return tuple((telling or list(found))[:_WORDS])


def names_something(query: str) -> bool:
    """Whether a query is words to look up, or has a name or a number among them, and is not a question in plain words."""
    words = re.findall(r"[^\W_]+", query[:_READ])
    telling = [number for number, word in enumerate(words) if word.casefold() not in _UNTOLD]
    named = (number for number in telling if any(map(str.isdigit, words[number])) or (number and words[number][0].isupper()))
    return len(telling) in (0, len(words)) or next(named, None) is not None


def excerpt(text: str, query: str, width: int) -> str:
    """The part of `text` that has most of the query's words in it, `width` letters at most, on one line."""
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    places = [found.start() for word in words_of(query) for found in re.finditer(re.escape(word), line.casefold())]
    best = max(places, key=lambda at: sum(at <= other < at + width * 3 // 4 for other in places), default=0)
    start = max(0, min(best - width // 8, len(line) - width))
    shown = line[start : start + width].strip()
    return ("… " if start else "") + shown + (" …" if start + width < len(line) else "")
