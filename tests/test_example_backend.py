"""The backend that docs/backends.md shows in full keeps every promise: the page is the code."""

import importlib
import sys
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from holdfast.backend import Capabilities
from holdfast.testing import BackendSuite, Opener

PAGE = Path(__file__).parent.parent / "docs" / "backends.md"


@pytest.fixture(scope="module")
def example() -> Generator[ModuleType]:
    """The page's first Python block as a module that other processes find too."""
    code = PAGE.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "holdfast_example_backend.py").write_text(code, "utf-8")
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module("holdfast_example_backend")
        finally:
            sys.path.remove(folder)


class TestExample(BackendSuite):
    capabilities = Capabilities(durable=True, multi_process=True, in_place=True)

    @pytest.fixture
    def opener(self, example: ModuleType, tmp_path: Path) -> Opener:
        return partial(example.FileBackend, str(tmp_path / "store"))
