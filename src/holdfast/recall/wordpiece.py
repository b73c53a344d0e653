"""The tokens of BERT (uncased), as the model of `minilm` was taught them: words, taken apart into the longest pieces of its vocabulary.

The algorithm is WordPiece (Schuster and Nakajima 2012, as in BERT 2018); `vocabulary.txt` is BERT's own, by Google, under the Apache
License 2.0: a token's number is its line, from 0.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files

_LONGEST = 100
"""A word of more letters is unknown, whatever is in it."""
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def tokens(text: str, most: int) -> list[int]:
    """The numbers of at most `most` tokens of `text`, those for its beginning and its end included."""
    numbers = vocabulary()
    found = [numbers["[CLS]"]]
    for word in words(text):
        found += _pieces(word)
        if len(found) >= most:
            break
    return [*found[: most - 1], numbers["[SEP]"]]


@cache
def vocabulary() -> dict[str, int]:
    """Every token and its number."""
    text = files(__package__ or "").joinpath("vocabulary.txt").read_text("utf-8")
    return {token: number for number, token in enumerate(text.split("\n")[:-1])}


def words(text: str) -> Iterator[str]:
    """Words, marks and ideographs one by one, in small letters without accents."""
    for word in "".join(map(_plain, text)).split():
        bare = "".join(letter for letter in unicodedata.normalize("NFD", word) if unicodedata.category(letter) != "Mn")
        yield from "".join(f" {letter} " if _is_mark(letter) else letter for letter in bare.lower()).split()


@lru_cache(maxsize=65_536)
def _plain(letter: str) -> str:
    """The letter; a space for any white one, nothing for one that can't be seen, an ideograph between spaces."""
    if letter in "\t\n\r" or unicodedata.category(letter) == "Zs":
        return " "
    if letter in "\0\ufffd" or unicodedata.category(letter) in ("Cc", "Cf", "Co"):
        return ""
    return f" {letter} " if any(first <= ord(letter) <= last for first, last in _IDEOGRAPHS) else letter


@lru_cache(maxsize=4096)
def _is_mark(letter: str) -> bool:
    return (letter.isascii() and letter.isprintable() and not letter.isalnum()) or unicodedata.category(letter).startswith("P")


@lru_cache(maxsize=16_384)
def _pieces(word: str) -> tuple[int, ...]:
    """The numbers of a word's pieces; of the unknown token where its letters are no tokens."""
    numbers, found, rest = vocabulary(), list[int](), word
    while rest:
        start = "##" if found else ""
        end = next((end for end in range(len(rest), 0, -1) if start + rest[:end] in numbers), 0)
        if not end or len(word) > _LONGEST:
            return (numbers["[UNK]"],)
        found.append(numbers[start + rest[:end]])
        rest = rest[end:]
    return tuple(found)
