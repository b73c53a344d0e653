"""Middleware around the whole of a run: what comes before its first commit and after its last is inside too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..running import Run
from .around import Middleware, RunInvocation, through_middleware
from .orders import Crew, Orders
from .output import RunOutput


async def invoked(crew: Crew, orders: Orders, run: Run, go: Callable[[], Awaitable[RunOutput]]) -> RunOutput:
    """What `go` gives, with the crew's `on_invocation` around it."""
    layers = [it.on_invocation for it in crew.middleware if type(it).on_invocation is not Middleware.on_invocation]
    if not layers:
        return await go()
    invocation = RunInvocation(agent=crew.agent, session=orders.session, run_id=run.id, input=orders.input)
    outputs: list[RunOutput] = []

    async def last() -> None:
        try:
            outputs.append(await go())
            invocation.output = outputs[0]
        finally:
            invocation.attempt = run.attempt

    await through_middleware(layers, invocation, last)
    if not outputs:
        raise ValueError("a middleware around a run returned from on_invocation without call_next()")
    return outputs[0]
