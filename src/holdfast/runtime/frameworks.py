"""Agents of other frameworks as agents of ours: each is an engine, and its conversations are sessions like any other's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import Agent


def adapted(it: Any) -> Agent | None:
    """The agent of ours that runs this one of a framework; None for what is no agent.

    Nothing is imported to find out: its class says what it is.
    """
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(it).__mro__}
    return next((adapt(it) for name, adapt in _FRAMEWORKS.items() if name in kinds), None)


def _pydantic(it: Any) -> Agent:
    from .. import Agent

    return Agent(it, name=it.name)


def _openai_agents(it: Any) -> Agent:
    from .. import Agent
    from ..adapters.openai_agents import AgentsEngine

    return Agent(AgentsEngine(it), name=it.name)


def _langgraph(it: Any) -> Agent:
    from .. import Agent
    from ..adapters.langgraph import GraphEngine

    return Agent(GraphEngine(it), name=None if it.name == _UNNAMED_GRAPH else it.name)


_UNNAMED_GRAPH = "LangGraph"
_FRAMEWORKS: dict[str, Callable[[Any], Agent]] = {
    "pydantic_ai.AbstractAgent": _pydantic,
    "agents.Agent": _openai_agents,
    "langgraph.Pregel": _langgraph,
}
"""By the package and the name of a class that its agents are of."""
