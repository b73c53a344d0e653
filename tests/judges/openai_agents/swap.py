"""A pytest plugin for the SDK's suite (`pytest -p swap` in the root of its source): the sessions its tests make are ours.

In the place of `SQLiteSession`, and of the list sessions that most tests of the runner use; in the store that $JUDGE_STORE names, a SQLite
file without it. What became of each test that made one of ours goes to the file $JUDGE_REPORT names, as JSON:
`{test: "passed" | "failed" | "skipped"}`.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import os
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import agents
import agents.memory
import agents.memory.sqlite_session
import pytest

from holdfast import Store
from holdfast.adapters.openai_agents import HoldfastSession

_numbers = itertools.count()
_folder = tempfile.TemporaryDirectory(prefix="judge-")
_shared = Store.open(os.environ.get("JUDGE_STORE") or f"sqlite:///{_folder.name}/all.db?synchronous=off").backend
_run = os.urandom(4).hex()

current = ""
outcomes: dict[str, str] = {}
touched: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    global current
    current = item.nodeid


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if outcomes.get(report.nodeid) in (None, "passed"):
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    report = {test: outcome for test, outcome in sorted(outcomes.items()) if test in touched}
    Path(os.environ["JUDGE_REPORT"]).write_text(json.dumps(report))


def fresh() -> Store:
    """A store with nothing in it: a tenant of its own in one database."""
    return Store(_shared, tenant=f"{_run}-{next(_numbers)}")


class SQLiteSession(HoldfastSession):
    """Constructed like the SDK's."""

    def __init__(
        self,
        session_id: str,
        db_path: str | Path = ":memory:",
        sessions_table: str = "agent_sessions",
        messages_table: str = "agent_messages",
        session_settings: Any = None,
    ) -> None:
        touched.add(current)
        self.db_path = db_path
        url = f"sqlite:////{quote(str(Path(db_path).absolute()).lstrip('/'))}.holdfast"
        super().__init__(session_id, fresh() if str(db_path) == ":memory:" else url, session_settings=session_settings)


class SimpleListSession(HoldfastSession):
    """Constructed like the suite's, with its window on what is stored, and like it without hooks for compaction."""

    _atomic_replace_items: Any = None
    _get_compaction_snapshot: Any = None

    def __init__(self, session_id: str = "test", history: list[Any] | None = None) -> None:
        touched.add(current)
        super().__init__(session_id, fresh())
        self.session_settings = None
        self._ignore_ids_for_matching = False
        blocking(HoldfastSession.add_items(self, list(history or ())))

    @property
    def saved_items(self) -> list[Any]:
        return blocking(HoldfastSession.get_items(self, 1_000_000))

    _items = saved_items


class CountingSession(SimpleListSession):
    """As the suite's."""

    def __init__(self, session_id: str = "test", history: list[Any] | None = None) -> None:
        super().__init__(session_id, history)
        self.pop_calls = 0

    async def pop_item(self, *, wrapper: Any = None) -> Any:
        self.pop_calls += 1
        return await super().pop_item(wrapper=wrapper)


class IdStrippingSession(CountingSession):
    """As the suite's."""

    def __init__(self, session_id: str = "test", history: list[Any] | None = None) -> None:
        super().__init__(session_id, history)
        self._ignore_ids_for_matching = True

    async def add_items(self, items: list[Any], *, wrapper: Any = None) -> None:
        plain: list[Any] = [{key: value for key, value in item.items() if key != "id"} for item in items]
        await super().add_items(plain, wrapper=wrapper)


def blocking(work: Coroutine[Any, Any, Any]) -> Any:
    """Its result, though an event loop may be running here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def swap() -> None:
    importlib.import_module("agents.extensions.memory.encrypt_session")  # before: to it ours are not the SDK's own, as in an app
    for module in (agents, agents.memory, agents.memory.sqlite_session):
        vars(module)["SQLiteSession"] = SQLiteSession
    lists = importlib.import_module("tests.utils.simple_session")  # the suite's, which lies in the working directory
    vars(lists).update({kind.__name__: kind for kind in (SimpleListSession, CountingSession, IdStrippingSession)})


swap()
