"""Sessions of the OpenAI Agents SDK: through its own Runner, and as its own sessions behave."""

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import agents
import msgspec
import pytest
from agents import Agent, RunConfig, RunContextWrapper, Runner, RunState, TResponseInputItem, function_tool
from agents.memory import OpenAIResponsesCompactionSession, SessionSettings
from agents.memory import Session as SDKSession
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from holdfast import (
    Blob,
    Corrupt,
    File,
    InvalidId,
    InvalidURL,
    InvalidValue,
    Message,
    Native,
    Part,
    Reasoning,
    SessionGone,
    SessionNotFound,
    Store,
    Text,
    TooLarge,
    ToolCall,
    ToolResult,
    Uri,
    assistant,
    system,
    tool,
    user,
)
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.backend import Backend, Commit, Key, Outcome, ReadPlan, Snapshot
from holdfast.testing.model_server import ModelServer, call
from holdfast.wrappers.base import Wrapper

agents.set_tracing_disabled(True)

Items = list[TResponseInputItem]


@pytest.fixture(params=["memory", "memory-cached", "sqlite", "sqlite-cached"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kind, _, cached = str(request.param).partition("-")
    url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'chat.db'}"
    async with Store.open(url, cache=16 if cached else 0) as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


@function_tool
def find_order(order_id: str) -> str:
    """Find an order."""
    return f"order {order_id} is on its way"


def said(*texts: str) -> Items:
    return cast(Items, [{"role": "user", "content": text} for text in texts])


def contents(items: Iterable[Any]) -> list[Any]:
    return [item["content"] for item in items]


def kinds(items: Iterable[Any]) -> list[str]:
    return [item.get("type") or item["role"] for item in items]


def anything(*items: Any) -> Items:
    return cast(Items, list(items))


def steps(*steps: Any) -> ScriptedModel:
    return ScriptedModel([[assistant_message(step)] if isinstance(step, str) else step for step in steps])


def lookup(order_id: str = "7", call_id: str = "call_1") -> list[Any]:
    return [function_call("find_order", {"order_id": order_id}, call_id=call_id)]


def agent(model: Any, *tools: Any) -> Agent[Any]:
    return Agent(name="desk", model=model, tools=[find_order, *tools])


# --- through the Runner ----------------------------------------------------------------------------------------------


async def test_a_conversation_with_tools_goes_on_from_what_is_stored(store: Store) -> None:
    model = steps(lookup(), "it is on its way", "still on its way")
    await Runner.run(agent(model), "where is order 7?", session=HoldfastSession("ada-1", store))
    result = await Runner.run(agent(model), "and now?", session=HoldfastSession("ada-1", store))
    assert result.final_output == "still on its way"
    assert kinds(model.calls[-1].input) == ["user", "function_call", "function_call_output", "message", "user"]
    items = await HoldfastSession("ada-1", store).get_items()
    assert kinds(items) == ["user", "function_call", "function_call_output", "message", "user", "message"]


async def test_a_streamed_run(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    result = Runner.run_streamed(agent(steps(lookup(), "on its way")), "where?", session=session)
    assert [event async for event in result.stream_events()]
    assert kinds(await session.get_items()) == ["user", "function_call", "function_call_output", "message"]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_one_session_in_many_event_loops(kind: str, url: str) -> None:
    session = HoldfastSession(None, url if kind == "sqlite" else "memory://")
    model = steps(*map(str, range(5)))
    loop = asyncio.new_event_loop()  # run_sync keeps its loop; the runs between it have one each
    try:
        asyncio.set_event_loop(loop)
        for number in range(4):
            if number % 2:
                asyncio.run(Runner.run(agent(model), f"q{number}", session=session))
                asyncio.set_event_loop(loop)
            else:
                Runner.run_sync(agent(model), f"q{number}", session=session)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert contents(asyncio.run(session.get_items()))[::2] == ["q0", "q1", "q2", "q3"]


async def test_settings_of_the_run_go_before_those_of_the_session(store: Store) -> None:
    session = HoldfastSession("ada-1", store, session_settings=SessionSettings(limit=4))
    await session.add_items(said(*map(str, range(10))))
    model = steps("a", "b")
    await Runner.run(agent(model), "x", session=session)
    assert contents(model.calls[0].input) == ["6", "7", "8", "9", "x"]
    await Runner.run(agent(model), "y", session=session, run_config=RunConfig(session_settings=SessionSettings(limit=1)))
    assert len(model.calls[1].input) == 2


async def test_a_run_that_fails_keeps_its_input_and_its_tool_results(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    model = steps(lookup(), ModelStep.raise_error(ConnectionError("model is down")), "there it is")
    with pytest.raises(ConnectionError):
        await Runner.run(agent(model), "where?", session=session)
    assert kinds(await session.get_items()) == ["user", "function_call", "function_call_output"]
    result = await Runner.run(agent(model), "try again", session=session)
    assert result.final_output == "there it is"
    assert kinds(model.calls[-1].input) == ["user", "function_call", "function_call_output", "user"]


async def test_an_approval_is_given_by_another_process(store: Store) -> None:
    @function_tool(needs_approval=True)
    def refund(order_id: str) -> str:
        """Pay back."""
        return f"paid {order_id}"

    model = steps([function_call("refund", {"order_id": "7"}, call_id="call_1")], "paid back", "yes, paid")
    desk = agent(model, refund)
    paused = await Runner.run(desk, "refund 7", session=HoldfastSession("ada-1", store))
    saved = paused.to_state().to_string()
    state: RunState[Any] = await RunState.from_string(desk, saved)
    state.approve(state.get_interruptions()[0])
    resumed = await Runner.run(desk, state, session=HoldfastSession("ada-1", store))
    assert resumed.final_output == "paid back"
    await Runner.run(desk, "sure?", session=HoldfastSession("ada-1", store))
    assert kinds(model.calls[-1].input) == ["user", "function_call", "function_call_output", "message", "user"]


async def test_a_conversation_of_another_process_goes_on_over_http_with_both_apis(store: Store) -> None:
    with ModelServer([call("find_order", order_id="7"), "on its way", "as I said"]) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            responses = OpenAIResponsesModel("gpt-x", openai_client=client)
            chat = OpenAIChatCompletionsModel("gpt-x", openai_client=client)
            await Runner.run(agent(responses), "where is 7?", session=HoldfastSession("ada-1", store))
            result = await Runner.run(agent(chat), "where?", session=HoldfastSession("ada-1", store))
        assert result.final_output == "as I said"
        items = await HoldfastSession("ada-1", store).get_items()
        assert cast(Items, server.requests[1].input) == items[:3]
        assert [message["role"] for message in server.requests[2].input] == ["user", "assistant", "tool", "assistant", "user"]


async def test_compaction_replaces_the_items_and_keeps_the_record(store: Store) -> None:
    class Responses:
        async def compact(self, **_: Any) -> Any:
            return type("Compacted", (), {"output": [{"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}], "usage": None})()

    client = cast(AsyncOpenAI, type("Client", (), {"responses": Responses()})())
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a", "b", "c"))
    compacting = OpenAIResponsesCompactionSession("ada-1", session, client=client, compaction_mode="input")
    await compacting.run_compaction({"force": True})
    assert kinds(await session.get_items()) == ["compaction"]
    opened = await store.get("ada-1")
    assert opened
    assert len(await opened.entries(hidden=True)) == 4


# --- the four methods ------------------------------------------------------------------------------------------------


def test_it_is_a_session_of_the_sdk_that_takes_the_run_context() -> None:
    session: SDKSession = HoldfastSession("ada-1", "memory://")
    assert isinstance(session, SDKSession)
    for method in (session.get_items, session.add_items, session.pop_item, session.clear_session):
        assert "wrapper" in inspect.signature(method).parameters


def test_ids() -> None:
    first, second = HoldfastSession(None, "memory://"), HoldfastSession(None, "memory://")
    assert first.session_id != second.session_id
    with pytest.raises(InvalidId):
        HoldfastSession("", "memory://")


def test_a_bad_url_is_refused_at_once_and_a_file_is_made_only_when_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidURL):
        HoldfastSession("ada-1", "chat.db")
    HoldfastSession("ada-1", f"sqlite:///{tmp_path / 'chat.db'}")
    assert list(tmp_path.iterdir()) == []


async def test_sessions_of_one_url_share_a_store() -> None:
    first = HoldfastSession(None, "memory://")
    await first.add_items(said("hi"))
    assert await HoldfastSession(first.session_id, "memory://").get_items() == said("hi")


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, "0123456789"), (3, "789"), (10, "0123456789"), (99, "0123456789"), (1, "9"), (0, ""), (-2, "")]
)
async def test_a_limit_gives_the_newest_in_order(store: Store, limit: int | None, expected: str) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said(*"0123456789"))
    assert contents(await session.get_items(limit)) == list(expected)
    session.session_settings = SessionSettings(limit=limit)
    assert contents(await session.get_items()) == list(expected)
    assert contents(await session.get_items(2)) == ["8", "9"]


async def test_settings_may_be_a_dict() -> None:
    session = HoldfastSession(None, "memory://", session_settings={"limit": 2})
    await session.add_items(said("a", "b", "c"))
    assert contents(await session.get_items()) == ["b", "c"]
    assert session.session_settings == SessionSettings(limit=2)
    assert HoldfastSession(None, "memory://").session_settings == SessionSettings()


async def test_reading_a_session_that_is_not_there_creates_nothing(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    assert not await store.has("ada-1")


async def test_items_are_popped_newest_first(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a", "b", "c"))
    assert [await session.pop_item() for _ in range(2)] == said("c", "b")
    await session.add_items(said("d"))
    assert await session.get_items() == said("a", "d")
    assert [await session.pop_item() for _ in range(3)] == [*said("d", "a"), None]


async def test_sessions_do_not_see_each_other(store: Store) -> None:
    ada, bob = HoldfastSession("ada-1", store), HoldfastSession("bob-1", store)
    await ada.add_items(said("a"))
    await bob.add_items(said("b"))
    await ada.clear_session()
    assert await ada.get_items() == []
    assert await bob.get_items() == said("b")


async def test_a_cleared_session_begins_anew(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a"))
    opened = await store.get("ada-1")
    assert opened
    opened.set("plan", "gold")
    await opened.commit()
    await session.clear_session()
    await session.clear_session()
    await session.add_items(said("b"))
    assert await session.get_items() == said("b")
    opened = await store.get("ada-1")
    assert opened
    assert (opened.get_all_keys(), len(await opened.entries(hidden=True))) == ([], 1)


async def test_a_closed_session_refuses_everything_and_leaves_the_store_open(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a"))
    session.close()
    session.close()
    for closed in (session.get_items, session.pop_item, session.clear_session, lambda: session.add_items([])):
        with pytest.raises(RuntimeError, match="HoldfastSession is closed"):
            await closed()
    assert await HoldfastSession("ada-1", store).get_items() == said("a")


async def test_what_is_stored_outlives_its_process(url: str) -> None:
    async with Store.open(url) as store:
        await HoldfastSession("ada-1", store).add_items(said("a", "b"))
    script = "import asyncio, sys; from holdfast.adapters.openai_agents import HoldfastSession as S\n"
    script += f"s = S('ada-1', {url!r}); asyncio.run(s.add_items([{{'role': 'user', 'content': 'c'}}])); print(asyncio.run(s.get_items()))"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(said("a", "b", "c"))
    async with Store.open(url) as store:
        assert await HoldfastSession("ada-1", store).get_items() == said("a", "b", "c")


# --- what goes in comes out ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TYPES = ["message", "function_call", "function_call_output", "reasoning", "compaction", "computer_call", "mcp_call", "text", "blob"]


def both(known: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return known | fields


ITEM = st.builds(
    both,
    st.fixed_dictionaries({}, optional={"type": st.sampled_from(TYPES) | TEXT, "role": st.sampled_from(["user", "developer"]) | JSON}),
    st.dictionaries(st.sampled_from(["content", "call_id", "arguments", "output", "summary", "name", "id"]) | TEXT, JSON, max_size=6),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ITEM, min_size=1, max_size=4))
def test_items_come_back_to_the_byte_whatever_they_are(items: list[dict[str, Any]]) -> None:
    async def there_and_back() -> None:
        store = Store.open("memory://")
        await HoldfastSession("ada-1", store).add_items(cast(Items, items))
        assert json.dumps(await HoldfastSession("ada-1", store).get_items()) == json.dumps(items)
        opened = await store.get("ada-1")
        assert opened
        assert len(await opened.get_messages()) == len(items)

    asyncio.run(there_and_back())


@pytest.mark.parametrize(
    "text", ["", "日本語 🧪 é", "\x00 \x1f \u2028", "\ud800", "half \udc00 pair", "'; DROP TABLE x; --", '{"not": "parsed"}', "x" * 200_000]
)
async def test_any_text_survives(store: Store, text: str) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said(text))
    assert await session.get_items() == said(text)
    assert await session.pop_item() == said(text)[0]


async def test_identical_items_are_all_kept(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a", "a"))
    await session.add_items(said("a"))
    assert await session.get_items() == said("a", "a", "a")


@pytest.mark.parametrize("bad", [object(), {1, 2}, b"bytes", float("nan"), float("inf"), user("hi")], ids=lambda bad: type(bad).__name__)
async def test_what_is_not_json_is_named_and_nothing_is_written(store: Store, bad: object) -> None:
    session = HoldfastSession("ada-1", store)
    with pytest.raises(InvalidValue, match=r"items\[1\] \(function_call_output\)"):
        await session.add_items(anything(*said("a"), {"type": "function_call_output", "output": bad}, *said("b")))
    assert await session.get_items() == []


async def test_a_batch_is_all_or_nothing(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    with pytest.raises(TooLarge):
        await session.add_items(said("a", "x" * (store.backend.capabilities.max_entry_bytes + 1)))
    assert await session.get_items() == []


async def test_an_unreadable_item_is_an_error(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a"))
    opened = await store.get("ada-1")
    assert opened
    await opened.append(Message("user", native=Native("openai-agents/1+text", msgspec.Raw(b'"{broken"'))))
    for read in (session.get_items, session.pop_item, lambda: session.get_items(1)):
        with pytest.raises(Corrupt, match="seq 2"):
            await read()


# --- other readers and other writers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "role", "parts"),
    [
        ({"role": "user", "content": "hi"}, "user", [Text("hi")]),
        ({"role": "developer", "content": "be brief"}, "system", [Text("be brief")]),
        (
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
            "assistant",
            [Text("a"), Text("b")],
        ),
        (
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
            "assistant",
            [ToolCall("f", "c", {"a": 1})],
        ),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{a"}, "assistant", [ToolCall("f", "c", "{a")]),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "1"}, "assistant", [ToolCall("f", "c", "1")]),
        ({"type": "computer_call", "call_id": "c", "action": {"x": 1}}, "assistant", [ToolCall("computer", "c", {"x": 1})]),
        ({"type": "function_call_output", "call_id": "c", "output": "done"}, "tool", [ToolResult("done", "c")]),
        (
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}], "content": [{"text": "so"}]},
            "assistant",
            [Reasoning("hm"), Reasoning("so")],
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                    {"type": "input_image", "image_url": "https://x/y.png"},
                    {"type": "input_file", "file_id": "f1"},
                    {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}},
                ],
            },
            "user",
            [
                Blob("image", "AAAA", "image/png"),
                Uri("image", "https://x/y.png"),
                File("document", "f1"),
                Blob("audio", "BBBB", "audio/wav"),
            ],
        ),
    ],
)
async def test_every_reader_understands_an_item(item: dict[str, Any], role: str, parts: list[Part]) -> None:
    store = Store.open("memory://")
    await HoldfastSession("ada-1", store).add_items(anything(item))
    opened = await store.get("ada-1")
    assert opened
    (message,) = await opened.get_messages()
    assert (message.role, list(message.parts)) == (role, parts)


async def test_big_unknown_fields_are_not_stored_twice() -> None:
    store = Store.open("memory://")
    await HoldfastSession("ada-1", store).add_items(anything({"type": "image_generation_call", "id": "ig_1", "result": "A" * 100_000}))
    opened = await store.get("ada-1")
    assert opened
    (entry,) = await opened.entries()
    assert len(entry.body) < 101_000
    assert entry.message().parts[0] == msgspec.structs.replace(cast(Any, entry.message().parts[0]), data={"id": "ig_1"})


async def test_a_conversation_begun_elsewhere_goes_on_here(store: Store) -> None:
    opened = await store.session("ada-1")
    await opened.append(
        system("be kind"),
        user("where is 7?"),
        Message("assistant", (Reasoning("hm"), Text("let me see"), ToolCall("find_order", "call_1", {"order_id": "7"}))),
        tool({"state": "on its way"}, call_id="call_1"),
        assistant("it is on its way"),
    )
    model = steps("as I said")
    await Runner.run(agent(model), "sure?", session=HoldfastSession("ada-1", store))
    assert model.calls[0].input == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "where is 7?"},
        {"role": "assistant", "content": "let me see"},
        {"type": "function_call", "call_id": "call_1", "name": "find_order", "arguments": '{"order_id": "7"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": '{"state": "on its way"}'},
        {"role": "assistant", "content": "it is on its way"},
        {"content": "sure?", "role": "user"},
    ]


async def test_converted_calls_and_results_come_in_pairs_or_not_at_all(store: Store) -> None:
    opened = await store.session("ada-1")
    session = HoldfastSession("ada-1", store)
    await opened.append(tool("nobody asked", call_id="call_0"), Message("assistant", (ToolCall("f", "call_1"), ToolCall("g", "call_2"))))
    assert await session.get_items() == []
    await opened.append(tool("two", call_id="call_2"), user("go on"))
    assert kinds(await session.get_items()) == ["function_call", "function_call_output", "user"]
    assert [kinds(await session.get_items(limit)) for limit in (1, 2, 3)] == [
        ["user"],
        ["user"],
        ["function_call", "function_call_output", "user"],
    ]


async def test_calls_without_ids_find_their_results_in_order(store: Store) -> None:
    opened = await store.session("ada-1")
    await opened.append(Message("assistant", (ToolCall("f"), ToolCall("g"))), tool("one"), tool("two"))
    items: list[Any] = list(await HoldfastSession("ada-1", store).get_items())
    assert kinds(items) == ["function_call", "function_call", "function_call_output", "function_call_output"]
    assert [item["call_id"] for item in items[:2]] == [item["call_id"] for item in items[2:]]
    assert items[0]["call_id"] != items[1]["call_id"]


async def test_media_of_others_are_sent_on(store: Store) -> None:
    opened = await store.session("ada-1")
    parts = (Text("look"), Blob("image", "AAAA", "image/png"), Uri("image", "https://x/y.png"), File("document", "f1"), Blob("audio", "BB"))
    await opened.append(Message("user", parts), Message("assistant", (Blob("image", "CCCC"),)))
    (item,) = await HoldfastSession("ada-1", store).get_items()
    assert cast(Any, item)["content"] == [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"},
        {"type": "input_image", "detail": "auto", "image_url": "https://x/y.png"},
        {"type": "input_file", "file_id": "f1"},
        {"type": "input_audio", "input_audio": {"data": "BB", "format": "wav"}},
    ]


async def test_popping_takes_one_item_of_somebody_elses_message(store: Store) -> None:
    opened = await store.session("ada-1")
    session = HoldfastSession("ada-1", store)
    await opened.append(user("a"), Message("assistant", (Text("b"), ToolCall("f", "call_1"))), tool("c", call_id="call_1"))
    popped = [await session.pop_item() for _ in range(3)]
    assert popped == [
        {"type": "function_call_output", "call_id": "call_1", "output": "c"},
        *anything({"role": "assistant", "content": "b"}),
        *said("a"),
    ]
    assert await session.pop_item() is None

    await opened.append(Message("assistant", (Text("d"), ToolResult("e", "call_2"), Text("f"))))
    before = await session.get_items()
    assert contents(before) == ["d", "f"]
    assert await session.pop_item() == before[-1]
    assert await session.get_items() == before[:-1]


async def test_records_that_are_no_messages_stay_out(store: Store) -> None:
    opened = await store.session("ada-1")
    async with opened.run(user("a")) as run:
        await run.append(assistant("b"))
    session = HoldfastSession("ada-1", store)
    assert contents(await session.get_items(2)) == ["a", "b"]
    assert contents([await session.pop_item()]) == ["b"]
    assert [run.status for run in await opened.runs()] == ["completed"]


# --- whose it is -----------------------------------------------------------------------------------------------------


async def test_a_session_is_its_owners(store: Store) -> None:
    ada = HoldfastSession("chat", store, user_id="ada")
    await ada.add_items(said("secret"))
    for stranger in (HoldfastSession("chat", store, user_id="bob"), HoldfastSession("chat", store)):
        assert await stranger.get_items() == []
        assert await stranger.pop_item() is None
        await stranger.clear_session()
        with pytest.raises(SessionNotFound):
            await stranger.add_items(said("x"))
    assert await ada.get_items() == said("secret")


async def test_the_runs_context_says_whose_it_is(store: Store) -> None:
    session = HoldfastSession("chat", store, user_id=lambda run: run.context["user"])
    model = steps("hello ada", "hello again", "never said")
    await Runner.run(agent(model), "hi", session=session, context={"user": "ada"})
    await Runner.run(agent(model), "hi again", session=session, context={"user": "ada"})
    assert len(model.calls[-1].input) == 3
    with pytest.raises(SessionNotFound):
        await Runner.run(agent(model), "hi", session=session, context={"user": "bob"})
    assert len(model.calls) == 2  # nobody paid for a model
    assert [info.user_id async for info in store.sessions(user_id="ada")] == ["ada"]
    assert await session.get_items() == []
    ada: RunContextWrapper[Any] = RunContextWrapper({"user": "ada"})
    assert len(await session.get_items(wrapper=ada)) == 4
    assert await session.pop_item(wrapper=ada) is not None
    await session.clear_session(wrapper=ada)
    assert await session.get_items(wrapper=ada) == []


async def test_another_tenant_is_another_world(url: str) -> None:
    async with Store.open(url, tenant="a") as one, Store.open(url, tenant="b") as two:
        await HoldfastSession("chat", one).add_items(said("x"))
        assert await HoldfastSession("chat", two).get_items() == []


# --- at the same time ------------------------------------------------------------------------------------------------


async def test_tasks_share_an_object(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await asyncio.gather(*(session.add_items(said(f"{n}a", f"{n}b")) for n in range(20)), *(session.get_items(3) for _ in range(20)))
    texts = contents(await session.get_items())
    assert sorted(texts) == sorted(f"{n}{half}" for n in range(20) for half in "ab")
    assert all(first[:-1] == second[:-1] for first, second in zip(texts[::2], texts[1::2], strict=True))
    popped = await asyncio.gather(*(session.pop_item() for _ in range(45)))
    assert sorted(contents(item for item in popped if item)) == sorted(texts)
    assert popped.count(None) == 5


def test_threads_share_an_object(url: str) -> None:
    session = HoldfastSession("ada-1", url)

    def work(number: int) -> list[Any]:
        asyncio.run(session.add_items(said(*(f"{number}-{n}" for n in range(10)))))
        return [asyncio.run(session.pop_item()) for _ in range(5)]

    with ThreadPoolExecutor(6) as threads:
        popped = [item for items in threads.map(work, range(6)) for item in items]
    left = contents(asyncio.run(session.get_items()))
    assert sorted(left + contents(popped)) == sorted(f"{number}-{n}" for number in range(6) for n in range(10))


WRITER = """
import asyncio, sys
from holdfast.adapters.openai_agents import HoldfastSession

async def main(url, name):
    session = HoldfastSession("ada-1", url)
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in range(40):
        await session.add_items([{"role": "user", "content": f"{name} {batch} {n}"} for n in range(5)])

asyncio.run(main(*sys.argv[1:]))
"""


def test_two_processes_never_mix_their_batches(url: str) -> None:
    command = [sys.executable, "-c", WRITER, url]
    with ExitStack() as stack:
        pipe = subprocess.PIPE
        writers = [
            stack.enter_context(subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, stderr=pipe, text=True)) for name in "ab"
        ]
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.communicate()[1] for writer in writers] == ["", ""]
    texts: list[str] = contents(asyncio.run(HoldfastSession("ada-1", url).get_items()))
    batches = [texts[start : start + 5] for start in range(0, len(texts), 5)]
    for name in "ab":
        mine = [batch for batch in batches if batch[0].startswith(name)]
        assert mine == [[f"{name} {batch} {n}" for n in range(5)] for batch in range(40)]
    assert len(batches) == 80


async def test_a_cancelled_addition_is_whole_or_not_there(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("first"))
    acknowledged = {"first"}
    for number in range(30):
        task = asyncio.create_task(session.add_items(said(f"{number}", f"{number}")))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            acknowledged.add(f"{number}")
    texts: list[str] = contents(await session.get_items())
    assert acknowledged <= set(texts)
    assert all(texts.count(text) == 2 for text in texts[1:])
    await session.add_items(said("last"))
    assert contents(await session.get_items(1)) == ["last"]


async def test_a_late_addition_to_a_session_somebody_ended_brings_nothing_back(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a"))
    await store.delete("ada-1")
    with pytest.raises(SessionGone):
        await session.add_items(said("late"))
    assert not await store.has("ada-1")
    assert await session.get_items() == []
    await session.add_items(said("b"))
    await HoldfastSession("ada-1", store).clear_session()
    assert await session.get_items() == []
    await session.add_items(said("c"))
    assert await session.get_items() == said("c")


async def test_a_run_does_not_bring_back_what_was_deleted_under_it(store: Store) -> None:
    @function_tool
    async def forget() -> str:
        """Forget everything."""
        await store.delete("ada-1")
        return "forgotten"

    model = steps([function_call("forget", {}, call_id="call_1")], "done")
    with pytest.raises(SessionGone):
        await Runner.run(agent(model, forget), "forget me", session=HoldfastSession("ada-1", store))
    assert not await store.has("ada-1")


async def test_clearing_while_others_add_on_the_same_object(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("old"))
    await asyncio.gather(*(session.add_items(said(f"{n}", f"{n}")) for n in range(5)), session.clear_session())
    texts: list[str] = contents(await session.get_items())
    assert "old" not in texts
    assert all(texts.count(text) == 2 for text in texts)


class Counted(Wrapper):
    """How many requests a store gets."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.seen: list[str] = []

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        self.seen.append("read")
        return await self.inner.read(key, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        self.seen.append("commit")
        return await self.inner.commit(key, commit)

    def since(self) -> list[str]:
        seen, self.seen = self.seen, []
        return seen


async def test_a_turn_costs_one_read_and_one_commit_per_batch() -> None:
    counted = Counted(Store.open("memory://").backend)
    store = Store(counted)
    model = steps("one", "two", lookup(), "three")
    session = HoldfastSession("ada-1", store)
    await Runner.run(agent(model), "hi", session=session)
    counted.since()
    await Runner.run(agent(model), "hi", session=session)
    assert counted.since() == ["read", "commit", "commit"]
    await Runner.run(agent(model), "where is 7?", session=session)
    assert counted.since() == ["read", "commit", "commit", "commit"]
    opened = HoldfastSession("ada-1", store)
    await opened.get_items()
    assert counted.since() == ["read", "read"]


def test_without_the_sdk_the_message_holds_the_install_line() -> None:
    script = "import sys; sys.modules['agents'] = None\nimport holdfast.adapters.openai_agents"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        'holdfast.errors.MissingExtra: the OpenAI Agents SDK is not installed: pip install "holdfast[openai-agents]"'
    )
