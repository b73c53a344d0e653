"""Another user's anything is not there: every route that the application has, called by the wrong people."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from holdfast.testing.model_server import ModelServer

from .conftest import serving, tail
from .crowd import application, bearing, client, desk

HERS, NOBODYS = "ada-1", "ada-0"
"""A session of hers, and an id that is nobody's."""
IN_PATHS = {"key": "colour", "name": "note.txt"}


class Call(NamedTuple):
    """How a route is called so that its owner is answered: with this body, in this run, with this query."""

    json: Any = None
    run_id: str = "run-1"
    query: tuple[tuple[str, str], ...] = ()


CALLS: dict[str, Call] = {
    "POST /sessions/{session_id}/runs/{run_id}/decisions": Call({"decisions": [{"requirement": "?", "outcome": "approve"}]}, "run-2"),
    "POST /sessions/{session_id}/runs/{run_id}/cancel": Call(run_id="run-2"),
    "PATCH /sessions/{session_id}": Call({"name": "Renamed"}),
    "POST /sessions/{session_id}/fork": Call({}),
    "POST /sessions/{session_id}/rewind": Call({"last": 1}),
    "PUT /sessions/{session_id}/state/{key}": Call("red"),
}
"""Those that need more than `IN_PATHS`."""
NEVER_ENDS = {"GET /sessions/{session_id}/events"}
"""Streams that go on as long as somebody listens: a stranger is refused at once, the owner is answered in tests of their own."""
OPEN = {"GET /health", "GET /ready", "GET /openapi.json"}
"""Anybody may ask these: they tell nothing of anybody."""
OWN_TESTS = {
    "POST /run",
    "GET /sessions",
    "POST /sessions",
    "GET /requirements",
    "GET /search",
    "GET /agents",
    "GET /metrics",
    "GET /events",
}
"""Those that name no session in their path: each has a test below."""


def routes() -> dict[str, str]:
    """`METHOD /path/{template}` of every route, with its path, but for the pages that are the same for everybody."""
    found = {
        f"{method} {route.path}": str(route.path)
        for route in iter_route_contexts(application("http://none").routes)
        for method in sorted(route.methods or ("MOUNT",))
        if method != "HEAD" and route.path is not None and not _page(route.path)
    }
    return dict(sorted(found.items()))


def _page(path: str) -> bool:
    """Whether a path is that of the inbox: files of the package, without data."""
    return path in ("", "/") or path.startswith(("/inbox", "/static"))


ROUTES = routes()
OF_A_SESSION = [name for name, path in ROUTES.items() if "{session_id}" in path]


def request_of(name: str, session_id: str) -> dict[str, Any]:
    """The request to a route about a session."""
    it = CALLS.get(name, Call())
    method, _, path = name.partition(" ")
    given = IN_PATHS | {"session_id": session_id, "run_id": it.run_id}
    json = {"json": it.json} if it.json is not None else {}
    return {"method": method, "url": path.format(**given), "params": dict(it.query), **json}


@pytest.fixture(scope="module")
def model() -> Generator[str]:
    with ModelServer(desk) as server:
        yield server.base_url


@pytest.fixture
async def app(model: str) -> AsyncGenerator[FastAPI]:
    """Ada has a session with a run, a paused run, state, a file, a name; and the app has state of hers and of all."""
    app = application(model)
    store = app.state.serving.runtime.store
    async with store, client(app, "ada") as ada:
        for run_id, text in (("run-1", "my secret"), ("run-2", "refund 7")):
            answer = await ada.post("/run", json={"agent": "desk", "message": text, "session_id": HERS, "run_id": run_id})
            assert answer.status_code == 200, answer.text
        session = await store.session(HERS, user_id="ada")
        session.state["colour"] = "green"
        await session.commit()
        await session.rename("Secret things")
        await session.put_file("note.txt", b"secret")
        yield app


async def everything(app: FastAPI) -> list[Any]:
    """All that the store holds of everybody, in both tenants."""
    found: list[Any] = []
    for name in ("service", "strange-root"):
        async with client(app, name) as admin:
            page = (await admin.get("/sessions")).json()["items"]
            found += [page, *[(await admin.get(f"/sessions/{it['id']}/export")).text for it in page]]
            found += [(await admin.get(f"/sessions/{it['id']}/state", params={"scope": "app"})).json() for it in page]
    return found


def test_every_route_is_covered() -> None:
    unknown = ROUTES.keys() - set(OF_A_SESSION) - OPEN - OWN_TESTS
    assert not unknown, f"say who may call {unknown}: OPEN, or OWN_TESTS with a test"


@pytest.mark.parametrize("name", OF_A_SESSION)
@pytest.mark.parametrize("who", ["bob", "stranger", "strange-root"])
async def test_a_stranger_is_told_what_is_told_of_an_id_that_is_not_there(app: FastAPI, name: str, who: str) -> None:
    before = await everything(app)
    async with asyncio.timeout(5), client(app, who) as stranger:  # a stream that is told to a stranger would never end
        hers = await stranger.request(**request_of(name, HERS))
        nobodys = await stranger.request(**request_of(name, NOBODYS))
    assert hers.status_code == 404
    assert hers.content == nobodys.content.replace(NOBODYS.encode(), HERS.encode())
    assert hers.headers == nobodys.headers
    assert await everything(app) == before


@pytest.mark.parametrize("name", [it for it in OF_A_SESSION if it not in NEVER_ENDS])
@pytest.mark.parametrize("who", ["ada", "root", "service"])
async def test_the_owner_and_an_admin_are_answered(app: FastAPI, name: str, who: str) -> None:
    async with client(app, who) as caller:
        asked = request_of(name, HERS)
        if "/decisions" in name:
            (open_one,) = (await caller.get(f"/sessions/{HERS}/requirements")).json()
            asked["json"]["decisions"][0]["requirement"] = open_one["id"]
        answer = await caller.request(**asked)
    assert answer.is_success, answer.text


@pytest.mark.parametrize("name", [it for it in ROUTES if it not in OPEN])
async def test_nobody_is_answered_without_a_key(app: FastAPI, name: str) -> None:
    before = await everything(app)
    async with client(app) as nobody:
        answer = await nobody.request(**request_of(name, HERS))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert await everything(app) == before


@pytest.mark.parametrize("name", sorted(OPEN))
async def test_whoever_looks_after_the_server_needs_no_key(app: FastAPI, name: str) -> None:
    async with client(app) as nobody:
        assert (await nobody.get(name.split()[1])).is_success


# --- routes that name no session in their path -----------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}], ids=["whole", "stream", "background"])
async def test_a_run_on_anothers_session_is_refused(app: FastAPI, how: dict[str, bool]) -> None:
    before = await everything(app)
    async with client(app, "bob") as bob:
        answer = await bob.post("/run", json={"agent": "desk", "message": "hi", "session_id": HERS, "run_id": "run-1", **how})
    assert answer.status_code == 404
    assert "secret" not in answer.text
    assert await everything(app) == before


@pytest.mark.parametrize("path", ["/run", "/sessions"])
async def test_nobody_speaks_for_somebody_else(app: FastAPI, path: str) -> None:
    more = {"agent": "desk", "message": "hi"} if path == "/run" else {}
    before = await everything(app)
    async with client(app, "bob") as bob:
        answer = await bob.post(path, json={"session_id": "new", "user_id": "ada", **more})
        listed = await bob.get("/sessions", params={"user_id": "ada"})
    assert (answer.status_code, listed.status_code) == (403, 403)
    assert await everything(app) == before


async def test_an_admin_who_speaks_for_a_user_sees_what_that_user_sees(app: FastAPI) -> None:
    async with client(app, "service") as service:
        for path, more in (("/run", {"agent": "desk", "message": "hi"}), ("/sessions", {})):
            answer = await service.post(path, json={"session_id": HERS, "user_id": "bob", **more})
            assert answer.status_code == 404
        mine = await service.post("/run", json={"session_id": "bob-1", "user_id": "bob", "agent": "desk", "message": "hi"})
        assert mine.is_success
        assert (await service.get("/sessions/bob-1")).json()["user_id"] == "bob"


@pytest.mark.parametrize(("who", "owner"), [("root", "root"), ("service", None)])
async def test_what_an_admin_begins_is_the_admins_and_what_was_hers_stays_hers(app: FastAPI, who: str, owner: str | None) -> None:
    async with client(app, who) as admin:
        for session_id, whose in (("new", owner), (HERS, "ada")):
            asked = {"session_id": session_id, "agent": "desk", "message": "hi", "wait": 0}
            assert (await admin.post("/run", json=asked)).is_success
            assert (await admin.get(f"/sessions/{session_id}")).json()["user_id"] == whose
        forked = (await admin.post(f"/sessions/{HERS}/fork", json={})).json()
        assert forked["user_id"] == "ada"


async def test_making_a_session_gives_nobody_anothers(app: FastAPI) -> None:
    before = await everything(app)
    async with client(app, "bob") as bob:
        assert (await bob.post("/sessions", json={"session_id": HERS})).status_code == 404
        assert (await bob.post("/sessions", json={"session_id": HERS, "name": "mine", "metadata": {"a": 1}})).status_code == 404
    assert await everything(app) == before


async def test_a_fork_does_not_reach_into_anothers(app: FastAPI) -> None:
    async with client(app, "bob") as bob:
        await bob.post("/sessions", json={"session_id": "bob-1"})
        before = await everything(app)
        answer = await bob.post("/sessions/bob-1/fork", json={"session_id": HERS})
    assert answer.status_code in (404, 409)
    assert "ada" not in answer.text.replace(HERS, "")
    assert await everything(app) == before


@pytest.mark.parametrize("path", ["/sessions", "/sessions?name=secret", "/sessions?waiting=true", "/requirements", "/search?q=secret"])
async def test_lists_hold_what_is_the_callers(app: FastAPI, path: str) -> None:
    for who, sees in (("ada", True), ("root", True), ("service", True), ("bob", False), ("stranger", False), ("strange-root", False)):
        async with client(app, who) as caller:
            answer = await caller.get(path)
        assert answer.is_success, answer.text
        assert (HERS in answer.text) is sees, who


async def test_whoever_listens_hears_of_the_own_sessions_only(app: FastAPI) -> None:
    async with serving(app) as server:
        for who, hears in (("ada", [HERS]), ("bob", ["bob-1"]), ("root", [HERS, "bob-1"]), ("stranger", ["elsewhere-1"])):
            server.headers.update(bearing(who))
            async with tail(server, "/events") as listening:
                await listening.until(bool)
                for other in ("ada", "bob", "stranger"):
                    own = {"ada": HERS, "bob": "bob-1", "stranger": "elsewhere-1"}[other]
                    asked = {"agent": "desk", "message": "hi", "session_id": own}
                    assert (await server.post("/run", json=asked, headers=bearing(other))).is_success
                await listening.until(lambda got, last=hears[-1]: last in str(got))
                told = str(listening.got)
            assert [it for it in (HERS, "bob-1", "elsewhere-1") if it in told] == hears, who


async def test_wider_state_is_of_its_user_and_its_tenant(app: FastAPI) -> None:
    async with client(app, "ada") as ada, client(app, "bob") as bob, client(app, "root") as root, client(app, "stranger") as other:
        await bob.post("/sessions", json={"session_id": "bob-1"})
        await other.post("/sessions", json={"session_id": "other-1"})
        assert (await ada.put(f"/sessions/{HERS}/state/pin", params={"scope": "user"}, json=1234)).is_success
        assert (await ada.put(f"/sessions/{HERS}/state/motd", params={"scope": "app"}, json="hers")).status_code == 403
        assert (await root.put(f"/sessions/{HERS}/state/motd", params={"scope": "app"}, json="welcome")).is_success
        assert (await root.get(f"/sessions/{HERS}/state/pin", params={"scope": "user"})).json() == 1234
        assert (await bob.get("/sessions/bob-1/state", params={"scope": "user"})).json() == {}
        assert (await bob.get("/sessions/bob-1/state", params={"scope": "app"})).json() == {"motd": "welcome"}
        assert (await other.get("/sessions/other-1/state", params={"scope": "user"})).json() == {}
        assert (await other.get("/sessions/other-1/state", params={"scope": "app"})).json() == {}


@pytest.mark.parametrize("record", ["~user/ada", "~app"])
async def test_the_records_behind_wider_state_are_nobodys_sessions(app: FastAPI, record: str) -> None:
    async with client(app, "bob") as bob, client(app, "root") as root:
        for caller in (bob, root):
            for path in ("", "/state", "/export", "/entries"):
                answer = await caller.get(f"/sessions/{record.replace('/', '%2F')}{path}")
                assert answer.status_code in (404, 422)


async def test_one_idempotency_key_is_not_that_of_another_caller(app: FastAPI) -> None:
    told: list[Any] = []
    for who in ("ada", "bob", "stranger"):
        async with client(app, who) as caller:
            asked: dict[str, Any] = {"json": {"agent": "desk", "message": f"I am {who}", "session_id": None}}
            answer = await caller.post("/run", headers={"idempotency-key": "same"}, **asked)
            told.append(answer.json()["session_id"])
            again = await caller.post("/run", headers={"idempotency-key": "same"}, **asked)
            assert again.json()["session_id"] == told[-1]
    assert len(set(told)) == 3


@pytest.mark.parametrize("who", ["ada", "bob", "stranger"])
async def test_metrics_are_for_admins(app: FastAPI, who: str) -> None:
    async with client(app, who) as caller, client(app, "root") as root:
        assert (await caller.get("/metrics")).status_code == 403
        told = await root.get("/metrics")
    assert told.is_success
    assert HERS not in told.text


async def test_everybody_sees_the_agents(app: FastAPI) -> None:
    async with client(app, "bob") as bob:
        assert [it["name"] for it in (await bob.get("/agents")).json()] == ["desk"]


# --- the audit log ---------------------------------------------------------------------------------------------------


async def test_what_cannot_be_undone_is_noted_with_ids_and_nothing_else(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "holdfast.audit")
    async with client(app, "ada") as ada, client(app, "root") as root:
        (paused,) = (await ada.get(f"/sessions/{HERS}/requirements")).json()
        deciding = {"decisions": [{"requirement": paused["id"], "outcome": "deny", "value": "my secret reason"}]}
        await ada.post(f"/sessions/{HERS}/runs/run-2/decisions", json=deciding)
        await ada.post(f"/sessions/{HERS}/runs/run-2/cancel")
        await ada.post(f"/sessions/{HERS}/rewind", json={"last": 1})
        await ada.get(f"/sessions/{HERS}/export")
        await ada.post(f"/sessions/{HERS}/clear")
        await root.delete(f"/sessions/{HERS}")
    lines = [it.getMessage() for it in caplog.records if it.name == "holdfast.audit"]
    assert [it.split()[0] for it in lines] == [f"what={it}" for it in ("deny", "cancel", "rewind", "export", "clear", "delete")]
    assert all(f"session_id={HERS}" in it and "tenant=default" in it for it in lines)
    assert [it.split()[2] for it in lines] == ["user_id=ada"] * 5 + ["user_id=root"]
    assert f"requirement={paused['id']}" in lines[0]
    assert "secret" not in "".join(lines)


async def test_no_id_writes_a_second_value_into_a_line(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "holdfast.audit")
    async with client(app, "bob") as bob:
        await bob.post("/sessions", json={"session_id": "x user_id=ada"})
        await bob.delete("/sessions/x%20user_id=ada")
    (line,) = [it.getMessage() for it in caplog.records if it.name == "holdfast.audit"]
    assert line.endswith('session_id="x user_id=ada"')


async def test_refusals_are_noted_once_a_second_for_one_address(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    async with client(app, authorization="Bearer hf_wrong") as stranger:
        answers: list[httpx.Response] = [await stranger.get("/sessions") for _ in range(8)]
    assert {it.status_code for it in answers} == {401}
    lines = [it.getMessage() for it in caplog.records if it.name == "holdfast.audit"]
    assert 1 <= len(lines) <= 2
    assert lines[0] == "what=refused address=127.0.0.1 credentials=wrong"
