"""What of the past is sent: always valid, whole runs, within bounds, the newest; by properties first, then over HTTP."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast import Blob, File, InvalidValue, Message, Native, Store, Text, ToolCall, ToolResult, Uri, assistant, tool, user
from holdfast.agents import History
from holdfast.agents.history import PAGE, Past, calls_of, choose, results_of, tokens_of, valid, with_calls
from holdfast.agents.record import as_sent
from holdfast.entries import MESSAGE, RUN, Entry
from holdfast.large import split
from holdfast.messages import decode_message, encode_message
from holdfast.runs import RunEvent
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Counting, Models, sent, short, there

IDS = st.sampled_from(["1", "2", "3", None])
TEXTS = st.sampled_from(["", "hi", "a longer text " * 9])
CALLS = st.lists(IDS.map(lambda id: ToolCall("look", id, {"n": 1})), max_size=3)
RESULTS = st.lists(IDS.map(lambda id: ToolResult("seen", id)), max_size=2)


def spoken(text: str, calls: list[ToolCall]) -> Message:
    return Message("assistant", (*([Text(text)] if text else []), *calls))


MESSAGES = st.one_of(
    TEXTS.map(user),
    st.builds(spoken, TEXTS, CALLS),
    RESULTS.map(lambda results: Message("tool", tuple(results), "look")),
    st.just(Message("system", (Text("be kind"),))),
)
LOGS = st.lists(MESSAGES, max_size=14)


def check_messages(messages: list[Message], open: frozenset[str] = frozenset()) -> None:
    """Each call is followed at once by its one result, open ones aside; no result has no call."""
    waiting: list[str | None] = []
    for message in messages:
        if message.role == "tool":
            (result,) = results_of(message)
            assert result.id in waiting
            waiting = waiting[waiting.index(result.id) + 1 :] if _skippable(waiting, result.id, open) else []
        else:
            assert set(waiting) <= open
            assert message.parts
            waiting = [it.id for it in calls_of(message)]
    assert set(waiting) <= open


def _skippable(waiting: list[str | None], id: str | None, open: frozenset[str]) -> bool:
    skipped = set(waiting[: waiting.index(id)])
    assert skipped <= open, f"{skipped} are passed over"
    return True


@given(LOGS, st.frozensets(st.sampled_from(["1", "2", "3"])))
def test_whatever_is_in_the_log_what_is_sent_is_valid(log: list[Message], open: frozenset[str]) -> None:
    made = valid(log)
    check_messages(made)
    assert valid(made) == made
    assert [it for it in made if it.role != "tool"] == [it for it in log if it.role != "tool" and it.parts]
    check_messages(valid(log, open=open), open)
    made_up = [it for it in valid(log, open=open) if it.role == "tool" and it not in log and len(it.parts) == 1]
    assert all(result.response == "seen" or result.id not in open for it in made_up for result in results_of(it))


@given(LOGS)
def test_a_result_is_used_once_and_never_before_its_call(log: list[Message]) -> None:
    """Every `seen` that is sent is one of the log's, behind its call there."""
    given_results = [result for it in log if it.role == "tool" for result in results_of(it)]
    used = [result for it in valid(log) if it.role == "tool" for result in results_of(it) if result.response == "seen"]
    for id in {result.id for result in used}:
        assert [it.id for it in used].count(id) <= [it.id for it in given_results].count(id)


# --- choosing --------------------------------------------------------------------------------------------------------

RUNS = st.sampled_from([None, "a", "b", "c", "own"])
STATUSES = st.sampled_from(["running", "completed", "error", "paused"])
ENTRIES = st.lists(st.tuples(RUNS, st.one_of(MESSAGES, STATUSES), st.integers(1, 2)), max_size=24)
BOUND = st.none() | st.integers(0, 8)
HISTORIES = st.builds(History, runs=BOUND, messages=BOUND, tokens=st.none() | st.integers(0, 200))


def entries_of(made: list[tuple[str | None, Message | str, int]]) -> list[Entry]:
    """A log; the seqs leave out what was hidden, the run entries of no run are none."""
    found: list[Entry] = []
    seq = 0
    for run_id, it, step in made:
        seq += step
        if isinstance(it, Message):
            found.append(Entry(seq, f"e{seq}", MESSAGE, encode_message(it), run_id, None, 0, seq))
        elif run_id is not None:
            found.append(Entry(seq, f"e{seq}", RUN, msgspec.json.encode(RunEvent(1, it)), run_id, None, 0, seq))
    return found


def paused(entries: list[Entry]) -> set[str | None]:
    last = {entry.run_id: msgspec.json.decode(entry.body)["status"] for entry in entries if entry.kind == RUN}
    return {run_id for run_id, status in last.items() if status == "paused"}


def of_run(entries: list[Entry], run_id: str | None) -> set[str]:
    return {entry.id for entry in entries if entry.kind == MESSAGE and entry.run_id == run_id and entry.message().parts}


@given(ENTRIES, HISTORIES)
@settings(max_examples=300)
def test_what_is_chosen(made: list[tuple[str | None, Message | str, int]], history: History) -> None:
    entries = entries_of(made)
    past, more = choose(entries, history, "own", whole=True)
    ids, runs = {it.id or "" for it in past.messages}, {it.run_id for it in past.messages}
    assert not more
    assert not runs & ({"own"} | paused(entries))
    assert history.messages is None or len(past.messages) <= history.messages
    assert history.tokens is None or sum(map(tokens_of, past.messages)) <= history.tokens
    assert history.runs is None or len(runs - {None}) <= history.runs
    parted = [run_id for run_id in runs - {None} if not of_run(entries, run_id) <= ids]
    assert not parted or (runs == set(parted) and len(parted) == 1), "a run is sent in part beside others"
    check_messages(valid(past.messages))
    assert reproduced(entries, past) == past.messages


def reproduced(entries: list[Entry], past: Past) -> list[Message]:
    """What the record says was sent: of its stretches, what has parts."""
    record = past.record()
    found = [it.message() for a, b in record["ranges"] for it in entries if a <= it.seq <= b and it.kind == MESSAGE]
    there = [it for it in found if it.parts]
    assert len(there) == record["messages"]
    return there


@given(ENTRIES, HISTORIES)
def test_the_newest_are_kept(made: list[tuple[str | None, Message | str, int]], history: History) -> None:
    """Whatever is left out ended before everything that is sent, but for what is left out on purpose."""
    entries = entries_of(made)
    past, _ = choose(entries, history, "own", whole=True)
    messages = [entry for entry in entries if entry.kind == MESSAGE]
    last = {entry.run_id: entry.seq for entry in messages}
    sent = {it.run_id for it in past.messages} - {None}
    out = {entry.run_id for entry in messages if entry.message().parts} - {None, "own"} - paused(entries) - sent
    assert max([last[run_id] for run_id in out], default=0) < min([last[run_id] for run_id in sent], default=1 << 60)


@given(ENTRIES, st.integers(0, 20))
def test_of_a_log_that_goes_further_back_no_run_is_sent_that_may_have_begun_before(made: Any, at: int) -> None:
    entries = entries_of(made)[at:]
    past, more = choose(entries, History(), "own", whole=False)
    assert not more
    check_messages(valid(past.messages))
    assert reproduced(entries, past) == past.messages
    assert choose(entries, History(runs=10_000), "own", whole=False)[1]


# --- tool calls ------------------------------------------------------------------------------------------------------


def said_with(message: Message) -> list[Any]:
    """What a message says beside its calls and results."""
    return [part for part in message.parts if isinstance(part, Text) and part.content]


@given(LOGS, st.integers(0, 4))
@settings(max_examples=300)
def test_none_but_the_newest_calls_are_kept_and_what_is_sent_is_valid(log: list[Message], keep: int) -> None:
    made = with_calls(log, keep)
    before, after = valid(log), valid(made)
    check_messages(after)
    calls, kept = [[call for it in messages for call in calls_of(it)] for messages in (before, after)]
    assert kept == (calls[-keep:] if keep else [])
    answers, left = [[result for it in messages for result in results_of(it)] for messages in (before, after)]
    assert left == (answers[-keep:] if keep else [])
    assert [part for it in log if it.role != "tool" for part in said_with(it)] == [part for it in made for part in said_with(it)]
    assert with_calls(made, keep) == made
    assert len(made) == len(log)


@given(LOGS, st.integers(0, 3))
def test_a_message_that_is_changed_has_no_payload_that_brings_back_what_was_cut(log: list[Message], keep: int) -> None:
    native = Native("pydantic-ai/2", msgspec.Raw(b"{}"))
    given_messages = [msgspec.structs.replace(it, native=native) for it in log]
    for before, after in zip(given_messages, with_calls(given_messages, keep), strict=True):
        assert after is before or after.native is None


TWICE = spoken("", [ToolCall("look", "1", {"n": 1}), ToolCall("look", "1", {"n": 1})])
SEEN = Message("tool", (ToolResult("seen", "1"),), "look")


@given(ENTRIES, st.builds(History, runs=BOUND, messages=BOUND, tokens=st.none() | st.integers(0, 200), tool_calls=st.integers(0, 3)))
@example([(None, TWICE, 1), (None, SEEN, 1), (None, SEEN, 1)], History(tool_calls=1))
@example([("a", TWICE, 1), ("b", SEEN, 1), ("c", SEEN, 1)], History(tool_calls=1))
@settings(max_examples=300)
def test_the_record_tells_what_was_sent_of_few_calls(made: Any, history: History) -> None:
    entries = entries_of(made)
    past, _ = choose(entries, history, "own", whole=True)
    record = past.record()
    found = [it.message() for a, b in record["ranges"] for it in entries if a <= it.seq <= b and it.kind == MESSAGE]
    assert valid(with_calls(found, record["tool_calls"])) == valid(past.messages)
    assert sum([len(calls_of(it)) for it in past.messages]) <= (history.tool_calls or 0)
    assert history.tokens is None or sum(map(tokens_of, past.messages)) <= history.tokens
    check_messages(valid(past.messages))


@pytest.mark.parametrize(
    "wrong", [{"runs": -1}, {"messages": 1.5}, {"tokens": "many"}, {"runs": True}, {"tool_calls": -1}, {"summaries": True}]
)
def test_a_bound_that_is_no_number_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        History(**wrong)


# --- over HTTP -------------------------------------------------------------------------------------------------------


def look(n: int) -> int:
    return n


def answer(request: Request) -> Any:
    said = sent(request)
    return call("look", n=1) if said[-1].startswith("q") else f"to {len(said)}"


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History(runs=2), ["q1", "look()", "=1", "to 7", "q2", "look()", "=1", "to 11"]),
        (History(runs=0), []),
        (History(messages=5), ["q2", "look()", "=1", "to 11"]),
        (History(messages=0), []),
        (History(messages=2), ["q2", "to 11"]),
        (History(messages=3), ["q2", "to 11"]),
        (History(tokens=0), []),
    ],
    ids=str,
)
async def test_windows(models: Models, memory: Store, history: History, expected: list[str]) -> None:
    server = models.serve(answer)
    agent = models.agent(server, store=memory, tools=[look])
    for n in range(3):
        await agent.run(f"q{n}", session_id="s")
    await models.agent(server, store=memory, tools=[look], history=history).run("now", session_id="s")
    assert sent(server.requests[-1])[:-1] == expected
    run = (await (await there(agent, "s")).runs())[-1]
    assert run.window["history"]["cut"] is True


async def test_a_window_deeper_than_a_page_costs_one_more_request_and_is_right(chat: Models, counting: Counting, counted: Store) -> None:
    session = await counted.session("s")
    texts = [f"{word}{n}" for n in range(300) for word in ("q", "a")]
    await session.append(*((user if text[0] == "q" else assistant)(text) for text in texts))
    agent = chat.agent(["ok"] * 3, store=counted, history=History(runs=250))
    counting.made.clear()
    await agent.run("now", session_id="s")
    assert (counting.made, sent(chat.requests[0])) == (["commit", "read", "commit"], [*texts[-500:], "now"])
    shallow = chat.agent(["ok"], store=counted, history=History(runs=PAGE // 4))
    counting.made.clear()
    await shallow.run("now", session_id="s")
    assert counting.made == ["commit", "commit"]
    assert len(sent(chat.requests[1])) == 2 * (PAGE // 4) + 1


@pytest.mark.parametrize("size", [9_000, 300_000])
async def test_a_picture_is_sent_with_the_next_question_however_large_it_is(models: Models, memory: Store, size: int) -> None:
    """Whether its bytes are kept in the log's entry or beside it, it counts as it does for a model."""
    asked = Message("user", (Text("What is it?"), Blob("image", base64.b64encode(bytes(size)).decode(), "image/png")))
    agent = models.agent(["A cat.", "Black.", "Tom."], store=memory)
    for question in (asked, "And its colour?", "And its name?"):
        await agent.run(question, session_id="s")
    assert sent(models.requests[-1]) == ["What is it?", "A cat.", "And its colour?", "Black.", "And its name?"]
    window = (await (await there(agent, "s")).runs())[-1].window["history"]
    assert (1_000 < window["tokens"] < 1_100, window["cut"]) == (True, False)


def test_what_is_no_text_counts_the_same_in_both_forms() -> None:
    for part in (Blob("image", "x" * 400_000), Uri("video", "data:video/mp4;base64," + "x" * 40_000), File("audio", "id")):
        message = Message("user", (part, Text("y" * 20_000)))
        light = decode_message(split(encode_message(message))[0])
        assert (light.light, tokens_of(message), tokens_of(light)) == (True, 6_004, 6_004)
    huge = Message("user", (Blob("video", "x" * 8_000_000),))
    assert 8_004 <= tokens_of(huge) == tokens_of(decode_message(split(encode_message(huge))[0])) < 8_010


async def test_what_others_left_in_the_log_is_sent_validly(models: Models, memory: Store) -> None:
    session = await memory.session("s")
    await session.append(
        tool("orphan", call_id="0"),
        user("one"),
        Message("assistant", (ToolCall("look", "1", {"n": 1}), ToolCall("look", "2", {"n": 2}))),
        user("two"),
        tool("late", call_id="2", name="look"),
        assistant(""),
        Message("assistant", ()),
        Message("critic", (Text("hm"),)),
    )
    await models.agent(["ok"], store=memory).run("now", session_id="s")
    made = sent(models.requests[0])
    assert "=orphan" not in made
    assert made[:3] == ["one", "look()", "look()"]
    assert made[4:6] == ["=late", "two"]
    assert made[-1] == "now"


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0, "q0 both done q1 both done"),
        (1, "q0 both done q1 both look() =2 done"),
        (3, "q0 both look() =2 done q1 both look() look() =1 =2 done"),
        (9, "q0 both look() look() =1 =2 done q1 both look() look() =1 =2 done"),
    ],
)
async def test_few_tool_calls_are_sent_and_recorded_as_they_were(models: Models, memory: Store, keep: int, expected: str) -> None:
    both = Answer(text="both", calls=(Call("look", {"n": 1}), Call("look", {"n": 2})))
    server = models.serve([both, "done", both, "done", "ok"])
    for n in range(2):
        await models.agent(server, store=memory, tools=[look]).run(f"q{n}", session_id="s")
    agent = models.agent(server, store=memory, tools=[look], history=History(tool_calls=keep))
    await agent.run("now", session_id="s", run_id="r")
    assert " ".join(sent(server.requests[-1])) == f"{expected} now"
    told = await as_sent(await there(agent, "s"), "r")
    assert told is not None
    assert " ".join(short(it) for it in told[0].requests[0].messages) == f"{expected} now"
    assert told[0].attempt.history["tool_calls"] == keep
