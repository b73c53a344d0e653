"""Compaction by the SDK over our sessions: one commit, whoever adds meanwhile and whatever is killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, cast

import agents
import pytest
from agents import Agent, Runner, TResponseInputItem
from agents.memory import OpenAIResponsesCompactionSession
from agents.testing import ScriptedModel, assistant_message
from openai import AsyncOpenAI

from holdfast import Store, assistant, user
from holdfast.adapters.openai_agents import HoldfastSession
from holdfast.entries import MESSAGE

agents.set_tracing_disabled(True)

Items = list[TResponseInputItem]
KILLS = 60


class Compacting:
    """Stands for the Responses API: whatever it is given becomes two items that bear `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.responses = self
        self.given: list[Any] = []

    async def compact(self, **request: Any) -> Any:
        self.given.append(request["input"])
        output = [{"type": "compaction", "id": f"{self.name}{half}", "encrypted_content": "x"} for half in "ab"]
        return type("Compacted", (), {"output": output, "usage": None})()


def compacting(session: HoldfastSession, name: str, *, automatic: bool = True) -> OpenAIResponsesCompactionSession:
    client = cast(AsyncOpenAI, Compacting(name))
    return OpenAIResponsesCompactionSession(
        session.session_id, session, client=client, compaction_mode="input", should_trigger_compaction=lambda _: automatic
    )


def desk(answer: str) -> Agent[Any]:
    return Agent(name="desk", model=ScriptedModel([[assistant_message(answer)]]))


def said(*texts: str) -> Items:
    return cast(Items, [{"role": "user", "content": text} for text in texts])


def short(items: list[Any]) -> list[str]:
    """Compactions by id, messages by text."""
    return [item["id"] if item.get("type") == "compaction" else text_of(item) for item in items]


def text_of(item: Any) -> str:
    content = item["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, url: str) -> Store:
    return Store.open("memory://" if request.param == "memory" else url)


# --- what is compacted, and what stays -------------------------------------------------------------------------------


async def test_a_run_compacts_what_its_model_has_seen_and_the_record_keeps_it(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    opened = await store.session("ada-1")
    await opened.record_run(agent="earlier")
    for number in range(3):
        await Runner.run(desk(f"a{number}"), f"q{number}", session=compacting(session, f"c{number}"))
    assert short(await session.get_items()) == ["c2a", "c2b"]
    record = await opened.entries(kinds=(MESSAGE,), hidden=True)
    assert [entry.message().text for entry in record if entry.message().text] == ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert [run.agent for run in await opened.runs()] == ["earlier"]


async def test_items_older_than_the_models_window_stay(store: Store) -> None:
    session = HoldfastSession("ada-1", store, session_settings={"limit": 2})
    await session.add_items(said("old 1", "old 2", "new 1", "new 2"))
    await Runner.run(desk("a"), "q", session=compacting(session, "c"))
    assert short(await session.get_items(100)) == ["old 1", "old 2", "ca", "cb"]


async def test_what_somebody_else_adds_meanwhile_stays_and_nothing_is_replaced(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a", "b"))
    snapshot = await session._get_compaction_snapshot(10)  # pyright: ignore[reportPrivateUsage]  # as the SDK calls it
    assert snapshot
    assert (short(list(snapshot.items)), snapshot.complete) == (["a", "b"], True)
    await HoldfastSession("ada-1", store).add_items(said("c"))
    assert not await snapshot.replace_suffix(0, said("short"))
    assert short(await session.get_items()) == ["a", "b", "c"]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
async def test_a_suffix_is_replaced_once(store: Store, start: int) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a", "b", "c", "d", "e"))
    snapshot = await session._get_compaction_snapshot(3)  # pyright: ignore[reportPrivateUsage]
    assert snapshot
    assert (short(list(snapshot.items)), snapshot.complete) == (["c", "d", "e"], False)
    replaced = [await snapshot.replace_suffix(start, said("short")) for _ in range(2)]
    assert replaced == [start < 3, False]
    assert short(await session.get_items()) == [*"abcde"[: 2 + start], *(["short"] if start < 3 else [])]


async def test_other_changes_of_the_session_are_no_change_of_its_end(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("a"))
    snapshot = await session._get_compaction_snapshot(10)  # pyright: ignore[reportPrivateUsage]
    opened = await store.session("ada-1")
    opened.state["plan"] = "gold"
    await opened.commit()
    assert snapshot
    assert await snapshot.replace_suffix(0, said("short"))
    assert short(await session.get_items()) == ["short"]


async def test_the_oldest_items_go_with_it_as_long_as_the_sdk_says_so(store: Store) -> None:
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("x1", "x2", "kept", "x3", "end"))
    snapshot = await session._get_compaction_snapshot(1, prune_prefix=lambda item: text_of(item).startswith("x"))  # pyright: ignore[reportPrivateUsage]
    assert snapshot
    assert await snapshot.replace_suffix(0, said("short"))
    assert short(await session.get_items()) == ["kept", "x3", "short"]


async def test_what_else_somebody_elses_message_holds_is_kept(store: Store) -> None:
    opened = await store.session("ada-1")
    await opened.append(user("a"), assistant("b"))
    session = HoldfastSession("ada-1", store)
    await session.add_items(said("c"))
    snapshot = await session._get_compaction_snapshot(2)  # pyright: ignore[reportPrivateUsage]
    assert snapshot
    assert await snapshot.replace_suffix(0, said("short"))
    assert short(await session.get_items()) == ["a", "short"]


async def test_a_subclass_that_changes_items_is_left_to_the_sdks_fall_back(store: Store) -> None:
    class Shouting(HoldfastSession):
        async def add_items(self, items: Items, *, wrapper: Any = None) -> None:
            await super().add_items(said(*(text_of(item).upper() for item in items)), wrapper=wrapper)

    session = Shouting("ada-1", store)
    await session.add_items(said("a"))
    assert await session._get_compaction_snapshot(10) is None  # pyright: ignore[reportPrivateUsage]
    assert not await session._atomic_replace_items(said("b"))  # pyright: ignore[reportPrivateUsage]
    assert short(await session.get_items()) == ["A"]


# --- killed in the middle --------------------------------------------------------------------------------------------


async def turns(url: str) -> None:
    """Runs with compactions, automatic and manual in turn, until somebody ends it; each is announced when it is done."""
    session = HoldfastSession("ada-1", url)
    for number in count(1 + max([*numbers(await session.get_items()), 0])):
        wrapped = compacting(session, f"{number}", automatic=number % 2 == 0)
        await Runner.run(desk(f"{number}"), f"{number}", session=wrapped)
        if number % 2:
            await wrapped.run_compaction({"force": True})
        print(number, flush=True)


def numbers(items: Any) -> Iterator[int]:
    return (int(name.rstrip("ab")) for name in short(items))


FORKS = """
import asyncio, os, sys
from tests.adapters.test_openai_agents_compaction import turns

for url in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        asyncio.run(turns(url.strip()))
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def test_a_killed_process_leaves_the_session_compacted_or_not_never_empty(url: str) -> None:
    """One process at a time runs and compacts, and is killed at any instant. What it leaves is looked at, and the next one goes on."""
    acknowledged = 0
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        for _ in range(KILLS):
            print(url, file=server.stdin, flush=True)
            child = int(server.stdout.readline())
            for _ in range(random.randint(1, 3)):
                acknowledged = int(server.stdout.readline())
            delay(random.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            for line in iter(server.stdout.readline, "ended\n"):
                acknowledged = int(line)
            check_survivors(asyncio.run(look(url)), acknowledged)
        server.stdin.close()


def delay(seconds: float) -> None:
    """Any instant of the next turn."""
    asyncio.run(asyncio.sleep(seconds))


async def look(url: str) -> tuple[list[str], list[str]]:
    """What a model would see, and everything that was ever said."""
    async with Store.open(url) as store:
        session = await store.session("ada-1")
        record = await session.entries(kinds=(MESSAGE,), hidden=True)
        return short(await HoldfastSession("ada-1", store).get_items()), [entry.message().text for entry in record]


def check_survivors(found: tuple[list[str], list[str]], acknowledged: int) -> None:
    items, record = found
    compacted = [name for name in items if name[-1] in "ab"]
    last = int(compacted[0][:-1]) if compacted else 0
    later = [int(name) for name in items[len(compacted) :]]
    assert items
    assert compacted in ([], [f"{last}a", f"{last}b"])
    assert compacted == items[: len(compacted)]
    assert later == sorted(later)
    assert all(number > last for number in later)
    assert max([last, *later]) >= acknowledged
    assert {f"{number}" for number in range(1, acknowledged + 1)} <= set(record)
