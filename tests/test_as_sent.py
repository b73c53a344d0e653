"""What a run was sent, as its session tells it, beside what the model's server really got."""

from __future__ import annotations

import json
import os
import signal
import threading
from asyncio import run as run_here
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from typer.testing import CliRunner, Result

from holdfast import Agent, History, Message, Session, Store, Text, ToolCall, ToolResult, assistant, user
from holdfast.agents import ContextProvider, Prehook, Summaries, Team, tool
from holdfast.agents.record import as_sent
from holdfast.cli.app import app
from holdfast.models import OpenAIChat, OpenAIResponses
from holdfast.testing.model_server import Answer, Call, ModelServer, Request, Script, call

Model = type[OpenAIChat] | type[OpenAIResponses]
Said = tuple[Any, ...]

LEASE = 0.05
LOOKS = Answer(text="Let me see.", calls=(Call("look", {"order": "A-17"}), Call("look", {"order": "A-18"})))


def look(order: str) -> str:
    """Where an order is."""
    return f"{order} has shipped"


# --- both sides in one form ------------------------------------------------------------------------------------------


def got(request: Request) -> list[Said]:
    """What a request said, whichever its protocol; instructions first."""
    told = [("instructions", request.body["instructions"])] if request.body.get("instructions") else []
    for item in request.input:
        told += _item(item)
    if told and told[0][0] == "system":
        told[0] = ("instructions", told[0][1])
    return told


def _item(item: dict[str, Any]) -> Iterator[Said]:
    kind = item.get("type", "message")
    if kind == "function_call":
        yield "call", item["call_id"], item["name"], json.loads(item["arguments"])
    elif kind == "function_call_output" or item.get("role") == "tool":
        yield "result", item.get("call_id", item.get("tool_call_id")), item.get("output", item.get("content"))
    else:
        content = item.get("content")
        text = content if isinstance(content, str | None) else "".join(part["text"] for part in content)
        if text:
            yield item["role"], text
        for call in item.get("tool_calls", ()):
            yield "call", call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])


def told(request: Any) -> list[Said]:
    """What we say was sent."""
    first: list[Said] = [("instructions", request.instructions)] if request.instructions else []
    return first + [said for message in request.messages for part in message.parts if (said := _part(message, part)) is not None]


def _part(message: Message, part: Any) -> Said | None:
    match part:
        case Text(content):
            return (message.role, content)
        case ToolCall(name, id, arguments):
            return ("call", id, name, arguments)
        case ToolResult(response, id):
            return ("result", id, response if isinstance(response, str) else json.dumps(response, separators=(",", ":")))
        case _:
            return None


async def everything(session: Session) -> list[list[Said]]:
    """Every request of every run, in the order in which the tries began."""
    runs = dict.fromkeys(entry.run_id for entry in await session.entries(kinds=("run",), hidden=True))
    sent = [it for run_id in runs for it in await as_sent(session, run_id or "") or []]
    sent.sort(key=lambda it: it.attempt.started)
    return [told(request) for it in sent for request in it.requests]


class Desk:
    """Agents that speak to one server, on one session of one file."""

    def __init__(self, server: ModelServer, kind: Model, path: Path) -> None:
        self.server = server
        self.kind = kind
        self.model = kind(id="gpt-5.2", base_url=server.base_url, api_key="none")
        self.url = f"sqlite:///{path / 'desk.db'}"
        self.store = Store.open(self.url)

    def agent(self, *tools: Any, instructions: Any = "Be brief.", **more: Any) -> Agent:
        return Agent(self.model, name="desk", tools=tools or (look,), store=self.store, session_id="s", instructions=instructions, **more)

    async def session(self) -> Session:
        session = await self.store.get("s")
        assert session is not None
        return session

    async def check(self, *, unknown: int | None = None) -> None:
        """What the session tells is what the server got, request by request; of the past in the `unknown` one it knows nothing."""
        sent, received = await everything(await self.session()), [got(request) for request in self.server.requests]
        if unknown is not None:
            received[unknown] = received[unknown][-len(sent[unknown]) :]
        assert sent == received

    def in_a_child(self, work: Callable[[], Any]) -> None:
        """Do it in a process of its own, which ends in the middle of it."""
        child = os.fork()
        if child == 0:
            run_here(work())
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)


def kill_me(order: str) -> str:
    """Where an order is; the process does not survive it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return order


@pytest.fixture(params=[OpenAIResponses, OpenAIChat])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[Script], Desk]]:
    """Makes a desk whose model follows a script."""
    made: list[Desk] = []

    def make(script: Script) -> Desk:
        made.append(Desk(ModelServer(script).__enter__(), request.param, tmp_path))
        return made[-1]

    yield make
    for it in made:
        await it.store.close()
        it.server.close()


Desks = Callable[[Script], Desk]


# --- what is told is what was sent -----------------------------------------------------------------------------------


async def test_whoever_has_the_conversation_is_told_what_it_was_told(desk: Desks) -> None:
    it = desk([call("hand_over", agent="billing"), "Which order?", "I see.", call("hand_over", agent="desk"), "Hello again."])
    billing = Agent(it.kind(id="small", base_url=it.server.base_url, api_key="none"), name="billing", instructions="Refunds.")
    team = Team(it.model, name="desk", instructions="Greet people.", members=[billing], mode="handoff", store=it.store, session_id="s")
    for text in ("money back", "order 7", "thank you"):
        await team.run(text)
    await it.check()
    session = await it.session()
    models = [[request.model for request in sent.requests] for run in await session.runs() for sent in await as_sent(session, run.id) or []]
    assert models == [["gpt-5.2", "small"], ["small"], ["small", "gpt-5.2"]]
    assert [run.window["model"] for run in await session.runs()] == ["small", "small", "gpt-5.2"]
    page = (await show("s", "--as-sent", "last", "-s", it.url)).stdout
    assert page.index("Refunds.") < page.index("of gpt-5.2, from here on") < page.rindex("Greet people.")


async def test_what_hooks_and_providers_made_of_it(desk: Desks) -> None:
    """Also of a run that failed at its first request, and of one that goes on: hooks are not asked again, providers are."""

    class Politely(Prehook):
        asked = 0

        async def on_run(self, session: Session, agent: Any, requests: Any) -> Any:
            self.asked += 1
            return [user(f"Please ({self.asked}): {requests[0].text}")]

    class Known(ContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: Any, state: Any) -> None:
            state["runs"] = state.get("runs", 0) + 1
            context.extend_messages(self.source_id, [user(f"I was here {state['runs']} times.")])
            context.extend_instructions(self.source_id, "Be kind.")

    it = desk(["One.", Answer(status=400), LOOKS, Answer(status=400), "Two."])
    agent = it.agent(instructions=lambda: "Be brief.", prehooks=[Politely()], context_providers=[Known("known")])
    await agent.run("hi")
    for _ in range(2):
        with pytest.raises(Exception, match="400"):
            await agent.run("where are they?", run_id="r")
    await agent.run("where are they?", run_id="r")
    await it.check()
    assert [message.text for message in await (await it.session()).get_messages() if message.role == "system"] == ["Be brief."]


async def test_an_input_with_answers_in_it(desk: Desks) -> None:
    class Example(Prehook):
        async def on_run(self, session: Session, agent: Any, requests: Any) -> Any:
            return [user("Example."), assistant("Answer."), *requests]

    answers = [Answer(status=400), LOOKS, Answer(status=400), "Two."]
    it = desk(answers * 2)
    given = [user("hi"), assistant("hello"), user("where are they?"), assistant("They are ")]
    for run_id, hooks in (("plain", []), ("hooked", [Example()])):
        for _ in range(3):
            with suppress(ModelHTTPError):
                await it.agent(prehooks=hooks).run(given, run_id=run_id)
    assert len(it.server.requests) == 8
    await it.check()


async def test_of_a_run_that_somebody_else_ended_nobody_knows_what_it_sent_of_the_past(desk: Desks) -> None:
    more = threading.Event()
    it = desk(["One.", Answer(text="never all of it is stored", halfway=more)])
    agent = it.agent()
    await agent.run("hi")
    stream = agent.run("and?", run_id="r", stream=True, lease=0.3)
    await anext(stream)
    await to_thread(it.server.wait_for, 2)
    assert await agent.cancel_run("r", "s")
    assert (await stream.output()).status == "cancelled"
    more.set()
    (sent,) = await as_sent(await it.session(), "r") or []
    assert (sent.past, sent.instructions) == (None, "Be brief.")
    assert [[message.text for message in request.messages] for request in sent.requests] == [["and?"]]
    assert "what was sent of the past was not recorded" in (await show("s", "--as-sent", "r", "-s", it.url)).stdout


async def test_a_run_that_was_queued(desk: Desks) -> None:
    it = desk(["One.", LOOKS, "Two."])
    agent = it.agent()
    queued = await agent.enqueue("later")
    await agent.run("first")
    await agent.continue_run(queued)
    await it.check()


@pytest.mark.parametrize("stream", [False, True])
async def test_turns_with_tools(desk: Desks, stream: bool) -> None:
    it = desk(["Hello.", LOOKS, LOOKS, "Both have.", "Bye."])
    agent = it.agent()
    for text in ("hi", "where are they?", "bye"):
        if stream:
            await agent.run(text, stream=True).output()
        else:
            await agent.run(text)
    await it.check()
    assert len(it.server.requests) == 5


async def test_what_was_rewound_popped_or_replaced_since(desk: Desks) -> None:
    it = desk(["One.", LOOKS, "Two.", "Three.", "Four."])
    agent = it.agent()
    for text in ("1", "2"):
        await agent.run(text)
    await (await it.session()).rewind(last=2)
    await agent.run("3")
    await (await it.session()).pop()
    await agent.run("4")
    await (await it.session()).replace([user("anew")])
    await it.check()
    assert len(it.server.requests) == 5


async def test_a_run_that_failed_and_was_tried_again_with_others_between(desk: Desks) -> None:
    it = desk([LOOKS, Answer(status=400), "Between.", LOOKS, "Done.", "After."])
    agent = it.agent()
    with pytest.raises(Exception, match="400"):
        await agent.run("where are they?", run_id="r")
    await agent.run("and now?")
    await agent.run("where are they?", run_id="r")
    await agent.run("thanks")
    await it.check()
    first, second = await as_sent(await it.session(), "r") or []
    assert (first.attempt.status, first.requests[-1].answer, second.attempt.number) == ("error", None, 2)


async def test_an_answer_that_was_broken_off_is_not_sent_by_the_next_try(desk: Desks) -> None:
    it = desk([Answer(text="a long answer " * 20, cut=True), "Whole.", "After."])
    agent = it.agent()
    with pytest.raises(Exception, match=r"\w"):
        await agent.run("hi", run_id="r", stream=True).output()
    await agent.run("hi", run_id="r")
    await agent.run("more")
    await it.check()
    first, second = await as_sent(await it.session(), "r") or []
    assert (first.requests[0].whole, second.requests[0].whole) == (False, True)
    await (await it.session()).rewind(to=0)
    await it.check()


async def test_results_that_people_gave_or_let_be_made_and_lost_ones(desk: Desks) -> None:
    it = desk([LOOKS, "Given.", Answer(calls=(Call("kill_me", {"order": "A-19"}),)), "A new run.", "Made again."])

    @tool(confirm=True)
    def look(order: str) -> str:
        """Where an order is."""
        return f"{order} has shipped"

    agent = it.agent(look, kill_me)
    paused = await agent.run("where are they?")
    one, other = paused.requirements
    paused = await agent.continue_run(paused, [one.approve()])
    await agent.continue_run(paused, [other.deny("not that one")])
    it.in_a_child(lambda: Agent(it.model, tools=[look, kill_me], store=it.url, session_id="s").run("and A-19?", run_id="r", lease=LEASE))
    await it.agent(look, kill_me, instructions=None).run("what about it?")
    waiting = await agent.continue_run("r")
    await agent.continue_run("r", [waiting.requirements[0].supply({"A-19": "lost"})])
    await it.check(unknown=2)


async def test_a_call_whose_result_is_lost_gets_the_same_words(desk: Desks) -> None:
    it = desk([Answer(calls=(Call("kill_me", {"order": "A-19"}),)), "A new run."])
    it.in_a_child(
        lambda: Agent(it.model, tools=[kill_me], store=it.url, session_id="s", instructions="Be brief.").run("and A-19?", lease=LEASE)
    )
    await it.agent(kill_me).run("what about it?")
    await it.check()
    assert any(said[0] == "result" and said[2].startswith("No result was stored") for said in got(it.server.requests[-1]))


async def test_a_corrected_output_and_invalid_arguments(desk: Desks) -> None:
    from pydantic_ai import Agent as PydanticAgent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    wrong, right = Call("final_result", {"response": "three"}), Call("final_result", {"response": 3})
    it = desk([Answer(calls=(wrong,)), Answer(calls=(right,)), Answer(calls=(right,))])
    kind = OpenAIChatModel if isinstance(it.model, OpenAIChat) else OpenAIResponsesModel
    model = kind("gpt-5.2", provider=OpenAIProvider(base_url=it.server.base_url, api_key="none"))
    agent = Agent(PydanticAgent(model, output_type=int), store=it.store, session_id="s")
    assert (await agent.run("how many?")).content == 3
    await agent.run("and now?")
    assert [len(request) for request in await everything(await it.session())] == [len(got(request)) for request in it.server.requests]


async def test_histories_that_are_short_or_switched_off(desk: Desks) -> None:
    it = desk(["1", "2", "3", "4"])
    await it.agent().run("one")
    await it.agent().run("two")
    short = await it.agent(history=History(runs=1)).run("three")
    off = await it.agent(add_history_to_context=False).run("four")
    await it.check()
    session = await it.session()
    (short_sent,), (off_sent,) = await as_sent(session, short.run_id) or [], await as_sent(session, off.run_id) or []
    assert (short_sent.past, short_sent.attempt.window and short_sent.attempt.window["history"]["cut"]) == (2, True)
    assert (off_sent.past, off_sent.requests[0].new) == (0, 1)


async def test_instructions_are_told_also_of_a_run_that_failed_at_its_first_request(desk: Desks) -> None:
    it = desk([Answer(status=400), "Well."])
    agent = it.agent(instructions=lambda session: f"You serve {session.id}.")  # pyright: ignore[reportUnknownLambdaType,reportUnknownMemberType]
    with pytest.raises(Exception, match="400"):
        await agent.run("hi")
    await agent.run("hi again")
    await it.check()


async def test_a_run_killed_in_the_model_call_has_its_instructions_and_its_input(desk: Desks) -> None:
    def killed(request: Request) -> str:
        os.kill(child, signal.SIGKILL)
        return "too late"

    it = desk(["Hello."])
    await it.agent().run("hi")
    with ModelServer(killed) as server:
        child = os.fork()
        if child == 0:
            model = type(it.model)(id="gpt-5.2", base_url=server.base_url, api_key="none")
            run_here(Agent(model, store=it.url, session_id="s", instructions="Be quick.").run("still there?", run_id="r", lease=LEASE))
        await to_thread(os.waitpid, child, 0)
    (sent,) = await as_sent(await it.session(), "r") or []
    assert (sent.past, sent.attempt.window, sent.instructions) == (None, None, "Be quick.")
    assert [message.text for message in sent.requests[0].messages] == ["still there?"]
    assert sent.requests[0].answer is None


async def test_a_fork_knows_where_its_runs_ran(desk: Desks) -> None:
    it = desk(["One.", "Two.", LOOKS, "Three.", "Four."])
    agent = it.agent()
    await agent.run("1")
    await agent.run("2")
    run = await agent.run("3")
    session = await it.session()
    await session.pop()  # what is hidden is not copied: in the fork everything has another seq
    fork = await session.fork("f")
    (here,), (there,) = await as_sent(session, run.run_id) or [], await as_sent(fork, run.run_id) or []
    assert (here.copied, here.past, there.copied, there.past) == (False, 4, True, None)
    await agent.run("4", session=fork)
    (own,) = await as_sent(fork, (await fork.runs(last=1))[0].id) or []
    assert told(own.requests[0]) == got(it.server.requests[-1])


# --- on the terminal -------------------------------------------------------------------------------------------------


async def show(*words: str) -> Result:
    """In a thread: the command has an event loop of its own."""
    return await to_thread(CliRunner().invoke, app, ["sessions", "show", *words])


@pytest.fixture
async def shown(desk: Desks) -> tuple[Desk, list[str]]:
    """A desk with two runs, the second with tools and taken back since; and the ids of its runs."""
    it = desk(["Hello.", LOOKS, "Both have.", Answer(status=400)])
    agent = it.agent()
    runs = [(await agent.run(text, run_id=id)).run_id for text, id in (("hi", "one-1"), ("where are they?", "one-2"))]
    with pytest.raises(Exception, match="400"):
        await agent.run("hm", run_id="two")
    await (await it.session()).rewind(last=6)
    return it, [*runs, "two"]


async def test_the_terminal_tells_each_request_and_the_answer(shown: tuple[Desk, list[str]]) -> None:
    it, (_, run, _) = shown
    result = await show("s", "--as-sent", run, "-s", it.url)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("session", "run", "sent"))]
    assert told == [
        "instructions",
        "Be brief.",
        "request 1  2 messages of the past, about 9 tokens",
        *("user", "hi", "assistant", "Hello.", "user", "where are they?"),
        "request 2  all of request 1, and",
        *("assistant", "Let me see.", '→ look(order="A-17")', '→ look(order="A-18")'),
        *("tool", "← look: A-17 has shipped", "tool", "← look: A-18 has shipped"),
        "answer",
        "Both have.",
    ]


async def test_the_terminal_tells_of_a_summary_and_of_calls_left_out(desk: Desks) -> None:
    it = desk([LOOKS, "Both have.", "They have shipped.", "You are welcome."])
    agent = it.agent(history=History(tool_calls=1, summaries=Summaries(keep=0)))
    await agent.run("where are they?")
    assert await agent.compact() == "They have shipped."
    await agent.run("thank you", run_id="two")
    told = " ".join((await show("s", "--as-sent", "two", "-s", it.url)).stdout.split())
    assert "1 message of the past, about 27 tokens, the first a summary of what came before, with no more than 1 tool call " in told
    assert "They have shipped. user thank you" in told


async def test_a_run_is_named_by_its_id_the_beginning_of_it_or_last(shown: tuple[Desk, list[str]]) -> None:
    it, runs = shown
    for run, meant in ((runs[0], runs[0]), ("tw", "two"), ("last", "two")):
        told = json.loads((await show("s", "--as-sent", run, "--json", "-s", it.url)).stdout)
        assert (told["session_id"], told["run_id"]) == ("s", meant)
    assert "begins the ids of 2 runs: one-1, one-2" in (await show("s", "--as-sent", "one", "-s", it.url)).stderr
    missing = await show("s", "--as-sent", "three", "-s", it.url)
    assert (missing.exit_code, "has no run 'three'" in missing.stderr) == (2, True)


async def test_the_json_form_is_whole(shown: tuple[Desk, list[str]]) -> None:
    it, (_, run, failed) = shown
    (sent,) = json.loads((await show("s", "--as-sent", run, "--json", "-s", it.url)).stdout)["tries"]
    assert (sent["model"], sent["instructions"], sent["past"], sent["status"]) == ("gpt-5.2", "Be brief.", 2, "completed")
    assert [(len(request["messages"]), request["new"], request["whole"]) for request in sent["requests"]] == [(3, 3, True), (6, 3, True)]
    assert sent["requests"][1]["answer"] == {"role": "assistant", "parts": [{"type": "text", "content": "Both have."}]}
    (sent,) = json.loads((await show("s", "--as-sent", failed, "--json", "-s", it.url)).stdout)["tries"]
    assert (sent["status"], sent["requests"][0]["answer"]) == ("error", None)
    assert "no answer was stored" in (await show("s", "--as-sent", failed, "-s", it.url)).stdout


async def test_what_is_not_known_is_said(desk: Desks) -> None:
    it = desk([Answer(calls=(Call("kill_me", {"order": "A-19"}),)), "Yes."])
    it.in_a_child(lambda: Agent(it.model, tools=[kill_me], store=it.url, session_id="s").run("and A-19?", run_id="killed", lease=LEASE))
    await it.agent(kill_me).run("still there?")
    assert "request 1  what was sent of the past was not recorded" in (await show("s", "--as-sent", "killed", "-s", it.url)).stdout
    assert "tool  made up: no result is stored" in (await show("s", "--as-sent", "last", "-s", it.url)).stdout


async def test_the_terminal_goes_to_where_a_copied_run_ran(desk: Desks) -> None:
    it = desk(["One.", "Two."])
    agent = it.agent()
    await agent.run("1")
    run = await agent.run("2")
    await (await (await it.session()).fork("f")).fork("g")
    assert json.loads((await show("g", "--as-sent", run.run_id, "--json", "-s", it.url)).stdout)["session_id"] == "s"
    await it.store.delete("s")
    assert "known in session 's' alone" in " ".join((await show("g", "--as-sent", run.run_id, "-s", it.url)).stdout.split())
