"""Agents of the OpenAI Agents SDK as agents of ours: in order, once, through crashes and pauses, and readable by the SDK's own runner."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import agents as sdk
import msgspec
import pytest
from agents import GuardrailFunctionOutput, Runner, function_tool
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from agents.testing import ScriptedModel, assistant_message, function_call
from openai import AsyncOpenAI
from pydantic import BaseModel

from holdfast import InvalidValue, Message, Session, Store, Text, ToolCall, Unsupported, assistant
from holdfast.adapters.openai_agents import AgentsEngine, HoldfastSession
from holdfast.agents import (
    Agent,
    Done,
    Middleware,
    ModelCall,
    RunEnded,
    RunOutput,
    Said,
    Team,
    TextDelta,
    ToolInvocation,
    tool,
)
from holdfast.runtime import Runtime
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, call
from holdfast.testing.processes import Child

from ..exported import Exported
from .telling import Around, Failures, ended, log, mark, numbered, the_end

sdk.set_tracing_disabled(True)
MODELS = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}
TEXT = "let me see what there is"
BOTH = Answer(text=TEXT, calls=(Call("find", {"order": "7"}), Call("refund", {"order": "7"})))


class Desk:
    """An agent with two tools over a scripted model; `done` is what its tools did."""

    def __init__(self, protocol: str, *answers: Any) -> None:
        given: Any = answers[0] if len(answers) == 1 and callable(answers[0]) else answers
        self.server = ModelServer(given).__enter__()
        self.client = AsyncOpenAI(base_url=self.server.base_url, api_key="none", max_retries=0)
        self.model: Any = MODELS[protocol]("scripted", self.client)
        self.done: list[str] = []

    def agent(self, **options: Any) -> sdk.Agent[Any]:
        @function_tool
        def find(order: str) -> str:
            self.done.append(f"find {order}")
            return f"order {order}"

        @function_tool(needs_approval=True)
        def refund(order: str) -> str:
            self.done.append(f"refund {order}")
            return f"paid {order}"

        given: dict[str, Any] = {"name": "desk", "model": self.model, "tools": [find, refund]} | options
        return sdk.Agent(**given)

    def ours(self, store: Store | None, **options: Any) -> Agent:
        return Agent(AgentsEngine(self.agent()), name="desk", store=store, **options)

    @property
    def sent(self) -> list[list[str]]:
        return [said(request) for request in self.server.requests]


class Desks:
    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._made: list[Desk] = []

    def __call__(self, *answers: Any) -> Desk:
        self._made.append(Desk(self.protocol, *answers))
        return self._made[-1]

    async def close(self) -> None:
        for desk in self._made:
            desk.server.close()
            await desk.client.close()


@pytest.fixture(params=MODELS)
async def desks(request: pytest.FixtureRequest) -> AsyncGenerator[Desks]:
    made = Desks(str(request.param))
    yield made
    await made.close()


@pytest.fixture
async def desk() -> AsyncGenerator[Desks]:
    """One protocol, for what has nothing to do with it."""
    made = Desks("responses")
    yield made
    await made.close()


@pytest.fixture
async def store() -> AsyncGenerator[Store]:
    async with Store.open("memory://") as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


def said(request: Request) -> list[str]:
    """What a request carries, in either protocol: texts, calls as `name(arguments)`, results after an equals sign."""
    found: list[str] = []
    items: list[Any] = request.input
    for it in items:
        content: Any = it.get("content")
        texts: list[str] = [content] if isinstance(content, str) else [part.get("text", "") for part in list[Any](content or [])]
        found += [f"={text}" if it.get("role") == "tool" else text for text in texts if text]
        found += [f"={it['output']}"] if it.get("type") == "function_call_output" else []
        calls: list[Any] = (
            [it] if it.get("type") == "function_call" else [each["function"] for each in list[Any](it.get("tool_calls") or [])]
        )
        found += [f"{each['name']}({','.join(map(str, json.loads(each['arguments']).values()))})" for each in calls]
    return found


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

# --- conversations ---------------------------------------------------------------------------------------------------


@STREAM
async def test_a_second_turn_knows_the_first(desks: Desks, store: Store, stream: bool) -> None:
    desk = desks(call("find", order="7"), "It is in Oslo.", "Oslo, I said.")
    agent = desk.ours(store)
    first = await the_end(agent, "Where is 7?", session_id="s", stream=stream)
    second = await the_end(agent, "Where?", session_id="s", stream=stream)
    assert (first.content, second.content) == ("It is in Oslo.", "Oslo, I said.")
    assert desk.sent[2] == ["Where is 7?", "find(7)", "=order 7", "It is in Oslo.", "Where?"]
    assert await log(store) == ["Where is 7?", "find()", "=order 7", "It is in Oslo.", "Where?", "Oslo, I said."]
    assert (first.metrics.model_calls, first.metrics.tool_calls) == (2, 1)
    assert first.metrics.input_tokens > 0 or desks.protocol == "chat"
    assert [run.status for run in await (await store.session("s")).runs()] == ["completed", "completed"]


async def test_a_conversation_goes_on_after_a_restart(desk: Desks, url: str) -> None:
    here = desk("I am the desk.", "I still am.")
    for prompt in ("Who are you?", "And now?"):
        async with Store.open(url) as store:
            await here.ours(store).run(prompt, session_id="s")
    assert here.sent[1] == ["Who are you?", "I am the desk.", "And now?"]


async def test_the_sdks_own_runner_goes_on_where_ours_was_and_the_reverse(desks: Desks, store: Store) -> None:
    desk = desks(BOTH, "Paid.", "theirs", "ours again")
    agent = desk.ours(store)
    paused = await agent.run("Refund 7", session_id="s")
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    result = await Runner.run(desk.agent(), "two", session=HoldfastSession("s", store))
    assert result.final_output == "theirs"
    past = ["Refund 7", TEXT, "find(7)", "refund(7)", "=order 7", "=paid 7", "Paid."]
    assert sorted(desk.sent[2]) == sorted([*past, "two"])
    assert desk.sent[2][-2:] == ["Paid.", "two"]
    await agent.run("three", session_id="s")
    assert sorted(desk.sent[3]) == sorted([*past, "two", "theirs", "three"])
    assert desk.done == ["find 7", "refund 7"]


async def test_the_sdk_reads_every_item_as_the_model_said_it(desk: Desks, store: Store) -> None:
    here = desk(BOTH, "Paid.")
    agent = here.ours(store)
    paused = await agent.run("Refund 7", session_id="s")
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    session = HoldfastSession("s", store)
    items: list[Any] = await session.get_items()
    assert [it.get("type") or it["role"] for it in items] == [
        *("user", "message", "function_call", "function_call"),
        *("function_call_output", "function_call_output", "message"),
    ]
    assert items[1]["id"].startswith("msg_")
    assert items[2]["id"].startswith("fc_")
    assert [it["type"] for it in await session.get_items(limit=2)] == ["function_call_output", "message"]  # type: ignore[typeddict-item]
    for _ in range(4):
        await session.pop_item()
    assert [it.get("type") or it.get("role") for it in await session.get_items()] == ["user", "message", "function_call"]


async def test_one_session_in_both_frameworks_of_ours(desk: Desks, store: Store) -> None:
    here = desk("theirs", "theirs again")
    ours = Agent(ScriptedEngine("ours"), store=store)
    await here.ours(store).run("one", session_id="s")
    await ours.run("two", session_id="s")
    await here.ours(store).run("three", session_id="s")
    assert here.sent[1] == ["one", "theirs", "two", "ours", "three"]


class ScriptedEngine:
    def __init__(self, text: str) -> None:
        self.text = text

    async def run(self, turn: Any) -> AsyncGenerator[Any]:
        yield Said(message=Message("assistant", (Text(self.text),)))
        yield Done(self.text)


async def test_found_by_its_class(desk: Desks) -> None:
    runtime = Runtime(Store.open("memory://"))
    agent = runtime.register(desk("Hello.", "Again.").agent())
    assert (agent.name, runtime.agent("desk")) == ("desk", agent)
    assert (await agent.runner.run(agent, Session(id="s"), "hi")).content == "Hello."
    assert (await runtime.run("desk", "s", "hi")).content == "Again."


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [BOTH, Answer(text="a long answer", reasoning="hm, so"), "some plain text that is long"], ids=["calls", "thoughts", "text"]
)
async def test_whoever_follows_is_told_the_same(desks: Desks, store: Store, answer: Any) -> None:
    desk = desks(answer, "after")
    agent = desk.ours(store)
    output, events = await ended(agent.run("go", session_id="s", stream=True))
    again = [event async for event in agent.follow(output.run_id, "s")]
    assert numbered(again) == numbered(events)
    texts = [event.delta for event in events if isinstance(event, TextDelta)]
    assert len(texts) > 1
    if output.requirements:
        output, more = await ended(agent.continue_run(output, [output.requirements[0].approve()], stream=True))
        assert numbered([event async for event in agent.follow(output.run_id, "s")])[-2:] == numbered(more)[-2:]


# --- stored before it is done ----------------------------------------------------------------------------------------


async def test_a_tool_starts_when_its_call_is_stored_and_the_model_is_asked_when_its_result_is(desks: Desks, store: Store) -> None:
    seen: list[list[str]] = []

    @function_tool
    async def look() -> str:
        seen.append(await log(store))
        return "seen"

    loop = asyncio.get_running_loop()

    def model(request: Request) -> Any:
        seen.append(asyncio.run_coroutine_threadsafe(log(store), loop).result(10))
        return call("look") if request.number == 1 else "done"

    agent = Agent(AgentsEngine(desks(model).agent(tools=[look])), store=store)
    assert (await agent.run("go", session_id="s")).content == "done"
    assert seen == [["go"], ["go", "look()"], ["go", "look()", "=seen"]]


async def test_a_failure_of_the_model_keeps_the_input_and_the_run_goes_on(desks: Desks, store: Store) -> None:
    desk = desks(call("find", order="7"), Answer(status=500), "It is there.")
    agent = desk.ours(store)
    with pytest.raises(Exception, match="500"):
        await agent.run("go", session_id="s", run_id="r")
    session = await store.session("s")
    assert [run.status for run in await session.runs()] == ["error"]
    assert await log(store) == ["go", "find()", "=order 7"]
    assert (await agent.continue_run("r", session_id="s")).content == "It is there."
    assert (desk.done, desk.sent[-1]) == (["find 7"], ["go", "find(7)", "=order 7"])


def killed(url: str, base_url: str, marks: str, pipe: Any) -> None:
    """A process with two runs: one waits for its model, one for its tool, which has written down that it was executed."""

    async def main() -> None:
        async with Store.open(url) as store, AsyncOpenAI(base_url=base_url, api_key="none") as client:
            agent = payer(store, client, marks, lambda: pipe.send("paying"), waits=True)
            await asyncio.gather(*(agent.run(id, session_id=id, run_id=id, lease=0.3) for id in ("pay", "wait")))

    sdk.set_tracing_disabled(True)
    asyncio.run(main())


def payer(store: Store, client: AsyncOpenAI, marks: str, told: Any = lambda: None, *, waits: bool = False) -> Agent:
    @function_tool
    async def pay() -> str:
        mark(marks)
        told()
        if waits:
            await asyncio.sleep(60)
        return "paid"

    return Agent(AgentsEngine(sdk.Agent(name="desk", model=OpenAIResponsesModel("m", client), tools=[pay])), name="desk", store=store)


async def test_killed_in_the_model_or_in_a_tool_a_run_goes_on_and_does_nothing_twice(url: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    def model(request: Request) -> Any:
        text = said(request)
        return Answer(text="Here.", delay=0 if over.is_set() else 60) if text == ["wait"] else "Paid." if "=paid" in text else call("pay")

    over = threading.Event()
    with ModelServer(model) as server:
        with Child(killed, url, server.base_url, str(marks)) as child:
            assert await child.said() == "paying"
            await asyncio.to_thread(server.wait_for, 2)
            child.kill()
        over.set()
        async with Store.open(url) as store, AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            agent = payer(store, client, str(marks))
            assert await log(store, "wait") == ["wait"]
            assert (await agent.continue_run("wait", session_id="wait")).content == "Here."
            asked = await agent.continue_run("pay", session_id="pay")
            assert ([it.kind for it in asked.requirements], marks.read_text()) == (["unknown"], "paid\n")
            assert (await agent.continue_run(asked, [asked.requirements[0].retry()])).content == "Paid."
            assert marks.read_text() == "paid\npaid\n"
            assert await log(store, "pay") == ["pay", "pay()", "=paid", "Paid."]


# --- people decide ---------------------------------------------------------------------------------------------------


def deciding(url: str, base_url: str, run_id: str, pipe: Any) -> None:
    async def main() -> None:
        desk = Desk("responses")
        desk.server.close()
        desk.model = OpenAIResponsesModel("m", AsyncOpenAI(base_url=base_url, api_key="none"))
        async with Store.open(url) as store:
            agent = desk.ours(store)
            (asked,) = await (await store.session("s")).requirements()
            output = await agent.continue_run(run_id, [asked.approve()], session_id="s")
            pipe.send((output.content, desk.done))

    sdk.set_tracing_disabled(True)
    asyncio.run(main())


async def test_a_call_waits_and_another_process_goes_on(desk: Desks, url: str) -> None:
    here = desk(BOTH, "Paid.")
    async with Store.open(url) as store:
        output = await the_end(here.ours(store), "Refund 7", session_id="s", stream=True)
        assert (output.status, here.done) == ("paused", ["find 7"])
        assert [info.id async for info in store.sessions(waiting=True)] == ["s"]
    with Child(deciding, url, here.server.base_url, output.run_id) as child:
        assert await child.said() == ("Paid.", ["refund 7"])
    async with Store.open(url) as store:
        assert await log(store) == ["Refund 7", TEXT, "find()", "refund()", "=order 7", "=paid 7", "Paid."]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_arguments_changed_by_a_person(desks: Desks, store: Store, stream: bool) -> None:
    desk = desks(call("refund", order="7"), "Paid.")
    agent = desk.ours(store)
    output = await agent.run("Refund 7", session_id="s")
    run: Any = agent.continue_run
    decided = [output.requirements[0].approve(order="8")]
    output = (await ended(run(output, decided, stream=True)))[0] if stream else await run(output, decided)
    assert (output.content, desk.done) == ("Paid.", ["refund 8"])
    assert output.metrics.model_calls == 2


@pytest.mark.parametrize(("changed", "says"), [({"times": "many"}, "valid integer"), ({"count": 2}, "no such parameter")])
async def test_what_one_of_our_tools_can_not_take_does_not_use_the_decision_up(
    desks: Desks, store: Store, changed: dict[str, Any], says: str
) -> None:
    rung: list[int] = []

    @tool(confirm=True)
    def ring(times: int) -> str:
        """Ring."""
        rung.append(times)
        return "rung"

    agent = desks(call("ring", times=1), "Done.").ours(store, tools=[ring])
    paused = await agent.run("Ring", session_id="s")
    (it,) = paused.requirements
    with pytest.raises(InvalidValue, match=rf"'ring' can't be called with it: .*{says}"):
        await agent.continue_run(paused, [it.approve(**changed)])
    assert (await agent.continue_run(paused, [it.approve(times=2)])).content == "Done."
    assert rung == [2]


@pytest.mark.parametrize("changed", [{"order": 9}, {"number": "9"}], ids=["type", "name"])
async def test_what_a_tool_of_the_sdk_can_not_take_uses_no_decision_up(desks: Desks, store: Store, changed: dict[str, Any]) -> None:
    desk = desks(call("refund", order="7"), "Paid.")
    agent = desk.ours(store)
    paused = await agent.run("Refund 7", session_id="s")
    with pytest.raises(InvalidValue, match="'refund' can't be called with it: it has"):
        await agent.continue_run(paused, [paused.requirements[0].approve(**changed)])
    assert desk.done == []
    assert (await agent.continue_run(paused, [paused.requirements[0].approve(order="8")])).content == "Paid."
    assert desk.done == ["refund 8"]


async def test_a_call_that_is_denied_is_not_executed(desks: Desks, store: Store) -> None:
    desk = desks(BOTH, "Not paid.")
    agent = desk.ours(store)
    output = await agent.run("Refund 7", session_id="s")
    output = await agent.continue_run(output, [output.requirements[0].deny("too late")])
    assert (output.content, desk.done) == ("Not paid.", ["find 7"])
    assert any("denied this call" in it and "too late" in it for it in desk.sent[-1])


async def test_a_run_that_is_decided_twice_pays_once(desk: Desks, store: Store) -> None:
    here = desk(BOTH, "Paid.", "Paid.")
    agent = here.ours(store)
    output = await agent.run("Refund 7", session_id="s")
    decision = output.requirements[0].approve()
    done = await asyncio.gather(*(agent.continue_run(output, [decision]) for _ in range(3)), return_exceptions=True)
    assert here.done.count("refund 7") == 1
    assert sum(isinstance(it, RunOutput) for it in done) >= 1


# --- what an agent of the SDK is made of -----------------------------------------------------------------------------


async def test_who_was_handed_the_conversation_begins_the_next_run(desks: Desks, store: Store) -> None:
    desk = desks(call("transfer_to_orders"), "Orders here.", "Still orders.", call("transfer_to_desk"), "The desk.", "The desk again.")
    orders = desk.agent(name="orders", instructions="You are orders.", tools=[])
    front = desk.agent(instructions="You are the desk.", tools=[], handoffs=[orders])
    orders.handoffs.append(front)

    def agent() -> Agent:
        return Agent(AgentsEngine(front), name="desk", store=store)

    for prompt in ("one", "two", "three", "four"):
        await agent().run(prompt, session_id="s")
    asked = [request.body.get("instructions") or request.input[0]["content"] for request in desk.server.requests]
    short = ["desk" if "desk" in str(it) else "orders" for it in asked]
    assert short == ["desk", "orders", "orders", "orders", "desk", "desk"]
    found = await log(store)
    assert found[:4] == ["one", "transfer_to_orders()", '={"assistant": "orders"}', "Orders here."]
    session = await store.session("s")
    assert session.get_all_keys() == []
    assert (await session.requirements(), [run.status for run in await session.runs()]) == ([], ["completed"] * 4)


class Order(BaseModel):
    number: int


async def test_an_output_type_stays(desks: Desks, store: Store) -> None:
    desk = desks('{"number": 7}')
    agent = Agent(AgentsEngine(desk.agent(output_type=Order)), store=store)
    assert (await agent.run("which?", session_id="s", run_id="r")).content == Order(number=7)
    assert (await agent.run("which?", session_id="s", run_id="r")).content == {"number": 7}


class Loud(Middleware):
    async def on_tool_call(self, call: ToolInvocation, call_next: Any) -> None:
        call.arguments["order"] = call.arguments["order"].upper()
        await call_next()
        call.result = f"<{call.result}>"


@STREAM
async def test_middleware_is_around_each_call_of_the_model(desks: Desks, store: Store, stream: bool) -> None:
    around = Around()
    desk = desks(call("find", order="7"), "It is in Oslo.")
    output = await the_end(desk.ours(store, middleware=[around]), "Where is 7?", session_id="s", stream=stream)
    assert output.content == "It is in Oslo."
    assert [(it.number, it.run_id, it.agent, it.model, it.provider, it.stream) for it in around.calls] == [
        (n, output.run_id, "desk", "scripted", "openai", stream) for n in (1, 2)
    ]
    assert [[message.role for message in it.messages] for it in around.calls] == [["user"], ["user", "assistant", "tool"]]
    assert [it.answer and (it.answer.text or "call") for it in around.calls] == ["call", "It is in Oslo."]
    assert desks.protocol == "chat" or sum([it.input_tokens or 0 for it in around.calls]) == output.metrics.input_tokens


@STREAM
async def test_middleware_may_change_what_is_sent_and_what_is_said(desks: Desks, store: Store, stream: bool) -> None:
    def hide(call: ModelCall) -> None:
        call.messages = [msgspec.structs.replace(it, parts=(Text(it.text.replace("1234", "***")),), native=None) for it in call.messages]

    def sign(call: ModelCall) -> None:
        assert call.answer is not None
        call.answer = assistant(f"{call.answer.text} (signed)")

    desk = desks("Noted.", "And so on.")
    agent = desk.ours(store, middleware=[Around(hide, sign)])
    assert (await the_end(agent, "My PIN is 1234", session_id="s", stream=stream)).content == "Noted. (signed)"
    assert desk.sent == [["My PIN is ***"]]
    assert await log(store) == ["My PIN is 1234", "Noted. (signed)"]
    await the_end(agent, "more", session_id="s", stream=stream)
    assert desk.sent[1] == ["My PIN is ***", "Noted. (signed)", "more"]


@STREAM
async def test_middleware_may_stand_for_the_model(desks: Desks, store: Store, stream: bool) -> None:
    answers = iter([Message("assistant", (ToolCall("find", "c1", {"order": "7"}),)), assistant("I know that.")])

    def answer(call: ModelCall) -> bool:
        call.answer = next(answers)
        return True

    desk = desks("never")
    output = await the_end(desk.ours(store, middleware=[Around(answer)]), "Where is 7?", session_id="s", stream=stream)
    assert (output.content, desk.sent, desk.done) == ("I know that.", [], ["find 7"])
    assert await log(store) == ["Where is 7?", "find()", "=order 7", "I know that."]
    told = [event async for event in desk.ours(store).follow(output.run_id, "s")]
    assert isinstance(told[-1], RunEnded)


@STREAM
async def test_what_middleware_raises_and_what_the_model_raises(desks: Desks, store: Store, stream: bool) -> None:
    def refuse(call: ModelCall) -> None:
        raise PermissionError("no more tokens")

    desk = desks(Answer(status=500), "never")
    with pytest.raises(PermissionError, match="no more tokens"):
        await the_end(desk.ours(store, middleware=[Around(refuse)]), "hi", session_id="a", stream=stream)
    assert desk.sent == []
    failures = Failures()
    with pytest.raises(Exception, match="500"):
        await the_end(desk.ours(store, middleware=[failures]), "hi", session_id="b", stream=stream)
    assert failures.broke == ["InternalServerError"]


async def test_middleware_sees_whoever_has_the_conversation_a_call_made_again_and_a_name(desk: Desks, store: Store) -> None:
    here = desk(call("transfer_to_money"), call("refund", order="7"), "Paid.", "A refund")
    around = Around()
    money = here.agent(name="money")
    front = here.agent(name="front", tools=[], handoffs=[money])
    agent = Agent(AgentsEngine(front), name="desk", store=store, middleware=[around])
    paused = await agent.run("Refund 7", session_id="s")
    assert (await agent.continue_run(paused, [paused.requirements[0].approve()])).content == "Paid."
    await agent.set_session_name("s", autogenerate=True)
    assert await agent.get_session_name("s") == "A refund"
    assert [(it.purpose, it.answer and it.answer.text) for it in around.calls] == [
        *(("answer", ""), ("answer", ""), ("answer", "Paid.")),
        ("name", "A refund"),
    ]
    assert here.done == ["refund 7"]


async def test_the_model_that_a_run_config_names_is_seen_too(desk: Desks, store: Store) -> None:
    here = desk("Hello.")
    around = Around()
    engine = AgentsEngine(here.agent(model="another"), run_config=sdk.RunConfig(model=here.model))
    assert (await Agent(engine, store=store, middleware=[around]).run("hi", session_id="s")).content == "Hello."
    assert [it.model for it in around.calls] == ["scripted"]


@STREAM
async def test_telemetry_tells_of_its_calls_and_tools(desks: Desks, store: Store, stream: bool) -> None:
    seen = Exported()
    desk = desks(call("find", order="7"), "It is in Oslo.")
    output = await the_end(desk.ours(store, middleware=[seen.telemetry()]), "Where is 7?", session_id="s", stream=stream)
    assert seen.tree() == ["invoke_agent desk", "  chat scripted", "  execute_tool find", "  chat scripted"]
    assert seen.conversations() == {"s"}
    assert desks.protocol == "chat" or seen.one("invoke_agent desk")["gen_ai.usage.input_tokens"] == output.metrics.input_tokens
    assert "Oslo" not in seen.everything()


async def test_our_tools_instructions_and_middleware_come_on_top(desks: Desks, store: Store) -> None:
    done: list[str] = []

    @tool(confirm=True)
    def cancel_order(order: str, session: Session) -> str:
        """Cancel an order."""
        done.append(f"{session.id} {order}")
        return "cancelled"

    both = Answer(calls=(Call("find", {"order": "a"}), Call("cancel_order", {"order": "b"})))
    desk = desks(both, "Done.")
    agent = desk.ours(store, tools=[cancel_order], instructions="Be brief.", middleware=[Loud()])
    output = await agent.run("go", session_id="s")
    assert (output.status, output.requirements[0].call.name, desk.done) == ("paused", "cancel_order", ["find A"])
    output = await agent.continue_run(output, [output.requirements[0].approve()])
    assert (output.content, done) == ("Done.", ["s B"])
    assert await log(store) == ["Be brief.", "go", "find()", "cancel_order()", "=<order A>", "=<cancelled>", "Done."]
    first = desk.server.requests[0].body
    assert "Be brief." in str(first.get("instructions") or first.get("messages"))


async def test_a_context_of_the_session(desk: Desks, store: Store) -> None:
    @function_tool
    def whose(context: sdk.RunContextWrapper[Any]) -> str:
        return str(context.context)

    here = desk(call("whose"), "Ada's.")
    engine = AgentsEngine(here.agent(tools=[whose]), context=lambda session: session.user_id)
    await Agent(engine, store=store).run("whose?", session_id="s", user_id="ada")
    assert here.sent[-1] == ["whose?", "whose()", "=ada"]


async def test_what_the_sdk_would_not_take_notice_of_is_refused(desk: Desks, store: Store) -> None:
    member = Agent(ScriptedEngine("x"), name="member", store=store)
    team = Team(model=AgentsEngine(desk("never").agent()), name="team", members=[member], store=store)
    with pytest.raises(Unsupported, match="'delegate' runs another agent"):
        await team.run("hi", session_id="t")


async def test_a_guardrail_ends_the_run_as_an_error(desk: Desks, store: Store) -> None:
    @sdk.input_guardrail(run_in_parallel=False)
    async def never(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    agent = Agent(AgentsEngine(desk("never").agent(input_guardrails=[never])), store=store)
    for stream in (False, True):
        with pytest.raises(sdk.InputGuardrailTripwireTriggered):
            await the_end(agent, "hi", session_id="s", stream=stream)
    assert {run.status for run in await (await store.session("s")).runs()} == {"error"}
    assert await log(store) == ["hi", "hi"]


async def test_approval_inside_of_an_agent_that_is_a_tool_is_refused_by_name(desk: Desks, store: Store) -> None:
    here = desk()

    @function_tool(needs_approval=True)
    def refund() -> str:
        return "paid"

    inner = sdk.Agent(
        name="inner", model=ScriptedModel([[function_call("refund", {}, call_id="c1")], [assistant_message("x")]]), tools=[refund]
    )
    model = ScriptedModel([[function_call("ask_inner", {"input": "go"}, call_id="c2")], [assistant_message("x")]])
    outer = here.agent(model=model, tools=[inner.as_tool("ask_inner", "Ask.")])
    with pytest.raises(Unsupported, match="refund"):
        await Agent(AgentsEngine(outer), store=store).run("hi", session_id="s")


async def test_a_name_for_the_session_is_asked_of_the_model_alone(desk: Desks, store: Store) -> None:
    here = desk("Hello.", "A short greeting")
    agent = here.ours(store)
    await agent.run("hi", session_id="s")
    await agent.set_session_name("s", autogenerate=True)
    assert await agent.get_session_name("s") == "A short greeting"
    assert not here.server.requests[1].body.get("tools")
    assert await log(store) == ["hi", "Hello."]


async def test_a_run_that_nobody_reads_any_more_is_cancelled(desk: Desks, store: Store) -> None:
    here = desk(Answer(text="never to its end", halfway=threading.Event()))
    stream = here.ours(store).run("hi", session_id="s", stream=True)
    async for event in stream:
        if isinstance(event, TextDelta):
            break
    await stream.aclose()
    assert [run.status for run in await (await store.session("s")).runs()] == ["cancelled"]
