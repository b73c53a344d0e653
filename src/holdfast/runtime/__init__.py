"""The registry of agents behind the terminal and the server: agents by name, over one store, set up from the environment and a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["Runtime"]


def __getattr__(name: str) -> Any:
    """`Runtime` is imported when it is first asked for: it takes agents, the terminal mostly does not."""
    if name != "Runtime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .runtime import Runtime

    return Runtime
