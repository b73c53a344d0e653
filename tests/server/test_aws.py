"""The Lambda handler, by the events that function URLs and HTTP APIs send, over DynamoDB."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import pytest
from fastapi import FastAPI, Response

from holdfast import Agent, Store
from holdfast.agents import tool
from holdfast.models import OpenAIChat
from holdfast.runtime import Runtime
from holdfast.runtime.settings import Auth, Key, ServerSettings
from holdfast.server import create_app
from holdfast.server.aws import MARGIN, MOST, Lambda
from holdfast.server.keys import hash_of, new_key
from holdfast.testing.model_server import Answer, ModelServer, Request, call

from ..servers import dynamodb

KEYS = {name: new_key() for name in ("ada", "bob")}
ASKED = ServerSettings(auth=Auth(keys=[Key(hash=hash_of(key), user=user) for user, key in KEYS.items()]))
URL, API = "abcdefgh.lambda-url.eu-central-1.on.aws", "a1b2c3.execute-api.eu-central-1.amazonaws.com"

SCHEDULE: dict[str, Any] = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-11-20T08:08:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/holdfast"],
    "detail": {},
}


def function_url(method: str, path: str, body: Any = None, *, query: str = "", user: str = "ada", **more: Any) -> dict[str, Any]:
    """An event of a function URL: the path as it was sent, the stage always `$default`."""
    about = {
        "accountId": "anonymous",
        "apiId": "abcdefgh",
        "authentication": None,
        "authorizer": None,
        "domainName": URL,
        "domainPrefix": "abcdefgh",
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7", "userAgent": "curl/8.14"},
        "requestId": "4a53a10c-1c1a-4d0c-9f35-6d3d2f0a1b11",
        "routeKey": "$default",
        "stage": "$default",
        "time": "20/Nov/2026:08:08:13 +0000",
        "timeEpoch": 1795162093000,
    }
    headers = {
        "accept": "*/*",
        "host": about["domainName"],
        "authorization": f"Bearer {KEYS[user]}",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    }
    if body is not None:
        headers |= {"content-type": "application/json", "content-length": str(len(json.dumps(body)))}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers | more.pop("headers", {}),
        "requestContext": about,
        "isBase64Encoded": False,
    }
    return event | ({} if body is None else {"body": json.dumps(body)}) | more


def http_api(method: str, path: str, body: Any = None, *, stage: str = "$default", **more: Any) -> dict[str, Any]:
    """An event of an HTTP API: the path decoded, and below the stage's name unless that is `$default`."""
    event = function_url(method, path if stage == "$default" else f"/{stage}{path}", body, **more)
    event["requestContext"] |= {"accountId": "123456789012", "apiId": "a1b2c3", "domainName": API, "domainPrefix": "a1b2c3", "stage": stage}
    event["headers"]["host"] = API
    return event


class Remaining:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


SLOW = 2.5
"""Seconds that the model takes for what is said to be slow."""
TOO_SHORT = Remaining(MARGIN + 1.5)
"""Time for the run to begin, and not for what is slow."""


def warm(function: Lambda) -> None:
    assert function(function_url("GET", "/health"))["statusCode"] == 200


@tool(confirm=True)
def refund(order: str) -> str:
    """Pay an order back."""
    return f"refunded {order}"


def desk(request: Request) -> Answer | str:
    last = request.input[-1]
    if last["role"] == "user" and "refund" in str(last["content"]):
        return call("refund", order="7")
    return Answer(text=f"Hello, {last['content']}", delay=SLOW if "slow" in str(last["content"]) else 0)


@pytest.fixture(scope="module")
def server() -> Generator[dynamodb.Server]:
    yield from dynamodb.started(dynamodb.dynoxide())


@pytest.fixture(scope="module")
def cold(server: dynamodb.Server) -> Generator[Callable[[], Lambda]]:
    """What a cold start does: a new handler, over the same table."""
    with ModelServer(desk) as model:

        def start() -> Lambda:
            runtime = Runtime(Store.open(server.url()))  # a store of its own for each, as processes have
            runtime.register(Agent(OpenAIChat(id="m", base_url=model.base_url, api_key="none"), name="desk", tools=[refund]))
            return Lambda(create_app(runtime, ASKED))

        yield start


@pytest.fixture(scope="module")
def function(cold: Callable[[], Lambda]) -> Generator[Lambda]:
    with closing(cold()) as it:
        yield it


def body(answer: dict[str, Any], status: int = 200) -> Any:
    assert answer["statusCode"] == status, answer
    json.dumps(answer)  # what Lambda does to it
    return json.loads(answer["body"])


def is_problem(answer: dict[str, Any], status: int) -> Any:
    told = body(answer, status)
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert told["status"] == status
    return told["detail"]


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [function_url, http_api], ids=["function-url", "http-api"])
def test_a_conversation_goes_on_after_a_cold_start(event: Callable[..., dict[str, Any]], cold: Callable[[], Lambda]) -> None:
    session = f"turns-{event.__name__}"
    for message in ("Ada", "Bea"):
        with closing(cold()) as function:
            told = body(function(event("POST", "/run", {"agent": "desk", "message": message, "session_id": session}), Remaining(30)))
            assert (told["content"], told["status"], told["session_id"]) == (f"Hello, {message}", "completed", session)
    with closing(cold()) as function:
        said = body(function(event("GET", f"/sessions/{session}/messages", query="last=4")))
        assert [it["role"] for it in said] == ["user", "assistant", "user", "assistant"]


def test_a_background_run_is_over_when_its_202_is_told(function: Lambda) -> None:
    asked = {"message": "there", "session_id": "back", "run_id": "r1", "background": True}
    assert body(function(function_url("POST", "/run", asked), Remaining(30)), 202)["run_id"] == "r1"
    assert body(function(function_url("GET", "/sessions/back/runs/r1")))["status"] == "completed"


def test_a_person_decides_in_another_invocation(function: Lambda) -> None:
    paused = body(function(function_url("POST", "/run", {"message": "refund it", "session_id": "decide", "run_id": "r2"})))
    (open_one,) = paused["requirements"]
    decided = {"decisions": [{"requirement": open_one["id"], "outcome": "approve"}]}
    told = body(function(function_url("POST", "/sessions/decide/runs/r2/decisions", decided)))
    assert (told["status"], told["content"]) == ("completed", "Hello, refunded 7")


def test_what_takes_longer_than_the_function_may_is_answered_in_time(function: Lambda) -> None:
    asked = {"message": "slow", "session_id": "late", "run_id": "r3"}
    warm(function)
    late = function(function_url("POST", "/run", asked), TOO_SHORT)
    assert "same run_id" in is_problem(late, 504)
    assert json.loads(late["body"])["runs"] == [{"session_id": "late", "run_id": "r3"}]
    assert body(function(function_url("POST", "/run", asked), Remaining(30)))["content"] == "Hello, slow"
    assert len(body(function(function_url("GET", "/sessions/late/messages")))) == 2


def test_a_schedule_goes_on_with_what_was_cut_off(cold: Callable[[], Lambda]) -> None:
    asked = {"message": "slow", "session_id": "cut", "run_id": "r5", "background": True}
    with closing(cold()) as function:
        warm(function)
        assert body(function(function_url("POST", "/run", asked), TOO_SHORT), 202)["status"] == "queued"
        assert body(function(function_url("GET", "/sessions/cut/runs/r5")))["status"] != "completed"
    with closing(cold()) as function:
        assert function(SCHEDULE, Remaining(30)) == {"listed": False, "removed": 0}
        assert body(function(function_url("GET", "/sessions/cut/runs/r5")))["status"] == "completed"


# --- streams ---------------------------------------------------------------------------------------------------------


def test_there_are_no_streams_and_nothing_has_begun(function: Lambda) -> None:
    asked = {"message": "there", "session_id": "streamed", "stream": True}
    assert "no streams" in is_problem(function(function_url("POST", "/run", asked)), 501)
    is_problem(function(function_url("GET", "/sessions/streamed")), 404)


def test_following_a_run_is_a_stream(function: Lambda) -> None:
    body(function(function_url("POST", "/run", {"message": "there", "session_id": "followed", "run_id": "r4"})))
    assert "no streams" in is_problem(function(function_url("GET", "/sessions/followed/runs/r4/events")), 501)
    is_problem(function(function_url("GET", "/sessions/followed/runs/none/events")), 404)


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_body_in_base64(function: Lambda) -> None:
    text = json.dumps({"message": "Zoë", "session_id": "base64"}, ensure_ascii=False).encode()
    event = function_url("POST", "/run", {}, headers={"content-length": str(len(text))})
    event |= {"body": b64encode(text).decode(), "isBase64Encoded": True}
    assert body(function(event))["content"] == "Hello, Zoë"


@pytest.mark.parametrize(
    ("make", "path"),
    [(function_url, "/sessions/a%2Fb%20c"), (http_api, "/sessions/a b c")],
    ids=["function-url", "http-api"],
)
def test_ids_in_paths(make: Callable[..., dict[str, Any]], path: str, function: Lambda) -> None:
    """An HTTP API decodes the path before anybody sees it, so a slash in an id parts it there."""
    wanted = "a/b c" if make is function_url else "a b c"
    body(function(function_url("POST", "/sessions", {"session_id": wanted})), 201)
    assert body(function(make("GET", path)))["id"] == wanted


def test_the_stage_is_no_part_of_the_path(function: Lambda) -> None:
    assert body(function(http_api("GET", "/health", stage="prod"))) == {"status": "ok"}


def test_whose_it_is(function: Lambda) -> None:
    body(function(function_url("POST", "/sessions", {"session_id": "ada-s"})), 201)
    assert is_problem(function(function_url("GET", "/sessions/ada-s", user="bob")), 404)
    nobody = function_url("GET", "/sessions")
    del nobody["headers"]["authorization"]
    assert function(nobody)["headers"]["www-authenticate"] == "Bearer"


def test_without_credentials_set_up_nobody_is_answered(server: dynamodb.Server) -> None:
    """A function's URL is open to the world, and no proof that its own machine calls."""
    with closing(Lambda(create_app(Runtime(Store.open(server.url()))))) as function:
        is_problem(function(function_url("GET", "/sessions")), 403)


def test_other_events_are_refused(function: Lambda) -> None:
    assert "format 2.0" in is_problem(function({"version": "1.0", "httpMethod": "GET", "path": "/health"}), 501)


def test_a_start_that_failed_is_tried_again(server: dynamodb.Server) -> None:
    with closing(Lambda(create_app(Runtime(Store.open(server.url("later"))), ASKED))) as function:
        for _ in range(2):
            assert "later" not in is_problem(function(function_url("GET", "/sessions")), 500)
        asyncio.run(created(server.port, "later"))
        assert body(function(function_url("GET", "/sessions")))["items"] == []


async def created(port: int, table: str) -> None:
    it = dynamodb.backend(port, table)
    await it.create()
    await it.close()


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> Generator[Lambda]:
    """An application that answers what the server seldom does."""
    app = create_app(Runtime(Store.open("memory://")), ASKED)
    app.user_middleware.clear()
    app.router.routes.clear()
    add_routes(app)
    with closing(Lambda(app)) as function:
        yield function


def add_routes(app: FastAPI) -> None:
    async def bytes_of(size: int) -> Response:
        return Response(b"\xff" * size, media_type="application/octet-stream")

    async def cookies() -> Response:
        answer = Response("no more", headers={"vary": "accept"})
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        answer.headers.append("vary", "origin")
        return answer

    async def broken() -> None:
        raise RuntimeError("a secret")

    app.add_api_route("/bytes/{size}", bytes_of)
    app.add_api_route("/cookies", cookies)
    app.add_api_route("/broken", broken)


def test_bytes_are_told_in_base64(plain: Lambda) -> None:
    told = plain(function_url("GET", "/bytes/3"))
    assert (told["isBase64Encoded"], b64decode(told["body"])) == (True, b"\xff" * 3)


def test_an_answer_that_is_too_large_says_so(plain: Lambda) -> None:
    assert f"may give {MOST}" in is_problem(plain(function_url("GET", f"/bytes/{MOST + 1}")), 501)


def test_cookies_are_told_one_by_one_and_other_headers_in_one(plain: Lambda) -> None:
    told = plain(function_url("GET", "/cookies", cookies=["x=1", "y=2"]))
    assert [it.partition(";")[0] for it in told["cookies"]] == ["a=1", "b=2"]
    assert told["headers"]["vary"] == "accept, origin"


def test_an_error_nobody_foresaw_tells_nothing(plain: Lambda) -> None:
    assert "secret" not in is_problem(plain(function_url("GET", "/broken")), 500)
