"""What a second caller, a second try or a second call under the same name must not do to the first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from holdfast import Agent, Message, SessionBusy, Store, Text, ToolCall, ToolResult
from holdfast.agents import Team
from holdfast.agents.history import valid
from holdfast.testing.model_server import Answer, call

from .conftest import Models, texts, there


async def test_a_cancelled_second_caller_leaves_the_first_alone(tmp_path: Path) -> None:
    """Both looked back before either had begun; the second waits for the claim, and gives up."""
    url = f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as mine, Store.open(url) as theirs:
        await mine.session("s")
        first, second = await mine.session("s"), await theirs.session("s")
        async with first.run(run_id="r") as run:

            async def again() -> None:
                it = type(run)(second, "r", None)
                await it.start((), wait=30)

            task = asyncio.create_task(again())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, SessionBusy)):
                await task
            await run.finish(Message("assistant", (Text("kept"),)))
        assert [(it.status, it.attempt) for it in await (await mine.session("s")).runs()] == [("completed", 1)]


async def test_calls_numbered_anew_in_each_answer(memory: Store) -> None:
    done: list[int] = []

    def pay(n: int) -> str:
        """Pay."""
        done.append(n)
        return f"paid {n}"

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        number = sum(isinstance(it, ModelResponse) for it in messages) + 1
        return ModelResponse(parts=[ToolCallPart("pay", {"n": number}, tool_call_id="call_0") if number < 3 else TextPart("ok")])

    agent = Agent(FunctionModel(answer), tools=[pay], store=memory)
    await agent.run("go", session_id="s")
    assert (done, await texts(await there(agent, "s"))) == ([1, 2], ["go", "pay()", "=paid 1", "pay()", "=paid 2", "ok"])


def test_a_lost_result_is_not_made_up_of_a_later_one() -> None:
    asked = [Message("assistant", (ToolCall("pay", "call_0", {"x": x}),)) for x in (1, 2)]
    answers = [it.parts[0] for it in valid([asked[0], asked[1], Message("tool", (ToolResult("paid 2", "call_0"),))]) if it.role == "tool"]
    assert [str(it.response)[:9] for it in answers if isinstance(it, ToolResult)] == ["No result", "paid 2"]


async def test_a_member_forgets_what_its_team_has_deleted(chat: Models, memory: Store) -> None:
    seen: list[str] = []

    def member(request: Any) -> str:
        seen.append(str(request.input))
        return "noted"

    told, asked = (call("delegate", member="x", task=task) for task in ("my secret is 42", "what do you know?"))
    model = chat.model(chat.serve([told, "ok", asked, "ok"]))
    team = Team(model, members=[chat.agent(member, name="x")], store=memory)
    await team.run("go", session_id="s")
    session = await memory.get("s")
    assert session is not None
    await session.delete()
    await team.run("go", session_id="s")
    assert "secret" in seen[0]
    assert "secret" not in seen[1]


async def test_metrics_of_a_run_are_of_all_its_tries(chat: Models, memory: Store) -> None:
    def look() -> str:
        return "seen"

    agent = chat.agent([call("look"), Answer(status=400), "ok"], store=memory, tools=[look])
    with pytest.raises(Exception, match="400"):
        await agent.run("go", session_id="s", run_id="r")
    output = await agent.run("go", session_id="s", run_id="r")
    session = await there(agent, "s")
    (run,), counts = await session.runs(), session.info.counts
    assert (output.metrics, output.metrics.tool_calls, output.metrics.model_calls) == (run.metrics, 1, 2)
    assert (run.metrics.input_tokens, run.metrics.output_tokens) == (counts.input_tokens, counts.output_tokens)
