"""What a run gives back."""

from __future__ import annotations

from typing import Any

import msgspec

from ..messages import Message
from ..requirements import Requirement
from ..runs import COMPLETED, Metrics


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it ended. `content` is the answer (None for a run that has none yet), `messages` are those of this run, input included.

    `status` is `completed`, or `paused` while `requirements` are open: decide them and `continue_run`. `metrics` count this run alone.
    """

    content: Any
    run_id: str
    session_id: str
    user_id: str | None = None
    agent: str | None = None
    status: str = COMPLETED
    requirements: tuple[Requirement, ...] = ()
    metrics: Metrics = Metrics()
    messages: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """The answer as text."""
        return "" if self.content is None else str(self.content)

    def __str__(self) -> str:
        return self.text
