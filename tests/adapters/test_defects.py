"""What adapters of other systems were seen to do to frameworks' sessions, and ours don't; the table is in `tests/agents/test_defects`."""

# pyright: reportMissingTypeStubs=false
# LangGraph's own packages lack `py.typed`.

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agents", reason="the openai-agents extra is not installed")
pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

import agents
from agents import Agent, Runner
from agents.testing import ScriptedModel, assistant_message
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.backend import BlobRange, Key, ReadPlan

agents.set_tracing_disabled(True)
new_graph: Any = StateGraph


async def test_a_limit_gives_the_oldest_items() -> None:
    async with Store.open("memory://") as store:
        session = HoldfastSession("s", store)
        await session.add_items([{"role": "user", "content": str(n)} for n in range(10)])
        assert [it.get("content") for it in await session.get_items(limit=3)] == ["7", "8", "9"]


async def test_a_turn_with_an_image_is_no_part_of_the_history() -> None:
    model = ScriptedModel([[assistant_message("A kettle.")], [assistant_message("Blue.")]])
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    seen: Any = {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, image]}
    async with Store.open("memory://") as store:
        session = HoldfastSession("s", store)
        for asked in ([seen], "Which colour?"):
            await Runner.run(Agent(name="eye", model=model), asked, session=session)
        items: list[Any] = [*await session.get_items()]
        assert items[0]["content"][1] == image
        assert [type(part).__name__ for part in (await (await store.session("s")).get_messages())[0].parts] == ["Text", "Blob"]
        assert len(items) == 4


def echo(state: MessagesState) -> dict[str, Any]:
    """A node that says what it was told, so that whose words are whose is seen."""
    return {"messages": [AIMessage("heard " + " ".join(message.text for message in state["messages"]))]}


def graph_of(store: Store) -> Any:
    builder = new_graph(MessagesState).add_node("echo", echo).add_edge(START, "echo").add_edge("echo", END)
    return builder.compile(checkpointer=HoldfastSaver(store))


async def test_two_users_of_one_graph_read_each_other() -> None:
    async with Store.open("memory://") as store:
        graph = graph_of(store)

        async def turns(user: str) -> str:
            thread = {"configurable": {"thread_id": user}}
            for _ in range(3):
                await graph.ainvoke({"messages": [("user", f"secret-{user}")]}, thread)
            return str((await graph.aget_state(thread)).values)

        said = await asyncio.gather(*(turns(f"u{n}") for n in range(5)))
        assert [set(re.findall(r"secret-\w+", it)) for it in said] == [{f"secret-u{n}"} for n in range(5)]


async def test_a_checkpointer_can_not_be_stored_or_keeps_every_write_for_ever(tmp_path: Path) -> None:
    """One value that holds everything was written anew at each turn, with the pending writes of all turns before it, as a pickle."""

    def fixed(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages']):0500}")]}

    async with Store.open(f"sqlite:///{tmp_path}/chat.db?synchronous=off") as store:
        builder = new_graph(MessagesState).add_node("fixed", fixed).add_edge(START, "fixed").add_edge("fixed", END)
        graph = builder.compile(checkpointer=HoldfastSaver(store))
        sizes: list[int] = []
        for turn in range(1, 121):
            await graph.ainvoke({"messages": [("user", f"{turn:0500}")]}, {"configurable": {"thread_id": "t"}})
            if turn in (60, 120):
                sizes.append(await stored(store))
    assert sizes[1] < 2.5 * sizes[0], "it grows as the conversation does"
    assert sizes[1] < 8 * 120 * 1_000


async def stored(store: Store) -> int:
    """The bytes of all that is stored of the thread; none of it is a pickle."""
    snapshot = await store.backend.read(Key("default", "t"), ReadPlan(blobs=(BlobRange(),)))
    assert snapshot is not None
    assert snapshot.blobs
    assert not [it.key for it in snapshot.blobs if (it.data or b"").startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05"))]
    return snapshot.head.counts.bytes + sum(len(it.data or b"") for it in snapshot.blobs)
