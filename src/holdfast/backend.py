"""The contract of a backend: the values that go in and out, and one Protocol.

A backend keeps sessions by `Key`. It reads by a `ReadPlan` (one plan is one request) and writes by a `Commit` (all or nothing, one
request). It knows neither agents nor messages nor scopes. What a commit does is decided in `rules`, so that backends only store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, UnsetType

from .entries import Entry, NewEntry


class Key(NamedTuple):
    """Where a session lives: nothing crosses two tenants."""

    tenant: str
    session_id: str

    def __str__(self) -> str:
        return f"session {self.session_id!r}" + (f" of tenant {self.tenant!r}" if self.tenant != "default" else "")


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend declares. Nothing is found out by trying.

    `in_place` says that its methods never suspend when no event loop runs: they finish on the calling thread. `sealed`: what sessions hold
    reaches the database encrypted, so a copy of their text beside it, a search index, has to be wanted.
    """

    durable: bool
    multi_process: bool
    watch: bool = False
    in_place: bool = False
    atomic_scopes: bool = False
    sealed: bool = False
    max_entry_bytes: int = 16 * 1024 * 1024


# --- the head: the small mutable record of a session -----------------------------------------------------------------


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Running totals of a session's life; `bytes` are body bytes of its entries, `micros` microseconds that its runs took.

    Whole numbers all of them, so that what is added and taken away again leaves nothing.
    """

    runs: int = 0
    messages: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    bytes: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    micros: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in Counts.__struct_fields__))

    @property
    def seconds(self) -> float:
        """What the runs took, all together; runs at the same time count each."""
        return self.micros / 1_000_000


class Claim(msgspec.Struct, frozen=True):
    """Who runs: `beat` grows with every heartbeat, `lease` is in seconds on the waiter's own monotonic clock.

    `taken` is the commit that took it. `seen` is when the holder last gave a sign of life, by its own clock in unix microseconds: for
    showing (`seems_alive`), never for deciding.
    """

    holder: str
    beat: int
    lease: float
    taken: str = ""
    seen: int = 0

    def seems_alive(self, now: int) -> bool:
        """Whether the holder has given a sign of life within two leases, as far as clocks can tell."""
        return now - self.seen < 2_000_000 * self.lease


class Origin(msgspec.Struct, frozen=True):
    """Where a fork came from."""

    session_id: str
    version: int


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a session is now. Times are unix microseconds, `ttl` seconds; `fence` is the newest claim's number, taken or not."""

    incarnation: int
    version: int = 0
    seq: int = 0
    user_id: str | None = None
    created: int = 0
    updated: int = 0
    counts: Counts = Counts()
    fence: int = 0
    claim: Claim | None = None
    waiting: bool = False
    kind: str = "session"
    agent: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = {}
    origin: Origin | None = None
    parent: str | None = None
    service_ids: dict[str, Any] = {}
    ttl: float | None = None
    expires: int | None = None
    hides: int = 0
    """How many times entries were hidden: a cache of entries older than this is read again."""
    floor: int = 0
    """Tombstones of versions up to this one are gone: older knowledge of the state is read again, whole."""


class HeadPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit changes in the head. `metadata` and `service_ids` are merged by key; a None value removes its key."""

    kind: str | UnsetType = UNSET
    agent: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    origin: Origin | UnsetType = UNSET
    parent: str | UnsetType | None = UNSET
    service_ids: dict[str, Any] | UnsetType = UNSET
    waiting: bool | UnsetType = UNSET
    ttl: float | UnsetType | None = UNSET


# --- reading ---------------------------------------------------------------------------------------------------------


class Window(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Which entries: those with `after` < seq < `before` of the named kinds and run; of more than `limit`, the newest (or the oldest).

    The answer is always in the order of seq. Hidden entries are left out unless `hidden` is true.
    """

    after: int = 0
    before: int | None = None
    limit: int | None = None
    newest: bool = True
    kinds: tuple[str, ...] = ()
    run_id: str | None = None
    hidden: bool = False


class BlobRange(msgspec.Struct, frozen=True, kw_only=True):
    """Which blobs: of one namespace (None: of all), by exact keys or by prefix, in order; `data=False` leaves their bytes out."""

    namespace: str | None = None
    keys: tuple[str, ...] | None = None
    prefix: str = ""
    data: bool = True


class ReadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to read, answered from one moment of the session. The head always comes along.

    `state_since`: None reads no state, 0 all of it, v only what changed after version v (deletions included).
    """

    state_since: int | None = None
    entries: Window | None = None
    blobs: tuple[BlobRange, ...] = ()


class StateRow(msgspec.Struct, frozen=True, gc=False):
    """One state value as stored; `value` None is a deletion's tombstone."""

    value: bytes | None
    version: int


class Blob(msgspec.Struct, frozen=True):
    """Typed bytes under (namespace, key); `data` is None where the plan left it out."""

    namespace: str
    key: str
    type: str
    data: bytes | None


class Snapshot(msgspec.Struct, frozen=True):
    """A plan's answer. `state_whole` says that `state` is everything there is, not only what changed."""

    head: Head
    state: dict[str, StateRow] | None = None
    state_whole: bool = True
    entries: list[Entry] | None = None
    blobs: list[Blob] | None = None


# --- writing ---------------------------------------------------------------------------------------------------------


class Create(msgspec.Struct, frozen=True):
    """Create the session where it isn't; `exclusive` refuses one that is. A deleted life never comes back: its number is remembered.

    `created` is when the session was first created, where that isn't now. `patch` is what a new session begins with: where the session
    is there already, it changes nothing, and creating alone does not move the version.
    """

    incarnation: int
    exclusive: bool = False
    created: int | None = None
    patch: HeadPatch | None = None


class Put(msgspec.Struct, frozen=True, gc=False):
    """Set one state key; None deletes it. `if_version` is the version of its last change, 0 for a key that isn't there."""

    key: str
    value: bytes | None
    if_version: int | None = None


class BlobPut(msgspec.Struct, frozen=True):
    """Store one blob: replace what is there, or with `if_absent` keep it."""

    namespace: str
    key: str
    type: str
    data: bytes
    if_absent: bool = False


class BlobDrop(msgspec.Struct, frozen=True):
    """Delete blobs of one namespace: one key, or every key with a prefix."""

    namespace: str
    key: str | None = None
    prefix: str = ""


class Range(msgspec.Struct, frozen=True, gc=False):
    """Entries from `first` to `last`, both included."""

    first: int
    last: int


class Erase(msgspec.Struct, frozen=True):
    """Remove everything a session holds: its content (a new life under the same id begins), or the session with it."""

    what: Literal["content", "session"]
    incarnation: int = 0


class ClaimAct(msgspec.Struct, frozen=True):
    """Take, renew or release the right to run. A take over another's claim names the (fence, beat) it has seen stand still.

    A renewal is a heartbeat: it moves no version, and neither do the blobs it carries.
    """

    act: Literal["take", "renew", "release"]
    holder: str = ""
    lease: float = 30.0
    seen: tuple[int, int] | None = None


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic write. Applied in this order: checks, erase, blob drops and puts, state, entries, hides, head and claim.

    `incarnation`: the life the author saw; another one there is `SessionGone`. `base`: the version the author saw, 0 for unknown:
    a repetition of this commit is looked for after it. `user_id` is the caller (`check_owner` False for an admin).
    `hide` may name entries of this very commit. `time` is the author's clock, unix microseconds.
    """

    id: str
    time: int
    incarnation: int | None = None
    base: int = 0
    create: Create | None = None
    user_id: str | None = None
    check_owner: bool = True
    expect: int | None = None
    fence: int | None = None
    entries: tuple[NewEntry, ...] = ()
    hide: tuple[Range, ...] = ()
    puts: tuple[Put, ...] = ()
    blobs: tuple[BlobPut, ...] = ()
    drops: tuple[BlobDrop, ...] = ()
    patch: HeadPatch | None = None
    counts: Counts | None = None
    claim: ClaimAct | None = None
    erase: Erase | None = None
    answer: ReadPlan | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a commit did: the session's version and last seq right after it, the head now (None once the session is erased).

    `repeated` says the commit had been applied before and nothing was written now.
    """

    head: Head | None
    version: int
    seq: int
    snapshot: Snapshot | None = None
    repeated: bool = False


# --- listing ---------------------------------------------------------------------------------------------------------


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions of one tenant: all given conditions hold. `name` is a part of the name, in any case; `metadata` equals, key by key.

    `user_id` and `waiting` are answered from an index, the others by bounded work per page.
    """

    tenant: str = "default"
    user_id: str | None = None
    waiting: bool | None = None
    kind: str | None = None
    parent: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = {}
    updated_after: int | None = None
    updated_before: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Sessions, the newest created first, and the cursor of the next page (None at the end). A page may be short, even empty."""

    items: list[tuple[str, Head]]
    cursor: str | None


@runtime_checkable
class Backend(Protocol):
    """What you implement to keep sessions in another database. Every method may be called from any event loop and any thread."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def open(self) -> None:
        """Connect and check the schema, creating it in an empty database. Idempotent; also called lazily by the first use."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. Idempotent; any use after it raises `StoreClosed`."""
        ...

    async def migrate(self) -> tuple[int, int]:
        """Bring the schema up to this library's; (version before, version after)."""
        ...

    async def read(self, key: Key, plan: ReadPlan) -> Snapshot | None:
        """The answer to `plan`, or None where there is no session (expired counts as none)."""
        ...

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        """Apply `commit` whole and durably, or raise and change nothing: see `rules.judge` for the reasons.

        One that only puts off expiry (`rules.mere_contact`) waits for nobody: where another writer is in its way, it may be refused at
        once with `StoreUnavailable`. The author drops it: whoever uses the session next sends another.
        """
        ...

    async def list(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        """One page of sessions, newest created first; pages are stable under writes."""
        ...

    async def copy(self, source: Key, upto: int | None, target: Key, commit: Commit) -> Outcome:
        """Create `target` with the visible entries of `source` up to seq `upto`, renumbered and counted anew, its state and its blobs.

        `commit` creates the target and is judged for it; its entries come after the copied ones. `SessionNotFound` without a source.
        """
        ...

    async def sweep(self, limit: int) -> int:
        """Remove up to `limit` expired sessions and old leftovers; how many sessions went."""
        ...


@runtime_checkable
class Watch(Protocol):
    """Optional: tells of commits as they come (`capabilities.watch`)."""

    def watch(self, key: Key, after: int) -> AsyncIterator[int]:
        """The session's version each time it is seen above `after`; ends when the session is gone."""
        ...


@runtime_checkable
class Maintenance(Protocol):
    """Optional: what `holdfast db` asks."""

    async def status(self) -> dict[str, Any]:
        """Facts for people: schema version, sizes, number of sessions."""
        ...

    async def check(self) -> list[str]:
        """Everything wrong with what is stored, in words; an empty list is a sound store."""
        ...
