"""Agents whose conversations are sessions: `Agent`, what its runs give and tell, and the contract of an engine.

Importing this imports no model client; making an `Agent` imports its engine.
"""

from ..requirements import Decision, Requirement
from .agent import Agent, Runner
from .around import (
    BaseContextProvider,
    BaseHistoryProvider,
    ContextProvider,
    HistoryProvider,
    InMemoryHistoryProvider,
    Middleware,
    ModelCall,
    Posthook,
    Prehook,
    RunContext,
    ToolInvocation,
)
from .engine import Answered, Delta, Done, Engine, Held, Said, Step, Turn
from .events import Event, ReasoningDelta, RunEnded, RunStarted, TextDelta, ToolAnswered, ToolCalled
from .history import History
from .output import RunOutput
from .stream import RunStream
from .team import Team
from .tools import tool

__all__ = [
    "Agent",
    "Answered",
    "BaseContextProvider",
    "BaseHistoryProvider",
    "ContextProvider",
    "Decision",
    "Delta",
    "Done",
    "Engine",
    "Event",
    "Held",
    "History",
    "HistoryProvider",
    "InMemoryHistoryProvider",
    "Middleware",
    "ModelCall",
    "Posthook",
    "Prehook",
    "ReasoningDelta",
    "Requirement",
    "RunContext",
    "RunEnded",
    "RunOutput",
    "RunStarted",
    "RunStream",
    "Runner",
    "Said",
    "Step",
    "Team",
    "TextDelta",
    "ToolAnswered",
    "ToolCalled",
    "ToolInvocation",
    "Turn",
    "tool",
]
