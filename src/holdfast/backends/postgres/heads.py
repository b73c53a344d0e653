"""The heads this process has last seen: what a commit is judged upon before the database says whether that is still so."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import msgspec

from ...backend import Head, Key
from ...errors import Corrupt

_KEPT = 1024
_LARGE = 8 * 1024
"""Bytes of a head that isn't kept."""

_log = logging.getLogger("holdfast")
encode_head = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Head).decode


class Known(NamedTuple):
    """A stored head. (n, rev) names it: no two heads of a database have both the same."""

    n: int
    rev: int
    data: bytes


class Heads:
    """The last known head of the sessions used last, as bytes: what callers were given is theirs to change."""

    def __init__(self) -> None:
        self._known: dict[Key, Known] = {}
        self.renew()

    def renew(self) -> None:
        """In a forked child: another thread may have held the lock."""
        self._lock = threading.Lock()

    def get(self, key: Key) -> Known | None:
        return self._known.get(key)

    def keep(self, key: Key, known: Known | None) -> None:
        """From now on, this is what is known; None forgets."""
        with self._lock:
            self._known.pop(key, None)
            if known is not None and len(known.data) <= _LARGE:
                self._known[key] = known
                if len(self._known) > _KEPT:
                    del self._known[next(iter(self._known))]


def decode_head(key: Key, data: bytes) -> Head:
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the head of {key} is not readable: {error}; restore a backup, or delete its row") from error


def readable_head(key: Key, data: bytes) -> Head | None:
    """The head, or None and a warning in the log: one session's damage is not the others'. Whoever names the session gets `Corrupt`."""
    try:
        return decode_head(key, data)
    except Corrupt as error:
        _log.warning("left out: tenant=%r session=%r: %s", key.tenant, key.session_id, error)
        return None
