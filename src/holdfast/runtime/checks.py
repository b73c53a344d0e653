"""What of a setting makes no sense though it is of the right type: checked where settings are read, and by whoever is given others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .. import InvalidValue
from ..ids import check_id

if TYPE_CHECKING:
    from .settings import Jwt, Key

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Those with a public key. With a shared secret (HS...) whoever can check a token can make one; with `none`, everybody can."""
_HASH = re.compile("sha256:[0-9a-f]{64}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


def check_keys(keys: Sequence[Key]) -> None:
    """`InvalidValue` or `InvalidId` names a key that makes no sense, by its place."""
    known = set[str]()
    for number, key in enumerate(keys):
        place = f"server.auth.keys[{number}]"
        if not _HASH.fullmatch(key.hash):
            raise InvalidValue(f"{place}.hash is no hash of a key: `holdfast keys new` prints one, sha256:... with 64 digits")
        if key.hash in known:
            raise InvalidValue(f"{place}.hash is that of another key of the list")
        if key.role == "user" and not key.user:
            raise InvalidValue(f"{place} has no user: name one, or give it the role admin")
        for what, name in (("user id", key.user), ("tenant", key.tenant)):
            if name is not None:
                check_id(name, what)
        known.add(key.hash)


def check_jwt(settings: Jwt) -> None:
    """`InvalidValue` for settings under which strangers' tokens would be taken."""
    if not settings.jwks_url:
        raise InvalidValue("server.auth.jwt names no jwks_url: no token could be checked")
    if wrong := [it for it in settings.algorithms if it not in ALGORITHMS]:
        raise InvalidValue(f"server.auth.jwt.algorithms: {wrong[0]!r} is none of {', '.join(sorted(ALGORITHMS))}")
    if not settings.algorithms:
        raise InvalidValue("server.auth.jwt.algorithms is empty: no token could be checked")
    if settings.audience is None and settings.issuer is None:
        raise InvalidValue("server.auth.jwt: name the audience (or at least the issuer), or tokens made for others are taken too")
    url = urlsplit(settings.jwks_url)
    if not (url.scheme == "https" or (url.scheme == "http" and _local(url.hostname))):
        raise InvalidValue("server.auth.jwt.jwks_url: it begins with https://, or whoever is on the way could give keys")


def _local(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _origins(origins: Sequence[str]) -> None:
    for it in origins:
        if it != "*" and not _ORIGIN.fullmatch(it):
            raise InvalidValue(f"{it!r:.80} is no origin: write https://app.example, without a path or a slash behind it")


CHECKS: dict[str, Callable[[Any], object]] = {
    "session.tenant": lambda tenant: check_id(tenant, "tenant"),
    "server.cors": _origins,
    "server.auth.keys": check_keys,
}
"""By the dotted name of a setting; each raises a `UsageError` that says what to change."""
