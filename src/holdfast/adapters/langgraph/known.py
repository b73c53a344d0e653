"""What a process knows of a thread, so that it need not ask."""

from __future__ import annotations

import msgspec

from ...backend import Commit, Outcome, Snapshot

MARK = {"langgraph": True}
"""Metadata of every session that is a thread."""
SHOWN = "\x1fcache:langgraph:shown"
REMOVAL = "\x1fcache:langgraph:removal:"
"""Both in the session's non-volatile cache, which no graph's state is."""


class Known(msgspec.Struct):
    """What this process knows of a thread as of `version`; an `incarnation` of None says that there was no session."""

    incarnation: int | None = None
    version: int = 0
    marked: bool = False
    removals: int = 0
    shown: bytes | None = None
    shown_version: int = 0
    tips: dict[str, frozenset[str]] = {}

    def learn(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot`, which is not older, says of the session and its state."""
        self.incarnation, self.version = snapshot.head.incarnation, snapshot.head.version
        self.marked = MARK.items() <= snapshot.head.metadata.items()
        for key, row in (snapshot.state or {}).items():
            if key == SHOWN:
                self.shown, self.shown_version = row.value, row.version if row.value is not None else 0
            elif key.startswith(REMOVAL):
                self.removals = max(self.removals, int(key.removeprefix(REMOVAL)))

    def follow(self, commit: Commit, outcome: Outcome) -> None:
        """Take over what a commit of ours has done."""
        if outcome.head is None:
            return
        self.incarnation, self.marked = outcome.head.incarnation, True
        if outcome.version == self.version + 1:
            self.version = outcome.version
        for put in commit.puts:
            if put.key == SHOWN:
                self.shown, self.shown_version = put.value, outcome.version
