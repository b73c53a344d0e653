"""A LangGraph app whose conversations survive: the checkpointer is the one line that makes it durable.

    python examples/langgraph_app.py

No model is called: the node answers by rule and asks a tool for the weather. Run it twice, it remembers what was said.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# LangGraph's own packages lack `py.typed`, and a builder's methods have partially unknown types.

import sys
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast import sync
from holdfast.adapters.langgraph import HoldfastSaver


def assistant(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [AIMessage(f"It is {last.text} today.")]}
    if "weather" in last.text:
        return {"messages": [AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Oslo"}, "id": f"call-{last.id}"}])]}
    questions = sum(message.type == "human" for message in state["messages"])
    return {"messages": [AIMessage(f"That was your message number {questions}.")]}


def weather(state: MessagesState) -> dict[str, Any]:
    (call,) = state["messages"][-1].tool_calls  # type: ignore[attr-defined]  # only reached from an assistant's tool call
    return {"messages": [ToolMessage("sunny", tool_call_id=call["id"])]}


def route(state: MessagesState) -> str:
    return "weather" if getattr(state["messages"][-1], "tool_calls", None) else END


def build(url: str) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node(assistant)
    builder.add_node(weather)
    builder.add_edge(START, "assistant")
    builder.add_conditional_edges("assistant", route)
    builder.add_edge("weather", "assistant")
    return builder.compile(checkpointer=HoldfastSaver(url))  # the one line


def main(url: str) -> None:
    graph = build(url)
    for text in ("hello", "how is the weather?"):
        answer = graph.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": "ada-1"}})
        print(f"> {text}\n{answer['messages'][-1].text}")
    with sync.Store.open(url) as store:
        print(f"{len(store.session('ada-1').get_messages())} messages in session ada-1; see `holdfast sessions show ada-1`")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{Path('chat.db')}")
