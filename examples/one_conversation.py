"""One conversation in two frameworks: it begins in the OpenAI Agents SDK, goes on in LangGraph, and ends in the Agents SDK.

    python examples/one_conversation.py

No model is called: the SDK's model answers from a script, the graph's node by rule. What each of them was sent is counted.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# LangGraph's own packages lack `py.typed`, and a builder's methods have partially unknown types.

import asyncio
import sys
from typing import Any

from agents import Agent, Runner, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast import Store
from holdfast.adapters.langgraph import HoldfastSaver
from holdfast.adapters.openai_agents import HoldfastSession

ID = "ada-1"
set_tracing_disabled(True)


def answer(state: MessagesState) -> dict[str, Any]:
    """In the place of a model: it sees what was said before, whoever said it."""
    print(f"LangGraph was sent {len(state['messages'])} messages")
    return {"messages": [AIMessage("Today." if "left" in state["messages"][-1].text else "Tomorrow.")]}


async def ask_agent(store: Store, question: str, reply: str) -> None:
    """A turn in the OpenAI Agents SDK."""
    model = ScriptedModel([[assistant_message(reply)]])
    await Runner.run(Agent(name="Desk", model=model), question, session=HoldfastSession(ID, store))
    assert model.last_call is not None
    print(f"OpenAI Agents SDK was sent {len(model.last_call.input)} messages")


async def ask_graph(store: Store, question: str) -> None:
    """A turn in LangGraph, after what others have said meanwhile."""
    saver = HoldfastSaver(store)
    builder = StateGraph(MessagesState)
    builder.add_node(answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph: Any = builder.compile(checkpointer=saver)
    thread: Any = {"configurable": {"thread_id": ID}}
    await graph.ainvoke({"messages": [*await saver.aunseen(thread), HumanMessage(question)]}, thread)


async def main(url: str = "memory://") -> None:
    async with Store.open(url) as store:
        await ask_agent(store, "Where is my order 1007?", "A blue kettle, in Leipzig.")
        await ask_graph(store, "Has it left?")
        await ask_agent(store, "Thank you.", "You are welcome.")
        await ask_graph(store, "When will it be here?")

        session = await store.session(ID)
        print()
        for message in await session.get_messages():
            author = message.native.format.partition("/")[0] if message.native else "holdfast"
            print(f"{author:14} {message.role:9} {message.text}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
