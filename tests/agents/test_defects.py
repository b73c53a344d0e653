"""What other systems were seen to do to their users' sessions, each reproduced there, and not done here.

Defects and their tests: here, in `test_defects_of_stores` (S), and for frameworks in `tests/adapters/test_defects` (F).

Agent Framework 1.23
    1 repeated turns are lost: repeated_turns_are_dropped_as_duplicates
    2 history beside the service's own: two_histories_send_everything_twice, the_providers_conversation_and_the_history_are_both_sent
    3 a provider stays on the agent: a_provider_added_for_one_session_stays_on_the_agent
    4 an error loses input and tools' results: a_model_error_loses_the_input, an_error_after_a_tool_loses_the_tools_result
    5 an abandoned stream: an_abandoned_stream_stores_nothing
    6 a crash in mid-run: a_crash_after_a_tool_loses_its_result, a_crash_after_a_call_leaves_a_call_without_result_for_the_next_run
    7 runs at once: runs_at_once_on_one_session_all_see_an_empty_past
    8 20 increments at once give 1: increments_at_once_are_lost
    9 types in the state, and dicts that look like one: S a_value_that_is_no_json_loses_the_session
    10 ids in traces: the_conversations_id_in_the_traces_changes_or_is_missing
    11 cost of an append: S an_append_reads_what_is_there
    12 approvals (kept there): a_pending_decision_is_lost_with_its_process
    13 appends of 4 processes (kept there): S eight_processes_lose_messages_and_counts
Agent Kernel 0.6
    pickles, renamed classes: S a_class_that_was_renamed_makes_the_session_unreadable
    every key is written at every turn: S every_key_is_written_at_every_turn
    14 commands a turn: S a_turn_is_many_commands
    bytes grow with the turns: S a_turn_costs_more_the_longer_the_session_is
    lost updates: two_tasks_lose_turns_and_state, S two_processes_lose_turns_and_state
    back again: S a_deleted_key_comes_back, a_cleared_history_comes_back, a_new_session_has_what_the_deleted_one_held
    a hook that halts: a_hook_that_halts_loses_what_it_wrote
    what puts off no expiry: S only_a_run_that_went_well_puts_off_expiry
    errors as answers: a_provider_error_becomes_an_answer_with_its_secrets
    OpenAI: F a_limit_gives_the_oldest_items, F and S a_turn_with_an_image_is_no_part_of_the_history
    LangGraph: F a_checkpointer_can_not_be_stored_or_keeps_every_write_for_ever; ours is the one that the user gives
    smolagents: two_users_of_one_agent_read_each_other, F two_users_of_one_graph_read_each_other
    CrewAI, ADK: there are no adapters
Agno 3.1, 2.9
    1 a locked database: S a_locked_database_is_reported_as_completed
    2 values that are no JSON: S a_value_that_is_no_json_loses_the_session, what_can_not_be_stored_is_found_out_after_the_model_was_paid
    3 another user: a_run_of_another_user_lands_in_the_session
    4 kill -9: a_kill_in_the_model_call_loses_the_message_and_every_trace
    5 an abandoned stream: an_abandoned_stream_stores_nothing
    6 approvals: two_approvals_at_once_run_the_tool_twice, approving_one_of_two_ends_the_run
    7 order after deletions: the_order_of_runs_is_lost_when_some_are_taken_away
    8 runs that expire: S runs_expire_one_by_one_while_their_session_lives
    9 NaN: S nan_in_the_state_is_stored_as_what_is_no_json
    10 summaries: a_summary_sends_everything_again
    11 names: S naming_a_session_sends_all_of_it
    12 a model's error (kept there): a_model_error_loses_the_input
    lost updates: two_tasks_lose_turns_and_state, a_blocking_caller_can_not_use_it_from_two_threads,
        S two_processes_lose_turns_and_state (run numbers and metrics too), eight_processes_lose_messages_and_counts
    growth: S a_turn_costs_more_the_longer_the_session_is, what_is_held_in_memory_grows_with_the_sessions,
        instructions_are_stored_with_every_run, a_page_of_the_list_reads_every_session_and_its_runs
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import InstrumentationSettings

import holdfast.sync
from holdfast import Conflict, Message, Session, SessionNotFound, Store, user
from holdfast.agents import Agent, History, HistoryProvider, InMemoryHistoryProvider, Prehook, RunOutput, tool
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Models, ended, only_run, sent, statuses, texts, there, until


@pytest.fixture
def responses() -> Generator[Models]:
    """The protocol whose provider can keep the conversation."""
    made = Models("responses")
    yield made
    made.close()


BOTH = pytest.mark.parametrize("stream", [False, True])


def counts(request: Request) -> Answer | str:
    """A model that counts once in a run."""
    return "ok" if sent(request)[-1] == "=counted" else call("count")


# --- repeated and doubled turns --------------------------------------------------------------------------------------


@BOTH
async def test_repeated_turns_are_dropped_as_duplicates(models: Models, store: Store, stream: bool) -> None:
    agent = models.agent(["yes"] * 4, store=store)
    for _ in range(4):
        await ended(agent, "again?", stream=stream, session_id="s")
    assert await texts(await there(agent, "s")) == ["again?", "yes"] * 4
    assert sent(models.requests[3]) == ["again?", "yes"] * 3 + ["again?"]


class Kept(HistoryProvider):
    def __init__(self) -> None:
        super().__init__("kept")
        self.messages: list[Message] = []

    async def get_messages(self, session_id: str, *, state: dict[str, Any]) -> list[Message]:
        return list(self.messages)

    async def save_messages(self, session_id: str, messages: Any, *, state: dict[str, Any]) -> None:
        self.messages += messages


async def test_two_histories_send_everything_twice(chat: Models, store: Store) -> None:
    agent = chat.agent(["a", "b"], store=store, context_providers=[InMemoryHistoryProvider(), Kept()])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    assert sent(chat.requests[1]) == ["1", "a", "2"]


@BOTH
async def test_the_providers_conversation_and_the_history_are_both_sent(responses: Models, store: Store, stream: bool) -> None:
    agent = responses.agent(["a", "b", "c"], store=store, history=History(service=True))
    await ended(agent, "1", stream=stream, session_id="s")
    known = (await there(agent, "s")).service_session_id
    await ended(agent, "2", stream=stream, session_id="s")
    kept = Agent(responses.model(responses.servers[0]), store=store, context_providers=[Kept()])
    await ended(kept, "3", stream=stream, session_id="s")
    asked = [(it.body.get("previous_response_id"), sent(it)) for it in responses.requests]
    assert asked == [(None, ["1"]), (known, ["2"]), (None, ["3"])], "a history of one's own is the one source, and so is the provider"
    assert await texts(await there(agent, "s")) == ["1", "a", "2", "b", "3", "c"], "the record is kept all the same"


async def test_a_provider_added_for_one_session_stays_on_the_agent(chat: Models, store: Store) -> None:
    agent = chat.agent(["a", "b"], store=store)
    before = agent.crew.providers
    await agent.run("1", session_id="s")
    await agent.run("2", session_id="t")
    assert agent.crew.providers == before == ()
    assert sent(chat.requests[1]) == ["2"]


# --- lost input and results ------------------------------------------------------------------------------------------


@BOTH
async def test_a_model_error_loses_the_input(models: Models, store: Store, stream: bool) -> None:
    agent = models.agent([Answer(status=400)], store=store)
    with pytest.raises(Exception, match="400"):
        await ended(agent, "hi", stream=stream, session_id="s")
    session = await there(agent, "s")
    assert (await texts(session), await statuses(session)) == (["hi"], ["error"])


@BOTH
async def test_an_error_after_a_tool_loses_the_tools_result(models: Models, store: Store, stream: bool) -> None:
    def pay() -> str:
        """Pay."""
        return "paid"

    agent = models.agent([call("pay"), Answer(status=400)], store=store, tools=[pay])
    with pytest.raises(Exception, match="400"):
        await ended(agent, "hi", stream=stream, session_id="s")
    assert await texts(await there(agent, "s")) == ["hi", "pay()", "=paid"]


async def test_an_abandoned_stream_stores_nothing(models: Models, store: Store) -> None:
    agent = models.agent(["a long answer in many pieces, of which one is read"], store=store)
    stream = agent.run("hi", session_id="s", stream=True)
    async for event in stream:
        if event.text:
            break
    await stream.aclose()
    session = await there(agent, "s")
    assert (await texts(session))[0] == "hi"
    assert (await statuses(session))[0] in ("cancelled", "completed"), "it may have ended before it was let go of"


async def test_a_crash_after_a_call_leaves_a_call_without_result_for_the_next_run(models: Models, store: Store) -> None:
    begun = asyncio.Event()

    async def pay() -> str:
        """Pay."""
        begun.set()
        await asyncio.sleep(30)
        return "never"

    agent = models.agent([call("pay"), "ok"], store=store, tools=[pay])
    task = asyncio.create_task(agent.run("hi", session_id="s"))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await agent.run("and now?", session_id="s")).content == "ok"
    results = [it for it in sent(models.requests[1]) if it.startswith("=")]
    assert len(results) == 1, "the call has a result that says that nobody knows; the request itself is checked at the end"


PAYS = """
import re
import sys
from holdfast.models import OpenAIChat
from holdfast.sync import Agent
url, folder = sys.argv[1:]

def pay() -> str:
    return "paid"

agent = Agent(OpenAIChat(id="x", base_url=url, api_key="none"), store=f"sqlite:///{folder}/chat.db", tools=[pay])
agent.run("hi", session_id="s", run_id="r", lease=0.2)
"""


async def test_a_crash_after_a_tool_loses_its_result(chat: Models, file_store: Store, tmp_path: Path) -> None:
    server = chat.serve(lambda request: call("pay") if sent(request)[-1] == "hi" else Answer(hold=threading.Event()))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PAYS, server.base_url, tmp_path)
    await asyncio.to_thread(server.wait_for, 2)
    process.kill()
    await process.wait()

    def pay() -> str:
        """Pay."""
        raise AssertionError("it had been paid")

    agent = chat.agent(["ok", "done"], store=file_store, tools=[pay])
    assert (await agent.run("and now?", session_id="s")).content == "ok"
    assert sent(chat.requests[-1]) == ["hi", "pay()", "=paid", "and now?"], "the result had been stored before the model was asked again"
    assert (await agent.continue_run("r", session_id="s")).content == "done"


KILLED = """
import re
import sys
from holdfast.models import OpenAIChat
from holdfast.sync import Agent
url, folder = sys.argv[1:]
Agent(OpenAIChat(id="x", base_url=url, api_key="none"), store=f"sqlite:///{folder}/chat.db").run("hi", session_id="s", lease=0.2)
"""


async def test_a_kill_in_the_model_call_loses_the_message_and_every_trace(chat: Models, file_store: Store, tmp_path: Path) -> None:
    server = chat.serve(lambda _: Answer(hold=threading.Event()))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, server.base_url, tmp_path)
    await asyncio.to_thread(server.wait_for, 1)
    process.kill()
    await process.wait()

    async def noticed() -> bool:
        session = await file_store.get("s")
        return session is not None and await statuses(session) == ["interrupted"]

    await until(noticed)
    session = await file_store.get("s")
    assert session is not None
    assert await texts(session) == ["hi"]


async def test_a_hook_that_halts_loses_what_it_wrote(models: Models, store: Store) -> None:
    class Limit(Prehook):
        async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
            session.set("tries", session.get("tries", 0) + 1)
            return "Too many."

    agent = models.agent([], store=store, prehooks=[Limit()])
    for _ in range(3):
        await agent.run("hi", session_id="s")
    assert (await there(agent, "s")).get("tries") == 3


# --- lost updates ----------------------------------------------------------------------------------------------------


async def test_runs_at_once_on_one_session_all_see_an_empty_past(models: Models, store: Store) -> None:
    agent = models.agent(lambda _: "ok", store=store)
    await asyncio.gather(*(agent.run(str(n), session_id="s") for n in range(5)))
    assert [len(sent(request)) for request in models.requests] == [1, 3, 5, 7, 9]


async def test_two_tasks_lose_turns_and_state(chat: Models, store: Store) -> None:
    async def count(session: Session) -> str:
        """Count."""
        await session.state.increment("n")
        return "counted"

    agent = chat.agent(counts, store=store, tools=[count])

    async def turns() -> None:
        for _ in range(10):
            await agent.run("go", session_id="s")

    await asyncio.gather(turns(), turns())
    session = await there(agent, "s")
    assert (session.state["n"], len(await session.runs(last=100))) == (20, 20)


async def test_a_write_from_an_old_reading_wins_without_a_word(store: Store) -> None:
    one, two = await store.session("s"), await store.session("s")
    await one.append(user("one"))
    with pytest.raises(Conflict):
        await two.append(user("two"), expect=two.version)


@pytest.mark.parametrize("strict", [False, True])
async def test_increments_at_once_are_lost(store: Store, strict: bool) -> None:
    async def add() -> None:
        session = await store.session("s")
        if not strict:
            await session.state.increment("n")
            return
        while True:
            seen = session.version
            session.state["n"] = session.state.get("n", 0) + 1
            with suppress(Conflict):
                await session.commit(expect=seen)
                return
            session = await store.session("s")

    await store.session("s")
    await asyncio.gather(*(add() for _ in range(20)))
    assert (await store.session("s")).state["n"] == 20


async def test_the_order_of_runs_is_lost_when_some_are_taken_away(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda request: sent(request)[-1].upper(), store=store)
    for n in range(1, 5):
        await agent.run(f"m{n}", session_id="s")
    await (await there(agent, "s")).rewind(last=2)
    for n in range(5, 8):
        await agent.run(f"m{n}", session_id="s")
    assert [it for it in await texts(await there(agent, "s")) if it.islower()] == ["m1", "m2", "m3", "m5", "m6", "m7"]


# --- who may --------------------------------------------------------------------------------------------------------


async def test_a_run_of_another_user_lands_in_the_session(models: Models, store: Store) -> None:
    agent = models.agent(lambda _: "ok", store=store)
    await agent.run("mine", session_id="s", user_id="alice")
    for user_id in ("bob", None):
        with pytest.raises(SessionNotFound):
            await agent.run("also mine", session_id="s", user_id=user_id)
    await agent.run("still mine", session_id="s", user_id="alice")
    assert [sent(it) for it in models.requests] == [["mine"], ["mine", "ok", "still mine"]]


async def test_two_users_of_one_agent_read_each_other(models: Models, store: Store) -> None:
    def rule(request: Request) -> str:
        return " ".join(sent(request))

    agent = models.agent(rule, store=store)
    secrets = {f"user{n}": f"secret{n}" for n in range(5)}
    for _ in range(2):
        await asyncio.gather(*(agent.run(text, session_id=f"of {name}", user_id=name) for name, text in secrets.items()))
    for name, text in secrets.items():
        said = " ".join(await texts(await there(agent, f"of {name}", name)))
        assert not [other for other in secrets.values() if other != text and other in said]


# --- once ------------------------------------------------------------------------------------------------------------


async def test_two_approvals_at_once_run_the_tool_twice(models: Models, store: Store) -> None:
    paid: list[int] = []

    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        paid.append(1)
        return "paid"

    agent = models.agent([call("pay"), "ok"], store=store, tools=[pay])
    paused = await agent.run("hi", session_id="s")
    decision = paused.requirements[0].approve()
    results = await asyncio.gather(*(agent.continue_run(paused, [decision]) for _ in range(2)), return_exceptions=True)
    assert sum(isinstance(it, RunOutput) for it in results) == 1
    assert paid == [1]


async def test_a_pending_decision_is_lost_with_its_process(models: Models, tmp_path: Path) -> None:
    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    url = f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as store:
        paused = await models.agent([call("pay")], store=store, tools=[pay]).run("hi", session_id="s", user_id="ada")
    async with Store.open(url) as store:
        ((info, requirement),) = [it async for it in store.requirements(user_id="ada")]
        agent = models.agent(["ok"], store=store, tools=[pay])
        done = await agent.continue_run(paused.run_id, [requirement.approve()], session_id=info.id, user_id="ada")
        assert (done.content, sent(models.requests[-1])) == ("ok", ["hi", "pay()", "=paid"])


async def test_approving_one_of_two_ends_the_run(models: Models, store: Store) -> None:
    paid: list[int] = []

    @tool(confirm=True)
    def pay(n: int) -> str:
        """Pay."""
        paid.append(n)
        return "paid"

    agent = models.agent([Answer(calls=(Call("pay", {"n": 1}), Call("pay", {"n": 2}))), "ok"], store=store, tools=[pay])
    paused = await agent.run("hi", session_id="s", user_id="ada")
    half = await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert (half.status, half.user_id, paid) == ("paused", "ada", [])
    done = await agent.continue_run(half, [half.requirements[0].approve()])
    assert (done.status, sorted(paid)) == ("completed", [1, 2])


# --- what the store says, is so --------------------------------------------------------------------------------------


async def test_a_provider_error_becomes_an_answer_with_its_secrets(chat: Models, store: Store) -> None:
    agent = chat.agent([Answer(status=400, text="secret-key-123"), "ok"], store=store)
    with pytest.raises(Exception, match="secret-key-123"):
        await agent.run("hi", session_id="s")
    session = await there(agent, "s")
    run = await only_run(session)
    assert "secret" not in str(run.error) + "".join(await texts(session))


async def test_the_conversations_id_in_the_traces_changes_or_is_missing(models: Models, memory: Store) -> None:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    inner: Any = PydanticAgent(models.impatient(models.serve(["a", "b"])))
    inner.instrument = InstrumentationSettings(tracer_provider=tracers)
    agent = Agent(inner, store=memory)
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    spans = exporter.get_finished_spans()
    assert len(spans) >= 4, "a span for each run and one for each of its model calls"
    assert {str((it.attributes or {}).get("gen_ai.conversation.id")) for it in spans} == {"s"}


def test_a_blocking_caller_can_not_use_it_from_two_threads(chat: Models, tmp_path: Path) -> None:
    with holdfast.sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:

        def count(session: Session) -> str:
            """Count."""
            session.state["n"] = session.state.get("n", 0) + 1
            return "counted"

        agent = holdfast.sync.Agent(chat.model(chat.serve(counts)), store=store, tools=[count])
        threads = [threading.Thread(target=lambda: [agent.run("go", session_id="s") for _ in range(5)]) for _ in range(2)]
        for it in threads:
            it.start()
        for it in threads:
            it.join(60)
        assert store.session("s").state["n"] == 10


def test_every_test_of_the_table_is_there() -> None:
    here = Path(__file__)
    files = (here, here.with_name("test_defects_of_stores.py"), here.parents[1] / "adapters" / "test_defects.py")
    named = set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+){3,}", str(__doc__))) - {"test_defects_of_stores"}
    there = set(re.findall(r"^(?:async )?def test_(\w+)", "\n".join(it.read_text("utf-8") for it in files), re.MULTILINE))
    assert len(named) > 40
    assert named <= there
