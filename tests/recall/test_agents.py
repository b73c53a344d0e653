"""Recall in an agent's hands: the tools a model calls, and the keeper that indexes each run after its answer."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import SessionNotFound, Store, UsageError, sync, user
from holdfast.backend import Commit, Key, Outcome
from holdfast.recall import MiniLM, Recall
from holdfast.testing.model_server import Answer, Request, call
from holdfast.wrappers.base import Wrapper

from .conftest import Models, made, said, shown, texts


def answered(request: Request) -> Any:
    """What the last tool gave, as the model was sent it."""
    last = request.input[-1]
    text = str(last.get("output", last.get("content")))
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


async def looked_up(models: Models, store: Store, recall: Recall, *answers: Any, user_id: str | None = "ada", **more: Any) -> Any:
    """What the last of the model's calls gave it in a run of a new session."""
    agent = models.agent([*answers, "done"], store=store, tools=recall.tools(**more))
    await agent.run("What do you remember?", session_id=f"now of {user_id}", user_id=user_id)
    return answered(models.requests[-1])


async def test_a_model_finds_by_meaning_what_the_same_user_said_in_another_session(chat: Models, store: Store, minilm: MiniLM) -> None:
    session = await said(store, "ada-1", user("Hi."), user("I am allergic to peanuts, never forget it."), user_id="ada")
    await session.rename("Breakfast")
    await said(store, "ada-2", user("The weather is fine."), user_id="ada")
    await said(store, "bob-1", user("I am allergic to shellfish and nuts."), user_id="bob")
    async with Recall(store, "memory://", minilm) as recall:
        await recall.update()
        found = await looked_up(chat, store, recall, call("search_past_sessions", query="Which foods are dangerous for me?"))
        assert found[0] | {"date": ""} == {
            "session": "ada-1",
            "name": "Breakfast",
            "at": 2,
            "date": "",
            "role": "user",
            "text": "I am allergic to peanuts, never forget it.",
        }
        assert {it["session"] for it in found} == {"ada-1", "ada-2"}
        read = await looked_up(chat, store, recall, call("read_past_session", session_id="ada-1", around=2))
        assert [(it["at"], it["role"]) for it in read["messages"]] == [(1, "user"), (2, "user")]
        nowhere = await looked_up(chat, store, recall, call("read_past_session", session_id="ada-1", around=10**30))
        assert nowhere["messages"] == []
        refused = await looked_up(chat, store, recall, call("read_past_session", session_id="bob-1"))
        assert "there is no past session 'bob-1'" in str(refused)
        missing = await looked_up(chat, store, recall, call("read_past_session", session_id="bob-7"))
        assert str(missing).replace("bob-7", "bob-1") == str(refused)
        tools = chat.requests[0].body["tools"]
        assert [list(it["function"]["parameters"]["properties"]) for it in tools] == [["query", "limit"], ["session_id", "around"]]


async def test_a_run_without_a_user_reaches_its_own_session_alone_unless_the_others_are_shared(chat: Models, memory: Store) -> None:
    for name, owner in (("ada-1", "ada"), ("nobody-1", None), ("now of None", None)):
        await said(memory, name, user(f"a xylophone of {name}"), user_id=owner)
    search = call("search_past_sessions", query="xylophone")
    async with Recall(memory, "memory://") as recall, Recall(memory, "memory://", shared=True) as shared:
        await recall.update()
        await shared.update()
        found = await looked_up(chat, memory, recall, search, user_id=None)
        assert {it["session"] for it in found} == {"now of None"}
        refused = await looked_up(chat, memory, recall, call("read_past_session", session_id="nobody-1"), user_id=None)
        assert "there is no past session" in str(refused)
        found = await looked_up(chat, memory, shared, search, user_id=None)
        assert {it["session"] for it in found} == {"nobody-1"}
        found = await looked_up(chat, memory, shared, search, user_id="ada")
        assert {it["session"] for it in found} == {"ada-1"}


async def test_the_sessions_own_past_is_left_out_unless_it_is_wanted(chat: Models, memory: Store) -> None:
    for name in ("now of ada", "ada-1"):
        await said(memory, name, user("my xylophone"), user_id="ada")
    async with Recall(memory, "memory://") as recall:
        await recall.update()
        search = call("search_past_sessions", query="xylophone", limit=500)
        assert [it["session"] for it in await looked_up(chat, memory, recall, search)] == ["ada-1"]
        assert {it["session"] for it in await looked_up(chat, memory, recall, search, current=True)} == {"ada-1", "now of ada"}


async def test_long_messages_reach_the_model_in_excerpts(chat: Models, memory: Store) -> None:
    long = "filler " * 300 + "xylophone " + "filler " * 300
    await said(memory, "ada-1", user(long), user_id="ada")
    async with Recall(memory, "memory://") as recall:
        await recall.update()
        (found,) = await looked_up(chat, memory, recall, call("search_past_sessions", query="xylophone"))
        assert "xylophone" in found["text"]
        assert len(found["text"]) <= 304
        read = await looked_up(chat, memory, recall, call("read_past_session", session_id="ada-1"))
        assert len(read["messages"][0]["text"]) == 1002


async def test_an_agent_of_another_tenant_is_refused(chat: Models, memory: Store) -> None:
    async with Recall(Store(memory.backend, tenant="other"), "memory://") as recall:
        refused = await looked_up(chat, memory, recall, call("search_past_sessions", query="xylophone"))
        assert "tenant 'default'" in str(refused)
        search: Any = recall.tools()[0]
        with pytest.raises(UsageError, match="tenant"):
            await search("x", memory.handle("a"))
        with pytest.raises(SessionNotFound):
            await (Recall(memory, "memory://").tools()[1])("a", await memory.session("b"))


# --- the keeper ------------------------------------------------------------------------------------------------------


async def test_each_run_is_indexed_after_its_answer_which_does_not_wait(models: Models, store: Store, file: Path) -> None:
    gate = asyncio.Event()

    async def slow(texts: Sequence[str]) -> list[list[float]]:
        await gate.wait()
        return [[1.0] for _ in texts]

    async with Recall(store, f"sqlite:///{file}", slow) as recall:
        agent = models.agent(["It is in Leipzig.", "Yes."], store=store, middleware=[recall.keeper()])
        try:
            async with asyncio.timeout(20):
                await agent.run("Where is my xylophone?", session_id="a", user_id="ada")
                await agent.run("Still?", session_id="a", user_id="ada")
            assert not made(file) or texts(file) == []
        finally:
            gate.set()
        await recall.settled()
        assert texts(file) == ["Where is my xylophone?", "It is in Leipzig.", "Still?", "Yes."]
        assert shown(await recall.search("xylophone", user_id="ada"))[0] == "a:2"


class SlowEnd(Wrapper):
    """The last commit of a run takes its time."""

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        if commit.claim is not None and commit.claim.act == "release":
            await asyncio.sleep(0.1)
        return await super().commit(key, commit)


async def test_a_run_is_indexed_with_its_answer_however_long_that_takes_to_be_stored(chat: Models, memory: Store, file: Path) -> None:
    store = Store(SlowEnd(memory.backend))
    async with Recall(store, f"sqlite:///{file}") as recall:
        await chat.agent(["Hello."], store=store, middleware=[recall.keeper()]).run("Hi.", session_id="a")
        await recall.settled()
        assert texts(file) == ["Hi.", "Hello."]


async def test_a_run_that_fails_is_indexed_too_and_a_failing_index_harms_no_run(
    chat: Models, memory: Store, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    async def service(texts: Sequence[str]) -> list[list[float]]:
        if broken:
            raise ConnectionError("no such host: secret xylophone")
        return [[1.0] for _ in texts]

    recall = Recall(memory, f"sqlite:///{file}", service)
    agent = chat.agent([Answer(status=400), "Hello."], store=memory, middleware=[recall.keeper()])
    with caplog.at_level(logging.WARNING, "holdfast.recall"):
        with pytest.raises(Exception, match="400"):
            await agent.run("My xylophone", session_id="a")
        reply = await agent.run("Again", session_id="a")
        await recall.settled()
    assert reply.content == "Hello."
    assert "session_id=a error=ConnectionError" in caplog.text
    assert "xylophone" not in caplog.text
    broken = False
    await recall.update()
    assert texts(file) == ["My xylophone", "Again", "Hello."]
    await recall.close()


def test_the_blocking_form_does_the_same(models: Models, tmp_path: Path) -> None:
    index = f"sqlite:///{tmp_path}/recall.db"
    with sync.Store.open(f"sqlite:///{tmp_path}/chat.db") as store, sync.Recall(store, index) as recall:
        script = ["Noted.", call("search_past_sessions", query="xylophone"), "In Leipzig."]
        agent = sync.Agent(models.model(models.serve(script)), store=store, middleware=[recall.keeper()], tools=recall.tools())
        agent.run("My xylophone is in Leipzig.", session_id="a", user_id="ada")
        recall.settled()
        agent.run("Where is it?", session_id="b", user_id="ada")
        recall.settled()
        assert answered(models.requests[-1])[0]["text"] == "My xylophone is in Leipzig."
        assert [hit.session_id for hit in recall.search("noted", user_id="ada")] == ["a"]
        assert recall.update() == 0
        recall.forget("a")
        assert recall.search("noted", user_id="ada") == []


def test_the_blocking_form_takes_the_same_arguments() -> None:
    for name in ("__init__", "update", "forget", "search", "tools", "keeper", "settled", "close"):
        theirs, ours = (inspect.signature(getattr(it, name)).parameters.values() for it in (Recall, sync.Recall))
        assert [(it.name, it.kind, it.default, it.annotation) for it in theirs] == [
            (it.name, it.kind, it.default, it.annotation) for it in ours
        ]
