"""Which part of the past a model is sent: whole runs, the newest first, within bounds; always a history that providers accept.

Pure functions over the entries of one bounded read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from .. import entries as kinds
from ..entries import Entry
from ..errors import InvalidValue
from ..large import size_of
from ..messages import Message, Text, ToolCall, ToolResult
from ..runs import PAUSED, fold

KINDS = (kinds.MESSAGE, kinds.RUN)
PAGE = 256
"""Entries read with a run's first commit. Only a `History` that asks for more than they hold costs another request."""
DEEP_PAGE = 2048
UNKNOWN = "No result was stored: the process ended while this ran. It may or may not have happened; do not repeat it without checking."
"""What the model is told of a call whose result is lost."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the session's past a run sends: whole runs, the newest first, until one of the bounds is met; None is no bound.

    `tokens` are estimated: one for every four bytes of text. A run that is longer than the bounds all by itself is sent in part.
    Without any number the newest 256 entries of the log are looked at, within 32,000 tokens. `service`: the provider keeps the
    conversation and is sent nothing but what is new (OpenAI's responses and conversations); the session's record is kept all the same.
    """

    runs: int | None = None
    messages: int | None = None
    tokens: int | None = None
    service: bool = False

    @property
    def page(self) -> int:
        """How many entries are read with the run's first commit: fewer where few runs are asked for, eight for each."""
        return PAGE if self.runs is None else min(PAGE, 8 * self.runs + 8)

    def __post_init__(self) -> None:
        for name in ("runs", "messages", "tokens"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 0):
                raise InvalidValue(f"History({name}={value!r}): give a whole number, or leave it out for no bound")


DEFAULT = History()
_DEFAULT_TOKENS = 32_000


class Past(msgspec.Struct, frozen=True):
    """What was chosen. `ranges` are the seqs of what is sent, first and last of each stretch, in order; `cut` says that there is more."""

    messages: list[Message]
    ranges: list[list[int]]
    tokens: int
    cut: bool

    def record(self) -> dict[str, Any]:
        """What the run remembers of it."""
        return {"ranges": self.ranges, "messages": len(self.messages), "tokens": self.tokens, "cut": self.cut}


class Group(msgspec.Struct, frozen=True):
    """The messages of one run, or of one turn where no run was told of, with their seqs, and how long they are together."""

    messages: list[tuple[int, Message]]
    tokens: int


def choose(entries: list[Entry], history: History, own: str | set[str | None], *, whole: bool) -> tuple[Past, bool]:
    """The past to send, out of `entries` (of `KINDS`, in order), and whether older entries could still be part of it.

    `whole`: there is nothing before them. Messages of the run (or runs) `own` and of paused runs are left out.
    """
    runs = fold([it for it in entries if it.kind == kinds.RUN], None)
    left_out = ({own} if isinstance(own, str) else own - {None}) | {run.id for run in runs if run.status == PAUSED}
    messages = [entry for entry in entries if entry.kind == kinds.MESSAGE and entry.run_id not in left_out]
    groups = _groups(messages)
    if not whole and len(groups) > 1:
        groups = [it for it in groups if it.messages[0][0] != messages[0].seq]  # it may have begun before what was read
    taken, met = _newest(groups, history)
    wants_more = not met and not whole and history != DEFAULT
    pairs = [pair for group in taken for pair in group.messages]
    sent = [message for _, message in pairs]
    cut = not whole or len(pairs) < sum(len(group.messages) for group in groups)
    return Past(sent, _ranges([seq for seq, _ in pairs], entries), sum([group.tokens for group in taken]), cut), wants_more


def _groups(entries: list[Entry]) -> list[Group]:
    """Whole runs; what no run was told of, by turns that begin with a user. In the order of their ends: others may run in a pause."""
    found: dict[str | int, list[tuple[int, Message]]] = {}
    turn, before = 0, None
    for entry in entries:
        message = entry.message()
        turn += entry.run_id is None and (message.role == "user" or before is not None)
        found.setdefault(turn if entry.run_id is None else entry.run_id, []).append((entry.seq, message))
        before = entry.run_id
    return sorted(map(_group, found.values()), key=lambda group: group.messages[-1][0])


def _group(pairs: list[tuple[int, Message]]) -> Group:
    return Group(pairs, sum([tokens_of(message) for _, message in pairs]))


def _newest(groups: list[Group], history: History) -> tuple[list[Group], bool]:
    """The newest whole groups within the bounds, in order; and whether a bound was met."""
    taken: list[Group] = []
    messages, tokens = 0, 0
    most = _DEFAULT_TOKENS if history == DEFAULT else history.tokens
    for group in reversed(groups):
        messages, tokens = messages + len(group.messages), tokens + group.tokens
        over = _over(len(taken) + 1, history.runs) or _over(messages, history.messages) or _over(tokens, most)
        if over and not taken and not _over(1, history.runs):
            return [_end_of(group, history.messages, most)], True
        if over:
            return taken[::-1], True
        taken.append(group)
    return taken[::-1], False


def _over(value: int, most: int | None) -> bool:
    return most is not None and value > most


def _end_of(group: Group, messages: int | None, tokens: int | None) -> Group:
    """What fits of a group that is too long by itself: what was asked, and the newest of what came of it."""
    first, *rest = group.messages
    kept = [first] if first[1].role == "user" and not _over(1, messages) and not _over(tokens_of(first[1]), tokens) else []
    end: list[tuple[int, Message]] = []
    left = None if tokens is None else tokens - sum([tokens_of(message) for _, message in kept])
    for pair in reversed(rest if kept else group.messages):
        left = None if left is None else left - tokens_of(pair[1])
        if _over(len(kept) + len(end) + 1, messages) or (left is not None and left < 0):
            break
        end.append(pair)
    return _group(kept + end[::-1])


def tokens_of(message: Message) -> int:
    """About how many tokens a model reads in `message`, with what was left out of it."""
    if message.light:
        return 4 + sum(map(size_of, message.parts)) // 4
    sizes = [len(part.content.encode()) if type(part) is Text else len(msgspec.json.encode(part)) for part in message.parts]
    return 4 + sum(sizes) // 4


def _ranges(sent: list[int], entries: list[Entry]) -> list[list[int]]:
    """The seqs of `sent` as stretches in their order, first and last: what else lies in one are entries that are no messages."""
    silent = {entry.seq for entry in entries if entry.kind != kinds.MESSAGE}
    found: list[list[int]] = []
    for seq in sent:
        if found and found[-1][1] < seq and all(between in silent for between in range(found[-1][1] + 1, seq)):
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


# --- validity --------------------------------------------------------------------------------------------------------


def valid(messages: Iterable[Message], *, open: frozenset[str] = frozenset()) -> list[Message]:
    """The messages as every provider accepts them: each tool call is followed at once by its results, and no result has no call.

    Results are moved to their call, a call without one gets a result that says so (`UNKNOWN`), a result without a call is left out.
    `open` are calls that are about to be executed: nothing is made up for them.
    """
    given = [message for message in messages if message.parts]
    results, ends = _results(given), _ends(given)
    sent: list[Message] = []
    for place, message in enumerate(given):
        if message.role == "tool":
            continue
        sent.append(message)
        for call in calls_of(message):
            if (answer := _answer(results, range(place, ends[place, call.id]), call, open)) is not None:
                sent.append(answer)
    return sent


def calls_of(message: Message) -> list[ToolCall]:
    """The tool calls in a message."""
    return [part for part in message.parts if isinstance(part, ToolCall)]


def results_of(message: Message) -> list[ToolResult]:
    """The tool results in a message."""
    return [part for part in message.parts if isinstance(part, ToolResult)]


def _results(messages: list[Message]) -> dict[str | None, list[tuple[int, Message]]]:
    """By call id: each stored result as a message of its own, with its place."""
    found: dict[str | None, list[tuple[int, Message]]] = {}
    for place, message in enumerate(messages):
        if message.role == "tool":
            answers = results_of(message)
            for answer in answers:
                alone = message if len(answers) == 1 else Message("tool", (answer,), message.name)
                found.setdefault(answer.id, []).append((place, alone))
    return found


def _ends(messages: list[Message]) -> dict[tuple[int, str | None], int]:
    """For each call, by its place and id: where the next call with the same id is, which has results of its own."""
    ends: dict[tuple[int, str | None], int] = {}
    following: dict[str | None, int] = {}
    for place in range(len(messages) - 1, -1, -1):
        ids = [call.id for call in calls_of(messages[place])]
        ends |= {(place, id): following.get(id, len(messages)) for id in ids}
        following |= dict.fromkeys(ids, place)
    return ends


def _answer(results: dict[str | None, list[tuple[int, Message]]], places: range, call: ToolCall, open: frozenset[str]) -> Message | None:
    """The first unused result at one of the places; what stands for it where there is none."""
    stored = results.get(call.id, [])
    for at, (place, message) in enumerate(stored):
        if place in places:
            del stored[at]
            return message
    return None if call.id in open else Message("tool", (ToolResult(UNKNOWN, call.id),), call.name)
