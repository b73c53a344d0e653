"""Who a request is from: by its key, by its token, or without either where nobody is asked."""

from __future__ import annotations

from msgspec.structs import replace

from ..runtime.settings import Auth, Jwt
from .callers import ANYBODY, Caller, challenge
from .keys import Keys
from .tokens import Tokens


class Credentials:
    """What the settings accept. `tenant`: whose callers are who name none. `InvalidValue` names a setting that makes no sense."""

    def __init__(self, settings: Auth, tenant: str) -> None:
        self._anybody = None if settings.asked else replace(ANYBODY, tenant=tenant)
        self._keys = Keys(settings.keys, tenant)
        self._tokens = Tokens(settings.jwt, tenant) if settings.jwt != Jwt() else None

    @property
    def asked(self) -> bool:
        """Whether callers have to show any."""
        return self._anybody is None

    async def caller(self, shown: str | None) -> Caller:
        """Who shows this; 401 where it is nobody, 503 where that can't be told at the moment."""
        if self._anybody is not None:
            return self._anybody
        found = self._keys.caller(shown) if shown else None
        if found is None and shown and self._tokens is not None and shown.count(".") == 2:
            return await self._tokens.caller(shown)
        if found is None:
            raise challenge()
        return found
