"""The application: routes, errors, and what begins and ends with the process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import holdfast

from .. import HoldfastError
from ..runtime import Runtime
from ..runtime.settings import ServerSettings
from .callers import check_exposed
from .described import describe_credentials
from .guard import Guard, SafeHeaders
from .inbox import add_inbox
from .limits import BodyLimit
from .metrics import Observed
from .openapi import describe, operation_id
from .paths import SlashesInIds
from .problems import Problem, answer
from .routes import about, metrics, reading, requirements, runs, sessions, state, tails
from .serving import Serving
from .taking import Taking

ROUTERS = (runs.router, sessions.router, reading.router, state.router, tails.router, requirements.router, about.router, metrics.router)


def create_app(runtime: Runtime, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI application that serves the agents of `runtime` and their sessions."""
    serving = Serving(runtime, settings or runtime.settings.server)
    check_exposed(serving.settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncGenerator[None]:
        await runtime.store.backend.open()
        async with Taking(serving.queue, serving.going, serving.under) if serving.takes else nullcontext():
            yield
            await serving.going.stop(serving.settings.grace)
        await runtime.store.close()

    named: dict[str, Any] = {"title": "Holdfast", "version": holdfast.__version__, "description": "Agents and their sessions."}
    app = FastAPI(
        **named,
        lifespan=life,
        generate_unique_id_function=operation_id,
        docs_url=None,  # their pages would have scripts of another website
        redoc_url=None,
        dependencies=[Depends(_json)],
    )
    app.state.serving = serving
    describe(app)
    for router in ROUTERS:
        app.include_router(router)
    if serving.settings.inbox:
        add_inbox(app)
    for kind in (HoldfastError, Problem, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]  # Starlette types all handlers by Exception
    _surround(app, serving)
    return app


def _surround(app: FastAPI, serving: Serving) -> None:
    """What is around every request, from the inside out."""
    settings = serving.settings
    app.add_middleware(BodyLimit, limit=settings.limits.body)
    if settings.cors:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, **_CORS)
    if settings.auth.asked:
        describe_credentials(app)
    else:
        app.add_middleware(Guard, allowed=settings.cors, refused=lambda why: serving.metrics.refused.labels(why).inc())
    app.add_middleware(SafeHeaders)
    app.add_middleware(Observed, here=serving)
    app.add_middleware(SlashesInIds)


_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-API-Key"],
    "expose_headers": ["Content-Disposition", "Location", "Retry-After", "WWW-Authenticate"],
    "allow_credentials": False,  # a caller shows a key or a token by itself: no browser has to add anything
}


async def _json(request: Request) -> None:
    """415 for a body that does not say it is JSON: it would be taken for text."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    fits = kind.startswith("application/") and kind.endswith(("/json", "+json"))
    if not fits and getattr(request.scope.get("route"), "body_field", None) is not None and await request.body():
        how = f"as {given:.80}" if given else "without a content-type"
        raise Problem(415, f"the body is sent {how}: send JSON, with the header `content-type: application/json`")


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """What of a request makes no sense: where, and why; not the values, which may be secrets."""
    errors: list[dict[str, Any]] = [{"at": ".".join(map(str, it["loc"])), "why": it["msg"]} for it in error.errors()]
    told = "; ".join([f"{it['at']}: {it['why']}" for it in errors[:3]])
    return Problem(422, told, errors=errors[:20]).response()
