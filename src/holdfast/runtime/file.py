"""The file of settings as names and values: what is no YAML, and what is said twice, is refused without a word of what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from .. import InvalidValue, MissingExtra


def parsed(path: Path) -> dict[str, Any]:
    """What the file says; `InvalidValue` where that is no tree of names, or a name stands twice in one block."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtra(f'{path} needs PyYAML, which is not installed: pip install "holdfast[serve]"') from error
    try:
        document: Any = yaml.SafeLoader(path.read_text("utf-8"))
        root = document.get_single_node()
        for name, first, again in _repeated(root, "", set()):
            raise InvalidValue(f"{path}: {name} is set twice, in lines {first} and {again}: only one of them would count")
        found: Any = None if root is None else document.construct_document(root)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{path} is no YAML: {_problem(error)}") from None
    if found is not None and not isinstance(found, dict):
        raise InvalidValue(f"{path}: it holds a {type(cast('object', found)).__name__}, not names and values")
    return cast("dict[str, Any]", found or {})


def _repeated(node: Any, above: str, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Names that one block has twice, at any depth: the whole name, and both lines. `seen`: what an alias names is looked at once."""
    if node is None or node.id == "scalar" or id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "sequence":
        for number, it in enumerate(node.value):
            yield from _repeated(it, f"{above}[{number}]", seen)
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        if name.id != "scalar" or name.tag.endswith(":merge"):
            continue
        place, line = f"{above}.{name.value}".lstrip("."), name.start_mark.line + 1
        if place in lines:
            yield place, lines[place], line
        lines[place] = line
        yield from _repeated(value, place, seen)


def _problem(error: Any) -> str:
    """What is wrong, and where; not the line itself, which may hold a password."""
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or getattr(error, 'reason', None) or type(error).__name__}{where}"
