"""Large values of messages: each once per session, read only where it is needed, the same to the byte; files of a session."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import holdfast
from holdfast import (
    Blob,
    Corrupt,
    FileInfo,
    FileNotFound,
    InvalidId,
    InvalidValue,
    Message,
    Native,
    Other,
    SessionNotFound,
    Store,
    Text,
    TooLarge,
    ToolCall,
    ToolResult,
    assistant,
    large,
    sync,
    tool,
    user,
)
from holdfast.agents import History
from holdfast.agents.history import tokens_of
from holdfast.agents.record import as_sent
from holdfast.backend import Backend, BlobRange, Commit, Create, Key, Outcome, ReadPlan, Snapshot, Window
from holdfast.backends.memory import MemoryBackend
from holdfast.entries import FILES, INSTRUCTIONS, LARGE, MESSAGE, NewEntry
from holdfast.ids import new_id, new_incarnation, now
from holdfast.messages import LEFT_OUT, decode_message, encode_message
from holdfast.store import backend_for
from holdfast.testing.model_server import Rule, call
from holdfast.wrappers.base import Wrapper

from .agents.conftest import Models, chat

__all__ = ["chat"]

IMAGE = base64.b64encode(random.Random(1).randbytes(750_000)).decode()
"""A million bytes of text."""
LONG = "a line of text\n" * 2000
ROWS: list[Any] = [{"id": number, "name": f"row {number}"} for number in range(1000)]
EVERYTHING = ReadPlan(entries=Window(newest=False, hidden=True), blobs=(BlobRange(),))


def image(text: str = "What is it?") -> Message:
    return Message("user", (Text(text), Blob("image", IMAGE, "image/png")))


def answering() -> Rule:
    """A model that counts its answers."""
    numbers = count()
    return lambda request: f"answer {next(numbers)}"


# --- as values -------------------------------------------------------------------------------------------------------

HEADS = ["", LEFT_OUT, '"' + LEFT_OUT, "\\", "data:image/png;base64,", f"{LEFT_OUT}text:{'0' * 32}:5"]
WRITERS: list[dict[str, Any]] = [{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}]


@st.composite
def texts(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(HEADS)) + draw(st.text(max_size=12)) * draw(st.sampled_from([1, 1, 900, 5000]))


def wrapped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    many = st.integers(0, 10**9).map(lambda it: [it] * 3000)
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(), inner, max_size=3), many)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), texts()), wrapped, max_leaves=6
)
PARTS: st.SearchStrategy[Any] = st.one_of(
    texts().map(Text),
    VALUES.map(lambda it: ToolResult(it, "call")),
    VALUES.map(lambda it: ToolCall("look", "call", it)),
    texts().map(lambda it: Blob("image", it)),
    st.builds(Other, st.sampled_from(["ours", "text"]), st.dictionaries(st.sampled_from(["content", "b"]), VALUES)),
)


@st.composite
def natives(draw: st.DrawFn) -> Native:
    written = json.dumps(draw(VALUES), **draw(st.sampled_from(WRITERS)))
    return Native("theirs/1", msgspec.Raw(written.encode()))


@settings(max_examples=120, deadline=None)
@given(parts=st.lists(PARTS, max_size=4), native=st.none() | natives())
def test_what_is_taken_out_comes_back_to_the_byte(parts: list[Any], native: Native | None) -> None:
    message = Message("user", tuple(parts), native=native)
    body = encode_message(message)
    light, values = large.split(body)
    if values:
        assert large.joined(light, values) == body
        read = decode_message(light, "id", "run")
        assert read.light
        assert set(large.left_out([read])) == values.keys()
        whole = large.whole(read, values)
        assert (whole, whole.native, whole.id, whole.run_id, whole.light) == (message, message.native, "id", "run", False)
        assert large.split(body) == (light, values)
        assert not read.text.startswith(LEFT_OUT)
    else:
        assert light == body


def test_what_is_taken_out() -> None:
    body = encode_message(Message("tool", (ToolResult({"text": LONG, "rows": ROWS, "n": 1}, "c"), Text("short"), Text("x" * 4000))))
    light, values = large.split(body)
    assert sorted(map(msgspec.json.decode, values.values()), key=str) == sorted([LONG, ROWS], key=str)
    assert len(light) < 4500
    message = decode_message(light)
    assert message.text == "short" + "x" * 4000
    assert abs(tokens_of(message) - tokens_of(decode_message(body))) < 0.1 * tokens_of(message)
    assert decode_message(large.split(encode_message(user(LONG)))[0]).text == "[30,000 bytes of text]"
    with pytest.raises(InvalidValue, match=r"session\.whole"):
        encode_message(message)


def test_the_stored_form() -> None:
    """Light bodies are read forever: a difference here is a new form."""
    message = Message(
        "user", (Text(LONG), ToolResult(ROWS, "c")), native=Native("sdk/1", msgspec.Raw(b'{"url": "data:a/b;base64,%s"}' % (b"x" * 5000)))
    )
    light, values = large.split(encode_message(message), b"salt")
    assert light == (
        b'{"v":2,"role":"user","parts":['
        b'{"type":"text","content":"\\u0000holdfast:text:a79b5c38ca98c583aff39b307d82191d:30000"},'
        b'{"type":"tool_call_response","response":"\\u0000holdfast:json:3cc9373ffbefee12eedd0be2b45e35d7:27781","id":"c"}],'
        b'"native":["sdk/1",{"url": "\\u0000holdfast:text:02f7de4c2299e8c8b624d7fca980d7fb:5016:data:a/b;base64,"}]}'
    )
    assert [value[:4] for value in values.values()] == [b'"a l', b'[{"i', b'"xxx']


def test_the_same_in_two_forms_is_one_value() -> None:
    url = "data:image/png;base64," + IMAGE
    native = Native("sdk/1", msgspec.Raw(json.dumps({"image_url": url}).encode()))
    light, values = large.split(encode_message(Message("user", (Blob("image", IMAGE, "image/png"),), native=native)))
    assert [len(value) for value in values.values()] == [len(IMAGE) + 2]
    assert len(light) < 500


def test_what_only_another_writer_writes_is_kept_to_the_byte() -> None:
    data = b'{ "a" : "\\u00e9\\/%s", "a": [%s], "\\u0000holdfast:": 1e400 }' % (b"x" * 5000, b"1.50, " * 5000 + b"-0")
    body = encode_message(Message("user", native=Native("theirs/1", msgspec.Raw(data))))
    light, values = large.split(body)
    assert (len(values), large.joined(light, values)) == (3, body)
    native = large.whole(decode_message(light), values).native
    assert native is not None
    assert bytes(native.data) == data


def test_many_values_are_read_in_pieces() -> None:
    assert list(large.reads({})) == []
    assert [len(it.keys or ()) for it in large.reads({f"{n}": 100 for n in range(250)})] == [100, 100, 50]
    assert [it.keys for it in large.reads({"a": 5 << 20, "b": 5 << 20, "c": 20 << 20, "d": 1})] == [("a",), ("b",), ("c",), ("d",)]


# --- in a session ----------------------------------------------------------------------------------------------------


class Weighing(Wrapper):
    """Weighs what reads and commits are answered with, and knows which blobs were asked for."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.answers: list[int] = []
        self.fetched: list[str] = []

    def _weigh(self, it: Snapshot | None) -> None:
        if it is not None:
            blobs = it.blobs or []
            self.answers.append(sum(len(entry.body) for entry in it.entries or []) + sum(len(blob.data or b"") for blob in blobs))
            self.fetched += [blob.key for blob in blobs if blob.namespace == LARGE and blob.data is not None]

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await super().read(key, plan)
        self._weigh(snapshot)
        return snapshot

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        outcome = await super().commit(key, commit)
        self._weigh(outcome.snapshot)
        return outcome

    def forget(self) -> None:
        self.answers.clear()
        self.fetched.clear()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with Store(backend_for(url)) as opened:
        yield opened


def weighed(store: Store) -> tuple[Store, Weighing]:
    """The same store, and what weighs it."""
    weighing = Weighing(store.backend)
    return Store(weighing, tenant=store.tenant), weighing


async def held(store: Store, session_id: str) -> tuple[int, dict[str, int]]:
    """The bytes of all bodies of a session, and how many of each namespace's blobs."""
    snapshot = await store.backend.read(Key(store.tenant, session_id), EVERYTHING)
    assert snapshot is not None
    sizes: dict[str, int] = {}
    for blob in snapshot.blobs or []:
        sizes[blob.namespace] = sizes.get(blob.namespace, 0) + len(blob.data or b"")
    return sum(len(entry.body) for entry in snapshot.entries or []), sizes


async def test_every_way_to_read(store: Store) -> None:
    store, weighing = weighed(store)
    session = await store.session("s")
    said = [image(), tool(ROWS, call_id="c"), user("short"), assistant(LONG), user(LEFT_OUT + "text:no:1")]
    await session.append(*said)
    bodies, blobs = await held(store, "s")
    assert bodies < 1500
    assert blobs[LARGE] < len(IMAGE) + len(json.dumps(ROWS)) + len(LONG) + 4000
    assert session.info.counts.bytes == bodies
    weighing.forget()
    light = await session.get_messages(light=True)
    assert weighing.answers == [bodies]
    assert [it.light for it in light] == [True, True, False, True, False]
    assert (light[0].text, light[3].text, light[4].text) == ("What is it?", "[30,000 bytes of text]", LEFT_OUT + "text:no:1")
    assert await session.whole(light) == said == await session.get_messages()
    assert await session.whole(said) == said
    entries = await session.entries()
    assert [it.body for it in entries] == [encode_message(it) for it in said]
    assert await session.whole(await session.entries(light=True)) == entries
    assert await session.get_messages(last=2) == said[-2:]
    weighing.forget()
    assert await session.get_messages(last=1) == said[-1:]
    assert await session.get_chat_history(last=1) == said[-1:]
    assert weighing.fetched == []
    assert await session.get_chat_history() == [said[0], *said[2:]]
    with pytest.raises(InvalidValue, match="without its large values"):
        await session.append(*light)


async def test_what_becomes_of_them(store: Store) -> None:
    session = await store.session("s")
    await session.append(image(), assistant("a cat"), assistant(LONG))
    fork = await session.fork("fork", at=2)
    assert await fork.get_messages() == [image(), assistant("a cat")]
    lines = [line async for line in store.export("s")]
    with pytest.raises(InvalidValue, match="lacks the large values"):
        await store.import_([*(it for it in lines[:-1] if LARGE not in it), '{"type":"end","lines":5}'], session_id="copy")
    copy = await store.import_(lines, session_id="copy")
    assert await copy.get_messages() == [image(), assistant("a cat"), assistant(LONG)]
    assert await session.pop() == assistant(LONG)
    await session.append(image("And now?"))
    assert await session.rewind(last=1) == 1
    await session.replace([image("anew")])
    assert await session.get_messages() == [image("anew")]
    assert (await held(store, "s"))[1][LARGE] < len(IMAGE) + 40_000
    session.clear()
    await session.append(user("afresh"))
    assert (await held(store, "s"))[1] == {}
    await copy.delete()
    assert await store.backend.read(Key(store.tenant, "copy"), EVERYTHING) is None
    assert await fork.get_messages() == [image(), assistant("a cat")]


async def test_the_same_commit_twice_is_one(store: Store) -> None:
    session = await store.session("s")
    message = replace(image(), id="m")
    first = await session.append(message, commit_id="c")
    again = await (await store.session("s")).append(message, commit_id="c")
    assert (first, len(await session.get_messages())) == (again, 1)


async def test_a_read_in_the_middle_teaches_a_handle_nothing(store: Store) -> None:
    """What is written after a read is judged by what was read first, not by what was when large values were fetched."""
    store, weighing = weighed(store)
    session = await store.session("s")
    await session.append(image())
    other = await store.session("s")

    class Late(Weighing):
        async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
            if plan.blobs:
                await other.append(user("meanwhile"))
            return await self.inner.read(key, plan)

    late = await Store(Late(weighing), tenant=store.tenant).session("s")
    seen = late.version
    assert len(await late.entries()) == 1
    assert late.version == seen == other.version - 1


async def test_one_that_is_missing_is_no_message(store: Store) -> None:
    key, body = Key(store.tenant, "s"), large.split(encode_message(image()))[0]
    entry = NewEntry("m", MESSAGE, body)
    await store.backend.commit(key, Commit(id=new_id(), time=now(), create=Create(new_incarnation()), entries=(entry,)))
    session = await store.session("s")
    assert (await session.get_messages(light=True))[0].text == "What is it?"
    with pytest.raises(Corrupt, match="message m: its large value"):
        await session.get_messages()


async def test_limits_name_what_people_know() -> None:
    inner: Any = MemoryBackend()
    inner.capabilities = replace(inner.capabilities, max_entry_bytes=500_000)
    async with Store(inner) as store:
        session = await store.session("s")
        with pytest.raises(TooLarge, match=r"a value of message entry m has 1,000,002 bytes: this store takes at most 500,000"):
            await session.append(replace(image(), id="m"))
        with pytest.raises(TooLarge, match=r"file 'a\.png' has 500,001 bytes: this store takes at most 500,000"):
            await session.put_file("a.png", b"x" * 500_001)
        session.state["k"] = "x" * 500_001
        with pytest.raises(TooLarge, match=r"state key 'k' has .* files of the session \(session\.put_file\)"):
            await session.commit()


# --- in runs ---------------------------------------------------------------------------------------------------------


async def test_sixteen_runs_with_one_image_store_it_once(store: Store, chat: Models) -> None:
    store, weighing = weighed(store)
    agent = chat.agent(answering(), store=store)
    for number in range(16):
        reply = await agent.run(image(f"question {number}"), session_id="s")
        assert reply.messages[0] == image(f"question {number}")
    bodies, blobs = await held(store, "s")
    assert bodies < 30_000
    assert blobs[LARGE] == len(IMAGE) + 2
    weighing.forget()
    reply = await chat.agent(["none"], store=store, history=History(runs=0)).run("Just this.", session_id="s")
    assert reply.content == "none"
    assert (weighing.fetched, max(weighing.answers) < 5000) == ([], True)
    weighing.forget()
    await agent.run("And all of it?", session_id="s", run_id="all")
    assert sum(weighing.answers) - len(IMAGE) < 60_000
    assert len(weighing.fetched) == 1  # once for all of them
    assert json.dumps(chat.servers[0].requests[-1].body).count(IMAGE) == 16
    session = await store.session("s")
    assert await session.get_messages(last=3) == [assistant("none"), user("And all of it?"), assistant("answer 16")]


async def test_what_is_sent_is_whole(store: Store, chat: Models) -> None:
    store, weighing = weighed(store)
    agent = chat.agent(answering(), store=store, history=History(runs=1))
    await agent.run(image(), session_id="s")
    weighing.forget()
    await agent.run("Say more.", session_id="s")
    assert len(weighing.fetched) == 1
    assert IMAGE in json.dumps(chat.requests[-1].body)
    assert "holdfast" not in json.dumps(chat.requests[-1].body)
    session = await store.session("s")
    (sent,) = await as_sent(session, (await session.runs())[1].id) or []
    assert sent.requests[0].messages == (image(), assistant("answer 0"), user("Say more."))
    weighing.forget()
    await agent.run("And more.", session_id="s")
    assert weighing.fetched == []
    assert IMAGE not in json.dumps(chat.requests[-1].body)
    run = (await session.runs())[1]
    assert 1_000 < run.window["history"]["tokens"] < 1_050


async def test_a_long_result_is_stored_once_and_told_again(store: Store, chat: Models) -> None:
    def look() -> str:
        """Look."""
        return LONG

    agent = chat.agent([call("look"), "seen", "again"], store=store, tools=[look])
    reply = await agent.run("Look!", session_id="s", run_id="r")
    assert (await agent.run("Look!", session_id="s", run_id="r")).messages == reply.messages
    await agent.run("What did you see?", session_id="s")
    results = [it["content"] for it in chat.requests[-1].body["messages"] if it["role"] == "tool"]
    assert results == [LONG]
    bodies, blobs = await held(store, "s")
    assert bodies < 10_000
    assert blobs[LARGE] < len(LONG) + 4000
    assert blobs.keys() == {LARGE}


# --- elsewhere -------------------------------------------------------------------------------------------------------


async def test_encrypted(tmp_path: Path, chat: Models) -> None:
    """The keys of blobs, which are hashes of what they hold, are no hashes in the database."""
    pytest.importorskip("cryptography", reason="the encryption extra is not installed")
    from holdfast.wrappers import EncryptedBackend

    def opened() -> Backend:
        return backend_for(f"sqlite:///{tmp_path}/chat.db")

    inner = opened()
    async with Store(EncryptedBackend(inner, keys=[b"old key." * 4])) as store:
        agent = chat.agent(answering(), store=store, instructions="Be kind.", history=History(runs=1))
        for _ in range(3):
            await agent.run(image(), session_id="s")
        session = await store.session("s")
        fork = await session.fork("fork")
        wanted = [it.text for it in await session.get_messages()]
        assert wanted[0] == "Be kind."
        key = Key(store.tenant, "s")
        clear, sealed = await store.backend.read(key, EVERYTHING), await inner.read(key, EVERYTHING)
        assert clear is not None
        assert sealed is not None
        assert [it.namespace for it in clear.blobs or []] == [INSTRUCTIONS, LARGE]
        assert [it.namespace for it in sealed.blobs or []] == [INSTRUCTIONS, LARGE]
        assert {it.key for it in clear.blobs or []}.isdisjoint(it.key for it in sealed.blobs or [])
        listed = await store.backend.read(key, ReadPlan(blobs=(BlobRange(namespace=LARGE, prefix=(clear.blobs or [])[1].key, data=False),)))
        assert listed is not None
        assert [(it.key, it.type, it.data) for it in listed.blobs or []] == [((clear.blobs or [])[1].key, "application/json", None)]
        await fork.append(image())
        assert [it.text for it in await fork.get_messages()] == [*wanted, "What is it?"]
        assert (await fork.get_messages())[-1] == image()
    async with Store(EncryptedBackend(opened(), keys=[b"new key." * 4, b"old key." * 4])) as store:
        assert [it.text for it in await (await store.session("fork")).get_messages()] == [*wanted, "What is it?"]
        rotating: Any = store.backend
        await rotating.rotate(Key(store.tenant, "fork"))
    async with Store(EncryptedBackend(opened(), keys=[b"new key." * 4])) as store:
        assert (await (await store.session("fork")).get_messages())[-1] == image()


async def test_the_openai_agents_sdk(store: Store) -> None:
    pytest.importorskip("agents", reason="the openai-agents extra is not installed")
    from holdfast.adapters.openai_agents import HoldfastSession

    session = HoldfastSession("s", store)
    url = {"type": "input_image", "image_url": "data:image/png;base64," + IMAGE, "detail": "auto"}
    item: Any = {"role": "user", "content": [url, {"type": "input_text", "text": "What is it?"}]}
    for _ in range(4):
        await session.add_items([item])
    assert await session.get_items() == [item] * 4
    assert await session.pop_item() == item
    assert await session.get_items(limit=2) == [item] * 2
    assert (await held(store, "s"))[1] == {LARGE: len(IMAGE) + 2}
    assert (await (await store.session("s")).get_messages())[0].parts[0] == Blob("image", IMAGE, "image/png")
    await session.clear_session()
    assert await session.get_items() == []


async def test_langgraph(store: Store) -> None:
    pytest.importorskip("langgraph", reason="the langgraph extra is not installed")
    from langchain_core.messages import HumanMessage

    from holdfast.adapters.langgraph import HoldfastSaver

    from .adapters.test_langgraph import chat as graph_of

    config: Any = {"configurable": {"thread_id": "s"}}
    session = await store.session("s")
    await session.append(image(), assistant(LONG))
    saver = HoldfastSaver(store)
    unseen = await saver.aunseen(config)
    assert unseen[1].text == LONG
    assert IMAGE in str(unseen[0].content)
    await graph_of(saver).ainvoke({"messages": [*unseen, HumanMessage("y" * 20_000)]}, config)
    assert [len(it.text) for it in await session.get_messages()][1:3] == [len(LONG), 20_000]
    assert (await session.get_messages(light=True))[2].text == "[20,000 bytes of text]"
    assert await saver.aunseen(config) == []


async def test_copied_and_cached(store: Store) -> None:
    pytest.importorskip("cryptography", reason="the encryption extra is not installed")
    from holdfast.copying import Pair, copy, verify
    from holdfast.wrappers import EncryptedBackend

    session = await store.session("s")
    await session.append(image(), assistant(LONG))
    sealed = EncryptedBackend(MemoryBackend(), keys=[b"a key..." * 4])
    for source, target in ((store.backend, sealed), (sealed, MemoryBackend())):
        pair = Pair(source, target, store.tenant, "source")
        assert (await copy(pair)).made == 1
        assert (await verify(pair)).same == 1
        cached = Store(target, cache=8, tenant=store.tenant)
        there = await cached.session("s")
        for _ in range(2):
            assert (await there.get_messages())[:2] == [image(), assistant(LONG)]
        await there.append(image("again"))
        assert (await held(cached, "s"))[1][LARGE] < len(IMAGE) + len(LONG) + 4000
        assert (await there.get_messages())[-1] == image("again")


async def test_recall(store: Store) -> None:
    from holdfast.recall import Recall

    session = await store.session("s")
    await session.append(image(), assistant(LONG + "and then a zebra"))
    async with Recall(store, "memory://") as recall:
        await recall.update()
        (hit,) = await recall.search("zebra", user_id=None)
        assert (hit.session_id, hit.seq) == ("s", 2)


def test_the_terminal(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from holdfast.cli.app import app

    url = f"sqlite:///{tmp_path}/chat.db"
    with sync.Store.open(url) as opened:
        opened.session("s").append(image(), assistant("the end of " + LONG))
    shown = CliRunner().invoke(app, ["--store", url, "sessions", "show", "s"])
    assert shown.exit_code == 0, shown.output
    assert "image/png" in shown.output
    assert "the end of a line" in shown.output
    assert "holdfast:" not in shown.output
    exported = CliRunner().invoke(app, ["--store", url, "sessions", "export", "s", "-o", f"{tmp_path}/s.jsonl"])
    assert exported.exit_code == 0, exported.output
    with sync.Store.open("memory://") as other:
        copy = other.import_((tmp_path / "s.jsonl").read_text("utf-8").splitlines(), session_id="t")
        assert copy.get_messages()[0] == image()


# --- files -----------------------------------------------------------------------------------------------------------


async def test_files(store: Store) -> None:
    session = await store.session("s")
    await session.put_file("a/plot.png", b"\x89PNG\0", type="image/png")
    await session.put_file("note", "größer")
    await session.put_file("raw", b"")
    assert await session.get_file("a/plot.png") == b"\x89PNG\0"
    assert (await session.get_file("note")).decode() == "größer"
    names = [FileInfo("a/plot.png", "image/png", 5), FileInfo("note", "text/plain", 8), FileInfo("raw", "application/octet-stream", 0)]
    assert await session.list_files() == names
    await session.put_file("note", "new")
    assert (await session.get_file("note"), (await session.list_files())[1].size) == (b"new", 3)
    fork = await session.fork("fork")
    await session.delete_file("note")
    await session.delete_file("note")
    assert [it.name for it in await session.list_files()] == ["a/plot.png", "raw"]
    with pytest.raises(FileNotFound, match=r"no file 'note' in this session: list_files"):
        await session.get_file("note")
    assert [it.name for it in await fork.list_files()] == ["a/plot.png", "note", "raw"]
    lines = [line async for line in store.export("s")]
    assert await (await store.import_(lines, session_id="copy")).get_file("a/plot.png") == b"\x89PNG\0"
    session.clear()
    await session.commit()
    assert await session.list_files() == []
    assert await session.get_messages() == []


async def test_bad_files_are_refused_before_anything_is_written() -> None:
    session = await Store.open("memory://").session("s")
    wrong: list[tuple[Any, Any, Any]] = [("", b"", None), ("a\n", b"", None), (1, b"", None), ("x" * 1025, b"", None)]
    for name, data, type in wrong:
        with pytest.raises(InvalidId, match="file name"):
            await session.put_file(name, data, type=type)
    wrong = [("a", 1, None), ("a", None, None), ("a", b"", ""), ("a", b"", "a\nb"), ("a", b"", 3), ("a", "\ud800", None)]
    for name, data, type in wrong:
        with pytest.raises(InvalidValue, match="file 'a'"):
            await session.put_file(name, data, type=type)
    assert await session.list_files() == []
    with pytest.raises(SessionNotFound):
        await holdfast.Store.open("memory://").handle("none").list_files()


def test_files_blocking() -> None:
    with sync.Store.open("memory://") as opened:
        session = opened.session("s")
        session.put_file("a", "text")
        session.append(image())
        assert (session.get_file("a"), session.list_files()) == (b"text", [FileInfo("a", "text/plain", 4)])
        assert session.whole(session.get_messages(light=True)) == [image()]
        session.delete_file("a")
        assert session.list_files() == []
        assert FILES == "files"
