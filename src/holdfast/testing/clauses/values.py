"""Values and names: bytes come back as they went in, and no name is mistaken for another one or for a pattern."""

from __future__ import annotations

from ...backend import BlobDrop, BlobRange, Filter, Key, Put, ReadPlan, Snapshot
from ...ids import MAX_ID_BYTES, check_id, new_id
from ..suite import Opener, clause
from ..tools import blob, bodies, contents, created, fresh, head_of, listed, note, notes, opened, puts, read, values, writing, wrote

AWKWARD_BYTES = (b"", b"\0", b"a\0b\0", bytes(range(256)), b"\xff\xfe\x80", b'{"a": "\\u0000"}', "\U0001f9f7é".encode(), b"'; --\n")
_LONG = "ü" * (MAX_ID_BYTES // 2)
AWKWARD_NAMES = (
    _LONG,
    _LONG[:-1] + "x",
    "Ada",
    "ada",
    "\U0001f469\U0001f680",
    "שלום",
    "caf\u00e9",
    "cafe\u0301",  # the same to the eye, and another id
    'it\'s "quoted" `so`',
    "a/b",
    "a\\b",
    "a%b",
    "a_b",
    "a*b",
    "a?b",
    "[ab]",
    "{ab}",
    "a:b",
    "a b",
    "~a",
    "%",
    "..",
    "null",
    "0",
)


@clause()
async def bodies_come_back_byte_for_byte(open: Opener) -> None:
    """Bodies, state values and blobs are bytes: empty, with NUL, not UTF-8, whatever they are."""
    async with opened(open) as backend:
        key = fresh()
        await created(
            backend,
            key,
            entries=tuple(note(data) for data in AWKWARD_BYTES),
            puts=tuple(Put(f"k{n}", data) for n, data in enumerate(AWKWARD_BYTES)),
            blobs=tuple(blob(f"b{n}", data) for n, data in enumerate(AWKWARD_BYTES)),
        )
        _check_awkward(await read(backend, key))


def _check_awkward(snapshot: Snapshot) -> None:
    assert [entry.body for entry in snapshot.entries or []] == list(AWKWARD_BYTES)
    assert {name: row.value for name, row in (snapshot.state or {}).items()} == {f"k{n}": data for n, data in enumerate(AWKWARD_BYTES)}
    assert contents(snapshot) == {("files", f"b{n}"): data for n, data in enumerate(AWKWARD_BYTES)}


@clause()
async def large_bodies_come_back_whole(open: Opener) -> None:
    """A body of 1 MiB, and one of exactly the size that the backend declares as its largest."""
    async with opened(open) as backend:
        for size in (1 << 20, min(backend.capabilities.max_entry_bytes, 32 << 20)):
            key, data = fresh(), bytes(range(251)) * (size // 251 + 1)
            await created(backend, key, entries=(note(data[:size]),), blobs=(blob("b", data[:size]),))
            snapshot = await read(backend, key)
            assert [entry.body == data[:size] for entry in snapshot.entries or []] == [True]
            assert contents(snapshot)["files", "b"] == data[:size]


@clause()
async def any_printable_id_is_a_session_of_its_own(open: Opener) -> None:
    """Session ids up to 1,024 bytes of any script, quotes and wildcards: each is itself and no other."""
    async with opened(open) as backend:
        tenant = fresh().tenant
        for name in AWKWARD_NAMES:
            await created(backend, Key(tenant, check_id(name)), entries=notes(name))
        for name in AWKWARD_NAMES:
            assert await bodies(backend, Key(tenant, name)) == [name]
        assert await listed(backend, Filter(tenant=tenant)) == list(reversed(AWKWARD_NAMES))


@clause()
async def any_printable_tenant_and_user_is_its_own(open: Opener) -> None:
    """Tenants and users are told apart by every character of their names."""
    async with opened(open) as backend:
        mark = new_id()
        tenants = [name[: -len(mark)] + mark if len(name) > len(mark) else name + mark for name in AWKWARD_NAMES[2:]]
        for tenant, user in zip(tenants, AWKWARD_NAMES[2:], strict=True):
            await created(backend, Key(tenant, "s"), user_id=user, entries=notes(user))
        for tenant, user in zip(tenants, AWKWARD_NAMES[2:], strict=True):
            assert await listed(backend, Filter(tenant=tenant, user_id=user)) == ["s"]
            assert (await read(backend, Key(tenant, "s"))).head.user_id == user


@clause()
async def any_printable_key_is_its_own(open: Opener) -> None:
    """State keys, blob keys and namespaces are told apart by every character."""
    async with opened(open) as backend:
        key = fresh()
        state = tuple(Put(name, name.encode()) for name in AWKWARD_NAMES)
        stored = [blob(name, name) for name in AWKWARD_NAMES] + [blob("same", name, name) for name in AWKWARD_NAMES]
        head = await created(backend, key, puts=state, blobs=tuple(stored))
        snapshot = await read(backend, key)
        assert values(snapshot) == {name: name for name in AWKWARD_NAMES}
        assert contents(snapshot) == {(it.namespace, it.key): it.data for it in stored}
        outcome = await backend.commit(key, writing(head, puts=(Put("Ada", None),), drops=(BlobDrop("files", "Ada"),)))
        assert "ada" in values(await read(backend, key))
        assert head_of(outcome).version == head.version + 1
        assert len((await read(backend, key)).blobs or []) == len(stored) - 1


@clause()
async def prefixes_of_blobs_are_literal(open: Opener) -> None:
    """A prefix is text, not a pattern; a key that is exactly the prefix is among those found."""
    async with opened(open) as backend:
        key = fresh()
        names = ("a%", "a%1", "a_", "a_1", "a*", "a*1", "a?", "a?1", "a[b]", "a[b]1", "axx", "ab1", "A%1", "a\\1")
        await created(backend, key, blobs=tuple(blob(name, "") for name in names))
        for prefix in ("a%", "a_", "a*", "a?", "a[", "a[b]", "a", "a\\", "A", "", "é"):
            found = (await read(backend, key, ReadPlan(blobs=(BlobRange(namespace="files", prefix=prefix),)))).blobs or []
            assert [it.key for it in found] == sorted(name for name in names if name.startswith(prefix)), prefix


@clause()
async def prefixes_of_drops_are_literal(open: Opener) -> None:
    """Deleting by prefix deletes what begins so, in that namespace, and nothing else."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, blobs=(*(blob(name, "") for name in ("a_", "a_1", "ax1", "A_1")), blob("a_1", "", "other")))
        await wrote(backend, key, head, drops=(BlobDrop("files", prefix="a_"),))
        assert sorted(contents(await read(backend, key))) == [("files", "A_1"), ("files", "ax1"), ("other", "a_1")]


@clause()
async def tenants_see_nothing_of_each_other(open: Opener) -> None:
    """The same session id in two tenants is two sessions: to read, to write, to list, to delete."""
    async with opened(open) as backend:
        one, other = fresh(), fresh()
        await created(backend, one, entries=notes("one"), puts=puts(a="one"), blobs=(blob("a", "one"),))
        assert await backend.read(other, ReadPlan()) is None
        assert await listed(backend, Filter(tenant=other.tenant)) == []
        head = await created(backend, other, entries=notes("other"))
        assert await bodies(backend, one) == ["one"]
        assert values(await read(backend, other)) == {}
        await wrote(backend, other, head, drops=(BlobDrop("files"),))
        assert contents(await read(backend, one)) == {("files", "a"): b"one"}
