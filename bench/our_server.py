"""Our server, one agent, a model that answers at once: `our_server DATABASE PAST PORT ENGINE`, the engine `pydantic-ai` or `instant`."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from holdfast import Agent, History, assistant
from holdfast.agents import Done, Said, Turn
from holdfast.runtime import Runtime
from holdfast.server import create_app

ANSWER = "a" * 800


class Instant:
    """An engine that is nothing but an answer."""

    async def run(self, turn: Turn) -> AsyncGenerator[Any]:
        yield Said(message=assistant(ANSWER))
        yield Done(ANSWER)


def answered(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse([TextPart(ANSWER)])


async def fill(agent: Agent, past: int) -> None:
    for _ in range(past):
        await agent.run("q" * 200, session_id="s")


def main(database: str, past: str, port: str, engine: str) -> None:
    model: Any = Instant() if engine == "instant" else FunctionModel(answered)
    agent = Agent(model, name="desk", store=f"sqlite:///{database}", history=History(runs=10))
    asyncio.run(fill(agent, int(past)))
    print("filled", flush=True)
    runtime = Runtime()
    runtime.register(agent)
    uvicorn.run(create_app(runtime), port=int(port), log_level="error", access_log=False)


main(*sys.argv[1:])
