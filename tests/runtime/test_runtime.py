"""The registry: what can be registered and how it is called, over which store, loaded from where, set up by what."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# LangGraph's own packages lack `py.typed`, and a builder's methods have partially unknown types.

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import agents as sdk
import pytest
from agents.testing import ScriptedModel, assistant_message
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel

import holdfast.sync
from holdfast import InvalidValue, Message, MissingExtra, Session, Store, Text, UsageError
from holdfast.agents import Agent, Done, Said, StepInput, Team, Workflow
from holdfast.runtime import Runtime
from holdfast.runtime import runtime as the_module
from holdfast.runtime.settings import read


class Echo:
    """Says how much it heard."""

    async def run(self, turn: Any) -> AsyncGenerator[Any]:
        text = f"heard {len(turn.messages)}: {turn.messages[-1].text}"
        yield Said(message=Message("assistant", (Text(text),)))
        yield Done(text)


def agent(name: str | None = "desk", **options: Any) -> Agent:
    return Agent(Echo(), name=name, **options)


def forget() -> None:
    """Modules that tests make, these here and others in this process."""
    for name in [name for name in sys.modules if name.startswith("shop")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder of a test's own, a process without a runtime, and modules that are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(the_module, "_own", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget()
    yield tmp_path
    forget()
    holdfast.sync.Store.shared("sqlite:///holdfast.db").close()


# --- registering -----------------------------------------------------------------------------------------------------


def hears(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", f"heard {len(state['messages'])}")]}


def graph(name: str | None = "graph") -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("bot", hears)
    builder.add_edge(START, "bot")
    builder.add_edge("bot", END)
    return builder.compile(name=name)


def sdk_agent(name: str = "sdk") -> sdk.Agent[Any]:
    sdk.set_tracing_disabled(True)
    return sdk.Agent(name=name, model=ScriptedModel([[assistant_message("from the SDK")], [assistant_message("again")]]))


def work(given: StepInput) -> str:
    return f"did {given.input}"


KINDS: dict[str, Any] = {
    "ours": lambda: agent("ours"),
    "team": lambda: Team(model=TestModel(), name="team", members=[agent("member")]),
    "workflow": lambda: Workflow(name="workflow", steps=[work]),
    "blocking": lambda: holdfast.sync.Agent(Echo(), name="blocking"),
    "pydantic": lambda: PydanticAgent(TestModel(custom_output_text="hi"), name="pydantic"),
    "sdk": sdk_agent,
    "graph": graph,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_it_is_it_runs_over_the_runtimes_store(kind: str) -> None:
    async with Store.open("memory://") as store:
        runtime = Runtime(store)
        registered = runtime.register(KINDS[kind]())
        assert (list(runtime), runtime.agent(kind), registered.store) == ([kind], registered, store)
        output = await runtime.run(kind, "s", "hello")
        assert output.status == "completed"
        again = await registered.runner.run(registered, await store.session("s"), "again")
        assert again.session_id == "s"
        runs = await (await store.session("s")).runs()
        assert [run.agent for run in runs if run.root is None] == [kind, kind]


def test_names() -> None:
    runtime = Runtime(Store.open("memory://"))
    runtime.register(agent("one"))
    runtime.register(agent("one"), "two")
    runtime.register(agent(None), "three")
    assert list(runtime.agents) == ["one", "two", "three"]
    with pytest.raises(InvalidValue, match="two agents are called 'one'"):
        runtime.register(agent("one"))
    with pytest.raises(InvalidValue, match="has no name"):
        runtime.register(agent(None))
    with pytest.raises(InvalidValue, match="is no agent"):
        runtime.register("desk")
    with pytest.raises(UsageError, match="there is no agent 'four': one, two, three"):
        runtime.agent("four")
    with pytest.raises(UsageError, match="say which agent: one, two, three"):
        runtime.agent()
    runtime.deregister("one")
    assert list(runtime) == ["two", "three"]
    with pytest.raises(UsageError, match="there is no agent 'one'"):
        runtime.deregister("one")


def test_the_only_one_needs_no_name() -> None:
    runtime = Runtime(Store.open("memory://"))
    with pytest.raises(UsageError, match="none is registered"):
        runtime.agent()
    assert runtime.register(agent()) is runtime.agent()


# --- stores ----------------------------------------------------------------------------------------------------------


def test_the_store_it_is_given_comes_before_an_agents_own() -> None:
    given, own = Store.open("memory://"), Store.open("memory://")
    assert Runtime(given).register(agent(store=own)).store is given
    assert Runtime("memory://").store is Store.shared("memory://")


def test_without_one_it_is_the_first_agents() -> None:
    own, other = Store.open("memory://"), Store.open("memory://")
    runtime = Runtime()
    registered = [runtime.register(agent("a", store=own)), runtime.register(agent("b", store=other)), runtime.register(agent("c"))]
    assert [it.store for it in registered] == [own] * 3
    assert runtime.store is own


async def test_else_it_is_a_file_here(place: Path) -> None:
    runtime = Runtime()
    runtime.register(agent())
    await runtime.run("desk", "s", "hi")
    assert (place / "holdfast.db").exists()


def test_an_agent_stays_what_it_was() -> None:
    own = agent(store=Store.open("memory://"))
    before = own.store
    Runtime(Store.open("memory://")).register(own)
    assert own.store is before


# --- loading ---------------------------------------------------------------------------------------------------------

SHOP = """
from tests.runtime.test_runtime import Echo
from holdfast.agents import Agent
desk = Agent(Echo(), name="the-desk")
orders = Agent(Echo())
again = desk
not_one = 7
class shelf:
    agent = Agent(Echo())
"""


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("shop", ["the-desk", "orders"]),
        ("shop.py", ["the-desk", "orders"]),
        ("shop:orders", ["orders"]),
        ("shop:desk", ["the-desk"]),
        ("shop.py:orders", ["orders"]),
        ("shop:shelf.agent", ["agent"]),
        ("sub/shop_too.py:orders", ["orders"]),
    ],
    ids=lambda it: it.replace("/", "-") if isinstance(it, str) else "",
)
async def test_loading(place: Path, target: str, names: list[str]) -> None:
    (place / "sub").mkdir()
    for name in ("shop.py", "sub/shop_too.py"):
        (place / name).write_text(SHOP)
    runtime = Runtime(Store.open("memory://"))
    assert runtime.load(target) == names
    assert list(runtime) == names
    assert (await runtime.run(names[-1], "s", "hi")).content == "heard 1: hi"


def test_loading_a_module_that_is_there() -> None:
    module: Any = ModuleType("shop")
    module.desk, module.team = agent(None), KINDS["team"]()
    module.theirs, module.flow, module.number = sdk_agent(), graph(None), 7
    assert Runtime(Store.open("memory://")).load(module) == ["desk", "team", "sdk", "flow"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop_that_is_not", "there is no module 'shop_that_is_not' here"),
        ("nowhere.py", r"nowhere\.py: there is no such file"),
        ("shop:nobody", "shop:nobody is not there; its agents: desk"),
        ("shop:not_one", "shop:not_one is a int, no Agent"),
        ("shop_broken", r"shop_broken can't be imported: ZeroDivisionError: .* line 1\)"),
        ("shop_empty", "shop_empty has no Agent"),
    ],
    ids=lambda it: it.split(":")[-1] if isinstance(it, str) and " " not in it else "",
)
def test_what_cannot_be_loaded(place: Path, target: str, message: str) -> None:
    for name, text in {"shop": SHOP, "shop_broken": "1 / 0\n", "shop_empty": "x = 1\n"}.items():
        (place / f"{name}.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        Runtime(Store.open("memory://")).load(target)


# --- the process's own -----------------------------------------------------------------------------------------------


async def test_the_processs_own_is_set_up_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "shop.py").write_text(SHOP)
    (place / "config.yaml").write_text(f"session: {{sqlite: {{path: {place}/own.db}}, ttl: 60}}\nagents: [shop:orders]\n")
    monkeypatch.setenv("HOLDFAST_SESSION__TENANT", "acme")
    monkeypatch.setenv("AK_SESSION__CACHE__SIZE", "16")
    runtime = Runtime.get()
    assert Runtime.get() is runtime
    assert (list(runtime), runtime.store.tenant, runtime.store.ttl) == (["orders"], "acme", 60)
    await runtime.run("orders", "s", "hi")
    await runtime.run("orders", "s", "hi")
    assert (place / "own.db").exists()
    assert runtime.settings.session.cache.size == 16
    await runtime.store.close()


async def test_its_session_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AK_SESSION__TYPE", "in_memory")
    manager = Runtime.get().session_manager
    session = await manager.get_or_create_session("custom-id")
    assert isinstance(session, Session)
    assert await manager.has_session("custom-id")
    await manager.delete_session("custom-id")
    assert not await manager.has_session("custom-id")


def test_a_setting_that_makes_no_sense_is_said_and_may_be_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SESSION__TYPE", "mongo")
    with pytest.raises(InvalidValue, match=r"HOLDFAST_SESSION__TYPE: session\.type = 'mongo'"):
        Runtime.get()
    monkeypatch.setenv("HOLDFAST_SESSION__TYPE", "in_memory")
    assert Runtime.get().store.backend.capabilities.durable is False


@pytest.mark.parametrize("kind", ["redis", "dynamodb", "postgres"])
def test_every_kind_of_store_can_be_named(kind: str) -> None:
    try:
        store = Runtime.from_settings(read({"AK_SESSION__TYPE": kind, "AK_SESSION__DYNAMODB__TTL": "0"}).settings).store
    except MissingExtra:
        pytest.skip(f"the {kind} extra is not installed")
    assert store.ttl is None


async def test_a_run_on_a_session_or_its_id() -> None:
    runtime = Runtime(Store.open("memory://"))
    desk = runtime.register(agent())
    await runtime.run(desk, Session(id="s"), "one")
    assert (await runtime.run("desk", "s", "two")).content == "heard 3: two"
