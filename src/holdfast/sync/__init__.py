"""The blocking form: the same names, the same arguments, no `await`.

One hand-written facade over the asynchronous classes, held to them by a test. What runs on the calling thread and what goes to the one
portal thread is in `sessions`.
"""

from typing import TYPE_CHECKING, Any

from .sessions import Run, Session, SessionManager, State, Store

if TYPE_CHECKING:
    from .agent import Agent, Runner, RunStream

__all__ = ["Agent", "Run", "RunStream", "Runner", "Session", "SessionManager", "State", "Store"]
_LAZY = {"Agent", "RunStream", "Runner"}
"""What few need, and what takes time to import."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import agent

    return getattr(agent, name)
