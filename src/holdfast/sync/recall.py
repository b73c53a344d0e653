"""The blocking form of `recall`: what takes time is done in the portal thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from .. import recall as aio
from ..agents.around import Middleware
from ..recall import Embed, Hit, Index
from .sessions import Store, portal, waited

T = TypeVar("T")


class Recall:
    """`holdfast.recall.Recall`, blocking."""

    def __init__(
        self,
        store: Store | str,
        index: Index | str = "sqlite:///recall.db",
        embed: Embed | None = None,
        *,
        model: str | None = None,
        tool_results: bool = False,
        shared: bool = False,
        plain: bool = False,
    ) -> None:
        given = Store.shared(store).aio
        self.aio = aio.Recall(given, index, embed, model=model, tool_results=tool_results, shared=shared, plain=plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        _done(self.aio.close())

    def update(self, session_id: str | None = None, *, updated_after: datetime | None = None, rebuild: bool = False) -> int:
        return _done(self.aio.update(session_id, updated_after=updated_after, rebuild=rebuild))

    def forget(self, session_id: str) -> None:
        _done(self.aio.forget(session_id))

    def search(
        self,
        query: str,
        *,
        user_id: str | None,
        limit: int = 10,
        session_id: str | None = None,
        agent: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> list[Hit]:
        found = self.aio.search(query, user_id=user_id, limit=limit, session_id=session_id, agent=agent, after=after, before=before)
        return _done(found)

    def tools(self, *, current: bool = False) -> list[Callable[..., Any]]:
        return self.aio.tools(current=current)

    def keeper(self) -> Middleware:
        return self.aio.keeper()

    def settled(self) -> None:
        _done(self.aio.settled())


def _done(work: Coroutine[Any, Any, T]) -> T:
    return portal.get().call(waited, work)
