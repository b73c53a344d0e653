"""The history of a state: what each commit changed in it, where a store is asked to tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from holdfast import InvalidValue, Store, user


@pytest.fixture(params=["memory", "sqlite", "cached"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with Store.open(url, state_history=True, cache=8 if request.param == "cached" else 0) as opened:
        yield opened


def short(changes: list[Any]) -> list[tuple[str, Any, bool]]:
    return [(it.key, it.value, it.deleted) for it in changes]


async def test_each_commit_tells_what_it_changes(store: Store) -> None:
    session = await store.session("s", user_id="ada")
    session.state["theme"] = {"dark": True}
    session.state["born"] = date(1815, 12, 10)
    await session.append(user("hi"))
    session.state["theme"]["dark"] = False
    del session.state["born"]
    await session.commit()
    assert await session.state.increment("n") == 1
    told = await session.state_history()
    assert short(told) == [
        ("theme", {"dark": True}, False),
        ("born", date(1815, 12, 10), False),
        ("theme", {"dark": False}, False),
        ("born", None, True),
        ("n", 1, False),
    ]
    assert told[0].time <= told[-1].time
    assert [it.seq for it in told] == sorted(it.seq for it in told)
    assert short(await session.state_history("theme", last=1)) == [("theme", {"dark": False}, False)]
    assert [message.text for message in await session.get_messages()] == ["hi"]


async def test_runs_are_named_and_the_hidden_is_left_out(store: Store) -> None:
    session = await store.session("s")
    session.get_non_volatile_cache()["kept"] = 1
    await session.commit()
    async with session.run(user("hi"), agent="desk") as run:
        session.state["k"] = 1
        await run.append(user("there"))
    (change,) = await session.state_history()
    assert (change.key, change.run_id, change.agent) == ("k", run.id, "desk")


async def test_long_histories_are_paged_and_rewound_with_the_rest(store: Store) -> None:
    session = await store.session("s")
    for number in range(40):
        session.state["even" if number % 2 == 0 else "odd"] = number
        await session.commit()
    assert [it.value for it in await session.state_history("odd", last=12)] == list(range(17, 40, 2))
    assert len(await session.state_history(last=1000)) == 40
    assert await session.state_history("never") == []
    await session.rewind(to=(await session.state_history("odd", last=1))[0].seq - 1)
    assert (await session.state_history("odd", last=1))[0].value == 37
    with pytest.raises(InvalidValue, match="last=-1"):
        await session.state_history(last=-1)


async def test_without_being_asked_nothing_is_told_and_a_repetition_is_one(tmp_path: Path) -> None:
    async with Store.open("memory://") as plain:
        session = await plain.session("s")
        await session.state.increment("n")
        assert await session.state_history() == []
    async with Store.open(f"sqlite:///{tmp_path}/c.db", state_history=True) as store:
        first = await store.session("s")
        first.state["k"] = 1
        await first.commit(commit_id="c")
        again = await store.session("s")
        again.state["k"] = 1
        await again.commit(commit_id="c")
        assert short(await again.state_history()) == [("k", 1, False)]
        assert store.cached(4).options["state_history"] is True
        fork = await again.fork("f")
        assert short(await fork.state_history()) == [("k", 1, False)]
