"""API keys: a caller shows 256 random bits, of which the configuration holds a hash only."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.checks import check_keys
from ..runtime.settings import Key
from .callers import Caller
from .hashes import hash_of, new_key

__all__ = ["Keys", "hash_of", "new_key"]


class Keys:
    """The keys that are known. `tenant`: of those that name none. `InvalidValue` names one that makes no sense, by its place."""

    def __init__(self, keys: Sequence[Key], tenant: str) -> None:
        check_keys(keys)
        self._callers = {key.hash: _caller(key, tenant) for key in keys}

    def caller(self, key: str) -> Caller | None:
        """Whose key it is. What the time of this tells is about a hash, which says nothing about any key."""
        return self._callers.get(hash_of(key))


def _caller(key: Key, tenant: str) -> Caller:
    name = f"key:{key.hash.partition(':')[2][:8]}"
    return Caller(user=None if key.role == "admin" else key.user, owner=key.user, tenant=key.tenant or tenant, role=key.role, name=name)
