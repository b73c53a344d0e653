"""What other systems were seen to do to their users' sessions, each reproduced there, and not done here."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import math
import subprocess
import sys
import threading
from enum import Enum
from pathlib import Path
from typing import Any

import apsw
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import InstrumentationSettings

import holdfast.sync
from holdfast import Conflict, InvalidValue, Message, Session, SessionNotFound, Store, StoreError, assistant, register, user
from holdfast.agents import Agent, HistoryProvider, InMemoryHistoryProvider, Prehook, RunOutput, tool
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Counting, Models, ended, only_run, sent, statuses, texts, there, until

BOTH = pytest.mark.parametrize("stream", [False, True])


class Shade(Enum):
    RED = "red"


register(Shade, name="tests.agents.Shade")


def adds(server_url: str, folder: Path, turns: int) -> list[str]:
    """A process that runs an agent `turns` times on one session; each run counts in the session's state."""
    return [sys.executable, "-W", "error", "-c", ADDS, server_url, str(folder), str(turns)]


ADDS = """
import sys
from holdfast.models import OpenAIChat
from holdfast.sync import Agent, Session
url, folder, turns = sys.argv[1:]

def count(session: Session) -> str:
    session.state.increment("n")
    return "counted"

agent = Agent(OpenAIChat(id="x", base_url=url, api_key="none"), store=f"sqlite:///{folder}/chat.db", tools=[count])
for turn in range(int(turns)):
    assert agent.run(f"turn {turn}", session_id="s").status == "completed"
"""


def counting(request: Request) -> Answer | str:
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


KILLED = """
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


async def test_two_processes_lose_turns_and_state(chat: Models, file_store: Store, tmp_path: Path) -> None:
    server = chat.serve(counting)
    command = adds(server.base_url, tmp_path, 10)
    processes = [await asyncio.to_thread(subprocess.Popen, command, stderr=subprocess.PIPE) for _ in range(2)]
    ends = await asyncio.gather(*(asyncio.to_thread(it.communicate, timeout=60) for it in processes))
    assert [it.returncode for it in processes] == [0, 0], ends
    session = await file_store.get("s")
    assert session is not None
    assert (session.state["n"], len(await session.runs(last=100)), session.info.counts.messages) == (20, 20, 80)


async def test_two_tasks_lose_turns_and_state(chat: Models, store: Store) -> None:
    async def count(session: Session) -> str:
        """Count."""
        await session.state.increment("n")
        return "counted"

    agent = chat.agent(counting, store=store, tools=[count])

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


async def test_the_order_of_runs_is_lost_when_some_are_taken_away(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda request: sent(request)[-1].upper(), store=store)
    for n in range(1, 5):
        await agent.run(f"m{n}", session_id="s")
    await (await there(agent, "s")).rewind(last=2)
    for n in range(5, 8):
        await agent.run(f"m{n}", session_id="s")
    assert [it for it in await texts(await there(agent, "s")) if it.islower()] == ["m1", "m2", "m3", "m5", "m6", "m7"]


# --- values ----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    decimal.Decimal("1.50"),
    b"\x00",
    {1, 2},
    (1, "x"),
    Shade.RED,
    {"type": "message", "id": "session"},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_a_value_that_is_no_json_loses_the_session(models: Models, store: Store, value: Any) -> None:
    def keep(session: Session) -> str:
        """Keep it."""
        session.state["kept"] = value
        return "kept"

    agent = models.agent([call("keep"), "ok"], store=store, tools=[keep])
    assert (await agent.run("hi", session_id="s")).status == "completed"
    found = (await there(agent, "s")).state["kept"]
    assert found == value
    moved = Session.from_dict(json.loads(json.dumps((await there(agent, "s")).to_dict())))
    assert moved.state["kept"] == value


async def test_nan_in_the_state_is_stored_as_what_is_no_json(store: Store) -> None:
    session = await store.session("s")
    session.state["x"] = float("nan")
    await session.commit()
    found = await store.get("s")
    assert found is not None
    assert math.isnan(found.state["x"])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["state"]["x"] != found.state["x"]


@pytest.mark.parametrize("value", [object(), {"deep": [object()]}], ids=["object", "deep"])
async def test_what_can_not_be_stored_is_found_out_after_the_model_was_paid(chat: Models, memory: Store, value: Any) -> None:
    session = chat.agent(["never"], store=memory).create_session("s")
    with pytest.raises(InvalidValue):
        session.set("kept", value)
    assert not chat.requests


# --- gone and not gone -----------------------------------------------------------------------------------------------


async def test_a_deleted_key_comes_back(chat: Models, store: Store) -> None:
    session = await store.session("s")
    session.set("a", 1)
    await session.commit()
    del session.state["a"]
    await session.commit()
    assert not (await store.session("s")).has_key("a")


async def test_a_cleared_history_comes_back(chat: Models, store: Store) -> None:
    agent = chat.agent(["1", "2", "3", "4"], store=store)
    for prompt in "abc":
        await agent.run(prompt, session_id="s")
    session = await there(agent, "s")
    session.clear()
    await session.commit()
    await agent.run("d", session_id="s")
    assert sent(chat.requests[3]) == ["d"]
    assert await texts(await there(agent, "s")) == ["d", "4"]


async def test_runs_expire_one_by_one_while_their_session_lives(chat: Models, tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/chat.db", ttl=2) as store:
        agent = chat.agent(lambda _: "ok", store=store)
        for n in range(5):
            await agent.run(f"m{n}", session_id="s")
            await asyncio.sleep(0.5)
        assert [it for it in await texts(await there(agent, "s")) if it != "ok"] == [f"m{n}" for n in range(5)]


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


async def test_a_locked_database_is_reported_as_completed(chat: Models, tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/chat.db?busy_timeout=0.2") as store:
        agent = chat.agent(["1", "2", "3"], store=store)
        await agent.run("before", session_id="s")
        other: Any = apsw.Connection(f"{tmp_path}/chat.db")
        other.execute("begin immediate")
        with pytest.raises(StoreError):
            await agent.run("lost?", session_id="s")
        other.execute("rollback")
        other.close()
        assert len(chat.requests) == 1, "the model was asked although the input could not be stored"
        assert await texts(await there(agent, "s")) == ["before", "1"]


async def test_a_provider_error_becomes_an_answer_with_its_secrets(chat: Models, store: Store) -> None:
    agent = chat.agent([Answer(status=400, text="secret-key-123"), "ok"], store=store)
    with pytest.raises(Exception, match="secret-key-123"):
        await agent.run("hi", session_id="s")
    session = await there(agent, "s")
    run = await only_run(session)
    assert "secret" not in str(run.error) + "".join(await texts(session))


async def test_naming_a_session_sends_all_of_it(chat: Models, memory: Store) -> None:
    session = await memory.session("s")
    await session.append(*(it for n in range(200) for it in (user(f"question {n} " * 20), assistant("answer " * 20))))
    agent = chat.agent(["A name"], store=memory, instructions="The house rules.")
    await agent.set_session_name("s", autogenerate=True)
    body = json.dumps(chat.requests[0].body)
    assert len(body) < 8_000
    assert "house rules" not in body


async def test_the_last_messages_are_the_oldest(chat: Models, store: Store) -> None:
    session = await store.session("s")
    await session.append(*(user(str(n)) for n in range(10)))
    assert [it.text for it in await session.get_messages(last=3)] == ["7", "8", "9"]


async def test_a_turn_costs_more_the_longer_the_session_is(chat: Models, counting: Counting, counted: Store) -> None:
    agent = chat.agent(lambda _: "ok", store=counted)
    written: list[int] = []

    async def weigh(key: Any, commit: Any) -> None:
        written.append(sum(len(entry.body) for entry in commit.entries))

    costs: list[tuple[list[str], int]] = []
    for past in (10, 600):
        session = await counted.session(f"of {past}")
        await session.append(*(it for n in range(past) for it in (user(f"question {n}"), assistant("answer"))))
        await agent.run("warm", session_id=session.id)
        counting.made.clear()
        counting.before = weigh
        written.clear()
        await agent.run("hi", session_id=session.id)
        counting.before = None
        costs.append((counting.made.copy(), sum(written)))
    assert costs[0][0] == costs[1][0] == ["commit", "commit"]
    assert abs(costs[0][1] - costs[1][1]) < 100


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


async def test_instructions_are_stored_with_every_run(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda _: "ok", store=store, instructions="x" * 8_000)
    sizes: list[int] = []
    for _ in range(3):
        await agent.run("hi", session_id="s")
        sizes.append((await there(agent, "s")).info.counts.bytes)
    assert sizes[2] - sizes[1] < 3_000


def test_a_blocking_caller_can_not_use_it_from_two_threads(chat: Models, tmp_path: Path) -> None:
    with holdfast.sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:

        def count(session: Session) -> str:
            """Count."""
            session.state["n"] = session.state.get("n", 0) + 1
            return "counted"

        agent = holdfast.sync.Agent(chat.model(chat.serve(counting)), store=store, tools=[count])
        threads = [threading.Thread(target=lambda: [agent.run("go", session_id="s") for _ in range(5)]) for _ in range(2)]
        for it in threads:
            it.start()
        for it in threads:
            it.join(60)
        assert store.session("s").state["n"] == 10
