"""An order desk like that of `agent_app.py`, blocking: no event loop in sight.

OPENAI_API_KEY=... python examples/agent_app_sync.py [STORE_URL]      # then talk to it; an empty line ends
"""

import sys

from holdfast.sync import Agent, Session

ORDERS = {"1007": "a blue kettle, now in Leipzig", "1008": "two green mugs, delivered"}


def find_order(order_id: str) -> str:
    """Find an order by its number."""
    return f"Order {order_id}: {ORDERS.get(order_id, 'not found')}."


def start_refund(order_id: str, reason: str, session: Session) -> str:
    """Pay an order back. This moves money."""
    session.state["refunds"] = [*session.state.get("refunds", []), order_id]
    return f"Refund R-{order_id} started for order {order_id} ({reason})."


def main(store: str = "sqlite:///chat.db") -> None:
    desk = Agent(
        "openai:gpt-5.2",
        name="Order desk",
        instructions="You are the desk of a small shop. Look orders up and start refunds with your tools. Answer in one short line.",
        tools=[find_order, start_refund],
        store=store,
        session_id="ada-1",
    )
    while question := read_line():
        reply = desk.run(question, lease=3)  # if this process dies, the next one has the session after 3 seconds
        print(f"desk> {reply}", flush=True)


def read_line() -> str:
    print("you> " if sys.stdin.isatty() else "", end="", flush=True)
    return sys.stdin.readline().strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
