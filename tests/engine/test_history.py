"""History: rewound, replaced, forked, moved; the record is never altered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import (
    InvalidId,
    InvalidValue,
    Message,
    Session,
    SessionExists,
    SessionNotFound,
    Store,
    ToolCall,
    UsageError,
    assistant,
    tool,
    user,
)
from holdfast.backend import BlobPut, BlobRange, HeadPatch, Origin, ReadPlan
from holdfast.backends.memory import MemoryBackend
from holdfast.entries import KINDS

from .conftest import VALUES, Database, reopened, texts


async def spoken(store: Store, turns: int = 3) -> Session:
    """q0 a0 q1 a1 ...: seq 1 2 3 4 ..."""
    session = await store.session("s")
    for number in range(turns):
        await session.append(user(f"q{number}"), assistant(f"a{number}"))
    return session


async def seqs(session: Session, **window: Any) -> list[int]:
    return [entry.seq for entry in await session.entries(**window)]


# --- rewind, pop, replace ---


async def test_rewind_to_a_place_hides_what_came_after_and_keeps_it(store: Store) -> None:
    session = await spoken(store)
    assert await session.rewind(to=2) == 4
    for seen in (session, await reopened(session, store)):
        assert await texts(seen) == ["q0", "a0"]
        assert [entry.hidden for entry in await seen.entries(hidden=True)] == [False] * 2 + [True] * 4
    await session.append(user("instead"))
    assert await texts(await reopened(session, store)) == ["q0", "a0", "instead"]
    assert await seqs(session) == [1, 2, 7]
    assert [m.text for m in await session.get_messages(last=2)] == ["a0", "instead"]


async def test_rewind_takes_the_newest_messages_with_what_follows_them(store: Store) -> None:
    session = await spoken(store)
    async with session.run(user("q3")) as run:
        await run.finish(assistant("a3"))
    assert await session.rewind(last=2) == 3
    assert await texts(await reopened(session, store)) == ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert await session.rewind(last=100) == 7
    assert await seqs(session) == []
    assert await session.rewind(last=1) == 0
    assert len(await session.entries(hidden=True)) == 10


async def test_rewinding_nothing_writes_nothing(store: Store) -> None:
    session = await spoken(store)
    version = session.version
    assert await session.rewind(to=6) == 0
    assert await session.rewind(to=100) == 0
    assert session.version == version == (await reopened(session, store)).version


@pytest.mark.parametrize("options", [{}, {"to": 1, "last": 1}, {"last": 0}, {"last": -1}, {"to": -1}])
async def test_a_rewind_says_where_to(store: Store, options: dict[str, int]) -> None:
    session = await spoken(store)
    with pytest.raises(UsageError, match=r"to=|last=|messages"):
        await session.rewind(**options)
    assert len(await texts(session)) == 6


async def test_pop_hides_the_newest_message_and_returns_it(store: Store) -> None:
    session = await spoken(store, 1)
    async with session.run():
        pass
    popped = await session.pop()
    assert popped == assistant("a0")
    assert popped is not None
    assert popped.id == (await session.entries(hidden=True))[1].id
    assert await texts(await reopened(session, store)) == ["q0"]
    assert await session.pop() == user("q0")
    assert await session.pop() is None
    assert [run.status for run in await session.runs()] == ["completed"]


async def test_what_many_pop_at_once_nobody_gets_twice(store: Store) -> None:
    await spoken(store, 4)

    async def pop() -> Message | None:
        return await (await store.session("s")).pop()

    popped = [message for message in await asyncio.gather(*(pop() for _ in range(10))) if message is not None]
    assert sorted(message.text for message in popped) == sorted(f"{who}{n}" for who in "qa" for n in range(4))


async def test_replace_puts_other_messages_in_place_of_all(store: Store) -> None:
    session = await spoken(store)
    session.set("staged", 1)
    assert await session.replace([user("short")]) == session.version
    assert await texts(await reopened(session, store)) == ["short"]
    assert [entry.hidden for entry in await session.entries(hidden=True)] == [True] * 6 + [False]
    await session.replace([])
    assert await texts(session) == []
    assert (await session.commit(), (await reopened(session, store)).get("staged")) == (session.version, 1)


async def test_a_rewind_beside_an_append_hides_only_what_it_saw(store: Store) -> None:
    """Each `rewind(to=2)` hides all there is after 2 at its moment; an append is hidden by a later one or not at all, never half."""
    session = await spoken(store)

    async def add(number: int) -> None:
        await (await store.session("s")).append(user(f"n{number}"), assistant(f"m{number}"))

    async def rewind() -> int:
        return await (await store.session("s")).rewind(to=2)

    results = await asyncio.gather(*(job for number in range(6) for job in (add(number), rewind())))
    hidden = sum(result or 0 for result in results)
    entries = await session.entries(hidden=True)
    assert [entry.seq for entry in entries] == list(range(1, 19))
    assert hidden >= sum(entry.hidden for entry in entries) >= 4
    left = await texts(await reopened(session, store))
    assert left[:2] == ["q0", "a0"]
    assert [text[1:] for text in left[::2]] == [text[1:] for text in left[1::2]]


async def test_a_rewind_reaches_a_store_that_knew_the_longer_history(db: Database) -> None:
    here, there = db.store(), db.store()
    session = await spoken(here)
    elsewhere = await there.session("s")
    assert len(await texts(elsewhere)) == 6
    await session.rewind(to=2)
    assert await texts(elsewhere) == ["q0", "a0"]
    await session.append(user("new"))
    assert await texts(elsewhere) == ["q0", "a0", "new"]


# --- windows ---


async def test_windows_over_the_log(store: Store) -> None:
    session = await store.session("s")
    for number in range(4):
        async with session.run(user(f"q{number}"), run_id=f"r{number}") as run:
            await run.finish(assistant(f"a{number}"))
    assert await seqs(session) == list(range(1, 17))
    assert await seqs(session, last=3) == [14, 15, 16]
    assert await seqs(session, after=3, before=7) == [4, 5, 6]
    assert await seqs(session, after=3, before=7, last=2) == [5, 6]
    assert await seqs(session, kinds=("message",), last=3) == [11, 14, 15]
    assert await seqs(session, kinds=("run", "message"), before=5) == [1, 2, 3, 4]
    assert await seqs(session, run_id="r1") == [5, 6, 7, 8]
    assert await seqs(session, run_id="r1", kinds=("run",)) == [5, 8]
    assert await seqs(session, after=16) == await seqs(session, before=1) == await seqs(session, last=0) == []
    await session.rewind(to=14)
    assert await seqs(session, last=3) == [12, 13, 14]
    assert await seqs(session, last=3, hidden=True) == [14, 15, 16]
    entry = (await session.entries(after=1, before=3))[0]
    assert (entry.kind, entry.message(), entry.data()["role"]) == ("message", user("q0"), "user")
    assert entry.kind in KINDS


async def test_a_long_history_is_read_whole_and_by_window(store: Store) -> None:
    session = await store.session("s")
    for start in range(0, 1500, 500):
        await session.append(*(user(f"{number}") for number in range(start, start + 500)))
    assert await texts(await reopened(session, store)) == [f"{number}" for number in range(1500)]
    assert [m.text for m in await session.get_messages(last=2, before=700)] == ["697", "698"]
    assert len(await session.get_chat_history(last=600)) == 600


# --- forks ---


async def test_a_fork_is_a_whole_copy_that_goes_its_own_way(store: Store) -> None:
    session = await store.session("s", user_id="ada", kind="team")
    await session.rename("Planning")
    await session.update_metadata(ticket=7)
    session.set("k", [1])
    await session.append(user("q0"), assistant("a0"), user("q1"))
    session.set("staged", True)
    fork = await session.fork("copy")
    assert (fork.id, fork.user_id, fork.info.user_id, fork.info.kind) == ("copy", "ada", "ada", "team")
    assert (fork.name, fork.metadata) == ("Planning", {"ticket": 7})
    assert (fork.info.origin, session.info.origin) == (Origin("s", session.version), None)
    fork.get("k").append(2)
    await fork.append(assistant("a1"))
    await session.append(assistant("other"))
    later = await reopened(fork, store)
    assert (await texts(later), dict(later.state)) == (["q0", "a0", "q1", "a1"], {"k": [1, 2]})
    original = await reopened(session, store)
    assert (await texts(original), dict(original.state)) == (["q0", "a0", "q1", "other"], {"k": [1], "staged": True})
    assert later.info.counts.messages == 4


async def test_a_fork_outlives_its_origin(store: Store) -> None:
    session = await spoken(store, 1)
    fork = await session.fork()
    assert fork.id != "s"
    await session.delete()
    assert await texts(await reopened(fork, store)) == ["q0", "a0"]
    assert fork.info.origin is not None
    assert fork.info.origin.session_id == "s"


async def test_a_fork_at_a_place_of_a_fork_of_what_is_visible(store: Store) -> None:
    session = await spoken(store)
    await session.rewind(to=4)
    await session.append(user("q9"), assistant("a9"))
    first = await session.fork("first", at=7, name="try one")
    assert (await texts(first), first.name) == (["q0", "a0", "q1", "a1", "q9"], "try one")
    assert await seqs(first, hidden=True) == [1, 2, 3, 4, 5]
    second = await first.fork("second", at=2)
    assert (await texts(second), second.name) == (["q0", "a0"], "try one")
    assert second.info.origin is not None
    assert second.info.origin.session_id == "first"
    assert await texts(await second.fork("third", at=0)) == []
    await second.append(user("more"))
    assert await seqs(second) == [1, 2, 3]


async def test_a_fork_is_refused_where_there_is_a_session_and_leaves_it_alone(store: Store) -> None:
    session = await spoken(store, 1)
    await (await store.session("taken")).append(user("mine"))
    with pytest.raises(SessionExists, match="'taken'"):
        await session.fork("taken")
    with pytest.raises(InvalidId, match="session id"):
        await session.fork("")
    assert await texts(await store.session("taken")) == ["mine"]
    assert len((await store.list()).items) == 2


async def test_a_fork_in_a_run_takes_no_claim_along(store: Store) -> None:
    session = await store.session("s")
    async with session.run(user("hi")):
        fork = await session.fork("copy")
        async with fork.run(user("more"), wait=0):
            pass
    assert await texts(fork) == ["hi", "more"]


# --- export and import ---


async def full(store: Store) -> Session:
    """A session with something of everything."""
    session = await store.session("s", user_id="ada", kind="team", parent="p")
    await session.rename("Ünïcode \U0001f600")
    await session.update_metadata(ticket=7, nested={"a": [1, None]})
    await session.set_ttl(3600)
    session.service_session_id = {"thread": "t1"}
    for key, value in VALUES.items():
        session.set(key, value)
    session.get_non_volatile_cache()["kept"] = [1]
    async with session.run(user("hi"), run_id="r1", agent="helper") as run:
        await run.append(Message("assistant", (ToolCall("look", "c1", {"q": "ü"}),)), tool({"r": [1]}, call_id="c1"))
        await run.finish(assistant("done"))
    await session.append(user("wrong"), assistant("gone"))
    await session.rewind(last=1)
    await session.append(assistant("right"))
    await session.write(blobs=(BlobPut("files", "a", "png", b"\x00\xff"), BlobPut("files", "b", "none", b"")), staged=False)
    return session


async def exported(store: Store, session_id: str = "s", user_id: str | None = "ada") -> list[str]:
    return [line async for line in store.export(session_id, user_id=user_id)]


async def test_an_import_is_the_session_again(db: Database) -> None:
    store, other = db.store(), Store(MemoryBackend())
    session = await full(store)
    lines = await exported(store)
    assert not [line for line in lines if "\n" in line]
    again = await other.import_(line + "\n" for line in lines)
    assert (await other.get("s", user_id="bob"), again.user_id) == (None, "ada")
    later = await reopened(again, other)
    assert [m.text for m in await later.get_messages()] == [m.text for m in await session.get_messages()]
    assert (dict(later.state), dict(later.get_non_volatile_cache())) == (VALUES, {"kept": [1]})
    assert (later.name, later.metadata, later.service_session_id) == (session.name, session.metadata, {"thread": "t1"})
    assert [(run.id, run.status) for run in await later.runs()] == [("r1", "completed")]
    assert (later.info.kind, later.info.parent, later.info.counts) == ("team", "p", session.info.counts)
    assert later.info.created_at == session.info.created_at
    found = await other.backend.read(later.key, ReadPlan(blobs=(BlobRange(),)))
    assert found is not None
    assert [(blob.key, blob.data) for blob in found.blobs or ()] == [("a", b"\x00\xff"), ("b", b"")]
    first, *rest = await exported(other)
    assert rest == lines[1:]
    assert steady(json.loads(first)) == steady(json.loads(lines[0]))
    await later.append(user("on"))
    assert (await later.get_messages(last=1))[0].text == "on"


def steady(line: dict[str, Any]) -> dict[str, Any]:
    """The head's line without what belongs to one life of a session in one store."""
    passing = ("incarnation", "version", "updated", "expires", "fence", "hides")
    return line | {"head": {name: value for name, value in line["head"].items() if name not in passing}}


async def test_an_import_under_another_id_and_owner(store: Store) -> None:
    await full(store)
    lines = await exported(store)
    with pytest.raises(SessionExists, match="'s'"):
        await store.import_(lines)
    copy = await store.import_(lines, session_id="copy", user_id="bob")
    assert (copy.id, copy.info.user_id) == ("copy", "bob")
    assert (await exported(store, "copy", "bob"))[1:] == lines[1:]
    for options in ({"session_id": ""}, {"user_id": ""}, {"session_id": "~app"}):
        with pytest.raises(InvalidId):
            await store.import_(lines, **options)


async def test_what_waits_for_a_human_still_waits_after_the_move(store: Store) -> None:
    session = await store.session("s")
    await session.write(patch=HeadPatch(waiting=True), staged=False)
    await store.import_(await exported(store, user_id=None), session_id="copy")
    assert [item.id for item in (await store.list(waiting=True)).items] == ["copy", "s"]


async def test_there_is_no_export_of_what_is_not_there(store: Store) -> None:
    with pytest.raises(SessionNotFound, match="'s'"):
        await exported(store)


Break = Callable[[list[str]], list[str]]


def edited(lines: list[str], type_: str, **fields: Any) -> list[str]:
    """The lines with `fields` of the first line of `type_` set, or taken away where the value is `...`."""
    place = next(number for number, line in enumerate(lines) if json.loads(line)["type"] == type_)
    data = {key: value for key, value in (json.loads(lines[place]) | fields).items() if value is not ...}
    return [*lines[:place], json.dumps(data), *lines[place + 1 :]]


def without(lines: list[str], kind: str, place: int = 0) -> list[str]:
    at = [number for number, line in enumerate(lines) if json.loads(line)["type"] == kind][place]
    return lines[:at] + lines[at + 1 :]


BROKEN: dict[str, tuple[Break, str]] = {
    "nothing": (lambda lines: [], "not an export|line 1"),
    "no head": (lambda lines: lines[1:], "line 1"),
    "a missing state line": (lambda lines: without(lines, "state"), r"line \d+"),
    "a missing entry": (lambda lines: without(lines, "entry"), r"line \d+.*entry 2 where 1"),
    "the last entry missing": (lambda lines: without(lines, "entry", -1), r"line \d+"),
    "a missing blob": (lambda lines: without(lines, "blob"), r"line \d+"),
    "cut short": (lambda lines: lines[:-1], "cut short"),
    "cut in a line": (lambda lines: [*lines[:5], lines[5][:-7]], "line 6"),
    "the wrong order": (lambda lines: edited(edited(lines, "entry", seq=2), "session"), "entry 2 where 1"),
    "two sessions": (lambda lines: [*lines, *lines], r"line \d+"),
    "an unknown type": (lambda lines: edited(lines, "state", type="dream"), "line 2.*'dream'"),
    "bad base64": (lambda lines: edited(lines, "blob", data="AP8=!"), r"line \d+"),
    "short base64": (lambda lines: edited(lines, "blob", data="AP8"), r"line \d+"),
    "a newer form": (lambda lines: edited(lines, "session", holdfast=99), "line 1.*99.*upgrade"),
    "a newer form of a value": (lambda lines: edited(lines, "state", value=[99, 1]), "line 2.*99"),
    "a value that is none": (lambda lines: edited(lines, "state", value={"a": 1}), "line 2"),
    "no value": (lambda lines: edited(lines, "state", value=...), "line 2"),
    "a bad key": (lambda lines: edited(lines, "state", key=""), "line 2.*key"),
    "no body": (lambda lines: edited(lines, "entry", body=...), r"line \d+"),
    "a message that is none": (lambda lines: edited(lines, "entry", kind="message", body={"role": 5}), r"line \d+"),
    "no JSON": (lambda lines: [lines[0], "{nonsense", *lines[1:]], "line 2"),
    "another JSON": (lambda lines: [lines[0], "[1, 2]", *lines[1:]], "line 2"),
    "no session in the head": (lambda lines: edited(lines, "session", head=...), "line 1|head"),
    "a bad id": (lambda lines: edited(lines, "session", session_id="a\nb"), "session id"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_export_is_refused_whole_and_the_line_named(store: Store, kind: str) -> None:
    break_, words = BROKEN[kind]
    await full(store)
    lines = await exported(store)
    await store.delete("s", user_id="ada")
    with pytest.raises(InvalidValue if kind != "a bad id" else UsageError, match=words):
        await store.import_(break_(lines))
    assert (await store.list()).items == []
    await store.import_(lines)
