"""The audit log: who removed, decided, cancelled or took away what, and who was refused. Ids and counts, never what is in a session."""

from __future__ import annotations

import json
import logging
import re

from .callers import Caller
from .limits import Rates

log = logging.getLogger("holdfast.audit")
_PLAIN = re.compile(r"[\w.:/@~+-]+")
_REFUSALS = 1
"""Lines a second about one address that shows no good credentials."""


class Audit:
    """One line for each event, `name=value`; what is more than a word is quoted as in JSON, so that no id passes for two values."""

    def __init__(self) -> None:
        self._lines = Rates(_REFUSALS, _REFUSALS)

    def __call__(self, caller: Caller, what: str, session_id: str, **more: str) -> None:
        """Note that this caller did something that can't be undone, or took everything along."""
        facts = {"what": what, "by": caller.name, "user_id": caller.owner, "tenant": caller.tenant, "session_id": session_id, **more}
        log.info(_line(facts))

    def refused(self, address: str | None, *, shown: bool) -> None:
        """Note that somebody was refused: with credentials that are no good, or with none. At most one line a second about one address."""
        if not self._lines.take(address):
            log.warning(_line({"what": "refused", "address": address, "credentials": "wrong" if shown else "none"}))


def _line(facts: dict[str, str | None]) -> str:
    return " ".join([f"{name}={_word(value)}" for name, value in facts.items()])


def _word(value: str | None) -> str:
    if value is None:
        return "-"
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
