"""What other systems were seen to do to what is stored, and to its price, and is not done here. The table is in `test_defects`."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import math
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import apsw
import pytest
import redis.asyncio
from pydantic import BaseModel

import holdfast
from holdfast import Blob, History, InvalidValue, Message, Session, Store, StoreError, Tagged, Text, assistant, register, user
from holdfast.agents import Prehook, Summaries
from holdfast.backend import Backend, Commit, Key, Outcome, ReadPlan, Snapshot
from holdfast.backends.memory import MemoryBackend
from holdfast.testing.model_server import Answer, Request, call
from holdfast.wrappers.base import Wrapper

from ..servers import postgres
from ..servers.redis import redis8, server
from .conftest import Models, sent, settled, texts, there, until
from .test_defects import counts


class Shade(Enum):
    RED = "red"


register(Shade, name="tests.agents.Shade")


@dataclass
class Parcel:
    weight: decimal.Decimal


class Account(BaseModel):
    since: datetime.datetime


register(Parcel, name="tests.agents.Parcel")
register(Account, name="tests.agents.Account")


# --- values ----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    decimal.Decimal("1.50"),
    b"\x00",
    {1, 2},
    (1, "x"),
    Shade.RED,
    {"type": "message", "id": "session"},
    {"$": ["type", ["tests.agents.Shade", "blue"]]},
    {1: "one", (2, 3): "two"},
    Parcel(decimal.Decimal("0.5")),
    Account(since=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}{len(str(value))}")
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


async def test_a_class_that_was_renamed_makes_the_session_unreadable(store: Store) -> None:
    """What is stored names a class and calls nothing: there is no pickle to run."""
    session = await store.session("s")
    session.state["gone"] = Tagged("subprocess.Popen", {"args": "exit 1"})
    session.state["here"] = 1
    await session.append(user("hi"))
    again = await store.get("s")
    assert again is not None
    assert (again.state["here"], again.state["gone"], await texts(again)) == (1, Tagged("subprocess.Popen", {"args": "exit 1"}), ["hi"])
    sources = Path(holdfast.__file__).parent.rglob("*.py")
    assert not [it for it in sources if re.search(r"\bpickle|\beval\(", it.read_text("utf-8"))]


# --- gone and not gone -----------------------------------------------------------------------------------------------


async def test_a_deleted_key_comes_back(chat: Models, store: Store) -> None:
    session = await store.session("s")
    session.set("a", 1)
    await session.commit()
    del session.state["a"]
    await session.commit()
    assert not (await store.session("s")).has_key("a")


async def test_a_new_session_has_what_the_deleted_one_held(chat: Models, store: Store) -> None:
    agent = chat.agent(["1", "2"], store=store)
    session = agent.create_session("s")
    session.set("old", 1)
    await agent.run("a", session=session)
    assert await store.delete("s")
    again = await store.session("s")
    assert (again.get_all_keys(), await texts(again)) == ([], [])
    await agent.run("b", session_id="s")
    assert sent(chat.requests[1]) == ["b"]


@pytest.mark.parametrize("how", ["read", "halted", "failed"])
async def test_only_a_run_that_went_well_puts_off_expiry(chat: Models, tmp_path: Path, how: str) -> None:
    class Halt(Prehook):
        async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
            return "No."

    async with Store.open(f"sqlite:///{tmp_path}/chat.db", ttl=2) as store:
        agent = chat.agent([Answer(status=400)], store=store, prehooks=[Halt()] if how == "halted" else [])
        before = (await store.session("s")).info.expires_at
        await asyncio.sleep(0.25)  # reads put it off once a tenth of its time has gone by
        if how == "read":
            await store.get("s")
        else:
            with suppress(Exception):
                await agent.run("hi", session_id="s")
        after = (await store.list()).items[0].expires_at
    assert before is not None
    assert after is not None
    assert after > before


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


# --- what the store says, is so ---


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


async def test_the_last_messages_are_the_oldest(chat: Models, store: Store) -> None:
    session = await store.session("s")
    await session.append(*(user(str(n)) for n in range(10)))
    assert [it.text for it in await session.get_messages(last=3)] == ["7", "8", "9"]


async def test_naming_a_session_sends_all_of_it(chat: Models, memory: Store) -> None:
    session = await memory.session("s")
    await session.append(*(it for n in range(200) for it in (user(f"question {n} " * 20), assistant("answer " * 20))))
    agent = chat.agent(["A name"], store=memory, instructions="The house rules.")
    await agent.set_session_name("s", autogenerate=True)
    body = json.dumps(chat.requests[0].body)
    assert len(body) < 8_000
    assert "house rules" not in body


async def test_a_summary_sends_everything_again(chat: Models, memory: Store) -> None:
    """Nor is it made before the answer comes, nor at every run."""
    may_end, asked = threading.Event(), list[int]()

    def rule(request: Request) -> Answer | str:
        body = json.dumps(request.body)
        if "SUM UP" not in body:
            return "ok"
        asked.append(len(body))
        return Answer(text=f"Summary {len(asked)}", hold=may_end)

    async def told() -> bool:
        return not asked or await agent.get_session_summary("s") == f"Summary {len(asked)}"

    history = History(summaries=Summaries(after=1_000, keep=1, instructions="SUM UP"))
    agent = chat.agent(rule, store=memory, history=history)
    for n in range(6):
        await agent.run(f"{n:01600}", session_id="s")
    await asyncio.to_thread(chat.servers[0].wait_for, 7)
    assert (len(asked), await agent.get_session_summary("s")) == (1, None), "six answers came while the summary is being made"
    may_end.set()
    for n in range(30):
        await until(told)
        await agent.run(f"{n:01600}", session_id="s")
    await until(told)
    assert 3 <= len(asked) <= 18
    assert max(asked) < 16_000 < 36 * 1_600
    await settled()


# --- cost ---


class Weighing(Wrapper):
    """Counts the requests to a backend, and the bytes of entries that go in and come out."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.requests = self.written = self.read_bytes = 0
        self.keys: list[str] = []

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        self.requests += 1
        return self._weighed(await super().read(key, plan))

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.requests += 1
        self.written += sum(len(entry.body) for entry in commit.entries)
        self.keys += [put.key for put in commit.puts]
        outcome = await super().commit(key, commit)
        self._weighed(outcome.snapshot)
        return outcome

    def _weighed(self, snapshot: Snapshot | None) -> Snapshot | None:
        self.read_bytes += sum(len(entry.body) for entry in (snapshot and snapshot.entries) or ())
        return snapshot

    def taken(self) -> tuple[int, int, int]:
        """What was counted since the last time."""
        found = self.requests, self.written, self.read_bytes
        self.requests = self.written = self.read_bytes = 0
        self.keys.clear()
        return found


@pytest.fixture
def weighing() -> Weighing:
    return Weighing(MemoryBackend())


@pytest.fixture
def weighed(weighing: Weighing) -> Store:
    return Store(weighing)


@pytest.mark.parametrize("size", [20, 20_000])
async def test_a_turn_costs_more_the_longer_the_session_is(chat: Models, weighing: Weighing, weighed: Store, size: int) -> None:
    agent = chat.agent(lambda _: "ok", store=weighed, history=History(runs=3))
    costs: list[tuple[int, int, int]] = []
    for past in (100, 1_000):
        session = await weighed.session(f"of {past}")
        await session.append(*(it for n in range(past) for it in (user(f"question {n:04}"), assistant("a" * size))))
        await agent.run("warm", session_id=session.id)
        weighing.taken()
        await agent.run("hi", session_id=session.id)
        costs.append(weighing.taken())
    few, many = costs
    assert few[0] == many[0] == (2 if size == 20 else 3), "requests: large values are fetched with one more"
    assert abs(few[1] - many[1]) < 20, "bytes written"
    assert abs(few[2] - many[2]) < 20, "bytes read"


async def test_an_append_reads_what_is_there(weighing: Weighing, weighed: Store) -> None:
    session = await weighed.session("s")
    await session.append(*(user(f"question {n}") for n in range(10_000)))
    weighing.taken()
    await session.append(user("one more"), assistant("yes"))
    requests, written, read_bytes = weighing.taken()
    assert (requests, written < 200, read_bytes) == (1, True, 0)


async def test_every_key_is_written_at_every_turn(chat: Models, weighing: Weighing, weighed: Store) -> None:
    def keep(session: Session) -> str:
        """Keep it."""
        session.state["key 7"] = "new"
        return "kept"

    session = await weighed.session("s")
    for n in range(50):
        session.state[f"key {n}"] = "x" * 1_000
    await session.commit()
    weighing.taken()
    await chat.agent([call("keep"), "ok"], store=weighed, tools=[keep]).run("hi", session_id="s")
    assert weighing.keys == ["key 7"]


async def test_instructions_are_stored_with_every_run(chat: Models, store: Store) -> None:
    agent = chat.agent(lambda _: "ok", store=store, instructions="x" * 8_000)
    sizes: list[int] = []
    for _ in range(3):
        await agent.run("hi", session_id="s")
        sizes.append((await there(agent, "s")).info.counts.bytes)
    assert sizes[2] - sizes[1] < 3_000


async def test_what_is_held_in_memory_grows_with_the_sessions(chat: Models) -> None:
    store = Store(MemoryBackend(), cache=20)
    agent = chat.agent(lambda _: "ok", store=store)
    for n in range(20):
        session = await store.session(f"s{n}")
        await session.append(*(user("x" * 4_000) for _ in range(500)))
        await agent.run("hi", session_id=session.id)
    assert store.cache_stats.sessions <= 20
    assert store.cache_stats.bytes <= 20 * 2**20 < 20 * 500 * 4_000


async def test_a_page_of_the_list_reads_every_session_and_its_runs(chat: Models, tmp_path: Path) -> None:
    steps, tables = [0], set[str | None]()

    def note(operation: int, table: str | None, *_: str | None) -> int:
        if operation == apsw.SQLITE_READ:
            tables.add(table)
        return apsw.SQLITE_OK

    def step() -> bool:
        steps[0] += 1
        return False

    def hook(connection: apsw.Connection) -> None:
        connection.authorizer = note
        connection.set_progress_handler(step, 10)

    async def paged(sessions: int) -> int:
        url = f"sqlite:///{tmp_path}/{sessions}.db?synchronous=off"
        async with Store.open(url) as store:
            made = await asyncio.gather(*(store.session(f"s{n}") for n in range(sessions)))
            await asyncio.gather(*(it.append(user("x" * 1_000)) for it in made))
        apsw.connection_hooks.append(hook)
        try:
            async with Store.open(url) as store:
                await store.list(limit=20)
                tables.clear()
                steps[0] = 0
                assert len((await store.list(limit=20)).items) == 20
                return steps[0]
        finally:
            apsw.connection_hooks.remove(hook)

    few, many = await paged(100), await paged(1_000)
    assert tables <= {"sessions"}
    assert abs(few - many) <= 3, "in tens of SQLite's own steps"


# --- many processes --------------------------------------------------------------------------------------------------

REDIS: Any = redis.asyncio.Redis
ADDS = """
import sys
from holdfast import assistant, user
from holdfast.sync import Store
url, turns = sys.argv[1:]
with Store.open(url) as store:
    session = store.session("s")
    for turn in range(int(turns)):
        session.append(user(str(turn)), assistant("ok"))
        session.state.increment("n")
"""
RUNS = """
import sys
from holdfast.models import OpenAIChat
from holdfast.sync import Agent, Session
url, model, turns = sys.argv[1:]

def count(session: Session) -> str:
    session.state["n"] = session.state.get("n", 0) + 1
    return "counted"

agent = Agent(OpenAIChat(id="x", base_url=model, api_key="none"), store=url, tools=[count])
for turn in range(int(turns)):
    assert agent.run(f"turn {turn}", session_id="s").status == "completed"
"""


async def at_once(processes: int, code: str, *arguments: str) -> None:
    """Run `code` in so many processes at the same time; each has to end well."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    started = [await asyncio.to_thread(subprocess.Popen, command, stderr=subprocess.PIPE) for _ in range(processes)]
    ends = await asyncio.gather(*(asyncio.to_thread(it.communicate, timeout=60) for it in started))
    assert [it.returncode for it in started] == [0] * processes, ends


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with server(redis8()) as it:
        yield it.url


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that processes share."""
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix={tmp_path.name}:"
    return postgres.shared().fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/chat.db"


async def test_eight_processes_lose_messages_and_counts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    await at_once(8, ADDS, url, "10")
    async with Store.open(url) as store:
        session = await store.session("s")
        said = await texts(session)
        assert (session.state["n"], len(said), said[1::2]) == (80, 160, ["ok"] * 80), "and each pair stays together"


async def test_two_processes_lose_turns_and_state(chat: Models, url: str) -> None:
    await at_once(2, RUNS, url, chat.serve(counts).base_url, "6")
    async with Store.open(url) as store:
        session = await store.session("s")
        runs, said = await session.runs(last=100), await session.entries(kinds=("message",))
        assert (session.state["n"], len(runs), len(said)) == (12, 12, 48)
        assert [it.run_id for it in said] == [run.id for run in runs for _ in range(4)], "in the order they began, none within another"
        totals = session.info.counts
        assert (totals.runs, totals.input_tokens) == (12, sum(run.metrics.input_tokens for run in runs))


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_runs_expire_one_by_one_while_their_session_lives(chat: Models, url: str) -> None:
    async with Store.open(url, ttl=2) as store:
        agent = chat.agent(lambda _: "ok", store=store)
        for n in range(5):
            await agent.run(f"m{n}", session_id="s")
            await asyncio.sleep(0.5)
        assert [it for it in await texts(await there(agent, "s")) if it != "ok"] == [f"m{n}" for n in range(5)]


async def test_a_turn_is_many_commands(chat: Models, redis_url: str, tmp_path: Path) -> None:
    client, other = (REDIS.from_url(redis_url, decode_responses=True) for _ in range(2))
    made: list[str] = []

    async def listen(monitor: Any) -> None:
        async for it in monitor.listen():
            if it["command"] == "ECHO end":
                return
            made.extend([] if it["client_type"] == "lua" else [it["command"].split()[0]])

    async with client, other, Store.open(f"{redis_url}?prefix={tmp_path.name}:") as store:
        await other.echo("here")
        agent = chat.agent(lambda _: "ok", store=store)
        await agent.run("warm", session_id="s")
        async with client.monitor() as monitor:
            listening = asyncio.create_task(listen(monitor))
            await agent.run("hi", session_id="s")
            await other.echo("end")
            await asyncio.wait_for(listening, 5)
    assert made == ["EVALSHA", "EVALSHA"]


# --- media -----------------------------------------------------------------------------------------------------------


async def test_a_turn_with_an_image_is_no_part_of_the_history(chat: Models, store: Store) -> None:
    agent = chat.agent(["a kettle", "blue"], store=store)
    await agent.run(Message("user", (Text("What is this?"), Blob("image", "iVBORw0KGgo=", "image/png"))), session_id="s")
    await agent.run("Which colour?", session_id="s")
    assert "iVBORw0KGgo=" in json.dumps(chat.requests[1].body)
    assert sent(chat.requests[1]) == ["What is this?", "a kettle", "Which colour?"]
