"""What the terminal draws of sessions, states and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .. import RunInfo, SessionInfo
from ..ids import from_micros
from ..values import encode
from .output import Columns, ago, counted, facts, moment, readable, size, table

if TYPE_CHECKING:
    from rich.table import Table


_SESSIONS = Columns(
    ("id", "name", "user", "agent", "messages", "size", "updated", "status"),
    right=("messages", "size"),
    cut=("name", "user", "agent"),
    spare=("agent", "size", "user"),
)
_RUNS = Columns(
    ("run", "status", "agent", "started", "seconds", "tokens", "calls", "tools", "error"),
    right=("seconds", "tokens", "calls", "tools"),
    cut=("agent", "error"),
    spare=("tools", "calls", "agent"),
)


def overview(sessions: Iterable[SessionInfo], width: int) -> Table:
    """A line for each session."""
    return table(_SESSIONS, map(_session_row, sessions), width)


def _session_row(it: SessionInfo) -> dict[str, str]:
    return {
        "id": it.id,
        "name": it.name or "",
        "user": it.user_id or "",
        "agent": it.agent or "",
        "messages": f"{it.counts.messages:,}",
        "size": size(it.counts.bytes),
        "updated": ago(it.updated_at),
        "status": _status(it),
    }


def _status(it: SessionInfo) -> str:
    return "running" if it.running else "waiting" if it.waiting else "-"


def header(it: SessionInfo) -> Table:
    """What a session is."""
    counts = it.counts
    tokens = f"{counts.input_tokens:,} + {counts.output_tokens:,}" if counts.input_tokens or counts.output_tokens else None
    calls = f"{counted(counts.model_calls, 'model call')}, {counted(counts.tool_calls, 'tool call')}"
    return facts(
        (
            ("session", it.id),
            ("name", it.name),
            ("user", it.user_id),
            ("agent", it.agent),
            ("version", str(it.version)),
            ("created", f"{moment(it.created_at)} ({ago(it.created_at)})"),
            ("updated", f"{moment(it.updated_at)} ({ago(it.updated_at)})"),
            ("expires", it.expires_at and f"{moment(it.expires_at)} ({ago(it.expires_at)})"),
            ("holds", f"{counted(counts.messages, 'message')}, {counted(counts.runs, 'run')}, {size(counts.bytes)}"),
            ("tokens", tokens and f"{tokens} (in + out)"),
            ("used", f"{calls}, {counts.seconds:.1f} s" if counts.micros else None),
            ("status", None if _status(it) == "-" else _status(it)),
            ("forked from", it.origin and f"{it.origin.session_id} at version {it.origin.version}"),
            ("parent", it.parent),
            ("metadata", readable(it.metadata) if it.metadata else None),
        )
    )


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """State values in their stored form, which is JSON."""
    return {key: msgspec.json.decode(encode(value))[1] for key, value in values.items()}


def state_table(values: Mapping[str, Any]) -> Table | str:
    """A line for each key."""
    return facts((key, readable(value)) for key, value in values.items()) if values else "(empty)"


def run_table(runs: Iterable[RunInfo], width: int) -> Table:
    """A line for each run."""
    return table(_RUNS, map(_run_row, runs), width)


def _run_row(it: RunInfo) -> dict[str, str]:
    used = it.metrics
    took = used.seconds or ((it.ended - it.started) / 1_000_000 if it.ended else 0.0)
    return {
        "run": it.id,
        "status": it.status if it.attempt == 1 else f"{it.status} ({it.attempt} tries)",
        "agent": it.agent or "",
        "started": ago(from_micros(it.started)),
        "seconds": f"{took:.1f}" if it.ended else "",
        "tokens": f"{used.input_tokens:,}+{used.output_tokens:,}",
        "calls": str(used.model_calls),
        "tools": str(used.tool_calls),
        "error": it.error or "",
    }
