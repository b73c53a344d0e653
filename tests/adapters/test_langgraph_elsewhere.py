"""A session that others write to as well: what they said, in a graph."""

# pyright: reportMissingTypeStubs=false
# LangGraph's own packages lack `py.typed`, and most of a graph's methods have partially unknown types: a graph is `Any` here.

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig

from holdfast import Blob, File, Message, Other, Reasoning, Store, Text, ToolCall, ToolResult, Uri, assistant, system, user
from holdfast.adapters.langgraph import HoldfastSaver

from .test_langgraph import chat, shown

T: RunnableConfig = {"configurable": {"thread_id": "t"}}


def brief(messages: Any) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


async def begun(store: Store) -> Any:
    """A session that begins without a graph."""
    session = await store.session("t")
    await session.append(user("Where is it?"), assistant("In Leipzig."))
    return session


async def test_a_conversation_goes_on_in_a_graph_and_back() -> None:
    async with Store.open("memory://") as store:
        session = await begun(store)
        saver = HoldfastSaver(store)
        graph = chat(saver)
        assert brief(await saver.aunseen(T)) == [("human", "Where is it?"), ("ai", "In Leipzig.")]
        answer = await graph.ainvoke({"messages": [*await saver.aunseen(T), HumanMessage("And now?")]}, T)
        assert len(answer["messages"]) == 4
        assert await saver.aunseen(T) == []
        assert await shown(store) == ["Where is it?", "In Leipzig.", "And now?", "heard And now?"]
        await session.append(user("Thanks."))
        assert brief(await saver.aunseen(T)) == [("human", "Thanks.")]
        await graph.ainvoke({"messages": [*await saver.aunseen(T), HumanMessage("Bye.")]}, T)
        assert await shown(store) == ["Where is it?", "In Leipzig.", "And now?", "heard And now?", "Thanks.", "Bye.", "heard Bye."]
        assert brief((await graph.aget_state(T)).values["messages"])[-3:] == [("human", "Thanks."), ("human", "Bye."), ("ai", "heard Bye.")]


async def test_what_others_said_is_never_hidden_by_the_graph() -> None:
    async with Store.open("memory://") as store:
        await begun(store)
        saver = HoldfastSaver(store)
        graph = chat(saver)
        await graph.ainvoke({"messages": [*await saver.aunseen(T), HumanMessage("one")]}, T)
        first = (await graph.aget_state(T)).config
        await graph.ainvoke({"messages": [HumanMessage("two")]}, T)
        await graph.ainvoke({"messages": [HumanMessage("other")]}, first)
        assert await shown(store) == ["Where is it?", "In Leipzig.", "one", "heard one", "other", "heard other"]
        messages: list[BaseMessage] = (await graph.aget_state(T)).values["messages"]
        await graph.aupdate_state(T, {"messages": [RemoveMessage(id=str(messages[it].id)) for it in (0, 2)]})
        assert await shown(store) == ["Where is it?", "In Leipzig.", "heard one", "other", "heard other"]


async def test_a_session_without_others_has_nothing_unseen() -> None:
    async with Store.open("memory://") as store:
        saver = HoldfastSaver(store)
        assert await saver.aunseen(T) == []
        await chat(saver).ainvoke({"messages": [HumanMessage("one")]}, T)
        assert await saver.aunseen(T) == []


async def test_whose_it_is() -> None:
    async with Store.open("memory://") as store:
        session = await store.session("t", user_id="ada")
        await session.append(user("mine"))
        assert brief(await HoldfastSaver(store, user_id="ada").aunseen(T)) == [("human", "mine")]
        assert await HoldfastSaver(store, user_id="bob").aunseen(T) == []
        assert await HoldfastSaver(store).aunseen(T) == []


def test_what_a_message_becomes(tmp_path: Any) -> None:
    saver = HoldfastSaver(f"sqlite:///{tmp_path / 'chat.db'}")

    async def write() -> None:
        session = await saver.store.session("t")
        await session.append(
            system("Be brief."),
            Message("user", (Text("Look: "), Uri("image", "x://y.png"), Blob("audio", "UklG", "audio/wav"), File("document", "file-1"))),
            Message("assistant", (Reasoning("hm"),)),
            assistant("Let me see."),
            Message("assistant", (ToolCall("find", "c1", {"id": 7}),)),
            Message("assistant", (ToolCall("shell", "c2", "ls"),)),
            Message("tool", (ToolResult({"found": True}, "c1"),)),
            Message("tool", (ToolResult("a.txt", "c2"),)),
            Message("critic", (Text("Hm."),), "Max"),
            Message("assistant", (Other("web_search", {}),)),
        )

    saver._wait(write())  # pyright: ignore[reportPrivateUsage]
    told, asked, called, found, listed, said = saver.unseen(T)
    assert (told.type, told.content) == ("system", "Be brief.")
    assert asked.content == [
        {"type": "text", "text": "Look: "},
        {"type": "image", "url": "x://y.png"},
        {"type": "audio", "base64": "UklG", "mime_type": "audio/wav"},
        {"type": "file", "file_id": "file-1"},
    ]
    assert isinstance(called, AIMessage)
    assert called.content == "Let me see."
    assert [(it["name"], it["args"], it["id"]) for it in called.tool_calls] == [("find", {"id": 7}, "c1"), ("shell", {"input": "ls"}, "c2")]
    assert (found.type, found.content, listed.content) == ("tool", '{"found": true}', "a.txt")
    assert (said.type, said.content, said.name) == ("chat", "Hm.", "Max")
