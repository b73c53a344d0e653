"""Who is told of a fork: the same ones before and after it, whoever comes or goes meanwhile."""

import asyncio
import os
import threading
from pathlib import Path

from holdfast.backends.sqlite import SQLiteBackend
from holdfast.forks import Forkable, forget_forks, watch_forks
from holdfast.testing.tools import created, fresh


class Holder(Forkable):
    """Counts what it is told; with `others`, one more comes and one goes while the fork is being prepared."""

    def __init__(self, path: Path | None = None, leaving: Forkable | None = None) -> None:
        self.held, self.path, self.leaving = 0, path, leaving
        self.late: threading.Thread | None = None
        watch_forks(self)

    def before_fork(self) -> None:
        self.held += 1
        if self.path is not None:
            self.late = threading.Thread(target=open_store, args=(str(self.path),))
            self.late.start()
            self.late.join(0.2)
        if self.leaving is not None:
            forget_forks(self.leaving)

    def after_fork(self, *, child: bool) -> None:
        self.held -= 1


def open_store(path: str) -> None:
    backend = SQLiteBackend(path)
    asyncio.run(backend.open())
    asyncio.run(created(backend, fresh()))
    asyncio.run(backend.close())


def test_the_same_ones_are_told_before_and_after(tmp_path: Path) -> None:
    leaving = Holder()
    meddling = Holder(tmp_path / "store.db", leaving)
    if (child := os.fork()) == 0:
        os._exit(meddling.held + leaving.held)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (meddling.held, leaving.held) == (0, 0)
    assert meddling.late is not None
    meddling.late.join(10)
    assert not meddling.late.is_alive()
    forget_forks(meddling)
