"""The blocking form: the same names, the same arguments, no `await`.

One hand-written facade over the asynchronous classes, held to them by a test. What runs on the calling thread and what goes to the one
portal thread is in `sessions`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .sessions import Run, Session, SessionManager, State, Store

if TYPE_CHECKING:
    from .agent import Agent, Runner, RunStream
    from .flows import Team, Workflow
    from .recall import Recall

__all__ = ["Agent", "Recall", "Run", "RunStream", "Runner", "Session", "SessionManager", "State", "Store", "Team", "Workflow"]
_LAZY = {"Agent": "agent", "Recall": "recall", "RunStream": "agent", "Runner": "agent", "Team": "flows", "Workflow": "flows"}
"""What few need, and what takes time to import."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
