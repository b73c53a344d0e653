"""Who calls: the user, tenant and role on whose behalf everything in a request is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Depends
from starlette.requests import HTTPConnection

from .. import UsageError
from ..runtime.settings import ServerSettings
from .guard import local
from .problems import Problem

Role = Literal["user", "admin"]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """`user`: whose sessions are seen; None for an admin, who sees those of all. `owner`: whose are those that the caller begins.

    `name`: by which credentials, for the audit.
    """

    user: str | None = None
    owner: str | None = None
    tenant: str = "default"
    role: Role = "user"
    name: str = "anonymous"

    def __post_init__(self) -> None:
        if (self.user is None) != self.admin:
            raise ValueError("a user sees the sessions of one user, an admin those of all")

    @property
    def admin(self) -> bool:
        return self.role == "admin"

    def acting_for(self, user_id: str | None) -> str | None:
        """The user that a call names, if it may: an admin any, everybody themselves. Without one: `user`. 403 otherwise."""
        if user_id is None or user_id == self.user:
            return self.user
        if not self.admin:
            raise Problem(403, "user_id names somebody else: leave it out, your own is known from the credentials")
        return user_id

    def becoming(self, user_id: str | None) -> Caller:
        """The caller on behalf of a user, whose sessions are then all that is seen; without one, as it is. 403 as for `acting_for`."""
        user = self.acting_for(user_id)
        if user_id is None or not self.admin:
            return self
        return msgspec.structs.replace(self, user=user, owner=user, role="user")


ANYBODY = Caller(role="admin", name="local")
"""Who calls a server without authentication: it answers its own machine only."""


def check_exposed(settings: ServerSettings) -> None:
    """`UsageError` where strangers, or other websites, could reach a server that asks nobody for credentials."""
    if settings.auth.asked:
        return
    if "*" in settings.cors:
        raise UsageError("server.cors is open to every website and nobody is asked for credentials: list the origins that may call")
    if local(settings.host):
        return
    raise UsageError(
        f"server.host is {settings.host!r} and nobody is asked for credentials: add a key to server.auth.keys (`holdfast keys new` makes "
        "one) or set server.auth.jwt.jwks_url, or listen on 127.0.0.1"
    )


async def caller(connection: HTTPConnection) -> Caller:
    """Who calls, by the credentials of the request; 401 without good ones."""
    return await connection.app.state.serving.authenticate(connection)


Whoever = Annotated[Caller, Depends(caller)]


async def admin(it: Whoever) -> Caller:
    if not it.admin:
        raise Problem(403, "this is for admins")
    return it


Admin = Annotated[Caller, Depends(admin)]


def bearer(connection: HTTPConnection) -> str | None:
    """The token of a request: `Authorization: Bearer ...`, or `X-API-Key`."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else connection.headers.get("x-api-key")


def challenge() -> Problem:
    """Nobody we know."""
    headers: dict[str, Any] = {"www-authenticate": "Bearer"}
    return Problem(401, "give an API key or a token that is valid: `Authorization: Bearer ...`", headers=headers)
