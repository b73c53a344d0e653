"""The index follows the store: what is new comes in, once; what is rewound, cleared, deleted, expired or forgotten leaves it, whole."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast import InvalidURL, InvalidValue, Store, assistant, system, tool, user
from holdfast.backend import Commit, Key, Outcome, ReadPlan, Snapshot
from holdfast.errors import NotAStore, StoreClosed, Unsupported
from holdfast.recall import MiniLM, Recall
from holdfast.recall import open as open_index
from holdfast.wrappers import EncryptedBackend
from holdfast.wrappers.base import Wrapper

from .conftest import holds, made, rows, said, shown, texts


async def test_only_what_is_new_is_taken_in(store: Store, recall: Recall, file: Path) -> None:
    session = await said(store, "a", user("the first kettle"), assistant("a reply"), system("be kind"), tool("from a tool"))
    assert await recall.update() == 2
    assert await recall.update() == await recall.update("a") == 0
    await session.append(user("another teapot"))
    await said(store, "b", user("in another session"))
    assert await recall.update("a") == 1
    assert await recall.update() == 1
    assert texts(file) == ["the first kettle", "a reply", "another teapot", "in another session"]


async def test_a_session_of_many_pages_is_read_page_by_page(store: Store, recall: Recall, file: Path) -> None:
    session = await said(store, "a", *(user(f"number {n}") for n in range(501)))
    assert await recall.update() == 501
    await session.append(user("number 501"))
    await session.rewind(to=250)
    assert await recall.update() == 0
    assert texts(file) == [f"number {n}" for n in range(250)]


async def test_long_messages_are_found_piece_by_piece(store: Store, recall: Recall, file: Path) -> None:
    await said(store, "a", user("word " * 400 + "needle. " + "word " * 400))
    assert await recall.update() == len(rows(file)) > 3
    hits = await recall.search("needle", user_id=None)
    assert shown(hits) == ["a:1"]
    assert "needle" in hits[0].text
    assert shown(await recall.search("word", user_id=None)) == ["a:1"]


async def test_tool_results_are_left_out_unless_wanted(memory: Store) -> None:
    await said(memory, "a", tool({"city": "Leipzig"}, name="find"), tool("Dresden"))
    async with Recall(memory, "memory://") as without, Recall(memory, "memory://", tool_results=True) as recall:
        assert (await without.update(), await recall.update()) == (0, 2)
        assert [hit.role for hit in await recall.search("leipzig", user_id=None)] == ["tool"]


@pytest.mark.parametrize("end", ["delete", "clear", "rewind", "pop", "replace", "expire"])
async def test_what_is_gone_is_not_found_at_once_and_not_there_after_the_search(store: Store, file: Path, end: str, minilm: MiniLM) -> None:
    async with Recall(store, f"sqlite:///{file}", minilm) as recall:
        session = await said(store, "a", user("kept"), user("my secret is zanzibar"), user_id="ada")
        await recall.update()
        assert holds(file, "zanzibar")
        await ended(store, session, end)
        for _ in range(2):
            assert "zanzibar" not in str(await recall.search("secret zanzibar", user_id="ada"))
        assert not holds(file, "zanzibar")
        assert len(rows(file)) == (1 if end in ("rewind", "pop") else 0)


async def ended(store: Store, session: Any, how: str) -> None:
    if how == "delete":
        await store.delete("a", user_id="ada")
    elif how == "clear":
        session.clear()
        await session.commit()
    elif how == "rewind":
        await session.rewind(to=1)
    elif how == "pop":
        await session.pop()
    elif how == "replace":
        await session.replace([user("another")])
    else:
        await session.set_ttl(0.01)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", ["delete", "clear", "rewind", "pop", "replace", "expire"])
async def test_an_update_lets_go_of_what_is_gone(store: Store, recall: Recall, file: Path, end: str) -> None:
    session = await said(store, "a", user("kept"), user("my secret is zanzibar"), user_id="ada")
    await recall.update()
    await ended(store, session, end)
    await recall.update()
    assert not holds(file, "zanzibar")
    assert texts(file) == {"rewind": ["kept"], "pop": ["kept"], "replace": ["another"]}.get(end, [])


async def test_a_new_life_of_an_id_has_nothing_of_the_old_one(store: Store, recall: Recall, file: Path) -> None:
    await said(store, "a", user("my secret is xylophone"))
    await recall.update()
    await store.delete("a")
    await said(store, "a", user("hello again"))
    assert await recall.search("xylophone", user_id=None) == []
    await recall.update()
    assert texts(file) == ["hello again"]


async def test_what_is_forgotten_stays_so_until_the_session_begins_anew(store: Store, recall: Recall, file: Path) -> None:
    session = await said(store, "a", user("my secret is zanzibar"), user_id="ada")
    await recall.update()
    await recall.forget("a")
    assert not holds(file, "zanzibar")
    await session.append(user("zanzibar once more"))
    assert [await recall.update(), await recall.update("a"), await recall.update(rebuild=True)] == [0, 0, 0]
    assert await recall.search("xylophone", user_id="ada") == []
    session.clear()
    await session.append(user("a new xylophone"))
    assert await recall.update() == 1
    await recall.forget("never there")


async def test_updated_after_looks_at_newer_sessions_only(memory: Store) -> None:
    async with Recall(memory, "memory://") as recall:
        await said(memory, "a", user("one"))
        later = datetime.now(UTC) + timedelta(hours=1)
        assert await recall.update(updated_after=later) == 0
        assert await recall.update(updated_after=later - timedelta(hours=2)) == 1
        with pytest.raises(InvalidValue, match="aware datetime"):
            await recall.update(updated_after=datetime(2026, 1, 1))
        with pytest.raises(InvalidValue, match="one of session_id="):
            await recall.update("a", rebuild=True)


async def test_an_adopted_session_becomes_its_users(memory: Store) -> None:
    async with Recall(memory, "memory://") as recall:
        await said(memory, "a", user("xylophone"))
        await recall.update()
        await memory.session("a", user_id="ada")
        assert await recall.search("xylophone", user_id=None) == []
        assert shown(await recall.search("xylophone", user_id="ada")) == ["a:1"]


class DeletedWhileRead(Wrapper):
    """Deletes a session right after its entries were read: what an update has in its hands is of a life that has ended."""

    armed = False

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await super().read(key, plan)
        if self.armed and plan.entries is not None:
            self.armed = False
            await Store(self.inner).delete(key.session_id)
        return snapshot

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self.inner.commit(key, commit)


async def test_a_session_that_is_deleted_while_it_is_indexed_leaves_nothing(memory: Store, file: Path) -> None:
    await said(memory, "a", user("zanzibar"))
    backend = DeletedWhileRead(memory.backend)
    async with Recall(Store(backend), f"sqlite:///{file}") as recall:
        backend.armed = True
        await recall.update()
        assert rows(file) == []
        assert not holds(file, "zanzibar")


# --- vectors ---------------------------------------------------------------------------------------------------------


async def one(texts: Any) -> list[list[float]]:
    return [[1.0, float(len(it))] for it in texts]


async def test_vectors_of_two_models_are_never_mixed(memory: Store, file: Path, minilm: MiniLM) -> None:
    await said(memory, "a", user("hello there"))
    url = f"sqlite:///{file}"
    async with Recall(memory, url, one) as recall:
        await recall.update()
    for other, model in ((minilm, minilm.model), (one, "other")):
        with pytest.raises(InvalidValue, match=rf"vectors of 'one'.*{model}.*rebuild=True"):
            await Recall(memory, url, other, model=None if other is minilm else model).update()
    plain = Recall(memory, url)
    assert shown(await plain.search("hello", user_id=None)) == ["a:1"]  # by words, that index can be searched all the same
    await said(memory, "b", user("hello too"))
    with pytest.raises(InvalidValue, match="words alone"):
        await plain.update()
    async with Recall(memory, url, minilm) as recall:
        assert await recall.update(rebuild=True) == 2
        assert {len(row[6]) for row in rows(file)} == {4 * 384}


async def test_an_embedder_that_goes_wrong_is_told_so_and_nothing_is_stored(memory: Store, file: Path) -> None:
    await said(memory, "a", user("one"), user("two"))
    for wrong, words in (([[1.0]], "1 vectors for 2 texts"), ([[1.0], [1.0, 2.0]], "can't be compared"), ([[0.0], [1.0]], "length 0")):

        async def embed(texts: Any, given: Any = wrong) -> Any:
            return given

        async with Recall(memory, f"sqlite:///{file}", embed) as recall:
            with pytest.raises(InvalidValue, match=words):
                await recall.update()
    assert rows(file) == []


# --- where it may be -------------------------------------------------------------------------------------------------


async def test_an_encrypted_store_gets_no_plain_index_unawares(memory: Store, file: Path) -> None:
    sealed = Store(EncryptedBackend(memory.backend, keys=[b"k" * 32]), cache=10)
    with pytest.raises(Unsupported, match="plain=True"):
        Recall(sealed, f"sqlite:///{file}")
    assert not made(file)
    await said(sealed, "a", user("xylophone"))
    for index, plain in (("memory://", False), (f"sqlite:///{file}", True)):
        async with Recall(sealed, index, plain=plain) as recall:
            await recall.update()
            assert shown(await recall.search("xylophone", user_id=None)) == ["a:1"]


async def test_a_file_that_is_no_index_is_left_alone(tmp_path: Path, memory: Store) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/chat.db") as store:
        await store.session("a")
    with pytest.raises(NotAStore, match="no index"):
        await Recall(memory, f"sqlite:///{tmp_path}/chat.db").update()
    for url in ("recall.db", "postgresql://x", "sqlite:///a.db?vfs=x", "sqlite://"):
        with pytest.raises(InvalidURL, match=r"memory://|three or four"):
            open_index(url)
    recall = Recall(memory, "memory://")
    await recall.close()
    with pytest.raises(StoreClosed):
        await recall.update()
