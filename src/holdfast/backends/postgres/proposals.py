"""Commits as proposals: judged here by `rules.judge` upon a known head, applied there if that head is still the one.

Nothing here waits: `propose` makes the arguments of the database's function, `settled` says what its answer means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.structs import replace
from psycopg.types.numeric import Int8

from ...backend import Commit, Counts, Head, Key
from ...entries import NewEntry
from ...errors import SessionGone
from ...ids import now
from ...rules import alive, digest, judge, mere_contact
from .heads import Known, decode_head, encode_head
from .plans import LAST_KEY, MOST, Statement

Arguments = dict[str, Any]


class Facts(NamedTuple):
    """What the database says about a session and a commit, with the session locked."""

    done: bool
    known: Known | None
    seen: tuple[int, bytes, int] | None
    """(version, digest, seq) of this very commit, applied before."""
    buried: bool
    versions: list[int] | None
    """Of the state keys whose version the commit names."""


class Source(NamedTuple):
    """What a copy takes: from which session, up to which seq, and how much that is."""

    n: int
    upto: int
    entries: int
    counts: Counts


class Proposal(NamedTuple):
    """A judged commit: the head it makes (None: the session goes), and how it is told to the database."""

    head: Head | None
    version: int
    seq: int
    data: bytes
    arguments: Arguments


def asking(key: Key, commit: Commit) -> Arguments:
    """The arguments that find out the facts, and lock the session; those of a proposal come on top."""
    arguments: Arguments = {
        "tenant_": key.tenant,
        "session_": key.session_id,
        "n_": None,
        "rev_": Int8(0),
        "commit_": commit.id,
        "base_": Int8(commit.base),
    }
    if commit.create is not None:
        arguments["creates_"] = Int8(commit.create.incarnation)
    if expected := [put for put in commit.puts if put.if_version is not None]:
        arguments["expected_keys_"] = [put.key for put in expected]
        arguments["expected_versions_"] = [Int8(put.if_version) for put in expected if put.if_version is not None]
    if mere_contact(commit):
        arguments["waits_"] = False
    return arguments


def propose(key: Key, commit: Commit, known: Known | None, versions: list[int] | None, source: Source | None = None) -> Proposal:
    """The commit judged upon `known`, as `rules.judge` raises. Without `versions`, state keys are taken to be at those it names."""
    stored = None if known is None else decode_head(key, known.data)
    living = alive(stored, now())
    if stored and not living and commit.create is not None and commit.create.incarnation == stored.incarnation:
        raise SessionGone(f"{key} is gone: it was deleted or expired since you last saw it")
    head = judge(key, living, commit, _key_version(commit, versions))
    arguments = asking(key, commit)
    arguments |= {"n_": known and Int8(known.n), "rev_": known and Int8(known.rev)}
    if stored and (head is None or living is None or commit.erase is not None):
        arguments |= {"ends_": True, "anew_": living is None, "time_": Int8(now())}
    if head is None:
        return Proposal(None, stored.version + 1 if stored else 0, 0, b"", arguments)
    if source is not None:
        head = replace(head, seq=head.seq + source.entries, counts=head.counts + source.counts)
        arguments |= {"source_": Int8(source.n), "upto_": Int8(source.upto)}
    data = encode_head(head)
    arguments |= _head_arguments(head, data)
    if living is None or head.version > living.version:
        arguments["digest_"] = digest(commit)
    arguments |= _contents(commit)
    return Proposal(head, head.version, head.seq, data, arguments)


def _key_version(commit: Commit, versions: list[int] | None) -> Callable[[str], int]:
    named = [put for put in commit.puts if put.if_version is not None]
    found = {put.key: put.if_version or 0 for put in named} if versions is None else {}
    found |= {put.key: version for put, version in zip(named, versions or (), strict=False)}
    return lambda key: found.get(key, 0)


def _head_arguments(head: Head, data: bytes) -> Arguments:
    """The head and its columns; what is at its default is left out."""
    arguments: Arguments = {
        "head_": data,
        "version_": Int8(head.version),
        "seq_": Int8(head.seq),
        "incarnation_": Int8(head.incarnation),
    }
    if head.floor:
        arguments["floor_"] = Int8(head.floor)
    if head.user_id is not None:
        arguments["user_"] = head.user_id
    if head.waiting:
        arguments["waiting_"] = True
    if head.expires is not None:
        arguments["expires_"] = Int8(head.expires)
    return arguments


def _contents(commit: Commit) -> Arguments:
    """What the commit writes beside the head."""
    arguments: Arguments = {}
    if drops := commit.drops:
        arguments["drop_spaces_"] = [it.namespace for it in drops]
        arguments["drop_first_"] = [it.prefix if it.key is None else it.key for it in drops]
        arguments["drop_last_"] = [it.prefix + LAST_KEY if it.key is None else it.key for it in drops]
    if blobs := commit.blobs:
        arguments["blob_spaces_"], arguments["blob_keys_"] = [it.namespace for it in blobs], [it.key for it in blobs]
        arguments["blob_types_"], arguments["blob_data_"] = [it.type for it in blobs], [it.data for it in blobs]
        arguments["blob_absent_"] = [it.if_absent for it in blobs]
    if commit.puts:
        arguments |= _puts({put.key: put.value for put in commit.puts})
    if commit.entries:
        arguments |= _entries(commit.entries)
    if commit.hide:
        arguments["hide_first_"] = [Int8(max(it.first, 0)) for it in commit.hide]
        arguments["hide_last_"] = [Int8(min(it.last, MOST)) for it in commit.hide]
    return arguments


def _entries(entries: tuple[NewEntry, ...]) -> Arguments:
    runs, agents = [it.run_id for it in entries], [it.agent for it in entries]
    arguments: Arguments = {
        "entry_ids_": [it.id for it in entries],
        "entry_kinds_": [it.kind for it in entries],
        "entry_times_": [Int8(it.time) for it in entries],
        "entry_bodies_": [it.body for it in entries],
    }
    if any(run is not None for run in runs):
        arguments["entry_runs_"] = runs
    if any(agent is not None for agent in agents):
        arguments["entry_agents_"] = agents
    return arguments


def _puts(values: dict[str, bytes | None]) -> Arguments:
    kept = {key: value for key, value in values.items() if value is not None}
    arguments: Arguments = {"put_keys_": list(kept), "put_values_": list(kept.values())} if kept else {}
    return arguments | ({"bury_keys_": buried} if (buried := [key for key, value in values.items() if value is None]) else {})


def call(function: bytes, arguments: Arguments) -> Statement:
    """The call of the database's function with these arguments; its rows are for `facts`."""
    return _call(function, tuple(arguments)), arguments


@lru_cache(512)
def _call(function: bytes, names: tuple[str, ...]) -> bytes:
    return function + f"({', '.join(f'{name} => {_value(name)}' for name in names)})".encode()


def _value(name: str) -> str:
    """Bytes and arrays go in their binary form."""
    return f"%({name})b" if name in ("head_", "digest_") else f"%({name})b{_ARRAYS[name]}" if name in _ARRAYS else f"%({name})s"


_ARRAYS = (
    dict.fromkeys(
        ("expected_versions_", "entry_times_", "hide_first_", "hide_last_"),
        "::bigint[]",
    )
    | dict.fromkeys(("blob_data_", "put_values_", "entry_bodies_"), "::bytea[]")
    | {"blob_absent_": "::boolean[]"}
    | dict.fromkeys(
        (
            *("expected_keys_", "drop_spaces_", "drop_first_", "drop_last_", "blob_spaces_", "blob_keys_", "blob_types_"),
            *("put_keys_", "bury_keys_", "entry_ids_", "entry_kinds_", "entry_runs_", "entry_agents_"),
        ),
        "::text[]",
    )
)


def facts(row: tuple[Any, ...]) -> Facts:
    done, n, rev, head, version, seen, seq, buried, versions = row
    known = None if n is None or head is None else Known(n, rev, head)
    return Facts(done, known, None if version is None else (version, seen, seq), buried, versions)


def applied(row: tuple[Any, ...], proposal: Proposal) -> Known | None:
    """The head as it is stored now that the proposal is."""
    return None if proposal.head is None else Known(row[1], row[2], proposal.data)
