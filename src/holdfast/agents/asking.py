"""One answer of a model outside of any run: a session's name, or a summary. The agent's middleware around model calls sees it too."""

from __future__ import annotations

from contextlib import aclosing

from ..backend import Counts
from ..ids import new_id
from ..messages import user
from ..session import Session
from .around import Purpose
from .engine import Engine, Said, Turn
from .orders import Crew
from .watching import Watched


async def asked(
    session: Session, question: str, instructions: str, *, crew: Crew, purpose: Purpose, engine: Engine | None = None
) -> tuple[str, Counts]:
    """What the crew's model (or `engine`) answers, and the tokens it took."""
    run_id = new_id()
    watched = Watched(session, run_id, crew.middleware, crew.name, purpose) if crew.middleware else None
    turn = Turn(messages=(user(question),), instructions=instructions, session=session, run_id=run_id, agent=crew.name, watched=watched)
    async with aclosing((engine or crew.engine).run(turn)) as steps:
        said = [step async for step in steps if isinstance(step, Said)]
    tokens = Counts(input_tokens=sum([it.input_tokens for it in said]), output_tokens=sum([it.output_tokens for it in said]))
    return "".join([it.message.text for it in said]), tokens
