"""What a run gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from ..entries import COMPLETED
from ..errors import InvalidValue, UsageError
from ..messages import Message
from ..requirements import Requirement
from ..runs import Metrics, RunInfo
from ..session import Session
from ..values import Tagged, decode, encode


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it ended. `content` is the answer (None for a run that has none yet), `messages` are those of this run, input included.

    `status` is `completed`, or `paused` while `requirements` are open: decide them and `continue_run`. `metrics` count this run alone.
    `error` is the type of what a run that is followed has failed with (who drives it gets the exception itself).
    """

    content: Any
    run_id: str
    session_id: str
    user_id: str | None = None
    agent: str | None = None
    status: str = COMPLETED
    error: str | None = None
    requirements: tuple[Requirement, ...] = ()
    metrics: Metrics = Metrics()
    messages: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """The answer as text."""
        return "" if self.content is None else str(self.content)

    def __str__(self) -> str:
        return self.text


def content_of(made: Any, what: str) -> Any:
    """What a tool or a step gave: of another agent's run the answer; `UsageError` for a run that has none."""
    if not isinstance(made, RunOutput):
        return made
    if made.status != COMPLETED:
        fix = "an agent that may wait for people is a Team's member, or a step by itself"
        raise UsageError(f"{what} gave run {made.run_id!r} of session {made.session_id!r}, which is {made.status} and has no answer: {fix}")
    return made.content


def plain_of(answer: Any) -> Any:
    """An answer as plain JSON, which is what is stored of one that is no text; `InvalidValue` where it has no such form."""
    try:
        return msgspec.json.decode(msgspec.json.encode(answer, enc_hook=_fields))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(
            f"the answer {answer!r:.80} can't be stored: have the hook or middleware that gives it give text, or what has a form in JSON"
            f" (dataclasses, pydantic models, classes with to_dict): {error}"
        ) from error


def shown_of(value: Any) -> Any:
    """As `plain_of`, for whoever reads the log: what has no form in JSON is shown as text."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_fields_or_text))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return str(value)


def typed_of(answer: Any, plain: Any) -> bytes | None:
    """The stored form that gives an answer back with its type; None where `plain` does, and where there is none."""
    try:
        value = encode(answer)
        return None if encode(plain) == value else value
    except InvalidValue:
        return None


def _fields_or_text(value: Any) -> Any:
    try:
        return _fields(value)
    except TypeError:
        return str(value)


def _fields(value: Any) -> Any:
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if callable(dump := getattr(value, "to_dict", None)):
        return dump()
    raise TypeError(f"{type(value).__name__} has none")


def text_of(plain: Any) -> str:
    """An answer in plain JSON as what was said; nothing for None."""
    return plain if isinstance(plain, str) else "" if plain is None else msgspec.json.encode(plain).decode()


def ended(session: Session, run: RunInfo, messages: Sequence[Message], requirements: Sequence[Requirement] = ()) -> RunOutput:
    """The output of a run that is recorded, over for now, with these messages."""
    answers = [it.text for it in messages if it.role == "assistant"]
    plain = run.window.get("content", answers[-1] if answers and run.status == COMPLETED else None)
    return RunOutput(
        content=_typed(run.window["value"].encode(), plain) if "value" in run.window else plain,
        run_id=run.id,
        session_id=session.id,
        user_id=session.user_id,
        agent=run.agent,
        status=run.status,
        error=run.error,
        requirements=tuple(requirements),
        metrics=run.metrics,
        messages=tuple(messages),
    )


def _typed(value: bytes, plain: Any) -> Any:
    """The answer with its type; `plain`, where this process does not know a class of it, or knows one that it does not fit."""
    try:
        content = decode(value)
    except InvalidValue:
        return plain
    return plain if _unknown(content) else content


def _unknown(content: Any) -> bool:
    if isinstance(content, dict):
        return any(map(_unknown, cast("dict[Any, Any]", content).items()))
    if isinstance(content, list | tuple | set | frozenset):
        return any(map(_unknown, cast("Iterable[Any]", content)))
    return isinstance(content, Tagged)
