"""What one server process holds: the runtime, its settings, and for each tenant and role the store and agents its callers get."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .. import Agent, Session, Store
from ..runtime import Runtime
from ..runtime.settings import ServerSettings
from .callers import ANYBODY, Caller
from .going import Going
from .problems import Problem, not_found

audit_log = logging.getLogger("holdfast.audit")


class Serving:
    """Kept in `app.state.serving`."""

    def __init__(self, runtime: Runtime, settings: ServerSettings) -> None:
        self.runtime = runtime
        self.settings = settings
        self.going = Going(settings.limits.runs)
        self._stores: dict[tuple[str, bool], Store] = {}
        self._agents: dict[tuple[str, str, bool], Agent] = {}

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        return ANYBODY

    def store(self, caller: Caller) -> Store:
        """The store as this caller sees it: one tenant, and only an admin sees everybody's sessions."""
        key = caller.tenant, caller.admin
        if key not in self._stores:
            own = self.runtime.store
            self._stores[key] = Store(own.backend, tenant=caller.tenant, as_admin=caller.admin, ttl=own.ttl)
        return self._stores[key]

    def agent(self, caller: Caller, name: str | None) -> Agent:
        """The agent of this name (or the only one) over the caller's store; 404 where there is none."""
        if name is None and len(self.runtime.agents) != 1:
            raise Problem(422, "say which agent: GET /agents lists them")
        known = name or next(iter(self.runtime.agents))
        if known not in self.runtime.agents:
            raise not_found(f"agent {known!r}: GET /agents lists them")
        key = known, caller.tenant, caller.admin
        if key not in self._agents:
            self._agents[key] = self.runtime.agents[known].on(self.store(caller))
        return self._agents[key]

    async def session(self, caller: Caller, session_id: str) -> Session:
        """The session, which is this caller's; 404 otherwise."""
        found = await self.store(caller).get(session_id, user_id=caller.user)
        if found is None:
            raise not_found(f"session {session_id!r}")
        return found

    def audit(self, caller: Caller, what: str, session_id: str, **more: str) -> None:
        """Note who did something that can't be undone."""
        facts = {"what": what, "by": caller.name, "user_id": caller.user, "tenant": caller.tenant, "session_id": session_id, **more}
        audit_log.info(" ".join([f"{name}={value}" for name, value in facts.items()]))


def serving(connection: HTTPConnection) -> Serving:
    return connection.app.state.serving


Here = Annotated[Serving, Depends(serving)]
