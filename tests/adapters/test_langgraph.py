"""LangGraph threads on a Holdfast store: through real graphs, beside the ordinary session API."""

# pyright: reportMissingTypeStubs=false
# LangGraph's own packages lack `py.typed`, and most of a graph's methods have partially unknown types: a graph is `Any` here.

from __future__ import annotations

import asyncio
import json
import operator
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict, cast

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.errors import EmptyInputError
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from holdfast import (
    Blob,
    Conflict,
    Corrupt,
    Fenced,
    InvalidId,
    Other,
    SessionBusy,
    SessionExists,
    SessionGone,
    SessionNotFound,
    Store,
    Text,
    ToolCall,
    ToolResult,
)
from holdfast.adapters.langgraph import HoldfastSaver, records, threads
from holdfast.adapters.langgraph.chunks import Chunks, needed, refer, resolve
from holdfast.adapters.langgraph.records import place_of
from holdfast.backend import BlobRange, ClaimAct, Commit, Key, Outcome, ReadPlan, Snapshot
from holdfast.ids import now
from holdfast.store import backend_for
from holdfast.wrappers.base import Wrapper

Graph: TypeAlias = Any
Node: TypeAlias = Callable[[Any], Any]
new_graph: Callable[[Any], Any] = StateGraph
EVERYTHING = ReadPlan(state_since=0, blobs=(BlobRange(),))


def config(thread: str = "t", **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, **more}}


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [("user", text) for text in texts]}


def echo(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"heard {state['messages'][-1].text}")]}


def chat(saver: HoldfastSaver, node: Node = echo) -> Graph:
    builder = new_graph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(checkpointer=saver)


def texts(state: Any) -> list[str]:
    return [message.text for message in state.values.get("messages", [])]


async def shown(store: Store, thread: str = "t") -> list[str]:
    session = await store.get(thread)
    assert session is not None
    return [message.text for message in await session.get_messages()]


async def blob_keys(store: Store, thread: str = "t") -> set[str]:
    snapshot = await store.backend.read(Key(store.tenant, thread), EVERYTHING)
    assert snapshot is not None
    return {blob.key for blob in snapshot.blobs or ()}


@pytest.fixture(params=["memory", "memory-cached", "sqlite", "sqlite-cached"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kind, _, cached = str(request.param).partition("-")
    async with Store.open("memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'chat.db'}", cache=16 if cached else 0) as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


# --- a conversation --------------------------------------------------------------------------------------------------


async def test_a_thread_is_a_session(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    await graph.ainvoke(said("hi"), config("ada"))
    answer = await graph.ainvoke(said("and again"), config("ada"))
    assert [message.text for message in answer["messages"]] == ["hi", "heard hi", "and again", "heard and again"]
    (info,) = (await store.list()).items
    assert (info.id, info.kind, info.counts.messages) == ("ada", "session", 4)
    session = await store.session("ada")
    assert [(it.role, it.text) for it in await session.get_chat_history()] == [
        ("user", "hi"),
        ("assistant", "heard hi"),
        ("user", "and again"),
        ("assistant", "heard and again"),
    ]
    assert [it.id for it in await session.get_messages()] == [message.id for message in answer["messages"]]
    assert session.get_all_keys() == []


def test_the_blocking_form(url: str) -> None:
    saver = HoldfastSaver(url)
    graph = chat(saver)
    graph.invoke(said("hi"), config())
    graph.invoke(said("there"), config())
    assert texts(graph.get_state(config())) == ["hi", "heard hi", "there", "heard there"]
    history = list(graph.get_state_history(config()))
    assert [state.metadata["step"] for state in history if state.metadata] == [4, 3, 2, 1, 0, -1]
    saver.copy_thread("t", "u")
    saver.prune(["t"])
    assert len(list(saver.list(config()))) == 1
    assert len(list(saver.list(config("u"), limit=4))) == 4
    saver.delete_thread("t")
    assert saver.get_tuple(config()) is None
    assert [it.text for it in graph.get_state(config("u")).values["messages"]][:1] == ["hi"]


async def test_streams_and_every_durability(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    for durability in ("sync", "async", "exit"):
        async for _ in graph.astream(said(durability), config(), durability=durability):
            pass
    assert texts(await graph.aget_state(config())) == await shown(store)
    assert len(await shown(store)) == 6


async def test_what_a_message_looks_like_to_everybody_else(store: Store) -> None:
    image = "A" * 5000
    messages = [
        HumanMessage([{"type": "text", "text": "see"}, {"type": "image", "base64": image, "mime_type": "image/png"}], name="ada"),
        AIMessage("looking", tool_calls=[{"name": "look", "args": {"at": 1}, "id": "c1"}]),
        ToolMessage("a cat", tool_call_id="c1"),
    ]
    await chat(HoldfastSaver(store), lambda _: {"messages": []}).ainvoke({"messages": messages}, config())
    session = await store.session("t")
    first, second, third = await session.get_messages()
    assert (first.role, first.name, first.text) == ("user", "ada", "see")
    assert isinstance(first.parts[1], Other)
    assert not any(isinstance(part, Blob) for part in first.parts)
    assert (second.role, second.parts) == ("assistant", (Text("looking"), ToolCall("look", "c1", {"at": 1})))
    assert (third.role, third.parts) == ("tool", (ToolResult("a cat", "c1"),))
    assert all(image not in entry.body.decode() for entry in await session.entries())
    assert first.native is not None
    assert f"k/{json.loads(bytes(first.native.data))['chunk']}" in await blob_keys(store)


async def test_a_thread_id_must_be_a_session_id(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    for thread in ("", "~app", "a\nb"):
        with pytest.raises(InvalidId):
            await graph.ainvoke(said("hi"), config(thread))
    with pytest.raises(InvalidId, match="names no thread"):
        await HoldfastSaver(store).aget_tuple({"configurable": {}})
    await graph.ainvoke(said("hi"), {"configurable": {"thread_id": 7}})
    assert await store.has("7")


async def test_whose_a_thread_is(store: Store) -> None:
    saver = HoldfastSaver(store, user_id=lambda config: config.get("configurable", {}).get("user_id"))
    graph = chat(saver)
    await graph.ainvoke(said("mine"), config(user_id="ada"))
    assert (await store.list(user_id="ada")).items[0].id == "t"
    for other in (config(user_id="eve"), config()):
        assert await saver.aget_tuple(other) is None
        assert [it async for it in saver.alist(other)] == []
        with pytest.raises(SessionNotFound):
            await graph.ainvoke(said("me too"), other)
    await saver.adelete_thread("t")
    assert await store.has("t", user_id="ada")
    await HoldfastSaver(store, user_id="ada").adelete_thread("t")
    assert not await store.has("t", user_id="ada")


# --- what it costs ---------------------------------------------------------------------------------------------------


class Counting(Wrapper):
    """Counts requests, and the bytes that go each way."""

    requests = written = read_bytes = 0

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.inner.read(key, plan)
        self.requests += 1
        self.read_bytes += sum(len(blob.data or b"") + len(blob.key) for blob in (snapshot and snapshot.blobs) or ())
        return snapshot

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.requests += 1
        self.written += sum(len(blob.data) + 2 * len(blob.key) for blob in commit.blobs) + sum(len(entry.body) for entry in commit.entries)
        return await self.inner.commit(key, commit)

    def reset(self) -> None:
        self.requests = self.written = self.read_bytes = 0


def words(place: int) -> str:
    return "".join(f"{(place * 7919 + i * 104729) % 4294967291:08x}" for i in range(128))


async def test_a_turn_costs_the_same_at_any_length(tmp_path: Path) -> None:
    counting = Counting(backend_for(f"sqlite:///{tmp_path / 'chat.db'}?synchronous=off"))
    store = Store(counting)
    graph = chat(HoldfastSaver(store), lambda state: {"messages": [AIMessage(words(len(state["messages"]) * 31))]})
    costs: list[tuple[int, int, int]] = []
    for turn in range(200):
        counting.reset()
        await graph.ainvoke(said(words(turn)), config())
        costs.append((counting.requests, counting.written, counting.read_bytes))
    assert len(await shown(store)) == 400
    await store.close()
    assert {requests for requests, _, _ in costs[10:]} == {6}  # one read, LangGraph's three checkpoints and two writes
    early, late = sum(written for _, written, _ in costs[10:30]), sum(written for _, written, _ in costs[-20:])
    assert late < 1.2 * early
    assert max(read for _, _, read in costs[10:]) < 4096
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000  # noqa: ASYNC240  # a handful of files


async def test_a_cold_process_reads_the_newest_checkpoint_in_three_requests(url: str) -> None:
    async with Store.open(url) as store:
        graph = chat(HoldfastSaver(store))
        for turn in range(40):
            await graph.ainvoke(said(words(turn)), config())
    counting = Counting(backend_for(url))
    async with Store(counting) as store:
        saver = HoldfastSaver(store)
        assert len(texts(await chat(saver).aget_state(config()))) == 80
        assert counting.requests == 3  # the record, its pages, their messages
        assert len(texts(await chat(saver).aget_state(config()))) == 80
        assert counting.requests == 4


# --- values ----------------------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=300) | st.binary(max_size=300)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=5), inner, max_size=8))
SERDE = HoldfastSaver("memory://").serde


@given(VALUES, st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_value_comes_back_as_it_went_in(value: Any, split: bool) -> None:
    chunks: Chunks = {}
    ref = refer(value, SERDE, chunks, split=split)
    assert {*needed([ref], chunks.get)} == chunks.keys()
    assert resolve(ref, SERDE, chunks) == value == SERDE.loads_typed(SERDE.dumps_typed(value))


def test_a_list_that_grows_shares_what_it_had() -> None:
    before: Chunks = {}
    elements: list[str] = []
    for length in range(1, 400):
        after: Chunks = {}
        elements.append(f"{length:0200}")
        refer(elements, SERDE, after)
        new = [chunk for digest, chunk in after.items() if digest not in before]
        assert sum(chunk.type != "holdfast/refs" for chunk in new) == 1
        assert sum(len(chunk.data) for chunk in new) < 25 * length + 300
        before = after
    assert len(before) < 399 + 40


async def test_big_dicts_and_plain_values(store: Store) -> None:
    class State(TypedDict, total=False):
        files: dict[str, str]
        vector: list[float]
        note: Any

    def write(state: State) -> State:
        return {"files": {**state.get("files", {}), f"{len(state.get('files', {}))}.txt": "x" * 2000}}

    builder = new_graph(State)
    builder.add_node("write", write)
    builder.add_edge(START, "write")
    saver = HoldfastSaver(store)
    graph: Graph = builder.compile(checkpointer=saver)
    note = {"nested": [{"deep": [1, (2, b"3")]}], "none": None}
    for _ in range(40):
        await graph.ainvoke({"vector": [0.5] * 500, "note": note}, config())
    again = HoldfastSaver(store)
    values = (cast("Any", await again.aget_tuple(config()))).checkpoint["channel_values"]
    assert len(values["files"]) == 40
    assert values["vector"] == [0.5] * 500
    assert values["note"] == SERDE.loads_typed(SERDE.dumps_typed(note))
    assert sum(key.startswith("k/") for key in await blob_keys(store)) < 2 * 40 + 10  # a file and a list of files each time


async def test_a_damaged_chunk_is_not_passed_over(url: str, tmp_path: Path) -> None:
    import apsw

    async with Store.open(url) as store:
        await chat(HoldfastSaver(store)).ainvoke(said("hi"), config())
    database: Any = apsw.Connection(str(tmp_path / "chat.db"))
    database.execute("UPDATE blobs SET data = CAST('no' AS BLOB) WHERE key LIKE 'k/%'")
    database.close()
    async with Store.open(url) as store:
        with pytest.raises(Corrupt):
            await HoldfastSaver(store).aget_tuple(config())


# --- branches, removals, the transcript ------------------------------------------------------------------------------


async def test_time_travel_shows_the_branch_that_is_newest(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    await graph.ainvoke(said("one"), config())
    middle = await graph.aget_state(config())
    await graph.ainvoke(said("two"), config())
    assert await shown(store) == ["one", "heard one", "two", "heard two"]
    await graph.ainvoke(said("other"), middle.config)
    assert texts(await graph.aget_state(config())) == await shown(store) == ["one", "heard one", "other", "heard other"]
    session = await store.session("t")
    hidden = [entry.message().text for entry in await session.entries(hidden=True) if entry.hidden]
    assert hidden == ["two", "heard two"]
    old = [state async for state in graph.aget_state_history(config())]
    assert ["one", "heard one", "two", "heard two"] in [texts(state) for state in old]


async def test_messages_that_are_removed_or_replaced(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    await graph.ainvoke(said("a", "b"), config())
    first, second, _ = (await graph.aget_state(config())).values["messages"]
    await graph.aupdate_state(config(), {"messages": [HumanMessage("B", id=second.id)]})
    assert texts(await graph.aget_state(config())) == await shown(store) == ["a", "B", "heard b"]
    await graph.aupdate_state(config(), {"messages": [RemoveMessage(first.id)]})
    assert texts(await graph.aget_state(config())) == await shown(store) == ["B", "heard b"]
    await graph.ainvoke(said("c"), config())
    assert texts(await graph.aget_state(config())) == await shown(store) == ["B", "heard b", "c", "heard c"]


def checkpoint(messages: list[BaseMessage], version: int) -> Checkpoint:
    made = empty_checkpoint()
    made.update(id=str(uuid6()), channel_values={"messages": messages}, channel_versions={"messages": version})
    return made


@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 12), unique=True, max_size=12)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
async def test_the_transcript_is_what_the_newest_checkpoint_holds(steps: list[tuple[int, list[int]]]) -> None:
    async with Store.open("memory://") as store:
        saver = HoldfastSaver(store)
        done: list[RunnableConfig] = []
        for version, (parent, ids) in enumerate(steps, 1):
            messages: list[BaseMessage] = [HumanMessage(f"m{id}", id=str(id)) for id in ids]
            at = done[parent % len(done)] if done else config(checkpoint_ns="")
            done.append(await saver.aput(at, checkpoint(messages, version), {}, {"messages": version}))
            assert await shown(store) == [message.text for message in messages]
        for at, (_, ids) in zip(done, steps, strict=True):
            found = await HoldfastSaver(store).aget_tuple(at)
            assert found is not None
            assert [it.id for it in found.checkpoint["channel_values"]["messages"]] == [str(id) for id in ids]


async def test_overlapping_runs_end_on_branches_and_the_transcript_on_the_newest(store: Store) -> None:
    async def slow(state: MessagesState) -> dict[str, Any]:
        await asyncio.sleep(0.005)
        return echo(state)

    graph = chat(HoldfastSaver(store), slow)
    await asyncio.gather(*(graph.ainvoke(said(str(turn)), config()) for turn in range(5)))
    assert texts(await graph.aget_state(config())) == await shown(store)


# --- interruptions and crashes ---------------------------------------------------------------------------------------


async def test_a_crash_leaves_what_was_written(store: Store) -> None:
    runs: list[str] = []

    class State(TypedDict):
        done: Annotated[list[str], operator.add]

    async def steady(state: State) -> State:
        runs.append("steady")
        return {"done": ["steady"]}

    async def shaky(state: State) -> State:
        runs.append("shaky")
        await asyncio.sleep(0.02)
        if runs.count("shaky") == 1:
            raise RuntimeError("power cut")
        return {"done": ["shaky"]}

    builder = new_graph(State)
    for node in (steady, shaky):
        builder.add_node(node.__name__, node)
        builder.add_edge(START, node.__name__)
    with pytest.raises(RuntimeError, match="power cut"):
        await builder.compile(checkpointer=HoldfastSaver(store)).ainvoke({"done": []}, config())
    again: Graph = builder.compile(checkpointer=HoldfastSaver(store))
    assert (await again.aget_state(config())).next == ("shaky",)
    assert sorted((await again.ainvoke(None, config()))["done"]) == ["shaky", "steady"]
    assert runs.count("steady") == 1


async def test_writes_may_come_before_their_checkpoint(store: Store) -> None:
    saver = HoldfastSaver(store)
    later = checkpoint([], 1)
    at = config(checkpoint_ns="", checkpoint_id=later["id"])
    await saver.aput_writes(at, [("a", 1), ("b", 2)], "task-1", "path")
    await saver.aput_writes(at, [("a", "late"), ("b", 2), ("c", 3)], "task-1", "path")
    await saver.aput_writes(at, [("__interrupt__", 1)], "task-2")
    await saver.aput_writes(at, [("__interrupt__", 2)], "task-2")
    assert await saver.aget_tuple(config()) is None
    await saver.aput(config(checkpoint_ns=""), later, {}, {})
    found = await HoldfastSaver(store).aget_tuple(config())
    assert found is not None
    assert found.pending_writes == [("task-2", "__interrupt__", 2), ("task-1", "a", 1), ("task-1", "b", 2), ("task-1", "c", 3)]


async def test_a_human_decides_inside_of_a_subgraph(store: Store) -> None:
    class State(TypedDict):
        answer: str

    def ask(state: State) -> State:
        return {"answer": interrupt("sure?")}

    inner = new_graph(State)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    outer = new_graph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")

    for exclusive in (False, True):
        thread = config(f"t{exclusive}")
        graph: Graph = outer.compile(checkpointer=HoldfastSaver(store, exclusive=exclusive, wait=1))
        paused = await graph.ainvoke({"answer": ""}, thread)
        assert paused["__interrupt__"][0].value == "sure?"
        state = await graph.aget_state(thread, subgraphs=True)
        assert state.tasks[0].state.values == {"answer": ""}
        again: Graph = outer.compile(checkpointer=HoldfastSaver(store, exclusive=exclusive, wait=1))
        assert await again.ainvoke(Command(resume="yes"), thread) == {"answer": "yes"}
        assert len({it.config.get("configurable", {})["checkpoint_ns"] async for it in HoldfastSaver(store).alist(thread)}) == 2


WORKER = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.adapters.test_langgraph import HoldfastSaver, Store, chat, config, said

async def main(url, name, turns):
    async with Store.open(url) as store:
        graph = chat(HoldfastSaver(store, exclusive=True))
        for turn in range(turns):
            await graph.ainvoke(said(f"{{name}} {{turn}}"), config())

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def worker(url: str, *arguments: str, code: str = WORKER) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code.format(root=str(Path(__file__).parents[2])), url, *arguments])


async def test_processes_take_turns(url: str) -> None:
    async with Store.open(url) as store:
        graph = chat(HoldfastSaver(store))
        await graph.ainvoke(said("first"), config())
        others = [worker(url, "ada", "4"), worker(url, "bob", "4")]
        assert [other.wait(60) for other in others] == [0, 0]
        await graph.ainvoke(said("last"), config())
        assert texts(await graph.aget_state(config())) == await shown(store)
        turns = {text for text in await shown(store) if not text.startswith("heard")}
        assert turns == {"first", "last", *(f"{name} {turn}" for name in ("ada", "bob") for turn in range(4))}


# --- one run at a time -----------------------------------------------------------------------------------------------


async def slowly(state: MessagesState) -> dict[str, Any]:
    await asyncio.sleep(0.01)
    return echo(state)


async def test_five_runs_at_once_are_five_turns(store: Store) -> None:
    graph = chat(HoldfastSaver(store, exclusive=True), slowly)
    await asyncio.gather(*(graph.ainvoke(said(str(turn)), config()) for turn in range(5)))
    assert len(texts(await graph.aget_state(config()))) == 10
    assert texts(await graph.aget_state(config())) == await shown(store)
    assert not (await store.session("t")).info.running


def test_five_threads_at_once_are_five_turns(url: str) -> None:
    graph = chat(HoldfastSaver(url, exclusive=True))

    def turn(number: int) -> None:
        graph.invoke(said(str(number)), config())

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(turn, range(5)))
    assert len(texts(graph.get_state(config()))) == 10


async def test_reading_waits_for_nobody(store: Store) -> None:
    looked: list[list[str]] = []
    saver = HoldfastSaver(store, exclusive=True, wait=0.2)

    async def look(state: MessagesState) -> dict[str, Any]:
        looked.append(texts(await asyncio.create_task(chat(saver).aget_state(config()))))
        await chat(saver).aupdate_state(config(), {"messages": [HumanMessage("noted")]})  # the run's own
        return echo(state)

    await chat(saver, look).ainvoke(said("hi"), config(), durability="sync")
    assert looked == [["hi"]]


async def test_who_waits_too_long_is_told(store: Store) -> None:
    started = asyncio.Event()

    async def stuck(state: MessagesState) -> None:
        started.set()
        await asyncio.sleep(60)

    graph = chat(HoldfastSaver(store, exclusive=True, wait=0.1), stuck)
    run = asyncio.create_task(graph.ainvoke(said("hi"), config()))
    await started.wait()
    with pytest.raises(SessionBusy):
        await graph.ainvoke(said("me too"), config())
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not (await store.session("t")).info.running


async def test_a_run_that_fails_lets_the_next_one_in(store: Store) -> None:
    def failing(state: MessagesState) -> None:
        raise RuntimeError("no")

    saver = HoldfastSaver(store, exclusive=True, wait=5)
    runs = (chat(saver).ainvoke(None, config()), chat(saver, failing).ainvoke(said("hi"), config()))
    failed = cast("list[Any]", await asyncio.gather(*runs, return_exceptions=True))
    assert [type(error) for error in failed] == [EmptyInputError, RuntimeError]
    assert (await chat(saver).ainvoke(said("there"), config()))["messages"][-1].text == "heard there"


async def test_a_run_that_was_taken_over_stores_nothing(store: Store) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def frozen(state: MessagesState) -> dict[str, Any]:
        started.set()
        await go.wait()
        return echo(state)

    graph = chat(HoldfastSaver(store, exclusive=True), frozen)
    run = asyncio.create_task(graph.ainvoke(said("old"), config(), durability="sync"))
    await started.wait()
    session = await store.session("t")
    snapshot = await store.backend.read(session.key, ReadPlan())
    assert snapshot is not None
    assert snapshot.head.claim is not None
    await session.write(claim=ClaimAct("take", "another", seen=(snapshot.head.fence, snapshot.head.claim.beat)))
    go.set()
    with pytest.raises(Fenced):
        await run
    assert await shown(store) == ["old"]


CRASHER = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from tests.adapters.test_langgraph import HoldfastSaver, Store, chat, config, said

async def main(url):
    async with Store.open(url) as store:
        graph = chat(HoldfastSaver(store, exclusive=True, lease=1.0), lambda _: os._exit(9))
        await graph.ainvoke(said("doomed"), config(), durability="sync")

asyncio.run(main(sys.argv[1]))
"""


async def test_the_thread_of_a_dead_process_is_free_after_its_lease(url: str) -> None:
    assert worker(url, code=CRASHER).wait(60) == 9
    async with Store.open(url) as store:
        graph = chat(HoldfastSaver(store, exclusive=True, wait=10, lease=1.0))
        assert (await graph.ainvoke(said("next"), config()))["messages"][-1].text == "heard next"
        assert await shown(store) == ["doomed", "next", "heard next"]


async def test_an_update_of_what_is_not_the_newest_any_more(store: Store) -> None:
    saver = HoldfastSaver(store, exclusive=True)
    graph = chat(saver)
    await graph.ainvoke(said("hi"), config())
    stale = await saver.aget_tuple(config())
    assert stale is not None
    await asyncio.create_task(graph.ainvoke(said("meanwhile"), config()))
    with pytest.raises(Conflict):
        await saver.aput(stale.config, checkpoint([], 99), {}, {"messages": 99})
    named = await saver.aget_tuple(stale.config)
    assert named is not None
    await saver.aput(named.config, checkpoint([], 99), {}, {"messages": 99})  # it named its checkpoint: a branch by choice
    assert await shown(store) == []


# --- beside the session API ------------------------------------------------------------------------------------------


async def test_fork_export_import_and_delete(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    for text in ("one", "two"):
        await graph.ainvoke(said(text), config())
    session = await store.session("t")
    await session.fork("forked")
    lines = [line async for line in store.export("t")]
    await store.import_(lines, session_id="imported")
    await HoldfastSaver(store).acopy_thread("t", "copied")
    with pytest.raises(SessionExists):
        await HoldfastSaver(store).acopy_thread("t", "copied")
    with pytest.raises(SessionNotFound):
        await HoldfastSaver(store).acopy_thread("nobody", "x")
    for thread in ("forked", "imported", "copied"):
        await graph.ainvoke(said("three"), config(thread))
        expected = ["one", "heard one", "two", "heard two", "three", "heard three"]
        assert texts(await graph.aget_state(config(thread))) == await shown(store, thread) == expected
    assert await shown(store) == expected[:4]
    for thread in ("t", "forked", "imported", "copied"):
        await store.delete(thread)
        assert (await graph.aget_state(config(thread))).values == {}
    assert (await store.list()).items == []


async def test_a_late_writer_brings_nothing_back(store: Store) -> None:
    saver = HoldfastSaver(store)

    async def deleted(state: MessagesState) -> dict[str, Any]:
        await store.delete("t")
        return echo(state)

    with pytest.raises(SessionGone):
        await chat(saver, deleted).ainvoke(said("hi"), config())
    assert not await store.has("t")
    await chat(saver).ainvoke(said("anew"), config())
    assert await shown(store) == ["anew", "heard anew"]


async def test_a_cleared_session_is_an_empty_thread(store: Store) -> None:
    graph = chat(HoldfastSaver(store))
    await graph.ainvoke(said("hi"), config())
    session = await store.session("t")
    session.clear()
    await session.commit()
    assert (await graph.aget_state(config())).values == {}
    await graph.ainvoke(said("again"), config())
    assert await shown(store) == ["again", "heard again"]


async def reachable(store: Store, thread: str = "t") -> set[str]:
    """Every blob that some checkpoint or pending write refers to."""
    snapshot = await store.backend.read(Key(store.tenant, thread), EVERYTHING)
    assert snapshot is not None
    chunks = dict(records.chunk_of(blob) for blob in snapshot.blobs or () if blob.key.startswith("k/"))
    kept = [blob for blob in snapshot.blobs or () if not blob.key.startswith("k/")]
    refs = [ref for blob in kept if blob.key.startswith("c/") for ref in records.record_of(blob).values.values()]
    refs += [records.write_of(blob).value for blob in kept if blob.key.startswith("w/")]
    return {blob.key for blob in kept} | {records.chunk_key(digest) for digest in needed(refs, chunks.get)}


async def test_pruning_keeps_the_newest_and_nothing_else(store: Store) -> None:
    saver = HoldfastSaver(store)
    graph = chat(saver)
    for turn in range(12):
        await graph.ainvoke(said(words(turn)), config())
    before = await graph.aget_state(config())
    await saver.aprune(["t", "nobody"])
    assert (await graph.aget_state(config())).values == before.values
    assert [it async for it in graph.aget_state_history(config())][1:] == []
    assert await blob_keys(store) == await reachable(store)
    assert len(await blob_keys(store)) < 24 + 8
    assert len(await shown(store)) == 24
    await graph.ainvoke(said("go on"), config())
    assert len(await shown(store)) == 26
    await saver.aprune(["t"], strategy="delete")
    assert not await store.has("t")


async def test_a_writer_relies_on_nothing_that_was_pruned(store: Store) -> None:
    """One process forks from an old checkpoint while another one prunes it."""
    ours, theirs = HoldfastSaver(store), HoldfastSaver(store)
    graph = chat(ours)
    await graph.ainvoke(said(words(1)), config())
    old = await graph.aget_state(config())
    first = old.values["messages"][0]
    await graph.aupdate_state(config(), {"messages": [RemoveMessage(first.id)]})
    await theirs.aprune(["t"])
    put = checkpoint([first], 50)
    await ours.aput(old.config, put, {}, {"messages": 50})
    again = await HoldfastSaver(store).aget_tuple(config())
    assert again is not None
    assert [it.text for it in again.checkpoint["channel_values"]["messages"]] == [words(1)] == await shown(store)


async def test_deleting_runs(store: Store) -> None:
    saver = HoldfastSaver(store)
    graph = chat(saver)
    await graph.ainvoke(said("keep"), {**config(), "metadata": {"run_id": "r1"}})
    await graph.ainvoke(said("drop"), {**config(), "metadata": {"run_id": "r2"}})
    await graph.ainvoke(said("other"), {**config("u"), "metadata": {"run_id": "r2"}})
    await saver.adelete_for_runs(["r2"])
    assert texts(await graph.aget_state(config())) == await shown(store) == ["keep", "heard keep"]
    assert await shown(store, "u") == []
    assert await blob_keys(store) == await reachable(store)


async def test_listing(store: Store) -> None:
    saver = HoldfastSaver(store)
    graph = chat(saver)
    for thread in ("a", "b"):
        for text in ("one", "two"):
            await graph.ainvoke(said(text), {**config(thread), "metadata": {"topic": text}})
    assert len([it async for it in saver.alist(None)]) == 12
    assert len([it async for it in saver.alist(None, filter={"topic": "two"}, limit=5)]) == 5
    steps = [it.metadata.get("step") async for it in saver.alist(config("a"), filter={"source": "loop"})]
    assert steps == [4, 3, 1, 0]
    newest = await saver.aget_tuple(config("a"))
    assert newest is not None
    older = [it async for it in saver.alist(config("a"), before=newest.config, limit=2)]
    assert [it.metadata.get("step") for it in older] == [3, 2]
    assert older[0].pending_writes


async def test_delta_channels(store: Store) -> None:
    class State(TypedDict):
        messages: Annotated[list[AnyMessage], DeltaChannel(added, snapshot_frequency=7)]

    builder = new_graph(State)

    def model(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    builder.add_node("model", model)
    builder.add_edge(START, "model")
    saver = HoldfastSaver(store)
    graph: Graph = builder.compile(checkpointer=saver)
    for turn in range(9):
        await graph.ainvoke({"messages": [HumanMessage(f"question {turn}", id=str(turn))]}, config())
        fresh: Graph = builder.compile(checkpointer=HoldfastSaver(store))
        assert len(texts(await fresh.aget_state(config()))) == 2 * turn + 2
    before = texts(await graph.aget_state(config()))
    await saver.aprune(["t"])
    kept = [it async for it in saver.alist(config())]
    assert 1 <= len(kept) < 16
    assert texts(await graph.aget_state(config())) == before
    assert await blob_keys(store) == await reachable(store)
    assert {place_of("t", key).id for key in await blob_keys(store) if key.startswith("c/")} == {it.checkpoint["id"] for it in kept}


def added(old: Any, writes: Sequence[Any]) -> Any:
    for write in writes:
        old = add_messages(old, write)
    return old


async def test_a_copy_of_the_saver_shares_its_store(store: Store) -> None:
    saver = HoldfastSaver(store)
    await chat(saver).ainvoke(said("hi"), config())
    clone = saver.with_allowlist([("tests", "Thing")])
    found = await clone.aget_tuple(config())
    assert found is not None
    assert len(found.checkpoint["channel_values"]["messages"]) == 2


def test_without_langgraph_the_extra_is_named() -> None:
    code = "import sys; sys.modules['langgraph'] = None\nimport holdfast.adapters.langgraph"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'MissingExtra: LangGraph 1.2 or newer is not installed: pip install "holdfast[langgraph]"' in failed.stderr


def test_the_example(tmp_path: Path) -> None:
    example = str(Path(__file__).parents[2] / "examples" / "langgraph_app.py")
    said = [subprocess.check_output([sys.executable, example, f"sqlite:///{tmp_path / 'chat.db'}"], text=True) for _ in range(2)]
    assert said[0].splitlines()[:4] == ["> hello", "That was your message number 1.", "> how is the weather?", "It is sunny today."]
    assert said[0].splitlines()[4].startswith("6 messages in session ada-1")
    assert "That was your message number 3." in said[1]
    assert "12 messages" in said[1]


class Rot(CipherProtocol):
    """Not a secret, but never the same twice."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(8)
        return "rot", nonce + bytes(byte ^ nonce[i % 8] ^ 85 for i, byte in enumerate(plaintext))

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        nonce = ciphertext[:8]
        return bytes(byte ^ nonce[i % 8] ^ 85 for i, byte in enumerate(ciphertext[8:]))


async def test_what_is_encrypted_stays_so_and_is_stored_once(store: Store) -> None:
    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [AIMessage(words(len(state["messages"])))], "files": {f"secret-{i}": words(i) for i in range(3)}}

    class State(MessagesState):
        files: dict[str, str]

    builder = new_graph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    for turn in range(12):
        graph = builder.compile(checkpointer=HoldfastSaver(store, serde=EncryptedSerializer(Rot())))  # each time a new process
        await graph.ainvoke(said(f"secret {words(turn)}"), config())
    graph = builder.compile(checkpointer=HoldfastSaver(store, serde=EncryptedSerializer(Rot())))
    assert len((await graph.aget_state(config())).values["messages"]) == 24
    lines = "\n".join([line async for line in store.export("t")])
    assert "secret" not in lines
    assert await shown(store) == []
    snapshot = await store.backend.read(Key(store.tenant, "t"), EVERYTHING)
    assert snapshot is not None
    stored = [records.chunk_of(blob)[1] for blob in snapshot.blobs or () if blob.key.startswith("k/")]
    assert not any(b"secret" in chunk.data for chunk in stored)
    assert sum(len(chunk.data) for chunk in stored) < 12 * 4 * 1500 + 3 * 1500


# --- expiry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_reading_a_thread_puts_off_its_expiry(backend: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store.open("memory://" if backend == "memory" else url, ttl=100) as store:
        graph = chat(HoldfastSaver(store))
        for age, moved in ((5, False), (20, True)):
            await store.delete("t")
            past = now() - age * 1_000_000
            with monkeypatch.context() as patch:
                patch.setattr(threads, "now", lambda past=past: past)
                await graph.ainvoke(said("hi"), config())
            (before,) = (await store.list()).items
            assert texts(await graph.aget_state(config())) == ["hi", "heard hi"]
            (after,) = (await store.list()).items
            assert before.expires_at is not None
            assert after.expires_at is not None
            assert (after.expires_at > before.expires_at) == moved
            assert after.version == before.version
