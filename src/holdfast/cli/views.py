"""What the terminal draws of sessions, states and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .. import RunInfo, SessionInfo
from ..values import encode
from .output import ago, counted, facts, from_micros, json_text, moment, size, table

if TYPE_CHECKING:
    from rich.table import Table


def overview(sessions: Iterable[SessionInfo]) -> Table:
    """A line for each session."""
    return table(
        ("id", "name", "user", "agent", "messages", "size", "updated", "status"),
        map(_overview_row, sessions),
        right=("messages", "size"),
        cut=("name", "user", "agent"),
    )


def _overview_row(it: SessionInfo) -> tuple[str, ...]:
    counts = (f"{it.counts.messages:,}", size(it.counts.bytes))
    return (it.id, it.name or "", it.user_id or "", it.agent or "", *counts, ago(it.updated_at), _status(it))


def _status(it: SessionInfo) -> str:
    return "running" if it.running else "waiting" if it.waiting else "-"


def header(it: SessionInfo) -> Table:
    """What a session is."""
    counts = it.counts
    tokens = f"{counts.input_tokens:,} + {counts.output_tokens:,}" if counts.input_tokens or counts.output_tokens else None
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
            ("status", None if _status(it) == "-" else _status(it)),
            ("forked from", it.origin and f"{it.origin.session_id} at version {it.origin.version}"),
            ("parent", it.parent),
            ("metadata", json_text(it.metadata) if it.metadata else None),
        )
    )


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """State values in their stored form, which is JSON."""
    return {key: msgspec.json.decode(encode(value))[1] for key, value in values.items()}


def state_table(values: Mapping[str, Any]) -> Table | str:
    """A line for each key."""
    return facts((key, json_text(value)) for key, value in values.items()) if values else "(empty)"


def run_table(runs: Iterable[RunInfo]) -> Table:
    """A line for each run."""
    return table(
        ("run", "status", "agent", "started", "seconds", "tokens", "calls", "tools", "error"),
        map(_run_row, runs),
        right=("seconds", "tokens", "calls", "tools"),
        cut=("agent", "error"),
    )


def _run_row(it: RunInfo) -> tuple[str, ...]:
    used = it.metrics
    status = it.status if it.attempt == 1 else f"{it.status} (attempt {it.attempt})"
    took = used.seconds or ((it.ended - it.started) / 1_000_000 if it.ended else 0.0)
    numbers = (f"{took:.1f}" if took else "", f"{used.input_tokens:,}+{used.output_tokens:,}", str(used.model_calls), str(used.tool_calls))
    return (it.id, status, it.agent or "", moment(from_micros(it.started)), *numbers, it.error or "")
