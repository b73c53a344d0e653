"""Agents by their place: `MODULE:OBJECT`, a module's only one or all of it, a model's name, or the names of a calling module."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import HoldfastError, UsageError
from .frameworks import adapted

if TYPE_CHECKING:
    from .. import Agent

_NO_MODULE = "there is no module {!r} here: name one, or a file such as desk.py:agent"
_CHAT, _RESPONSES = "openai-chat:", ("openai:", "openai-responses:")


# --- by a model's name -----------------------------------------------------------------------------------------------


def made(model: str, instructions: str | None, base_url: str | None) -> Agent:
    """An agent for one model; `base_url` is a service that speaks OpenAI's protocol."""
    from .. import Agent

    return Agent(model if base_url is None else _elsewhere(model, base_url), instructions=instructions)


def _elsewhere(model: str, base_url: str) -> Any:
    from ..models import OpenAIChat, OpenAIResponses

    for prefix in _RESPONSES:
        if model.startswith(prefix):
            return OpenAIResponses(id=model.removeprefix(prefix), base_url=base_url)
    return OpenAIChat(id=model.removeprefix(_CHAT), base_url=base_url)


# --- by its place ----------------------------------------------------------------------------------------------------


def check_there(target: str) -> None:
    """`UsageError` where there is no such file or module; nothing of it is executed."""
    place, _ = _parted(target)
    _on_path(place)
    name = place.partition(".")[0]
    if not place.endswith(".py") and (not name or find_spec(name) is None):
        raise UsageError(_NO_MODULE.format(place))


def found(target: str, name: str | None = None) -> Agent:
    """The agent at `MODULE:OBJECT` or `path/to/file.py:object`; without an object, the module's only one, or the one called `name`."""
    place, path = _parted(target)
    module = _module(place)
    if path:
        return _at(module, path, place)
    return chosen(vars(module), name, place)


def all_at(target: str) -> dict[str, Agent]:
    """The agent at `MODULE:OBJECT`, or all of a module, under their names: their own, or else the variable's."""
    place, path = _parted(target)
    if path:
        agent = found(target)
        return {agent.name or path.rpartition(".")[2]: agent}
    agents = agents_in(vars(_module(place)))
    if not agents:
        raise UsageError(_those(agents, target))
    return {agent.name or name: agent for name, agent in agents.items()}


def _parted(target: str) -> tuple[str, str]:
    """A module's or file's place, and the path of the object in it."""
    place, colon, path = target.rpartition(":")
    return (target, "") if not colon or path.endswith(".py") else (place, path)


def _at(module: ModuleType, path: str, place: str) -> Agent:
    it: Any = module
    for part in path.split("."):
        it = getattr(it, part, None)
    if (agent := _agent(it)) is not None:
        return agent
    what = f"is a {type(it).__name__}, no Agent" if it is not None else "is not there"
    raise UsageError(f"{place}:{path} {what}; {_those(agents_in(vars(module)), place)}")


def chosen(names: Mapping[str, Any], name: str | None, place: str) -> Agent:
    """The only agent of a module, or the one called `name` (its own name, or the variable's)."""
    agents = agents_in(names)
    fits = agents if name is None else {key: it for key, it in agents.items() if name in (key, it.name)}
    if len(fits) == 1:
        return next(iter(fits.values()))
    if name is not None:
        raise UsageError(f"{place} has no agent {name!r}; {_those(agents, place)}")
    raise UsageError(f"which one? {_those(agents, place)}" if agents else _those(agents, place))


def agents_in(names: Mapping[str, Any]) -> dict[str, Agent]:
    """The agents among the names of a module, each once, in the order they were made known."""
    agents: dict[str, Agent] = {}
    for name, it in names.items():
        agent = None if isinstance(it, ModuleType) else _agent(it)
        if agent is not None and not any(agent is other for other in agents.values()):
            agents[name] = agent
    return agents


def _those(agents: Mapping[str, Agent], place: str) -> str:
    if not agents:
        return f"{place} has no Agent: make one there, as in agent = Agent('openai:gpt-5.2')"
    return f"its agents: {', '.join(name if it.name in (None, name) else f'{name} ({it.name})' for name, it in agents.items())}"


def _agent(it: Any) -> Agent | None:
    """The agent that `it` is, is the blocking form of, or that a framework's agent can be made into."""
    from .. import Agent
    from ..sync import Agent as Blocking

    return it if isinstance(it, Agent) else it.aio if isinstance(it, Blocking) else adapted(it)


def _module(place: str) -> ModuleType:
    _on_path(place)
    with _explained(place):
        return _loaded(Path(place)) if place.endswith(".py") else import_module(place)


def _on_path(place: str) -> None:
    """Have Python find what is beside a file, or in the current folder: as when it is started there."""
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not path.is_file():
        raise UsageError(f"{place}: there is no such file")
    folder = str((path.parent if is_file else Path()).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _loaded(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _explained(place: str) -> Generator[None]:
    """What a module raises while it is imported, as an error of whoever named it: with the line where it was."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception as error:  # the module is the caller's code
        if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
            raise UsageError(_NO_MODULE.format(place)) from None
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(f"{place} can't be imported: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})") from error
