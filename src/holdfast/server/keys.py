"""API keys: a caller shows 256 random bits, of which the configuration holds a hash only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import InvalidValue
from ..ids import check_id
from ..runtime.settings import Key
from .callers import Caller
from .hashes import hash_of, new_key

__all__ = ["Keys", "hash_of", "new_key"]

_HASH = re.compile("sha256:[0-9a-f]{64}")


class Keys:
    """The keys that are known. `tenant`: of those that name none. `InvalidValue` names one that makes no sense, by its place."""

    def __init__(self, keys: Sequence[Key], tenant: str) -> None:
        self._callers: dict[str, Caller] = {}
        for place, key in enumerate(keys):
            _check(f"server.auth.keys[{place}]", key, self._callers)
            self._callers[key.hash] = _caller(key, tenant)

    def caller(self, key: str) -> Caller | None:
        """Whose key it is. What the time of this tells is about a hash, which says nothing about any key."""
        return self._callers.get(hash_of(key))


def _check(place: str, key: Key, known: dict[str, Caller]) -> None:
    if not _HASH.fullmatch(key.hash):
        raise InvalidValue(f"{place}.hash is no hash of a key: `holdfast keys new` prints one, sha256:... with 64 digits")
    if key.hash in known:
        raise InvalidValue(f"{place}.hash is that of another key of the list")
    if key.role == "user" and not key.user:
        raise InvalidValue(f"{place} has no user: name one, or give it the role admin")
    for what, name in (("user id", key.user), ("tenant", key.tenant)):
        if name is not None:
            check_id(name, what)


def _caller(key: Key, tenant: str) -> Caller:
    name = f"key:{key.hash.partition(':')[2][:8]}"
    return Caller(user=None if key.role == "admin" else key.user, owner=key.user, tenant=key.tenant or tenant, role=key.role, name=name)
