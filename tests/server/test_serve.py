"""`holdfast serve`: what it says, what it refuses, how it stops, and that runs in the background go on whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast import Session, Store
from holdfast import sync as blocking
from holdfast.runtime import Runtime
from holdfast.runtime.settings import Found, Settings
from holdfast.server import create_app, taking
from holdfast.server.process import Serve, about, set_up
from holdfast.server.queue import RunQueue, Waiting
from holdfast.testing.model_server import Answer, ModelServer, Request, call
from tests.server.conftest import desk, events
from tests.server.processes import command, environment, served, until


def refused(folder: Path, *words: str, code: int = 2, **env: str) -> str:
    done = subprocess.run(
        command(folder, *words), cwd=folder, env=environment(None, **env), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


# --- what it is told -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say what to serve"),
        (("nowhere.py",), "nowhere.py: there is no such file"),
        (("desk.py", "--host", "0.0.0.0"), "nobody is asked for credentials"),
        (("desk.py", "--user", "ada"), "--user is no option of the server"),
        (("desk.py", "--port", "0", "--workers", "2", "--store", "memory://"), "for one process only"),
    ],
    ids=["no-agent", "no-file", "exposed", "user", "memory-shared"],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    stderr = refused(tmp_path, *words)
    assert told in stderr
    assert "Traceback" not in stderr


def test_a_port_that_is_taken(tmp_path: Path, model: ModelServer) -> None:
    with served(tmp_path, model) as server:
        port = server.url.rpartition(":")[2]
        assert f"127.0.0.1:{port} can't be listened on: Address already in use; choose another with --port" in refused(
            tmp_path, "desk.py", "--port", port
        )


def found(**session: Any) -> Found:
    return Found(Settings(), {f"session.{name}": "config.yaml" for name in session})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_can_not_be_opened_is_one_line(tmp_path: Path, workers: str) -> None:
    words = ("desk.py", "--port", "0", "--workers", workers, "--store", f"sqlite:///{tmp_path}/nowhere/chat.db")
    told = refused(tmp_path, *words, code=1, MODEL="http://127.0.0.1:1")
    assert told.startswith("holdfast: ")
    assert told.endswith(f"make the folder {tmp_path}/nowhere first\n")
    assert told.count("\n") == 1


def test_which_store_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = "from holdfast import Agent\ndesk = Agent('test', name='desk', store='sqlite:///own.db')"
    (tmp_path / "own_desk.py").write_text(own, "utf-8")
    (tmp_path / "no_desk.py").write_text("from holdfast import Agent\ndesk = Agent('test', name='desk')", "utf-8")

    def place(target: str, given: Found, store: str | None = None) -> str:
        backend: Any = set_up(given, Serve(targets=[target], store=store)).store.backend
        return Path(backend.path).name

    assert place("own_desk.py", found(), "sqlite:///said.db") == "said.db"
    assert place("own_desk.py", found(type="sqlite")) == "holdfast.db"
    assert place("own_desk.py", found()) == "own.db"
    assert place("no_desk.py", found()) == "holdfast.db"


def test_it_tells_of_the_store_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("redis")
    own = "from holdfast import Agent, Store\ndesk = Agent('test', name='desk', store=Store.open('redis://:hu@sh@kept.example/2'))"
    (tmp_path / "kept_desk.py").write_text(own, "utf-8")

    def told(store: str | None = None) -> Any:
        return about(set_up(found(), Serve(targets=["kept_desk.py"], store=store)))["store"]

    assert told() == "redis://kept.example:6379/2"
    assert told("rediss://u:hush@said.example:1") == "rediss://said.example:1/0"
    assert told("sqlite:///said.db") == f"sqlite:///{tmp_path / 'said.db'}"
    assert told("memory://") == "memory:// (it ends with this process)"


# --- how it stops ----------------------------------------------------------------------------------------------------


class Held:
    """A model that answers when it is let to."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, request: Request) -> Answer:
        return Answer(text=f"answer {request.number}", hold=self.let)


@pytest.fixture
def held() -> Iterator[tuple[Held, ModelServer]]:
    rule = Held()
    with ModelServer(rule) as server:
        yield rule, server


def begin(url: str, run_id: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/run", json={"message": "hello", "session_id": f"of-{run_id}", "run_id": run_id, **more}, timeout=60)


def status(url: str, run_id: str) -> dict[str, Any]:
    return httpx.get(f"{url}/sessions/of-{run_id}/runs/{run_id}", timeout=20).json()


def test_a_run_that_ends_in_time_is_answered(tmp_path: Path, held: tuple[Held, ModelServer]) -> None:
    rule, model = held
    with served(tmp_path, model) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(begin(server.url, "a")))
        asking.start()
        model.wait_for(1)
        server.signal(signal.SIGTERM)
        until(lambda: not listens(server.url))
        rule.let.set()
        asking.join()
        assert (answers[0].status_code, answers[0].json()["status"]) == (200, "completed")
        assert server.ended() == 0


def listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=5)
    except httpx.TransportError:
        return False
    return True


def test_runs_that_do_not_end_are_handed_over_and_gone_on_with(tmp_path: Path, held: tuple[Held, ModelServer]) -> None:
    rule, model = held
    with served(tmp_path, model, "--grace", "30") as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(begin(server.url, "waits")))
        asking.start()
        assert begin(server.url, "back", background=True).status_code == 202
        model.wait_for(2)
        server.signal(signal.SIGTERM)
        until(lambda: not listens(server.url))
        began = time.monotonic()
        server.signal(signal.SIGTERM)  # no more time
        asking.join()
        assert answers[0].status_code == 503
        assert answers[0].json().items() >= {"run_id": "waits", "session_id": "of-waits", "status": 503}.items()
        assert server.ended() == 0
        assert time.monotonic() - began < 10
    rule.let.set()
    with served(tmp_path, model) as server:
        until(lambda: {status(server.url, it)["status"] for it in ("waits", "back")} == {"completed"})
        assert status(server.url, "back")["attempt"] == 2
        again = begin(server.url, "waits")
        assert (again.status_code, again.json()["content"]) == (200, status(server.url, "waits")["content"])


def test_a_background_run_outlives_kill_9(tmp_path: Path, held: tuple[Held, ModelServer]) -> None:
    rule, model = held
    with served(tmp_path, model, HOLDFAST_SERVER__LEASE="1") as server:
        assert begin(server.url, "a", background=True).status_code == 202
        model.wait_for(1)
        os.kill(server.process.pid, signal.SIGKILL)
    rule.let.set()
    with served(tmp_path, model, HOLDFAST_SERVER__LEASE="1") as server:
        until(lambda: status(server.url, "a")["status"] == "completed")
        assert status(server.url, "a")["attempt"] == 2
        until(lambda: asyncio.run(listed(tmp_path)) == [])


def test_a_run_that_goes_on_in_the_background_after_a_decision_outlives_kill_9(tmp_path: Path) -> None:
    let = threading.Event()

    def rule(request: Request) -> Answer:
        return Answer(text="Done.", hold=let) if request.input[-1]["role"] == "tool" else call("refund", order="7")

    with ModelServer(rule) as model:
        with served(tmp_path, model, HOLDFAST_SERVER__LEASE="1") as server:
            (asked,) = begin(server.url, "a").json()["requirements"]
            decision = {"decisions": [{"requirement": asked["id"], "outcome": "approve"}], "background": True}
            decided = httpx.post(f"{server.url}/sessions/of-a/runs/a/decisions", json=decision, timeout=20)
            assert (decided.status_code, decided.json()["status"]) == (202, "running")
            again = httpx.post(f"{server.url}/sessions/of-a/runs/a/decisions", json=decision, timeout=20)
            assert again.status_code == 409
            model.wait_for(2)
            os.kill(server.process.pid, signal.SIGKILL)
        let.set()
        with served(tmp_path, model, HOLDFAST_SERVER__LEASE="1") as server:
            until(lambda: status(server.url, "a")["status"] == "completed")
            told = status(server.url, "a")
            assert (told["content"], told["attempt"]) == ("Done.", 2)
            assert [it["kind"] for it in told["spans"]].count("tool") == 1
            until(lambda: asyncio.run(listed(tmp_path)) == [])


async def listed(folder: Path) -> list[Waiting]:
    async with Store.open(f"sqlite:///{folder / 'holdfast.db'}", as_admin=True) as store:
        return [it for _, it in await RunQueue(lambda tenant: store, "default").all()]


# --- the list --------------------------------------------------------------------------------------------------------


async def test_the_list_is_no_session(model: ModelServer, place: str) -> None:
    async with Store.open(place, as_admin=True) as store:
        queue = RunQueue(lambda tenant: Store(store.backend, tenant=tenant, as_admin=True), "default")
        one, two = (Waiting(session_id="s", run_id=it, agent="desk", user_id="ada") for it in ("1", "2"))
        assert await queue.all() == []
        await queue.put("default", one)
        await queue.put("elsewhere", two)
        assert await queue.all() == [("default", one), ("elsewhere", two)]
        another = RunQueue(lambda tenant: Store(store.backend, tenant=tenant, as_admin=True), "default")
        assert await another.all() == [("default", one), ("elsewhere", two)]  # it learns of the tenants
        assert await queue.get("elsewhere", "s", "2") == two
        assert await queue.get("elsewhere", "s", "1") is None
        await another.remove("default", one)
        assert await queue.all() == [("elsewhere", two)]
        assert (await store.list()).items == []


async def test_a_run_of_an_unknown_agent_is_left_for_others(model: ModelServer, place: str) -> None:
    app = create_app(desk(model, place))
    serving = app.state.serving
    async with app.router.lifespan_context(app):
        await serving.queue.put("default", Waiting(session_id="s", run_id="r", agent="nobody here"))
        await asyncio.sleep(1.5)
        assert await serving.queue.get("default", "s", "r") is not None


async def test_a_run_that_kills_its_processes_is_given_up(model: ModelServer, place: str) -> None:
    runtime: Runtime = desk(model, place)
    app = create_app(runtime)
    serving = app.state.serving
    session = await died_with(runtime.store, "s", "r")
    async with app.router.lifespan_context(app):
        await serving.queue.put("default", Waiting(session_id="s", run_id="r", agent="desk", tries=4))
        await gone(serving.queue, "r")
        await session.refresh()
        run = await session.get_run("r")
        assert run is not None
        assert (run.status, run.error) == ("error", "TriedTooOften")
    assert model.requests == []


async def test_a_paused_run_stays_on_the_list_for_as_long_as_a_decision_may_take(
    model: ModelServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime: Runtime = desk(model, place)
    app = create_app(runtime)
    serving = app.state.serving
    async with app.router.lifespan_context(app):
        await runtime.agents["desk"].run("refund", session_id="s", run_id="r")
        plain, decided = (Waiting(session_id="s", run_id="r", agent="desk", decided=it) for it in (False, True))
        await serving.queue.put("default", decided)
        await asyncio.sleep(2.5)
        assert await serving.queue.get("default", "s", "r") == decided
        await serving.queue.put("default", plain)
        await gone(serving.queue, "r")
        monkeypatch.setattr(taking, "_BEGINS", 0.0)
        await serving.queue.put("default", decided)
        await gone(serving.queue, "r")


async def gone(queue: RunQueue, run_id: str) -> None:
    async with asyncio.timeout(15):
        while await queue.get("default", "s", run_id) is not None:  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.1)


async def died_with(store: Store, session_id: str, run_id: str) -> Session:
    """A run whose process is no more: nobody beats for its claim."""
    session = await store.session(session_id)
    going = session.run(run_id=run_id, agent="desk", lease=1)
    await going.__aenter__()
    session.forget_claim()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    _never_ended.append(going)
    other = await store.get(session_id)
    assert other is not None
    return other


_never_ended: list[Any] = []


async def test_the_same_streamed_call_again_tells_from_where_the_client_was(client: httpx.AsyncClient, model: ModelServer) -> None:
    body, headers = {"message": "hello", "session_id": "s", "stream": True}, {"idempotency-key": "k"}
    async with client.stream("POST", "/run", json=body, headers=headers) as response:
        first = [it async for it in events(response)]
    async with client.stream("POST", "/run", json=body, headers=headers | {"last-event-id": str(first[0].id)}) as response:
        again = [it async for it in events(response)]
    assert "".join([it.get("delta", "") for it in again]) == "".join([it.get("delta", "") for it in first]) == "You said: hello"
    assert [it.name for it in again if it.name != "text_delta"] == ["run_ended"]
    assert len(model.requests) == 1


async def test_a_background_call_again_is_the_same_run(client: httpx.AsyncClient, model: ModelServer) -> None:
    body = {"message": "hello slowly", "session_id": "s", "background": True, "run_id": "r"}
    assert [(await client.post("/run", json=body)).status_code for _ in range(3)] == [202] * 3
    async with asyncio.timeout(10):
        while (await client.get("/sessions/s/runs/r")).json()["status"] != "completed":  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.02)
    assert (await client.post("/run", json=body)).json()["status"] == "completed"
    assert len(model.requests) == 1


def test_it_says_where_it_is(tmp_path: Path, model: ModelServer) -> None:
    with served(tmp_path, model, "--workers", "2") as server:
        told = server.about
        assert (told["agents"], told["workers"], told["store"]) == (["desk"], 2, f"sqlite:///{tmp_path / 'holdfast.db'}")
        assert httpx.get(told["inbox"]).status_code == 200
        assert len(server.workers) == 2
        old = server.workers
        whole = (tmp_path / "desk.py").read_text("utf-8")
        (tmp_path / "desk.py").write_text("nonsense(", "utf-8")
        server.signal(signal.SIGHUP)
        until(lambda: "the old ones stay" in (tmp_path / "serve.log").read_text("utf-8"))
        assert server.workers == old
        (tmp_path / "desk.py").write_text(whole, "utf-8")
        dead = min(server.workers)
        os.kill(dead, signal.SIGKILL)
        until(lambda: dead not in server.workers and len(server.workers) == 2)
        assert begin(server.url, "a").json()["status"] == "completed"
        os.kill(server.process.pid, signal.SIGKILL)
        workers = server.workers
        until(lambda: not any(Path(f"/proc/{it}").exists() for it in workers))


@pytest.mark.parametrize(
    ("env", "file"),
    [
        ({"HOLDFAST_SESSION__URL": "sqlite:///set.db", "HOLDFAST_SESSION__TENANT": "shop"}, None),
        ({"HOLDFAST_SESSION__SQLITE__PATH": "set.db", "HOLDFAST_SESSION__TENANT": "shop"}, None),
        ({"AK_SESSION__TYPE": "sqlite", "HOLDFAST_SESSION__SQLITE__PATH": "set.db", "HOLDFAST_SESSION__TENANT": "shop"}, None),
        ({}, "session: {tenant: shop, sqlite: {path: set.db}}"),
    ],
    ids=["url", "path", "agent-kernel", "file"],
)
def test_the_other_commands_find_the_store_that_is_set(tmp_path: Path, env: dict[str, str], file: str | None) -> None:
    with blocking.Store.open(f"sqlite:///{tmp_path / 'set.db'}", tenant="shop") as store:
        store.session("there")
    if file is not None:
        (tmp_path / "config.yaml").write_text(file, "utf-8")
    words = [*command(tmp_path)[:3], "sessions", "list", "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(None, **env), capture_output=True, text=True, timeout=60, check=False)
    assert "there" in done.stdout, done.stderr
