"""Tools: plain typed functions, what may be said about one, and how a tool gets at the session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, overload

import msgspec

from ..errors import InvalidValue
from ..messages import ToolCall
from ..requirements import Decision, Field, Kind, Requirement
from ..runs import LEASE
from ..session import Session

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__holdfast_tool__"


class ToolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a tool beside its signature: as the arguments of `tool`."""

    idempotent: bool = False
    confirm: bool = False
    ask: tuple[str, ...] = ()
    external: bool = False
    final: bool = False
    expires: float | None = None
    delegates: tuple[Any, ...] = ()
    """The agents it may run, under ids of their own: done again, one goes on where it was, and what it waits for is waited for here."""

    @property
    def needs(self) -> Kind | None:
        """What a call needs from a person before it is executed."""
        return "external" if self.external else "input" if self.ask else "confirmation" if self.confirm else None


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    idempotent: bool = False,
    confirm: bool = False,
    ask: Sequence[str] = (),
    external: bool = False,
    final: bool = False,
    expires: float | None = None,
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    /,
    *,
    idempotent: bool = False,
    confirm: bool = False,
    ask: Sequence[str] = (),
    external: bool = False,
    final: bool = False,
    expires: float | None = None,
) -> Any:
    """Say more about a tool function; every typed function is a tool as it is.

    `idempotent`: executing it again does no harm, so it is executed again when a crash has left its outcome unknown. `confirm`: a person
    has to approve each call. `ask`: parameters that a person fills in, which the model does not see. `external`: it is executed elsewhere,
    and a person or a program supplies the result. `final`: its result is the run's answer, the model isn't asked again. `expires`:
    seconds after which a call can't be decided any more.
    """
    if sum([confirm, bool(ask), external]) > 1:
        raise InvalidValue("tool(confirm=, ask=, external=): a tool needs one of them at most")
    if isinstance(ask, str):
        raise InvalidValue(f"tool(ask={ask!r}): give a list of parameter names, [{ask!r}]")
    if expires is not None and not expires > 0:
        raise InvalidValue(f"tool(expires={expires!r}): give a positive number of seconds")
    options = ToolOptions(idempotent=idempotent, confirm=confirm, ask=tuple(ask), external=external, final=final, expires=expires)

    def mark(function: F) -> F:
        if missing := [name for name in options.ask if name not in inspect.signature(function).parameters]:
            raise InvalidValue(f"tool {name_of(function)!r}: ask names {missing[0]!r}, which is none of its parameters")
        setattr(function, _MARK, options)
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
    idempotent = isinstance(metadata, dict) and cast("dict[str, Any]", metadata).get("idempotent") is True
    return ToolOptions(idempotent=idempotent, confirm=getattr(it, "requires_approval", False) is True)


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


def as_model_sees(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the parameters that are not the model's: those typed `Session`, and those a person fills in."""
    hints, asked = _hints(function), options_of(function).ask
    mine = {name: found for name, hint in hints.items() if name != "return" and (found := _session_in(hint)) is not None}
    if not mine and not asked:
        return function
    parameters = inspect.signature(function).parameters
    if wrong := [name for name in (*mine, *asked) if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY]:
        raise InvalidValue(f"tool {name_of(function)!r}: its parameter {wrong[0]!r} is given by name: take the slash after it away")
    shown = [it for name, it in parameters.items() if name not in mine and name not in asked]

    def given() -> dict[str, Any]:
        filled = converted(function, execution().filled) if asked else {}
        return {name: hint.current() for name, hint in mine.items()} | filled

    @wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs, **given())

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs, **given())

    call: Any = awaited if inspect.iscoroutinefunction(function) else plain
    call.__name__ = name_of(function)
    call.__annotations__ = {name: hint for name, hint in hints.items() if name not in mine and name not in asked}
    call.__signature__ = inspect.signature(function).replace(parameters=shown)  # what inspect.signature reads
    return call


def marked(function: F, options: ToolOptions) -> F:
    """`function` with these options."""
    setattr(function, _MARK, options)
    return function


# --- while a call is executed ----------------------------------------------------------------------------------------


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The call that is executed: which one of which run, what people filled in for it, and what they decided for whom it runs.

    `lease`: the run's, in seconds, which those it runs have too.
    """

    run_id: str = ""
    call_id: str = ""
    lease: float = LEASE
    filled: Mapping[str, Any] = {}
    decisions: tuple[Decision, ...] = ()


class Waits(Exception):
    """Raised by a tool that runs another agent, which waits for people."""

    def __init__(self, requirements: Sequence[Requirement]) -> None:
        super().__init__("the member waits for people")
        self.requirements = tuple(requirements)


_execution: ContextVar[Execution] = ContextVar("holdfast_execution", default=Execution())  # noqa: B039  # frozen


@contextmanager
def executing(execution: Execution) -> Generator[None]:
    """For engines: around the execution of a call."""
    outer = _execution.get()
    _execution.set(execution)
    try:
        yield
    finally:
        _execution.set(outer)


def execution() -> Execution:
    """The call that is executed here."""
    return _execution.get()


# --- what people fill in ---------------------------------------------------------------------------------------------


def fields_of(it: Any) -> tuple[Field, ...]:
    """What a person is asked for before a call of this tool is executed; what has a default may be left out."""
    asked = options_of(it).ask
    hints, defaults = (_hints(it), _defaults(it)) if asked else ({}, {})
    return tuple(Field(name, _schema(hints.get(name, Any)) | ({"default": defaults[name]} if name in defaults else {})) for name in asked)


def converted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What people gave for the parameters they are asked for, as the types these have; `InvalidValue` names the one that is none."""
    hints, found = _hints(function), dict[str, Any]()
    for name in [it for it in options_of(function).ask if it in values or it not in _defaults(function)]:
        try:
            found[name] = msgspec.convert(values.get(name), hints.get(name, Any), strict=False)
        except msgspec.ValidationError as error:
            raise InvalidValue(f"{name}={values.get(name)!r:.80} for {name_of(function)!r}: {error}") from error
    return found


def check_fits(call: ToolCall, changed: Mapping[str, Any], faults: Iterable[Mapping[str, Any]]) -> None:
    """`InvalidValue` for the first of a call's `changed` arguments that has a fault, as pydantic's `errors()` lists them."""
    for fault in faults:
        name = str(fault["loc"][0]) if fault["loc"] else ""
        if name in changed:
            raise InvalidValue(f"approve({name}={changed[name]!r:.80}): {call.name!r} can't be called with it: {fault['msg']}")


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of its parameters, as plain JSON."""
    parameters = inspect.signature(_written(function)).parameters
    return {name: msgspec.to_builtins(it.default, enc_hook=str) for name, it in parameters.items() if it.default is not it.empty}


def _schema(hint: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(hint)
    except TypeError:
        return {}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(_written(function), include_extras=True)
    except NameError as error:
        raise InvalidValue(
            f"tool {name_of(function)!r}: its annotation {error.name!r} can't be found: import it at the module's top"
        ) from error


def _written(it: Any) -> Any:
    """Where the annotations of something that can be called are."""
    if isinstance(it, partial):
        return _written(cast("partial[Any]", it).func)
    return it if inspect.isroutine(it) or inspect.isclass(it) else type(it).__call__


def takes_blocking(function: Callable[..., Any]) -> Any:
    """The blocking form of a session, where a parameter is typed so; None otherwise, and where the types can't be found."""
    try:
        forms = [_session_in(hint) for name, hint in _hints(function).items() if name != "return"]
    except InvalidValue:
        return None
    return next((it for it in forms if it is not None and not issubclass(it, Session)), None)


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
