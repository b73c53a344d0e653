"""Decorators of any backend: the same contract in and out, so they stack: `Store(TracedBackend(EncryptedBackend(backend, keys=[key])))`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import CachedBackend
    from .encryption import EncryptedBackend
    from .retry import RetriedBackend
    from .tracing import TracedBackend

__all__ = ["CachedBackend", "EncryptedBackend", "RetriedBackend", "TracedBackend"]

_HOMES = {"CachedBackend": "cache", "EncryptedBackend": "encryption", "RetriedBackend": "retry", "TracedBackend": "tracing"}
"""Imported when first asked for: two of them need a package that is an extra."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __package__), name)
