"""Which part of the past a model is sent: whole runs, the newest first, within bounds; always a history that providers accept.

Pure functions over the entries of one bounded read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from .. import entries as kinds
from ..entries import INTERRUPTED, PAUSED, QUEUED, RUNNING, Entry
from ..errors import InvalidValue
from ..large import size_of
from ..messages import Blob, File, Message, Other, Part, Reasoning, Text, ToolCall, ToolResult, Uri
from ..runs import event_of, fold
from .summaries import Summaries, Summary, standing, told

KINDS = (kinds.MESSAGE, kinds.RUN)
PAGE = 256
"""Entries read with a run's first commit. Only a `History` that asks for more than they hold costs another request."""
DEEP_PAGE = 2048
MEDIA = 1_000
"""Tokens that a picture, or what else is no text, is taken for: what a model makes of it has little to do with its bytes.

Beyond so many thousand bytes each thousand is one, for a provider takes a request of some 30 megabytes at most.
"""
UNKNOWN = "No result was stored: the process ended while this ran. It may or may not have happened; do not repeat it without checking."
"""What the model is told of a call whose result is lost."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the session's past a run sends: whole runs, the newest first, until one of the bounds is met; None is no bound.

    `tokens` are estimated: one for every four bytes of text, 1,000 for each picture, sound, video or file (one
    for every 1,000 bytes of it, where that is more). A run that is longer than the bounds all by itself is sent in part. Without any number
    the newest 256 entries of the log are looked at, within 32,000 tokens.
    `tool_calls`: how many of the newest tool calls are sent with their results; older ones are left out, what was said beside them is not.
    `summaries`: what came before the runs that are sent is summed up, and the summary sent first. `service`: the provider keeps the
    conversation and is sent nothing but what is new (OpenAI's responses and conversations); the session's record is kept all the same.
    """

    runs: int | None = None
    messages: int | None = None
    tokens: int | None = None
    tool_calls: int | None = None
    service: bool = False
    summaries: Summaries | None = None

    @property
    def page(self) -> int:
        """How many entries are read with the run's first commit: fewer where few runs are asked for, eight for each."""
        return PAGE if self.runs is None or self.summaries is not None else min(PAGE, 8 * self.runs + 8)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which entries are read to choose from."""
        return KINDS if self.summaries is None else (*KINDS, kinds.SUMMARY)

    @property
    def plain(self) -> bool:
        """Whether no number says how far to look back."""
        return self.runs is None and self.messages is None and self.tokens is None

    def __post_init__(self) -> None:
        for name in ("runs", "messages", "tokens", "tool_calls"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 0):
                raise InvalidValue(f"History({name}={value!r}): give a whole number, or leave it out for no bound")
        if not (self.summaries is None or isinstance(self.summaries, Summaries)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValue(f"History(summaries={self.summaries!r:.80}): write Summaries(), or leave it out for none")


DEFAULT = History()
_DEFAULT_TOKENS = 32_000


class Past(msgspec.Struct, frozen=True):
    """What was chosen. `ranges` are the seqs it is taken from, first and last of each stretch, in order; `cut` says that there is more.

    `summary`: the seq of the summary that is sent, the first of `messages`. `calls`: none but so many tool calls were kept. `fresh`: how
    long the runs are that no summary covers (tokens, messages), `reached` whether these are all of them.
    """

    messages: list[Message]
    ranges: list[list[int]]
    tokens: int
    cut: bool
    summary: int | None = None
    calls: int | None = None
    fresh: tuple[tuple[int, int], ...] = ()
    reached: bool = True

    def record(self) -> dict[str, Any]:
        """What the run remembers of it: as `messages`, how many of the session's own were sent."""
        said = len(self.messages) - (self.summary is not None)
        more = {"summary": self.summary, "tool_calls": self.calls}
        given = {name: value for name, value in more.items() if value is not None}
        return {"ranges": self.ranges, "messages": said, "tokens": self.tokens, "cut": self.cut, **given}


class Group(msgspec.Struct, frozen=True):
    """The messages of one run, or of one turn where no run was told of, with their seqs, and how long they are together.

    Messages without parts are none that are sent: they count for nothing, but keep their places.
    """

    messages: list[tuple[int, Message]]
    tokens: int

    @property
    def end(self) -> int:
        """The seq of the last of them."""
        return self.messages[-1][0]

    @property
    def size(self) -> tuple[int, int]:
        """Tokens and messages."""
        return self.tokens, sum([bool(message.parts) for _, message in self.messages])


def choose(
    entries: list[Entry],
    history: History,
    own: str | set[str | None],
    *,
    whole: bool,
    older: Entry | None = None,
    left: Collection[str] = (),
) -> tuple[Past, bool]:
    """The past to send, out of `entries` (of the history's kinds, in order), and whether older entries could still be part of it.

    `whole`: there is nothing before them. Messages of the run (or runs) `own`, of what is at work under them
    and of paused runs are left out, of queued ones too but for those in `left`, which nobody takes up any more. `older`: the newest
    summary from before the entries, where it is known.
    """
    runs = fold([it for it in entries if it.kind == kinds.RUN], None)
    mine = {own} if isinstance(own, str) else own - {None}
    waits = {run.id for run in runs if run.status == PAUSED or (run.status == QUEUED and run.id not in left)}
    at_work = waits | {run.id for run in runs if run.root in mine and run.status in (RUNNING, INTERRUPTED)}
    left_out = mine | at_work
    messages = [entry for entry in entries if entry.kind == kinds.MESSAGE and entry.run_id not in left_out]
    groups = groups_of(messages)
    found = None if history.summaries is None else standing(entries, older, whole=whole)
    entry, summary, place = found or (None, None, 0)
    uncovered = groups if summary is None else [it for it in groups if not is_covered(it, summary, place)]
    fresh = uncovered if whole or len(groups) < 2 else _without_parts(uncovered, entries, messages[0].seq)
    reached = whole or bool(found and entries and entries[0].seq <= place and len(fresh) == len(uncovered))
    past, met = _bounded(fresh, entries, history, entry, summary)
    return msgspec.structs.replace(past, cut=past.cut or not reached, reached=reached), not met and not reached and not history.plain


def _bounded(fresh: list[Group], entries: list[Entry], history: History, entry: Entry | None, summary: Summary | None) -> tuple[Past, bool]:
    """The summary and the newest of the `fresh` runs, as far as the bounds let them; and whether a bound was met."""
    stands = told(summary.text) if summary is not None and _fits(summary, history) else None
    groups = _with_calls(fresh, history.tool_calls)
    taken, met = _newest(groups, history, stands)
    pairs = [pair for group in taken for pair in group.messages]
    past = Past(
        messages=([stands] if stands else []) + [message for _, message in pairs if message.parts],
        ranges=_ranges([seq for seq, _ in pairs], entries),
        tokens=sum([group.tokens for group in taken]) + (tokens_of(stands) if stands else 0),
        cut=len(pairs) < sum([len(group.messages) for group in groups]) or (stands is None and summary is not None),
        summary=entry.seq if entry and stands else None,
        calls=history.tool_calls,
        fresh=tuple([group.size for group in fresh]),
    )
    return past, met


def is_covered(group: Group, summary: Summary, place: int) -> bool:
    """Whether the summary, which reaches up to seq `place`, tells what is in the group."""
    return group.end <= place and group.messages[0][1].run_id not in summary.open


def _fits(summary: Summary, history: History) -> bool:
    """Whether the bounds leave room for the summary."""
    return not _over(1, history.messages) and not _over(tokens_of(told(summary.text)), _most_tokens(history))


def _without_parts(groups: list[Group], entries: list[Entry], first: int) -> list[Group]:
    """The groups but for those that may have begun before what was read, whose first message has the seq `first`."""
    parts = begun_before(entries)
    return [it for it in groups if it.messages[0][0] != first and it.messages[0][1].run_id not in parts]


def begun_before(entries: Iterable[Entry]) -> set[str]:
    """The runs of which only a part is among the entries: they began before, and went on after a pause or a failure."""
    first: dict[str, Entry] = {}
    told: set[str] = set()
    for entry in entries:
        if entry.run_id is not None:
            first.setdefault(entry.run_id, entry)
            told |= {entry.run_id} if entry.kind == kinds.RUN else set()
    return {id for id in told if not _begins(first[id])}


def _begins(entry: Entry) -> bool:
    """Whether the entry is a run's very beginning, its place in the queue if it had one, not that of another try."""
    if entry.kind != kinds.RUN or (event := event_of(entry)).status not in (RUNNING, QUEUED):
        return False
    return event.status == QUEUED or "given" in event.window or (event.attempt == 1 and "model" not in event.window)


def groups_of(entries: Iterable[Entry]) -> list[Group]:
    """Whole runs; what no run was told of, by turns that begin with a user. In the order of their ends: others may run in a pause."""
    found: dict[str | int, list[tuple[int, Message]]] = {}
    turn, before = 0, None
    for entry in entries:
        message = entry.message()
        turn += entry.run_id is None and (message.role == "user" or before is not None)
        found.setdefault(turn if entry.run_id is None else entry.run_id, []).append((entry.seq, message))
        before = entry.run_id
    return sorted(map(_group, found.values()), key=lambda group: group.end)


def _group(pairs: list[tuple[int, Message]]) -> Group:
    return Group(pairs, sum([tokens_of(message) for _, message in pairs]))


def _most_tokens(history: History) -> int | None:
    return _DEFAULT_TOKENS if history.plain else history.tokens


def _newest(groups: list[Group], history: History, summary: Message | None) -> tuple[list[Group], bool]:
    """The newest whole groups within the bounds, in order, beside the summary; and whether a bound was met."""
    taken: list[Group] = []
    most_messages, most = history.messages, _most_tokens(history)
    if summary is not None:
        most_messages = None if most_messages is None else most_messages - 1
        most = None if most is None else most - tokens_of(summary)
    runs, messages, tokens = 0, 0, 0
    for group in reversed(groups):
        more, count = group.size
        runs, messages, tokens = runs + (count > 0), messages + count, tokens + more
        over = _over(runs, history.runs) or _over(messages, most_messages) or _over(tokens, most)
        if over and runs == 1 and not _over(1, history.runs):
            return [_end_of(group, most_messages, most), *taken[::-1]], True
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
    length, count = _group(kept).size
    for pair in reversed(rest if kept else group.messages):
        length, count = length + tokens_of(pair[1]), count + bool(pair[1].parts)
        if _over(count, messages) or _over(length, tokens):
            break
        end.append(pair)
    return _group(kept + end[::-1])


def tokens_of(message: Message) -> int:
    """About how many tokens a model reads in `message`, with what was left out of it; none in one without parts, which is not sent."""
    if not message.parts:
        return 0
    return 4 + sum([_bytes_of(part, light=message.light) for part in message.parts]) // 4


def _bytes_of(part: Part, *, light: bool) -> int:
    """As how many bytes of text a part counts."""
    if type(part) is Text and not light:
        return len(part.content.encode())
    size = size_of(part) if light else len(msgspec.json.encode(part))
    return max(4 * MEDIA, 4 * size // 1000) if isinstance(part, Blob | Uri | File) else size


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


# --- tool calls ------------------------------------------------------------------------------------------------------


def _with_calls(groups: list[Group], keep: int | None) -> list[Group]:
    """The groups with none but the newest `keep` tool calls.

    What nothing is left of stays in its place, without parts: a run's record names it too, for which call a result belongs to is told by
    the results before it.
    """
    if keep is None:
        return groups
    left = iter(with_calls([message for group in groups for _, message in group.messages], keep))
    return [_group([(seq, next(left)) for seq, _ in group.messages]) for group in groups]


def with_calls(messages: Sequence[Message], keep: int) -> list[Message]:
    """The messages with none but the newest `keep` tool calls and their results; one of which nothing is left has no parts.

    A result belongs to the nearest call before it with its id, as in `valid`: one without a call is left out too. A message that is
    changed has no `native` any more, for that would bring back what was taken out.
    """
    kept = _kept(messages, keep)
    answered: dict[str | None, list[bool]] = {}
    found: list[Message] = []
    for message, most in zip(messages, kept, strict=True):
        if message.role == "tool":
            found.append(_with_parts(message, [_is_kept(part, answered) for part in message.parts]))
            continue
        calls = calls_of(message)
        stays = [place >= len(calls) - most for place in range(len(calls))]
        answered |= {id: [stay for call, stay in zip(calls, stays, strict=True) if call.id == id] for id in {call.id for call in calls}}
        left = iter(stays)
        found.append(_with_parts(message, [next(left) if isinstance(part, ToolCall) else True for part in message.parts]))
    return found


def _kept(messages: Sequence[Message], keep: int) -> list[int]:
    """For each message, how many of its calls are kept: its last ones."""
    kept: list[int] = []
    for message in reversed(messages):
        calls = 0 if message.role == "tool" else len(calls_of(message))
        kept.append(min(calls, keep))
        keep -= kept[-1]
    return kept[::-1]


def _is_kept(part: Any, answered: dict[str | None, list[bool]]) -> bool:
    """Whether a part of a tool's message stays: a result does with its call. The next result with this id is another call's."""
    if not isinstance(part, ToolResult):
        return True
    calls = answered.get(part.id)
    return bool(calls) and calls.pop(0)


def _with_parts(message: Message, stays: list[bool]) -> Message:
    if all(stays):
        return message
    parts = tuple([part for part, stay in zip(message.parts, stays, strict=True) if stay])
    silent = all(isinstance(part, Reasoning | Other) or (isinstance(part, Text) and not part.content) for part in parts)
    return msgspec.structs.replace(message, parts=() if silent else parts, native=None)


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
