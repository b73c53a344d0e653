"""Middleware, hooks and context providers: in which order, what each may change, and what is recorded of it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent as Structured

from holdfast import InvalidValue, Message, RunInfo, Session, Store, assistant, system, user
from holdfast.agents import (
    Agent,
    ContextProvider,
    HistoryProvider,
    InMemoryHistoryProvider,
    Middleware,
    ModelCall,
    Posthook,
    Prehook,
    RunContext,
    StepInput,
    ToolAnswered,
    ToolInvocation,
    Workflow,
    tool,
)
from holdfast.agents.around import Next
from holdfast.testing.model_server import Answer, call

from .conftest import Counting, Models, ended, only_run, output_of, sent, statuses, texts, there, told

BOTH = pytest.mark.parametrize("stream", [False, True])


async def notes(session: Session) -> list[dict[str, Any]]:
    return [msgspec.json.decode(it.body) for it in await session.entries(kinds=("note",))]


class Log(Middleware):
    """Notes what it is around."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    async def on_run(self, context: RunContext, call_next: Next) -> None:
        self.log.append(f"{self.name} run")
        await call_next()
        self.log.append(f"{self.name} ran {context.answer}")

    async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
        self.log.append(f"{self.name} model {call.number}")
        await call_next()
        self.log.append(f"{self.name} said {call.answer.text if call.answer else None}")

    async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
        self.log.append(f"{self.name} tool {call.name}{call.arguments}")
        await call_next()
        self.log.append(f"{self.name} gave {call.result}")


class Pre(Prehook):
    def __init__(self, gives: Any = None, log: list[str] | None = None) -> None:
        self.gives, self.log = gives, [] if log is None else log

    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
        self.log.append(f"pre {requests[-1].text}")
        return requests if self.gives is None else self.gives


class Shouting(Posthook):
    async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
        return str(reply).upper()


class Provider(ContextProvider):
    def __init__(self, source_id: str, log: list[str], *, text: str | None = None) -> None:
        super().__init__(source_id)
        self.log, self.text = log, text

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        self.log.append(f"{self.source_id} before")
        if self.text is not None:
            context.extend_messages(self.source_id, [user(self.text)])

    async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        self.log.append(f"{self.source_id} after {context.answer}")


def look(n: int) -> str:
    """Look."""
    return f"seen {n}"


# --- order -----------------------------------------------------------------------------------------------------------


@BOTH
async def test_everything_is_around_in_one_order(models: Models, memory: Store, stream: bool) -> None:
    log: list[str] = []

    class Post(Posthook):
        async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
            log.append(f"post {reply}")
            return reply

    agent = models.agent(
        [call("look", n=1), "ok"],
        store=memory,
        tools=[look],
        middleware=[Log("A", log), Log("B", log)],
        prehooks=[Pre(log=log)],
        posthooks=[Post()],
        context_providers=[Provider("P", log), Provider("Q", log)],
    )
    assert (await ended(agent, "hi", stream=stream, session_id="s")).content == "ok"
    assert log == [
        "A run",
        "B run",
        "pre hi",
        "P before",
        "Q before",
        "A model 1",
        "B model 1",
        "B said ",
        "A said ",
        "A tool look{'n': 1}",
        "B tool look{'n': 1}",
        "B gave seen 1",
        "A gave seen 1",
        "A model 2",
        "B model 2",
        "B said ok",
        "A said ok",
        "Q after ok",
        "P after ok",
        "post ok",
        "B ran ok",
        "A ran ok",
    ]


# --- hooks -----------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_prehook_changes_what_is_sent_and_not_what_was_said(models: Models, memory: Store, stream: bool) -> None:
    first, second = Pre([user("rule"), user("hi!")]), Pre()
    agent = models.agent(["ok"], store=memory, prehooks=[first, second])
    await ended(agent, "hi", stream=stream, session_id="s")
    assert sent(models.requests[0]) == ["rule", "hi!"]
    assert second.log == ["pre hi!"]
    session = await there(agent, "s")
    assert await texts(session) == ["hi", "ok"]
    assert [[part["content"] for it in note["input"] for part in it["parts"]] for note in await notes(session)] == [["rule", "hi!"]]


@BOTH
@pytest.mark.parametrize("reply", ["No.", assistant("No.")], ids=["text", "message"])
async def test_a_prehook_that_answers_ends_the_run_and_what_it_wrote_is_kept(
    models: Models, memory: Store, stream: bool, reply: Any
) -> None:
    class Limit(Prehook):
        async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
            session.state["tries"] = session.state.get("tries", 0) + 1
            return reply

    later = Pre()
    agent = models.agent([], store=memory, prehooks=[Limit(), later], context_providers=[Provider("P", later.log)], posthooks=[Shouting()])
    for _ in range(3):
        assert (await ended(agent, "hi", stream=stream, session_id="s")).content == "No."
    session = await there(agent, "s")
    assert (session.state["tries"], await texts(session), models.requests, later.log) == (3, ["hi", "No."] * 3, [], [])
    assert await statuses(session) == ["completed"] * 3


@pytest.mark.parametrize("made", [None, [], 5, ["hi"]], ids=repr)
async def test_a_prehook_that_returns_nothing_of_use_is_named(chat: Models, memory: Store, made: Any) -> None:
    class Wrong(Prehook):
        async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
            return made

    agent = chat.agent([], store=memory, prehooks=[Wrong()])
    with pytest.raises(InvalidValue, match="prehook Wrong returned"):
        await agent.run("hi", session_id="s")
    assert await statuses(await there(agent, "s")) == ["error"]


@BOTH
async def test_a_posthook_has_the_last_word_and_the_models_own_is_on_record(models: Models, memory: Store, stream: bool) -> None:
    agent = models.agent(["ok", "again"], store=memory, posthooks=[Shouting()])
    assert (await ended(agent, "hi", stream=stream, session_id="s")).content == "OK"
    session = await there(agent, "s")
    assert await texts(session) == ["hi", "OK"]
    (note,) = await notes(session)
    assert (note["type"], note["message"]["parts"][0]["content"]) == ("replaced", "ok")
    await agent.run("more", session_id="s")
    assert sent(models.requests[1]) == ["hi", "OK", "more"]


class Gives(Posthook):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
        return self.make(reply)


class Sets(Middleware):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    async def on_run(self, context: RunContext, call_next: Next) -> None:
        await call_next()
        context.answer = self.make(context.answer)


class Card(BaseModel):
    number: str


@dataclass
class Bill:
    card: Card
    due: datetime.date


def hide(card: Card) -> Card:
    card.number = "****"
    return card


def another(card: Card) -> Card:
    return Card(number="****")


def as_words(card: Card) -> str:
    return "a card"


BILL = Bill(Card(number="****"), datetime.date(2026, 5, 1))


@pytest.mark.parametrize("where", ["posthooks", "middleware"])
@pytest.mark.parametrize(
    ("made", "given", "again", "said"),
    [
        ({"a": [1]}, {"a": [1]}, {"a": [1]}, '{"a":[1]}'),
        (3, 3, 3, "3"),
        (None, None, None, ""),
        (assistant("from a message"), "from a message", "from a message", "from a message"),
        (BILL, BILL, {"card": {"number": "****"}, "due": "2026-05-01"}, '{"card":{"number":"****"},"due":"2026-05-01"}'),
    ],
    ids=["dict", "int", "none", "message", "dataclass"],
)
async def test_what_the_caller_is_given_is_what_is_stored(
    models: Models, memory: Store, where: str, made: Any, given: Any, again: Any, said: str
) -> None:
    around: dict[str, Any] = {"posthooks": [Gives(lambda _: made)]} if where == "posthooks" else {"middleware": [Sets(lambda _: made)]}
    agent = models.agent(["card 4111", "ok"], store=memory, **around)
    assert (await agent.run("hi", session_id="s", run_id="r")).content == given
    assert (await agent.run("hi", session_id="s", run_id="r")).content == again
    assert await texts(await there(agent, "s")) == ["hi", said]
    await models.agent(models.servers[-1], store=memory).run("more", session_id="s")
    assert sent(models.requests[1]) == [it for it in ("hi", said, "more") if it]


@pytest.mark.parametrize("make", [hide, another, as_words])
async def test_a_structured_answer_that_a_hook_redacts_stays_so(chat: Models, memory: Store, make: Any) -> None:
    server = chat.serve([call("final_result", number="4111"), "ok"])
    engine = Structured(chat.impatient(server), output_type=Card)
    agent = Agent(engine, store=memory, posthooks=[Gives(make)])
    first = await agent.run("hi", session_id="s", run_id="r")
    again = (await agent.run("hi", session_id="s", run_id="r")).content
    assert again == (first.content if isinstance(first.content, str) else {"number": "****"})
    assert len(first.messages) == 2
    session = await there(agent, "s")
    assert "4111" not in str(await session.get_messages())
    await chat.agent(server, store=memory).run("more", session_id="s")
    assert "4111" not in str(server.requests[1].body)


async def test_an_answer_that_has_no_stored_form_is_named(chat: Models, memory: Store) -> None:
    agent = chat.agent(["ok"], store=memory, posthooks=[Gives(lambda _: {"socket": object()})])
    with pytest.raises(InvalidValue, match=r"the answer \{'socket': <object .*can't be stored: .*hook"):
        await agent.run("hi", session_id="s")
    assert await statuses(await there(agent, "s")) == ["error"]


async def test_a_posthook_sees_what_was_asked_and_may_write(chat: Models, memory: Store) -> None:
    class Audit(Posthook):
        async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
            session.state["audit"] = [it.text for it in requests] + [reply, agent.name]
            return reply

    agent = chat.agent(["ok"], store=memory, posthooks=[Audit()], name="desk")
    await agent.run("hi", session_id="s")
    assert (await there(agent, "s")).state["audit"] == ["hi", "ok", "desk"]


def test_a_hook_has_a_name() -> None:
    assert (Pre().name(), Shouting().name()) == ("Pre", "Shouting")


# --- middleware ------------------------------------------------------------------------------------------------------


class Cached(Middleware):
    """Answers without the model."""

    async def on_run(self, context: RunContext, call_next: Next) -> None:
        context.answer = f"cached {context.input[-1].text}"


class Canned(Middleware):
    async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
        call.answer = assistant("canned")


class Stub(Middleware):
    async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
        call.result = f"stub {call.arguments['n']}"


@pytest.mark.parametrize("given", ["canned", assistant("canned"), 7], ids=["text", "message", "neither"])
async def test_a_model_call_is_answered_with_text_or_a_message(chat: Models, memory: Store, given: Any) -> None:
    class Gives(Middleware):
        async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
            call.answer = given

    running = chat.agent([], store=memory, middleware=[Gives()]).run("hi", session_id="s")
    if given == 7:
        with pytest.raises(InvalidValue, match="answered 7: set call"):
            await running
    else:
        assert (await running).content == "canned"


@BOTH
async def test_a_run_may_be_answered_without_the_model(models: Models, memory: Store, stream: bool) -> None:
    agent = models.agent([], store=memory, middleware=[Cached()])
    assert (await ended(agent, "hi", stream=stream, session_id="s")).content == "cached hi"
    assert (await texts(await there(agent, "s")), models.requests) == (["hi", "cached hi"], [])


async def test_a_run_that_middleware_leaves_without_an_answer_has_none(chat: Models, memory: Store) -> None:
    class Swallow(Middleware):
        async def on_run(self, context: RunContext, call_next: Next) -> None:
            return

    agent = chat.agent([], store=memory, middleware=[Swallow()])
    output = await agent.run("hi", session_id="s")
    assert (output.status, output.content, await texts(await there(agent, "s"))) == ("completed", None, ["hi"])


async def test_a_model_call_may_be_answered_without_the_model(models: Models, memory: Store) -> None:
    agent = models.agent([], store=memory, middleware=[Canned()])
    assert (await agent.run("hi", session_id="s")).content == "canned"
    assert (await texts(await there(agent, "s")), models.requests) == (["hi", "canned"], [])


async def test_what_a_model_call_is_sent_and_says_may_be_changed(models: Models, memory: Store) -> None:
    class Mask(Middleware):
        async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
            call.messages = [user(it.text.replace("4111", "****")) if it.role == "user" else it for it in call.messages]
            await call_next()
            assert call.answer is not None
            call.answer = assistant(call.answer.text.replace("****", "4111"))

    agent = models.agent(["Your card is ****."], store=memory, middleware=[Mask()])
    assert (await agent.run("My card is 4111", session_id="s")).content == "Your card is 4111."
    assert sent(models.requests[0]) == ["My card is ****"]
    assert await texts(await there(agent, "s")) == ["My card is 4111", "Your card is 4111."]


@BOTH
async def test_a_tool_call_may_be_answered_without_the_tool(models: Models, memory: Store, stream: bool) -> None:
    agent = models.agent([call("look", n=7), "ok"], store=memory, tools=[look], middleware=[Stub()])
    await ended(agent, "hi", stream=stream, session_id="s")
    assert sent(models.requests[1])[-1] == "=stub 7"


async def test_arguments_and_results_of_a_tool_may_be_changed(models: Models, memory: Store) -> None:
    class Double(Middleware):
        async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
            call.arguments["n"] *= 2
            await call_next()
            call.result += "!"

    agent = models.agent([call("look", n=7), "ok"], store=memory, tools=[look], middleware=[Double()])
    events = await told(agent.run("hi", session_id="s", stream=True))
    assert [it.response for it in events if isinstance(it, ToolAnswered)] == ["seen 14!"]
    assert (await texts(await there(agent, "s")))[2] == "=seen 14!"


@pytest.mark.parametrize("where", ["on_run", "on_model_call"])
async def test_what_middleware_raises_is_the_runs_error_and_the_input_is_kept(chat: Models, memory: Store, where: str) -> None:
    class Broken(Middleware):
        pass

    async def broken(self: Any, it: Any, call_next: Next) -> None:
        raise RuntimeError("broken middleware")

    setattr(Broken, where, broken)
    agent = chat.agent(["ok"], store=memory, middleware=[Broken()])
    with pytest.raises(RuntimeError, match="broken middleware"):
        await agent.run("hi", session_id="s")
    session = await there(agent, "s")
    assert (await texts(session), (await only_run(session)).status, (await only_run(session)).error) == (["hi"], "error", "RuntimeError")


async def test_what_middleware_raises_around_a_tool_ends_the_run_too(chat: Models, memory: Store) -> None:
    class Guard(Middleware):
        async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
            raise PermissionError("not for you")

    agent = chat.agent([call("look", n=1)], store=memory, tools=[look], middleware=[Guard()])
    with pytest.raises(PermissionError, match="not for you"):
        await agent.run("hi", session_id="s")
    assert (await only_run(await there(agent, "s"))).error == "PermissionError"


@pytest.mark.parametrize("given", [[system("be kind"), user("hi")], [user("a"), assistant("b"), user("hi")]], ids=["system", "assistant"])
async def test_no_kind_of_input_goes_around_a_prehook(chat: Models, memory: Store, given: list[Message]) -> None:
    agent = chat.agent([], store=memory, prehooks=[Pre("No.")])
    assert (await agent.run(given, session_id="s")).content == "No."


async def test_what_middleware_raises_after_the_model_keeps_what_was_said(chat: Models, memory: Store) -> None:
    class Late(Middleware):
        async def on_run(self, context: RunContext, call_next: Next) -> None:
            await call_next()
            raise RuntimeError("too late")

    agent = chat.agent([call("look", n=1), "ok"], store=memory, tools=[look], middleware=[Late()])
    with pytest.raises(RuntimeError, match="too late"):
        await agent.run("hi", session_id="s")
    assert (await texts(await there(agent, "s")))[:3] == ["hi", "look()", "=seen 1"]


async def test_a_prehook_or_provider_that_raises_is_the_runs_error(chat: Models, memory: Store) -> None:
    class Bad(ContextProvider):
        async def before_run(self, **_: Any) -> None:
            raise LookupError("no index")

    agent = chat.agent([], store=memory, context_providers=[Bad("bad")])
    with pytest.raises(LookupError, match="no index"):
        await agent.run("hi", session_id="s")
    assert (await only_run(await there(agent, "s"))).error == "LookupError"


async def test_middleware_shares_what_it_knows_of_the_run(chat: Models, memory: Store) -> None:
    seen: list[Any] = []

    class One(Middleware):
        async def on_run(self, context: RunContext, call_next: Next) -> None:
            context.metadata["who"] = "one"
            await call_next()

    class Two(Middleware):
        async def on_run(self, context: RunContext, call_next: Next) -> None:
            seen.extend([context.metadata["who"], context.session.id, context.agent.name, [it.text for it in context.input]])
            await call_next()

    await chat.agent(["ok"], store=memory, middleware=[One(), Two()], name="a").run("hi", session_id="s")
    assert seen == ["one", "s", "a", ["hi"]]


# --- providers -------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_provider_adds_messages_instructions_and_tools(models: Models, memory: Store, stream: bool) -> None:
    class Rag(ContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            context.extend_messages(self.source_id, [user("Ants are small.")])
            context.extend_instructions(self.source_id, "Be kind.")
            context.extend_tools(self.source_id, [look])

    server = models.serve([call("look", n=1), "ok", "fine"])
    agent = Agent(models.model(server), store=memory, instructions="Be short.", context_providers=[Rag("rag")])
    await ended(agent, "hi", stream=stream, session_id="s")
    assert sent(server.requests[0]) == ["Ants are small.", "hi"]
    assert "Be short.\\n\\nBe kind." in str(server.requests[0].body).replace("\n", "\\n")
    assert sent(server.requests[1])[-1] == "=seen 1"
    session = await there(agent, "s")
    assert (await texts(session))[-4:] == ["hi", "look()", "=seen 1", "ok"]
    (note,) = await notes(session)
    assert [it["parts"][0]["content"] for it in note["context"]["rag"]] == ["Ants are small."]
    assert note["instructions"] == ["Be kind."]
    await agent.run("more", session_id="s", stream=False)
    assert sent(server.requests[2]) == ["hi", "look()", "=seen 1", "ok", "Ants are small.", "more"], "what was added is sent once"


async def test_a_provider_s_tool_has_a_name_of_its_own(chat: Models, memory: Store) -> None:
    class Tools(ContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            context.extend_tools(self.source_id, [look])

    agent = chat.agent([], store=memory, tools=[look], context_providers=[Tools("T")])
    with pytest.raises(InvalidValue, match="two are called 'look'"):
        await agent.run("hi", session_id="s")


async def test_a_provider_has_a_state_of_its_own_in_the_session(models: Models, memory: Store) -> None:
    class Counter(ContextProvider):
        async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            state["runs"] = state.get("runs", 0) + 1

        async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
            state.setdefault("answers", []).append(context.answer)

    agent = models.agent(["a", "b"], store=memory, context_providers=[Counter("one"), Counter("two")])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    session = await there(agent, "s")
    assert {name: session.state[name] for name in ("one", "two")} == {
        "one": {"runs": 2, "answers": ["a", "b"]},
        "two": {"runs": 2, "answers": ["a", "b"]},
    }


class Kept(HistoryProvider):
    """A history in a dict."""

    def __init__(self, source_id: str = "kept", **flags: Any) -> None:
        super().__init__(source_id, **flags)
        self.messages: dict[str, list[Message]] = {}

    async def get_messages(self, session_id: str, *, state: dict[str, Any]) -> list[Message]:
        return list(self.messages.get(session_id, []))

    async def save_messages(self, session_id: str, messages: Sequence[Message], *, state: dict[str, Any]) -> None:
        self.messages.setdefault(session_id, []).extend(messages)

    @property
    def texts(self) -> list[str]:
        return [it.text for it in self.messages.get("s", [])]


@BOTH
async def test_a_history_of_ones_own_is_the_one_source_and_the_session_keeps_its_record(
    models: Models, memory: Store, stream: bool
) -> None:
    kept = Kept()
    kept.messages["s"] = [user("before"), assistant("long ago")]
    agent = models.agent(["a", "b"], store=memory, context_providers=[kept])
    for prompt in ("1", "2"):
        await ended(agent, prompt, stream=stream, session_id="s")
    assert sent(models.requests[1]) == ["before", "long ago", "1", "a", "2"]
    assert kept.texts == ["before", "long ago", "1", "a", "2", "b"]
    assert await texts(await there(agent, "s")) == ["1", "a", "2", "b"]


@pytest.mark.parametrize(
    ("flags", "kept", "second"),
    [
        ({}, ["1", "a", "2", "b"], ["1", "a", "note", "2"]),
        ({"load_messages": False}, ["1", "a", "2", "b"], ["1", "a", "note", "2"]),
        ({"store_inputs": False}, ["a", "b"], ["a", "note", "2"]),
        ({"store_outputs": False}, ["1", "2"], ["1", "note", "2"]),
        ({"store_context_messages": True}, ["note", "1", "a", "note", "2", "b"], ["note", "1", "a", "note", "2"]),
        ({"store_context_messages": True, "store_context_from": {"other"}}, ["1", "a", "2", "b"], ["1", "a", "note", "2"]),
        (
            {"store_context_messages": True, "store_context_from": {"P"}, "store_inputs": False, "store_outputs": False},
            ["note", "note"],
            ["note", "note", "2"],
        ),
    ],
)
async def test_what_a_history_keeps_is_chosen(
    chat: Models, memory: Store, flags: dict[str, Any], kept: list[str], second: list[str]
) -> None:
    history = Kept(**flags)
    agent = chat.agent(["a", "b"], store=memory, context_providers=[Provider("P", [], text="note"), history])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    assert (history.texts, sent(chat.requests[1])) == (kept, second)


async def test_a_history_keeps_the_input_and_the_answer_of_a_run_that_waited(chat: Models, memory: Store) -> None:
    """So does a posthook see the input, and not what was done meanwhile."""

    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    seen: list[list[str]] = []

    class Looks(Posthook):
        async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
            seen.append([it.text for it in requests])
            return reply

    kept = Kept()
    agent = chat.agent([call("pay"), "Paid.", "Yes."], store=memory, tools=[pay], context_providers=[kept], posthooks=[Looks()])
    paused = await agent.run("pay", session_id="s")
    await agent.continue_run(paused, [paused.requirements[0].approve()])
    await agent.run("was it?", session_id="s")
    assert kept.texts == ["pay", "Paid.", "was it?", "Yes."]
    assert sent(chat.requests[2]) == ["pay", "Paid.", "was it?"]
    assert [it for it in seen if it] == [["pay"], ["was it?"]]


async def test_the_sessions_own_history_by_its_other_name(models: Models, memory: Store) -> None:
    server = models.serve(["a", "b", "c"])
    agent = Agent(models.model(server), store=memory, context_providers=[InMemoryHistoryProvider()])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    assert sent(server.requests[1]) == ["1", "a", "2"]
    quiet = Agent(models.model(server), store=memory, context_providers=[InMemoryHistoryProvider(load_messages=False)])
    await quiet.run("3", session_id="s")
    assert sent(server.requests[2]) == ["3"]
    assert await texts(await there(agent, "s")) == ["1", "a", "2", "b", "3", "c"]


async def test_a_history_beside_the_sessions_own_name_is_still_one_source(chat: Models, memory: Store) -> None:
    kept = Kept()
    agent = chat.agent(["a", "b"], store=memory, context_providers=[InMemoryHistoryProvider(), kept])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    assert sent(chat.requests[1]) == ["1", "a", "2"], "nothing is sent twice"


async def test_an_audit_keeps_everything_and_is_no_source(chat: Models, memory: Store) -> None:
    audit = Kept("audit", load_messages=False)
    agent = chat.agent(["a", "b"], store=memory, context_providers=[audit])
    for prompt in ("1", "2"):
        await agent.run(prompt, session_id="s")
    assert (audit.texts, sent(chat.requests[1])) == (["1", "a", "2", "b"], ["1", "a", "2"])


async def test_a_failed_run_is_not_saved_by_a_history_and_is_in_the_session(chat: Models, memory: Store) -> None:
    kept = Kept()
    agent = chat.agent([Answer(status=400)], store=memory, context_providers=[kept])
    with pytest.raises(Exception, match="400"):
        await agent.run("hi", session_id="s")
    assert (kept.texts, await texts(await there(agent, "s"))) == ([], ["hi"])


# --- pauses, and the cost --------------------------------------------------------------------------------------------


async def test_a_run_that_goes_on_does_not_ask_its_prehooks_again(models: Models, memory: Store) -> None:
    pre = Pre()
    log: list[str] = []

    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    agent = models.agent(
        [call("pay"), "ok"], store=memory, tools=[pay], prehooks=[pre], posthooks=[Shouting()], context_providers=[Provider("P", log)]
    )
    paused = await agent.run("hi", session_id="s")
    assert (paused.status, log) == ("paused", ["P before"]), "what comes after a run comes after its end"
    done = await agent.continue_run(paused, [paused.requirements[0].approve()])
    assert (done.content, pre.log, log) == ("OK", ["pre hi"], ["P before", "P before", "P after ok"])


async def test_a_run_that_failed_in_the_model_asks_them_anew(chat: Models, memory: Store) -> None:
    """Nothing was said yet: what they would have sent is not stored, so they have their say again."""
    pre = Pre([user("rewritten")])
    agent = chat.agent([Answer(status=400), "ok"], store=memory, prehooks=[pre])
    with pytest.raises(Exception, match="400"):
        await agent.run("hi", session_id="s", run_id="r")
    assert (await agent.run("hi", session_id="s", run_id="r")).content == "ok"
    assert [sent(it) for it in chat.requests] == [["rewritten"], ["rewritten"]]
    assert pre.log == ["pre hi"] * 2


async def test_what_a_prehook_rewrote_is_what_a_continued_run_sends(models: Models, memory: Store) -> None:
    """The model that asked for the tool is told the same story when the tool has answered."""

    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    agent = models.agent([call("pay"), call("pay"), "ok"], store=memory, tools=[pay], prehooks=[Pre([user("a secret is kept")])])
    paused = await agent.run("the secret is 42", session_id="s")
    again = await agent.continue_run(paused, [paused.requirements[0].approve()])
    await agent.continue_run(again, [again.requirements[0].approve()])
    assert sent(models.requests[0]) == ["a secret is kept"]
    assert sent(models.requests[1]) == ["a secret is kept", "pay()", "=paid"]
    assert sent(models.requests[2]) == ["a secret is kept", "pay()", "=paid", "pay()", "=paid"]
    assert (await texts(await there(agent, "s")))[0] == "the secret is 42"


TRANSCRIPT = [user("hello"), assistant("hi"), user("the secret is 42")]


def redacted(messages: list[Message]) -> list[Message]:
    return [user(it.text.replace("42", "[kept]")) if it.role == "user" else it for it in messages]


class Redact(Prehook):
    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> list[Message]:
        return [user("Example."), assistant("Answer."), *redacted(requests)]


class Redacting(Middleware):
    async def on_run(self, context: RunContext, call_next: Next) -> None:
        context.input = redacted(context.input)
        await call_next()


@pytest.mark.parametrize(
    ("around", "more"),
    [({"prehooks": [Redact()]}, ["Example.", "Answer."]), ({"middleware": [Redacting()]}, [])],
    ids=["hook", "middleware"],
)
async def test_what_was_made_of_an_input_with_an_answer_in_it_is_what_a_continued_run_sends(
    models: Models, memory: Store, around: Any, more: list[str]
) -> None:
    @tool(confirm=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    agent = models.agent([call("pay"), call("pay"), "ok"], store=memory, tools=[pay], **around)
    run = await agent.run(TRANSCRIPT, session_id="s")
    for _ in range(2):
        run = await agent.continue_run(run, [run.requirements[0].approve()])
    first = [*more, "hello", "hi", "the secret is [kept]"]
    assert [sent(it) for it in models.requests] == [[*first, *["pay()", "=paid"] * times] for times in range(3)]
    assert [it.text for it in run.messages[:3]] == [it.text for it in TRANSCRIPT]


async def test_a_prehook_that_failed_is_asked_again_whatever_the_input(chat: Models, memory: Store) -> None:
    class Moderation(Prehook):
        asked = 0

        async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise ConnectionError("moderation is down")
            return "hi"  # what the assistant says in the input too

    agent = chat.agent([], store=memory, prehooks=[Moderation()])
    with pytest.raises(ConnectionError, match="moderation"):
        await agent.run(TRANSCRIPT, session_id="s", run_id="r")
    assert (await agent.run(TRANSCRIPT, session_id="s", run_id="r")).content == "hi"
    assert await texts(await there(agent, "s")) == ["hello", "hi", "the secret is 42", "hi"]


async def test_what_is_around_costs_no_request_to_the_store(chat: Models, counting: Counting, counted: Store) -> None:
    log: list[str] = []
    agent = chat.agent(
        lambda _: "ok",
        store=counted,
        middleware=[Log("A", log)],
        prehooks=[Pre()],
        posthooks=[Shouting()],
        context_providers=[Provider("P", log, text="note")],
    )
    await agent.run("warm", session_id="s")
    counting.made.clear()
    await agent.run("hi", session_id="s")
    assert counting.made == ["commit", "commit"]


@BOTH
async def test_a_streamed_answer_that_a_hook_replaced_ends_with_the_replacement(chat: Models, memory: Store, stream: bool) -> None:
    agent = chat.agent(["a long answer in pieces"], store=memory, posthooks=[Shouting()])
    if not stream:
        assert (await agent.run("hi", session_id="s")).content == "A LONG ANSWER IN PIECES"
        return
    events = await told(agent.run("hi", session_id="s", stream=True))
    assert output_of(events).content == "A LONG ANSWER IN PIECES"


async def test_a_cancelled_run_leaves_middleware_in_order(chat: Models, memory: Store) -> None:
    log: list[str] = []
    begun = asyncio.Event()

    class Close(Middleware):
        async def on_run(self, context: RunContext, call_next: Next) -> None:
            try:
                await call_next()
            finally:
                log.append("closed")

    async def wait() -> str:
        """Wait."""
        begun.set()
        await asyncio.sleep(30)
        return "never"

    agent = chat.agent([call("wait")], store=memory, tools=[wait], middleware=[Close()])
    task = asyncio.create_task(agent.run("hi", session_id="s"))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run: RunInfo = await only_run(await there(agent, "s"))
    assert (run.status, log) == ("cancelled", ["closed"])


async def test_a_workflow_takes_all_of_it_too(memory: Store) -> None:
    log: list[str] = []

    def step(given: StepInput) -> str:
        return given.input + "!"

    flow = Workflow([step], name="flow", store=memory, middleware=[Log("A", log)], posthooks=[Shouting()])
    assert (await flow.run("go", session_id="s")).content == "GO!"
    assert [it for it in log if " r" in it] == ["A run", "A ran GO!"]


def test_what_does_not_belong_is_refused_when_the_agent_is_made(chat: Models) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"middleware": [Pre()]}, "is no Middleware"),
        ({"prehooks": Pre()}, "give a list of Prehook"),
        ({"posthooks": [Shouting]}, r"give Shouting\(\)"),
        ({"context_providers": "kept"}, "give a list"),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidValue, match=message):
            chat.agent([], **options)
