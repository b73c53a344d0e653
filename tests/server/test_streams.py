"""Server-sent events over a real socket: each stored event once, in order, whoever else follows and however often a client comes back."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from holdfast import Store, user
from holdfast.server import create_app, feeds
from holdfast.server.tails import Position, session_told
from holdfast.testing.model_server import Answer, ModelServer

from ..servers import redis
from .conftest import Sent, desk, events, serving, tail, until


def said(events: list[Sent]) -> list[str]:
    """The messages that entries tell of."""
    parts = [it["data"]["parts"][0] for it in events if it.name == "entry" and it["kind"] == "message"]
    return [it.get("content") or it["type"] for it in parts]


def seqs(events: list[Sent]) -> list[int]:
    return [it["seq"] for it in events if it.name == "entry"]


async def run(client: httpx.AsyncClient, message: str, *, streamed: bool = False, **more: Any) -> dict[str, Any]:
    if streamed:
        response = await client.post("/run", json={"message": message, "session_id": "ada-1", "stream": True})
        return [it async for it in events(response)][-1]["output"]
    response = await client.post("/run", json={"message": message, "session_id": "ada-1"} | more)
    assert response.status_code in (200, 202), response.text
    return response.json()


async def test_a_tail_tells_each_entry_once_and_the_session_as_it_is(served: httpx.AsyncClient) -> None:
    await run(served, "hello")
    async with tail(served, "/sessions/ada-1/events") as it:
        await it.until(lambda got: len(got) == 1)
        assert it.got[0].name == "session"
        assert it.got[0]["seq"] == 4
        await run(served, "where is it?")
        await served.patch("/sessions/ada-1", json={"name": "Orders"})
        await it.until(lambda got: got[-1].name == "session" and got[-1]["name"] == "Orders")
        assert said(it.got) == ["where is it?", "tool_call", "tool_call_response", "Done: A-17 has shipped"]
        assert seqs(it.got) == list(range(5, 11))
        assert it.got[-1]["status"] == "idle"


async def test_who_comes_back_is_told_what_was_missed_once(served: httpx.AsyncClient) -> None:
    await run(served, "one")
    async with tail(served, "/sessions/ada-1/events?after=0") as it:
        first = list(await it.until(lambda got: len(seqs(got)) == 4))
    last = [seen.id for seen in first if seen.name == "entry"][1]
    await run(served, "two")
    async with tail(served, "/sessions/ada-1/events", last) as it:
        await it.until(lambda got: len(seqs(got)) == 6)
        assert seqs(it.got) == [3, 4, 5, 6, 7, 8]
        await run(served, "three")
        await it.until(lambda got: len(seqs(got)) >= 10)
        assert seqs(it.got) == list(range(3, 13))


async def test_two_workers_and_a_restart_give_the_same_numbers(model: ModelServer, place: str) -> None:
    async with serving(create_app(desk(model, place))) as here:
        await run(here, "one")
        async with tail(here, "/sessions/ada-1/events?after=0") as it:
            begun = list(await it.until(lambda got: len(seqs(got)) == 4))
    async with serving(create_app(desk(model, place))) as there, tail(there, "/sessions/ada-1/events", begun[-1].id) as it:
        await it.until(lambda got: bool(got))
        await run(there, "two")
        await it.until(lambda got: len(seqs(got)) == 4)
        assert seqs(begun) + seqs(it.got) == list(range(1, 9))


async def test_what_a_run_says_before_it_is_stored_comes_to_every_tail(place: str) -> None:
    rest = threading.Event()
    text = "It has been on its way since Monday, and will be there tomorrow."
    with ModelServer([Answer(text=text, halfway=rest)]) as model:
        async with serving(create_app(desk(model, place))) as here, serving(create_app(desk(model, place))) as there:
            await there.post("/sessions", json={"session_id": "ada-1"})
            async with tail(there, "/sessions/ada-1/events") as first:
                await first.until(bool)
                going = asyncio.create_task(run(here, "where?", streamed=True))
                await first.until(lambda got: any(it.name == "partial" for it in got))
                async with tail(there, "/sessions/ada-1/events") as second:
                    await second.until(lambda got: any(it.name == "partial" for it in got))
                    rest.set()
                    await going
                    for it in (first, second):
                        await it.until(lambda got: text in said(got))
                        partials = it.named("partial")
                        assert [partial["start"] for partial in partials] == [True] + [False] * (len(partials) - 1)
                        begun = "".join(partial["delta"] for partial in partials)
                        assert begun
                        assert text.startswith(begun)
                    assert said(first.got) == ["where?", text]
                    assert said(second.got) == [text]


async def test_a_cleared_session_begins_anew_and_a_deleted_one_ends(served: httpx.AsyncClient) -> None:
    await run(served, "one")
    async with tail(served, "/sessions/ada-1/events?after=0") as it:
        await it.until(lambda got: len(seqs(got)) == 4)
        position = it.got[-1].id
        await served.post("/sessions/ada-1/clear")
        await it.until(lambda got: bool(it.named("cleared")))
        await run(served, "two")
        await it.until(lambda got: len(seqs(got)) == 8)
        assert seqs(it.got) == [1, 2, 3, 4] * 2
        async with tail(served, "/sessions/ada-1/events", position) as again:
            await again.until(lambda got: len(seqs(got)) == 4)
            assert again.got[0].name == "cleared"
            assert "two" in said(again.got)
        await served.delete("/sessions/ada-1")
        assert (await it.ended())[-1].name == "gone"
    assert (await served.get("/sessions/ada-1/events")).status_code == 404


async def test_a_rewind_is_told_and_hides_nothing_that_was_told(served: httpx.AsyncClient) -> None:
    await run(served, "one")
    async with tail(served, "/sessions/ada-1/events?after=0") as it:
        await it.until(lambda got: len(seqs(got)) == 4)
        await served.post("/sessions/ada-1/rewind", json={"to": 0})
        await it.until(lambda got: got[-1].name == "session" and got[-1]["hides"] == 1)
    async with tail(served, "/sessions/ada-1/events?after=0") as it:
        await it.until(lambda got: len(seqs(got)) == 4)
        assert all(entry["hidden"] for entry in it.named("entry"))


async def test_a_run_is_followed_from_any_number_by_any_number_of_clients(served: httpx.AsyncClient) -> None:
    begun = await run(served, "slowly now", background=True)
    path = f"/sessions/ada-1/runs/{begun['run_id']}/events"
    tails = [tail(served, path) for _ in range(5)]
    got = [await (await it.__aenter__()).ended() for it in tails]
    whole = got[0]
    assert whole[0].name == "run_started"
    assert whole[-1].name == "run_ended"
    assert whole[-1]["output"]["content"] == "You said: slowly now"
    texts = ["".join(it["delta"] for it in events if it.name == "text_delta") for events in got]
    assert texts == ["You said: slowly now"] * 5
    async with tail(served, path, whole[0].id) as it:
        rest = await it.ended()
        assert "".join(event["delta"] for event in rest if event.name == "text_delta") == "You said: slowly now"
        assert "run_started" not in [event.name for event in rest]
    async with tail(served, path, whole[-1].id) as it:
        assert await it.ended() == []


async def test_those_who_follow_share_one_look_and_the_last_one_ends_it(served: httpx.AsyncClient) -> None:
    await run(served, "one")
    tails = [tail(served, "/sessions/ada-1/events") for _ in range(20)]
    its = [await it.__aenter__() for it in tails]
    for it in its:
        await it.until(lambda got: bool(got))
    assert feeds.under_way() == 1
    await run(served, "two")
    for it in its:
        await it.until(lambda got: len(seqs(got)) == 4)
    for it in tails:
        await it.__aexit__(None, None, None)
    await until(lambda: not feeds.under_way())


async def test_a_reader_who_is_too_slow_reads_the_log_and_misses_nothing(place: str) -> None:
    async with Store.open(place) as store:
        session = await store.session("ada-1")
        told = session_told(store, "ada-1", None, Position(0))
        await anext(told)
        async with feeds.feed(store, "ada-1") as feed:
            for number in range(2 * feeds.KEPT):
                await session.append(user(f"message {number}"))
                await until(lambda number=number: feed.newest.seq > number)
        got: list[int] = []
        while len(got) < 2 * feeds.KEPT:
            it = await anext(told)
            got += [int((it.id or "").partition(".")[0])] if it.name == "entry" else []
        assert got == list(range(1, 2 * feeds.KEPT + 1))
        await told.aclose()


async def test_the_tail_of_the_inbox_tells_what_changes(served: httpx.AsyncClient) -> None:
    await run(served, "one")
    async with tail(served, "/events") as it:
        await it.until(lambda got: bool(got) and got[-1].name == "ready")
        await run(served, "two", session_id="bob-1")
        await it.until(lambda got: any(seen.name == "session" and seen["id"] == "bob-1" and seen["status"] == "idle" for seen in got))
        assert it.named("session")[-1]["last_line"] == "You said: two"
        await served.patch("/sessions/ada-1", json={"name": "Orders"})
        await it.until(lambda got: any(seen.get("name") == "Orders" for seen in got))
        await run(served, "refund it", session_id="bob-1")
        await it.until(lambda got: any(seen.get("status") == "waiting" for seen in got))
        await served.delete("/sessions/bob-1")
        await it.until(lambda got: bool(got) and got[-1].name == "deleted" and got[-1]["id"] == "bob-1")
        last = it.got[-1].id
    await run(served, "three")
    async with tail(served, "/events", last) as it:
        await it.until(lambda got: bool(got) and got[-1].name == "ready")
        assert it.named("session")[0]["last_line"] == "You said: three"


async def test_a_database_that_tells_of_commits_is_not_asked_all_the_time() -> None:
    with redis.server(redis.redis8()) as database:
        async with Store.open(database.url) as here, Store.open(database.url) as there:
            session = await here.session("ada-1")
            async with aclosing(session_told(there, "ada-1", None, None)) as told:
                assert (await anext(told)).name == "session"
                await asyncio.sleep(0.3)
                before = asked(redis.ask(database.port, "INFO", "commandstats"))
                await asyncio.sleep(1.2)
                assert asked(redis.ask(database.port, "INFO", "commandstats")) == before
                await session.append(user("hello"))
                async with asyncio.timeout(2):
                    assert [(await anext(told)).name for _ in range(2)] == ["entry", "session"]
                await session.delete()
                async with asyncio.timeout(2):
                    assert (await anext(told)).name == "gone"


def asked(stats: bytes) -> int:
    """How many scripts a database has executed."""
    return sum(
        [int(line.partition(b"calls=")[2].partition(b",")[0]) for line in stats.splitlines() if b"evalsha" in line or b"fcall" in line]
    )


@pytest.mark.parametrize("given", ["x", "-1", "1.2.zz", "1" * 40, "1.2.3.4"])
async def test_a_position_that_nobody_gave_is_refused(client: httpx.AsyncClient, given: str) -> None:
    await run(client, "one")
    response = await client.get("/sessions/ada-1/events", headers={"last-event-id": given})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_another_position_than_a_number_is_refused_for_a_run(client: httpx.AsyncClient) -> None:
    begun = await run(client, "one")
    response = await client.get(f"/sessions/ada-1/runs/{begun['run_id']}/events", headers={"last-event-id": "x"})
    assert response.status_code == 422
