"""What the container serves: put your own agents here. Where their sessions are kept, the environment says."""

from holdfast import Agent
from holdfast.agents import tool

ORDERS = {"1007": "a blue kettle, now in Leipzig", "1008": "two green mugs, delivered"}


def find_order(order_id: str) -> str:
    """Find an order by its number."""
    return f"Order {order_id}: {ORDERS.get(order_id, 'not found')}."


@tool(confirm=True)
def refund(order_id: str) -> str:
    """Pay an order back. A person is asked first."""
    return f"Refund R-{order_id} started."


desk = Agent(
    "openai:gpt-5.2",
    name="desk",
    instructions="You are the desk of a small shop. Look orders up and start refunds with your tools. Answer in one short line.",
    tools=[find_order, refund],
)
