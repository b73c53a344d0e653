"""Tools: what they may take, give and do, and what the model and the session are told of it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import json
import re
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast import InvalidValue, Session, SessionNotFound, Store, user
from holdfast.agents import Agent, Middleware, ToolAnswered, ToolCalled, ToolInvocation, tool
from holdfast.agents.around import Next
from holdfast.testing.model_server import Answer, Call, Request, call

from .conftest import Counting, Models, ended, sent, short, statuses, texts, there, told


def pay() -> str:
    """Pay."""
    return "paid"


class Color(enum.Enum):
    RED = "red"


class Item(BaseModel):
    sku: str
    price: decimal.Decimal = decimal.Decimal("1.50")


@dataclasses.dataclass
class Point:
    x: int


RESULTS: list[tuple[Any, Any]] = [
    ("text", "text"),
    ("", ""),
    (None, None),
    (True, True),
    (5, 5),
    (0.5, 0.5),
    ([], []),
    ({}, {}),
    ([1, {"a": [None]}], [1, {"a": [None]}]),
    (Item(sku="a"), {"sku": "a", "price": "1.50"}),
    ([Item(sku="a")], [{"sku": "a", "price": "1.50"}]),
    (Point(1), {"x": 1}),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    (Color.RED, "red"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    ({"when": datetime.datetime(2026, 1, 2)}, {"when": "2026-01-02T00:00:00"}),
    (decimal.Decimal("1.5"), "1.5"),
    ("a \x00 b", "a \x00 b"),
    ("x" * 100_000, "x" * 100_000),
    (2**70, 2**70),
]


@pytest.mark.parametrize(("result", "stored"), RESULTS, ids=[f"{type(it).__name__}-{n}" for n, (it, _) in enumerate(RESULTS)])
async def test_what_a_tool_gives_is_stored_and_sent_again_the_same(models: Models, memory: Store, result: Any, stored: Any) -> None:
    def look() -> Any:
        return result

    server = models.serve([call("look"), "ok", "again"])
    output = await models.agent(server, store=memory, tools=[look]).run("look", session_id="s")
    assert output.messages[2].parts[0].response == stored  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert (await (await memory.session("s")).get_messages())[2] == output.messages[2]
    await models.agent(server, store=memory).run("and now?", session_id="s")
    assert server.requests[2].input[: len(server.requests[1].input)] == server.requests[1].input


class Unspeakable:
    pass


@pytest.mark.parametrize(
    "result",
    [Unspeakable(), [Unspeakable()], float("nan"), b"\xff\x00", {1: b"\xfe"}, "\ud800", lambda: 5],
    ids=lambda result: type(result).__name__,
)
async def test_what_no_json_can_hold_ends_in_one_clear_way(chat: Models, memory: Store, result: Any) -> None:
    """Whether it is told to the model in some form or raised: the session is sound and goes on."""

    def look() -> Any:
        return result

    agent = chat.agent(lambda request: "ok" if len(request.input) > 1 else call("look"), store=memory, tools=[look])
    try:
        output = await agent.run("look", session_id="s")
    except Exception:
        assert (await statuses(await there(agent, "s"))) == ["error"]
    else:
        assert output.content == "ok"
    follow = chat.agent(["fine"], store=memory)
    assert (await follow.run("and now?", session_id="s")).content == "fine"


async def test_a_tool_that_raises_has_answered(models: Models, memory: Store) -> None:
    def look(id: str) -> str:
        raise LookupError(f"there is no {id}")

    agent = models.agent([call("look", id="7"), "sorry"], store=memory, tools=[look])
    output = await agent.run("look", session_id="s")
    assert output.content == "sorry"
    assert "LookupError: there is no 7" in str(sent(models.requests[1]))
    assert "there is no 7" in (await texts(await there(agent, "s")))[2]


async def test_of_a_batch_one_raises_and_the_others_answer(models: Models, memory: Store) -> None:
    async def good(n: int) -> int:
        await asyncio.sleep(0.01)
        return n

    async def bad() -> None:
        raise ValueError("no")

    batch = Answer(text="let me see", calls=(Call("good", {"n": 1}), Call("bad"), Call("good", {"n": 2})))
    agent = models.agent([batch, "done"], store=memory, tools=[good, bad])
    output = await agent.run("look", session_id="s")
    assert output.content == "done"
    answers = sorted(text for text in await texts(await there(agent, "s")) if text.startswith("="))
    assert [answers[0], answers[1]] == ["=1", "=2"]
    assert "ValueError: no" in answers[2]
    assert [text for text in sent(models.requests[1]) if text.endswith("()")] == ["good()", "bad()", "good()"]


async def test_a_tool_that_gives_what_can_not_be_stored_is_an_error_that_names_it_and_the_others_are_stored(
    models: Models, memory: Store
) -> None:
    def bad() -> object:
        return object()

    async def good(n: int) -> int:
        await asyncio.sleep(0.01)
        return n

    agent = models.agent([Answer(calls=(Call("good", {"n": 1}), Call("bad"), Call("good", {"n": 2})))], store=memory, tools=[good, bad])
    with pytest.raises(InvalidValue, match=r"tool 'bad' gave what can't be stored: .*object"):
        await agent.run("look", session_id="s")
    session = await there(agent, "s")
    assert sorted(await texts(session)) == ["=1", "=2", "good() bad() good()", "look"]
    assert await statuses(session) == ["error"]


async def test_a_tool_that_runs_an_agent_may_give_its_output(models: Models, memory: Store) -> None:
    """The answer is what counts, for middleware too; a run without one has failed, and the model is told."""
    helper = models.agent(["Helped.", call("pay")], name="helper", store=memory, tools=[tool(confirm=True)(pay)])
    seen: list[Any] = []

    async def ask(question: str) -> Any:
        return await helper.run(question)

    class Seeing(Middleware):
        async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
            await call_next()
            seen.append(call.result)

    agent = models.agent([call("ask", question="a"), call("ask", question="b"), "ok"], store=memory, tools=[ask], middleware=[Seeing()])
    output = await agent.run("go", session_id="s")
    first, second = [text for text in await texts(await there(agent, "s")) if text.startswith("=")]
    assert (output.content, first, seen) == ("ok", "=Helped.", ["Helped."])
    assert re.match(r"=UsageError: tool 'ask' gave run '\w+' of session '\w+', which is paused and has no answer", second)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_a_tool_that_ends_everything(chat: Models, memory: Store, error: type[BaseException]) -> None:
    async def end() -> None:
        raise error

    agent = chat.agent([call("end"), "ok"], store=memory, tools=[end])
    if error is asyncio.CancelledError:
        with pytest.raises((asyncio.CancelledError, Exception)):
            await agent.run("go", session_id="s")
    else:
        with pytest.raises(error):
            await _shielded(agent)
    session = await there(agent, "s")
    assert (await statuses(session))[0] in ("cancelled", "error")
    assert (await texts(session))[:2] == ["go", "end()"]
    assert session.info.running is False


async def _shielded(agent: Agent) -> None:
    """A run whose KeyboardInterrupt ends not the test's own loop."""

    def run() -> None:
        asyncio.run(agent.run("go", session_id="s"))

    await asyncio.to_thread(run)


# --- what a model may ask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        Call("nobody"),
        Call("look", {}),
        Call("look", {"n": "many"}),
        Call("look", {"n": 1, "more": 2}),
        Call("look", "not json"),
        Call("look", "[1]"),
        Call("look", ""),
        Call("look", '{"n": 1'),
        Call("", {}),
    ],
    ids=lambda it: f"{it.name}-{it.arguments}",
)
async def test_what_a_model_asks_wrongly_it_is_told(models: Models, memory: Store, asked: Call) -> None:
    """It is told once what was wrong, and does better; then a session with such a call in it goes on."""

    def look(n: int) -> int:
        return n

    server = models.serve([Answer(calls=(asked,)), call("look", n=1), "ok", "fine"])
    agent = models.agent(server, store=memory, tools=[look])
    output = await agent.run("go", session_id="s")
    assert output.content == "ok"
    assert len(server.requests) == 3
    assert len([text for text in sent(server.requests[2]) if text.startswith("=")]) == 2
    assert (await agent.run("and now?", session_id="s")).content == "fine"
    assert sent(server.requests[3])[:-2] == sent(server.requests[2])
    assert short((await (await memory.session("s")).get_messages())[-1]) == "fine"


async def test_a_model_that_never_stops(chat: Models, memory: Store) -> None:
    ran: list[int] = []

    def look() -> str:
        ran.append(1)
        return "nothing"

    agent = chat.agent(lambda _: call("look"), store=memory, tools=[look])
    with pytest.raises(Exception, match="limit"):
        await agent.run("go", session_id="s")
    session = await there(agent, "s")
    assert await statuses(session) == ["error"]
    assert len(ran) < 100
    assert (await chat.agent(["fine"], store=memory).run("stop", session_id="s")).content == "fine"


# --- what a tool may do with the session -----------------------------------------------------------------------------


async def test_what_a_tool_stages_is_stored_with_its_result(models: Models, counting: Counting, counted: Store) -> None:
    def note(session: Session) -> str:
        session.set("seen", {"n": 1})
        session.get_volatile_cache().set("here", 1)
        return "noted"

    async def check(session: Session) -> str:
        later = await counted.get(session.id)
        assert later is not None
        return f"{later.get('seen')} {session.get_volatile_cache().get('here')}"

    agent = models.agent([call("note"), call("check"), "ok"], store=counted, tools=[note, check])
    await agent.run("go", session_id="s")
    session = await there(agent, "s")
    assert (await texts(session))[4] == "={'n': 1} 1"
    assert session.get("seen") == {"n": 1}
    assert counting.made.count("commit") == 6


async def test_a_tool_counts_appends_and_writes_messages(models: Models, store: Store) -> None:
    async def work(session: Session) -> int:
        await session.append(user("an aside"))
        await session.state.append("list", "x")
        return await session.state.increment("count", 2)

    batch = Answer(calls=(Call("work"), Call("work")))
    agent = models.agent([batch, call("work"), "ok", "fine"], store=store, tools=[work])
    await agent.run("go", session_id="s")
    session = await there(agent, "s")
    assert (session.get("count"), session.get("list")) == (6, ["x"] * 3)
    assert (await agent.run("and now?", session_id="s")).content == "fine"
    assert sorted(text for text in sent(models.requests[-1]) if text.startswith("=")) == ["=2", "=4", "=6"]


async def test_a_tool_that_clears_the_session(models: Models, store: Store) -> None:
    async def forget(session: Session) -> str:
        session.clear()
        session.set("after", 1)
        await session.commit()
        return "forgotten"

    agent = models.agent([call("forget"), "ok", "fine"], store=store, tools=[forget])
    await store.session("s")
    output = await agent.run("my secret", session_id="s")
    assert output.content == "ok"
    session = await there(agent, "s")
    assert session.get("after") == 1
    assert "my secret" not in await texts(session)
    assert (await agent.run("and now?", session_id="s")).content == "fine"
    assert "my secret" not in str(models.requests[-1].body)


async def test_a_tool_that_deletes_the_session(models: Models, store: Store) -> None:
    async def away(session: Session) -> str:
        await session.delete()
        return "gone"

    agent = models.agent([call("away"), "ok"], store=store, tools=[away])
    with pytest.raises(Exception, match="gone"):
        await agent.run("my secret", session_id="s")
    assert not await store.has("s")


async def test_a_run_within_a_run_shares_its_claim(models: Models, memory: Store) -> None:
    """By id or by object, one after the other or at once: nobody waits for himself, and each run is whole in the record."""
    inner = models.agent(lambda request: f"to {sent(request)[-1]}", store=memory)

    async def ask(session: Session, by: str, what: str) -> str:
        if by == "id":
            return (await inner.run(what, session_id=session.id, user_id=session.user_id, wait=0)).content
        return (await inner.run(what, session=session, wait=0)).content

    asked = [Call("ask", {"by": by, "what": what}) for by, what in (("id", "a"), ("object", "b"), ("id", "c"), ("object", "d"))]
    answers = [Answer(calls=(asked[0],)), Answer(calls=(asked[1],)), Answer(calls=tuple(asked[2:])), "ok", "fine"]
    agent = models.agent(answers, store=memory, tools=[ask])
    output = await asyncio.wait_for(agent.run("go", session_id="s", user_id="ada"), 20)
    assert output.content == "ok"
    session = await there(agent, "s", "ada")
    assert sorted(text for text in await texts(session) if text.startswith("=")) == ["=to a", "=to b", "=to c", "=to d"]
    assert (await statuses(session), session.info.running) == (["completed"] * 5, False)
    assert (await agent.run("and now?", session_id="s", user_id="ada")).content == "fine"


@pytest.mark.parametrize("other", [None, "mallory"])
async def test_a_run_within_a_run_for_another_user_is_none_of_it(chat: Models, memory: Store, other: str | None) -> None:
    inner = chat.agent(lambda request: f"to {sent(request)}", store=memory)

    async def ask(session: Session) -> str:
        with pytest.raises(SessionNotFound):
            await inner.run("steal", session_id=session.id, user_id=other)
        return "refused"

    agent = chat.agent([call("ask"), "ok"], store=memory, tools=[ask])
    output = await agent.run("my secret", session_id="s", user_id="ada")
    assert [text for text in await texts(await there(agent, "s", "ada")) if text.startswith("=")] == ["=refused"]
    assert output.content == "ok"


# --- how tools run ---------------------------------------------------------------------------------------------------


async def test_a_call_is_stored_before_its_tool_starts_and_a_result_before_the_model_is_asked(models: Models, store: Store) -> None:
    seen: list[list[str]] = []

    async def look(n: int) -> int:
        seen.append(await texts(await there(agent, "s")))
        return n

    loop = asyncio.get_running_loop()

    def answer(request: Request) -> Any:
        if len(request.input) == 1:
            return Answer(calls=(Call("look", {"n": 1}), Call("look", {"n": 2})))
        future = asyncio.run_coroutine_threadsafe(_log(store), loop)
        assert sorted(future.result(5)[2:]) == ["=1", "=2"]
        return "ok"

    agent = models.agent(answer, store=store, tools=[look])
    assert (await agent.run("go", session_id="s")).content == "ok"
    assert all(log[:2] == ["go", "look() look()"] for log in seen)


async def _log(store: Store) -> list[str]:
    return await texts(await store.session("s"))


async def test_calls_of_one_answer_run_at_once_and_plain_functions_do_not_block_the_loop(models: Models, memory: Store) -> None:
    barrier, together = threading.Barrier(3), asyncio.Barrier(2)

    def plain() -> str:
        barrier.wait(5)
        return "plain"

    async def awaited() -> str:
        async with asyncio.timeout(5):
            await together.wait()
        return "awaited"

    batch = Answer(calls=(Call("plain"), Call("plain"), Call("plain"), Call("awaited"), Call("awaited")))
    agent = models.agent([batch, "ok"], store=memory, tools=[plain, awaited])
    await agent.run("go", session_id="s")
    assert sorted(text for text in await texts(await there(agent, "s")) if text.startswith("=")) == ["=awaited"] * 2 + ["=plain"] * 3


async def test_events_of_tools(models: Models, memory: Store) -> None:
    def look(n: int) -> dict[str, int]:
        return {"n": n}

    agent = models.agent([Answer(text="let me see", calls=(Call("look", {"n": 1}),)), "ok"], store=memory, tools=[look])
    events = await told(agent.run("go", session_id="s", stream=True))
    kinds = [type(event).__name__ for event in events if type(event).__name__ != "TextDelta"]
    assert kinds == ["RunStarted", "ToolCalled", "ToolAnswered", "RunEnded"]
    called, answered = next(it for it in events if isinstance(it, ToolCalled)), next(it for it in events if isinstance(it, ToolAnswered))
    assert (called.name, called.arguments, answered.response, answered.id) == ("look", {"n": 1}, {"n": 1}, called.id)
    assert "".join(str(event) for event in events) == "let me seeok"


async def test_arguments_are_stored_as_json(models: Models, memory: Store) -> None:
    def look(item: Item, tags: list[str]) -> str:
        return item.sku + tags[0]

    arguments = {"item": {"sku": "naïve", "price": "2.5"}, "tags": ["\U0001f600"]}
    agent = models.agent([Answer(calls=(Call("look", json.dumps(arguments)),)), "ok"], store=memory, tools=[look])
    output = await ended(agent, "go", session_id="s", stream=True)
    assert output.messages[1].parts[0].arguments == arguments  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert output.messages[2].parts[0].response == "naïve\U0001f600"  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
