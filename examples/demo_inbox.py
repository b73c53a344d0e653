"""The end of `make demo` on a terminal: its conversation and some more in the inbox, to look at and to go on with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent_app import find_order, open_desk, start_refund

from holdfast import Agent, Store, UsageError
from holdfast.agents import tool
from holdfast.models import OpenAIChat
from holdfast.runtime import Runtime
from holdfast.runtime.settings import ServerSettings, Settings
from holdfast.testing.model_server import Answer, ModelServer, Request, call

PORT = 8000
NUMBERS = ("1007", "1008")
LONG = 40


def clerk(request: Request) -> Answer | str:
    """The clerk's model, which answers from a script: it looks an order up, asks for a refund, or says what it could do."""
    last = request.input[-1]
    text = str(last.get("content"))
    if last["role"] == "tool":
        return f"[scripted] {text}"
    number = next((it for it in NUMBERS if it in text), None)
    if "refund" in text.lower():
        return call("start_refund", order_id=number or "1007", reason="broken")
    return call("find_order", order_id=number) if number else "[scripted] I can look up the orders 1007 and 1008, and refund them."


def desks(store: str, base_url: str) -> Runtime:
    """The demo's own agent and a clerk, who starts no refund before somebody has said yes."""
    runtime = Runtime(store, settings=Settings(server=ServerSettings(grace=1.0)))
    runtime.register(open_desk(store))
    model = OpenAIChat(id="scripted", base_url=base_url, api_key="none")
    instructions = "You are the clerk of a small shop. Look orders up and start refunds with your tools."
    tools = [find_order, tool(confirm=True)(start_refund)]
    runtime.register(Agent(model, name="Clerk", instructions=instructions, tools=tools, store=store))
    return runtime


async def fill(runtime: Runtime) -> None:
    """Some conversations of two people: one waits for a decision, one is long."""
    agent = runtime.agent("Clerk")
    await agent.run("Where is my order 1008?", session_id="ada-2", user_id="ada")
    await agent.run("My kettle, order 1007, came broken. A refund, please.", session_id="ada-3", user_id="ada")
    await agent.run("What can you do for me?", session_id="bob-1", user_id="bob")
    for number in range(LONG):
        await agent.run(f"Note {number + 1}: is order {NUMBERS[number % 2]} still on its way?", session_id="bob-2", user_id="bob")
    names = {"ada-1": "The broken kettle", "ada-2": "Two green mugs", "ada-3": "A refund to decide on", "bob-2": "Bob asks again and again"}
    store = Store(runtime.store.backend, as_admin=True)
    for session_id, name in names.items():
        await (await store.session(session_id)).rename(name)


def serve(store: str, ready: Callable[[str], None]) -> None:
    """Serve the inbox until Ctrl-C; `ready` is told its address."""
    with ModelServer(clerk) as model:
        asyncio.run(_serve(desks(store, model.base_url), ready))


async def _serve(runtime: Runtime, ready: Callable[[str], None]) -> None:
    from holdfast.server import process

    await fill(runtime)
    try:
        listening = process.bound("127.0.0.1", PORT)
    except UsageError:  # something else is there
        listening = process.bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    await process.serve(runtime, listening, ready=lambda server: ready(url))
