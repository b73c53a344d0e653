"""The inbox: a page over the REST API, served by the same process. It holds no data and needs no credentials; what it shows is fetched."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; media-src blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cache-control": "no-cache",
}
"""With these the browser runs no script but the page's own files, and the page can turn no text into markup, whatever a message says."""


def add_inbox(app: FastAPI) -> None:
    """Serve the page at `/` and `/inbox`."""
    for path in ("/", "/inbox"):
        app.add_api_route(path, _page, include_in_schema=False)
    app.mount("/inbox/static", _Files(directory=STATIC), name="inbox")


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=HEADERS)


class _Files(StaticFiles):
    """Files that are asked for again with their tag: a page of one version never runs with scripts of another."""

    def file_response(self, full_path: str, stat_result: object, scope: Scope, status_code: int = 200) -> Response:  # type: ignore[override]
        found = super().file_response(full_path, stat_result, scope, status_code)  # type: ignore[arg-type]
        found.headers.update(HEADERS)
        return found
