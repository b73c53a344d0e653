"""Recall over every database: what is new comes in, what is gone goes."""

from __future__ import annotations

from holdfast import Store, assistant, user
from holdfast.recall import Hit, Recall


def shown(hits: list[Hit]) -> list[str]:
    return [f"{it.session_id}:{it.seq}" for it in hits]


async def test_an_index_follows_the_store(store: Store, tenant: str) -> None:
    async with Recall(store, "memory://") as recall:
        ada = await store.session("ada-1", user_id="ada")
        await ada.append(*(user(f"order {n}") for n in range(230)), assistant("a xylophone"))
        bob = await store.session("bob-1", user_id="bob")
        await bob.append(user("my xylophone"))
        assert await recall.update() == 232
        await ada.append(user("another xylophone"))
        assert await recall.update() == 1
        assert sorted(shown(await recall.search("xylophone", user_id="ada"))) == ["ada-1:231", "ada-1:232"]
        await ada.rewind(last=1)
        assert shown(await recall.search("xylophone", user_id="ada")) == ["ada-1:231"]
        await store.delete("bob-1", user_id="bob")
        assert await recall.search("xylophone", user_id="bob") == []
        ada.clear()
        await ada.append(user("all new"))
        assert await recall.update() == 1
        assert list(await recall.index.standings(tenant)) == ["ada-1"]
