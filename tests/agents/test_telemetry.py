"""Telemetry: which spans a run has, what is told in them, and what never is."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models.instrumented import InstrumentationSettings

from holdfast import InvalidValue, Store
from holdfast.agents import Agent, History, Parallel, Step, StepInput, Summaries, Team, ToolInvocation, Workflow, tool
from holdfast.agents.history import results_of
from holdfast.agents.telemetry import Telemetry
from holdfast.sync import Agent as BlockingAgent
from holdfast.sync import Store as BlockingStore
from holdfast.testing.model_server import Answer, Call, ModelServer, call

from ..exported import Exported, id_of
from .conftest import Models, ended

BOTH = pytest.mark.parametrize("stream", [False, True])
SECRET = "SECRET"


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> Generator[Exported]:
    """At its end no context was let go of elsewhere, and no attribute had a type that can't be told: the API logs both."""
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        yield Exported()
    assert [it.getMessage() for it in caplog.records if it.name.startswith("opentelemetry")] == []


def find_order(order_id: str) -> str:
    """Find an order by its number."""
    return f"Order {order_id} is in Leipzig."


# --- one agent -------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_run_is_a_tree_of_spans(models: Models, store: Store, seen: Exported, stream: bool) -> None:
    server = models.serve([call("find_order", order_id="1007"), "In Leipzig."])
    agent = models.agent(server, name="desk", tools=[find_order], store=store, middleware=[seen.telemetry()])
    reply = await ended(agent, "Where is it?", stream=stream, session_id="s")
    assert seen.tree() == ["invoke_agent desk", "  chat scripted", "  execute_tool find_order", "  chat scripted"]
    assert {it.name: it.kind for it in seen.spans} == {
        "invoke_agent desk": SpanKind.INTERNAL,
        "chat scripted": SpanKind.CLIENT,
        "execute_tool find_order": SpanKind.INTERNAL,
    }
    common = {"gen_ai.conversation.id": "s", "holdfast.run.id": reply.run_id, "gen_ai.agent.name": "desk"}
    assert seen.one("execute_tool find_order") == common | {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "find_order",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": results_of(reply.messages[2])[0].id,
    }
    first, last = seen.named("chat scripted")
    assert last.pop("gen_ai.response.id")
    assert last == common | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "holdfast-scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": last["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": last["gen_ai.usage.output_tokens"],
    } | ({"gen_ai.request.stream": True} if stream else {})
    assert seen.one("invoke_agent desk") == common | {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.usage.input_tokens": reply.metrics.input_tokens,
        "gen_ai.usage.output_tokens": reply.metrics.output_tokens,
        "holdfast.run.status": "completed",
        "holdfast.run.attempt": 1,
    }
    assert first["gen_ai.usage.input_tokens"] + last["gen_ai.usage.input_tokens"] == reply.metrics.input_tokens > 0


async def test_the_conversation_is_the_session_in_every_turn(chat: Models, memory: Store, seen: Exported) -> None:
    agent = chat.agent(["one", "two"], store=memory, middleware=[seen.telemetry(users=True)])
    for _ in range(2):
        await agent.run("hi", session_id="s", user_id="ada")
    assert {it["gen_ai.conversation.id"] for it in seen.named("invoke_agent") + seen.named("chat scripted")} == {"s"}
    assert [it["holdfast.user.id"] for it in seen.named("invoke_agent")] == ["ada", "ada"]


async def test_what_is_asked_for_a_name_or_a_summary_is_told_of_and_belongs_to_no_run(chat: Models, memory: Store, seen: Exported) -> None:
    history = History(summaries=Summaries(keep=1))
    answers = ["one", "two", "What was said.", "A talk"]
    agent = chat.agent(answers, name="desk", store=memory, history=history, middleware=[seen.telemetry()])
    replies = [await agent.run("hi", session_id="s") for _ in range(2)]
    assert await agent.compact("s") == "What was said."
    assert (await agent.set_session_name("s", autogenerate=True)).info.name == "A talk"
    *runs, summary, name = seen.named("chat scripted")
    assert [it["holdfast.run.id"] for it in runs] == [it.run_id for it in replies]
    for it, purpose in ((summary, "summary"), (name, "name")):
        assert it["holdfast.purpose"] == purpose
        assert it["gen_ai.conversation.id"] == "s"
        assert it["gen_ai.agent.name"] == "desk"
        assert it["gen_ai.usage.input_tokens"] > 0
        assert "holdfast.run.id" not in it
    assert [it["gen_ai.usage.input_tokens"] for it in seen.named("invoke_agent desk")] == [it.metrics.input_tokens for it in replies]
    assert seen.tree() == [*["invoke_agent desk", "  chat scripted"] * 2, "chat scripted", "chat scripted"]
    (calls,) = seen.points()["gen_ai.client.operation.duration"]
    assert calls.count == 4


async def test_a_summary_that_is_made_after_its_run_is_not_counted_to_it(chat: Models, memory: Store, seen: Exported) -> None:
    history = History(summaries=Summaries(after=1, keep=1))
    agent = chat.agent(["one", "two", "What was said."], store=memory, history=history, middleware=[seen.telemetry()])
    replies = [await agent.run("hi", session_id="s") for _ in range(2)]
    async with asyncio.timeout(10):
        while await agent.get_session_summary("s") is None:  # noqa: ASYNC110  # it is made in the background
            await asyncio.sleep(0.02)
    assert [it["gen_ai.usage.input_tokens"] for it in seen.named("invoke_agent")] == [it.metrics.input_tokens for it in replies]
    assert [it.get("holdfast.purpose") for it in seen.named("chat scripted")] == [None, None, "summary"]


async def test_what_the_store_does_for_a_run_is_under_it(chat: Models, memory: Store, seen: Exported) -> None:
    """From the first commit to the last."""
    agent = chat.agent(["one"], name="desk", store=seen.traced(memory), middleware=[seen.telemetry()])
    await agent.run("hi", session_id="s")
    assert seen.tree(but="-") == ["invoke_agent desk", "  holdfast.commit", "  chat scripted", "  holdfast.commit"]


@BOTH
async def test_nothing_that_was_said_is_told(models: Models, memory: Store, seen: Exported, stream: bool) -> None:
    """Not in a name, an attribute, an event or a status, whatever happens; nor who said it."""

    async def lookup(word: str) -> str:
        """Look up."""
        if word.endswith("again"):
            raise ValueError(f"{SECRET} text of an error")
        return f"{SECRET} result"

    server = models.serve([call("lookup", word=f"{SECRET}-1"), call("lookup", word=f"{SECRET} again"), f"{SECRET} answer"])
    refused = {"error": {"message": f"{SECRET} refused", "type": "x", "code": SECRET}}
    failing = models.serve([Answer(status=400, raw=refused)])
    store = seen.traced(memory)
    common: dict[str, Any] = {"instructions": f"{SECRET} instructions", "tools": [lookup], "store": store, "middleware": [seen.telemetry()]}
    agent = Agent(models.model(server), **common)
    await ended(agent, f"{SECRET} question", stream=stream, session_id="s", user_id=f"{SECRET}-user")
    with pytest.raises(Exception, match=SECRET) as caught:
        await ended(Agent(models.impatient(failing), **common), f"{SECRET} question", stream=stream, session_id="t")
    refusal = type(caught.value).__qualname__
    assert seen.errors() == {"execute_tool lookup": "ValueError", "invoke_agent": refusal, "chat scripted": refusal}
    assert SECRET not in seen.everything()


# --- content ---------------------------------------------------------------------------------------------------------

REQUIRED = {
    "text": {"content": str},
    "reasoning": {"content": str},
    "tool_call": {"name": str, "arguments": dict},
    "tool_call_response": {"response": object},
}


def checked(told: str, *, output: bool = False) -> list[dict[str, Any]]:
    """Messages as the schema wants them: role and parts, each part with what its type requires."""
    messages: list[dict[str, Any]] = json.loads(told)
    for it in messages:
        assert it["role"] in ("system", "user", "assistant", "tool")
        assert not output or it["finish_reason"] in ("stop", "tool_call")
        assert it.keys() <= {"role", "parts", "name", "finish_reason"}
        for part in it["parts"]:
            assert all(isinstance(part[name], kind) for name, kind in REQUIRED[part["type"]].items()), part
    return messages


@BOTH
async def test_what_was_said_is_told_where_it_is_asked_for(models: Models, memory: Store, seen: Exported, stream: bool) -> None:
    server = models.serve([call("find_order", order_id="1007"), "In Leipzig."])
    agent = models.agent(server, instructions="Be short.", tools=[find_order], store=memory, middleware=[seen.telemetry(content=True)])
    await ended(agent, "Where?", stream=stream, session_id="s")
    first, last = seen.named("chat scripted")
    assert json.loads(first["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be short."}]
    assert [it["role"] for it in checked(last["gen_ai.input.messages"])] == ["user", "assistant", "tool"]
    (asked,) = checked(first["gen_ai.output.messages"], output=True)
    assert asked["parts"][0]["arguments"] == {"order_id": "1007"}
    done = seen.one("execute_tool find_order")
    assert json.loads(done["gen_ai.tool.call.arguments"]) == {"order_id": "1007"}
    assert json.loads(done["gen_ai.tool.call.result"]) == "Order 1007 is in Leipzig."
    run = seen.one("invoke_agent")
    assert checked(run["gen_ai.input.messages"])[0]["parts"] == [{"type": "text", "content": "Where?"}]
    assert checked(run["gen_ai.output.messages"], output=True)[0]["parts"] == [{"type": "text", "content": "In Leipzig."}]


@pytest.mark.parametrize(
    "result", [{(1, 2): "x"}, {"deep": {frozenset({1}): 1}}, object(), "\ud800"], ids=["key", "deep", "object", "text"]
)
async def test_a_result_that_is_no_json_harms_nobody(memory: Store, seen: Exported, result: Any) -> None:
    made = ToolInvocation(memory.handle("s"), "r", "c", "odd", {})

    async def give() -> None:
        made.result = result

    await seen.telemetry(content=True).on_tool_call(made, give)
    assert isinstance(json.loads(seen.one("execute_tool odd")["gen_ai.tool.call.result"]), str | dict)
    assert seen.errors() == {}


# --- how runs end ----------------------------------------------------------------------------------------------------


async def test_a_stream_that_breaks_is_told_by_its_error(models: Models, memory: Store, seen: Exported) -> None:
    """Around the model call it is only a cancellation."""
    server = models.serve([Answer(text="a long answer that breaks off in its middle", cut=True)])
    agent = Agent(models.impatient(server), store=memory, middleware=[seen.telemetry()])
    with pytest.raises(ModelAPIError) as caught:
        await agent.run("hi", session_id="s", stream=True).output()
    assert seen.errors() == dict.fromkeys(["invoke_agent", "chat scripted"], type(caught.value).__qualname__)
    assert seen.one("invoke_agent")["holdfast.run.status"] == "error"


@BOTH
async def test_a_run_that_is_cancelled_is_no_error(chat: Models, memory: Store, seen: Exported, stream: bool) -> None:
    begun = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        begun.set()
        await asyncio.sleep(60)
        return "never"

    agent = chat.agent([call("wait")], tools=[wait], store=memory, middleware=[seen.telemetry()])
    async with asyncio.timeout(10):
        if stream:
            async with agent.run("hi", session_id="s", stream=True) as events:
                await anext(events)
                await begun.wait()
        else:
            task = asyncio.create_task(agent.run("hi", session_id="s"))
            await begun.wait()
            task.cancel()
            await asyncio.wait({task})
    assert seen.one("invoke_agent")["holdfast.run.status"] == "cancelled"
    assert seen.one("execute_tool wait")["holdfast.cancelled"] is True
    assert seen.errors() == {}
    assert [point.attributes.get("error.type") for point in seen.points()["gen_ai.invoke_agent.duration"]] == [None]


RESUMES = """
import asyncio, sys
from tests.agents.test_telemetry import Exported, desk
from holdfast import Store
from holdfast.testing.model_server import ModelServer

async def main(path, base_url, run_id):
    seen = Exported()
    async with Store.open(path) as store:
        agent = desk(base_url, store, seen)
        (requirement,) = await (await store.get("s")).requirements()
        await agent.continue_run(run_id, [requirement.approve()], session_id="s")
    told = seen.one("invoke_agent desk")
    print(told["gen_ai.conversation.id"], told["holdfast.run.id"], told["holdfast.run.status"], told["holdfast.run.attempt"])
    print("; ".join(seen.tree()))

asyncio.run(main(*sys.argv[1:]))
"""


@tool(confirm=True)
def refund(order_id: str) -> str:
    """Pay an order back."""
    return f"paid {order_id}"


def desk(base_url: str, store: Store, seen: Exported) -> Agent:
    from holdfast.models import OpenAIChat

    model = OpenAIChat(id="scripted", base_url=base_url, api_key="none")
    return Agent(model, name="desk", tools=[refund], store=store, middleware=[seen.telemetry()])


async def test_a_run_that_pauses_goes_on_in_another_process_under_the_same_ids(tmp_path: Path, seen: Exported) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    with ModelServer([call("refund", order_id="7"), "Done."]) as server:
        async with Store.open(url) as store:
            paused = await desk(server.base_url, store, seen).run("Refund!", session_id="s")
        told = seen.one("invoke_agent desk")
        assert (paused.status, told["holdfast.run.status"], seen.errors()) == ("paused", "paused", {})
        assert seen.tree() == ["invoke_agent desk", "  chat scripted"]
        command = [sys.executable, "-c", RESUMES, url, server.base_url, paused.run_id]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.stdout.splitlines() == [
        f"s {paused.run_id} completed 1",
        "invoke_agent desk;   execute_tool refund;   chat scripted",
    ], ended.stderr


async def test_a_call_that_waits_is_no_error(chat: Models, memory: Store, seen: Exported) -> None:
    """A member's, whose run pauses, and one that somebody else executes."""

    @tool(external=True)
    def ship(order_id: str) -> str:
        """Ship."""
        raise AssertionError

    told: dict[str, Any] = {"store": memory, "middleware": [seen.telemetry()]}
    member = chat.agent(
        [Answer(calls=(Call("refund", {"order_id": "7"}), Call("ship", {"order_id": "7"})))], name="a", tools=[refund, ship], **told
    )
    team = Team(chat.model(chat.serve([call("delegate", member="a", task="pay")])), members=[member], name="lead", **told)
    assert (await team.run("Refund!", session_id="s")).status == "paused"
    assert seen.errors() == {}
    assert seen.one("execute_tool delegate")["holdfast.waits"] is True
    assert [seen.one(f"invoke_agent {name}")["holdfast.run.status"] for name in ("lead", "a")] == ["paused", "paused"]


async def test_a_run_that_is_cancelled_from_elsewhere_is_no_error(chat: Models, memory: Store, seen: Exported) -> None:
    begun = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        begun.set()
        await asyncio.sleep(60)
        return "never"

    agent = chat.agent([call("wait")], tools=[wait], store=memory, middleware=[seen.telemetry()])
    async with asyncio.timeout(10):
        stream = agent.run("hi", session_id="s", run_id="r", stream=True, detached=True, lease=0.6)
        await anext(stream)
        await begun.wait()
        assert await agent.cancel_run("r", "s")
        assert (await stream.output()).status == "cancelled"
    assert (seen.one("invoke_agent")["holdfast.run.status"], seen.errors()) == ("cancelled", {})


async def test_a_run_that_is_there_already_asks_nobody(chat: Models, memory: Store, seen: Exported) -> None:
    agent = chat.agent(["one"], store=memory, middleware=[seen.telemetry()])
    for _ in range(2):
        await agent.run("hi", session_id="s", run_id="r")
    assert seen.tree() == ["invoke_agent", "  chat scripted", "invoke_agent"]
    assert [it["holdfast.run.status"] for it in seen.named("invoke_agent")] == ["completed", "completed"]


async def test_another_try_is_another_attempt_of_the_same_run(chat: Models, memory: Store, seen: Exported) -> None:
    server = chat.serve([Answer(status=400), "Now."])
    agent = Agent(chat.impatient(server), store=memory, middleware=[seen.telemetry()])
    with pytest.raises(Exception, match="400"):
        await agent.run("hi", session_id="s", run_id="r")
    await agent.run("hi", session_id="s", run_id="r")
    runs = seen.named("invoke_agent")
    assert [(it["holdfast.run.id"], it["holdfast.run.attempt"], it["holdfast.run.status"]) for it in runs] == [
        ("r", 1, "error"),
        ("r", 2, "completed"),
    ]


# --- together --------------------------------------------------------------------------------------------------------


async def test_tools_at_the_same_time_each_have_their_own_below_them(models: Models, memory: Store, seen: Exported) -> None:
    tracer, both = seen.tracers.get_tracer("mine"), asyncio.Barrier(2)

    async def meet(name: str) -> str:
        """Meet the other."""
        async with asyncio.timeout(5):
            await both.wait()
        with tracer.start_as_current_span(f"inside {name}"):
            return name

    def plain(name: str) -> str:
        """In a thread."""
        with tracer.start_as_current_span(f"inside {name}"):
            return name

    calls = Answer(calls=(Call("meet", {"name": "a"}), Call("meet", {"name": "b"}), Call("plain", {"name": "c"})))
    agent = models.agent([calls, "Met."], tools=[meet, plain], store=memory, middleware=[seen.telemetry()])
    await agent.run("hi", session_id="s")
    below = {id_of(it): it for it in seen.spans}
    inside = {it.name: below[it.parent.span_id] for it in seen.spans if it.name.startswith("inside") and it.parent}
    assert {name: it.name for name, it in inside.items()} == {
        "inside a": "execute_tool meet",
        "inside b": "execute_tool meet",
        "inside c": "execute_tool plain",
    }
    assert len({id_of(it) for it in inside.values()}) == 3
    assert {below[it.parent.span_id].name for it in inside.values() if it.parent} == {"invoke_agent"}
    assert not trace.get_current_span().is_recording()


@pytest.mark.parametrize("share", [False, True])
async def test_members_are_under_the_call_that_runs_them(chat: Models, memory: Store, seen: Exported, share: bool) -> None:
    """Also two at the same time; a member's conversation is the session it has."""
    both = asyncio.Barrier(2)

    async def meet() -> str:
        """Meet the other."""
        async with asyncio.timeout(5):
            await both.wait()
        return "met"

    told: dict[str, Any] = {"store": memory, "middleware": [seen.telemetry()]}
    members = [chat.agent([call("meet"), "Here."], name=name, tools=[meet], **told) for name in ("a", "b")]
    calls = Answer(calls=tuple(Call("delegate", {"member": name, "task": "go"}) for name in ("a", "b")))
    team = Team(chat.model(chat.serve([calls, "Both."])), members=members, name="lead", share_session=share, **told)
    await team.run("go", session_id="s")
    tree = seen.tree()
    below = ["      chat scripted", "      execute_tool meet", "      chat scripted"]
    parts = {name: ["  execute_tool delegate", f"    invoke_agent {name}", *below] for name in ("a", "b")}
    either = [["invoke_agent lead", "  chat scripted", *parts[x], *parts[y], "  chat scripted"] for x, y in ("ab", "ba")]
    assert tree in either
    names = {"s"} if share else {"s", "s/a", "s/b"}
    assert seen.conversations() == names
    assert len({it.context.trace_id for it in seen.spans if it.context}) == 1


async def test_where_a_conversation_is_handed_over_calls_tell_who_has_it(chat: Models, memory: Store, seen: Exported) -> None:
    member = Agent(chat.model(chat.serve(["Which order?"])), name="billing")
    leader = chat.model(chat.serve([call("hand_over", agent="billing")]))
    team = Team(leader, members=[member], name="desk", mode="handoff", store=memory, middleware=[seen.telemetry()])
    await team.run("My money!", session_id="s")
    assert seen.tree() == ["invoke_agent desk", "  chat scripted", "  execute_tool hand_over", "  chat scripted"]
    assert [it["gen_ai.agent.name"] for it in seen.named("chat scripted")] == ["desk", "billing"]
    assert seen.conversations() == {"s"}


async def test_a_workflow_s_steps_are_under_it(chat: Models, memory: Store, seen: Exported) -> None:
    telemetry = seen.telemetry(content=True)
    writer = chat.agent(["a text"], name="writer", store=memory, middleware=[telemetry])

    def number(given: StepInput) -> str:
        return given.input.split()[-1]

    async def price(given: StepInput) -> int:
        return 20

    flow = Workflow([number, Parallel(price, Step(writer))], name="labels", store=memory, middleware=[telemetry])
    reply = await flow.run("Label for 1007", session_id="s")
    assert sorted(seen.tree()) == sorted(
        ["invoke_workflow labels", "  step number", "  step price", "  step writer", "    invoke_agent writer", "      chat scripted"]
    )
    assert seen.tree()[:2] == ["invoke_workflow labels", "  step number"]
    assert seen.one("step price") == {
        "gen_ai.workflow.name": "labels",
        "holdfast.step.name": "price",
        "holdfast.step.path": "parallel/price",
        "gen_ai.conversation.id": "s",
        "holdfast.run.id": reply.run_id,
        "gen_ai.tool.call.arguments": "{}",
        "gen_ai.tool.call.result": "20",
    }
    told = seen.one("invoke_workflow labels")
    assert (told["gen_ai.operation.name"], told["gen_ai.workflow.name"]) == ("invoke_workflow", "labels")
    assert {"gen_ai.invoke_workflow.duration", "gen_ai.invoke_agent.duration", "holdfast.step.duration"} <= seen.points().keys()


async def test_a_step_that_fails_or_waits(memory: Store, seen: Exported) -> None:
    def broken(given: StepInput) -> str:
        raise ConnectionError(SECRET)

    flow = Workflow([Step(broken, name="post", confirm=True)], name="post", store=memory, middleware=[seen.telemetry()])
    paused = await flow.run("x", session_id="s")
    assert (seen.tree(), seen.errors()) == (["invoke_workflow post"], {})
    with pytest.raises(ConnectionError):
        await flow.continue_run(paused, [paused.requirements[0].approve()])
    assert seen.errors() == {"invoke_workflow post": "ConnectionError", "step post": "ConnectionError"}
    assert SECRET not in seen.everything()


async def test_a_workflow_with_an_agent_in_front_has_its_middleware(chat: Models, memory: Store, seen: Exported) -> None:
    def number(given: StepInput) -> str:
        return given.input

    model = chat.model(chat.serve([call("run_workflow", input="7"), "Seven."]))
    flow = Workflow([number], name="flow", agent=model, store=memory, middleware=[seen.telemetry()])
    assert (await flow.run("hi", session_id="s")).content == "Seven."
    assert seen.tree() == [
        "invoke_agent flow",
        "  chat scripted",
        "  execute_tool run_workflow",
        "    invoke_workflow flow",
        "      step number",
        "  chat scripted",
    ]


async def test_middleware_may_change_what_a_step_gives(memory: Store) -> None:
    """A step is a call like a tool's: its content is the result."""

    class Twice(Telemetry):
        async def on_tool_call(self, call: Any, call_next: Callable[[], Any]) -> None:
            await call_next()
            call.result = call.result * 2

    async def three(given: StepInput) -> int:
        return 3

    assert (await Workflow([three], store=memory, middleware=[Twice()]).run("x", session_id="s")).content == 6


async def test_the_engine_s_own_instrumentation_has_the_same_ids(chat: Models, memory: Store, seen: Exported) -> None:
    settings = InstrumentationSettings(tracer_provider=seen.tracers, meter_provider=seen.meters, include_content=False)
    inner: Any = PydanticAgent(chat.impatient(chat.serve(["one"])), name="inner", capabilities=[Instrumentation(settings=settings)])
    reply = await Agent(inner, name="desk", store=memory, middleware=[seen.telemetry()]).run("hi", session_id="s")
    assert seen.conversations() == {"s"}
    assert seen.tree()[:2] == ["invoke_agent desk", "  invoke_agent inner"]
    assert reply.run_id == seen.one("invoke_agent desk")["holdfast.run.id"]


def test_a_blocking_agent_is_told_of_under_its_caller(chat: Models, seen: Exported) -> None:
    store = BlockingStore.open("memory://").traced(tracer_provider=seen.tracers)
    agent = BlockingAgent(chat.model(chat.serve(["one", "two"])), name="desk", store=store, middleware=[seen.telemetry()])
    with seen.tracers.get_tracer("mine").start_as_current_span("request"):
        agent.run("hi", session_id="s")
        assert len(list(agent.run("hi", session_id="s", stream=True))) > 2
    run = ["  invoke_agent desk", "    holdfast.commit", "    chat scripted", "    holdfast.commit"]
    assert seen.tree(but="-") == ["request", *run, *run]


# --- metrics ---------------------------------------------------------------------------------------------------------


async def test_metrics_have_the_conventions_attributes_and_no_ids(chat: Models, memory: Store, seen: Exported) -> None:
    server = chat.serve([call("find_order", order_id="7"), "There."])
    agent = chat.agent(server, name="desk", tools=[find_order], store=memory, middleware=[seen.telemetry(users=True, content=True)])
    reply = await agent.run("hi", session_id="a-session", user_id="ada")
    points = seen.points()
    called = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "scripted"}
    called["gen_ai.response.model"] = "holdfast-scripted"
    (calls,) = points["gen_ai.client.operation.duration"]
    assert (dict(calls.attributes), calls.count, calls.explicit_bounds[0]) == (called, 2, 0.01)
    tokens = {point.attributes["gen_ai.token.type"]: point for point in points["gen_ai.client.token.usage"]}
    assert {kind: (it.sum, it.count) for kind, it in tokens.items()} == {
        "input": (reply.metrics.input_tokens, 2),
        "output": (reply.metrics.output_tokens, 2),
    }
    assert tokens["input"].explicit_bounds[:3] == (1, 4, 16)
    (runs,), (tools,) = points["gen_ai.invoke_agent.duration"], points["gen_ai.execute_tool.duration"]
    assert runs.attributes.keys() == {"gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.provider.name", "gen_ai.request.model"}
    assert tools.attributes["gen_ai.tool.name"] == "find_order"
    (span,) = [it for it in seen.spans if it.name == "invoke_agent desk"]
    assert runs.sum == pytest.approx(((span.end_time or 0) - (span.start_time or 0)) / 1e9, abs=0.01)
    values = {str(value) for found in points.values() for point in found for value in point.attributes.values()}
    assert values & {"a-session", "ada", reply.run_id} == set()


async def test_middleware_around_a_run_has_to_let_it_run(chat: Models, memory: Store) -> None:
    class Silent(Telemetry):
        async def on_invocation(self, invocation: Any, call_next: Callable[[], Any]) -> None:
            return None

    with pytest.raises(ValueError, match="call_next"):
        await chat.agent([], store=memory, middleware=[Silent()]).run("hi", session_id="s")
    assert await memory.get("s") is None
    with pytest.raises(InvalidValue, match=r"Telemetry\(\)"):
        chat.agent([], store=memory, middleware=[Telemetry])


def test_without_telemetry_nothing_of_it_is_imported() -> None:
    code = "import sys, holdfast.agents; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
