"""Who calls: the user, tenant and role on whose behalf everything in a request is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Depends
from starlette.requests import HTTPConnection

from .problems import Problem

Role = Literal["user", "admin"]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """`user` None: an admin acts for nobody, a user without a name has the sessions that belong to none. `name` is for the audit."""

    user: str | None = None
    tenant: str = "default"
    role: Role = "user"
    name: str = "anonymous"

    @property
    def admin(self) -> bool:
        return self.role == "admin"

    def acting_for(self, user_id: str | None) -> str | None:
        """The user that a call names, if it may: an admin any, everybody themselves. 403 otherwise."""
        if user_id is None or user_id == self.user:
            return self.user
        if not self.admin:
            raise Problem(403, "user_id names somebody else: leave it out, your own is known from the credentials")
        return user_id


ANYBODY = Caller(role="admin", name="local")
"""Who calls a server without authentication: it listens on its own machine only."""


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
