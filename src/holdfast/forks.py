"""Forks: whoever holds locks or connections hears of them before and after, on either side."""

from __future__ import annotations

import os
import threading
import weakref


class Forkable:
    """Override what concerns you, and call `watch_forks`. What `before_fork` takes, `after_fork` gives back, on both sides."""

    def before_fork(self) -> None:
        """Let go of what a child must not inherit, and hold on to what must stand still."""

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child no other thread lives, and a lock that one of them held is renewed."""


_watching: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forking: list[Forkable] = []
_lock = threading.Lock()
"""Held during a fork: who comes or goes meanwhile must not be told of one half of it only."""


def watch_forks(holder: Forkable) -> None:
    """From now on, for as long as it lives, `holder` is told of forks."""
    with _lock:
        _watching.add(holder)


def forget_forks(holder: Forkable) -> None:
    """The opposite of `watch_forks`."""
    _watching.discard(holder)


def _before() -> None:
    _lock.acquire()
    _forking[:] = _watching
    for holder in _forking:
        holder.before_fork()


def _in_parent() -> None:
    _after(child=False)
    _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _after(child=True)


def _after(*, child: bool) -> None:
    for holder in _forking:
        holder.after_fork(child=child)
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
