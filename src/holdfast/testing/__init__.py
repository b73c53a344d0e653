"""The conformance suite: what every backend promises, one named clause per promise.

    class TestMine(BackendSuite):
        @pytest.fixture
        def opener(self, tmp_path):
            return partial(MyBackend, tmp_path / "db")

or, without pytest, `await check(opener)`.
"""

import sys

from .suite import CLAUSES, BackendSuite, Clause, Opener, check

if (_pytest := sys.modules.get("pytest")) is not None:
    _pytest.register_assert_rewrite("holdfast.testing.clauses", "holdfast.testing.tools")  # asserts that show their values

from . import clauses as clauses  # fills CLAUSES

__all__ = ["CLAUSES", "BackendSuite", "Clause", "Opener", "check"]
