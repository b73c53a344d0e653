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
    RunInvocation,
    ToolInvocation,
)
from .engine import Answered, Delta, Done, Engine, Held, Said, Turn
from .events import Event, HandedOver, ReasoningDelta, RunEnded, RunStarted, TextDelta, ToolAnswered, ToolCalled
from .history import History
from .output import RunOutput
from .steps import Condition, Loop, Parallel, Router, Step, StepInput, StepOutput
from .stream import RunStream
from .summaries import Summaries
from .team import Team
from .tools import tool
from .workflow import StepProgress, Workflow

__all__ = [
    "Agent",
    "Answered",
    "BaseContextProvider",
    "BaseHistoryProvider",
    "Condition",
    "ContextProvider",
    "Decision",
    "Delta",
    "Done",
    "Engine",
    "Event",
    "HandedOver",
    "Held",
    "History",
    "HistoryProvider",
    "InMemoryHistoryProvider",
    "Loop",
    "Middleware",
    "ModelCall",
    "Parallel",
    "Posthook",
    "Prehook",
    "ReasoningDelta",
    "Requirement",
    "Router",
    "RunContext",
    "RunEnded",
    "RunInvocation",
    "RunOutput",
    "RunStarted",
    "RunStream",
    "Runner",
    "Said",
    "Step",
    "StepInput",
    "StepOutput",
    "StepProgress",
    "Summaries",
    "Team",
    "TextDelta",
    "ToolAnswered",
    "ToolCalled",
    "ToolInvocation",
    "Turn",
    "Workflow",
    "tool",
]
