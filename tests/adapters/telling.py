"""What the tests of engines share: what a session holds, and what a stream of events says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast import Store, ToolCall, ToolResult
from holdfast.agents import Agent, Event, Middleware, ModelCall, RunEnded, RunOutput


async def log(store: Store, id: str = "s") -> list[str]:
    """The messages: texts, calls as `name()`, results after an equals sign."""
    found: list[str] = []
    for message in await (await store.session(id)).get_messages():
        calls = [f"{part.name}()" for part in message.parts if isinstance(part, ToolCall)]
        results = [f"={part.response}" for part in message.parts if isinstance(part, ToolResult)]
        found += [text for text in (message.text,) if text] + calls + results
    return found


async def ended(run: Any) -> tuple[RunOutput, list[Event]]:
    """The output of a streamed run, and everything it told."""
    events = [event async for event in run]
    assert isinstance(events[-1], RunEnded)
    return events[-1].output, events


async def the_end(agent: Agent, prompt: str, *, stream: bool, **options: Any) -> RunOutput:
    """The output of a run, whole or streamed."""
    run: Any = agent.run
    return (await ended(run(prompt, stream=True, **options)))[0] if stream else await run(prompt, **options)


def numbered(events: list[Event]) -> list[tuple[str, int]]:
    """Each character told, and each other event, under its number."""
    found: list[tuple[str, int]] = []
    for event in events:
        text = getattr(event, "delta", None)
        if text is None:
            found.append((type(event).__name__, event.number))
        else:
            found += [(letter, event.number - len(text) + 1 + place) for place, letter in enumerate(text)]
    return found


def mark(place: str) -> None:
    """Write down that a payment was made."""
    with Path(place).open("a", encoding="utf-8") as file:
        file.write("paid\n")


class Around(Middleware):
    """Tells what it sees of each model call, and does with it what its rule says."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        self.before, self.after = before, after
        self.calls: list[ModelCall] = []

    async def on_model_call(self, call: ModelCall, call_next: Any) -> None:
        self.calls.append(call)
        await self.around(call, call_next)

    async def around(self, call: Any, call_next: Any) -> None:
        if self.before is not None and self.before(call):
            return
        await call_next()
        if self.after is not None:
            self.after(call)


class Failures(Middleware):
    """Notes what model calls raise."""

    def __init__(self) -> None:
        self.broke: list[str] = []

    async def on_model_call(self, call: ModelCall, call_next: Any) -> None:
        try:
            await call_next()
        except Exception as error:
            self.broke.append(type(error).__name__)
            raise
