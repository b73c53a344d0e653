"""The contract of an index: what `Recall` writes there, and what it asks. An index knows neither stores nor agents, and decides nothing.

One index may serve any number of stores' tenants, and any number of processes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..backend import Key


class Document(msgspec.Struct, frozen=True, gc=False):
    """A piece of a message: `seq` is the entry's, `piece` its place in it, from 0; `time` is unix microseconds."""

    seq: int
    piece: int
    run_id: str | None
    agent: str | None
    role: str
    time: int
    text: str


class Standing(msgspec.Struct, frozen=True):
    """How far a session is indexed: which life of it, up to which entry, after how many hides, as whose.

    `forgotten`: nothing of this life is kept or taken in any more.
    """

    incarnation: int
    seq: int = 0
    hides: int = 0
    user_id: str | None = None
    forgotten: bool = False


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where: all that is given holds.

    `words` in small letters, `vector`: by meaning. `user_id`: this owner's sessions, None for those without one, unless
    `everybody`. `but`: not in this session. `after`, `before`: unix microseconds, not included. `limit`: of each ranking.
    """

    tenant: str
    words: tuple[str, ...] = ()
    vector: Sequence[float] | None = None
    user_id: str | None = None
    everybody: bool = False
    session_id: str | None = None
    but: str | None = None
    agent: str | None = None
    after: int | None = None
    before: int | None = None
    limit: int = 50


class Found(msgspec.Struct, frozen=True):
    """A document that fits, the session it is of, and how that stood when it was indexed."""

    session_id: str
    standing: Standing
    document: Document


class Index(Protocol):
    """What you implement to keep an index in another database. Every method may be called from any event loop and any thread."""

    async def open(self, model: str | None, *, anew: bool = False) -> None:
        """Get ready for vectors of `model`, or for words alone. Idempotent.

        `InvalidValue` where what is there was made with another model (or with one, or without); `anew`: all of it goes then, of every
        tenant, but for what is forgotten.
        """
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. Idempotent."""
        ...

    async def standings(self, tenant: str, session_id: str | None = None) -> dict[str, Standing]:
        """How far each session of a tenant is indexed, or that one if it is at all."""
        ...

    async def put(
        self,
        key: Key,
        was: Standing | None,
        standing: Standing | None,
        documents: Sequence[Document] = (),
        vectors: Sequence[Sequence[float]] = (),
        *,
        hidden: Sequence[int] = (),
    ) -> bool:
        """Take in `documents` with their `vectors` (none, or one for each), let go of those of the entries `hidden`, and stand there.

        All or nothing, and nothing (False) unless the session still stands where it `was`. Another incarnation, a `forgotten` standing,
        or none (the session is dropped) lets go of all documents from before. What is let go of can't be read from the database any more.
        """
        ...

    async def search(self, wanted: Wanted) -> list[list[Found]]:
        """Rankings of what fits, the best first: by all the words, by any of them, and, where there is a vector, by meaning."""
        ...
