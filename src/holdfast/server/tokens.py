"""Tokens of an identity provider (JWT, RFC 7519): signed by a key of its key set (JWKS, RFC 7517), their claims name the caller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import jwt
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from .. import InvalidId
from ..ids import check_id
from ..runtime.checks import check_jwt
from ..runtime.settings import Jwt
from .callers import Caller, challenge
from .problems import Problem

LEEWAY = 30
"""Seconds that two clocks may differ."""
_TIMEOUT, _REST = 5.0, 5.0
"""Seconds that a key set may take to come, and that nobody asks again after it did not."""
_THREADS = 4


class _KeySet(jwt.PyJWKClient):
    """The provider's keys, kept for a while; one that is away is not asked by every request."""

    _away_until = 0.0

    def fetch_data(self) -> Any:
        if time.monotonic() < self._away_until:
            raise jwt.PyJWKClientConnectionError("the key set was away a moment ago")
        try:
            return super().fetch_data()
        except (jwt.PyJWTError, OSError, ValueError) as error:
            self._away_until = time.monotonic() + _REST
            raise jwt.PyJWKClientConnectionError("the key set can't be had") from error


class Tokens:
    """The tokens of one provider. `tenant`: of all, unless a claim says it. `InvalidValue` names a setting that makes no sense."""

    def __init__(self, settings: Jwt, tenant: str) -> None:
        check_jwt(settings)
        self._settings = settings
        self._tenant = tenant
        self._keys = _KeySet(str(settings.jwks_url), timeout=_TIMEOUT)
        self._threads = CapacityLimiter(_THREADS)

    async def caller(self, token: str) -> Caller:
        """Whose token it is; 401 for one that isn't good, 503 while the keys to tell can't be had."""
        return _caller(await run_sync(self._claims, token, limiter=self._threads), self._settings, self._tenant)

    def _claims(self, token: str) -> dict[str, Any]:
        """What a token says, once its signature, its times, its issuer and its audience are right."""
        it = self._settings
        try:
            header = jwt.get_unverified_header(token)
            if header["alg"] not in it.algorithms:  # before a key is looked for
                raise challenge()
            key = self._keys.get_signing_key(str(header.get("kid")))
            wanted: dict[str, Any] = {"audience": it.audience, "issuer": it.issuer, "leeway": LEEWAY}
            return jwt.decode(token, key.key, list(it.algorithms), options={"require": ["exp"]}, **wanted)
        except jwt.PyJWKClientConnectionError as error:
            raise Problem(503, "tokens can't be checked at the moment: try again", headers={"retry-after": "5"}) from error
        except (jwt.PyJWTError, ValueError, KeyError) as error:
            raise challenge() from error


def _caller(claims: Mapping[str, Any], settings: Jwt, tenant: str) -> Caller:
    user = _named(claims, settings.user_claim, "user id")
    if settings.tenant_claim is not None:
        tenant = _named(claims, settings.tenant_claim, "tenant")
    admin = settings.role_claim is not None and settings.admin_role in _words(_claim(claims, settings.role_claim))
    return Caller(user=None if admin else user, owner=user, tenant=tenant, role="admin" if admin else "user", name="token")


def _named(claims: Mapping[str, Any], name: str, what: str) -> str:
    """An id that a token has to name."""
    try:
        return check_id(_claim(claims, name), what)
    except InvalidId as error:
        raise challenge() from error


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path of names with dots, such as `realm_access.roles`."""
    if name in claims:
        return claims[name]
    first, dot, rest = name.partition(".")
    inner = claims.get(first)
    return _claim(cast("dict[str, Any]", inner), rest) if dot and isinstance(inner, dict) else None


def _words(value: Any) -> list[Any]:
    """Roles as providers write them: a list, or text with blanks."""
    return value.split() if isinstance(value, str) else cast("list[Any]", value) if isinstance(value, list) else []
