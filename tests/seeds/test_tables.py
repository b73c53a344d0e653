"""The tables at the head of the files here name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

FILES = {it.name: it.read_text("utf-8") for it in sorted(Path(__file__).parent.glob("test_*.py"))}


def test_every_test_of_the_tables_is_there() -> None:
    rows = [row for text in FILES.values() for row in re.findall(r"^\| .*\|$", text.split("from __future__")[0], re.MULTILINE)]
    named = {it for row in rows for it in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+", row.rstrip("| ").rpartition("|")[2])}
    there = set(re.findall(r"^(?:async )?def test_(\w+)", "\n".join(FILES.values()), re.MULTILINE))
    assert len(named) > 60
    assert named - there == {"test_agent_kernel_served", "test_around", "test_kern_flows"}
