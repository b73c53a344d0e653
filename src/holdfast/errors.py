"""Every error Holdfast raises, in two families: the caller can fix the first, the operator the second.

HoldfastError
├── UsageError                 what was asked can't be done as asked; nothing was written
│   ├── InvalidId              a tenant, session, user, key or run id out of bounds       (ValueError)
│   ├── InvalidURL             a store URL nobody understands                             (ValueError)
│   ├── InvalidValue           a value that can't be stored, an argument without sense    (ValueError)
│   ├── TooLarge               an entry, value or blob over the limit                     (ValueError)
│   ├── MissingExtra           an optional dependency is not installed                    (ImportError)
│   ├── Unsupported            this backend doesn't do that, and says so before any I/O
│   ├── SessionNotFound        no such session, or not yours: the two look the same       (LookupError)
│   ├── FileNotFound           the session has no file of that name                       (LookupError)
│   ├── SessionExists          created twice where once was asked
│   ├── SessionGone            the life of the session this write belongs to has ended
│   ├── SessionBusy            another run holds the session
│   ├── Conflict               the session or a key is not at the version you named
│   ├── Fenced                 a newer run took the session over
│   ├── AlreadyDecided         another decision on the requirement came first
│   └── CommitReused           one commit id, two contents
└── StoreError                 the database can't do what it should
    ├── StoreUnavailable       locked, down or too slow: the write did not happen, try again
    ├── OutcomeUnknown         the connection broke in mid-commit: repeat the same commit to learn (network backends)
    ├── StoreClosed            used after close
    ├── StoreFull              no space left
    ├── StoreReadOnly          no permission to write
    ├── NotAStore              the file or database is something else
    ├── SchemaMismatch         written by another version of Holdfast
    └── Corrupt                stored bytes that can't be what was written
"""

from __future__ import annotations


class HoldfastError(Exception):
    """The base of every error of this library."""


class UsageError(HoldfastError):
    """The caller's fault: nothing was written, and the message says what to change."""


class InvalidId(UsageError, ValueError):
    """An id that is empty, too long or holds control characters."""


class InvalidURL(UsageError, ValueError):
    """A store URL with an unknown scheme, a bad option or no place to store."""


class InvalidValue(UsageError, ValueError):
    """A value that has no stored form, or an argument that makes no sense; the message names the place or the argument."""


class TooLarge(UsageError, ValueError):
    """A body over the backend's `max_entry_bytes`."""


class MissingExtra(UsageError, ImportError):
    """An optional dependency is missing; the message holds the install line."""


class Unsupported(UsageError):
    """The backend declares that it can't do this."""


class SessionNotFound(UsageError, LookupError):
    """There is no such session for this caller."""


class FileNotFound(UsageError, LookupError):
    """The session has no file of that name."""


class SessionExists(UsageError):
    """The session exists already, and the call asked for a new one."""


class SessionGone(UsageError):
    """The session was cleared, deleted or expired since this writer last saw it."""


class SessionBusy(UsageError):
    """Another run holds the session: `fence` and `beat` say which claim was seen, `lease` how long it lasts (seconds)."""

    def __init__(self, message: str, *, fence: int = 0, beat: int = 0, lease: float = 0.0) -> None:
        super().__init__(message)
        self.fence = fence
        self.beat = beat
        self.lease = lease


class Conflict(UsageError):
    """`expected` was asked, `found` is there; `key` is set when it was one state key that moved."""

    def __init__(self, expected: int, found: int, *, key: str | None = None) -> None:
        what = f"state key {key!r}" if key is not None else "the session"
        super().__init__(f"{what} is at version {found}, not at {expected}: read again and decide anew")
        self.expected = expected
        self.found = found
        self.key = key


class Fenced(UsageError):
    """A newer run took the session: this one may not write any more."""


class AlreadyDecided(UsageError):
    """The requirement was decided before, or passed on to where it is decided: a decision has its effect once."""


class CommitReused(UsageError):
    """A commit id was used again with other content."""


class StoreError(HoldfastError):
    """The database's fault."""


class StoreUnavailable(StoreError):
    """The database is locked, unreachable or too slow; the write did not happen."""


class OutcomeUnknown(StoreError):
    """The connection broke while a commit was under way: repeating the same commit is safe and tells its outcome.

    Part of the contract for backends over a network. SQLite and memory always know whether a commit happened, and never raise it.
    """


class StoreClosed(StoreError):
    """The store was closed."""


class StoreFull(StoreError):
    """The disk or the quota is full; the write did not happen."""


class StoreReadOnly(StoreError):
    """The file, its folder or the database role doesn't allow writing."""


class NotAStore(StoreError):
    """What the URL points at is not a Holdfast store."""


class SchemaMismatch(StoreError):
    """The store's schema is newer than this library, or needs `holdfast db migrate`."""


class Corrupt(StoreError):
    """Stored bytes that can't be what was written."""
