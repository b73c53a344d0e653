"""Streams: what they tell, and what is left of one that nobody reads to its end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import holdfast.sync
from holdfast import Session, SessionBusy, Store, UsageError
from holdfast.agents import Agent, ReasoningDelta, RunStarted, RunStream, TextDelta, ToolAnswered
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Models, only_run, output_of, sent, statuses, texts, there, told, until

LONG = "a long answer that comes in many pieces, as answers do"


async def test_pieces_come_before_the_end_and_make_the_whole(models: Models, memory: Store) -> None:
    agent = models.agent([LONG], store=memory)
    events = await told(agent.run("hi", session_id="s", stream=True))
    pieces = [event.delta for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 3
    assert "".join(pieces) == LONG == output_of(events).content
    started = events[0]
    assert isinstance(started, RunStarted)
    assert (started.session_id, started.run_id, started.attempt) == ("s", output_of(events).run_id, 1)
    assert await texts(await there(agent, "s")) == ["hi", LONG]


async def test_nothing_happens_before_a_stream_is_used(chat: Models, memory: Store) -> None:
    agent = chat.agent([LONG], store=memory)
    stream = agent.run("hi", session_id="s", stream=True)
    await asyncio.sleep(0.02)
    assert not await memory.has("s")
    assert isinstance(stream, RunStream)
    await stream.aclose()
    await stream.aclose()
    assert (await memory.has("s"), chat.requests) == (False, [])


async def test_a_stream_used_after_its_end_or_its_closing(chat: Models, memory: Store) -> None:
    agent = chat.agent([LONG, LONG], store=memory)
    stream = agent.run("hi", session_id="s", stream=True)
    output = await stream.output()
    assert await stream.output() == output
    assert await told(stream) == []
    closed = agent.run("hi", session_id="s", stream=True)
    await anext(closed)
    await closed.aclose()
    with pytest.raises(UsageError, match="no output"):
        await closed.output()
    never = agent.run("hi", session_id="other", stream=True)
    await never.aclose()
    with pytest.raises(UsageError, match="no output"):
        await never.output()
    assert not await memory.has("other")


async def test_a_slow_reader_does_not_hold_the_run_up(chat: Models, store: Store) -> None:
    agent = chat.agent([LONG], store=store)
    stream = agent.run("hi", session_id="s", stream=True)
    await anext(stream)
    session = await there(agent, "s")
    await until(lambda: _is(session, "completed"))
    assert (await stream.output()).content == LONG


async def _is(session: Session, status: str) -> bool:
    return await statuses(session) == [status]


@pytest.mark.parametrize("how", ["closed", "left", "dropped", "cancelled"])
async def test_an_abandoned_stream_leaves_the_input_what_was_said_and_the_status(chat: Models, store: Store, how: str) -> None:
    held = threading.Event()
    server = chat.serve([call("look"), Answer(text="never", hold=held)])

    def look() -> str:
        return "seen"

    agent = chat.agent(server, store=store, tools=[look])
    await _abandoned(agent, how)
    session = await there(agent, "s")
    await until(lambda: _is(session, "cancelled"))
    assert await texts(session) == ["hi", "look()", "=seen"]
    await session.refresh()
    assert session.info.running is False
    held.set()
    assert (await chat.agent(["fine"], store=store).run("and now?", session_id="s")).content == "fine"


async def _abandoned(agent: Agent, how: str) -> None:
    stream = agent.run("hi", session_id="s", stream=True)
    if how == "left":
        with pytest.raises(ZeroDivisionError):
            await _left(stream)
    elif how == "cancelled":
        task = asyncio.create_task(_read(stream, forever=True))
        await until(lambda: _answered(agent))
        task.cancel()
        await asyncio.wait({task})
    else:
        await _read(stream)
        if how == "closed":
            await stream.aclose()
    del stream
    gc.collect()


async def _left(stream: RunStream) -> None:
    async with stream:
        await _read(stream)
        raise ZeroDivisionError


async def _read(stream: RunStream, *, forever: bool = False) -> None:
    async for event in stream:
        if isinstance(event, ToolAnswered) and not forever:
            return


async def _answered(agent: Agent) -> bool:
    session = await agent.get_session("s")
    return session is not None and len(await texts(session)) == 3


async def test_what_was_said_so_far_is_kept(models: Models, memory: Store) -> None:
    """The reader stops at the first piece; the answer was whole on the wire, so some of it is there, and a prefix of it."""
    agent = models.agent([LONG, "fine"], store=memory)
    async with agent.run("hi", session_id="s", stream=True) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    session = await there(agent, "s")
    log = await texts(session)
    assert log[0] == "hi"
    assert len(log) == 2
    assert LONG.startswith(log[1])
    assert (await only_run(session)).status in ("cancelled", "completed")
    assert (await agent.run("and now?", session_id="s")).content == "fine"


async def test_an_error_comes_after_the_pieces(models: Models, memory: Store) -> None:
    server = models.serve([Answer(text=LONG, cut=True)])
    agent = Agent(models.impatient(server), store=memory)
    pieces: list[str] = []
    stream = agent.run("hi", session_id="s", stream=True)
    with pytest.raises(Exception, match=r".") as caught:
        await _gathered(stream, pieces)
    assert "session_id='s'" in "".join(caught.value.__notes__)
    said = "".join(pieces)
    assert said
    assert LONG.startswith(said)
    assert await texts(await there(agent, "s")) == ["hi", said]
    assert await statuses(await there(agent, "s")) == ["error"]
    assert await told(stream) == []


async def _gathered(stream: RunStream, pieces: list[str]) -> None:
    async for event in stream:
        pieces.append(str(event))


async def test_an_error_before_the_first_event_is_raised_at_the_first(chat: Models, memory: Store) -> None:
    agent = chat.agent([], store=memory)
    async with (await memory.session("s")).claim():
        stream = agent.run("hi", session_id="s", stream=True, wait=0)
        with pytest.raises(SessionBusy):
            await anext(stream)
    assert chat.requests == []


async def test_a_stream_in_a_loop_that_ends(chat: Models, file_store: Store) -> None:
    """`asyncio.run` cancels what is left: the run is recorded as cancelled, nothing hangs."""
    held = threading.Event()
    server = chat.serve([Answer(text="never", hold=held)])
    agent = chat.agent(server, store=file_store)

    async def leave() -> None:
        stream = agent.run("hi", session_id="s", stream=True)
        await anext(stream)
        await asyncio.to_thread(server.wait_for, 1)

    await asyncio.wait_for(asyncio.to_thread(asyncio.run, leave()), 10)
    assert await statuses(await there(agent, "s")) == ["cancelled"]


async def test_reasoning_is_told_apart_and_not_sent_as_text(chat: Models, store: Store) -> None:
    from pydantic_ai import messages as ai
    from pydantic_ai.models.function import DeltaThinkingPart, FunctionModel

    async def think(_: list[ai.ModelMessage], __: Any) -> AsyncGenerator[Any]:
        yield {0: DeltaThinkingPart(content="hm, ")}
        yield {0: DeltaThinkingPart(content="yes")}
        yield "the answer"

    agent = Agent(FunctionModel(stream_function=think), store=store)
    events = await told(agent.run("hi", session_id="s", stream=True))
    assert "".join(event.delta for event in events if isinstance(event, ReasoningDelta)) == "hm, yes"
    assert "".join(map(str, events[:-1])) == "the answer" == output_of(events).content
    await chat.agent(["fine"], store=store).run("and now?", session_id="s")
    assert sent(chat.requests[0])[1].endswith("the answer")


# --- blocking --------------------------------------------------------------------------------------------------------


def test_the_blocking_form(models: Models, tmp_path: Any) -> None:
    def look(session: holdfast.sync.Session) -> str:
        return f"{session.state.increment('count')}"

    server = models.serve(lambda request: call("look") if len(request.input) == 1 else LONG)
    with holdfast.sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store:
        agent = holdfast.sync.Agent(models.model(server), store=store, tools=[look])
        session = agent.create_session("s", user_id="ada")
        assert agent.run("hi", session=session).content == LONG
        assert session.state["count"] == 1
        with agent.run("again", session=session, stream=True) as stream:
            events = list(stream)
        assert output_of(events).content == "".join(str(event) for event in events[:-1]) == LONG
        assert agent.runner.run(agent, session, "once more").content == LONG
        assert [message.text for message in agent.get_chat_history("s", user_id="ada", last=2)] == ["once more", LONG]


def test_a_blocking_stream_that_is_left(models: Models) -> None:
    held = threading.Event()
    server = models.serve([Answer(text="never", hold=held), "fine"])
    agent = holdfast.sync.Agent(models.model(server), session_id="s")
    with agent.run("hi", stream=True) as stream:
        next(stream)
        server.wait_for(1)
    session = agent.get_session("s")
    assert session is not None
    assert [run.status for run in session.runs()] == ["cancelled"]
    dropped = agent.run("more", stream=True)
    assert next(dropped)
    del dropped
    gc.collect()
    held.set()
    server = models.serve(["fine"])
    other = holdfast.sync.Agent(models.model(server), store=agent.store, session_id="s")
    assert other.run("and now?", wait=10).content == "fine"
    assert [run.status for run in session.runs()] == ["cancelled", "cancelled", "completed"]


def test_blocking_calls_from_many_threads(chat: Models) -> None:
    agent = holdfast.sync.Agent(chat.model(chat.serve(_echo)))
    answers: dict[int, str] = {}

    def work(n: int) -> None:
        answers[n] = str(agent.run(f"q{n}", session_id=f"s{n % 3}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {n: f"to q{n}" for n in range(9)}


async def test_blocking_calls_inside_a_loop(chat: Models) -> None:
    agent = holdfast.sync.Agent(chat.model(chat.serve(_echo)))
    assert agent.run("q", session_id="s").content == "to q"


def _echo(request: Request) -> str | Answer:
    return f"to {sent(request)[-1]}" if sent(request) else Answer(calls=(Call("x"),))


async def test_a_stream_has_one_reader_at_a_time(chat: Models, store: Store) -> None:
    agent = chat.agent([Answer(text="Hello there.", delay=0.2)], store=store)
    stream = agent.run("hi", session_id="s", stream=True)

    async def reads() -> int:
        return len([event async for event in stream])

    first = asyncio.create_task(reads())
    await asyncio.sleep(0.05)
    with pytest.raises(UsageError, match="another task reads this stream"):
        await stream.output()
    assert await first > 1
    assert (await stream.output()).content == "Hello there."
