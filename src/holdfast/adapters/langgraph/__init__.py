"""LangGraph: its checkpoints and its long-term memory, kept by a Holdfast store.

    graph = builder.compile(checkpointer=HoldfastSaver("sqlite:///chat.db"), store=HoldfastStore("sqlite:///chat.db"))

A thread is a session: listed, named, expired, forked, exported and deleted like any other, its messages readable by everyone.
"""

from __future__ import annotations

from ...errors import MissingExtra

try:
    from .engine import GraphEngine
    from .saver import HoldfastSaver
    from .store import HoldfastStore
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("langchain_core", "langgraph"):
        raise
    raise MissingExtra('LangGraph 1.2 or newer is not installed: pip install "holdfast[langgraph]"') from error

__all__ = ["GraphEngine", "HoldfastSaver", "HoldfastStore"]
