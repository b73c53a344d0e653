"""Summaries: what stands for the older part of a conversation when it is sent. An entry of the log; the record itself is never altered.

A summary names the last message it covers by its id too: in a fork, seqs are counted anew. Whatever hides a message (`rewind`, `pop`,
`replace`) hides the summaries written after it, so one that is visible covers nothing that is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .. import entries as kinds
from ..entries import Entry
from ..errors import Corrupt, InvalidValue
from ..messages import Message, user

FORM = 1
MOST_MESSAGES = 96
"""More messages than this are folded however short they are: what a run reads with its first commit reaches back to the summary then."""
_INTRODUCTION = "A summary of the earlier conversation, whose messages are left out here:\n\n"


class Summaries(msgspec.Struct, frozen=True, kw_only=True):
    """When the past is summed up, and by whom.

    Once the messages that no summary covers, those of the newest `keep` runs aside, are longer than `after` tokens (estimated as in
    `History`), or more than 96, the model makes a new summary of them and the one before, after the run has returned. `model`: a cheaper
    one than the agent's own, as `Agent` takes it. `instructions`: what to tell it, in place of ours.
    """

    after: int = 16_000
    keep: int = 4
    model: Any = None
    instructions: str | None = None

    def __post_init__(self) -> None:
        for name in ("after", "keep"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 0):
                raise InvalidValue(f"Summaries({name}={value!r:.80}): give a whole number, 0 or more")
        if not (self.instructions is None or (isinstance(self.instructions, str) and self.instructions.strip())):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValue(f"Summaries(instructions={self.instructions!r:.80}): give text, or leave it out")

    def due(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether runs that no summary covers, of these sizes (tokens, messages) in their order, are to be folded."""
        older = sizes[: max(len(sizes) - self.keep, 0)]
        return sum([tokens for tokens, _ in older]) > self.after or sum([messages for _, messages in older]) > MOST_MESSAGES


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a summary entry: `text` covers every message up to the one at seq `upto`, whose id is `last`.

    Those of the runs in `open` aside, which had not ended or are to be sent as they are. `tokens`: about how long the text is.
    """

    v: int
    upto: int
    last: str
    text: str
    tokens: int
    model: str | None = None
    open: tuple[str, ...] = ()


def summary_of(entry: Entry) -> Summary:
    """What a summary entry says; `Corrupt` where it can't be read."""
    try:
        return msgspec.json.decode(entry.body, type=Summary)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"summary entry {entry.id} (seq {entry.seq}) is not readable: {error}") from error


def told(text: str) -> Message:
    """The message that stands for what a summary covers. A user's, not the system's: what people have said is nobody's instructions."""
    return user(_INTRODUCTION + text)


def has_summary(entries: Sequence[Entry]) -> bool:
    """Whether one of the entries is a summary."""
    return any(entry.kind == kinds.SUMMARY for entry in entries)


def standing(entries: Sequence[Entry], older: Entry | None, *, whole: bool) -> tuple[Entry, Summary, int] | None:
    """The newest summary there is, what it says, and the seq up to which it covers `entries` (of the log's end, in order).

    `older`: the newest one before `entries`. `whole`: there is nothing before them.
    """
    found = [entry for entry in reversed(entries) if entry.kind == kinds.SUMMARY]
    for entry in found if older is None else [*found, older]:
        summary = summary_of(entry)
        if (place := covered(entry, summary, entries, whole=whole)) is not None:
            return entry, summary, place
    return None


def covered(entry: Entry, summary: Summary, entries: Sequence[Entry], *, whole: bool) -> int | None:
    """The seq up to which `entries` are covered by the summary in `entry`; None where what it covers is not there any more.

    In a copy the last message covered is at a lower seq, never at a higher one: hidden entries are not copied.
    """
    last = next((it.seq for it in entries if it.id == summary.last and it.seq <= summary.upto), None)
    if last is not None:
        return summary.upto if any(it.seq == summary.upto and it.id == summary.last for it in entries) else last
    if whole or (entry.version != 1 and entries and entries[0].seq <= summary.upto):  # a copy begins with one commit of all that is copied
        return None
    return entries[0].seq - 1 if entries else summary.upto
