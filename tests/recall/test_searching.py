"""What a search finds and what it never shows; any text is a query."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from msgspec.structs import replace

from holdfast import InvalidValue, Store, assistant, user
from holdfast.recall import Found, MiniLM, Recall, SQLiteIndex, Wanted
from holdfast.recall.passages import excerpt, names_something, pieces, words_of

from .conftest import said, shown

ODD: dict[str, str] = {
    "quotes": 'he said "order\'s"" here',
    "operators": "order AND NOT (NEAR OR *) ^order text:order -order + {a b}: order",
    "column": "text : order",
    "sql": "'; DROP TABLE documents; -- order",
    "emoji": "🎉 order 👩‍👩‍👧",
    "nul": "order\0\x1b\ud7ff",
    "huge": "order " * 2000,
    "long word": "order " + "x" * 10_000,
    "accents": "Örder ÖRDER order",
}
EMPTY = {"empty": "", "blank": " \n\t", "marks": '"*()^-+:{}', "only emoji": "🎉🎉"}


@pytest.mark.parametrize("query", ODD.values(), ids=list(ODD))
async def test_any_text_is_a_query(memory: Store, minilm: MiniLM, query: str) -> None:
    await said(memory, "a", user("my order"), user("no match"))
    async with Recall(memory, "memory://") as words, Recall(memory, "memory://", minilm) as both:
        for recall in (words, both):
            await recall.update()
            assert shown(await recall.search(query, user_id=None))[0] == "a:1"


@pytest.mark.parametrize("query", EMPTY.values(), ids=list(EMPTY))
async def test_a_query_with_nothing_in_it_finds_nothing(memory: Store, minilm: MiniLM, query: str) -> None:
    await said(memory, "a", user("my order 🎉"))
    async with Recall(memory, "memory://", minilm) as recall:
        await recall.update()
        assert await recall.search(query, user_id=None) == []


async def test_bad_arguments_are_named(memory: Store) -> None:
    async with Recall(memory, "memory://") as recall:
        wrong: list[dict[str, Any]] = [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"after": datetime(2026, 1, 1)}, {"user_id": ""}]
        anything: Any = recall
        for given in wrong:
            with pytest.raises(ValueError, match=r"limit=|after=|user id"):
                await anything.search("x", **{"user_id": None, **given})
        with pytest.raises(InvalidValue, match="query=7"):
            await anything.search(7, user_id=None)
        with pytest.raises(InvalidValue, match="embed='minilm'"):
            Recall(memory, "memory://", cast("Any", "minilm"))


async def test_another_users_and_another_tenants_sessions_do_not_exist(minilm: MiniLM) -> None:
    async with Store.open("memory://") as store:
        other = Store(store.backend, tenant="other")
        admin = Store(store.backend, as_admin=True)
        await said(store, "ada-1", user("my cat is Miezi"), user_id="ada")
        await said(store, "bob-1", user("my cat is Garfield"), user_id="bob")
        await said(store, "nobody", user("my cat is Tom"))
        await said(other, "ada-1", user("my cat is Felix"), user_id="ada")
        async with Recall(store, "memory://", minilm) as recall:
            there = Recall(other, recall.index, minilm)
            all_ = Recall(admin, recall.index, minilm)
            await recall.update()
            await there.update()
            assert [hit.text for hit in await recall.search("cat", user_id="ada")] == ["my cat is Miezi"]
            assert [hit.text for hit in await recall.search("cat", user_id=None)] == ["my cat is Tom"]
            assert [hit.text for hit in await there.search("cat", user_id="ada")] == ["my cat is Felix"]
            assert [hit.text for hit in await recall.search("cat", user_id="ada", session_id="bob-1")] == []
            assert await recall.search("cat", user_id="eve") == []
            assert sorted(shown(await all_.search("cat", user_id=None))) == ["ada-1:1", "bob-1:1", "nobody:1"]
            assert shown(await all_.search("cat", user_id="bob")) == ["bob-1:1"]


class Blabbing(SQLiteIndex):
    """An index that does not care whose documents it gives."""

    async def search(self, wanted: Wanted) -> list[list[Found]]:
        return await super().search(replace(wanted, everybody=True))


async def test_index_and_store_each_keep_users_apart(memory: Store) -> None:
    for name in ("ada", "bob"):
        await said(memory, name, user(f"the cat of {name}"), user_id=name)
    async with Recall(memory, Blabbing(":memory:")) as recall:
        await recall.update()
        assert shown(await recall.search("cat", user_id="ada")) == ["ada:1"]
    async with Recall(memory, "memory://") as recall:
        await recall.update()
        wanted = Wanted(tenant="default", words=("cat",), user_id="ada")
        assert [[it.session_id for it in ranking] for ranking in await recall.index.search(wanted)] == [["ada"], ["ada"]]


async def test_it_can_be_narrowed(memory: Store) -> None:
    async with Recall(memory, "memory://") as recall:
        session = await said(memory, "a", user("order one"), assistant("order two"))
        async with session.run(user("order three"), agent="desk") as run:
            await run.finish()
        await session.rename("Orders")
        await said(memory, "b", user("order four"))
        await recall.update()
        now = datetime.now(UTC)
        hour = timedelta(hours=1)
        assert len(await recall.search("order", user_id=None)) == 4
        assert len(await recall.search("order", user_id=None, limit=2)) == 2
        assert shown(await recall.search("order", user_id=None, session_id="b")) == ["b:1"]
        assert len(await recall.search("order", user_id=None, after=now - hour, before=now + hour)) == 4
        assert await recall.search("order", user_id=None, after=now + hour) == []
        (hit,) = await recall.search("order", user_id=None, agent="desk")
        assert (hit.name, hit.role, hit.text, hit.agent, hit.run_id) == ("Orders", "user", "order three", "desk", run.id)
        assert now - hour < hit.time < now + hour


async def test_by_meaning_a_question_finds_what_was_said_in_other_words(store: Store, minilm: MiniLM) -> None:
    lines = [
        "I am allergic to peanuts.",
        "We moved to Hamburg.",
        "The invoice is number RE-2044.",
        "My daughter plays the cello.",
    ]
    for number, line in enumerate(lines):
        await said(store, f"s{number}", user(line), assistant("I see."), user_id="ada")
    async with Recall(store, "memory://", minilm) as both, Recall(store, "memory://") as words:
        await both.update()
        await words.update()
        for question, place in (("which foods are dangerous for me?", "s0:1"), ("what city do I live in?", "s1:1"), ("re-2044", "s2:1")):
            assert shown(await both.search(question, user_id="ada", limit=1)) == [place]
        assert await words.search("which foods are dangerous for me?", user_id="ada") == []


async def test_a_search_fills_up_what_it_lost_to_sessions_that_are_gone(memory: Store) -> None:
    async with Recall(memory, "memory://") as recall:
        for number in range(120):
            await said(memory, f"s{number}", user("the same order"))
        await recall.update()
        for number in range(118):
            await memory.delete(f"s{number}")
        assert len(await recall.search("order", user_id=None)) == 2


NAMING = ("A-1007-X", "invoice RE-2044", "what about LH2078?", "What did Ingrid say?", "wombat room", "", "who are you", "4417?")
ASKING = ("What city do I live in?", "which foods are dangerous for me?", "Is it mine, or am I wrong about the kettle?")


@pytest.mark.parametrize("query", NAMING + ASKING)
def test_a_query_names_something_or_asks_in_plain_words(query: str) -> None:
    assert names_something(query) is (query in NAMING)


def test_words_and_pieces() -> None:
    assert words_of("Where's my ORDER, the order no. A-1007?") == ("order", "1007")
    assert words_of("who are you") == ("who", "are", "you")
    assert list(pieces("  \n ")) == []
    text = "\n\n".join(f"Paragraph {number}. " + "Some words here. " * 20 for number in range(9))
    cut = list(pieces(text))
    assert all(0 < len(it) <= 900 for it in cut)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert [len(it) for it in pieces("x" * 2000)] == [900, 900, 200]
    found = excerpt("filler " * 200 + "the needle is here " + "filler " * 200, "needle", 80)
    assert "needle" in found
    assert len(found) <= 84
    assert excerpt("short\n text", "x", 80) == "short text"
