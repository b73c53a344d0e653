"""What browsers are told to refuse, and which of them are refused: those that act for another website."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem

_PAGE = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_DATA = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class SafeHeaders:
    """Middleware: pages run scripts of this server only and stand in no frame; data is never kept by whoever passes it on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, safe if scope["type"] == "http" else send)


def _add(headers: MutableHeaders) -> None:
    kind = headers.get("content-type", "")
    for name, value in _ALWAYS.items():
        headers.setdefault(name, value)
    headers.setdefault("content-security-policy", _PAGE if kind.startswith("text/html") else _DATA)
    if "json" in kind:
        headers.setdefault("cache-control", "no-store")


class Guard:
    """Middleware of a server that asks nobody for credentials: it answers its own machine, and there no page of another website.

    A browser would carry requests of any website to it, and take any name for it that the website's owner gives its address.
    `allowed`: origins that may call all the same. `refused` is told why, in one word.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str], refused: Callable[[str], None]) -> None:
        self._app, self._allowed, self._refused = app, allowed, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = _why_not(scope, self._allowed) if scope["type"] == "http" else None
        if why is None:
            await self._app(scope, receive, send)
            return
        self._refused(why)
        await Problem(403, _TOLD[why]).response()(scope, receive, send)


_TOLD = {
    "address": "this server asks nobody for credentials, so it answers its own machine only: set up server.auth",
    "host": "this server asks nobody for credentials, so it is called localhost or 127.0.0.1 only: set up server.auth",
    "origin": "this request is of another website: list its origin in server.cors if it may call",
}


def _why_not(scope: Scope, allowed: Collection[str]) -> str | None:
    headers = Headers(scope=scope)
    if not _from_here(scope):
        return "address"
    if not local(_parts(f"//{headers.get('host', '')}").hostname or ""):
        return "host"
    return "origin" if _foreign(scope["method"], headers, allowed) else None


def _from_here(scope: Scope) -> bool:
    """Whether the connection comes from this machine. What is no address is no network's: a socket in the file system, or none."""
    client = scope.get("client")
    try:
        return client is None or _loopback(client[0])
    except ValueError:
        return True


def local(host: str) -> bool:
    """Whether a name or an address is the machine's own, for itself only."""
    try:
        return host == "localhost" or _loopback(host)
    except ValueError:
        return False


@lru_cache(1024)
def _loopback(address: str) -> bool:
    it = ip_address(address)
    return (getattr(it, "ipv4_mapped", None) or it).is_loopback


def _foreign(method: str, headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a page of another origin is behind a request. Following a link to a page of ours is no such thing."""
    origin = headers.get("origin")
    if origin is not None:
        return origin not in allowed and _parts(origin).netloc != headers.get("host")
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    return not (method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document")


@lru_cache(1024)
def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # no address at all: it is nobody's
        return urlsplit("")
