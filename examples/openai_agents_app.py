"""An order desk on the OpenAI Agents SDK. One line makes its conversations durable: a `kill -9` at any moment loses nothing.

OPENAI_API_KEY=... python examples/openai_agents_app.py [STORE_URL]      # then talk to it; an empty line ends
"""

import asyncio
import sys

from agents import Agent, Runner, function_tool

from holdfast.adapters.openai_agents import HoldfastSession

ORDERS = {"1007": "a blue kettle, now in Leipzig", "1008": "two green mugs, delivered"}


@function_tool
def find_order(order_id: str) -> str:
    """Find an order by its number."""
    return f"Order {order_id}: {ORDERS.get(order_id, 'not found')}."


@function_tool
def start_refund(order_id: str, reason: str) -> str:
    """Pay an order back. This moves money."""
    return f"Refund R-{order_id} started for order {order_id} ({reason})."


desk = Agent(
    name="Order desk",
    instructions="You are the desk of a small shop. Look orders up and start refunds with your tools. Answer in one short line.",
    tools=[find_order, start_refund],
)


async def main(store: str = "sqlite:///chat.db") -> None:
    # session = SQLiteSession("ada-1", "chat.db")  # before
    session = HoldfastSession("ada-1", store)
    while question := await asyncio.to_thread(read_line):
        result = await Runner.run(desk, question, session=session)
        print(f"desk> {result.final_output}", flush=True)


def read_line() -> str:
    print("you> " if sys.stdin.isatty() else "", end="", flush=True)
    return sys.stdin.readline().strip()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
