"""The OpenAPI document is true: requests are made up from it, good ones and bad, and each answer is one that it names."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import suppress
from itertools import count
from typing import Any, cast

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from holdfast.runtime import Runtime
from holdfast.runtime.settings import Limits, ServerSettings
from holdfast.server import create_app
from holdfast.testing.model_server import ModelServer

from .conftest import Server, answer, desk, listening

ENDLESS = {"follow_session", "follow_sessions"}
"""Streams that end with their client."""


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """A real server, with a session, a paused run and a finished one."""
    with ModelServer(answer) as model, listening() as socket:
        app = create_app(desk(model, "memory://"), ServerSettings(limits=Limits(runs=10_000), grace=0.5))
        server = Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=20) as client:
            for run_id, message in (("done", "hello"), ("paused", "refund it")):
                client.post("/run", json={"message": message, "session_id": "ada-1", "run_id": run_id}).raise_for_status()
            client.put("/sessions/ada-1/state/plan", json={"steps": 3}).raise_for_status()
        yield url
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def document(url: str) -> Any:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.update(codec="ascii")
    return schema


def _operations() -> list[str]:
    document = create_app(Runtime("memory://")).openapi()
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    return sorted(set(names) - ENDLESS)


OPERATIONS = _operations()
_SETTINGS = settings(
    max_examples=int(os.environ.get("EXAMPLES", "10")),
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


_numbers = count()


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]  # its hooks are typed by anything
def map_headers(context: Any, headers: Any) -> Any:
    """One key is for one input."""
    for name in cast("dict[str, str]", headers or {}):
        if name.lower() == "idempotency-key":
            headers[name] = f"key-{next(_numbers)}"
    return headers


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]
def map_body(context: Any, body: Any) -> Any:
    """One run id is for one input. And the desk's model takes images: what else is attached is refused by its client."""
    if isinstance(body, dict):
        given = cast("dict[str, Any]", body)
        if given.get("run_id") not in (None, "", ".", "..") and isinstance(given["run_id"], str):
            given["run_id"] = f"run-{next(_numbers)}"
        with suppress(TypeError, KeyError):  # made up to be wrong
            for it in given["attachments"]:
                it["mime_type"] = "image/png" if "/" in it["mime_type"] else it["mime_type"]
    return cast("Any", body)


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]
def map_case(context: Any, case: Any) -> Any:
    """A key and a run id name the same run, which no schema can say of a header and a body."""
    given: Any = case.body
    if isinstance(given, dict) and "run_id" in given:
        for name in [it for it in cast("dict[str, str]", case.headers or {}) if it.lower() == "idempotency-key"]:
            del case.headers[name]
    return case


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # schemathesis draws lists in a way of its own
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda it: it.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_answer_is_one_that_the_document_names(document: Any, name: str, mode: GenerationMode) -> None:
    operation = document.find_operation_by_id(name)

    @_SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def tried(case: Any) -> None:
        case.call_and_validate()

    try:
        tried()
    except Unsatisfiable:  # there is nothing to be wrong in it
        assert mode is GenerationMode.NEGATIVE
        assert not {"parameters", "requestBody"} & operation.definition.raw.keys()
