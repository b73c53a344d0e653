"""LangGraph's long-term memory on a Holdfast store."""

# pyright: reportMissingTypeStubs=false
# LangGraph's own packages lack `py.typed`.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph", reason="the langgraph extra is not installed")

from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, Op, PutOp, SearchOp

from holdfast import InvalidValue, Store
from holdfast.adapters.langgraph import HoldfastSaver, HoldfastStore
from holdfast.backend import BlobRange, Filter, Key, ReadPlan

new_graph: Callable[[Any], Any] = StateGraph


@pytest.fixture(params=["memory", "sqlite", "sqlite-cached"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kind, _, cached = str(request.param).partition("-")
    async with Store.open("memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'chat.db'}", cache=16 if cached else 0) as opened:
        yield opened


async def keys(memory: HoldfastStore, *namespace: str, **options: Any) -> list[str]:
    return [item.key for item in await memory.asearch(namespace, **options)]


async def test_items_are_put_got_and_deleted(store: Store) -> None:
    memory = HoldfastStore(store)
    before = datetime.now(UTC)
    await memory.aput(("users", "ada"), "likes", {"tea": True, "since": datetime(2020, 1, 1, tzinfo=UTC)})
    item = await memory.aget(("users", "ada"), "likes")
    assert item is not None
    assert (item.namespace, item.key) == (("users", "ada"), "likes")
    assert item.value == {"tea": True, "since": datetime(2020, 1, 1, tzinfo=UTC)}
    assert before <= item.created_at == item.updated_at
    await memory.aput(("users", "ada"), "likes", {"tea": False})
    again = await HoldfastStore(store).aget(("users", "ada"), "likes")
    assert again is not None
    assert (again.value, again.created_at) == ({"tea": False}, item.created_at)
    assert again.updated_at > item.updated_at
    await memory.adelete(("users", "ada"), "likes")
    assert await memory.aget(("users", "ada"), "likes") is None
    await memory.adelete(("nobody",), "nothing")


async def test_names_are_taken_literally(store: Store) -> None:
    memory = HoldfastStore(store)
    places = [(("a", "b"), "c"), (("a",), "b/c"), (("a/b",), "c"), (("a%2Fb",), "c"), (("a", "b", "c"), "%"), (("a", "bb"), "c")]
    for place, (namespace, key) in enumerate(places):
        await memory.aput(namespace, key, {"place": place})
    for place, (namespace, key) in enumerate(places):
        item = await memory.aget(namespace, key)
        assert item is not None
        assert item.value == {"place": place}
    assert {item.value["place"] for item in await memory.asearch(("a", "b"))} == {0, 4}
    assert {item.value["place"] for item in await memory.asearch(("a",))} == {0, 1, 4, 5}
    assert len(await memory.asearch(())) == 6


async def test_search(store: Store) -> None:
    memory = HoldfastStore(store)
    for age, name in ((30, "ada"), (40, "bob"), (50, "eve")):
        await memory.aput(("people",), name, {"age": age, "tags": [name, "human"], "home": {"city": "Oslo" if age < 45 else "Rome"}})
    await memory.aput(("people",), "ghost", {})
    assert await keys(memory, "people") == ["ghost", "eve", "bob", "ada"]
    assert await keys(memory, "people", limit=2, offset=1) == ["eve", "bob"]
    assert await keys(memory, "people", filter={"age": 40}) == ["bob"]
    assert await keys(memory, "people", filter={"age": {"$gte": 40, "$lt": 50}}) == ["bob"]
    assert await keys(memory, "people", filter={"age": {"$ne": 40}}) == ["ghost", "eve", "ada"]
    assert await keys(memory, "people", filter={"home": {"city": "Oslo"}}) == ["bob", "ada"]
    assert await keys(memory, "people", filter={"tags": ["eve", "human"]}) == ["eve"]
    with pytest.raises(InvalidValue, match=r"\$like"):
        await memory.asearch(("people",), filter={"age": {"$like": 1}})


async def test_a_query_finds_words(store: Store) -> None:
    memory = HoldfastStore(store)
    await memory.aput(("notes",), "a", {"text": "The green tea of Uji"})
    await memory.aput(("notes",), "b", {"text": "Black coffee", "more": ["and green grass"]})
    await memory.aput(("notes",), "c", {"text": "nothing"})
    found = await memory.asearch(("notes",), query="green TEA")
    assert [(item.key, item.score) for item in found] == [("a", 1.0), ("b", 0.5)]


async def test_namespaces(store: Store) -> None:
    memory = HoldfastStore(store)
    places = [("a",), ("a", "b"), ("a", "b", "c"), ("d", "b"), ("d", "x", "c")]
    for namespace in places:
        await memory.aput(namespace, "k", {})
    assert await memory.alist_namespaces() == places
    assert await memory.alist_namespaces(prefix=("a",)) == places[:3]
    assert await memory.alist_namespaces(prefix=("*", "b")) == [("a", "b"), ("a", "b", "c"), ("d", "b")]
    assert await memory.alist_namespaces(suffix=("c",)) == [("a", "b", "c"), ("d", "x", "c")]
    assert await memory.alist_namespaces(max_depth=1) == [("a",), ("d",)]
    assert await memory.alist_namespaces(max_depth=2, limit=2, offset=1) == [("a", "b"), ("d", "b")]
    assert await memory.alist_namespaces(prefix=("nobody",)) == []


async def test_a_batch(store: Store) -> None:
    memory = HoldfastStore(store)
    await memory.aput(("a",), "k", {"old": True})
    ops: list[Op] = [
        PutOp(("a",), "k", {"first": True}),
        GetOp(("a",), "k"),
        PutOp(("b",), "k", {}),
        PutOp(("a",), "k", {"second": True}),
        SearchOp(("b",)),
        ListNamespacesOp((MatchCondition("prefix", ("a",)),)),
    ]
    results: list[Any] = await memory.abatch(ops)
    assert [type(result) for result in results[:1] + results[2:4]] == [type(None)] * 3
    assert results[1].value == {"old": True}
    assert results[4:] == [[], [("a",)]]
    assert [item.value for item in await memory.asearch(())] in ([{}, {"second": True}], [{"second": True}, {}])
    for bad in (("a.b",), ("",)):
        with pytest.raises(InvalidNamespaceError):
            await memory.abatch([PutOp(("a",), "k", {"never": True}), GetOp(bad, "k")])
    item = await memory.aget(("a",), "k")
    assert item is not None
    assert item.value == {"second": True}


async def test_items_expire(store: Store) -> None:
    memory = HoldfastStore(store, ttl={"default_ttl": 0.002, "refresh_on_read": False})
    await memory.aput(("a",), "short", {})
    await memory.aput(("a",), "kept", {}, ttl=None)
    await memory.aput(("a",), "read", {}, ttl=0.01)
    await memory.aput(("a",), "other", {"x": 1})
    assert len(await memory.asearch(("a",), filter={"x": 1}, refresh_ttl=True)) == 1
    assert len(await memory.asearch(("a",))) == 4
    for _ in range(4):
        await asyncio.sleep(0.25)
        assert await memory.aget(("a",), "read", refresh_ttl=True) is not None
    assert await memory.aget(("a",), "short") is None
    assert sorted(await keys(memory, "a")) == ["kept", "read"]
    snapshot = await store.backend.read(Key(store.tenant, "~app/langgraph/a"), ReadPlan(blobs=(BlobRange(),)))
    assert snapshot is not None
    assert [blob.key for blob in snapshot.blobs or ()] == ["a/kept", "a/read"]  # the expired one is gone, not only unseen


async def test_many_writers(store: Store) -> None:
    one, other = HoldfastStore(store), HoldfastStore(store)
    await asyncio.gather(*(memory.aput(("a",), f"{place}-{i}", {"i": i}) for i in range(20) for place, memory in enumerate((one, other))))
    assert len(await one.asearch(("a",), limit=100)) == 40
    assert [id for id, _ in (await store.backend.list(Filter(kind="langgraph-memory"), None, 10)).items] == ["~app/langgraph/a"]


def test_the_blocking_form(tmp_path: Path) -> None:
    memory = HoldfastStore(f"sqlite:///{tmp_path / 'chat.db'}")
    memory.put(("a",), "k", {"n": 1})
    item = memory.get(("a",), "k")
    assert item is not None
    assert item.value == {"n": 1}
    assert [it.key for it in memory.search(("a",))] == ["k"]
    assert memory.list_namespaces() == [("a",)]
    memory.delete(("a",), "k")
    assert memory.search(("a",)) == []


async def test_a_graph_remembers(store: Store) -> None:
    async def remember(state: MessagesState) -> dict[str, Any]:
        memory = get_store()
        await memory.aput(("facts",), str(len(await memory.asearch(("facts",)))), {"said": state["messages"][-1].text})
        return {}

    builder = new_graph(MessagesState)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    memory = HoldfastStore(store)
    graph = builder.compile(checkpointer=HoldfastSaver(store), store=memory)
    for thread in ("a", "b"):
        await graph.ainvoke({"messages": [("user", f"hi from {thread}")]}, {"configurable": {"thread_id": thread}})
    assert {item.value["said"] for item in await memory.asearch(("facts",))} == {"hi from a", "hi from b"}
