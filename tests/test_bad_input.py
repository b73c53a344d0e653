# ruff: noqa: ASYNC240  # small files of the test itself
"""What is wrong with a URL or a file is said before anything is written: which thing it is, and the way out."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast import (
    InvalidId,
    InvalidURL,
    InvalidValue,
    NotAStore,
    SchemaMismatch,
    Store,
    StoreError,
    StoreUnavailable,
    sync,
    user,
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative paths end up here, where nothing may appear."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD_URLS = {
    "": "''.*sqlite:///chat.db",
    "chat.db": "'chat.db'.*sqlite:///",
    "oracle://host/db": "oracle://host/db.*memory://.*sqlite://",
    "SQLITE:///chat.db": "sqlite:///",
    "sqlite:chat.db": "sqlite:///",
    "sqlite:/chat.db": "sqlite:///",
    "sqlite://": "three or four slashes",
    "sqlite:///": "three or four slashes",
    "sqlite://chat.db": "three or four slashes",
    "sqlite://host/chat.db": "three or four slashes",
    "sqlite://[::1/chat.db": "sqlite://",
    "sqlite:///:memory:": "memory://",
    "sqlite:///chat.db#1": "%23",
    "sqlite:///a%00b.db": "character",
    "sqlite:///a\tb.db": "character",
    "sqlite:///a%0Ab.db": "character",
    "memory://chat": "takes nothing after it",
    "memory://?cache=1": "takes nothing after it",
    "sqlite:///chat.db?sync=full": "'sync'.*busy_timeout, synchronous",
    "sqlite:///chat.db?synchronous=maybe": "synchronous='maybe'.*full, normal or off",
    "sqlite:///chat.db?synchronous": "synchronous=''",
    "sqlite:///chat.db?busy_timeout=soon": "busy_timeout='soon'.*number of seconds",
    "sqlite:///chat.db?busy_timeout=-1": "busy_timeout='-1'.*between",
    "sqlite:///chat.db?busy_timeout=nan": "busy_timeout='nan'.*between",
    "sqlite:///chat.db?busy_timeout=1e9": "busy_timeout='1e9'.*between",
    "sqlite:///chat.db?synchronous=full&synchronous=off": "synchronous.*twice",
}


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_with_the_fix(url: str, empty_folder: Path) -> None:
    with pytest.raises(InvalidURL, match=BAD_URLS[url]):
        Store.open(url)
    assert os.listdir(empty_folder) == []


@pytest.mark.parametrize(
    "url",
    [
        "oracle://ada:secret@host/db",
        "oracle://:secret@host/db",
        "oracle://ada:p@secret@host/db",
        "oracle://ada:a/secret@host/db",
        "oracle:/ada:secret@host/db",
        "ada:secret@host/db",
        "sqlite://ada:secret@host/chat.db",
        "oracle://host/db?password=secret",
        "sqlite:///chat.db?password=secret",
        "memory://ada:secret@host",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("url", [None, 5, b"memory://", Path("chat.db")])
def test_a_url_is_text(url: object) -> None:
    with pytest.raises(InvalidURL, match=type(url).__name__):
        Store.open(url)  # type: ignore[arg-type]


def test_bad_options_of_a_store_are_refused() -> None:
    with pytest.raises(InvalidValue, match="cache=-1"):
        Store.open("memory://", cache=-1)
    with pytest.raises(InvalidValue, match="cache='x': give the number"):
        Store.open("memory://", cache="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"Store\.open\('sqlite:///chat\.db'\)"):
        Store("sqlite:///chat.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"Store\.open"):
        sync.Store("sqlite:///chat.db")  # type: ignore[arg-type]
    for ttl in (0, float("nan")):
        with pytest.raises(InvalidValue, match=f"ttl {ttl}"):
            Store.open("memory://", ttl=ttl)
    with pytest.raises(InvalidId, match="tenant"):
        Store.open("memory://", tenant="")


def test_opening_by_url_touches_nothing_until_it_is_used(empty_folder: Path) -> None:
    Store.open("sqlite:///chat.db", cache=16)
    assert os.listdir(empty_folder) == []


@pytest.mark.parametrize("name", ["with%20space.db", "a%23b.db", "a%3Fb.db", "%C3%BC.db", "100%25.db"])
async def test_a_name_with_odd_characters_is_that_file(name: str, empty_folder: Path) -> None:
    from urllib.parse import unquote

    async with Store.open(f"sqlite:///{name}") as store:
        await store.session("s")
    assert os.listdir(empty_folder) == [unquote(name)]


# --- files ---


async def refused(url: str, kind: type[StoreError], words: str) -> None:
    """Every way into the store must be refused, `async with` and the first use."""
    with pytest.raises(kind, match=words):
        async with Store.open(url):
            raise AssertionError("not reached")
    uses: list[Callable[[Store], Awaitable[object]]] = [lambda store: store.session("s"), Store.list, Store.sweep]
    for use in uses:
        store = Store.open(url)
        with pytest.raises(kind, match=words):
            await use(store)
        await store.close()


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\x00" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_left_alone(content: bytes, empty_folder: Path) -> None:
    Path("notes.txt").write_bytes(content)
    await refused("sqlite:///notes.txt", NotAStore, r"notes\.txt.*not a SQLite database.*another file")
    assert Path("notes.txt").read_bytes() == content
    assert os.listdir(empty_folder) == ["notes.txt"]


async def test_somebody_elses_database_is_left_alone(empty_folder: Path) -> None:
    with sqlite3.connect("theirs.db") as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = Path("theirs.db").read_bytes()
    await refused("sqlite:///theirs.db", NotAStore, r"theirs\.db.*belongs to something else")
    assert Path("theirs.db").read_bytes() == before
    assert os.listdir(empty_folder) == ["theirs.db"]


async def test_a_store_of_a_later_holdfast_says_upgrade(empty_folder: Path) -> None:
    async with Store.open("sqlite:///chat.db") as store:
        await store.session("s")
    connection = sqlite3.connect("chat.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    await refused("sqlite:///chat.db", SchemaMismatch, r"chat\.db.*99.*upgrade holdfast")


async def test_a_folder_is_no_file(empty_folder: Path) -> None:
    Path("sub").mkdir()
    await refused("sqlite:///sub", StoreUnavailable, "sub.*it is a folder")
    assert os.listdir("sub") == []


async def test_a_missing_folder_is_named(empty_folder: Path) -> None:
    await refused("sqlite:///no/such/chat.db", StoreUnavailable, f"make the folder {empty_folder}/no/such first")
    assert os.listdir(empty_folder) == []


async def test_an_empty_file_becomes_a_store(empty_folder: Path) -> None:
    Path("chat.db").touch()
    async with Store.open("sqlite:///chat.db") as store:
        assert await (await store.session("s")).append(user("hi"))
