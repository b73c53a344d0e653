"""Server-sent events: what a run tells, under the numbers that `Last-Event-ID` names when a client comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from .. import Agent
from ..agents import Event
from .problems import Problem, problem_of
from .shapes import event_told
from .tails import Position, Told, run_told

PING = 15
"""Seconds between comments that keep a silent connection open."""


def last_seen(request: Request) -> int:
    """The number behind which a client wants to go on: `Last-Event-ID`, or `?after=`."""
    given = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if not (given.isascii() and given.isdecimal() and len(given) < 18):
        raise Problem(422, f"Last-Event-ID {given[:40]!r} is no number of an event")
    return int(given)


def sent(event: Event) -> ServerSentEvent:
    """One event of a run."""
    data = event_told(event)
    return ServerSentEvent(msgspec.json.encode(data).decode(), event=data["type"], id=str(event.number))


class Events(EventSourceResponse):
    """A stream that is told to its end also when the process stops in the middle of it: the client comes back, and goes on elsewhere."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = False

        async def noted(message: Message) -> None:
            nonlocal more
            more = message["type"] == "http.response.start" or bool(message.get("more_body"))
            await send(message)

        await super().__call__(scope, receive, noted)
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def stream(events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    return Events(events, ping=PING, headers={"cache-control": "no-store", "x-accel-buffering": "no"})


async def followed(agent: Agent, run_id: str, session_id: str, user_id: str | None, after: int) -> AsyncGenerator[ServerSentEvent]:
    """What a run tells from behind a number on, to its end for now; an error of the store ends the stream with a `problem`."""
    try:
        async with aclosing(run_told(agent.store, run_id, session_id, user_id, after)) as events:
            async for event in events:
                yield sent(event)
    except Exception as error:  # the head of the answer has gone out: what is left is an event
        yield failed(problem_of(error))


async def tailed(events: AsyncGenerator[Told]) -> AsyncIterator[ServerSentEvent]:
    """What is told, until there is no more of it or the client is gone; an error of the store ends it with a `problem`."""
    try:
        async with aclosing(events):
            async for it in events:
                yield ServerSentEvent(it.data, event=it.name, id=it.id)
    except Exception as error:
        yield failed(problem_of(error))


def position(request: Request) -> Position | None:
    """Where a client wants to go on in a session: `Last-Event-ID`, or `?after=`; None where it says nothing."""
    given = request.headers.get("last-event-id") or request.query_params.get("after")
    if given is None:
        return None
    found = Position.parse(given)
    if found is None:
        raise Problem(422, f"Last-Event-ID {given[:80]!r} is none that this server gave")
    return found


def failed(problem: Problem) -> ServerSentEvent:
    document: dict[str, Any] = problem.document()
    return ServerSentEvent(msgspec.json.encode(document).decode(), event="problem")
