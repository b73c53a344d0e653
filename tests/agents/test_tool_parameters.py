"""What a tool may take: the session in every way to ask for it, and what no model could give is refused by name."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Optional

import pytest
from pydantic import Field
from pydantic_ai import RunContext, Tool
from pydantic_ai.toolsets import FunctionToolset

import holdfast.sync
from holdfast import InvalidValue, Session, Store
from holdfast.agents import Agent, tool
from holdfast.testing.model_server import call

from .conftest import Models, texts, there


def first(session: Session, n: int) -> str:
    return f"{session.id}{n}"


def last(n: int, session: Session) -> str:
    return f"{session.id}{n}"


def keyword(n: int, *, session: Session) -> str:
    return f"{session.id}{n}"


def alone(session: Session) -> str:
    return f"{session.id}3"


def optional(n: int = 3, session: Session | None = None) -> str:
    return f"{session.id if session else 'none'}{n}"


def old_optional(n: int, session: Optional[Session] = None) -> str:  # noqa: UP045
    return f"{session.id if session else 'none'}{n}"


def annotated(n: Annotated[int, Field(gt=0)], session: Annotated[Session, "ours"]) -> str:
    return f"{session.id}{n}"


async def awaited(n: int, session: Session) -> str:
    await session.state.increment("count")
    return f"{session.id}{n}"


def blocking(n: int, session: holdfast.sync.Session) -> str:
    session.state.increment("count")
    return f"{session.id}{n}"


async def current(n: int) -> str:
    return f"{Session.current().id}{n}"


def defaulted(session: Session, n: int = 3) -> str:
    return f"{session.id}{n}"


def context(ctx: RunContext[Any], n: int, session: Session) -> str:
    assert ctx.tool_call_id
    return f"{session.id}{n}"


class Desk:
    def method(self, n: int, session: Session) -> str:
        return f"{session.id}{n}"

    async def __call__(self, n: int, session: Session) -> str:
        return f"{session.id}{n}"


TAKERS: list[Any] = [
    first,
    last,
    keyword,
    alone,
    optional,
    old_optional,
    annotated,
    awaited,
    blocking,
    current,
    defaulted,
    context,
    Desk().method,
    tool(first),
    tool(idempotent=True)(awaited),
    Tool(current, name="renamed"),
]


@pytest.mark.parametrize("function", TAKERS, ids=lambda it: getattr(it, "__name__", type(it).__name__))
async def test_a_session_is_given_to_tools_and_hidden_from_the_model(chat: Models, memory: Store, function: Any) -> None:
    name = getattr(function, "name", None) or function.__name__
    agent = chat.agent([call(name, **({} if function is alone else {"n": 3})), "ok"], store=memory, tools=[function])
    await agent.run("go", session_id="s")
    assert (await texts(await there(agent, "s")))[2] == "=s3"
    (offered,) = chat.requests[0].body["tools"]
    assert set(offered.get("function", offered)["parameters"]["properties"]) <= {"n"}


async def test_objects_and_partials_are_tools_or_refused(chat: Models, memory: Store) -> None:
    for function in (Desk(), partial(last, 3)):
        try:
            agent = chat.agent([call("Desk", n=3), "ok"], store=memory, tools=[function])
        except InvalidValue as error:
            assert "tool" in str(error)  # noqa: PT017
        else:
            await agent.run("go", session_id="desk")
            assert "=desk3" in await texts(await there(agent, "desk"))


async def test_a_toolset_of_the_engine(models: Models, memory: Store) -> None:
    def look() -> str:
        return Session.current().id

    agent = models.agent([call("look"), "ok"], store=memory, tools=[FunctionToolset([look])])
    await agent.run("go", session_id="s")
    assert (await texts(await there(agent, "s")))[2] == "=s"


ODD: list[Any] = [lambda x: x, lambda *x: x, int, print, object(), "look"]  # pyright: ignore[reportUnknownLambdaType]


@pytest.mark.parametrize("function", ODD)
def test_what_is_no_typed_function_is_taken_or_refused_by_name(function: Any) -> None:
    try:
        Agent("test", tools=[function])
    except InvalidValue as error:
        assert "tool" in str(error)  # noqa: PT017


class Nobody:
    pass


def of_nobody(it: Nobody) -> str:
    return ""


def before_the_slash(session: Session, /, n: int) -> str:
    return ""


def either(session: Session | str) -> str:
    return ""


@pytest.mark.parametrize("function", [of_nobody, before_the_slash, either])
def test_a_parameter_that_can_not_be_filled_is_refused_by_name(function: Any) -> None:
    with pytest.raises(InvalidValue, match=function.__name__):
        Agent("test", tools=[function])


def test_a_type_nobody_finds_is_refused_by_name() -> None:
    def look(it: Nowhere) -> str:  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]
        return ""

    with pytest.raises(InvalidValue, match="'Nowhere'"):
        Agent("test", tools=[look])
