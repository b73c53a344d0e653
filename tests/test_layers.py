"""The layer rule: who may import whom inside the package. A new top-level module fails here until it has chosen its layer."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

VALUES = {"forks", "ids", "errors", "values", "messages", "entries"}  # layer 0: values and pure functions
CONTRACT = ["backend", "rules", "ledger"]  # layer 1: each imports layer 0 and those before it
LOWER = VALUES | set(CONTRACT)
DRIVERS = {"backends", "wrappers"}  # layer 2: one database each; decorators of any backend
ENGINE = [
    "large",
    "files",
    "state",
    "runs",
    "requirements",
    "info",
    "beside",
    "transfer",
    "copying",
    "running",
    "handle",
    "reading",
    "session",
    "store",
]  # layer 2: each imports only those before it
AGENTS = ["models", "agents", "recall"]  # layer 3
FACES = {"holdfast", "sync"}  # everything below under one roof, as it is and blocking
OUTSIDE = {"adapters", "cli", "runtime", "server", "testing"}  # like any user: public names of public modules
PUBLIC = LOWER | FACES | set(AGENTS) | {"copying", "large"}

MAY_IMPORT = {  # top-level module -> the others it may import; "holdfast" is the package's own __init__
    **dict.fromkeys(FACES, LOWER | set(ENGINE) | set(AGENTS)),
    **{name: LOWER | set(ENGINE) | set(AGENTS[:i]) for i, name in enumerate(AGENTS)},
    **dict.fromkeys(VALUES, VALUES),
    **{name: VALUES | set(CONTRACT[:i]) for i, name in enumerate(CONTRACT)},
    **dict.fromkeys(DRIVERS, LOWER),
    **{name: LOWER | set(ENGINE[:i]) for i, name in enumerate(ENGINE)},
    **dict.fromkeys(OUTSIDE, PUBLIC),
}
for name in ("cli", "server"):
    MAY_IMPORT[name] = MAY_IMPORT[name] | {"runtime"}
MAY_IMPORT["cli"] |= {"server"}
MAY_IMPORT["runtime"] = MAY_IMPORT["runtime"] | {"adapters"}  # a framework's agent finds its adapter by its class
MAY_IMPORT["server"] |= {"info", "requirements", "runs"}  # it tells of sessions from their heads and logs
MAY_IMPORT["store"] |= DRIVERS  # the one edge out of order: a store finds its backend by the URL's scheme and wraps it
MAY_IMPORT["recall"] |= DRIVERS  # its index is a file of SQLite too, and it reads past a store's cache

THIRD_PARTY = {  # dependency -> the one place that may import it
    "agents": "holdfast.adapters.openai_agents",
    "anyio": "holdfast",
    "apsw": "holdfast.backends.sqlite",
    "boto3": "holdfast.backends.dynamodb",
    "botocore": "holdfast.backends.dynamodb",
    "cryptography": "holdfast.wrappers.encryption",
    "langchain_core": "holdfast.adapters.langgraph",
    "langgraph": "holdfast.adapters.langgraph",
    "msgspec": "holdfast",
    "numpy": "holdfast.recall",
    "openai": "holdfast.adapters.openai_agents",
    "opentelemetry": "holdfast",  # the wrapper that traces, and the middleware that does
    "psycopg": "holdfast.backends.postgres",
    "psycopg_pool": "holdfast.backends.postgres",
    "pydantic": "holdfast.agents",
    "pydantic_ai": "holdfast.agents",
    "pydantic_core": "holdfast.agents",
    "pydantic_graph": "holdfast.agents",
    "pytest": "holdfast.testing",
    "redis": "holdfast.backends.redis",
    "rich": "holdfast.cli",
    "typer": "holdfast.cli",
    "yaml": "holdfast.runtime",
    **dict.fromkeys(("fastapi", "jwt", "prometheus_client", "sse_starlette", "starlette", "uvicorn"), "holdfast.server"),
}
TOO = {"pydantic": ("holdfast.adapters.openai_agents", "holdfast.server")}  # what other places may import

SRC = Path(__file__).parent.parent / "src"
FILES = {".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(SRC.rglob("*.py"))}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below `tree`, function bodies too, without what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from running(node)


def imports(module: str) -> Iterator[str]:
    """What the module's file imports, as full dotted names: `from .errors import Conflict` is holdfast.errors.Conflict."""
    path = FILES[module]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    """The top-level module a dotted name belongs to; a name of the package itself (holdfast.Store) belongs to "holdfast"."""
    part = f"{name}.".split(".")[1]
    return part if part in MAY_IMPORT else "holdfast"


def allowed(module: str, name: str) -> bool:
    root, own, other = name.partition(".")[0], top(module), top(name)
    if root != "holdfast":
        return root in sys.stdlib_module_names or any(
            f"{module}.".startswith(f"{place}.") for place in (THIRD_PARTY.get(root, "-"), *TOO.get(root, ()))
        )
    private = any(part.startswith("_") for part in name.split("."))
    return other == own or (other in MAY_IMPORT[own] and not (own in OUTSIDE and private))


def test_every_module_has_chosen_its_layer() -> None:
    assert {module.split(".")[1] for module in FILES if module != "holdfast"} - MAY_IMPORT.keys() == set()


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    assert [name for name in imports(module) if not allowed(module, name)] == []


def test_there_is_no_cycle() -> None:
    graph = {module: {name if name in FILES else name.rpartition(".")[0] for name in imports(module)} - {module} for module in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError with the cycle in it
