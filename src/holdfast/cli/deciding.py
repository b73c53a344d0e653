"""Asking a person for the decision that a paused run waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .output import one_line
from .transcript import arguments

if TYPE_CHECKING:
    from ..requirements import Decision, Field, Kind, Requirement

Ask = Callable[[str], str]


class Choice(NamedTuple):
    """A letter and what it stands for."""

    letter: str
    means: str
    decide: Callable[[Requirement, Ask], Decision]


def told(it: Requirement) -> str:
    """What the run waits for, in one line."""
    return one_line(f"{it.call.name}({arguments(it.call.arguments)}) {_WHY[it.kind]}")


def decided(it: Requirement, ask: Ask) -> Decision | None:
    """The person's decision; None leaves it for later. An answer that doesn't fit is asked for again."""
    choices = _CHOICES[it.kind]
    question = ", ".join([*(f"{choice.letter}: {choice.means}" for choice in choices), "Enter: later"])
    while letter := ask(f"{question} > ").lower():
        for choice in choices:
            if choice.letter == letter:
                return choice.decide(it, ask)
    return None


def _approve(it: Requirement, _: Ask) -> Decision:
    return it.approve()


def _deny(it: Requirement, ask: Ask) -> Decision:
    return it.deny(ask("why, for the model (or Enter) > ") or None)


def _answer(it: Requirement, ask: Ask) -> Decision:
    return it.answer(**{field.name: _filled(field, ask) for field in it.fields})


def _filled(field: Field, ask: Ask) -> Any:
    kind = field.schema.get("type")
    text = ask(f"{field.name}{f' ({kind})' if kind else ''} > ")
    return text if kind == "string" else plain(text)


def _supply(it: Requirement, ask: Ask) -> Decision:
    return it.supply(plain(ask("its result, as JSON or text > ")))


def _retry(it: Requirement, _: Ask) -> Decision:
    return it.retry()


def _cancel(it: Requirement, _: Ask) -> Decision:
    return it.cancel()


_END = Choice("c", "cancel the run", _cancel)
_NO = Choice("n", "don't", _deny)
_WHY: dict[Kind, str] = {
    "confirmation": "waits for your approval",
    "input": "waits for what only you know",
    "external": "is done elsewhere, and waits for its result",
    "unknown": "was under way when its process ended: nobody knows whether it has happened",
}
_CHOICES: dict[Kind, tuple[Choice, ...]] = {
    "confirmation": (Choice("y", "do it", _approve), _NO, _END),
    "input": (Choice("a", "answer", _answer), _NO, _END),
    "external": (Choice("g", "give its result", _supply), _NO, _END),
    "unknown": (Choice("r", "run it again", _retry), Choice("g", "give its result", _supply), _END),
}


def plain(text: str) -> Any:
    """JSON where it can be read as JSON, else the text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
