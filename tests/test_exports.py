"""The public face of the package: what `import holdfast` gives, and what it leaves alone."""

import ast
import subprocess
import sys
from pathlib import Path

import holdfast

HEAVY = {
    "agents",
    "anyio",
    "apsw",
    "boto3",
    "numpy",
    "onnxruntime",
    "openai",
    "psycopg",
    "pydantic",
    "pydantic_ai",
    "redis",
    "rich",
    "sqlite3",
    "typer",
}


def declared() -> set[str]:
    """The public names that the package's __init__ takes from its own modules, lazily or not, or defines."""
    assert holdfast.__file__
    body = ast.parse(Path(holdfast.__file__).read_text("utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in (node for top in body if not isinstance(top, ast.FunctionDef) for node in ast.walk(top)):
        if isinstance(node, ast.ImportFrom) and (node.level or f"{node.module}.".startswith("holdfast.")):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if not name.startswith("_")}


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert holdfast.__all__ == sorted(set(holdfast.__all__))


def test_every_name_in_all_resolves() -> None:
    assert [name for name in holdfast.__all__ if not hasattr(holdfast, name)] == []


def test_no_public_name_is_missing_in_all() -> None:
    assert declared() - set(holdfast.__all__) == set()


def test_import_loads_no_driver_and_no_framework() -> None:
    code = f"import sys, holdfast; print(*sorted({HEAVY} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []
