"""One index and several processes: at once, killed in the middle, forked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import Store, user
from holdfast.testing.processes import Child, in_processes

from .children import SESSIONS, index, index_until_killed, write_and_index
from .conftest import rows, said

MESSAGES = 230


async def filled(url: str) -> None:
    async with Store.open(url) as store:
        for number in range(SESSIONS):
            await said(store, f"s{number}", *(user(f"session {number} message {n}") for n in range(MESSAGES)))


async def same_as_anew(url: str, file: Path) -> None:
    """The index holds what one holds that was made in one go."""
    whole = file.with_name("whole.db")
    whole.unlink(missing_ok=True)
    await index(url, str(whole), 1)
    assert rows(file) == rows(whole)


async def test_processes_that_write_and_index_at_once_index_everything_once(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/chat.db", tmp_path / "recall.db"
    await filled(url)
    work = [(url, str(file), name) for name in ("one", "two", "three")]
    assert sum(await in_processes(write_and_index, work)) >= SESSIONS * MESSAGES
    await index(url, str(file), 1)
    await same_as_anew(url, file)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 11])
async def test_an_update_that_was_killed_is_completed_by_the_next(tmp_path: Path, stop_at: int) -> None:
    url, file = f"sqlite:///{tmp_path}/chat.db", tmp_path / "recall.db"
    await filled(url)
    with Child(index_until_killed, url, str(file), stop_at) as child:
        assert [await child.said(), await child.said()] == ["begins", "in the middle"]
        child.kill()
    before = len(rows(file))
    assert before == (stop_at - 1) // 5 * MESSAGES + (200 if (stop_at - 1) % 5 == 4 else 0)  # whole pages: four calls and one
    assert await index(url, str(file), 1) == SESSIONS * MESSAGES - before
    await same_as_anew(url, file)


async def test_an_update_killed_at_any_moment_leaves_a_sound_index(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/chat.db", tmp_path / "recall.db"
    await filled(url)
    for wait in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05):
        with Child(index_until_killed, url, str(file), 0) as child:
            assert await child.said() == "begins"
            await asyncio.sleep(wait)
            child.kill()
        rows(file)
    await index(url, str(file), 1)
    await same_as_anew(url, file)


FORKING = """
import asyncio, os, sys
from holdfast import user
from holdfast.recall import MiniLM
from holdfast.sync import Recall, Store

store, recall = Store.open(sys.argv[1]), Recall(Store.open(sys.argv[1]), sys.argv[2], MiniLM())
assert recall.update() == 0  # the index is open; the model is loaded by the first text
child = os.fork()
mine = "parent" if child else "child"
store.session(mine).append(user(f"hello from the {mine}"))
recall.update()
assert mine in {hit.session_id for hit in recall.search("hello", user_id=None)}
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    recall.update()
    print(sorted(hit.session_id for hit in recall.search("hello", user_id=None)))
recall.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_parent_and_child_go_on_with_one_index_after_a_fork(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FORKING, f"sqlite:///{tmp_path}/chat.db", f"sqlite:///{tmp_path}/recall.db"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['child', 'parent']\n", "")
