"""Summaries: made after the run from what is new, sent in place of what they cover, never of what is hidden; the record stays as it is."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import InvalidValue, Session, SessionNotFound, Store, UsageError, assistant, sync, user
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.agents import Agent, History, StepInput, Summaries, Workflow, compaction, tool
from holdfast.agents.compaction import PIECE, lines, shortened
from holdfast.agents.history import PAGE, choose, groups_of
from holdfast.agents.record import as_sent
from holdfast.agents.summaries import MOST_MESSAGES, Summary, told
from holdfast.backend import Commit, Counts, Key
from holdfast.entries import MESSAGE, SUMMARY, Entry
from holdfast.models import OpenAIChat
from holdfast.testing.model_server import Answer, ModelServer, Request, call

from .conftest import Counting, Models, ended, sent, settled, short, there, until
from .test_history import ENTRIES, entries_of, paused

INTRODUCTION = told("").text


def is_summing_up(request: Request) -> bool:
    return "Sum up a conversation" in str(request.body.get("instructions") or request.input[0])


class Desk:
    """A model that echoes, and numbers its summaries; what it was asked to sum up."""

    def __init__(self) -> None:
        self.hold: Event | None = None
        self.asked: list[str] = []
        self.fails = False

    def __call__(self, request: Request) -> Answer | str:
        if not is_summing_up(request):
            return f"a{sent(request)[-1][1:]}"
        self.asked.append(sent(request)[-1])
        if self.fails:
            return Answer(status=400, text="a secret")
        return Answer(text=f"S{len(self.asked)}", hold=self.hold)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
async def quiet() -> AsyncGenerator[None]:
    """No test ends while something is summed up."""
    yield
    await settled()


def summing(after: int = 0, keep: int = 1, **more: Any) -> History:
    return History(summaries=Summaries(after=after, keep=keep), **more)


async def summaries(session: Session) -> list[str]:
    return [entry.data()["text"] for entry in await session.entries(kinds=(SUMMARY,))]


async def made(session: Session, number: int) -> None:
    """Wait until the session has so many summaries."""

    async def there_are() -> bool:
        return len(await summaries(session)) >= number

    await until(there_are)


async def talked(agent: Agent, *prompts: str, session_id: str = "s") -> Session:
    """The session after these runs, each summed up where that is due."""
    for prompt in prompts:
        await agent.run(prompt, session_id=session_id)
        await settled()
    return await there(agent, session_id)


# --- what is sent, and when it is made -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_the_run_has_returned_before_and_the_next_does_not_wait(models: Models, memory: Store, desk: Desk, stream: bool) -> None:
    desk.hold = Event()
    agent = models.agent(desk, store=memory, history=summing())
    for prompt in ("q1", "q2"):
        output = await ended(agent, prompt, stream=stream, session_id="s")
    assert output.status == "completed"
    await asyncio.to_thread(models.servers[0].wait_for, 3)  # the summary is asked for, and no answer is given
    session = await there(agent, "s")
    assert (session.info.running, await session.get_summary()) == (False, None)
    await ended(agent, "q3", stream=stream, session_id="s")
    assert sent(models.requests[3]) == ["q1", "a1", "q2", "a2", "q3"]
    before = [it.role for it in await session.get_messages()], await session.get_chat_history()
    desk.hold.set()
    await made(session, 1)
    assert desk.asked[0] == "<conversation>\nuser: q1\nassistant: a1\n</conversation>"
    assert ([it.role for it in await session.get_messages()], await session.get_chat_history()) == before
    desk.hold = None
    await settled()
    await agent.run("q4", session_id="s")
    assert sent(models.requests[-1]) == [f"{INTRODUCTION}S2", "q3", "a3", "q4"]


async def test_a_summary_is_made_of_the_last_one_and_what_is_new(models: Models, memory: Store, desk: Desk) -> None:
    agent = models.agent(desk, store=memory, history=summing(keep=2))
    session = await talked(agent, "q1", "q2", "q3", "q4", "q5")
    assert await summaries(session) == ["S1", "S2", "S3"]
    assert desk.asked[2] == "<summary>\nS2\n</summary>\n\n<conversation>\nuser: q3\nassistant: a3\n</conversation>"
    assert await session.get_summary() == await agent.get_session_summary("s") == "S3"
    assert [it.text for it in await session.get_chat_history()] == [f"{who}{n}" for n in range(1, 6) for who in "qa"]
    assert (await session.entries(kinds=(SUMMARY,)))[-1].data()["model"] == "scripted"


async def test_nothing_is_summed_up_before_it_is_long_enough_nor_by_an_agent_that_was_not_asked_to(chat: Models, memory: Store) -> None:
    desk = Desk()
    agent = chat.agent(desk, store=memory, history=summing(after=200, keep=1))
    await talked(agent, "q1", "q2", "q3")
    await talked(chat.agent(desk, store=memory), "q" * 2000, "q5")
    assert desk.asked == []
    await talked(agent, "q6")
    assert len(desk.asked) == 1
    other = chat.agent(desk, store=memory)
    await other.run("q7", session_id="s")
    assert INTRODUCTION not in str(sent(chat.requests[-1]))
    assert Summaries(after=10**9, keep=0).due([(1, 2)] * (MOST_MESSAGES // 2 + 1))


async def test_a_model_of_its_own_and_its_own_words(chat: Models, memory: Store) -> None:
    cheap = chat.serve(["short and good"])
    given = Summaries(after=0, keep=0, model=chat.model(cheap), instructions="As a haiku.")
    agent = chat.agent(["hello"], store=memory, history=History(summaries=given))
    await talked(agent, "hi")
    assert await agent.get_session_summary("s") == "short and good"
    assert (cheap.requests[0].input[0]["content"], len(cheap.requests)) == ("As a haiku.", 1)
    assert (await there(agent, "s")).info.counts.input_tokens > 0


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (summing(keep=2, runs=1), ["S1", "q3", "a3", "now"]),
        (summing(keep=2, runs=0), ["S1", "now"]),
        (summing(keep=2, messages=3), ["S1", "q3", "a3", "now"]),
        (summing(keep=2, messages=1), ["S1", "now"]),
        (summing(keep=2, messages=0), ["now"]),
        (summing(keep=2, tokens=45), ["S1", "q2", "a2", "q3", "a3", "now"]),
        (summing(keep=2, tokens=35), ["S1", "q3", "a3", "now"]),
        (summing(keep=2, tokens=15), ["q3", "a3", "now"]),
    ],
    ids=[f"bound{n}" for n in range(8)],
)
async def test_bounds_hold_for_the_summary_too_and_what_is_left_out_is_told(
    chat: Models, memory: Store, desk: Desk, history: History, expected: list[str]
) -> None:
    agent = chat.agent(desk, store=memory, history=summing(keep=2))
    await talked(agent, "q1", "q2", "q3")
    bounded = chat.agent(chat.servers[0], store=memory, history=history)
    await bounded.run("now", session_id="s", run_id="r")
    assert sent(chat.requests[-1]) == [it.replace("S1", f"{INTRODUCTION}S1") for it in expected]
    run = await (await there(agent, "s")).get_run("r")
    assert run is not None
    assert run.window["history"]["cut"] is (len(expected) < 6)


async def test_what_was_sent_is_told_again(models: Models, memory: Store, desk: Desk) -> None:
    agent = models.agent(desk, store=memory, history=summing(keep=1))
    session = await talked(agent, "q1", "q2", "q3", "q4")
    await session.rewind(last=2)
    asked = [request for request in models.requests if not is_summing_up(request)]
    runs = [await as_sent(session, run_id) for run_id in dict.fromkeys(it.run_id for it in await session.entries(hidden=True) if it.run_id)]
    assert [[short(it) for it in run[0].requests[0].messages] for run in runs if run] == [sent(request) for request in asked]


# --- what it costs ---------------------------------------------------------------------------------------------------


async def test_a_run_makes_the_same_two_requests(chat: Models, counting: Counting, counted: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=counted, history=summing(after=20, keep=1))
    await talked(agent, "q1", "q2", "q3", "q4")
    assert len(desk.asked) == 1
    counting.made.clear()
    await agent.run("q5", session_id="s")
    await settled()
    assert counting.made == ["commit", "commit"]
    assert sent(chat.requests[-1])[0] == f"{INTRODUCTION}S1"


async def test_a_summary_that_is_further_back_than_a_page_costs_one_request_more(
    chat: Models, counting: Counting, counted: Store, desk: Desk
) -> None:
    agent = chat.agent(desk, store=counted, history=summing(keep=1))
    session = await talked(agent, "q1", "q2")
    await session.append(*[it for n in range(PAGE) for it in (user(f"u{n}"), assistant(f"v{n}"))])
    counting.made.clear()
    quiet = chat.agent(chat.servers[0], store=counted, history=summing(after=10**9))
    output = await quiet.run("now", session_id="s")
    assert counting.made == ["commit", "read", "commit"]
    assert sent(chat.requests[-1])[:3] == [f"{INTRODUCTION}S1", "u130", "v130"]
    run = await session.get_run(output.run_id)
    assert run is not None
    assert run.window["history"]["cut"] is True


async def test_what_the_model_is_sent_does_not_grow_with_the_session(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=memory, history=summing(keep=4))
    session = await memory.session("s")
    sizes: list[int] = []
    for number in (50, 200, 500):
        have = len(await session.get_chat_history()) // 2
        await session.append(*[it for n in range(have, number - 5) for it in (user(f"u{n:03} " * 9), assistant(f"v{n:03} " * 9))])
        await agent.compact("s")
        await session.append(*[it for n in range(number - 5, number) for it in (user(f"u{n:03} " * 9), assistant(f"v{n:03} " * 9))])
        await agent.compact("s")
        sizes.append(len(str(chat.requests[-1].body)))
    assert max(sizes) - min(sizes) < 0.02 * min(sizes)
    assert max(len(str(request.body)) for request in chat.requests) < PIECE + 5_000
    assert sum(text.count("u") > 0 for text in desk.asked) == len(desk.asked)
    told_of = [n for n in range(496) for text in desk.asked if f"u{n:03} " in text]
    assert told_of == list(range(496)), "each message is summed up once, in order"


def test_long_parts_are_told_by_their_beginning_and_their_end() -> None:
    text = f"{'a' * 9000}{'z' * 9000}"
    (line,) = lines(user(text))
    assert (len(line), line[:7], line[-1]) == (8000, "user: a", "z")
    assert shortened("short", 5) == "short"


# --- what is not summed up, and what is not sent any more ------------------------------------------------------------


@tool(confirm=True)
def pay() -> str:
    return "paid"


async def test_a_run_that_waits_is_left_out_until_it_has_ended(models: Models, memory: Store, desk: Desk) -> None:
    def rule(request: Request) -> Any:
        return call("pay") if sent(request)[-1] == "pay" and not is_summing_up(request) else desk(request)

    agent = models.agent(rule, store=memory, tools=[pay], history=summing(keep=1))
    await agent.run("q1", session_id="s")
    waits = await agent.run("pay", session_id="s")
    session = await talked(agent, "q2", "q3", "q4")
    assert "pay" not in "".join(desk.asked)
    assert desk.asked[-1].endswith("user: q3\nassistant: a3\n</conversation>")
    assert sent(models.requests[-2])[:3] == [f"{INTRODUCTION}S2", "q3", "a3"]
    await agent.continue_run(waits, [waits.requirements[0].approve()])
    await settled()
    await talked(agent, "q5", "q6")
    (about,) = [text for text in desk.asked if "user: pay" in text]
    assert "user: pay\nassistant calls pay: {}\npay answers: paid\nassistant: apaid" in about
    assert [text.count("user: pay") for text in desk.asked].count(1) == 1
    assert await session.get_summary() == f"S{len(desk.asked)}"


async def test_a_run_that_waited_and_was_cancelled_is_sent_until_it_is_summed_up(chat: Models, memory: Store, desk: Desk) -> None:
    def rule(request: Request) -> Any:
        return call("pay") if sent(request)[-1] == "pay" and not is_summing_up(request) else desk(request)

    agent = chat.agent(rule, store=memory, tools=[pay], history=summing(keep=1))
    waits = await agent.run("pay", session_id="s")
    await talked(agent, "q1", "q2", "q3")
    await agent.continue_run(waits, [waits.requirements[0].cancel()])
    quiet = chat.agent(chat.servers[0], store=memory, tools=[pay], history=summing(after=10**9))
    await quiet.run("q4", session_id="s")
    told = "=A person cancelled the run that waited with this call: it was not executed."
    assert sent(chat.requests[-1]) == [f"{INTRODUCTION}S2", "q3", "a3", "pay", "pay()", told, "q4"]
    await agent.compact("s")
    assert "assistant calls pay: {}" in desk.asked[-1]


async def test_a_rewind_takes_the_summaries_of_what_it_hides_along(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=store, history=summing(keep=1))
    session = await talked(agent, "q1", "q2", "q3", "q4")
    assert await summaries(session) == ["S1", "S2", "S3"]
    await session.rewind(last=4)
    assert await session.get_summary() == "S1"
    await agent.run("now", session_id="s")
    assert sent(chat.requests[-1]) == [f"{INTRODUCTION}S1", "q2", "a2", "now"]
    await settled()
    await session.rewind(to=1)
    assert await agent.get_session_summary("s") is None
    await agent.run("again", session_id="s")
    assert sent(chat.requests[-1]) == ["again"]


@pytest.mark.parametrize("how", ["pop", "replace", "clear"])
async def test_what_a_summary_covers_is_taken_back_with_it(chat: Models, memory: Store, desk: Desk, how: str) -> None:
    agent = chat.agent(desk, store=memory, history=summing(keep=0))
    session = await talked(agent, "q1", "q2")
    if how == "clear":
        session.clear()
        await session.commit()
        await session.append(user("q3"))
    elif how == "replace":
        await session.replace([user("q3")])
    else:
        popped = await session.pop()
        assert (popped and popped.text, [it.text for it in await session.get_chat_history()]) == ("a2", ["q1", "a1", "q2"])
    left = {"pop": "S1"}.get(how)
    assert await agent.get_session_summary("s") == left


async def test_a_summary_that_comes_in_the_middle_of_a_rewind_goes_with_it(
    chat: Models, counting: Counting, counted: Store, desk: Desk
) -> None:
    agent = chat.agent(desk, store=counted, history=summing(after=10**9, keep=1))
    session = await talked(agent, "q1", "q2", "q3")

    async def meanwhile(_: Key, commit: Commit) -> None:
        if commit.hide:
            counting.before = None
            assert await agent.compact("s") == "S1"

    counting.before = meanwhile
    await session.rewind(to=1)
    assert (await session.get_summary(), await session.get_chat_history()) == (None, [])


async def test_what_is_rewound_while_it_is_summed_up_comes_to_no_summary(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=store, history=summing(keep=1))
    await agent.run("q1", session_id="s")
    desk.hold = Event()
    await agent.run("q2", session_id="s")
    await asyncio.to_thread(chat.servers[0].wait_for, 3)
    session = await there(agent, "s")
    await session.rewind(last=2)
    desk.hold.set()
    await settled()
    assert await session.entries(kinds=(SUMMARY,), hidden=True) == []
    desk.hold = None
    await talked(agent, "q3")
    assert await summaries(session) == ["S2"]
    assert desk.asked[1] == desk.asked[0]


async def test_a_broken_off_answer_is_not_summed_up_for_it_may_be_said_anew(chat: Models, memory: Store) -> None:
    def rule(request: Request) -> Answer | str:
        last = sent(request)[-1]
        return "S" if is_summing_up(request) else Answer(text="half an answer " * 20, cut=True) if last == "q1" else "fine"

    server = chat.serve(rule)
    agent = Agent(chat.impatient(server), store=memory)
    with pytest.raises(Exception):  # noqa: B017, PT011  # the client's own
        await agent.run("q1", session_id="s", stream=True, run_id="r").output()
    session = await talked(agent, "q2")
    assert "half" in str([it.text for it in await session.get_messages()])
    quiet = Agent(chat.impatient(server), store=memory, history=summing(keep=1))
    assert await quiet.compact("s") == "S"
    assert "half" not in sent(chat.requests[-1])[-1]


async def test_what_an_adapter_takes_back_is_in_no_summary(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=memory, history=summing(keep=0))
    items = HoldfastSession("s", memory)
    session = await talked(agent, "q1", "q2")
    assert await items.pop_item() is not None
    assert await summaries(session) == ["S1"]
    await items.clear_session()
    assert await agent.get_session_summary("s") is None


async def test_runs_longer_than_a_page_are_summed_up_too(chat: Models, memory: Store, desk: Desk) -> None:
    session = await memory.session("s")
    for n in range(3):
        async with session.run(user(f"q{n}")) as run:
            await run.append(*[assistant(f"{n} {m}") for m in range(PAGE)])
    agent = chat.agent(desk, store=memory, history=summing(after=10**9, keep=2))
    await talked(agent, "now")
    assert "user: q1" in desk.asked[-1]
    assert "user: q2" not in "".join(desk.asked)


async def test_a_long_session_that_was_never_summed_up_is_stored_step_by_step(
    chat: Models, memory: Store, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "AT_ONCE", 10)
    session = await memory.session("s")
    await session.append(*[it for n in range(6) for it in (user(f"q{n}"), assistant(f"a{n}"))])
    agent = chat.agent(desk, store=memory, history=summing(keep=1))
    assert await agent.compact("s") == "S5"
    assert await summaries(session) == [f"S{n}" for n in range(1, 6)]
    assert [text.count("user:") for text in desk.asked] == [1] * 5


# --- two at once, errors, kills --------------------------------------------------------------------------------------


async def test_of_two_that_sum_up_the_same_one_is_stored(chat: Models, store: Store, desk: Desk) -> None:
    first = chat.agent(desk, store=store)
    second = chat.agent(chat.servers[0], store=store)
    await talked(first, *(f"q{n}" for n in range(6)))
    desk.hold = Event()
    both = [asyncio.create_task(agent.compact("s")) for agent in (first, second)]
    await asyncio.to_thread(chat.servers[0].wait_for, 8)
    desk.hold.set()
    texts = set(await asyncio.gather(*both))
    session = await there(first, "s")
    assert desk.asked[0] == desk.asked[1]
    assert [*texts] == await summaries(session)
    assert await first.compact("s") is None


async def test_a_summary_that_came_while_the_past_was_read_is_not_made_twice(chat: Models, memory: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=memory, history=summing(after=10**9, keep=1))
    session = await talked(agent, "q1", "q2")
    older = await compaction.look(session, 1)
    assert await agent.compact("s") == "S1"
    await session.refresh()
    mine = Summary(v=1, upto=older.upto, last=older.last, text="mine", tokens=9)
    assert await compaction.store(session, mine, older, Counts()) == "S1"
    assert await summaries(session) == ["S1"]


async def test_an_error_of_the_model_harms_nobody_and_is_tried_again(
    chat: Models, memory: Store, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.fails = True
    agent = chat.agent(desk, store=memory, history=summing(keep=1))
    with caplog.at_level(logging.WARNING, "holdfast"):
        session = await talked(agent, "q1", "q2")
    assert [it.status for it in await session.runs()] == ["completed", "completed"]
    assert ["session_id=s" in it.getMessage() and "secret" not in it.getMessage() for it in caplog.records] == [True]
    with pytest.raises(Exception, match="400"):
        await agent.compact("s")
    desk.fails = False
    await talked(agent, "q3")
    assert "q1\nassistant: a1\nuser: q2" in desk.asked[-1]
    assert await session.get_summary() == "S3"


async def test_a_model_that_says_nothing_is_an_error(chat: Models, memory: Store) -> None:
    agent = chat.agent(["hello", " "], store=memory, history=History(summaries=Summaries(keep=0)))
    await agent.run("hi", session_id="s")
    with pytest.raises(UsageError, match="Summaries"):
        await agent.compact("s")


def done(given: StepInput) -> str:
    return given.message


async def test_who_may_not_see_a_session_may_not_sum_it_up(chat: Models, memory: Store) -> None:
    agent = chat.agent(["hello"], store=memory)
    await agent.run("hi", session_id="s", user_id="ada")
    for going in (agent.compact("s", user_id="bob"), agent.get_session_summary("s"), agent.compact("none")):
        with pytest.raises(SessionNotFound):
            await going
    flow = Workflow([done], name="flow", store=memory)
    with pytest.raises(UsageError, match="no model"):
        await flow.compact("s", user_id="ada")


@pytest.mark.parametrize("wrong", [{"after": -1}, {"keep": 1.5}, {"keep": True}, {"instructions": " "}, {"model": 7}])
def test_what_can_not_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        Agent("openai:gpt-5.2", history=History(summaries=Summaries(**wrong)))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loop_that_ends_takes_what_goes_on_along(
    tmp_path: Path, desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    desk.hold = Event()
    if at_once:
        monkeypatch.setattr(compaction, "_BREATH", 60)
    url = f"sqlite:///{tmp_path}/chat.db"

    async def main() -> None:
        async with Store.open(url) as store:
            agent = Agent(OpenAIChat(id="m", base_url=server.base_url, api_key="none"), store=store, history=summing(keep=0))
            await agent.run("q1", session_id="s")
            if not at_once:
                await asyncio.to_thread(server.wait_for, 2)

    with ModelServer(desk) as server:
        asyncio.run(main())
    assert caplog.records == []
    with sync.Store.open(url) as store:
        session = store.session("s")
        assert (session.get_summary(), [it.status for it in session.runs()]) == (None, ["completed"])


KILLED = """
import asyncio, sys
from holdfast import Store
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.agents import Agent, History, Summaries
from holdfast.models import OpenAIChat
async def main():
    agent = Agent(OpenAIChat(id="m", base_url=sys.argv[1], api_key="none"), store=sys.argv[2], history=History(summaries=Summaries(keep=0)))
    await agent.compact("s")
asyncio.run(main())
"""


async def test_a_process_that_is_killed_while_it_sums_up_leaves_the_session_as_it_was(chat: Models, tmp_path: Path, desk: Desk) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as store:
        agent = chat.agent(desk, store=store, history=History(summaries=Summaries(keep=0)))
        session = await talked(agent, "q1", "q2")
        version = session.version
        desk.hold = Event()
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, chat.servers[0].base_url, url)
        await asyncio.to_thread(chat.servers[0].wait_for, 3)
        child.kill()
        assert await child.wait() == -signal.SIGKILL
        desk.hold.set()
        await session.refresh()
        assert (session.version, await session.get_summary()) == (version, None)
        assert await agent.compact("s") == "S2"


# --- copies ----------------------------------------------------------------------------------------------------------


async def test_a_fork_has_the_summary_though_its_log_is_numbered_anew(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=store, history=summing(keep=1))
    session = await talked(agent, "x1", "x2")
    await session.rewind(last=4)
    await talked(agent, "q1", "q2", "q3")
    assert await session.get_summary() == "S3"
    fork = await session.fork("f")
    assert len(await fork.entries()) < (await session.entries())[-1].seq
    await agent.run("now", session_id="f")
    assert sent(chat.requests[-1]) == [f"{INTRODUCTION}S3", "q3", "a3", "now"]
    await settled()
    assert desk.asked[-1].endswith("<conversation>\nuser: q3\nassistant: a3\n</conversation>")
    await talked(agent, "later", session_id="f")
    again = await fork.fork("g")
    await agent.run("now", session_id="g")
    assert sent(chat.requests[-1]) == [f"{INTRODUCTION}S5", "later", "aater", "now"]
    await settled()
    assert await again.get_summary() == "S6"


async def test_a_fork_of_an_earlier_point_has_the_summaries_of_then(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=store, history=summing(keep=1))
    session = await talked(agent, "q1", "q2", "q3")
    first, second = await session.entries(kinds=(SUMMARY,))
    for at, text in ((first.seq - 1, None), (first.seq, "S1"), (second.seq - 1, "S1")):
        fork = await session.fork(at=at)
        assert await fork.get_summary() == text
        await agent.run("now", session_id=fork.id)
        texts = sent(chat.requests[-1])
        assert (texts[0] == f"{INTRODUCTION}S1", "q1" in texts) == (text is not None, text is None)
        await settled()


async def test_an_import_has_the_summary(chat: Models, store: Store, desk: Desk) -> None:
    agent = chat.agent(desk, store=store, history=summing(keep=1))
    session = await talked(agent, "x1", "x2")
    await session.rewind(last=4)
    await talked(agent, "q1", "q2", "q3")
    lines = [line async for line in store.export("s")]
    await store.import_(lines, session_id="i")
    forked = await (await store.import_(lines, session_id="j")).fork("k")
    for session_id in ("i", forked.id):
        await agent.run("now", session_id=session_id)
        assert sent(chat.requests[-1]) == [f"{INTRODUCTION}S3", "q3", "a3", "now"]
        await settled()


def test_the_blocking_form(tmp_path: Path, desk: Desk) -> None:
    with ModelServer(desk) as server, sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:
        agent = sync.Agent(OpenAIChat(id="m", base_url=server.base_url, api_key="none"), store=store, history=summing(after=10**9, keep=1))
        for prompt in ("q1", "q2"):
            agent.run(prompt, session_id="s")
        assert (agent.compact("s"), agent.compact("s"), agent.get_session_summary("s")) == ("S1", None, "S1")
        found = agent.get_session("s")
        assert found is not None
        assert found.get_summary() == "S1"


# --- by properties ---------------------------------------------------------------------------------------------------


def summary_at(entries: list[Entry], place: int, open: tuple[str, ...] = ()) -> list[Entry]:
    """The log with a summary at its end, of everything up to its message at `place`."""
    last = [it for it in entries if it.kind == MESSAGE][place]
    body = Summary(v=1, upto=last.seq, last=last.id, text="what was said", tokens=10, open=open)
    seq = entries[-1].seq + 1
    return [*entries, Entry(seq, "sum", SUMMARY, msgspec.json.encode(body), None, None, 0, 9)]


@given(
    ENTRIES,
    st.data(),
    st.builds(
        History, summaries=st.just(Summaries(after=0, keep=1)), runs=st.none() | st.integers(0, 4), tokens=st.none() | st.integers(0, 200)
    ),
)
@settings(max_examples=300)
def test_nothing_is_missing_without_a_word(made: Any, data: st.DataObject, history: History) -> None:
    """Every run is sent, or covered, or there is `cut`; and what is sent is within the bounds."""
    entries = entries_of(made)
    messages = [it for it in entries if it.kind == MESSAGE]
    if not messages:
        return
    place = data.draw(st.integers(0, len(messages) - 1))
    at = data.draw(st.integers(0, max(len(entries) - 1, 0)))
    log = summary_at(entries, place)[at:]
    past, _ = choose(log, history, "own", whole=at == 0)
    left_out = {"own"} | paused(log)
    ids = {it.id for it in past.messages}
    groups = groups_of([it for it in log if it.kind == MESSAGE and it.run_id not in left_out])
    missing = [
        it for it in groups if not {message.id for _, message in it.messages if message.parts} <= ids and it.end > messages[place].seq
    ]
    assert past.cut or not missing
    assert past.cut or past.summary is not None
    assert history.tokens is None or past.tokens <= history.tokens
    if past.summary is not None:
        assert past.messages[0] == told("what was said")
        assert not [it for it in groups if it.end <= messages[place].seq and {message.id for _, message in it.messages} & ids]
