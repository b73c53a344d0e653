"""Encryption at rest: what a session holds reaches the database sealed, and is opened only here.

Sealed are entry bodies, state values and blobs; with `names=True` names and metadata too. A fork is copied inside the database as it lies
there: its head carries, under seal, the sessions that its content may come from. Against whom all this helps, and against whom it does
not, is told in docs/decisions/0010-wrappers.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from msgspec.structs import replace

from ...backend import Backend, Capabilities, Commit, Filter, Key, Outcome, Page, ReadPlan, Snapshot
from ...errors import (
    CommitReused,
    Conflict,
    Corrupt,
    InvalidValue,
    SessionBusy,
    SessionGone,
    SessionNotFound,
    TooLarge,
    Unsupported,
)
from ...rules import check_sizes
from ..base import Wrapper
from .hashed import sought
from .keys import OVERHEAD, Keys, checked_keys, home_of
from .rotation import WHOLE, Rotation, is_current, rewriting
from .sealing import Reader, Sealer

__all__ = ["EncryptedBackend", "Rotation"]

_PAGE = 50


class EncryptedBackend(Wrapper):
    """Encrypts with the first of `keys` and reads what any of them encrypted. A key is 32 random bytes or more, and is kept elsewhere.

    `names`: names and metadata are encrypted too, and a list can't be filtered by them. `plain="read"`: what lies there unencrypted is
    read as it is, instead of refused as `Corrupt`; nothing tells then whether it was put there by somebody else.
    """

    def __init__(self, inner: Backend, *, keys: Sequence[bytes], names: bool = False, plain: Literal["refuse", "read"] = "refuse") -> None:
        super().__init__(inner)
        if plain not in ("refuse", "read"):
            raise InvalidValue(f"plain={plain!r}: it must be 'refuse' or 'read'")
        self._keys = Keys(checked_keys(keys))
        self._names = names
        self._plain = plain == "read"

    @property
    def capabilities(self) -> Capabilities:
        inner = self.inner.capabilities
        return replace(inner, sealed=True, max_entry_bytes=inner.max_entry_bytes - OVERHEAD)

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        snapshot = await self.inner.read(key, sought(self._keys, plan))
        return snapshot and self._reader(key).snapshot(snapshot, plan)

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        return await self._send(key, commit, lambda sealed: self.inner.commit(key, sealed))

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        """As `Backend.copy`, inside the database, after a read of the source's head: what that may hold of other sessions, the copy may."""
        origin = await self.inner.read(source, ReadPlan())
        homes = self._reader(source).inherited(origin.head).homes - {home_of(target)} if origin else frozenset[bytes]()
        return await self._send(target, commit, lambda sealed: self.inner.copy(source, upto, target, sealed), homes)

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        if self._names and (filter.name is not None or filter.metadata):
            raise Unsupported("names and metadata are encrypted in this store (names=True): list by user, kind, parent or time instead")
        page = await self.inner.list(filter, cursor, limit)
        return Page([(name, self._reader(Key(filter.tenant, name)).head(head)) for name, head in page.items], page.cursor)

    def _reader(self, key: Key) -> Reader:
        return Reader(self._keys, key, self._plain, self._names, frozenset((home_of(key),)))

    async def _send(
        self, key: Key, commit: Commit, send: Callable[[Commit], Awaitable[Outcome]], homes: frozenset[bytes] = frozenset()
    ) -> Outcome:
        """Send `commit` sealed with the first key. One that was sent before another key came first is known by that key's seal."""
        check_sizes(commit, self.capabilities.max_entry_bytes)
        reused: CommitReused | None = None
        for key_id in self._keys.ids:
            sealer = Sealer(self._keys, key_id, key, commit.id)
            try:
                outcome = await send(sealer.with_homes(sealer.commit(commit, names=self._names), homes))
                return self._opened(key, outcome, commit.answer or ReadPlan())
            except CommitReused as error:
                reused = reused or error
        assert reused is not None  # there is a key
        raise reused

    def _opened(self, key: Key, it: Outcome, plan: ReadPlan) -> Outcome:
        reader = self._reader(key)
        told = it.snapshot and reader.snapshot(it.snapshot, plan)
        return Outcome(it.head and reader.head(it.head), it.version, it.seq, told, it.repeated)

    # --- rotation ---

    async def rotate(self, key: Key, *, seen: tuple[int, int] | None = None) -> bool:
        """Write all of a session anew, sealed with the first key, unless it is already; whether it was written.

        One commit, all or nothing, and a new life: who has the session open gets `SessionGone` at the next write and opens it again, and
        commits from before are not recognised any more. Entries keep their seqs and times, hidden ones stay hidden; expiry is not put off.
        `SessionBusy` while it is claimed, unless `seen` is that claim's (fence, beat), watched standing still; `Conflict` when somebody
        wrote meanwhile; `SessionNotFound`.
        """
        raw = await self.inner.read(key, WHOLE)
        if raw is None:
            raise SessionNotFound(f"there is no {key}")
        if is_current(raw, self._keys.ids[0], names=self._names):
            return False
        held = raw.head.claim
        if held is not None and seen != (raw.head.fence, held.beat):
            raise SessionBusy(f"{key} is held by a run ({held.holder})", fence=raw.head.fence, beat=held.beat, lease=held.lease)
        commit = rewriting(self._reader(key).snapshot(raw, WHOLE), raw)
        sealer = Sealer(self._keys, self._keys.ids[0], key, commit.id)
        await self.inner.commit(key, sealer.with_homes(sealer.commit(commit, names=self._names), None))
        return True

    async def rotate_all(
        self, tenant: str = "default", *, cursor: str | None = None, progress: Callable[[Rotation], None] | None = None
    ) -> Rotation:
        """`rotate` every session of a tenant, the newest first, telling `progress` after each page how far it is.

        Stopped, it goes on from the last `Rotation.cursor`; begun again, it only reads what is done. Sessions that could not be rotated are
        in `left`, by their ids, with the reason.
        """
        done = Rotation(cursor=cursor)
        while True:
            page = await self.inner.list(Filter(tenant=tenant), done.cursor, _PAGE)
            for session_id, _ in page.items:
                done = await self._rotated(Key(tenant, session_id), done)
            done = replace(done, cursor=page.cursor)
            if progress is not None:
                progress(done)
            if page.cursor is None:
                return done

    async def _rotated(self, key: Key, done: Rotation) -> Rotation:
        try:
            rotated = await self.rotate(key)
        except (SessionNotFound, SessionGone):
            return done
        except (SessionBusy, Conflict, Corrupt, TooLarge) as error:
            return replace(done, seen=done.seen + 1, left=done.left | {key.session_id: str(error)})
        return replace(done, seen=done.seen + 1, rotated=done.rotated + rotated)
