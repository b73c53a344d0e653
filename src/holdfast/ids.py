"""Ids and the clock: what a name may look like, and where fresh ones come from."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from itertools import count

from .errors import InvalidId, InvalidValue

MAX_ID_BYTES = 1024
SCOPE_PREFIXES = ("~user/", "~app")
"""Session ids that begin so are records of the wider state scopes."""


def check_id(value: object, what: str = "session id") -> str:
    """`value` itself when it is 1 to 1,024 bytes of printable Unicode; `InvalidId` otherwise."""
    if not isinstance(value, str):
        raise InvalidId(f"{what} must be a string, not {type(value).__name__} {value!r:.80}")
    if not value:
        raise InvalidId(f"{what} is empty: {_WHEN_EMPTY[what]}, or give 1 to {MAX_ID_BYTES} bytes of text")
    if not value.isprintable():
        bad = next(c for c in value if not c.isprintable())
        raise InvalidId(f"{what} {value[:80]!r} holds {bad!r}: only printable characters are allowed")
    if len(value) * 4 > MAX_ID_BYTES and (size := len(value.encode())) > MAX_ID_BYTES:
        raise InvalidId(f"{what} {value[:40]!r}... has {size} bytes: the limit is {MAX_ID_BYTES}")
    return value


def scope_id(scope: str, user_id: str | None) -> str:
    """The id of the record that holds the state of scope `user` (of this one) or `app`; `InvalidId` for another scope, or no user."""
    if scope == "app":
        return "~app"
    if scope != "user":
        raise InvalidId(f"scope {scope!r:.80}: a state's scope is 'user' or 'app'; the session's own is session.state")
    if user_id is None:
        raise InvalidId("scope 'user': the session has no user; open it with user_id=...")
    return check_id(f"~user/{check_id(user_id, 'user id')}")


def run_id_of(run_id: str, call_id: str) -> str:
    """The id of the run that a member has for this call of a run."""
    return f"{run_id}.{call_id}"


def runs_above(run_id: str) -> list[str]:
    """The runs that a member's may work for, by its id: calls have dots too, so only some of these may be there."""
    parts = run_id.split(".")
    return [".".join(parts[:place]) for place in range(1, len(parts))]


def check_session_id(value: object) -> str:
    """As `check_id`, and not one of the reserved scope records."""
    checked = check_id(value)
    if checked.startswith(SCOPE_PREFIXES):
        raise InvalidId(f"session id {checked[:80]!r}: ids beginning with {' or '.join(SCOPE_PREFIXES)} are reserved for wider state")
    return checked


_WHEN_EMPTY = {
    "session id": "leave it out to have one made",
    "run id": "leave it out to have one made",
    "file name": "name it",
    "user id": "leave it out where there is no user",
    "agent name": "leave it out where it has none",
    "tenant": "leave it out where there is only one",
}


class _Stream:
    """Ids of one process: a random prefix and a counter, so that an id costs no system call; a fork draws a new prefix."""

    def __init__(self) -> None:
        self.restart()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.restart)

    def restart(self) -> None:
        self.prefix = os.urandom(9).hex()
        self.numbers = count()

    def next(self) -> str:
        return f"{self.prefix}{next(self.numbers):x}"


_stream = _Stream()
new_id = _stream.next


def new_session_id() -> str:
    """A random session id of 32 hexadecimal digits that can't be guessed from another one."""
    return os.urandom(16).hex()


def new_incarnation() -> int:
    """The mark of one life of a session id: 48 random bits, exact in every language's numbers; never 0."""
    return int.from_bytes(os.urandom(6), "big") or 1


def now() -> int:
    """Unix time in microseconds: for people and expiry, never for order."""
    return time.time_ns() // 1000


def from_micros(micros: int) -> datetime:
    """Unix time in microseconds as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


def to_micros(name: str, moment: datetime) -> int:
    """An aware datetime as Unix time in microseconds; `InvalidValue`, for the value `name`, where it is none."""
    if not isinstance(moment, datetime) or moment.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"{name}={moment!r:.80}: give an aware datetime, which says its time zone, such as datetime.now(UTC)")
    return (moment - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime.fromtimestamp(0, UTC)
