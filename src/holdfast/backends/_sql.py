"""Named SQL: one `.sql` file per backend, its statements introduced by `-- name: words_of_it`."""

from __future__ import annotations

from importlib.resources import files


def load(module: str, name: str) -> str:
    """The text of an SQL file that lies beside the module of this name."""
    return files(module.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")


def named(text: str) -> dict[str, str]:
    """The statements of a query file by name, without comments and line breaks."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("-- name:"):
            lines = found.setdefault(line.removeprefix("-- name:").strip(), [])
        elif not line.lstrip().startswith("--"):
            lines.append(line.strip())
    return {name: " ".join(filter(None, body)).rstrip(";") for name, body in found.items()}
