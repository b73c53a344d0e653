"""Some callers with their keys, and an application that they call: an agent whose model answers, and asks before it refunds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from holdfast import Agent, Store
from holdfast.agents import tool
from holdfast.models import OpenAIChat
from holdfast.runtime import Runtime
from holdfast.runtime.settings import Auth, Key, ServerSettings
from holdfast.server import create_app
from holdfast.server.keys import hash_of, new_key
from holdfast.testing.model_server import Answer, Request, call

PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {"user": "ada"},
    "bob": {"user": "bob"},
    "root": {"user": "root", "role": "admin"},
    "service": {"role": "admin"},
    "stranger": {"user": "ada", "tenant": "elsewhere"},  # of the same name, in another tenant
    "strange-root": {"role": "admin", "tenant": "elsewhere"},
}
KEYS = {name: new_key() for name in PEOPLE}
AUTH = Auth(keys=[Key(hash=hash_of(KEYS[name]), **facts) for name, facts in PEOPLE.items()])
HERE = "http://127.0.0.1"


@tool(confirm=True)
def refund(order: str) -> str:
    """Pay an order back."""
    return f"refunded {order}"


def desk(request: Request) -> Answer | str:
    """The model: it asks for a refund where it is asked for one, and greets everybody else."""
    last = request.input[-1]
    if last["role"] == "user" and "refund" in str(last["content"]):
        return call("refund", order="7")
    return "Hello."


def runtime(model: str) -> Runtime:
    """A runtime over a store in memory, with one agent."""
    made = Runtime(Store.open("memory://"))
    made.register(Agent(OpenAIChat(id="m", base_url=model, api_key="none"), name="desk", tools=[refund]))
    return made


def application(model: str, **settings: Any) -> FastAPI:
    """An application whose callers are `PEOPLE`."""
    given: dict[str, Any] = {"auth": AUTH, **settings}
    return create_app(runtime(model), ServerSettings(**given))


def bearing(name: str | None) -> dict[str, str]:
    """The headers of somebody's request."""
    return {} if name is None else {"authorization": f"Bearer {KEYS[name]}"}


@asynccontextmanager
async def client(app: FastAPI, name: str | None = None, *, base: str = HERE, **headers: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody who calls the application, from this machine."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=bearing(name) | headers) as it:
        yield it
