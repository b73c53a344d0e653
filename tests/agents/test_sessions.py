"""Sessions as agents see them: made, given, forked, moved, named, expired."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from holdfast import InvalidValue, Session, SessionGone, SessionNotFound, Store, UsageError, assistant, user
from holdfast.agents import Agent
from holdfast.testing.model_server import Answer, Request, call

from .conftest import Counting, Models, sent, texts, there


def echo(request: Request) -> str:
    return f"to {sent(request)[-1]}"


async def test_a_session_of_no_store_is_taken_by_its_first_run(models: Models, store: Store) -> None:
    def look(session: Session) -> str:
        return str(session.get("likes"))

    agent = models.agent([call("look"), "ok"], store=store, tools=[look])
    session = Session("s", user_id="ada")
    session.set("likes", {"tea"})
    session.state["since"] = datetime(2026, 1, 2, tzinfo=UTC)
    await agent.run("hi", session=session)
    found = await there(agent, "s", "ada")
    assert (found.get("likes"), found.get("since")) == ({"tea"}, datetime(2026, 1, 2, tzinfo=UTC))
    assert (await texts(session))[2] == "={'tea'}"


async def test_a_session_of_no_store_that_is_there_already(chat: Models, store: Store) -> None:
    before = await store.session("s")
    before.set("old", 1)
    await before.append(user("one"), assistant("two"))
    session = Session("s")
    session.set("new", 2)
    await chat.agent(["ok"], store=store).run("three", session=session)
    assert sent(chat.requests[0]) == ["one", "two", "three"]
    assert (session.get("old"), session.get("new")) == (1, 2)
    await before.refresh()
    assert (before.get("old"), before.get("new")) == (1, 2)


async def test_a_session_is_moved_as_a_dict(models: Models, store: Store) -> None:
    agent = models.agent(["a", "b"], store=store)
    session = agent.create_session("s", user_id="ada")
    session.state["theme"] = "dark"
    await agent.run("one", session=session)
    again = Session.from_dict(session.to_dict())
    assert (again.id, again.user_id, again.state["theme"]) == ("s", "ada", "dark")
    await agent.run("two", session=again)
    assert sent(models.requests[1]) == ["one", "a", "two"]


async def test_a_session_of_another_store_stays_there(chat: Models, store: Store) -> None:
    agent = chat.agent(["ok"])
    session = await store.session("s")
    await agent.run("hi", session=session)
    assert await agent.get_session("s") is None
    assert await texts(await store.session("s")) == ["hi", "ok"]


async def test_a_fork_is_continued_on_its_own(models: Models, store: Store) -> None:
    def look(n: int) -> int:
        return n

    agent = models.agent([call("look", n=1), "a", "b", "c"], store=store, tools=[look])
    await agent.run("one", session_id="s")
    fork = await (await there(agent, "s")).fork("t")
    await agent.run("two", session=fork)
    await agent.run("three", session_id="s")
    assert sent(models.requests[2]) == ["one", "look()", "=1", "a", "two"]
    assert sent(models.requests[3]) == ["one", "look()", "=1", "a", "three"]


@pytest.mark.parametrize("at", range(8))
async def test_a_fork_or_a_rewind_at_any_place_leaves_a_valid_history(models: Models, memory: Store, at: int) -> None:
    def look(n: int) -> int:
        return n

    agent = models.agent([call("look", n=1), call("look", n=2), "a", "b", "c"], store=memory, tools=[look])
    await agent.run("one", session_id="s")
    session = await there(agent, "s")
    fork = await session.fork("t", at=at)
    assert (await agent.run("two", session=fork)).content == "b"
    await session.rewind(to=at)
    assert (await agent.run("two", session=session)).content == "c"
    assert sent(models.requests[-1]) == sent(models.requests[-2])


async def test_one_handle_in_two_tasks(chat: Models, store: Store) -> None:
    agent = chat.agent(echo, store=store)
    session = agent.create_session("s")
    await asyncio.gather(agent.run("a", session=session), agent.run("b", session=session))
    log = await texts(await there(agent, "s"))
    assert log in (["a", "to a", "b", "to b"], ["b", "to b", "a", "to a"])


async def test_a_handle_that_is_behind_goes_on(chat: Models, store: Store) -> None:
    agent = chat.agent(echo, store=store)
    session = agent.create_session("s")
    await agent.run("a", session=session)
    await agent.run("b", session_id="s")
    (await there(agent, "s")).set("x", 1)
    await agent.run("c", session=session)
    assert sent(chat.requests[-1]) == ["a", "to a", "b", "to b", "c"]


async def test_a_handle_of_a_life_that_has_ended(chat: Models, store: Store) -> None:
    agent = chat.agent(echo, store=store)
    session = agent.create_session("s")
    await agent.run("a", session=session)
    await store.delete("s")
    with pytest.raises(SessionGone):
        await agent.run("b", session=session)
    assert len(chat.requests) == 1
    assert not await store.has("s")


async def test_a_session_that_has_expired_begins_anew(models: Models, tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/chat.db", ttl=0.2) as store:
        agent = models.agent(["a", "b"], store=store)
        await agent.run("my secret", session_id="s", user_id="ada")
        await asyncio.sleep(0.25)
        assert await agent.get_session("s", user_id="ada") is None
        await agent.run("hi", session_id="s", user_id="bob")
        assert sent(models.requests[1]) == ["hi"]


async def test_a_cleared_session_begins_anew(models: Models, store: Store) -> None:
    agent = models.agent(["a", "b"], store=store)
    session = agent.create_session("s")
    await agent.run("my secret", session=session)
    session.clear()
    session.set("kept", 1)
    await agent.run("hi", session=session)
    assert sent(models.requests[1]) == ["hi"]
    assert (await texts(await there(agent, "s")), session.get("kept")) == (["hi", "b"], 1)


async def test_sessions_kept_in_memory_are_right(models: Models, tmp_path: Path) -> None:
    """Two agents with caches of their own on one file, as on two hosts: each sees what the other did."""
    url = f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url) as one, Store.open(url) as two:
        server = models.serve(echo)
        agents = [models.agent(server, store=store, cache_session=True) for store in (one, two)]
        for n in range(6):
            await agents[n % 2].run(f"q{n}", session_id="s")
        assert sent(server.requests[-1])[:-1] == [text for n in range(5) for text in (f"q{n}", f"to q{n}")]
        await (await there(agents[0], "s")).rewind(last=2)
        await agents[1].run("again", session_id="s")
        assert "q5" not in sent(server.requests[-1])


async def test_stores_by_url_are_shared_and_opened_when_used(chat: Models, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    one, two = chat.agent(echo, store=url), chat.agent(echo, store=url)
    assert one.store is two.store
    assert not (tmp_path / "chat.db").exists()
    await one.run("a", session_id="s")
    await two.run("b", session_id="s")
    assert sent(chat.requests[-1]) == ["a", "to a", "b"]
    await one.store.close()


async def test_said_once_that_sessions_are_kept_in_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, memory: Store
) -> None:
    monkeypatch.setattr("holdfast.agents.agent._said_once", count())
    await Agent("test", store=memory).run("hi")
    assert caplog.records == []
    agents = [Agent("test"), Agent("test")]
    for agent in agents * 2:
        await agent.run("hi", session_id="s")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["no store was given"]
    assert agents[0].store is not agents[1].store


# --- what an agent tells of its sessions -----------------------------------------------------------------------------


async def test_chat_history(models: Models, store: Store) -> None:
    def look() -> str:
        return "seen"

    agent = models.agent([call("look"), "a", "b"], store=store, tools=[look], instructions="be kind", session_id="s")
    await agent.run("one")
    await agent.run("two")
    assert [(it.role, it.text) for it in await agent.get_chat_history()] == [
        ("user", "one"),
        ("assistant", "a"),
        ("user", "two"),
        ("assistant", "b"),
    ]
    assert [it.text for it in await agent.get_chat_history("s", last=3)] == ["a", "two", "b"]
    with pytest.raises(SessionNotFound, match="'nobody'"):
        await agent.get_chat_history("nobody")


async def test_no_id_is_a_clear_error(chat: Models, counting: Counting, counted: Store) -> None:
    agent = chat.agent(echo, store=counted)
    for asked in (agent.get_session, agent.get_chat_history, agent.get_session_name):
        with pytest.raises(InvalidValue, match="session_id"):
            await asked()
    assert counting.count == 0


# --- names -----------------------------------------------------------------------------------------------------------


async def test_a_name_is_set_read_and_taken_away(chat: Models, store: Store) -> None:
    agent = chat.agent(echo, store=store, session_id="s")
    await agent.run("hi")
    assert await agent.get_session_name() is None
    named = await agent.set_session_name(session_name="Orders")
    assert (named.name, await agent.get_session_name("s")) == ("Orders", "Orders")
    with pytest.raises(SessionNotFound):
        await agent.set_session_name("nobody", "x")
    for wrong in ({}, {"session_name": "x", "autogenerate": True}):
        with pytest.raises(InvalidValue, match="autogenerate"):
            await agent.set_session_name("s", **wrong)  # type: ignore[arg-type]
    assert len(chat.requests) == 1


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Late order", "Late order"),
        ('"Late order."', "Late order"),
        ("# **Late order**\n\nHere is why", "Late order"),
        ("one two three four five six seven", "one two three four five"),
        ("  \n\n Late\torder \n", "Late order"),
        ("x" * 500, "x" * 80),
        ("", "Where is my order 7"),
        ("''", "Where is my order 7"),
        ("...", "Where is my order 7"),
        ("\U0001f600 Привет мир", "\U0001f600 Привет мир"),
    ],
)
async def test_a_name_the_model_makes(models: Models, memory: Store, said: str, name: str) -> None:
    agent = models.agent(["on its way", said, said, said], store=memory, session_id="s", instructions="be kind")
    await agent.run("Where is my order 7 please?")
    before = await there(agent, "s")
    session = await agent.set_session_name(autogenerate=True)
    assert (session.name, await agent.get_session_name()) == (name, name)
    assert await texts(await there(agent, "s")) == await texts(before)
    assert len(await session.runs()) == 1


async def test_a_name_is_made_of_the_first_messages_only(models: Models, memory: Store) -> None:
    session = await memory.session("s")
    await session.append(*(message for n in range(50) for message in (user(f"question {n}" + "!" * 5000), assistant(f"answer {n}"))))
    agent = models.agent(["A name"], store=memory, session_id="s")
    await agent.set_session_name(autogenerate=True)
    (request,) = models.requests
    asked = str(request.body)
    assert "question 0" in asked
    assert "question 3" not in asked
    assert len(asked) < 6000
    assert "tools" not in request.body or request.body["tools"] == []


async def test_a_name_of_a_session_without_words(chat: Models, memory: Store) -> None:
    agent = chat.agent(["never"], store=memory, session_id="s")
    await memory.session("s")
    assert (await agent.set_session_name(autogenerate=True)).name == "s"
    assert chat.requests == []


@pytest.mark.parametrize("answer", [Answer(status=400), Answer(status=401), Answer(text="x", cut=True), call("look")], ids=repr)
async def test_a_name_without_a_model(models: Models, memory: Store, answer: Answer) -> None:
    def look() -> str:
        raise AssertionError

    session = await memory.session("s")
    await session.append(user("Where is my order 7 please?"))
    agent = Agent(models.impatient(models.serve([answer] * 3)), store=memory, session_id="s", tools=[look])
    assert (await agent.set_session_name(autogenerate=True)).name == "Where is my order 7"


async def test_what_only_a_run_can_say_is_no_name_for_the_wrong_caller(chat: Models, memory: Store) -> None:
    agent = chat.agent(["a", "b"], store=memory, session_id="s")
    await agent.run("hi", user_id="ada")
    for user_id in ("bob", None):
        with pytest.raises(SessionNotFound):
            await agent.set_session_name(autogenerate=True, user_id=user_id)
        with pytest.raises(SessionNotFound):
            await agent.set_session_name(session_name="mine", user_id=user_id)
    assert len(chat.requests) == 1
    bad: Any = 5
    with pytest.raises((InvalidValue, UsageError)):
        await agent.set_session_name(session_name=bad, user_id="ada")
