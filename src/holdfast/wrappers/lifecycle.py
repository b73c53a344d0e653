"""What a traced store tells of the lives of its sessions: an OpenTelemetry event for each turn, with ids; and what its cache holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET
from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger
from opentelemetry.metrics import Meter

from ..backend import Commit, Key, Outcome
from ..entries import DECISION, PAUSED, QUEUED, RUN, RUNNING, NewEntry
from ..ids import SCOPE_PREFIXES
from .cache import CachedBackend

_Facts = dict[str, Any]
_STATUS = {QUEUED: "run_queued", RUNNING: "run_started", PAUSED: "paused"}
"""Which event a run's status is; any other is its end."""


class Lifecycle:
    """Events `holdfast.session.<what>`, each with the session's `gen_ai.conversation.id`.

    `created`, `forked` (from `holdfast.session.origin`), `renamed`, `cleared`, `deleted`; and of runs, with `holdfast.run.id` and
    `holdfast.run.attempt`: `run_queued`, `run_started`, `paused` (it waits for people), `resumed` (they have decided), `run_ended` (with
    `holdfast.run.status`).
    Runs are known from what is written in clear: under a wrapper that encrypts, those events are left out. A user's wider state has none.
    """

    def __init__(self, provider: LoggerProvider | None) -> None:
        self._logger = get_logger("holdfast", logger_provider=provider)

    def committed(self, key: Key, commit: Commit, outcome: Outcome) -> None:
        """Tell what an answered commit did, unless it had been told before."""
        if outcome.repeated:
            return
        for what, facts in _events(commit, outcome):
            self._tell(key, what, facts)

    def copied(self, source: Key, target: Key, outcome: Outcome) -> None:
        """Tell that `target` was forked from `source`."""
        if not outcome.repeated:
            self._tell(target, "forked", {"holdfast.session.origin": source.session_id})

    def _tell(self, key: Key, what: str, facts: _Facts) -> None:
        if not key.session_id.startswith(SCOPE_PREFIXES):
            attributes = {"gen_ai.conversation.id": key.session_id} | facts
            self._logger.emit(event_name=f"holdfast.session.{what}", severity_number=SeverityNumber.INFO, attributes=attributes)


class _Event(msgspec.Struct):
    """What of a run entry's body is told."""

    status: str
    attempt: int = 1


def _events(commit: Commit, outcome: Outcome) -> Iterator[tuple[str, _Facts]]:
    """What a commit did to its session, in order."""
    if commit.erase is not None:
        yield ("cleared" if commit.erase.what == "content" else "deleted"), {}
    made = commit.create is not None and outcome.head is not None and outcome.head.incarnation == commit.create.incarnation
    if made and outcome.version == 1:
        yield "created", {}
    elif commit.patch is not None and commit.patch.name is not UNSET:
        yield "renamed", {}
    decided = any(entry.kind == DECISION for entry in commit.entries)
    for entry in commit.entries:
        if entry.kind == RUN and (event := _event(entry)) is not None:
            yield _of_run(entry, event, decided)


def _of_run(entry: NewEntry, event: _Event, decided: bool) -> tuple[str, _Facts]:
    what = _STATUS.get(event.status, "run_ended")
    facts: _Facts = {"holdfast.run.id": entry.run_id, "holdfast.run.attempt": event.attempt}
    if what == "run_ended":
        facts["holdfast.run.status"] = event.status
    return ("resumed" if decided and what == "run_started" else what), facts


def _event(entry: NewEntry) -> _Event | None:
    """What is told of the run; None where it is sealed."""
    try:
        return msgspec.json.decode(entry.body, type=_Event)
    except msgspec.MsgspecError:
        return None


class CacheFigures:
    """What a cache did and holds, as metrics `holdfast.cache.<name>`: told are the differences, so that those of many caches add up."""

    def __init__(self, cache: CachedBackend, meter: Meter, system: str) -> None:
        self._cache = cache
        self._labels = {"db.system.name": system}
        self._told = dict.fromkeys(_COUNTED | _HELD, 0)
        self._lock = threading.Lock()
        self._instruments = {name: meter.create_counter(f"holdfast.cache.{name}", *about) for name, about in _COUNTED.items()} | {
            name: meter.create_up_down_counter(f"holdfast.cache.{name}", *about) for name, about in _HELD.items()
        }

    def tell(self, *, closed: bool = False) -> None:
        """Tell what is new. A cache that was closed holds nothing."""
        with self._lock:
            now = {name: 0 if closed and name in _HELD else getattr(self._cache.stats, name) for name in self._told}
            more = {name: now[name] - told for name, told in self._told.items() if now[name] != told}
            self._told = now
        for name, number in more.items():
            self._instruments[name].add(number, self._labels)

    def after_fork(self) -> None:
        """In the child: whoever held the lock is not there."""
        self._lock = threading.Lock()


_COUNTED = {
    "hits": ("{read}", "Sessions answered from what is known"),
    "misses": ("{read}", "Sessions read anew"),
    "evictions": ("{session}", "Sessions dropped for others"),
}
_HELD = {"sessions": ("{session}", "Sessions held"), "bytes": ("By", "Bytes held")}
