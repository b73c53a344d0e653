"""The runs that have to come to their end whoever dies: a list of each tenant in the store itself, which every worker looks at."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import msgspec

from .. import Session, SessionGone, SessionNotFound, Store
from ..backend import Blob, BlobDrop, BlobPut, BlobRange, ReadPlan

PLACE = "~app/runs"
"""The record of a tenant's list: its id is a reserved one, so that it is nobody's session and no list shows it."""
_RUNS, _TENANTS = "runs", "tenants"
_ALL = (BlobRange(namespace=_RUNS), BlobRange(namespace=_TENANTS))


class Waiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is to be brought to its end. `tries`: how many processes have died with it; `freed`: how many have let go of it.

    `decided`: somebody goes on with it after a pause, which may not have ended yet.
    """

    session_id: str
    run_id: str
    agent: str
    user_id: str | None = None
    tries: int = 0
    freed: int = 0
    decided: bool = False

    @property
    def key(self) -> str:
        return blake2b(f"{self.session_id}\0{self.run_id}".encode(), digest_size=16).hexdigest()


class RunQueue:
    """Puts runs on the list of a tenant, and takes them off. `store` gives a tenant's store, as its admin; `home` knows the tenants."""

    def __init__(self, store: Callable[[str], Store], home: str) -> None:
        self._store = store
        self._home = home
        self._tenants = {home}
        self._seen: dict[str, tuple[tuple[int, int], list[Blob]]] = {}

    async def put(self, tenant: str, run: Waiting) -> None:
        """List a run, or list it anew."""
        if tenant not in self._tenants:
            known = BlobPut(_TENANTS, tenant, "text/plain", b"", if_absent=True)
            await self._record(self._home).write(blobs=(known,), fresh=True, staged=False)
            self._tenants.add(tenant)
        listed = BlobPut(_RUNS, run.key, "application/json", msgspec.json.encode(run))
        await self._record(tenant).write(blobs=(listed,), fresh=True, staged=False)

    async def remove(self, tenant: str, run: Waiting) -> None:
        """Take a run off the list."""
        await self._record(tenant).write(drops=(BlobDrop(_RUNS, run.key),), fresh=True, staged=False)

    async def get(self, tenant: str, session_id: str, run_id: str) -> Waiting | None:
        """A run as it is listed, or None."""
        key = Waiting(session_id=session_id, run_id=run_id, agent="").key
        try:
            found = await self._record(tenant).look(ReadPlan(blobs=(BlobRange(namespace=_RUNS, keys=(key,)),)))
        except SessionNotFound:
            return None
        return next((_run(it) for it in found.blobs or ()), None)

    async def all(self) -> list[tuple[str, Waiting]]:
        """Every listed run with its tenant: one small read for each tenant whose list is as it was."""
        found = [(self._home, it) for it in await self._blobs(self._home)]
        self._tenants |= {it.key for _, it in found if it.namespace == _TENANTS}
        for tenant in sorted(self._tenants - {self._home}):
            found += [(tenant, it) for it in await self._blobs(tenant)]
        return [(tenant, _run(it)) for tenant, it in found if it.namespace == _RUNS]

    async def _blobs(self, tenant: str) -> list[Blob]:
        try:
            head = (await self._record(tenant).look(ReadPlan())).head
            mark = head.incarnation, head.version
            if tenant not in self._seen or self._seen[tenant][0] != mark:
                found = await self._record(tenant).look(ReadPlan(blobs=_ALL))
                self._seen[tenant] = (found.head.incarnation, found.head.version), found.blobs or []
        except (SessionNotFound, SessionGone):  # there is none yet
            return []
        return self._seen[tenant][1]

    def _record(self, tenant: str) -> Session:
        """A handle for one task and one moment."""
        return self._store(tenant).handle(Session.of_record(PLACE))


def _run(blob: Blob) -> Waiting:
    return msgspec.json.decode(blob.data or b"", type=Waiting)
