"""Engines: what the one we bring says is kept to the letter, what it can't read is built anew, and another one is a page of code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import agents as sdk
import msgspec
import pytest
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import messages as ai
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

import holdfast
from holdfast import Message, MissingExtra, Native, Reasoning, Store, Text, ToolCall, ToolResult, UsageError, user
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.agents import Agent, Answered, Delta, Done, Engine, Said, Turn
from holdfast.agents.engine import Step
from holdfast.agents.native import FORMAT
from holdfast.testing.model_server import Answer, Call, call

from .conftest import Models, output_of, sent, statuses, texts, there, told


def look(n: int) -> int:
    return n


# --- to the letter ---------------------------------------------------------------------------------------------------


class Recorder:
    """A model object of the engine that keeps the messages it was given."""

    def __init__(self, *answers: ai.ModelResponse) -> None:
        self.answers = list(answers)
        self.seen: list[list[ai.ModelMessage]] = []

    def __call__(self, messages: list[ai.ModelMessage], _: AgentInfo) -> ai.ModelResponse:
        self.seen.append(list(messages))
        return self.answers.pop(0)


def responses(parts: Sequence[Sequence[Any]]) -> list[ai.ModelResponse]:
    return [ai.ModelResponse(parts=list(it)) for it in parts]


ODD = [
    ai.ThinkingPart("hm", id="rs_1", signature="c2ln", provider_name="openai", provider_details={"raw": [1]}),
    ai.TextPart("let me see", id="msg_1", provider_name="openai", provider_details={"phase": "x"}),
    ai.ToolCallPart("look", '{"n": 1}', tool_call_id="c1", id="fc_1"),
]


async def test_what_the_engine_said_comes_back_equal(store: Store) -> None:
    recorder = Recorder(*responses([ODD, [ai.TextPart("done")], [ai.TextPart("again")]]))
    agent = Agent(FunctionModel(recorder), store=store, tools=[look])
    await agent.run("hi", session_id="s")
    await agent.run("more", session_id="s")
    said = [it for it in recorder.seen[2] if isinstance(it, ai.ModelResponse)]
    assert [it.parts for it in said] == [ODD, [ai.TextPart("done")]]
    first, again = recorder.seen[1], recorder.seen[2]
    results = [[part for it in seen for part in it.parts if isinstance(part, ai.ToolReturnPart)] for seen in (first, again)]
    assert results[0] == results[1]
    message = (await (await store.session("s")).get_messages())[1]
    assert message.parts == (Reasoning("hm"), Text("let me see"), ToolCall("look", "c1", {"n": 1}))
    assert message.native is not None
    assert message.native.format == FORMAT


def newer(raw: bytes, **changed: Any) -> msgspec.Raw:
    it = msgspec.json.decode(raw)
    it["parts"] = [*it["parts"], *changed.pop("parts", [])]
    return msgspec.Raw(msgspec.json.encode(it | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"parts": [{"part_kind": "hologram", "content": {"x": 1}}]},
        {"kind": "reply"},
        {"parts": [{"part_kind": "text"}]},
        {"parts": [7]},
        {"usage": "plenty"},
        {"new_field": {"x": 1}},
    ],
    ids=str,
)
async def test_what_a_newer_version_wrote_is_built_from_the_projection(models: Models, memory: Store, changed: dict[str, Any]) -> None:
    agent = models.agent([call("look", n=1), "done", "fine"], store=memory, tools=[look])
    await agent.run("hi", session_id="s")
    session = await memory.session("s")
    written = [_by_a_newer(it, changed) for it in await session.get_messages()]
    await session.replace(written)
    assert (await agent.run("more", session_id="s")).content == "fine"
    assert sent(models.requests[-1]) == ["hi", "look()", "=1", "done", "more"]
    assert [it.native for it in (await session.get_messages())[:4]] == [it.native for it in written]


def _by_a_newer(message: Message, changed: dict[str, Any]) -> Message:
    if message.native is None:
        return message
    return Message(message.role, message.parts, message.name, Native(message.native.format, newer(bytes(message.native.data), **changed)))


@pytest.mark.parametrize("tag", ["pydantic-ai/3", "nobody/1", ""])
async def test_a_payload_of_another_format_is_left_alone(models: Models, memory: Store, tag: str) -> None:
    session = await memory.session("s")
    native = Native(tag, msgspec.Raw(b'{"anything":[1]}'))
    await session.append(user("hi"), Message("assistant", (Text("there"),), native=native))
    await models.agent(["fine"], store=memory).run("more", session_id="s")
    assert sent(models.requests[0]) == ["hi", "there", "more"]
    assert (await session.get_messages())[1].native == native


async def test_one_session_in_both_protocols(models: Models, memory: Store) -> None:
    """What was said over one protocol goes on over the other."""
    other = Models("chat" if models.protocol == "responses" else "responses")
    await models.agent([call("look", n=1), "done"], store=memory, tools=[look]).run("hi", session_id="s")
    await other.agent([call("look", n=2), "again"], store=memory, tools=[look]).run("more", session_id="s")
    assert sent(other.requests[-1]) == ["hi", "look()", "=1", "done", "more", "look()", "=2"]
    other.close()


# --- with the OpenAI Agents SDK --------------------------------------------------------------------------------------


@sdk.function_tool
def find_order(order_id: str) -> str:
    """Find an order."""
    return f"order {order_id}"


async def test_a_session_of_the_openai_agents_sdk_is_understood_and_the_reverse(models: Models, memory: Store) -> None:
    sdk.set_tracing_disabled(True)
    ours = models.agent([call("look", n=1), "ours", "last"], store=memory, tools=[look])
    theirs = models.serve([call("find_order", order_id="7"), "theirs"])
    client = AsyncOpenAI(base_url=theirs.base_url, api_key="none")
    their_agent: sdk.Agent[Any] = sdk.Agent(name="desk", model=OpenAIResponsesModel("m", client), tools=[find_order])
    await ours.run("one", session_id="s")
    result = await sdk.Runner.run(their_agent, "two", session=HoldfastSession("s", memory))
    assert result.final_output == "theirs"
    assert sent(theirs.requests[0]) == ["one", "look()", "=1", "ours", "two"]
    await ours.run("three", session_id="s")
    assert sent(models.servers[0].requests[-1]) == [
        *["one", "look()", "=1", "ours"],
        *["two", "find_order()", "=order 7", "theirs", "three"],
    ]
    await client.close()


# --- other models of the engine --------------------------------------------------------------------------------------


class Order(BaseModel):
    number: int


async def test_an_agent_of_the_engine_keeps_what_it_is(models: Models, memory: Store) -> None:
    inner = PydanticAgent(models.impatient(models.serve([call("look", n=1), call("final_result", number=7), "{}"])), output_type=Order)

    @inner.tool_plain(name="look")
    def look_(n: int) -> int:
        return n

    agent = Agent(inner, store=memory)
    output = await agent.run("which?", session_id="s", run_id="r")
    assert output.content == Order(number=7)
    assert (await agent.run("which?", session_id="s", run_id="r")).content == {"number": 7}
    await models.agent(["fine"], store=memory).run("and now?", session_id="s")
    made = sent(models.requests[-1])
    assert made[:4] == ["which?", "look()", "=1", "final_result()"]
    assert made[-1] == "and now?"


async def test_an_output_that_is_corrected(models: Models, memory: Store) -> None:
    server = models.serve([call("final_result", number="many"), call("final_result", number=7)])
    agent = Agent(PydanticAgent(models.impatient(server), output_type=Order), store=memory)
    output = await agent.run("which?", session_id="s")
    assert (output.content, output.metrics.model_calls) == (Order(number=7), 2)
    await models.agent(["fine"], store=memory).run("and now?", session_id="s")
    assert sent(models.requests[-1])[: len(sent(server.requests[1]))] == sent(server.requests[1])


async def test_names_and_objects_of_models(memory: Store) -> None:
    for model in ("test", TestModel(custom_output_text="hi")):
        output = await Agent(model, store=memory).run("hi")
        assert output.status == "completed"


def test_a_model_whose_client_is_not_installed_names_the_extra() -> None:
    with pytest.raises((MissingExtra, UsageError), match=r"pip install|API|model="):
        Agent("groq:llama")


# --- an engine of one's own ------------------------------------------------------------------------------------------


class Parrot:
    """Says what it heard, after one call of its first tool."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    async def run(self, turn: Turn) -> AsyncGenerator[Step]:
        self.turns.append(turn)
        heard = turn.messages[-1].text
        if turn.tools:
            asked = ToolCall("shout", "c1", {"text": heard})
            yield Said(message=Message("assistant", (asked,)), acts=True, input_tokens=3, output_tokens=1)
            heard = turn.tools[0](heard)
            yield Answered(Message("tool", (ToolResult(heard, "c1"),), "shout"))
        if turn.stream:
            for word in heard.split():
                yield Delta(word)
        yield Said(message=Message("assistant", (Text(heard),)), input_tokens=2, output_tokens=1)
        yield Done(heard)


def shout(text: str) -> str:
    return text.upper()


async def test_an_engine_of_ones_own(store: Store) -> None:
    parrot = Parrot()
    assert isinstance(parrot, Engine)
    agent = Agent(parrot, store=store, tools=[shout], instructions="be loud")
    assert (await agent.run("hi", session_id="s")).content == "HI"
    events = await told(agent.run("you there", session_id="s", stream=True))
    assert "".join(map(str, events[:-1])) == "YOUTHERE"
    assert output_of(events).metrics.input_tokens == 5
    log = await texts(await there(agent, "s"))
    assert log[:5] == ["be loud", "hi", "shout()", "=HI", "HI"]
    assert log[5:] == ["you there", "shout()", "=YOU THERE", "YOU THERE"]
    assert [it.text for it in parrot.turns[1].messages] == ["hi", "", "", "HI", "you there"]
    assert (parrot.turns[0].instructions, parrot.turns[0].session.id) == ("be loud", "s")


class Wrong:
    def __init__(self, *steps: Any) -> None:
        self.steps = steps

    async def run(self, turn: Turn) -> AsyncGenerator[Any]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            yield step


@pytest.mark.parametrize("steps", [(), (Said(message=Message("assistant", (Text("x"),))),), (5,), (None,), (RuntimeError("boom"),)])
async def test_an_engine_that_does_wrong_ends_the_run_as_an_error(memory: Store, steps: tuple[Any, ...]) -> None:
    agent = Agent(Wrong(*steps), store=memory)
    with pytest.raises((UsageError, RuntimeError)):
        await agent.run("hi", session_id="s")
    session = await there(agent, "s")
    assert (await statuses(session), (await texts(session))[0]) == (["error"], "hi")


async def test_what_an_engine_says_after_its_end_is_not_asked_for(memory: Store) -> None:
    agent = Agent(Wrong(Done("a"), RuntimeError("never")), store=memory)
    assert (await agent.run("hi", session_id="s")).content == "a"
    assert await statuses(await there(agent, "s")) == ["completed"]


@holdfast.register
class City(BaseModel):
    name: str
    people: int


async def test_a_typed_answer_keeps_its_type_when_it_is_asked_for_again(chat: Models, file_store: Store) -> None:
    server = chat.serve([Answer(calls=(Call("final_result", {"name": "Leipzig", "people": 600_000}),))])
    for _ in range(2):
        agent = Agent(PydanticAgent(chat.impatient(server), output_type=City), store=file_store)
        assert (await agent.run("which?", session_id="s", run_id="r")).content == City(name="Leipzig", people=600_000)
