"""A server with a desk of agents and a scripted model, as a process: `python -m tests.inbox.desk PORT STORE HASH_OF_A_KEY SECONDS`.

Without a hash it asks nobody for a key. Answers take the seconds, tools half of them.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import uvicorn

from holdfast import Agent, Message, Store, Text, ToolCall, ToolResult, assistant, user
from holdfast.agents import tool
from holdfast.models import OpenAIResponses
from holdfast.recall import Recall
from holdfast.runtime import Runtime
from holdfast.runtime.settings import Auth, Key, ServerSettings
from holdfast.server import create_app
from holdfast.testing.model_server import Answer, ModelServer, Request, call

MANY = 2_000
_takes = 0.0
HOSTILE = "hostile"
LONG = "long"
BROKEN = "broken"
CALLS = "calls"
LEFT = "left"
ATTACKS = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "[a](javascript:window.hacked=1) [b](data:text/html,<script>window.hacked=1</script>) <javascript:window.hacked=1> [ok](https://example.org/x)",
    "```\n<style>body{display:none}</style>\n```\n| <b>a</b> | b |\n|---|---|\n| `<i>` | <svg onload=window.hacked=1> |",
    "\u202eright to left override\u202c and \u0000\u0007\u001b[31m controls, שלום עולם",
    "x" * 30_000,
    "> " * 400 + "deep",
    "**" * 3000 + "_" * 3000 + "[" * 3000 + "`" * 3001,
)


VERSE = """Here are four lines, as asked:

> The tide lets go of what it never owned,
> the rock keeps still and does not ask for thanks;
> below, a hand of weed has found the stone
> and holds, while all the water breaks its ranks.

*The third line is about* **holdfasts**: the roots that are none."""
SIZING = """For **40 people** one process is plenty. What grows is the number of open streams:

1. one for the list of each open page,
2. one for the conversation that is read.

```yaml
server:
  workers: 2
  limits:
    streams: 200
```

| People | Streams | Memory |
|---|---|---|
| 40 | 80 | 120 MB |
| 400 | 800 | 190 MB |
"""


def find_order(order_id: str) -> dict[str, str]:
    """Where an order is."""
    time.sleep(_takes / 2)
    return {"order_id": order_id, "city": "Leipzig", "carrier": "DHL", "status": "damaged on the way"}


@tool(confirm=True, expires=3600)
def refund(order_id: str, amount: float, reason: str) -> str:
    """Give the money back."""
    return f"Refund R-{order_id} of {amount:.2f} EUR has been started."


@tool(ask=["street", "floor"])
def send_again(order_id: str, street: str, floor: int) -> str:
    """Send an order again."""
    return f"{order_id} goes to {street}, floor {floor}."


@tool(external=True)
def count_stock(article: str) -> int:
    """How many there are, counted by a person."""
    raise NotImplementedError


def answer(request: Request) -> Answer | str:
    """What the model says, by the words of what it is asked last."""
    if "Name the conversation" in str(request.body.get("instructions")):
        return "A kettle from Leipzig"
    last = request.input[-1]
    if last.get("type") == "function_call_output":
        return _after(str(last["output"]))
    content = last["content"]
    text = content if isinstance(content, str) else " ".join([str(it.get("text", f"[{it['type']}]")) for it in content])
    for words, said in _RULES:
        if words in text.lower():
            return said()
    return f"You said: **{text}**"


def _after(output: str) -> str:
    if "Leipzig" in output:
        return (
            "Your kettle is in **Leipzig**, and the carrier reports damage.\n\n"
            "| | |\n|---|---|\n| Carrier | DHL |\n| Status | damaged on the way |\n\nShall I refund it, or send it again?"
        )
    return f"Done. {output}"


_go_on = threading.Event()


def _slow() -> Answer:
    _go_on.clear()
    return Answer(text="The first half is said at once. " + "It goes on. " * 30 + "\n\nThe second half is **said later**.", halfway=_go_on)


def _released() -> str:
    _go_on.set()
    return "They go on."


_faltered = threading.Event()


def _falter() -> Answer | str:
    """It fails once."""
    if _faltered.is_set():
        return "It holds now."
    _faltered.set()
    return Answer(status=400, text="a secret of the provider")


_RULES = (
    ("slowly", _slow),
    ("go on", _released),
    ("forever", lambda: Answer(text="never", hold=threading.Event())),
    ("falter", _falter),
    ("fail", lambda: Answer(status=400, text="a secret of the provider")),
    ("think", lambda: Answer(text="Forty-two.", reasoning="Six times seven.\n\nThat is more than forty.")),
    ("refund", lambda: call("refund", order_id="1007", amount=39.9, reason="damaged on the way")),
    ("send it again", lambda: call("send_again", order_id="1007")),
    ("in stock", lambda: call("count_stock", article="kettle")),
    ("verse", lambda: VERSE),
    ("sizing", lambda: SIZING),
    ("where is", lambda: call("find_order", order_id="1007")),
)


def runtime(model: ModelServer, store: str) -> Runtime:
    it = Runtime(Store.open(store, state_history=True))
    it.recall = recall = Recall(Store.open(store, as_admin=True), "memory://")
    of = OpenAIResponses(id="gpt-5.2", base_url=model.base_url, api_key="none")
    tools = [find_order, refund, send_again, count_stock]
    it.register(
        Agent(of, name="desk", instructions="You help people with their orders. Be brief.", tools=tools, middleware=[recall.keeper()])
    )
    it.register(Agent(of, name="poet", instructions="You answer in verse."))
    return it


# --- what is there before anybody comes ------------------------------------------------------------------------------


async def seed(url: str) -> None:
    """Many short conversations, a long one, one that broke off, one of many calls, one whose agent has left, and one that means harm."""
    async with Store.open(url, as_admin=True) as store:
        await asyncio.gather(*[_short(store, number) for number in range(MANY)])
        await _long(store)
        await _broken(store)
        await _calls(store)
        await _left(store)
        hostile = await store.session(HOSTILE, user_id="<b>mallory</b>")
        await hostile.rename("<img src=x onerror='window.hacked = 1'> \u202egnp.exe")
        await hostile.append(*_hostile())


async def seed_one(url: str) -> None:
    """The long one."""
    async with Store.open(url, as_admin=True) as store:
        await _long(store)


async def _long(store: Store) -> None:
    long = await store.session(LONG, user_id="ada")
    await long.append(*[it for number in range(200) for it in (user(f"Question {number}?"), assistant(f"Answer {number}."))])


async def _broken(store: Store) -> None:
    """A run whose process is gone: what was exported while it was under way."""
    session = await store.session()
    async with session.run(user("Where did it break?"), agent="desk") as run:
        await run.append(Message("assistant", (ToolCall("find_order", "c1", {"order_id": "1007"}),)))
        lines = [line async for line in store.export(session.id)]
    await store.import_(lines, session_id=BROKEN)
    await store.delete(session.id)


async def _calls(store: Store) -> None:
    """A run that makes 250 calls in one answer, and fails before the last has a result."""
    session = await store.session(CALLS)
    with suppress(RuntimeError):
        async with session.run(user("Find them all"), agent="desk") as run:
            made = [ToolCall("find_order", f"c{number}", {"order_id": number}) for number in range(251)]
            found = [Message("tool", (ToolResult("found", it.id),), it.name) for it in made[:-1]]
            await run.append(Message("assistant", tuple(made)), *found)
            raise RuntimeError


async def _left(store: Store) -> None:
    """A conversation of an agent that is not registered here any more."""
    session = await store.session(LEFT)
    async with session.run(user("Who is there?"), agent="clerk") as run:
        await run.append(assistant("It was me."))


async def _short(store: Store, number: int) -> None:
    session = await store.session(f"s{number:05}", user_id=f"user{number % 7}")
    await session.append(user(f"Number {number}"), assistant("Noted."))


def _hostile() -> Iterator[Message]:
    for text in ATTACKS:
        yield user(text)
        yield assistant(text)
    yield Message("assistant", (ToolCall("<u>tool</u>\u202e", "c1", {"<b>": ATTACKS[0], "zero\u200bwidth": "\u202e"}),))
    yield Message("tool", (ToolResult({"html": ATTACKS[0]}, "c1"),), "<u>tool</u>")
    yield Message("assistant", (Text("The end of it."),))


def slowly(request: Request) -> Answer:
    """The answer, after the time it takes."""
    said = answer(request)
    return replace(Answer(text=said) if isinstance(said, str) else said, delay=_takes)


def main(port: str, store: str, hash: str) -> None:
    auth = Auth(keys=[Key(hash=hash, user="ada")]) if hash else Auth()
    with ModelServer(slowly) as model:
        app = create_app(runtime(model, store), ServerSettings(auth=auth, grace=0.5))
        uvicorn.run(app, port=int(port), log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    _takes = float(sys.argv[4])
    main(*sys.argv[1:4])
