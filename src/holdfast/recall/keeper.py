"""Keeps an index up to date with an agent's runs, off the way of their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..agents.around import Middleware, Next, RunContext

if TYPE_CHECKING:
    from .recall import Recall


class Keeper(Middleware):
    """Middleware: after each run, however it ended, its session is indexed in a task of its own."""

    def __init__(self, recall: Recall) -> None:
        self._recall = recall

    async def on_run(self, context: RunContext, call_next: Next) -> None:
        try:
            await call_next()
        finally:
            self._recall.soon(context.session)
