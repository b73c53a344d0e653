"""What is remembered of messages changes nothing but the time it takes: nothing is shared, and every change is seen."""

# pyright: reportMissingTypeStubs=false
# LangGraph's own packages lack `py.typed`.

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver
from holdfast.adapters.langgraph.chunks import Chunks, Ref, refer, resolve
from holdfast.adapters.langgraph.memo import Remembering, remembering

Change: Any = Callable[[AnyMessage], None]
new_graph: Callable[[Any], Any] = StateGraph
T: RunnableConfig = {"configurable": {"thread_id": "t"}}
META = {"token_usage": {"total": 3, "parts": [1, 2]}, "done": True}


class Special(HumanMessage):
    """A class of the app's own."""


def call(number: int) -> dict[str, Any]:
    return {"name": "weather", "args": {"city": "Oslo", "days": [1, 2]}, "id": f"call-{number}", "type": "tool_call"}


def conversation(count: int = 12) -> list[AnyMessage]:
    """Plain messages of every kind, some with filled containers."""
    makers: list[Callable[[int], AnyMessage]] = [
        lambda n: HumanMessage(f"question {n}", id=f"h{n}"),
        lambda n: AIMessage(f"answer {n}", id=f"a{n}", response_metadata=copy.deepcopy(META)),
        lambda n: AIMessage("", id=f"c{n}", tool_calls=[call(n)]),
        lambda n: ToolMessage(content="sunny", id=f"t{n}", tool_call_id=f"call-{n}"),
        lambda n: HumanMessage([{"type": "text", "text": f"part {n}"}], id=f"p{n}"),
    ]
    return [makers[number % len(makers)](number) for number in range(count)]


def stored(values: list[Any], serde: Any) -> tuple[Ref, Chunks]:
    chunks: Chunks = {}
    return refer(values, serde, chunks, split=True), chunks


def append_tool_call(message: Any) -> None:
    message.tool_calls.append(call(99))


def nested(message: Any) -> None:
    message.response_metadata["token_usage"]["parts"][0] = True


def extra(message: Any) -> None:
    message.mood = "good"


def content(message: Any) -> None:
    message.content = "changed"


def kwargs(message: Any) -> None:
    message.additional_kwargs["seen"] = 1


def content_block(message: Any) -> None:
    message.content[0]["text"] = "changed"


def number_for_truth(message: Any) -> None:
    message.response_metadata["done"] = 1


CHANGES: list[tuple[int, Any]] = [
    (0, content),
    (0, kwargs),
    (0, extra),
    (1, nested),
    (1, number_for_truth),
    (1, append_tool_call),
    (2, append_tool_call),
    (4, content_block),
    (3, content),
    (11, kwargs),
]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(("place", "change"), CHANGES, ids=lambda it: getattr(it, "__name__", it))
def test_every_change_in_place_is_seen(place: int, change: Any, loaded: bool) -> None:
    plain = JsonPlusSerializer()
    serde = remembering(plain)
    values: list[Any] = conversation()
    ref, chunks = stored(values, serde)
    for _ in range(3):  # from the serializer, then from memory
        values = resolve(ref, serde, chunks) if loaded else values
        assert stored(values, serde) == stored(values, plain)
    change(values[place])
    changed = stored(values, serde)
    assert changed == stored(values, plain)
    assert changed[0] != ref
    assert resolve(ref, serde, chunks) == conversation()  # who loads again gets what was stored


def test_what_is_loaded_shares_nothing() -> None:
    serde = remembering(JsonPlusSerializer())
    ref, chunks = stored(conversation(), serde)
    first, second, third = (resolve(ref, serde, chunks) for _ in range(3))
    for others in (second, third):
        for one, other in zip(first, others, strict=True):
            assert one == other
            assert type(one) is type(other)
            assert one.model_fields_set == other.model_fields_set
            assert not {id(it) for it in containers(one)} & {id(it) for it in containers(other)}


def containers(message: BaseMessage) -> list[Any]:
    """Everything in the message that can be changed in place."""

    def walk(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [value, *(it for below in value.values() for it in walk(below))]  # type: ignore[misc]
        return [value, *(it for below in value for it in walk(below))] if isinstance(value, list) else []  # type: ignore[misc]

    return [message, message.model_fields_set, message.__pydantic_extra__, *walk(message.__dict__)]


def test_what_is_not_plain_goes_to_the_serializer() -> None:
    plain = JsonPlusSerializer(allowed_msgpack_modules=True)
    serde = remembering(plain)
    values: list[Any] = [
        *conversation(),
        Special(content="mine", id="s"),
        AIMessageChunk(content="piece", id="k"),
        HumanMessage("x", id="e", mood="good"),
        {"a": 1},
    ]
    values += [ToolMessage(content="y", tool_call_id="1", artifact={1, 2}, id="o"), "text", None]
    ref, chunks = stored(values, serde)
    for _ in range(3):
        back = resolve(ref, serde, chunks)
        assert back == resolve(ref, plain, chunks)
        assert [*map(type, back)] == [*map(type, resolve(ref, plain, chunks))]
        back[12].content = "yours"
        assert stored(back, serde) == stored(back, plain)


def test_only_the_serializer_that_is_known() -> None:
    class Mine(JsonPlusSerializer):
        pass

    assert isinstance(remembering(JsonPlusSerializer()), Remembering)
    for serde in (Mine(), EncryptedSerializer.__new__(EncryptedSerializer)):
        assert remembering(serde) is serde


def test_each_serializer_has_a_memory_of_its_own() -> None:
    one, other = JsonPlusSerializer(), JsonPlusSerializer()
    assert remembering(one) is remembering(one)
    assert remembering(one) is not remembering(other)


OPS = st.lists(
    st.tuples(st.sampled_from(["say", "load", "change", "meta", "drop", "copy", "swap"]), st.integers(0, 30), st.text(max_size=5)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(OPS)
def test_with_and_without_memory_the_same_is_stored(ops: list[tuple[str, int, str]]) -> None:
    plain = JsonPlusSerializer()
    serde = remembering(plain)
    values: list[Any] = conversation()
    for number, (op, place, text) in enumerate(ops):
        message = values[place % len(values)]
        if op == "say":
            values = [*values, AIMessage(text, id=f"n{number}", additional_kwargs={"text": text} if place % 2 else {})]
        elif op == "change":
            message.content = text
        elif op == "meta":
            message.response_metadata[text] = [place]
        elif op == "drop" and len(values) > 1:
            values = [it for it in values if it is not message]
        elif op == "copy":
            values = [it.model_copy() if it is message else it for it in values]
        elif op == "swap":
            values = [SystemMessage(text, id=message.id) if it is message else it for it in values]
        ref, chunks = stored(values, serde)
        assert (ref, chunks) == stored(values, plain)
        if op == "load":
            values = resolve(ref, serde, chunks)
        assert resolve(ref, serde, chunks) == resolve(ref, plain, chunks) == values


# --- through graphs --------------------------------------------------------------------------------------------------


def chat(node: Callable[[Any], Any], saver: HoldfastSaver) -> Any:
    builder = new_graph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("returned", [True, False])
async def test_a_node_that_changes_a_message_in_place(returned: bool) -> None:
    async with Store.open("memory://") as store:

        def edit(state: MessagesState) -> dict[str, Any]:
            said = state["messages"]
            if len(said) < 20:
                return {"messages": [AIMessage(f"answer {len(said)}")]}
            said[0].content = "edited"
            said[1].additional_kwargs["edited"] = True
            return {"messages": [said[0], said[1], AIMessage("", tool_calls=[call(1)])] if returned else [AIMessage("last")]}  # type: ignore[list-item]

        app = chat(edit, HoldfastSaver(store))
        for number in range(11):
            await app.ainvoke({"messages": [HumanMessage(f"question {number}")]}, T)
        for saver in (app.checkpointer, HoldfastSaver(store)):
            now = (await chat(edit, saver).aget_state(T)).values["messages"]
            assert (now[0].content, now[1].additional_kwargs, len(now)) == ("edited", {"edited": True}, 22)
        session = await store.session("t")
        assert (await session.get_messages())[0].text == "edited"


async def test_what_a_caller_does_to_an_answer_stays_with_the_caller() -> None:
    async with Store.open("memory://") as store:
        app = chat(lambda state: {"messages": [AIMessage(f"answer {len(state['messages'])}")]}, HoldfastSaver(store))
        answers: list[list[Any]] = []
        for number in range(8):
            answer = await app.ainvoke({"messages": [HumanMessage(f"question {number}")]}, T)
            for message in answer["messages"]:
                message.content, message.additional_kwargs["mine"] = "spoiled", number
            answers.append(answer["messages"])
        now = (await app.aget_state(T)).values["messages"]
        assert [it.content for it in now[:4]] == ["question 0", "answer 1", "question 1", "answer 3"]
        assert not any(it.additional_kwargs for it in now)
        assert not {id(it) for it in answers[-1]} & {id(it) for it in answers[-2]}
