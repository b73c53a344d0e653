"""One run: what it gives, what it stores, in how many requests, and what is left of it when it goes wrong."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError

from holdfast import (
    HoldfastError,
    InvalidId,
    InvalidValue,
    Session,
    Store,
    assistant,
    user,
)
from holdfast.agents import Agent
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, call

from .conftest import Counting, Models, ended, only_run, sent, statuses, texts, there, until

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def echo(request: Request) -> str:
    return f"{len(request.input)} heard"


# --- what it gives and stores ----------------------------------------------------------------------------------------


@BOTH
async def test_a_conversation_goes_on(models: Models, store: Store, stream: bool) -> None:
    agent = models.agent(["hello Ada", "it is Ada"], store=store, name="desk")
    first = await ended(agent, "I am Ada", session_id="s", user_id="ada", stream=stream)
    second = await ended(agent, "my name?", session_id="s", user_id="ada", stream=stream)
    assert (first.content, second.content, str(second)) == ("hello Ada", "it is Ada", "it is Ada")
    assert sent(models.requests[1]) == ["I am Ada", "hello Ada", "my name?"]
    assert (second.session_id, second.user_id, second.agent, second.status) == ("s", "ada", "desk", "completed")
    session = await there(agent, "s", "ada")
    assert await texts(session) == ["I am Ada", "hello Ada", "my name?", "it is Ada"]
    assert [run.id for run in await session.runs()] == [first.run_id, second.run_id]
    assert await statuses(session) == ["completed", "completed"]
    assert session.info.agent == "desk"


@BOTH
async def test_a_run_tells_what_it_used(models: Models, store: Store, stream: bool) -> None:
    def look() -> str:
        return "nothing"

    agent = models.agent([call("look"), "nothing there"], store=store, tools=[look])
    output = await ended(agent, "look", session_id="s", stream=stream)
    used = output.metrics
    assert (used.model_calls, used.tool_calls) == (2, 1)
    assert used.output_tokens > 0
    assert used.seconds > 0
    session = await there(agent, "s")
    assert (await only_run(session)).metrics == used
    counts = session.info.counts
    assert (counts.runs, counts.messages, counts.input_tokens, counts.output_tokens) == (1, 4, used.input_tokens, used.output_tokens)
    assert [message.role for message in output.messages] == ["user", "assistant", "tool", "assistant"]


async def test_the_input_is_there_before_the_model_is_asked(models: Models, store: Store) -> None:
    seen: list[Any] = []
    loop = asyncio.get_running_loop()

    async def look() -> None:
        session = await there(agent, "s")
        seen.extend([await texts(session), await statuses(session)])

    def answer(request: Request) -> str:
        asyncio.run_coroutine_threadsafe(look(), loop).result(5)
        return "ok"

    agent = models.agent(answer, store=store)
    await agent.run("are you there?", session_id="s")
    assert seen == [["are you there?"], ["running"]]


async def test_generated_ids(chat: Models) -> None:
    agent = chat.agent(echo)
    one, two = await agent.run("a"), await agent.run("b")
    assert one.session_id != two.session_id
    assert one.run_id != two.run_id
    fixed = chat.agent(echo, session_id="mine")
    assert {(await fixed.run("a")).session_id, (await fixed.run("b")).session_id} == {"mine"}
    assert (await fixed.run("c", session_id="other")).session_id == "other"
    assert [request.input for request in chat.servers[1].requests][1][0]["content"] == "a"


async def test_input_may_be_messages(models: Models, memory: Store) -> None:
    agent = models.agent(["yes", "again"], store=memory)
    await agent.run([user("one"), assistant("two"), user("three")], session_id="s")
    await agent.run(user("four"), session_id="s")
    assert sent(models.requests[0]) == ["one", "two", "three"]
    assert sent(models.requests[1]) == ["one", "two", "three", "yes", "four"]


@BOTH
@pytest.mark.parametrize("instructions", [None, "Be brief."])
async def test_an_input_that_ends_with_the_assistants_words_is_gone_on_from(
    models: Models, memory: Store, stream: bool, instructions: str | None
) -> None:
    agent = models.agent([Answer(status=400), "42", "again"], store=memory, instructions=instructions)
    given = [user("how much?"), assistant("It is ")]
    with pytest.raises(ModelHTTPError, match="400"):
        await ended(agent, given, stream=stream, session_id="s", run_id="r")
    done = await ended(agent, given, stream=stream, session_id="s", run_id="r")
    assert (done.content, done.metrics.model_calls, [it.text for it in done.messages]) == ("42", 1, ["how much?", "It is ", "42"])
    await agent.run("more", session_id="s")
    assert [sent(it) for it in models.requests] == [["how much?", "It is "]] * 2 + [["how much?", "It is ", "42", "more"]]


async def test_instructions_are_sent_shown_and_stored_once(models: Models, memory: Store) -> None:
    def by_state(session: Session) -> str:
        return f"speak {session.get('language', 'English')}"

    async def later() -> str:
        return "be brief"

    server = models.serve(["a", "b", "c", "d"])
    for instructions in ("be kind", by_state, later, None):
        await models.agent(server, store=memory, instructions=instructions).run("hi", session_id="s")
    found = [_instructions(request) for request in server.requests]
    assert found == ["be kind", "speak English", "be brief", None]
    session = await memory.session("s")
    assert await texts(session) == ["be kind", "hi", "a", "speak English", "hi", "b", "be brief", "hi", "c", "hi", "d"]


def _instructions(request: Request) -> str | None:
    systems = [item["content"] for item in request.input if item.get("role") in ("system", "developer")]
    return request.body.get("instructions") or (systems[0] if systems else None)


async def test_huge_input_is_kept_whole(models: Models, memory: Store) -> None:
    agent = models.agent(["ok", "still"], store=memory)
    huge = "naïve \U0001f600 \x00 " * 50_000
    await agent.run(huge, session_id="s")
    assert models.requests[0].input[-1]["content"] == huge
    assert (await texts(await there(agent, "s")))[0] == huge


async def test_no_history_where_none_is_wanted(chat: Models, store: Store) -> None:
    agent = chat.agent(["a", "b"], store=store, add_history_to_context=False)
    await agent.run("one", session_id="s")
    await agent.run("two", session_id="s")
    assert sent(chat.requests[1]) == ["two"]
    assert await texts(await there(agent, "s")) == ["one", "a", "two", "b"]


async def test_a_session_can_be_given_as_an_object(models: Models, store: Store) -> None:
    agent = models.agent(["a", "b"], store=store)
    session = agent.create_session("mine", user_id="ada")
    assert not await store.has("mine", user_id="ada")
    await agent.run("one", session=session)
    await agent.runner.run(agent, session, "two")
    assert (session.version, await texts(session)) == (4, ["one", "a", "two", "b"])


# --- requests to the store -------------------------------------------------------------------------------------------


@BOTH
async def test_a_turn_is_two_requests(models: Models, counting: Counting, counted: Store, stream: bool) -> None:
    agent = models.agent(echo, store=counted, instructions="be kind")
    for _ in range(3):
        counting.made.clear()
        await ended(agent, "hi", session_id="s", user_id="ada", stream=stream)
        assert counting.made == ["commit", "commit"]


async def test_a_tool_is_two_more_and_a_batch_one_for_each_result(models: Models, counting: Counting, counted: Store) -> None:
    def look(n: int) -> int:
        return n

    three = Answer(calls=tuple(Call("look", {"n": n}) for n in range(3)))
    agent = models.agent([call("look", n=1), "ok", three, "ok"], store=counted, tools=[look])
    await agent.run("hi", session_id="s")
    assert counting.made == ["commit"] * 4
    counting.made.clear()
    await agent.run("hi", session_id="s")
    assert counting.made == ["commit"] * 6


async def test_a_turn_is_two_requests_after_many(chat: Models, counting: Counting, counted: Store) -> None:
    session = await counted.session("s")
    for _ in range(40):
        await session.append(*(message for n in range(25) for message in (user(f"q{n}"), assistant(f"a{n}"))))
    counting.made.clear()
    await chat.agent(["ok"], store=counted).run("hi", session_id="s")
    assert counting.made == ["commit", "commit"]


# --- what goes wrong before anything is written ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", [], [""], None, 5, b"hi", ["hi"], {"role": "user"}, [user("hi"), "x"], user(""), [user("")]])
async def test_bad_input_is_refused_before_anything_happens(chat: Models, counting: Counting, counted: Store, bad: Any) -> None:
    agent = chat.agent(echo, store=counted)
    with pytest.raises(InvalidValue):
        await agent.run(bad, session_id="s")
    with pytest.raises(InvalidValue):
        await agent.run(bad, session_id="s", stream=True).output()
    assert (counting.count, chat.requests) == (0, [])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"session_id": ""}, "session"),
        ({"session_id": "a\nb"}, "session"),
        ({"session_id": 7}, "session"),
        ({"session_id": "x" * 2000}, "session"),
        ({"session": "s"}, "session_id='s'"),
        ({"session": {"id": "s"}}, "session"),
        ({"session_id": "s", "user_id": ""}, "user id"),
        ({"session_id": "s", "user_id": 5}, "user id"),
        ({"session_id": "s", "run_id": ""}, "run id"),
        ({"session_id": "s", "run_id": 5}, "run id"),
        ({"session_id": "s", "wait": "soon"}, "wait"),
        ({"session_id": "s", "wait": -1}, "wait"),
        ({"session_id": "s", "wait": float("nan")}, "wait"),
        ({"session_id": "s", "session": Session("s")}, "not both"),
    ],
)
async def test_bad_arguments_are_refused_by_name(
    chat: Models, counting: Counting, counted: Store, options: dict[str, Any], names: str
) -> None:
    agent = chat.agent(echo, store=counted)
    with pytest.raises((InvalidValue, InvalidId), match=names):
        await agent.run("hi", **options)
    assert (counting.count, chat.requests) == (0, [])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"instructions": 5}, "instructions=5"),
        ({"instructions": ["be kind"]}, "instructions="),
        ({"history": 5}, "history=5"),
        ({"history": {"runs": 3}}, "history="),
        ({"store": 5}, "store=5"),
        ({"store": "chat.db"}, "chat.db"),
        ({"store": "mongo://x"}, "mongo"),
        ({"tools": "find"}, "tools='find'"),
        ({"tools": [5]}, "tools: 5"),
        ({"tools": [echo, echo]}, "'echo'"),
        ({"name": ""}, "agent name"),
        ({"name": 5}, "agent name"),
        ({"session_id": ""}, "session"),
    ],
)
def test_a_bad_agent_is_refused_by_name(options: dict[str, Any], names: str) -> None:
    with pytest.raises((InvalidValue, InvalidId, HoldfastError), match=names):
        Agent("openai:gpt-5.2", **options)


@pytest.mark.parametrize("model", [None, 5, "", "gpt-99-nobody-knows", "nobody:gpt", object(), ["a"], Agent])
def test_a_model_nobody_knows_is_refused(model: Any) -> None:
    with pytest.raises((InvalidValue, HoldfastError), match="model="):
        Agent(model)


# --- what goes wrong on the way --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_of_the_model_leaves_the_input_and_the_status(models: Models, memory: Store, stream: bool, status: int) -> None:
    server = models.serve([Answer(status=status, text="no")])
    agent = Agent(models.impatient(server), store=memory)
    with pytest.raises(ModelHTTPError) as caught:
        await ended(agent, "hi", session_id="s", run_id="r1", stream=stream)
    assert "run_id='r1', session_id='s'" in "".join(caught.value.__notes__)
    session = await there(agent, "s")
    assert await texts(session) == ["hi"]
    run = await only_run(session)
    assert (run.status, run.error) == ("error", type(caught.value).__name__)
    assert session.info.running is False


@BOTH
async def test_a_cut_connection_leaves_what_was_said(models: Models, memory: Store, stream: bool) -> None:
    server = models.serve([Answer(text="a long answer that is cut in its middle", cut=True)])
    agent = Agent(models.impatient(server), store=memory)
    with pytest.raises(Exception, match=r"."):
        await ended(agent, "hi", session_id="s", run_id="r1", stream=stream)
    session = await there(agent, "s")
    assert (await only_run(session)).status == "error"
    kept = await texts(session)
    assert kept[0] == "hi"
    assert not stream or (len(kept) == 2 and "a long answer".startswith(kept[1][:8]))
    again = models.agent(["whole"], store=memory)
    output = await again.run("hi", session_id="s", run_id="r1")
    assert (output.content, sent(models.requests[-1])) == ("whole", ["hi"])
    assert await texts(await there(agent, "s")) == ["hi", "whole"]


async def test_an_answer_with_nothing_in_it(models: Models, memory: Store) -> None:
    agent = models.agent([Answer(text=""), Answer(), "something", "more"], store=memory)
    try:
        await agent.run("hi", session_id="s")
    except Exception as error:
        assert type(error).__module__.startswith("pydantic_ai")  # noqa: PT017
    session = await there(agent, "s")
    assert (await statuses(session))[0] in ("completed", "error")
    await models.agent(["fine"], store=memory).run("and now?", session_id="s")
    assert (await texts(session))[-1] == "fine"


async def test_cancelling_in_the_model_call(models: Models, memory: Store) -> None:
    held = threading.Event()
    server = models.serve([Answer(text="never", hold=held)])
    agent = models.agent(server, store=memory)
    task = asyncio.create_task(agent.run("hi", session_id="s"))
    await asyncio.to_thread(server.wait_for, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    session = await there(agent, "s")
    assert (await texts(session), await statuses(session), session.info.running) == (["hi"], ["cancelled"], False)


@BOTH
async def test_cancelling_at_every_await_leaves_a_true_record(chat: Models, store: Store, stream: bool) -> None:
    """The n-th step of the loop is where the n-th run is cancelled; whatever happened, the session is free and its record true."""

    async def look() -> str:
        await asyncio.sleep(0)
        return "seen"

    agent = chat.agent(lambda r: call("look") if "=seen" not in sent(r) else "ok", store=store, tools=[look])
    for steps in (*range(12), *range(12, 60, 4)):
        task = asyncio.create_task(ended(agent, "hi", session_id=f"s{steps}", stream=stream))
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.wait({task})
        session = await store.get(f"s{steps}")
        if session is None:
            assert task.cancelled()
            continue
        await until(lambda session=session: _free(session))
        assert (await texts(session))[0] == "hi"
        status, log = (await only_run(session)).status, await texts(session)
        assert status in ("cancelled", "completed")
        assert task.cancelled() or status == "completed"
        assert status == "cancelled" or log[-1] == "ok"
        await chat.agent(["next"], store=store).run("go on", session_id=session.id, wait=5)


async def _free(session: Session) -> bool:
    await session.refresh()
    return not session.info.running


def test_an_agent_is_nobody_until_it_runs(chat: Models) -> None:
    with ModelServer(echo) as server:
        agent = chat.agent(server, name="desk", tools=[])
    assert repr(agent) == "Agent('scripted', name='desk')"
