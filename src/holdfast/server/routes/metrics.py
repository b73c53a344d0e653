"""What Prometheus reads."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ..callers import Admin
from ..serving import Here

router = APIRouter(tags=["server"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(caller: Admin, here: Here) -> Response:
    """Counters of this worker in Prometheus' text format; of all workers where they share `PROMETHEUS_MULTIPROC_DIR`. For admins."""
    here.metrics.look(here)
    return here.metrics.response()
