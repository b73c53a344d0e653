"""What people are told of a store: whether it lasts, and where it is, both from what its backend says of itself."""

from __future__ import annotations

from typing import Any

from ..backend import Backend


def lasts(backend: Backend) -> bool:
    """Whether there is something that outlives this process: on a disk, or seen by other processes."""
    it = backend.capabilities
    return it.durable or it.multi_process


def place_of(backend: Backend) -> str:
    """The place of the database as a URL, without login and options. A backend that tells of none: its name."""
    it: Any = backend
    while hasattr(it, "inner"):
        it = it.inner
    if not lasts(backend):
        return "memory:// (it ends with this process)"
    if isinstance(path := getattr(it, "path", None), str):
        return f"sqlite:///{path}"
    if isinstance(where := getattr(it, "where", None), str):
        return where
    if hasattr(it, "server"):
        return _redis(it.server)
    return f"dynamodb:///{it.table.name}" if hasattr(it, "table") else type(it).__name__


def _redis(server: Any) -> str:
    options: dict[str, Any] = server.settings.options
    if "path" in options:
        return f"unix://{options['path']}?db={options.get('db') or 0}"
    host, port = server.seeds[0]
    scheme = "rediss" if any(name.startswith("ssl_") for name in options) else "redis"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{options.get('db') or 0}"
