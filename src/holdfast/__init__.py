"""Holdfast: the session layer for AI agents.

    async with Store.open("sqlite:///chat.db") as store:
        session = await store.session("ada-1", user_id="ada")
        await session.append(user("hi"), assistant("hello"))

`holdfast.sync` has the same names and blocks. A `Backend` is what you implement, a `Store` is what you open, a `Session` is what you use.
"""

from typing import TYPE_CHECKING, Any

from .backend import Backend, Capabilities
from .entries import Entry
from .errors import (
    AlreadyDecided,
    CommitReused,
    Conflict,
    Corrupt,
    Fenced,
    FileNotFound,
    HoldfastError,
    InvalidId,
    InvalidURL,
    InvalidValue,
    MissingExtra,
    NotAStore,
    OutcomeUnknown,
    SchemaMismatch,
    SessionBusy,
    SessionExists,
    SessionGone,
    SessionNotFound,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    TooLarge,
    Unsupported,
    UsageError,
)
from .files import FileInfo
from .info import SessionInfo
from .messages import (
    Blob,
    Compaction,
    File,
    Message,
    Native,
    Other,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Uri,
    assistant,
    system,
    tool,
    user,
)
from .running import Run
from .runs import Metrics, RunInfo
from .session import Session
from .state import State, StateChange
from .store import SessionManager, SessionPage, Store
from .values import Tagged, register

if TYPE_CHECKING:
    from .agents import Agent, History, RunOutput

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AlreadyDecided",
    "Backend",
    "Blob",
    "Capabilities",
    "CommitReused",
    "Compaction",
    "Conflict",
    "Corrupt",
    "Entry",
    "Fenced",
    "File",
    "FileInfo",
    "FileNotFound",
    "History",
    "HoldfastError",
    "InvalidId",
    "InvalidURL",
    "InvalidValue",
    "Message",
    "Metrics",
    "MissingExtra",
    "Native",
    "NotAStore",
    "Other",
    "OutcomeUnknown",
    "Part",
    "Reasoning",
    "Run",
    "RunInfo",
    "RunOutput",
    "SchemaMismatch",
    "Session",
    "SessionBusy",
    "SessionExists",
    "SessionGone",
    "SessionInfo",
    "SessionManager",
    "SessionNotFound",
    "SessionPage",
    "State",
    "StateChange",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "Tagged",
    "Text",
    "TooLarge",
    "ToolCall",
    "ToolResult",
    "Unsupported",
    "Uri",
    "UsageError",
    "assistant",
    "register",
    "system",
    "tool",
    "user",
]
_LAZY = {"Agent", "History", "RunOutput"}
"""What takes a model's client: imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import agents

    return getattr(agents, name)
