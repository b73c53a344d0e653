"""Encryption: nothing is in the file in clear, nothing is read that is not what was sealed where it lies, and keys can change."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from holdfast import Store, user
from holdfast.backend import Backend, BlobPut, ClaimAct, Commit, Create, Erase, Filter, HeadPatch, Key, Outcome, Put, Range, ReadPlan
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.sqlite import SQLiteBackend
from holdfast.entries import NewEntry
from holdfast.errors import CommitReused, Conflict, Corrupt, InvalidValue, SessionBusy, SessionGone, SessionNotFound, TooLarge, Unsupported
from holdfast.ids import new_incarnation
from holdfast.testing.tools import (
    EVERYTHING,
    blob,
    bodies,
    contents,
    created,
    creating,
    fresh,
    listed,
    note,
    notes,
    puts,
    read,
    refused,
    values,
    writing,
    wrote,
)
from holdfast.wrappers import EncryptedBackend
from holdfast.wrappers.base import Wrapper
from holdfast.wrappers.encryption import Rotation
from holdfast.wrappers.encryption.keys import OVERHEAD

OLD, NEW, OTHER = b"old key." * 4, b"new key." * 4, b"another." * 4


class Tampering(Wrapper):
    """Hands out what `change` makes of the sealed bytes of entries, state values and blobs."""

    change: Callable[[bytes], bytes] = staticmethod(bytes)

    async def read(self, key: Key, plan: ReadPlan) -> Any:
        it = await self.inner.read(key, plan)
        return it and replace(
            it,
            entries=it.entries and [replace(entry, body=self.change(entry.body)) for entry in it.entries],
            state=it.state and {name: replace(row, value=row.value and self.change(row.value)) for name, row in it.state.items()},
            blobs=it.blobs and [replace(each, data=each.data and self.change(each.data)) for each in it.blobs],
        )


def encrypted(inner: Backend | None = None, *keys: bytes, **options: Any) -> EncryptedBackend:
    return EncryptedBackend(inner or MemoryBackend(), keys=keys or (OLD,), **options)


async def full(backend: Backend, key: Key) -> None:
    """A session with something of everything: a hidden entry, a deleted value, a name, metadata, counts, a flag."""
    patch = HeadPatch(name="a name", metadata={"tag": "a tag"}, service_ids={"": "resp-1"}, waiting=True, ttl=1000.0)
    parts = {"entries": notes("a", "b", "c"), "puts": puts(k="1", gone="1"), "blobs": (blob("x", "X"), blob("y", ""))}
    head = await created(backend, key, user_id="ada", patch=patch, **parts)
    await wrote(backend, key, head, user_id="ada", hide=(Range(2, 2),), puts=puts(gone=None), entries=(note("d", "message", "run-1"),))


# --- what is hidden, and what isn't ----------------------------------------------------------------------------------


async def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    backend = encrypted(SQLiteBackend(str(path)), OLD, names=True)
    async with Store(backend) as store:
        session = await store.session("s")
        await session.append(user("SECRET-message"))
        session.state["k"] = "SECRET-value"
        await session.commit()
        key = Key("default", "s")
        patch = HeadPatch(name="SECRET-name", metadata={"SECRET-key": "SECRET-tag"})
        await wrote(backend, key, (await read(backend, key)).head, blobs=(blob("b", "SECRET-blob"),), patch=patch)
        fork = await session.fork("fork")
        assert [message.text for message in await fork.get_messages()] == ["SECRET-message"]
        assert fork.state["k"] == "SECRET-value"
    assert b"SECRET" not in path.read_bytes()
    assert b"holdfast.homes" in path.read_bytes()


async def test_names_are_in_clear_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    backend, key = encrypted(SQLiteBackend(str(path))), fresh()
    await created(backend, key, patch=HeadPatch(name="Open Name", metadata={"a": 1}))
    assert await listed(backend, Filter(tenant=key.tenant, name="open", metadata={"a": 1})) == [key.session_id]
    await backend.close()
    assert b"Open Name" in path.read_bytes()


async def test_lists_by_hidden_names_are_refused_before_any_request() -> None:
    inner = MemoryBackend()
    await inner.close()  # any request would be refused otherwise
    for filter in (Filter(name="a"), Filter(metadata={"a": 1})):
        with refused(Unsupported):
            await encrypted(inner, names=True).list(filter, None, 10)


async def test_the_same_text_is_never_the_same_bytes() -> None:
    """Not in two entries, keys, commits or sessions: who reads the database learns of no equality."""
    inner, seen = MemoryBackend(), list[bytes]()
    backend, keys = encrypted(inner), (fresh(), fresh())
    for key in keys:
        head = await created(backend, key)
        for _ in range(2):
            same = {"puts": puts(a="same", b="same"), "blobs": (blob("a", "same"), blob("b", "same"))}
            head = await wrote(backend, key, head, entries=(NewEntry("id", "note", b"same"), NewEntry("id", "note", b"same")), **same)
            seen += _stored(await read(inner, key))
    assert len(seen) == 2 * (6 + 8)
    assert len(set(seen)) == 2 * (6 + 6) - 2 * 2  # of one commit's two entries that are alike in everything, id and all
    nonces = {(each[6:18], each[18:30]) for each in seen}
    assert len(nonces) == len(set(seen))


async def test_no_nonce_is_used_for_two_texts() -> None:
    """A commit that is sent again under its id with other content must not be told apart only by its ciphertext."""
    inner, keys = [MemoryBackend(), MemoryBackend()], Key("tenant", "s")
    commit = creating(entries=(NewEntry("id", "note", b"one"),), puts=puts(k="one"), blobs=(blob("b", "one"),))
    other = replace(commit, entries=(NewEntry("id", "note", b"two"),), puts=puts(k="two"), blobs=(blob("b", "two"),))
    await encrypted(inner[0]).commit(keys, commit)
    await encrypted(inner[1]).commit(keys, other)
    pairs = zip(_stored(await read(inner[0], keys)), _stored(await read(inner[1], keys)), strict=True)
    assert [(one[:18] == two[:18], one[18:30] == two[18:30]) for one, two in pairs] == [(True, False)] * 3


async def test_sizes_are_those_of_the_text() -> None:
    """The largest body is smaller by what sealing adds, and what heads count is what was written, in forks too."""
    inner = MemoryBackend()
    backend, key, fork = encrypted(inner), fresh(), fresh()
    most = backend.capabilities.max_entry_bytes
    assert most == inner.capabilities.max_entry_bytes - OVERHEAD
    with refused(TooLarge) as caught:
        await created(backend, key, entries=(note(bytes(most + 1)),))
    assert f"{most:,}" in str(caught.error)
    async with Store(backend, tenant=key.tenant) as store:
        session = await store.session(key.session_id)
        await session.append(user("hello"), user("there"))
        head = (await read(backend, key)).head
        assert head.counts.bytes == sum(len(body) for body in await bodies(backend, key))
        await backend.copy(key, None, fork, creating())
        assert (await read(backend, fork)).head.counts.bytes == head.counts.bytes


# --- what is not as it was sealed ------------------------------------------------------------------------------------


async def _corrupt(backend: Backend, key: Key, *words: str) -> None:
    with refused(Corrupt) as caught:
        await backend.read(key, EVERYTHING)
    assert [word for word in (f"'{key.session_id}'", *words) if word not in str(caught.error)] == []
    assert [secret for secret in ("SECRET", str(OLD), OLD.hex(), str(NEW)) if secret in str(caught.error)] == []


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_any_changed_byte_is_found(place: int, bit: int, cut: bool) -> None:
    def change(sealed: bytes) -> bytes:
        at = place % len(sealed)
        return sealed[:at] if cut else sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :]

    for parts in ({"entries": notes("SECRET")}, {"puts": puts(a="SECRET")}, {"blobs": (blob("b", "SECRET"),)}):
        asyncio.run(_changed(change, parts))


async def _changed(change: Callable[[bytes], bytes], parts: dict[str, Any]) -> None:
    inner, key = Tampering(MemoryBackend()), fresh()
    backend = encrypted(inner)
    await created(backend, key, **parts)
    assert await backend.read(key, EVERYTHING)
    inner.change = change
    await _corrupt(backend, key)


async def test_a_wrong_key_is_named() -> None:
    inner, key = MemoryBackend(), fresh()
    entry = note("SECRET")
    await created(encrypted(inner, OLD), key, entries=(entry,))
    known = encrypted(inner, OLD)._keys.ids[0].hex()  # pyright: ignore[reportPrivateUsage]
    await _corrupt(encrypted(inner, NEW), key, f"entry {entry.id} (note, seq 1)", known)
    for parts, what in (({"puts": puts(k="SECRET")}, "state key 'k'"), ({"blobs": (blob("b", "SECRET"),)}, "blob files/b")):
        other = fresh()
        await created(encrypted(inner, OLD), other, **parts)
        await _corrupt(encrypted(inner, NEW), other, what, known)


def _elsewhere(entry: NewEntry, sealed: bytes) -> list[Commit]:
    """Commits that put an entry's sealed body where it was not written."""
    changes: list[dict[str, Any]] = [{"id": "other"}, {"kind": "message"}, {"run_id": "r"}, {"agent": "a"}, {"time": 1}]
    return [
        *(creating(entries=(replace(entry, body=sealed, **change),)) for change in changes),
        creating(puts=(Put("k", sealed),)),
        creating(blobs=(BlobPut("files", "k", "text", sealed),)),
    ]


async def test_a_body_is_bound_to_its_entry() -> None:
    """Under another id, kind, run, agent or time, in the state, among the blobs: there it can't be read."""
    entry = note("SECRET")
    for place in range(7):
        inner, key = MemoryBackend(), fresh()
        await created(encrypted(inner), key, entries=(entry,))
        moving = _elsewhere(entry, _stored(await read(inner, key))[0])[place]
        await inner.commit(key, moving)
        await _corrupt(encrypted(inner), key, "its bytes or its place")


async def test_a_value_is_bound_to_its_key_and_session() -> None:
    inner = MemoryBackend()
    backend, tenant = encrypted(inner), fresh().tenant
    await created(backend, Key(tenant, "ada"), puts=puts(a="SECRET", b="SECRET"), entries=notes("SECRET"), blobs=(blob("b", "SECRET"),))
    stored = await read(inner, Key(tenant, "ada"))
    state = {name: row.value for name, row in (stored.state or {}).items()}
    await created(inner, Key(tenant, "swapped"), puts=(Put("a", state["a"]),))
    await _corrupt(backend, Key(tenant, "swapped"), "state key 'a'", "for another session")
    await inner.copy(Key(tenant, "ada"), None, Key(tenant, "stolen"), creating())
    await _corrupt(backend, Key(tenant, "stolen"), "for another session")
    head = (await read(inner, Key(tenant, "ada"))).head
    await inner.commit(Key(tenant, "ada"), writing(head, puts=(Put("a", state["b"]),)))
    await _corrupt(backend, Key(tenant, "ada"), "state key 'a'")


async def test_a_blob_is_bound_to_its_place() -> None:
    for moved in (BlobPut("other", "b", "text", b""), BlobPut("files", "c", "text", b""), BlobPut("files", "b", "html", b"")):
        inner, key = MemoryBackend(), fresh()
        await created(encrypted(inner), key, blobs=(blob("b", "SECRET"),))
        await inner.commit(key, creating(blobs=(replace(moved, data=_stored(await read(inner, key))[0]),)))
        await _corrupt(encrypted(inner), key, f"blob {moved.namespace}/{moved.key}")


async def test_where_a_value_was_written_can_t_be_changed() -> None:
    """In a fork, what it took over is not made its own, nor its own the origin's."""
    inner, tenant = MemoryBackend(), fresh().tenant
    backend, source, fork = encrypted(inner), Key(tenant, "source"), Key(tenant, "fork")
    await created(backend, source, puts=puts(a="SECRET"))
    await backend.copy(source, None, fork, creating(puts=puts(b="SECRET")))
    rows = {name: row.value or b"" for name, row in ((await read(inner, fork)).state or {}).items()}
    homes = {name: sealed[6:18] for name, sealed in rows.items()}
    for name, other in (("a", "b"), ("b", "a")):
        await inner.commit(fork, creating(puts=(Put(name, rows[name][:6] + homes[other] + rows[name][18:]),)))
        await _corrupt(backend, fork, f"state key '{name}'", "its bytes or its place")
        await inner.commit(fork, creating(puts=(Put(name, rows[name]),)))
        assert len(values(await read(backend, fork))) == 2


async def test_names_are_bound_to_their_session() -> None:
    inner = MemoryBackend()
    backend, tenant = encrypted(inner, names=True), fresh().tenant
    for name in ("ada", "bob"):
        await created(backend, Key(tenant, name), patch=HeadPatch(name=f"{name}'s", metadata={"of": name}))
    theirs = (await read(inner, Key(tenant, "ada"))).head
    for patch in (HeadPatch(name=theirs.name), HeadPatch(metadata=theirs.metadata), HeadPatch(name="plain"), HeadPatch(metadata={"x": 1})):
        head = await created(inner, Key(tenant, "eve"), patch=patch)
        await _corrupt(backend, Key(tenant, "eve"))
        with refused(Corrupt):
            await backend.list(Filter(tenant=tenant), None, 10)
        await inner.commit(Key(tenant, "eve"), writing(head, erase=Erase("session")))
    assert [head.name for _, head in (await backend.list(Filter(tenant=tenant), None, 10)).items] == ["bob's", "ada's"]


async def test_metadata_is_merged_by_key_though_nobody_can_read_it() -> None:
    for names in (True, False):
        backend, key = encrypted(names=names), fresh()
        head = await created(backend, key, patch=HeadPatch(metadata={"a": 1, "b": [2], "c": None}))
        head = await wrote(backend, key, head, patch=HeadPatch(metadata={"a": {"x": 1}, "b": None}))
        assert head.metadata == {"a": {"x": 1}}


@pytest.mark.parametrize("patch", [HeadPatch(name="~holdfast.x"), HeadPatch(metadata={"~holdfast.homes": "x"})])
async def test_reserved_names_are_refused(patch: HeadPatch) -> None:
    for commit in (creating(patch=patch), creating(create=Create(1, patch=patch))):
        with refused(InvalidValue):
            await encrypted().commit(fresh(), commit)


# --- forks -----------------------------------------------------------------------------------------------------------


async def test_a_fork_of_a_fork_reads_what_all_of_them_wrote() -> None:
    """Copied inside the database, byte for byte, and after its origins are deleted."""
    inner = MemoryBackend()
    backend, tenant = encrypted(inner, names=True), fresh().tenant
    keys = [Key(tenant, f"s{n}") for n in range(5)]
    head = await created(backend, keys[0], entries=notes("0"), puts=puts(k="0"), blobs=(blob("0", "0"),), patch=HeadPatch(name="0"))
    for n, (source, target) in enumerate(pairwise(keys), 1):
        create = Create(new_incarnation(), exclusive=True, patch=HeadPatch(metadata={"n": n}))
        await backend.copy(source, None, target, creating(create=create, entries=notes(str(n)), blobs=(blob(str(n), str(n)),)))
        head = (await read(backend, source)).head
        await backend.commit(source, writing(head, erase=Erase("session")))
    last = await read(backend, keys[-1])
    assert ([entry.body for entry in last.entries or []], values(last)) == ([b"0", b"1", b"2", b"3", b"4"], {"k": "0"})
    assert contents(last) == {("files", str(n)): b"%d" % n for n in range(5)}
    assert last.head.metadata == {"n": 4}


async def test_the_record_of_a_fork_can_t_be_moved_or_made_up() -> None:
    inner = MemoryBackend()
    backend, tenant = encrypted(inner), fresh().tenant
    ada, fork, eve = (Key(tenant, name) for name in ("ada", "fork", "eve"))
    await created(backend, ada, entries=notes("SECRET"))
    await backend.copy(ada, None, fork, creating())
    record = (await read(inner, fork)).head.metadata
    await inner.copy(ada, None, eve, creating(patch=HeadPatch(metadata=record)))
    await _corrupt(backend, eve, "the record of what it was copied from")
    head = (await read(inner, fork)).head
    await inner.commit(fork, writing(head, patch=HeadPatch(metadata={"~holdfast.homes": "~holdfast.eHg="})))
    await _corrupt(backend, fork, "the record of what it was copied from")


# --- keys change -----------------------------------------------------------------------------------------------------


async def test_a_second_key_takes_over() -> None:
    """Old entries are read with the old key, new ones are written with the new; without the old key only those can be read."""
    inner, key = MemoryBackend(), fresh()
    head = await created(encrypted(inner, OLD), key, entries=notes("old"))
    both = encrypted(inner, NEW, OLD)
    await wrote(both, key, head, entries=notes("new"))
    assert await bodies(both, key) == ["old", "new"]
    await _corrupt(encrypted(inner, NEW), key)
    head = await wrote(both, key, (await read(both, key)).head, hide=(Range(1, 1),))
    assert await bodies(encrypted(inner, NEW), key) == ["new"]


async def test_a_commit_is_recognised_across_a_change_of_keys() -> None:
    inner, key = MemoryBackend(), fresh()
    head = await created(encrypted(inner, OLD), key)
    commit = writing(head, base=0, entries=notes("a"), puts=puts(k="1"), patch=HeadPatch(name="n"))
    first = await encrypted(inner, OLD).commit(key, commit)
    for backend in (encrypted(inner, OLD), encrypted(inner, NEW, OLD), encrypted(inner, NEW, OTHER, OLD)):
        again = await backend.commit(key, commit)
        assert (again.repeated, again.version) == (True, first.version)
        with refused(CommitReused):
            await backend.commit(key, replace(commit, entries=notes("b")))
    assert await bodies(encrypted(inner, OLD), key) == ["a"]


@pytest.mark.parametrize("names", [True, False])
async def test_rotation_leaves_everything_as_it_was(names: bool, tmp_path: Path) -> None:
    """But for the life and the versions; and the old key is needed no more, in a fork either."""
    for inner in (MemoryBackend(), SQLiteBackend(str(tmp_path / "store.db"))):
        key, fork = fresh(), fresh()
        old, both, new = encrypted(inner, OLD, names=names), encrypted(inner, NEW, OLD, names=names), encrypted(inner, NEW, names=names)
        await full(old, key)
        await old.copy(key, None, fork, creating(patch=HeadPatch(name="fork", metadata={"a": 1})))
        for it in (key, fork):
            before = await read(old, it)
            assert await both.rotate(it)
            assert not await both.rotate(it)
            after = await read(new, it)
            assert _kept(after) == _kept(before)
            assert after.head.incarnation != before.head.incarnation
            assert "~holdfast.homes" not in (await read(inner, it)).head.metadata
            with refused(SessionGone):
                await new.commit(it, writing(before.head, user_id="ada", entries=notes("late")))
        await inner.close()


def _kept(it: Any) -> Any:
    head = replace(it.head, incarnation=0, version=0, hides=0)
    return head, [replace(entry, version=0) for entry in it.entries], values(it), it.blobs


async def test_rotation_changes_what_is_hidden() -> None:
    """Names are sealed or opened as they are to be from now on."""
    inner, key = MemoryBackend(), fresh()
    await full(encrypted(inner), key)
    await encrypted(inner, names=True, plain="read").rotate(key)
    assert "name" not in str((await read(inner, key)).head.name)
    assert (await read(encrypted(inner, names=True), key)).head.metadata == {"tag": "a tag"}
    await encrypted(inner).rotate(key)
    assert ((await read(inner, key)).head.name, (await read(inner, key)).head.metadata) == ("a name", {"tag": "a tag"})


async def test_rotation_waits_for_nobody() -> None:
    """A session in use is left alone; one whose run is known to be dead is not."""
    inner, key = MemoryBackend(), fresh()
    head = await created(encrypted(inner), key, entries=notes("a"), claim=ClaimAct("take", "run-1"))
    both = encrypted(inner, NEW, OLD)
    with refused(SessionBusy) as caught:
        await both.rotate(key)
    assert await both.rotate(key, seen=(caught.error.fence, caught.error.beat))
    with refused(SessionGone):
        await both.commit(key, writing(head, fence=head.fence, entries=notes("late")))
    with refused(SessionNotFound):
        await both.rotate(fresh())


async def test_a_write_in_between_stops_a_rotation() -> None:
    """What somebody wrote after the rotation had read the session is not lost: the rotation is refused, and told of by `rotate_all`."""

    class Overtaken(Wrapper):
        async def commit(self, key: Key, commit: Commit) -> Outcome:
            await wrote(old, key, head, base=0, entries=notes("in between"))
            return await self.inner.commit(key, commit)

    inner, key = MemoryBackend(), fresh()
    old = encrypted(inner)
    head = await created(old, key, entries=notes("a"))
    both = encrypted(Overtaken(inner), NEW, OLD)
    with refused(Conflict):
        await both.rotate(key)
    assert list((await both.rotate_all(key.tenant)).left) == [key.session_id]
    assert await bodies(both, key) == ["a", "in between", "in between"]


async def test_all_are_rotated_in_pages_and_from_where_it_stopped() -> None:
    inner, tenant = MemoryBackend(), fresh().tenant
    names = [f"s{n:03}" for n in range(120)]
    for name in names:
        claim = ClaimAct("take", "run") if name == "s007" else None
        await created(encrypted(inner, OTHER if name == "s099" else OLD), Key(tenant, name), entries=notes(name), claim=claim)
    both, told = encrypted(inner, NEW, OLD), list[Rotation]()
    with pytest.raises(KeyboardInterrupt):
        await both.rotate_all(tenant, progress=_stopping(told))
    assert [(it.seen, it.rotated, list(it.left)) for it in told] == [(50, 49, ["s099"])]
    rest = await both.rotate_all(tenant, cursor=told[0].cursor, progress=told.append)
    assert [(it.seen, it.rotated, list(it.left)) for it in told[1:]] == [(50, 50, []), (70, 69, ["s007"])]
    assert (rest.cursor, "held by a run" in rest.left["s007"], "sealed with key" in told[0].left["s099"]) == (None, True, True)
    assert [await bodies(encrypted(inner, NEW), Key(tenant, name)) for name in ("s000", "s119")] == [["s000"], ["s119"]]
    assert (await both.rotate_all(tenant)).rotated == 0


def _stopping(told: list[Rotation]) -> Callable[[Rotation], None]:
    def tell(done: Rotation) -> None:
        told.append(done)
        raise KeyboardInterrupt

    return tell


# --- what was there before -------------------------------------------------------------------------------------------


async def test_what_is_in_clear_is_refused_with_the_way_out() -> None:
    inner, key = MemoryBackend(), fresh()
    await full(inner, key)
    await _corrupt(encrypted(inner), key, "is not encrypted", "plain='read'")
    assert (await read(encrypted(inner), key, ReadPlan())).head.name == "a name"


@pytest.mark.parametrize("names", [True, False])
async def test_a_plain_session_goes_on_encrypted(names: bool) -> None:
    """Read as it is, written to under seal, rotated whole: then it needs no leave to be read."""
    inner, key = MemoryBackend(), fresh()
    await full(inner, key)
    plain = await read(inner, key)
    backend = encrypted(inner, names=names, plain="read")
    assert (await read(backend, key)).entries == plain.entries
    head = await wrote(backend, key, plain.head, user_id="ada", entries=notes("new"), patch=HeadPatch(metadata={"tag": "changed"}))
    assert head.metadata == {"tag": "changed"}
    assert await backend.rotate(key)
    strict = await read(encrypted(inner, names=names), key)
    assert [entry.body for entry in strict.entries or []] == [b"a", b"b", b"c", b"d", b"new"]
    assert (strict.head.name, strict.head.metadata, strict.head.counts) == ("a name", {"tag": "changed"}, plain.head.counts)


# --- how it is set up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [[], [b"short"], b"x" * 32, ["x" * 32], [b"x" * 32, None]])
def test_keys_that_are_none_are_refused(keys: Any) -> None:
    with refused(InvalidValue) as caught:
        EncryptedBackend(MemoryBackend(), keys=keys)
    assert "secrets.token_bytes(32)" in str(caught.error)
    assert "xxx" not in str(caught.error)


def test_another_word_for_plain_is_refused() -> None:
    with refused(InvalidValue):
        encrypted(plain="yes")


@pytest.mark.parametrize(
    ("package", "module", "extra"), [("cryptography", "encryption", "encryption"), ("opentelemetry", "tracing", "otel")]
)
def test_a_missing_package_is_named(package: str, module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nimport holdfast.wrappers.{module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].endswith(f'pip install "holdfast[{extra}]"')
    assert "MissingExtra" in ended.stderr.splitlines()[-1]


def _stored(it: Any) -> list[bytes]:
    """Every sealed value of a session, as it lies in the database."""
    found = [entry.body for entry in it.entries] + [row.value for row in it.state.values()] + [each.data for each in it.blobs]
    return [value for value in found if value is not None]
