"""The REST interface as its clients use it: runs that are safe to repeat, sessions, what is told of them, and every way to be wrong."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from holdfast import Agent, Store
from holdfast.agents import Team
from holdfast.models import OpenAIChat
from holdfast.recall import Recall
from holdfast.runtime import Runtime
from holdfast.server import create_app, going
from holdfast.testing.model_server import Answer, ModelServer, call

from .conftest import events, refund, serving, until

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="


async def run(client: httpx.AsyncClient, message: str, *, key: str | None = None, status: int = 200, **more: Any) -> dict[str, Any]:
    headers = {} if key is None else {"idempotency-key": key}
    response = await client.post("/run", json={"message": message} | more, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status_code == status, response.text
    return response.json()


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, which says no more than it should."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (document["type"], document["status"]) == ("about:blank", status)
    assert "Traceback" not in response.text
    assert "/src/" not in response.text
    return document


# --- runs that are safe to repeat ------------------------------------------------------------------------------------


async def test_a_repeated_run_is_the_same_run(client: httpx.AsyncClient, model: ModelServer) -> None:
    first = await run(client, "hello", key="k1")
    again = await run(client, "hello", key="k1")
    assert again == first
    assert len(model.requests) == 1


async def test_a_run_repeated_while_it_goes_on_is_joined(client: httpx.AsyncClient, model: ModelServer) -> None:
    answers = await asyncio.gather(*[run(client, "slowly please", key="k1", session_id="ada-1") for _ in range(3)])
    assert [it["content"] for it in answers] == ["You said: slowly please"] * 3
    assert len({it["run_id"] for it in answers}) == 1
    assert len(model.requests) == 1


@pytest.mark.parametrize("how", [{"stream": True}, {"background": True}, {}], ids=["stream", "background", "plain"])
async def test_another_way_to_repeat_it_finds_it_too(client: httpx.AsyncClient, model: ModelServer, how: dict[str, bool]) -> None:
    first = await run(client, "hello", key="k1")
    response = await client.post("/run", json={"message": "hello"} | how, headers={"idempotency-key": "k1"})
    assert response.is_success
    if "stream" in how:
        told = [it async for it in events(response)]
        assert told[-1]["output"]["content"] == "You said: hello"
        assert "".join(it["delta"] for it in told if it.name == "text_delta") == "You said: hello"
    else:
        assert response.json()["run_id"] == first["run_id"]
    assert len(model.requests) == 1


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}], ids=["plain", "stream", "background"])
async def test_one_key_for_two_inputs_is_refused(client: httpx.AsyncClient, model: ModelServer, how: dict[str, bool]) -> None:
    await run(client, "hello", key="k1")
    response = await client.post("/run", json={"message": "good bye"} | how, headers={"idempotency-key": "k1"})
    assert "another input" in is_problem(response, 422)["detail"]
    assert len(model.requests) == 1


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}], ids=["plain", "stream", "background"])
async def test_one_key_for_two_agents_is_refused_and_so_are_two_names(
    app: FastAPI, client: httpx.AsyncClient, model: ModelServer, how: dict[str, bool]
) -> None:
    app.state.serving.runtime.register(Agent(OpenAIChat(id="gpt-5.2", base_url=model.base_url, api_key="none"), name="clerk"))
    await run(client, "hello", agent="desk", key="k1")
    headers = {"idempotency-key": "k1"}
    response = await client.post("/run", json={"message": "hello", "agent": "clerk"} | how, headers=headers)
    assert "another agent" in is_problem(response, 422)["detail"]
    response = await client.post("/run", json={"message": "hello", "agent": "desk", "run_id": "k2"} | how, headers=headers)
    assert "Idempotency-Key" in is_problem(response, 422)["detail"]
    again = {"message": "hello", "agent": "desk", "run_id": "k1"} | how
    assert (await client.post("/run", json=again, headers=headers)).is_success


async def test_a_repeated_run_whose_conversation_was_handed_over_is_the_same(app: FastAPI, client: httpx.AsyncClient) -> None:
    answers = iter([call("hand_over", agent="money"), "It is on its way.", "Tomorrow."])
    with ModelServer(lambda request: next(answers)) as other:
        model = OpenAIChat(id="gpt-5.2", base_url=other.base_url, api_key="none")
        app.state.serving.runtime.register(Team(model, members=[Agent(model, name="money")], mode="handoff"), "front")
        for key, said in (("k1", "my money"), ("k2", "and when?")):
            first = await run(client, said, agent="front", key=key, session_id="ada-1")
            assert first["agent"] == "money"
            assert await run(client, said, agent="front", key=key, session_id="ada-1") == first
            other_agent = {"message": said, "agent": "desk", "run_id": key, "session_id": "ada-1"}
            assert "another agent" in is_problem(await client.post("/run", json=other_agent), 422)["detail"]


async def test_a_run_that_failed_goes_on_when_it_is_repeated(model: ModelServer) -> None:
    answers = iter([Answer(status=400), Answer(text="Here I am.")])
    with ModelServer(lambda request: next(answers)) as other:
        runtime = Runtime(Store.open("memory://"))
        runtime.register(Agent(OpenAIChat(id="gpt-5.2", base_url=other.base_url, api_key="none"), name="desk"))
        app = create_app(runtime)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await run(client, "hello", key="k1", status=502)
            assert (await run(client, "hello", key="k1"))["content"] == "Here I am."


async def test_whoever_was_handed_the_conversation_goes_on_under_the_name_that_is_served(app: FastAPI, client: httpx.AsyncClient) -> None:
    answers = iter([call("hand_over", agent="money"), call("refund", order="7"), "It is on its way."])
    with ModelServer(lambda request: next(answers)) as other:
        model = OpenAIChat(id="gpt-5.2", base_url=other.base_url, api_key="none")
        money = Agent(model, name="money", tools=[refund])
        app.state.serving.runtime.register(Team(model, members=[money], mode="handoff"), "front")
        paused = await run(client, "my money", agent="front", session_id="ada-1")
        assert (paused["status"], paused["agent"]) == ("paused", "money")
        (needs,) = paused["requirements"]
        place = f"/sessions/ada-1/runs/{paused['run_id']}/decisions"
        response = await client.post(place, json={"decisions": [{"requirement": needs["id"], "outcome": "approve"}]})
        assert response.json()["content"] == "It is on its way."


# --- in the background, and one at a time ----------------------------------------------------------------------------


async def test_a_background_run_is_read_later(client: httpx.AsyncClient) -> None:
    response = await client.post("/run", json={"message": "slowly now", "session_id": "a/b", "background": True})
    assert response.status_code == 202
    place = response.headers["location"]
    begun = response.json()
    assert place == f"/sessions/a%2Fb/runs/{begun['run_id']}"
    assert (await get(client, place))["status"] in ("queued", "running")
    told: dict[str, Any] = {}
    async with asyncio.timeout(10):
        while told.get("status") != "completed":
            told = await get(client, place)
            await asyncio.sleep(0.02)
    assert told["content"] == "You said: slowly now"
    assert told["metrics"]["model_calls"] == 1


async def test_a_busy_session_is_a_conflict_to_try_again(client: httpx.AsyncClient, model: ModelServer) -> None:
    first = asyncio.create_task(run(client, "slowly now", session_id="ada-1"))
    await until(lambda: len(model.requests) == 1)
    response = await client.post("/run", json={"message": "and me", "session_id": "ada-1", "wait": 0})
    is_problem(response, 409)
    assert response.headers["retry-after"] == "1"
    await first


async def test_a_decision_lets_a_run_go_on_once(client: httpx.AsyncClient) -> None:
    paused = await run(client, "refund it", session_id="ada-1")
    assert paused["status"] == "paused"
    path = f"/sessions/ada-1/runs/{paused['run_id']}"
    told = await get(client, path)
    assert [it["tool"] for it in told["requirements"]] == ["refund"]
    assert [it["kind"] for it in told["spans"]] == ["model", "waiting"]
    approve = {"decisions": [{"requirement": paused["requirements"][0]["id"], "outcome": "approve"}]}
    response = await client.post(f"{path}/decisions", json=approve)
    assert response.json()["content"] == "Done: A-17 refunded"
    assert "approve" in is_problem(await client.post(f"{path}/decisions", json=approve), 409)["detail"]
    unknown = {"decisions": [{"requirement": "x", "outcome": "approve"}]}
    is_problem(await client.post(f"{path}/decisions", json=unknown), 404)
    assert [it["kind"] for it in (await get(client, path))["spans"]] == ["model", "waiting", "tool", "model"]


HOW: list[dict[str, bool]] = [{}, {"stream": True}, {"background": True}]
WAYS = ["plain", "stream", "background"]


@pytest.mark.parametrize("how", HOW, ids=WAYS)
async def test_of_two_decisions_at_once_one_is_a_conflict(client: httpx.AsyncClient, how: dict[str, bool]) -> None:
    paused = await run(client, "refund it", session_id="ada-1")
    path, id = f"/sessions/ada-1/runs/{paused['run_id']}/decisions", paused["requirements"][0]["id"]
    both = [{"decisions": [{"requirement": id, "outcome": it}]} | how for it in ("approve", "deny")]
    won, lost = sorted(await asyncio.gather(*[client.post(path, json=it) for it in both]), key=lambda it: it.status_code)
    assert won.is_success
    assert "was decided already" in is_problem(lost, 409)["detail"]


@pytest.mark.parametrize("how", HOW, ids=WAYS)
async def test_a_decision_that_does_not_fit_is_refused(client: httpx.AsyncClient, how: dict[str, bool]) -> None:
    paused = await run(client, "refund it", session_id="ada-1")
    path, id = f"/sessions/ada-1/runs/{paused['run_id']}", paused["requirements"][0]["id"]
    wrong = {"decisions": [{"requirement": id, "outcome": "supply", "value": 1}]} | how
    is_problem(await client.post(f"{path}/decisions", json=wrong), 422)
    assert (await get(client, path))["status"] == "paused"


@asynccontextmanager
async def busy(app: FastAPI, client: httpx.AsyncClient) -> AsyncGenerator[dict[str, Any]]:
    """What asks for a stream on a session that another run holds meanwhile."""
    let = threading.Event()
    with ModelServer(lambda request: Answer(text="Here.", hold=let)) as held:
        app.state.serving.runtime.register(Agent(OpenAIChat(id="gpt-5.2", base_url=held.base_url, api_key="none"), name="slow"))
        asked = {"message": "hello", "session_id": "ada-1"}
        first = asyncio.create_task(client.post("/run", json=asked | {"agent": "slow"}))
        await until(lambda: len(held.requests) == 1)
        yield asked | {"agent": "desk", "stream": True}
        let.set()
        await first


async def test_a_stream_that_is_refused_is_a_problem_or_ends_with_one(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with busy(app, client) as asked:
        refused = await client.post("/run", json=asked | {"wait": 0})
        is_problem(refused, 409)
        assert refused.headers["retry-after"] == "1"
        monkeypatch.setattr(going, "_SOON", 0.05)
        (late,) = [it async for it in events(await client.post("/run", json=asked | {"wait": 0.3}))]
        assert (late.name, late["status"]) == ("problem", 409)
    assert "a run failed" not in caplog.text


async def test_a_stream_that_waits_for_its_turn_is_told_that_the_server_stops(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with busy(app, client) as asked:
        early = asyncio.create_task(client.post("/run", json=asked | {"run_id": "early"}))
        await until(lambda: len(app.state.serving.going) == 2)
        monkeypatch.setattr(going, "_SOON", 0.0)
        late = asyncio.create_task(client.post("/run", json=asked | {"run_id": "late"}))
        await until(lambda: len(app.state.serving.going) == 3)
        await app.state.serving.going.stop(0)
        assert is_problem(await early, 503)["run_id"] == "early"
        assert [(it.name, it["status"], it["run_id"]) async for it in events(await late)] == [("problem", 503, "late")]


# --- attachments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attached", "sent"),
    [
        ({"mime_type": "image/png", "data": PNG}, f"data:image/png;base64,{PNG}"),
        ({"mime_type": "image/png", "url": "https://example.com/a.png"}, "https://example.com/a.png"),
    ],
    ids=["data", "url"],
)
async def test_the_model_sees_what_is_attached(client: httpx.AsyncClient, model: ModelServer, attached: dict[str, str], sent: str) -> None:
    await run(client, "what is this?", session_id="ada-1", attachments=[attached])
    content = model.requests[0].input[-1]["content"]
    assert [it["image_url"]["url"] for it in content if it["type"] == "image_url"] == [sent]
    message = (await get(client, "/sessions/ada-1/messages"))[0]
    assert [it["type"] for it in message["parts"]] == ["text", "blob" if "data" in attached else "uri"]
    await run(client, "and now?", session_id="ada-1")
    assert sent in json.dumps(model.requests[1].body)


@pytest.mark.parametrize(
    "attached",
    [
        {"mime_type": "image/png"},
        {"mime_type": "image/png", "data": "no base64"},
        {"mime_type": "image/png", "data": PNG, "url": "https://example.com"},
        {"mime_type": "image/png", "url": "file:///etc/passwd"},
        {"mime_type": "png", "data": PNG},
    ],
    ids=["nothing", "no-base64", "both", "file", "no-type"],
)
async def test_what_is_no_attachment_is_refused(client: httpx.AsyncClient, attached: dict[str, str]) -> None:
    is_problem(await client.post("/run", json={"message": "look", "attachments": [attached]}), 422)


# --- what is told of sessions ----------------------------------------------------------------------------------------


async def test_a_list_tells_the_last_line_and_the_status(client: httpx.AsyncClient) -> None:
    await run(client, "hello", session_id="ada-1")
    await run(client, "refund it", session_id="bob-1")
    await run(client, "word " * 100, session_id="long")
    items = {it["id"]: it for it in (await get(client, "/sessions?lines=true"))["items"]}
    assert (items["ada-1"]["last_line"], items["ada-1"]["status"]) == ("You said: hello", "idle")
    assert (items["bob-1"]["last_line"], items["bob-1"]["status"]) == ("refund it", "waiting")
    assert len(items["long"]["last_line"]) == 200
    assert [it["last_line"] for it in (await get(client, "/sessions"))["items"]] == [None] * 3


async def test_one_session_is_told_as_the_list_tells_it(client: httpx.AsyncClient) -> None:
    for number in range(10):
        await run(client, f"number {number}", session_id="ada-1")
    told = await get(client, "/sessions/ada-1?lines=true")
    assert (told["first_line"], told["last_line"], told["status"]) == ("number 0", "You said: number 9", "idle")
    assert [told] == (await get(client, "/sessions?lines=true"))["items"]
    assert (await get(client, "/sessions/ada-1"))["first_line"] is None


async def test_entries_are_read_in_pages_both_ways(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await run(client, f"number {number}", session_id="ada-1")
    newest = await get(client, "/sessions/ada-1/entries?limit=5")
    assert ([it["seq"] for it in newest["items"]], newest["more"]) == ([8, 9, 10, 11, 12], True)
    oldest = await get(client, "/sessions/ada-1/entries?limit=5&after=0")
    assert ([it["seq"] for it in oldest["items"]], oldest["more"]) == ([1, 2, 3, 4, 5], True)
    runs = await get(client, "/sessions/ada-1/entries?kinds=run&after=0")
    assert [it["data"]["status"] for it in runs["items"]] == ["running", "completed"] * 3
    assert not runs["more"]


async def test_what_a_run_was_sent_is_told_also_of_a_fork(client: httpx.AsyncClient) -> None:
    await run(client, "one", session_id="ada-1", run_id="r1")
    await run(client, "where is it?", session_id="ada-1", run_id="r2")
    sent = await get(client, "/sessions/ada-1/runs/r2/as-sent")
    assert [len(it["messages"]) for it in sent["tries"][0]["requests"]] == [3, 5]
    assert sent["tries"][0]["past"] == 2
    await client.post("/sessions/ada-1/fork", json={"session_id": "ada-2"})
    assert await get(client, "/sessions/ada-2/runs/r2/as-sent") == sent
    await get(client, "/sessions/ada-1/runs/none/as-sent", 404)
    timeline = await get(client, "/sessions/ada-1/timeline")
    assert [[span["kind"] for span in it["spans"]] for it in timeline] == [["model"], ["model", "tool", "model"]]
    assert all(span["ended"] for it in timeline for span in it["spans"])


async def test_files_and_versions_of_state(app: FastAPI, client: httpx.AsyncClient) -> None:
    await run(client, "hello", session_id="ada-1")
    await client.put("/sessions/ada-1/state/plan", json={"steps": [1, 2]})
    session = await app.state.serving.runtime.store.get("ada-1")
    await session.put_file("notes/a.html", "<script>", type="text/html")
    assert await get(client, "/sessions/ada-1/files") == [{"name": "notes/a.html", "type": "text/html", "size": 8}]
    response = await client.get("/sessions/ada-1/files/notes%2Fa.html")
    assert (response.content, response.headers["content-type"]) == (b"<script>", "application/octet-stream")
    is_problem(await client.get("/sessions/ada-1/files/b"), 404)
    versions = await get(client, "/sessions/ada-1/state-versions")
    assert versions["keys"] == {"plan": versions["version"] - 1}


async def test_the_state_has_its_history(app: FastAPI, client: httpx.AsyncClient) -> None:
    runtime = app.state.serving.runtime
    telling = Store(runtime.store.backend, state_history=True)
    session = await telling.session("ada-1")
    for value in (1, 2):
        session.state["n"] = value
        await session.commit()
    session.state["born"] = date(1815, 12, 10)
    del session.state["n"]
    await session.commit()
    told = await get(client, "/sessions/ada-1/state-history?key=n")
    assert [(it["value"], it["deleted"]) for it in told] == [(1, False), (2, False), (None, True)]
    (born,) = await get(client, "/sessions/ada-1/state-history?last=1&key=born")
    assert (born["key"], "1815-12-10" in str(born["value"])) == ("born", True)
    is_problem(await client.get("/sessions/ada-1/state-history?last=0"), 422)


async def test_a_search_finds_names(client: httpx.AsyncClient) -> None:
    await run(client, "hello", session_id="ada-1")
    await client.patch("/sessions/ada-1", json={"name": "Late order"})
    found = await get(client, "/search?q=LATE")
    assert [it["id"] for it in found["sessions"]] == ["ada-1"]
    assert found["hits"] is None


async def test_a_search_finds_what_was_said_where_there_is_an_index(app: FastAPI, client: httpx.AsyncClient) -> None:
    await run(client, "the parcel from Lisbon", session_id="ada-1")
    runtime = app.state.serving.runtime
    async with Recall(runtime.store, index="memory://") as recall:
        runtime.recall = recall
        await recall.update()
        hits = (await get(client, "/search?q=Lisbon"))["hits"]
        assert {(it["session_id"], it["role"]) for it in hits} == {("ada-1", "user"), ("ada-1", "assistant")}


# --- every way to be wrong -------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("PUT", "/run", None, 405),
        ("GET", "/sessions/none", None, 404),
        ("GET", "/sessions/a%00b", None, 422),
        ("GET", "/sessions/~app", None, 422),
        ("GET", "/sessions/%FF", None, 404),
        ("GET", f"/sessions/{'x' * 2000}", None, 422),
        ("GET", "/sessions?limit=0", None, 422),
        ("GET", f"/sessions?limit={'9' * 5000}", None, 422),
        ("GET", "/sessions?cursor=nothing", None, 404),
        ("GET", "/sessions?updated_after=yesterday", None, 422),
        ("GET", "/sessions?updated_after=2026-01-01T00:00:00", None, 422),
        ("POST", "/run", b"{", 422),
        ("POST", "/run", b"[]", 422),
        ("POST", "/run", b"", 422),
        ("POST", "/run", b'{"message": "\xff"}', 400),
        ("POST", "/run", b'{"message": "\\ud800"}', 422),
        ("POST", "/run", b'{"message": "a", "wait": 1e999}', 422),
        ("POST", "/run", b'{"message": "a", "wait": ' + b"9" * 5000 + b"}", 400),
        ("POST", "/run", b'{"message": "a", "nonsense": 1}', 422),
        ("POST", "/run", b'{"message": ""}', 422),
        ("POST", "/run", b'{"message": "a", "agent": "nobody"}', 404),
        ("POST", "/run", b'{"message": "a", "session_id": "\\u0000"}', 422),
        ("POST", "/run", b'{"message": "a", "session_id": "."}', 422),
        ("POST", "/run", b'{"message": "a", "session_id": ".."}', 422),
        ("POST", "/run", b'{"message": "a", "run_id": ".."}', 422),
        ("POST", "/sessions", b'{"session_id": ".."}', 422),
        ("POST", "/sessions/ada-1/fork", b'{"session_id": "."}', 422),
        ("POST", "/run", DEEP.encode(), 400),
        ("PUT", "/sessions/ada-1/state/k", DEEP.encode(), 400),
        ("PUT", "/sessions/ada-1/state/k", b"NaN", 422),
        ("PUT", "/sessions/ada-1/state/k", b'"\\ud800"', 422),
        ("PUT", "/sessions/ada-1/state/k?scope=user", b"1", 409),
        ("PATCH", "/sessions/ada-1", b'{"metadata": {"a": "\\ud800"}}', 422),
        ("PATCH", "/sessions/ada-1", b'{"name": "\\ud800"}', 422),
        ("POST", "/sessions/ada-1/rewind", b'{"to": 1, "last": 1}', 422),
        ("POST", "/sessions/ada-1/fork", b'{"session_id": "ada-1"}', 409),
        ("POST", "/sessions", b'{"session_id": "ada-1"}', 409),
        ("GET", "/search?q=", None, 422),
    ],
    ids=lambda it: (it.decode("latin-1") if isinstance(it, bytes) else str(it))[:40].encode("ascii", "replace").decode(),
)
async def test_a_wrong_request_is_a_problem(client: httpx.AsyncClient, method: str, path: str, body: bytes | None, status: int) -> None:
    await run(client, "hello", session_id="ada-1")
    headers = {"content-type": "application/json"} if body is not None else {}
    is_problem(await client.request(method, path, content=body, headers=headers), status)


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain; charset=utf-8"], ids=str)
@pytest.mark.parametrize(("method", "path"), [("POST", "/run"), ("PUT", "/sessions/ada-1/state/k")], ids=["run", "state"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(client: httpx.AsyncClient, method: str, path: str, kind: str | None) -> None:
    await run(client, "hello", session_id="ada-1")
    headers = {} if kind is None else {"content-type": kind}
    refused = await client.request(method, path, content=b'{"message": "hello"}', headers=headers)
    assert "content-type: application/json" in is_problem(refused, 415)["detail"]
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await client.request(method, path, content=b'{"message": "hello"}', headers=headers)).is_success
    assert (await client.post("/sessions/ada-1/clear", content=b"x")).is_success, "there is no body to be read"


async def test_nothing_of_a_provider_that_failed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    secret = "sk-live-0123456789"
    with ModelServer(
        lambda request: Answer(status=400, raw={"error": {"message": f"the key {secret} is not good", "type": "auth"}})
    ) as model:
        runtime = Runtime(Store.open("memory://"))
        runtime.register(Agent(OpenAIChat(id="gpt-5.2", base_url=model.base_url, api_key=secret), name="desk"))
        async with serving(create_app(runtime)) as client:
            response = await client.post("/run", json={"message": "hello", "session_id": "ada-1"})
            told = is_problem(response, 502)
            assert secret not in response.text + str(response.headers)
            stored = await get(client, f"/sessions/ada-1/runs/{told['run_id']}")
            assert (stored["status"], stored["error"]) == ("error", told["error"])
            streamed = await client.post("/run", json={"message": "hello", "session_id": "ada-2", "stream": True})
            assert [it async for it in events(streamed)][-1]["output"]["status"] == "error"
            pages = ["/sessions?lines=true", "/sessions/ada-1/entries", "/sessions/ada-1/timeline", "/sessions/ada-1/export"]
            texts = [(await client.get(page)).text for page in pages]
            assert secret not in "".join(texts) + streamed.text
            assert (await get(client, "/sessions?lines=true"))["items"][0]["status"] == "error"


async def test_no_id_is_a_step_in_a_url(client: httpx.AsyncClient) -> None:
    response = await client.post("/run", json={"message": "hello"}, headers={"idempotency-key": ".."})
    assert "'..' is no id here" in is_problem(response, 422)["detail"]
    assert (await run(client, "hello", session_id="...", key=".a"))["session_id"] == "..."


async def test_every_operation_has_a_name_that_stays(client: httpx.AsyncClient) -> None:
    document = await get(client, "/openapi.json")
    names = [it["operationId"] for methods in document["paths"].values() for it in methods.values()]
    assert len(names) == len(set(names))
    assert all(it.isidentifier() for it in names)
    assert all(it.get("summary") and it.get("description") for methods in document["paths"].values() for it in methods.values())
