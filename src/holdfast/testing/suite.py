"""Clauses, where they are registered, and the two ways to run them: a class for pytest, a coroutine for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import SkipTest

import msgspec

from ..backend import Backend, Capabilities

if TYPE_CHECKING:
    import pytest

Opener = Callable[[], Backend]
"""Gives a new backend object, not yet opened, on the same database at each call.

It must be picklable where the backend declares `multi_process` (`functools.partial(MyBackend, path)` is). For a backend that lives in
the memory of one process it gives the same object each time.
"""

Body = Callable[[Opener], Awaitable[None]]
SECONDS = 120.0
"""A clause that takes longer has failed."""


class Clause(msgspec.Struct, frozen=True):
    """One promise and how to find out whether it is kept: `run` raises where it isn't. `needs` are names of `Capabilities`."""

    name: str
    promise: str
    needs: tuple[str, ...]
    body: Body

    def lacks(self, capabilities: Capabilities) -> list[str]:
        """The capabilities it needs that are not declared."""
        return [need for need in self.needs if not getattr(capabilities, need)]

    async def run(self, open: Opener) -> None:
        async with asyncio.timeout(SECONDS):
            await self.body(open)


CLAUSES: dict[str, Clause] = {}
"""Every clause by name, in the order of their files: closing comes last."""


def clause(*, needs: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """Register the function below as a clause; its docstring is the promise."""

    def register(body: Body) -> Body:
        name = body.__name__
        if name in CLAUSES or not body.__doc__:
            raise ValueError(f"clause {name}: a clause has a name of its own and a docstring that states its promise")
        CLAUSES[name] = Clause(name, body.__doc__, needs, body)
        return body

    return register


async def check(opener: Opener, *, only: Iterable[str] | None = None) -> dict[str, Exception | None]:
    """Run the clauses (or `only` the named ones) that the backend's capabilities call for: what each raised, None for a kept promise.

    All run on the one database, each in a tenant of its own; the last one closes it.
    """
    capabilities = opener().capabilities
    names = list(CLAUSES) if only is None else list(only)
    return {name: await _outcome(CLAUSES[name], opener) for name in names if not CLAUSES[name].lacks(capabilities)}


async def _outcome(it: Clause, opener: Opener) -> Exception | None:
    try:
        await it.run(opener)
    except Exception as error:  # whatever a broken backend raises is the answer
        return error
    return None


class BackendSuite:
    """Every clause as one pytest test. Subclass it as `Test...` and give the fixture `opener`, with a fresh database for each test.

    With `capabilities` set to the backend's, clauses that need others are left out; without, they are skipped one by one.
    """

    capabilities: ClassVar[Capabilities | None] = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        mine = self.capabilities
        metafunc.parametrize("name", [name for name, it in CLAUSES.items() if mine is None or not it.lacks(mine)])

    def test_clause(self, name: str, opener: Opener) -> Any:
        it = CLAUSES[name]
        if lacking := it.lacks(opener().capabilities):
            raise SkipTest(f"this backend does not declare {' or '.join(lacking)}")
        asyncio.run(it.run(opener))
