"""One process that serves: set up, run, and told to stop.

The first signal closes the door: nothing new is accepted, streams end, runs are given their time and then handed over. The second takes
that time away, the third ends the process as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from fastapi import FastAPI

from .. import Store, UsageError
from ..runtime import Runtime
from ..runtime.settings import Found, ServerSettings
from ..runtime.stores import place_of
from .app import create_app
from .callers import check_exposed

if TYPE_CHECKING:
    from .going import Going

__all__ = ["Serve", "Server", "about", "bound", "check_exposed", "check_shared", "log_to_stderr", "serve", "server_settings", "set_up"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BACKLOG = 2048
_STORED = ("session.url", "session.type", "session.sqlite", "session.redis", "session.postgres", "session.dynamodb")


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served: agents by their places beside those of the settings, and what was said on the command line."""

    targets: list[str] = []
    store: str | None = None
    tenant: str | None = None
    server: dict[str, Any] = {}


def server_settings(found: Found, serve: Serve) -> ServerSettings:
    """As set, and before that as said."""
    return msgspec.structs.replace(found.settings.server, **serve.server)


def set_up(found: Found, serve: Serve) -> Runtime:
    """The runtime that is served. Its store: as said, as set, the first agent's, or ./holdfast.db. `UsageError` without agents."""
    settings = found.settings
    session: dict[str, Any] = {"url": serve.store, "tenant": serve.tenant}
    session = {name: value for name, value in session.items() if value is not None}
    replace = msgspec.structs.replace
    settings = replace(settings, session=replace(settings.session, **session), server=server_settings(found, serve))
    named = serve.store is not None or any(name.startswith(_STORED) for name in found.sources)
    agents = [*settings.agents, *[it for it in serve.targets if it not in settings.agents]]
    settings = replace(settings, agents=agents)
    if not agents:
        raise UsageError("say what to serve: holdfast serve MODULE:OBJECT, or agents: in config.yaml")
    if named:
        return Runtime.from_settings(settings)
    runtime = Runtime(settings=settings)
    for target in agents:
        runtime.load(target)
    return _within(runtime)


def _within(runtime: Runtime) -> Runtime:
    """The same agents over the same database, with what is set for sessions."""
    where = runtime.settings.session
    ttl = where.seconds() or runtime.store.ttl
    backend = runtime.store.backend
    store = Store(backend, cache=where.cache.size, tenant=where.tenant, ttl=ttl, state_history=where.state_history)
    other = Runtime(store, settings=runtime.settings)
    for name, agent in runtime.agents.items():
        other.register(agent, name)
    return other


def check_shared(settings: ServerSettings, store: Store) -> None:
    """`UsageError` where several workers would each have a store of their own."""
    if settings.workers > 1 and not store.backend.capabilities.multi_process:
        raise UsageError("this store is for one process only: name another with --store or in session.url, or have one of server.workers")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens, to be shared by workers; `UsageError` where the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        fix = "choose another with --port, or 0 for any that is free" if error.errno in (98, 48, 13) else "see --host"
        raise UsageError(f"{host}:{port} can't be listened on: {os.strerror(error.errno or 0)}; {fix}") from error
    listening.set_inheritable(True)
    return listening


class Server(uvicorn.Server):
    """An HTTP server that stops as this module says."""

    def __init__(self, app: FastAPI, *, ready: Callable[[], None]) -> None:
        going: Going = app.state.serving.going
        self.going, self._ready, self._grace = going, ready, app.state.serving.settings.grace
        self._signals = 0
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on", server_header=False, backlog=_BACKLOG)
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping = asyncio.create_task(self.going.stop(self._grace))  # at once: the requests that wait for runs end with it
        await super().shutdown(sockets)
        if not self.force_exit:
            await stopping

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """As the one this stands for, but nobody is told of the signals again: the process ends because it has done its work."""
        before = {it: signal.signal(it, self.handle_exit) for it in SIGNALS}
        try:
            yield
        finally:
            for it, handler in before.items():
                signal.signal(it, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 2:
            self.going.hurry()
        super().handle_exit(signal.SIGINT if self._signals > 2 else signal.SIGTERM, frame)  # one SIGINT more ends it as it is

    def stop(self) -> None:
        """What the first signal does."""
        self.handle_exit(signal.SIGTERM, None)


async def serve(runtime: Runtime, listening: socket.socket, *, ready: Callable[[Server], None]) -> None:
    """Serve until a signal says to stop. `ready` is called once requests are answered. Raises what keeps the store from being opened."""
    await runtime.store.backend.open()
    server = Server(create_app(runtime), ready=lambda: ready(server))
    await server.serve([listening])


def log_to_stderr() -> None:
    """What happens, on stderr: of ours all that matters, of others what is wrong."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("holdfast").setLevel(logging.INFO)


def about(runtime: Runtime) -> dict[str, Any]:
    """What people are told when it starts."""
    return {"agents": list(runtime.agents), "store": place_of(runtime.store.backend), "inbox": runtime.settings.server.inbox}
