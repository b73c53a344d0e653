"""What a run was sent, told from what its session recorded.

A run notes the stretches of the log it sends with its end. Entries never change and hidden ones stay in the record, so each request is put
together again as it was, rewound since or not; `valid` makes up the same results for lost calls that it made up then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from .. import entries as kinds
from ..entries import COMPLETED, INSTRUCTIONS, INTERRUPTED, PAUSED, RUNNING, Entry
from ..messages import Message, decode_message
from ..runs import RunInfo, event_of
from ..session import Session
from .before import input_of, notes_in, rewritten, said_or_done
from .history import calls_of, results_of, valid, with_calls
from .summaries import summary_of, told


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a run, as it was recorded: from its beginning to its end, or to where its process ended.

    `version` is the session's at the beginning. `window` is what it noted, None if it came to no end that could note anything, or was no
    agent's. `before` are messages of earlier tries that it was sent, `given` its input and the results people gave, `said` what the model
    and the tools said, the engine's own words among them.
    """

    number: int
    status: str
    started: int
    version: int
    error: str | None
    instructions: str | None
    window: dict[str, Any] | None
    before: tuple[Message, ...] = ()
    given: tuple[Message, ...] = ()
    inputs: int = 0
    """How many of these two, at the beginning, are the run's input."""
    said: tuple[Message, ...] = ()
    handed: tuple[int, ...] = ()
    """How many answers of the model came before each time that the conversation was handed over."""
    put: tuple[Message, ...] = ()
    """What hooks had put in place of the input."""
    added: tuple[Message, ...] = ()
    """What providers added behind the past, and"""
    more: tuple[str, ...] = ()
    """to the instructions."""

    def asked(self, number: int) -> tuple[str | None, str | None]:
        """The model that request `number` (from 0) went to, and the key of its instructions."""
        window: dict[str, Any] = self.window or {}
        earlier: list[dict[str, Any]] = window.get("handed", [])
        place = sum([answers <= number for answers in self.handed])
        had = earlier[place] if place < len(earlier) else window | {"instructions": self.instructions}
        return had.get("model"), had.get("instructions")

    @property
    def history(self) -> dict[str, Any]:
        """What was sent of the past: `ranges` of seqs, first and last of each stretch, the seq of a `summary`, how many `tool_calls`."""
        return cast("dict[str, Any]", (self.window or {}).get("history") or {})


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the model. `messages` is all of it but the instructions, `new` how many of them, at the end, the last one had not.

    `answer` is what was stored of the answer, `whole` whether that is all of it; None where nothing was. `model` and `instructions` are
    others than those of the request before where the conversation was handed over between the two.
    """

    messages: tuple[Message, ...]
    new: int
    answer: Message | None
    whole: bool
    model: str | None = None
    instructions: str | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A try with its requests. `past`: how many messages at the beginning of each are of before the run. `instructions`: the first one's.

    It is None where nobody knows (`attempt.window` is None), or where this session doesn't: the try was `copied` with a fork, and what it
    noted counts the log of the session where it was made, `session.info.origin`.
    """

    attempt: Try
    instructions: str | None
    past: int | None
    copied: bool
    requests: tuple[Request, ...]


async def as_sent(session: Session, run_id: str) -> list[Sent] | None:
    """What a run sent to its model, try by try; None where there is no such run."""
    run, log = await session.run_log(run_id)
    if run is None:
        return None
    texts = {blob.key: (blob.data or b"").decode() for blob in await session.blobs(INSTRUCTIONS)}
    return [await _sent(session, it, texts) for it in tries(log, run)]


async def _sent(session: Session, attempt: Try, texts: dict[str, str]) -> Sent:
    copied = session.info.origin is not None and attempt.version == 1  # a fork begins with one commit of all copies, numbered anew
    past = None if copied or attempt.window is None else await _past(session, attempt.history)
    made = [_asked(it, attempt, number, texts) for number, it in enumerate(requests(attempt, past or ()))]
    return Sent(
        attempt=attempt,
        instructions=_instructions(attempt, attempt.asked(0)[1], texts),
        past=None if past is None else len(valid(past)),
        copied=copied,
        requests=tuple(made),
    )


def _asked(it: Request, attempt: Try, number: int, texts: dict[str, str]) -> Request:
    model, key = attempt.asked(number)
    return msgspec.structs.replace(it, model=model, instructions=_instructions(attempt, key, texts))


def _instructions(attempt: Try, key: str | None, texts: dict[str, str]) -> str | None:
    return "\n\n".join([text for text in (texts.get(key or ""), *attempt.more) if text]) or None


async def _past(session: Session, history: dict[str, Any]) -> list[Message]:
    found: list[Message] = []
    for first, last in history.get("ranges", []):
        read = await session.entries(after=first - 1, before=last + 1, kinds=(kinds.MESSAGE,), hidden=True)
        found += [entry.message() for entry in read]
    if (calls := history.get("tool_calls")) is not None:
        found = with_calls(found, calls)
    return [*await _summary(session, history.get("summary")), *found]


async def _summary(session: Session, seq: int | None) -> list[Message]:
    """The message that stood for what a summary covers, if one did."""
    if seq is None:
        return []
    read = await session.entries(after=seq - 1, before=seq + 1, kinds=(kinds.SUMMARY,), hidden=True)
    return [told(summary_of(entry).text) for entry in read]


# --- from entries to tries -------------------------------------------------------------------------------------------


def tries(log: Sequence[Entry], run: RunInfo) -> list[Try]:
    """The tries told of by all entries of one run, hidden ones included, in order."""
    parts = list(_parts(log))
    last = len(parts) - 1
    return [_try(parts[:at], part, _noted(log, part[0]), run.status if at == last else None) for at, part in enumerate(parts)]


def _noted(log: Sequence[Entry], beginning: Entry) -> int | None:
    """How many messages of input the run has had by this beginning, if it noted so."""
    windows = [event_of(entry).window for entry in log if entry.kind == kinds.RUN and entry.seq <= beginning.seq]
    return next((window["given"] for window in reversed(windows) if "given" in window), None)


def _parts(log: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries of each try: it begins where the run is said to be running. What was queued is the first one's."""
    begins = [place for place, entry in enumerate(log) if entry.kind == kinds.RUN and event_of(entry).status == RUNNING]
    queued = [entry for entry in log[: begins[0]] if entry.kind == kinds.MESSAGE] if begins else []
    for start, end in zip(begins, [*begins[1:], len(log)], strict=True):
        yield [log[start], *queued, *log[start + 1 : end]]
        queued = []


def _try(earlier: list[list[Entry]], part: list[Entry], noted: int | None, status: str | None) -> Try:
    beginning, *events = [event_of(entry) for entry in part if entry.kind == kinds.RUN]
    end = events[-1] if events else None
    messages = [entry for entry in part if entry.kind == kinds.MESSAGE]
    given = [entry for entry in messages if entry.time == part[0].time or entry.seq < part[0].seq]  # those of one commit have one time
    window = beginning.window | end.window if end and "model" in end.window else None  # whoever ends another's run knows of nothing sent
    notes = notes_in(part, "sent")
    found = _messages(_found(earlier, part[0], given))
    inputs = len(input_of([*found, *_messages(given)], noted))
    asked = [it for entries in earlier for it in notes_in(entries, "sent")] if any(map(said_or_done, found[inputs:])) else []
    changed = [it for it in (*asked, *notes) if it.input]
    return Try(
        number=beginning.attempt,
        status=end.status if end else status or INTERRUPTED,
        started=part[0].time,
        version=part[0].version,
        error=end.error if end else None,
        instructions=(window or beginning.window).get("instructions"),
        window=window,
        before=found[: _kept(found, inputs)],
        given=_messages(given),
        inputs=inputs,
        said=_messages(messages[len(given) :]),
        handed=tuple(_handed(part, given)),
        put=tuple(changed[-1].put) if changed else (),
        added=tuple([decode_message(bytes(it)) for note in notes for messages in note.context.values() for it in messages]),
        more=tuple([text for note in notes for text in note.instructions]),
    )


def _handed(part: list[Entry], given: list[Entry]) -> Iterator[int]:
    """How many answers came before each time that the conversation was handed over."""
    answers = 0
    for entry in part:
        answers += entry.kind == kinds.MESSAGE and entry not in given and entry.message().role == "assistant"
        if entry.kind == kinds.HANDOFF:
            yield answers


def _messages(entries: Sequence[Entry]) -> tuple[Message, ...]:
    return tuple(entry.message() for entry in entries)


def _found(earlier: list[list[Entry]], beginning: Entry, given: list[Entry]) -> list[Entry]:
    """What a try found of those before it: not what was hidden by then.

    What is hidden while the beginning of the try is not was hidden before it: a rewind takes everything after its place. And a try that
    was given the input found none.
    """
    if any(entry.message().role != "tool" for entry in given):
        return []
    return [entry for part in earlier for entry in part if entry.kind == kinds.MESSAGE and (beginning.hidden or not entry.hidden)]


def _kept(found: Sequence[Message], inputs: int) -> int:
    """How much of it a try is sent: not an answer at the end that was broken off, for it says that anew."""
    end = len(found)
    while end > inputs and _is_answer(found[end - 1]):
        end -= 1
    return end


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and not calls_of(message)


# --- from a try to its requests --------------------------------------------------------------------------------------


def requests(attempt: Try, past: Sequence[Message]) -> Iterator[Request]:
    """The requests of one try, in order; `past` is what it was sent of before the run.

    The last may be without an answer: it was under way when the try ended, or about to be.
    """
    before, known = valid([*past, *attempt.added]), 0
    own = [*attempt.before, *attempt.given]
    for message in (*attempt.said, None):
        if message is None and not _asks_on(attempt, own):
            return
        if message is None or message.role == "assistant":
            sent = (*before, *valid(rewritten(own, list(attempt.put), attempt.inputs)))
            whole = message is not None and (attempt.status == COMPLETED or not _is_answer(message))
            yield Request(messages=sent, new=len(sent) - known, answer=message, whole=whole)
            known = len(sent)
        if message is not None:
            own.append(message)


def _asks_on(attempt: Try, own: list[Message]) -> bool:
    """Whether a try that ended here had asked the model again: not when it was over, or at its tools."""
    if attempt.status in (COMPLETED, PAUSED):
        return False
    last = next((place for place in range(len(own) - 1, attempt.inputs - 1, -1) if own[place].role == "assistant"), None)
    if last is None:
        return True
    answered = {it.id for message in own[last:] for it in results_of(message)}
    return bool(answered) and all(call.id in answered for call in calls_of(own[last]))
