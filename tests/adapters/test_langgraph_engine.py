"""LangGraph graphs as agents of ours: their checkpoints and messages in one session, each message once, through crashes and interrupts."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# LangGraph's own packages lack `py.typed`, and a builder's methods have partially unknown types.

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from openai import AsyncOpenAI

from holdfast import Fenced, InvalidValue, Message, Session, Store, Text, Unsupported, UsageError, assistant
from holdfast.adapters.langgraph import GraphEngine, HoldfastSaver
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.agents import Agent, Done, Middleware, ModelCall, Said, TextDelta, ToolInvocation
from holdfast.runtime import Runtime
from holdfast.testing.model_server import Answer, ModelServer, call
from holdfast.testing.processes import Child

from ..exported import Exported
from .telling import Around, Failures, ended, log, mark, numbered, the_end


class Spoken(BaseChatModel):
    """A chat model of LangChain over OpenAI's protocol."""

    base_url: str

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *args: Any, **options: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        async with AsyncOpenAI(base_url=self.base_url, api_key="none", max_retries=0) as client:
            answer = await client.chat.completions.create(model="m", messages=_sent(messages))
        message = answer.choices[0].message
        calls: list[Any] = [{"name": it.function.name, "args": {}, "id": it.id} for it in message.tool_calls or [] if it.type == "function"]
        used: Any = answer.usage
        usage = {"input_tokens": used.prompt_tokens, "output_tokens": used.completion_tokens, "total_tokens": used.total_tokens}
        return ChatResult(generations=[ChatGeneration(message=AIMessage(message.content or "", tool_calls=calls, usage_metadata=usage))])  # type: ignore[arg-type]

    async def _astream(self, messages: list[BaseMessage], *args: Any, **options: Any) -> AsyncIterator[ChatGenerationChunk]:
        run_manager = options.get("run_manager") or (args[1] if len(args) > 1 else None)
        async with AsyncOpenAI(base_url=self.base_url, api_key="none", max_retries=0) as client:
            async for it in await client.chat.completions.create(model="m", messages=_sent(messages), stream=True):
                delta: Any = it.choices[0].delta if it.choices else None
                if delta is None:
                    continue
                calls: list[Any] = [
                    {"name": each.function.name, "args": each.function.arguments or "", "id": each.id, "index": each.index}
                    for each in list[Any](delta.tool_calls or [])
                ]
                piece = ChatGenerationChunk(message=AIMessageChunk(delta.content or "", tool_call_chunks=calls))  # type: ignore[arg-type]
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece.text, chunk=piece)
                yield piece


def _sent(messages: list[BaseMessage]) -> Any:
    roles = {"human": "user", "ai": "assistant", "system": "system"}
    return [{"role": roles[it.type], "content": it.text} for it in messages if it.type in roles]


Node = Callable[[MessagesState], Any]


def calls_tool(state: MessagesState) -> str:
    return "tool" if getattr(state["messages"][-1], "tool_calls", None) else END


def graph_of(bot: Any, tool: Any = None, **options: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("bot", bot)
    builder.add_edge(START, "bot")
    if tool is None:
        builder.add_edge("bot", END)
    else:
        builder.add_node("tool", tool)
        builder.add_conditional_edges("bot", calls_tool)
        builder.add_edge("tool", "bot")
    return builder.compile(**options)


class Bot:
    """Answers by rule: asks its tool where it is told to, says what it was told; `seen` is what it has been sent."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, state: MessagesState) -> dict[str, Any]:
        messages = state["messages"]
        self.seen.append([it.text or it.type for it in messages])
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return {"messages": [AIMessage(f"It said {last.text}.")]}
        if "tool" in last.text:
            return {"messages": [AIMessage("", tool_calls=[{"name": "look", "args": {"n": 1}, "id": f"call-{len(messages)}"}])]}
        return {"messages": [AIMessage(f"Answer {len(messages)}")]}


def answers(result: str = "seen") -> Node:
    return lambda state: {"messages": [ToolMessage(result, tool_call_id=state["messages"][-1].tool_calls[0]["id"])]}  # type: ignore[attr-defined]


def asks(state: MessagesState) -> dict[str, Any]:
    return answers(str(interrupt({"question": "May I?"})))(state)


@pytest.fixture
async def store() -> AsyncGenerator[Store]:
    async with Store.open("memory://") as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


def agent_of(store: Store, bot: Any, tool: Any = None, **options: Any) -> Agent:
    return Agent(GraphEngine(graph_of(bot, tool)), name="graph", store=store, **options)


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# --- conversations ---------------------------------------------------------------------------------------------------


@STREAM
async def test_a_second_turn_knows_the_first_and_each_message_is_there_once(store: Store, stream: bool) -> None:
    bot = Bot()
    agent = agent_of(store, bot, answers())
    first = await the_end(agent, "the tool, please", session_id="s", stream=stream)
    second = await the_end(agent, "and now?", session_id="s", stream=stream)
    assert (first.content, second.content) == ("It said seen.", "Answer 5")
    assert bot.seen[-1] == ["the tool, please", "ai", "seen", "It said seen.", "and now?"]
    assert await log(store) == ["the tool, please", "look()", "=seen", "It said seen.", "and now?", "Answer 5"]
    session = await store.session("s")
    assert [run.status for run in await session.runs()] == ["completed", "completed"]
    assert {it.run_id for it in await session.get_messages()} == {first.run_id, second.run_id}


async def test_a_conversation_goes_on_after_a_restart(url: str) -> None:
    bot = Bot()
    for prompt in ("one", "two"):
        async with Store.open(url) as store:
            await agent_of(store, bot).run(prompt, session_id="s")
    assert bot.seen == [["one"], ["one", "Answer 1", "two"]]


async def test_a_plain_graph_with_a_saver_goes_on_where_ours_was_and_the_reverse(store: Store) -> None:
    bot = Bot()
    agent = agent_of(store, bot, answers())
    await agent.run("one tool", session_id="s")
    plain = graph_of(bot, answers(), checkpointer=HoldfastSaver(store))
    thread: Any = {"configurable": {"thread_id": "s"}}
    await plain.ainvoke({"messages": [HumanMessage("two")]}, thread)
    await agent.run("three", session_id="s")
    await plain.ainvoke({"messages": [*await HoldfastSaver(store).aunseen(thread), HumanMessage("four")]}, thread)
    said = ["one tool", "look()", "=seen", "It said seen.", "two", "Answer 5", "three", "Answer 7", "four", "Answer 9"]
    assert await log(store) == said
    assert bot.seen[-1] == ["one tool", "ai", "seen", "It said seen.", "two", "Answer 5", "three", "Answer 7", "four"]


async def test_the_openai_agents_sdk_reads_what_a_graph_said_and_the_reverse(store: Store) -> None:
    bot = Bot()
    agent = agent_of(store, bot, answers())
    await agent.run("one tool", session_id="s")
    session = HoldfastSession("s", store)
    items: list[Any] = await session.get_items()
    assert [it.get("content") or it.get("output") or it.get("name") for it in items] == ["one tool", "look", "seen", "It said seen."]
    await session.add_items([{"role": "user", "content": "two"}, {"role": "assistant", "content": "from afar"}])
    await agent.run("three", session_id="s")
    assert bot.seen[-1] == ["one tool", "ai", "seen", "It said seen.", "two", "from afar", "three"]
    await agent.run("four", session_id="s")
    assert bot.seen[-1][-4:] == ["from afar", "three", "Answer 7", "four"]


class Other:
    """An agent beside the graph."""

    async def run(self, turn: Any) -> AsyncGenerator[Any]:
        text = f"heard {len(turn.messages)}"
        yield Said(message=Message("assistant", (Text(text),)))
        yield Done(text)


async def test_two_agents_on_one_session(store: Store) -> None:
    bot = Bot()
    graph, other = agent_of(store, bot), Agent(Other(), name="other", store=store)
    for turn in range(2):
        await other.run(f"to other {turn}", session_id="s")
        await graph.run(f"to graph {turn}", session_id="s")
    assert bot.seen[-1] == [
        *("to other 0", "heard 1", "to graph 0", "Answer 3"),
        *("to other 1", "heard 5", "to graph 1"),
    ]


class Counted(MessagesState):
    count: int


def counting(name: str, seen: dict[str, list[Any]]) -> Any:
    """A graph that counts its turns in its own state; the words "and then?" make it ask."""

    def bot(state: Counted) -> dict[str, Any]:
        if state["messages"][-1].text == "and then?":
            return {"messages": [AIMessage(f"{name} heard {interrupt('what?')}")]}
        count = state.get("count", 0) + 1
        seen.setdefault(name, []).append((count, [it.text for it in state["messages"]]))
        return {"messages": [AIMessage(f"{name} {count}")], "count": count}

    builder = StateGraph(Counted)
    builder.add_node("bot", bot)
    builder.add_edge(START, "bot")
    return builder.compile()


def two_graphs(store: Store, seen: dict[str, list[Any]]) -> list[Agent]:
    return [Agent(GraphEngine(counting(name, seen)), name=name, store=store) for name in ("support", "billing")]


async def test_two_graphs_on_one_session_have_states_of_their_own_and_hear_each_other_once(url: str) -> None:
    seen: dict[str, list[Any]] = {}
    for turn in range(3):
        async with Store.open(url) as store:
            for agent in two_graphs(store, seen):
                await agent.run(f"{agent.name}? {turn}", session_id="s")
    said = [f"{name}{end}" for turn in range(3) for name in ("support", "billing") for end in (f"? {turn}", f" {turn + 1}")]
    async with Store.open(url) as store:
        assert await log(store) == said
        assert seen["support"] == [(turn + 1, said[: 4 * turn + 1]) for turn in range(3)]
        assert seen["billing"] == [(turn + 1, said[: 4 * turn + 3]) for turn in range(3)]
        thread: Any = {"configurable": {"thread_id": "s"}}
        assert (await counting("", {}).copy({"checkpointer": HoldfastSaver(store)}).aget_state(thread)).values["count"] == 3
        lane = counting("", {}).copy({"checkpointer": HoldfastSaver(store).lane("billing")})
        states = [it.values.get("count", 0) async for it in lane.aget_state_history(thread)]
        assert states[0] == 3
        assert sorted(set(states)) == [0, 1, 2, 3]
        assert len([it async for it in HoldfastSaver(store).lane("billing").alist(thread)]) == len(states)
        assert [it async for it in HoldfastSaver(store).lane("nobody").alist(None)] == []


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_graphs_one_waits_for_people_while_the_other_answers(store: Store, first: int) -> None:
    seen: dict[str, list[Any]] = {}
    agents = two_graphs(store, seen)
    for agent in agents:
        await agent.run("hi", session_id="s")
    waits, answers = agents[first], agents[1 - first]
    asked = await waits.run("and then?", session_id="s")
    assert asked.status == "paused"
    assert (await answers.run("what now?", session_id="s")).content == f"{answers.name} 2"
    output = await waits.continue_run(asked, [asked.requirements[0].supply("thunder")])
    assert output.content == f"{waits.name} heard thunder"
    assert (await answers.run("and you?", session_id="s")).content == f"{answers.name} 3"
    assert [it for it in seen[answers.name or ""][-1][1] if "thunder" in it] == [f"{waits.name} heard thunder"]


async def test_the_thread_stays_its_owners_where_a_plain_graph_goes_on(store: Store) -> None:
    seen: dict[str, list[Any]] = {}
    support, billing = two_graphs(store, seen)
    await support.run("hi", session_id="s")
    thread: Any = {"configurable": {"thread_id": "s"}}
    await counting("plain", seen).copy({"checkpointer": HoldfastSaver(store)}).ainvoke({"messages": [HumanMessage("you?")]}, thread)
    await billing.run("bill?", session_id="s")
    await support.run("again?", session_id="s")
    assert [count for count, _ in seen["support"]] == [1, 3]
    assert [count for count, _ in seen["billing"]] == [1]
    assert await log(store) == ["hi", "support 1", "you?", "plain 2", "bill?", "billing 1", "again?", "support 3"]
    texts = [it.text for it in await HoldfastSaver(store).aunseen(thread)]
    assert texts == []  # what billing said went into the thread with support's run
    await billing.run("last?", session_id="s")
    assert [it.text for it in await HoldfastSaver(store).aunseen(thread)] == ["last?", "billing 2"]


async def test_messages_that_a_graph_took_out_of_its_memory_stay_in_the_record(store: Store) -> None:
    bot = Bot()

    def forgetful(state: MessagesState) -> dict[str, Any]:
        old = [RemoveMessage(str(it.id)) for it in state["messages"][:-1]]
        return {"messages": [*old, *bot(state)["messages"]]}

    agent = agent_of(store, forgetful)
    for prompt in ("one", "two", "three"):
        await agent.run(prompt, session_id="s")
    assert bot.seen == [["one"], ["one", "Answer 1", "two"], ["two", "Answer 3", "three"]]
    assert await log(store) == ["one", "Answer 1", "two", "Answer 3", "three", "Answer 3"]


async def test_found_by_its_class() -> None:
    bot = Bot()
    runtime = Runtime(Store.open("memory://"))
    agent = runtime.register(graph_of(bot), "graph")
    assert runtime.register(graph_of(Bot(), name="named")).name == "named"
    with pytest.raises(InvalidValue, match="has no name"):
        runtime.register(graph_of(bot))
    assert (await agent.runner.run(agent, Session(id="s"), "hi")).content == "Answer 1"
    assert (await runtime.run("graph", "s", "hi")).content == "Answer 3"


async def test_a_session_of_a_user(store: Store) -> None:
    bot = Bot()
    agent = agent_of(store, bot)
    await agent.run("one", session_id="s", user_id="ada")
    await agent.run("two", session_id="s", user_id="ada")
    assert bot.seen[-1] == ["one", "Answer 1", "two"]
    assert (await store.session("s", user_id="ada")).user_id == "ada"


# --- what is told ----------------------------------------------------------------------------------------------------


def speaking(server: ModelServer) -> Any:
    model = Spoken(base_url=server.base_url)

    async def bot(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return bot


LONG = "a long answer that comes in pieces"


@pytest.mark.parametrize("first", [LONG, call("look"), Answer(text=LONG, calls=call("look").calls)], ids=["text", "call", "both"])
async def test_whoever_follows_is_told_the_same(store: Store, first: Any) -> None:
    with ModelServer([first, LONG]) as server:
        agent = agent_of(store, speaking(server), answers())
        output, events = await ended(agent.run("go", session_id="s", stream=True))
    assert numbered([event async for event in agent.follow(output.run_id, "s")]) == numbered(events)
    assert len([event for event in events if isinstance(event, TextDelta)]) > 1
    assert output.content == LONG


async def test_tokens_are_counted(store: Store) -> None:
    with ModelServer([call("look"), LONG]) as server:
        output = await agent_of(store, speaking(server), answers()).run("go", session_id="s")
    assert (output.metrics.model_calls, output.metrics.tool_calls) == (2, 1)
    assert output.metrics.input_tokens > 0


async def test_what_a_node_streams_and_does_not_keep_is_in_the_record_and_not_in_the_graph(store: Store) -> None:
    bot = Bot()
    with ModelServer(["thinking about it at length", "thinking again"]) as server:
        model = Spoken(base_url=server.base_url)

        async def drafts(state: MessagesState) -> dict[str, Any]:
            await model.ainvoke(state["messages"])
            return bot(state)

        agent = agent_of(store, drafts)
        output, events = await ended(agent.run("go", session_id="s", stream=True))
        assert numbered([event async for event in agent.follow(output.run_id, "s")]) == numbered(events)
        assert await log(store) == ["go", "thinking about it at length", "Answer 1"]
        await agent.run("more", session_id="s")
    assert bot.seen[-1] == ["go", "Answer 1", "more"]


# --- stored before it is done ----------------------------------------------------------------------------------------


async def test_a_node_starts_when_what_was_said_before_is_stored(store: Store) -> None:
    seen: list[list[str]] = []
    bot = Bot()

    async def tool(state: MessagesState) -> dict[str, Any]:
        seen.append(await log(store))
        return answers()(state)

    async def watched(state: MessagesState) -> dict[str, Any]:
        seen.append(await log(store))
        return bot(state)

    await agent_of(store, watched, tool).run("tool", session_id="s")
    assert seen == [["tool"], ["tool", "look()"], ["tool", "look()", "=seen"]]


async def test_a_failure_keeps_the_input_and_the_run_goes_on_where_it_was(store: Store) -> None:
    bot, fails, tools = Bot(), [True], [0]

    def flaky(state: MessagesState) -> dict[str, Any]:
        if isinstance(state["messages"][-1], ToolMessage) and fails.pop():
            raise RuntimeError("no answer")
        return bot(state)

    def tool(state: MessagesState) -> dict[str, Any]:
        tools[0] += 1
        return answers()(state)

    fails[:] = [False, True]
    agent = agent_of(store, flaky, tool)
    with pytest.raises(RuntimeError, match="no answer"):
        await agent.run("tool", session_id="s", run_id="r")
    assert await log(store) == ["tool", "look()", "=seen"]
    output = await agent.continue_run("r", session_id="s")
    assert (output.content, tools) == ("It said seen.", [1])
    assert await log(store) == ["tool", "look()", "=seen", "It said seen."]


def payer(store: Store, marks: str, told: Callable[[str], Any] = str, *, waits: bool = False, bot: Any = None) -> Agent:
    """A graph whose tool writes down that it was executed; `waits`: its tool and, where it is told to wait, its bot never end."""

    async def tool(state: MessagesState) -> dict[str, Any]:
        mark(marks)
        told("paying")
        await asyncio.sleep(60 * waits)
        return answers("paid")(state)

    async def patient(state: MessagesState) -> dict[str, Any]:
        if waits and state["messages"][-1].text == "wait":
            told("asked")
            await asyncio.sleep(60)
        return (bot or Bot())(state)

    return agent_of(store, patient, tool)


def killed(url: str, marks: str, pipe: Any) -> None:
    async def main() -> None:
        async with Store.open(url) as store:
            agent = payer(store, marks, pipe.send, waits=True)
            await asyncio.gather(*(agent.run(it, session_id=id, run_id=id, lease=0.3) for id, it in RUNS.items()))

    asyncio.run(main())


RUNS = {"w": "wait", "retried": "tool", "supplied": "tool"}


async def test_killed_in_a_node_a_run_goes_on_and_does_nothing_twice(url: str, tmp_path: Path) -> None:
    marks, bot = tmp_path / "marks", Bot()
    with Child(killed, url, str(marks)) as child:
        assert sorted([await child.said() for _ in RUNS]) == ["asked", "paying", "paying"]
        child.kill()
    async with Store.open(url) as store:
        agent = payer(store, str(marks), bot=bot)
        assert await log(store, "w") == ["wait"]
        assert (await agent.continue_run("w", session_id="w")).content == "Answer 1"
        assert await log(store, "w") == ["wait", "Answer 1"]

        asked = await agent.continue_run("retried", session_id="retried")
        assert ([it.kind for it in asked.requirements], marks.read_text()) == (["unknown"], "paid\npaid\n")
        assert (await agent.continue_run(asked, [asked.requirements[0].retry()])).content == "It said paid."
        assert await log(store, "retried") == ["tool", "look()", "=paid", "It said paid."]

        asked = await agent.continue_run("supplied", session_id="supplied")
        assert (await agent.continue_run(asked, [asked.requirements[0].supply("it was")])).content == "It said it was."
        assert await log(store, "supplied") == ["tool", "look()", "=it was", "It said it was."]
        await agent.run("next", session_id="supplied")
        assert bot.seen[-1] == ["tool", "ai", "it was", "It said it was.", "next"]
    assert marks.read_text() == "paid\npaid\npaid\n"


async def test_a_run_that_was_taken_over_stores_no_checkpoint(store: Store) -> None:
    going, go = asyncio.Event(), asyncio.Event()

    async def slow(state: MessagesState) -> dict[str, Any]:
        going.set()
        await go.wait()
        return {"messages": [AIMessage("late")]}

    task = asyncio.create_task(agent_of(store, slow).run("hi", session_id="s", run_id="r"))
    await going.wait()
    before = len(await (await store.session("s")).blobs("langgraph"))
    assert await agent_of(store, slow).cancel_run("r", "s")
    go.set()
    with suppress(Fenced):
        assert (await task).status == "cancelled"
    session = await store.session("s")
    assert len(await session.blobs("langgraph")) == before
    assert await log(store) == ["hi"]


# --- people decide ---------------------------------------------------------------------------------------------------


def supplying(url: str, pipe: Any) -> None:
    async def main() -> None:
        bot = Bot()
        async with Store.open(url) as store:
            agent = agent_of(store, bot, asks)
            (asked,) = await (await store.session("s")).requirements()
            output = await agent.continue_run(asked.run_id, [asked.supply("yes")], session_id="s")
            pipe.send((asked.kind, asked.call.arguments, output.content))

    asyncio.run(main())


async def test_an_interrupt_waits_and_another_process_goes_on(url: str) -> None:
    async with Store.open(url) as store:
        output = await the_end(agent_of(store, Bot(), asks), "tool", session_id="s", stream=True)
        assert output.status == "paused"
        assert [info.id async for info in store.sessions(waiting=True)] == ["s"]
    with Child(supplying, url) as child:
        assert await child.said() == ("external", {"value": {"question": "May I?"}}, "It said yes.")
    async with Store.open(url) as store:
        assert await log(store) == ["tool", "look()", "interrupt()", "=yes", "=yes", "It said yes."]
        bot = Bot()
        await agent_of(store, bot, asks).run("next", session_id="s")
        assert bot.seen == [["tool", "ai", "yes", "It said yes.", "next"]]


async def test_a_node_that_asks_twice(store: Store) -> None:
    def twice(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('name?')} is {interrupt('age?')}")]}

    agent = agent_of(store, twice)
    output, events = await ended(agent.run("hi", session_id="s", stream=True))
    assert output.requirements[0].call.arguments == {"value": "name?"}
    output = await agent.continue_run(output, [output.requirements[0].supply("Ada")])
    assert output.requirements[0].call.arguments == {"value": "age?"}
    output = await agent.continue_run(output, [output.requirements[0].supply(36)])
    assert (output.status, output.content) == ("completed", "Ada is 36")
    assert numbered([event async for event in agent.follow(output.run_id, "s")])[: len(events) - 1] == numbered(events)[:-1]


async def test_two_nodes_that_ask_at_the_same_time(store: Store) -> None:
    def asking(what: str) -> Any:
        def node(state: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(f"{what}: {interrupt(what)}")]}

        return node

    builder = StateGraph(MessagesState)
    for name in ("one", "two"):
        builder.add_node(name, asking(name))
        builder.add_edge(START, name)
    agent = Agent(GraphEngine(builder.compile()), store=store)
    output = await agent.run("hi", session_id="s")
    assert sorted(it.call.arguments["value"] for it in output.requirements) == ["one", "two"]
    first = await agent.continue_run(output, [output.requirements[0].supply("a")])
    assert (first.status, len(first.requirements)) == ("paused", 1)
    last = await agent.continue_run(output, [output.requirements[1].supply("b")])
    assert last.status == "completed"
    assert sorted(await log(store))[-2:] == sorted(
        f"{it.call.arguments['value']}: {value}" for it, value in zip(output.requirements, "ab", strict=True)
    )


async def test_a_denied_interrupt_is_told_to_the_graph(store: Store) -> None:
    agent = agent_of(store, Bot(), asks)
    output = await agent.run("tool", session_id="s")
    output = await agent.continue_run(output, [output.requirements[0].deny("no")])
    assert "denied" in str(output.content)


async def test_an_interrupt_that_another_run_went_past_is_refused(store: Store) -> None:
    agent = agent_of(store, Bot(), asks)
    output = await agent.run("tool", session_id="s")
    await agent.run("something else", session_id="s")
    with pytest.raises(UsageError, match="has gone on without an answer"):
        await agent.continue_run(output, [output.requirements[0].supply("late")])


# --- what a graph does not take notice of ----------------------------------------------------------------------------


class AroundBoth(Around):
    """Around tool calls too."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        super().__init__(before, after)
        self.tools: list[ToolInvocation] = []

    async def on_model_call(self, call: ModelCall, call_next: Any) -> None:
        await asyncio.sleep(0)
        await super().on_model_call(call, call_next)

    async def on_tool_call(self, call: ToolInvocation, call_next: Any) -> None:
        self.tools.append(call)
        await self.around(call, call_next)


@langchain_tool
def look(order: str) -> str:
    """Look an order up."""
    return f"{order} has shipped"


def asking(model: BaseChatModel, how: str, tool: Any = look) -> Any:
    """A graph with a model and a tool; `how` its node asks the model."""

    async def awaited(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def blocking(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def blocking_the_loop(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return graph_of({"awaited": awaited, "blocking": blocking, "blocking the loop": blocking_the_loop}[how], ToolNode([tool]))


class Scripted(BaseChatModel):
    """Says what it is told to, in this process."""

    answers: list[Any]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {}

    def _get_ls_params(self, stop: list[str] | None = None, **options: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "scripted", "ls_model_type": "chat"}

    def _generate(self, *args: Any, **options: Any) -> ChatResult:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        answer.usage_metadata = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        return ChatResult(generations=[ChatGeneration(message=answer)])


def look_up() -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "look", "args": {"order": "7"}, "id": "c1"}])


HOW = pytest.mark.parametrize("how", ["awaited", "blocking", "blocking the loop"])


@HOW
@STREAM
async def test_middleware_sees_the_model_and_tool_calls_inside_of_a_graph(store: Store, how: str, stream: bool) -> None:
    around = AroundBoth()
    graph = asking(Scripted(answers=[look_up(), AIMessage("It has shipped.")]), how)
    agent = Agent(GraphEngine(graph), name="graph", store=store, middleware=[around])
    output = await the_end(agent, "Where is 7?", session_id="s", stream=stream)
    assert output.content == "It has shipped."
    assert [(it.number, it.run_id, it.agent, it.model, it.provider) for it in around.calls] == [
        (n, output.run_id, "graph", "scripted", "openai") for n in (1, 2)
    ]
    assert [[message.role for message in it.messages] for it in around.calls] == [["user"], ["user", "assistant", "tool"]]
    assert [it.answer and (it.answer.text or "call") for it in around.calls] == ["call", "It has shipped."]
    assert [(it.input_tokens, it.output_tokens) for it in around.calls] == [(7, 3)] * 2
    assert [(it.id, it.name, it.arguments, it.result) for it in around.tools] == [("c1", "look", {"order": "7"}, "7 has shipped")]


@HOW
async def test_middleware_may_keep_a_call_inside_of_a_graph_from_beginning(store: Store, how: str) -> None:
    def refuse(call: Any) -> None:
        raise PermissionError("no more tokens")

    model = Scripted(answers=[AIMessage("never")])
    agent = Agent(GraphEngine(asking(model, how)), store=store, middleware=[AroundBoth(refuse)])
    with pytest.raises(PermissionError, match="no more tokens"):
        await agent.run("hi", session_id="s")
    assert how == "blocking the loop" or len(model.answers) == 1
    assert [run.status for run in await (await store.session("s")).runs()] == ["error"]


def other_messages(call: Any) -> None:
    if isinstance(call, ModelCall):
        call.messages = [*call.messages, assistant("more")]


def other_arguments(call: Any) -> None:
    if isinstance(call, ToolInvocation):
        call.arguments = {"order": "8"}


def other_answer(call: Any) -> None:
    if isinstance(call, ModelCall):
        call.answer = assistant("something else")


def instead(call: Any) -> bool:
    if isinstance(call, ModelCall):
        call.answer = assistant("something else")
    return isinstance(call, ModelCall)


@HOW
@pytest.mark.parametrize(
    "around", [AroundBoth(other_messages), AroundBoth(other_arguments), AroundBoth(after=other_answer), AroundBoth(instead)], ids=range(4)
)
async def test_what_middleware_changes_inside_of_a_graph_is_refused(store: Store, how: str, around: AroundBoth) -> None:
    graph = asking(Scripted(answers=[look_up(), AIMessage("It has shipped.")]), how)
    with pytest.raises(Unsupported, match="only look at"):
        await Agent(GraphEngine(graph), store=store, middleware=[around]).run("Where is 7?", session_id="s")


@HOW
async def test_middleware_sees_what_fails_inside_of_a_graph(store: Store, how: str) -> None:
    failures = Failures()
    graph = asking(Scripted(answers=[ConnectionError("away")]), how)
    with pytest.raises(ConnectionError, match="away"):
        await Agent(GraphEngine(graph), store=store, middleware=[failures]).run("hi", session_id="s")
    assert failures.broke == ["ConnectionError"]


@HOW
async def test_middleware_sees_a_tool_inside_of_a_graph_raise_stop_iteration(store: Store, how: str) -> None:
    """No future takes that exception."""
    broke: list[BaseException | None] = []

    class Telling(Middleware):
        async def on_tool_call(self, call: ToolInvocation, call_next: Any) -> None:
            try:
                await call_next()
            except RuntimeError as error:
                broke.append(error.__cause__)
                raise

    @langchain_tool
    def look(order: str) -> str:
        """Look an order up."""
        return next(iter(list[str]()))

    graph = asking(Scripted(answers=[look_up()]), how, look)
    with pytest.raises(RuntimeError):
        await Agent(GraphEngine(graph), store=store, middleware=[Telling()]).run("hi", session_id="s")
    assert [type(it) for it in broke] == [StopIteration]


async def test_a_run_that_is_cancelled_leaves_no_middleware_behind(store: Store) -> None:
    ends: list[str] = []
    begun = asyncio.Event()

    class Waiting(Middleware):
        async def on_model_call(self, call: ModelCall, call_next: Any) -> None:
            try:
                begun.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

    agent = Agent(GraphEngine(asking(Scripted(answers=[AIMessage("never")]), "awaited")), store=store, middleware=[Waiting()])
    task = asyncio.create_task(agent.run("hi", session_id="s"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends == ["cancelled"]


@STREAM
async def test_telemetry_tells_of_the_calls_inside_of_a_graph(store: Store, stream: bool) -> None:
    seen = Exported()
    graph = asking(Scripted(answers=[look_up(), AIMessage("It has shipped.")]), "awaited")
    agent = Agent(GraphEngine(graph), name="graph", store=store, middleware=[seen.telemetry()])
    await the_end(agent, "Where is 7?", session_id="s", stream=stream)
    assert seen.tree() == ["invoke_agent graph", "  chat scripted", "  execute_tool look", "  chat scripted"]
    assert seen.conversations() == {"s"}
    assert seen.one("invoke_agent graph")["gen_ai.usage.input_tokens"] == 14
    assert "shipped" not in seen.everything()


async def test_a_tool_of_a_graph_that_waits_for_people_is_no_error(store: Store) -> None:
    @langchain_tool
    def ask_first() -> str:
        """Ask first."""
        return str(interrupt("May I?"))

    seen = Exported()
    answers = [AIMessage("", tool_calls=[{"name": "ask_first", "args": {}, "id": "c1"}]), AIMessage("Done.")]
    model = Scripted(answers=answers)

    async def bot(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    agent = Agent(GraphEngine(graph_of(bot, ToolNode([ask_first]))), store=store, middleware=[seen.telemetry()])
    asked = await agent.run("go", session_id="s")
    assert seen.errors() == {}
    assert seen.one("execute_tool ask_first")["holdfast.waits"] is True
    assert (await agent.continue_run(asked, [asked.requirements[0].supply("yes")])).content == "Done."


def helper() -> str:
    return "x"


@pytest.mark.parametrize("options", [{"tools": [helper]}, {"instructions": "Be brief."}], ids=lambda it: min(it))
async def test_what_it_would_not_take_notice_of_is_refused(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        await agent_of(store, Bot(), **options).run("hi", session_id="s")


class Nothing(TypedDict):
    it: str


def nothing(state: Nothing) -> Nothing:
    return state


def test_a_graph_without_messages_is_refused() -> None:
    builder: Any = StateGraph(Nothing)
    builder.add_node("bot", nothing)
    builder.add_edge(START, "bot")
    with pytest.raises(InvalidValue, match="no channel 'messages'"):
        GraphEngine(builder.compile())


async def test_a_name_for_the_session_is_its_first_words(store: Store) -> None:
    agent = agent_of(store, Bot())
    await agent.run("where is my order", session_id="s")
    await agent.set_session_name("s", autogenerate=True)
    assert await agent.get_session_name("s") == "where is my order"


async def test_many_at_once_on_one_session_take_turns(store: Store) -> None:
    bot = Bot()
    agent = agent_of(store, bot)
    await asyncio.gather(*(agent.run(f"q{n}", session_id="s") for n in range(5)))
    assert [len(it) for it in bot.seen] == [1, 3, 5, 7, 9]
    assert len(await log(store)) == 10


async def test_a_blocking_node_runs_beside_the_loop(store: Store) -> None:
    threads: list[int] = []

    def blocking(state: MessagesState) -> dict[str, Any]:
        threads.append(threading.get_ident())
        return {"messages": [AIMessage("ok")]}

    await agent_of(store, blocking).run("hi", session_id="s")
    assert threads[0] != threading.get_ident()
