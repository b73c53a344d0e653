"""Tools: plain typed functions, what may be said about one, and how a tool gets at the session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, overload

import msgspec

from ..errors import InvalidValue
from ..session import Session

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__holdfast_tool__"


class ToolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a tool beside its signature. `idempotent`: executing it again does no harm."""

    idempotent: bool = False


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(*, idempotent: bool = False) -> Callable[[F], F]: ...
def tool(function: Any = None, /, *, idempotent: bool = False) -> Any:
    """Say more about a tool function. An `idempotent` one is executed again when a crash has left its outcome unknown.

    A function needs this only for that: every typed function is a tool as it is.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, ToolOptions(idempotent=idempotent))
        return function

    return mark if function is None else mark(function)


def name_of(it: Any) -> str:
    """What the model calls the tool."""
    return str(getattr(it, "name", None) or getattr(it, "__name__", type(it).__name__))


def options_of(it: Any) -> ToolOptions:
    """What was said about a tool: by `@tool`, or in the `metadata` of a tool object (`{"idempotent": True}`)."""
    said = getattr(it, _MARK, None) or getattr(getattr(it, "function", None), _MARK, None)
    if said is not None:
        return said
    metadata = getattr(it, "metadata", None)
    return ToolOptions(idempotent=isinstance(metadata, dict) and cast("dict[str, Any]", metadata).get("idempotent") is True)


def checked_tools(tools: Sequence[Any]) -> tuple[Any, ...]:
    """`tools` as a tuple; `InvalidValue` for something that can't be called, or for one name twice."""
    if isinstance(tools, str) or not isinstance(tools, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(f"tools={tools!r:.80}: give a list of functions")
    names: set[str] = set()
    for it in tools:
        if not (callable(it) or hasattr(it, "function") or hasattr(it, "get_tools")):
            raise InvalidValue(f"tools: {it!r:.80} is no function: give a typed function, or a tool object of the engine")
        if (name := name_of(it)) in names and not hasattr(it, "get_tools"):
            raise InvalidValue(f"tools: two are called {name!r}: the model could not tell them apart; rename one")
        names.add(name)
    return tuple(tools)


def without_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the parameters typed `Session`, which the model must not see: they are filled in when it is called."""
    hints = _hints(function)
    mine = {name: found for name, hint in hints.items() if name != "return" and (found := _session_in(hint)) is not None}
    if not mine:
        return function
    parameters = inspect.signature(function).parameters
    if wrong := [name for name in mine if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY]:
        raise InvalidValue(f"tool {name_of(function)!r}: its parameter {wrong[0]!r} is given by name: take the slash after it away")
    shown = [it for name, it in parameters.items() if name not in mine]

    def given() -> dict[str, Any]:
        return {name: hint.current() for name, hint in mine.items()}

    @wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs, **given())

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs, **given())

    call: Any = awaited if inspect.iscoroutinefunction(function) else plain
    call.__annotations__ = {name: hint for name, hint in hints.items() if name not in mine}
    call.__signature__ = inspect.signature(function).replace(parameters=shown)  # what inspect.signature reads
    return call


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidValue(
            f"tool {name_of(function)!r}: its annotation {error.name!r} can't be found: import it at the module's top"
        ) from error


def _session_in(hint: Any) -> Any:
    """The session's class in a parameter's type: `holdfast.Session` or its blocking form, also `| None` or annotated; None without one."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _session_in(get_args(hint)[0])
    if origin in (Union, UnionType):
        others = [it for it in get_args(hint) if it is not NoneType]
        return _session_in(others[0]) if len(others) == 1 else None
    mine = isinstance(hint, type) and (issubclass(hint, Session) or getattr(cast("Any", hint), "form_of", None) is Session)
    return cast("Any", hint) if mine else None
