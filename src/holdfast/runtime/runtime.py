"""`Runtime`: agents, teams, workflows and those of other frameworks by name, over one store."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import Agent, InvalidValue, SessionManager, Store, UsageError
from ..agents import RunOutput
from .loading import agents_in, all_at
from .settings import Settings, read

if TYPE_CHECKING:
    from ..recall import Recall


class Runtime:
    """Agents by name. Each is used over the runtime's store, whatever store it was made with.

    `store`: a `Store` or a URL. Without one it is the store of the first agent that was given one, or `sqlite:///holdfast.db`.
    `Runtime.get()` is the process's own, set up from the environment and config.yaml.
    """

    def __init__(self, store: Store | str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._store = Store.shared(store) if isinstance(store, str) else store
        self._agents: dict[str, Agent] = {}
        self.recall: Recall | None = None
        """An index of what was said in the store, for the server's search."""

    @classmethod
    def get(cls) -> Runtime:
        """The runtime of this process. Made at first use: its store is the one that the settings name, its agents those they list."""
        with _lock:
            if not _own:
                _own.append(cls.from_settings(read(os.environ).settings))
            return _own[0]

    @classmethod
    def from_settings(cls, settings: Settings) -> Runtime:
        """A runtime as it is set up; `InvalidValue`, `UsageError` and `MissingExtra` say what can't be."""
        where = settings.session
        store = Store.open(where.place(), cache=where.cache.size, **where.options())
        runtime = cls(store, settings=settings)
        for target in settings.agents:
            runtime.load(target)
        return runtime

    # --- agents ---

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents by name, in the order they were registered."""
        return dict(self._agents)

    def register(self, agent: Any, name: str | None = None) -> Agent:
        """Make an agent known, under its own name or this one; an agent of another framework too. The agent over the runtime's store."""
        found = agents_in({name or "": agent})
        if not found:
            raise InvalidValue(f"{agent!r:.80} is no agent: give an Agent, a Team, a Workflow, or one of a framework that is supported")
        (it,) = found.values()
        called = name or it.name
        if not called:
            raise InvalidValue(f"{it!r} has no name: register(agent, 'name'), or Agent(..., name=...)")
        if called in self._agents:
            raise InvalidValue(f"two agents are called {called!r}: register one of them under another name")
        if self._store is None and it.keeps:
            self._store = it.store
        self._agents[called] = it.on(self.store, called)
        return self._agents[called]

    def deregister(self, name: str) -> None:
        """Forget an agent; its sessions stay. `UsageError` where there is none."""
        self.agent(name)
        del self._agents[name]

    def load(self, target: str | ModuleType) -> list[str]:
        """Register the agent at `MODULE:OBJECT`, or all of a module (its name, a file, or the module itself); their names."""
        found = {it.name or name: it for name, it in agents_in(vars(target)).items()} if isinstance(target, ModuleType) else all_at(target)
        for name, agent in found.items():
            self.register(agent, name)
        return list(found)

    def agent(self, name: str | None = None) -> Agent:
        """The agent of this name, or the only one; `UsageError` names those there are."""
        if name is None and len(self._agents) == 1:
            return next(iter(self._agents.values()))
        if name is None or name not in self._agents:
            there = ", ".join(self._agents) or "none is registered"
            raise UsageError(f"there is no agent {name!r}: {there}" if name else f"say which agent: {there}")
        return self._agents[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    # --- sessions ---

    @property
    def store(self) -> Store:
        """Where the sessions of all agents are."""
        if self._store is None:
            self._store = Store.shared(self.settings.session.place())
        return self._store

    @property
    def session_manager(self) -> SessionManager:
        """`get_or_create_session`, `has_session`, `delete_session`."""
        return self.store.session_manager

    async def run(self, agent: str | Agent, session: Any, prompt: Any) -> RunOutput:
        """One run of an agent, by its name or itself, on a session (or its id)."""
        it = agent if isinstance(agent, Agent) else self.agent(agent)
        return await it.run(prompt, session_id=session) if isinstance(session, str) else await it.run(prompt, session=session)


_own: list[Runtime] = []
_lock = threading.Lock()
