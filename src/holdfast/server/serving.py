"""What one server process holds: the runtime, its settings, and for each tenant and role the store and agents its callers get."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .. import Agent, Session, Store
from ..runtime import Runtime
from ..runtime.settings import ServerSettings
from .audit import Audit
from .callers import Caller, bearer
from .credentials import Credentials
from .going import Going, Under
from .limits import Rates, Streams, too_many
from .metrics import Metrics
from .problems import Problem, not_found
from .queue import RunQueue, Waiting

_STRANGERS = 1
"""Requests a second without good credentials, from one address in the long run, that are answered with 401; ten times as many at once."""


class Serving:
    """Kept in `app.state.serving`."""

    def __init__(self, runtime: Runtime, settings: ServerSettings) -> None:
        self.runtime = runtime
        self.settings = settings
        limits = settings.limits
        self.metrics = Metrics()
        self.queue = RunQueue(lambda tenant: self.store(Caller(tenant=tenant, role="admin")), runtime.settings.session.tenant)
        self.going = Going(limits.runs, self.metrics, self.queue, self.name_of, settings.lease)
        self.takes = True  # whether it goes on with runs that nobody drives
        self.streams = Streams(limits.streams, self.metrics.limited.labels("streams").inc)
        self.audit = Audit()
        self._rates = Rates(limits.rate, limits.burst)
        self._strangers = Rates(_STRANGERS, _STRANGERS * 10)
        Credentials(settings.auth, "default")  # what makes no sense is said before anything is served
        self._stores: dict[tuple[str, bool], Store] = {}
        self._agents: dict[tuple[str, str, bool], Agent] = {}

    @cached_property
    def credentials(self) -> Credentials:
        return Credentials(self.settings.auth, self.runtime.store.tenant)

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """Whose request it is: 401 where it is nobody's, 429 where it is one too many."""
        try:
            caller = await self.credentials.caller(bearer(connection))
        except Problem as problem:
            raise self._refusal(connection, problem) from None
        if self.credentials.asked and (wait := self._rates.take((caller.tenant, caller.owner or caller.name))):
            self.metrics.limited.labels("rate").inc()
            raise too_many(wait)
        return caller

    def _refusal(self, connection: HTTPConnection, problem: Problem) -> Problem:
        """What a stranger is told. Whoever has good credentials is never kept out by what others try from the same address."""
        if problem.status != 401:
            return problem
        self.metrics.refused.labels("credentials").inc()
        address = connection.client.host if connection.client else None
        if wait := self._strangers.take(address):
            self.metrics.limited.labels("rate").inc()
            return too_many(wait)
        self.audit.refused(address, shown=bearer(connection) is not None)
        return problem

    def store(self, caller: Caller) -> Store:
        """The store as this caller sees it: one tenant, and only an admin sees everybody's sessions."""
        key = caller.tenant, caller.admin
        if key not in self._stores:
            own = self.runtime.store
            options = own.options
            options["tenant"], options["as_admin"] = caller.tenant, caller.admin
            self._stores[key] = Store(own.backend, **options)
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

    def name_of(self, agent: Agent) -> str:
        """The name under which an agent that `agent` gave is registered."""
        return next(name for (name, _, _), it in self._agents.items() if it is agent)

    def under(self, tenant: str, run: Waiting) -> Under | None:
        """A listed run, for whom it was begun; None where its agent is unknown here."""
        if run.agent not in self.runtime.agents:
            return None
        caller = Caller(tenant=tenant, role="admin").becoming(run.user_id)
        return Under(self.agent(caller, run.agent), run.run_id, run.session_id, run.user_id)

    async def session(self, caller: Caller, session_id: str) -> Session:
        """The session, which is this caller's; 404 otherwise."""
        found = await self.store(caller).get(session_id, user_id=caller.user)
        if found is None:
            raise not_found(f"session {session_id!r}")
        return found

    async def check_free(self, caller: Caller, session_id: str | None) -> None:
        """404 where a session that the caller would begin, or go on with, is another's: before an answer has begun."""
        if session_id is None or caller.admin or await self.store(caller).has(session_id, user_id=caller.user):
            return
        if await self.store(Caller(tenant=caller.tenant, role="admin")).has(session_id):
            raise not_found(f"session {session_id!r}")

    async def owner(self, caller: Caller, session_id: str | None) -> str | None:
        """Whose a session is on which the caller runs an agent: an admin's new ones are the admin's, others' stay theirs."""
        if caller.owner is None or not caller.admin or session_id is None:
            return caller.owner
        found = await self.store(caller).get(session_id)
        return caller.owner if found is None else found.info.user_id


def serving(connection: HTTPConnection) -> Serving:
    return connection.app.state.serving


Here = Annotated[Serving, Depends(serving)]
