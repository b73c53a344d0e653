"""A short name for a session, from its first messages."""

from __future__ import annotations

import re

from ..messages import Message

WORDS = 5
FIRST = 6
"""How many of a session's first messages a name is made from."""
_CHARACTERS = 80
_EXCERPT = 500

INSTRUCTIONS = (
    f"Name the conversation that follows in at most {WORDS} words, in its language, as the subject line of an e-mail would."
    " Answer with the name alone: no quotation marks, no full stop."
)


def question(messages: list[Message]) -> str:
    """What the model is asked: the beginning of what was said, in short."""
    return "\n".join(f"{message.role}: {message.text[:_EXCERPT]}" for message in messages)


def tidy(name: str) -> str:
    """A name from whatever a model answered: one line, at most five words; empty if there is none in it."""
    lines = [line for line in name.splitlines() if line.strip()]
    words = re.sub(r"^[\s\"'*#`]+|[\s\"'*.`]+$", "", lines[0] if lines else "").split()
    return " ".join(words[:WORDS])[:_CHARACTERS].strip()


def fallback(messages: list[Message], session_id: str) -> str:
    """A name without a model: the first words of the first thing a user said."""
    first = next((name for message in messages if message.role == "user" and (name := tidy(message.text))), "")
    return first or session_id[:_CHARACTERS]
