"""Ids: what a name may look like, and where fresh ones come from."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from holdfast import InvalidId
from holdfast.ids import check_id, check_session_id, new_id, new_incarnation, new_session_id


@pytest.mark.parametrize("good", ["a", " ", "x" * 1024, "\U0001f600" * 256, "é" * 512, "a b/c?d#e%\\'\"", "~", "~user", "user~app"])
def test_printable_names_up_to_the_limit_are_themselves(good: str) -> None:
    assert check_id(good) == check_session_id(good) == good


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "empty"),
        ("x" * 1025, "1025 bytes.*1024"),
        ("\U0001f600" * 257, "1028 bytes"),
        ("é" * 513, "1026 bytes"),
        ("a\nb", r"'\\n'"),
        ("a\x00b", r"'\\x00'"),
        ("\u202eabc", r"u202e"),
        ("a\ud800", r"udc?800"),
        (5, "int 5"),
        (None, "NoneType"),
        (b"s", "bytes"),
    ],
)
def test_bad_names_are_refused_with_the_reason(bad: Any, words: str) -> None:
    with pytest.raises(InvalidId, match=f"user id.*{words}"):
        check_id(bad, "user id")
    with pytest.raises(ValueError, match="session id"):
        check_session_id(bad)


@pytest.mark.parametrize(
    ("what", "fix"),
    [("session id", "to have one made"), ("run id", "to have one made"), ("user id", "where there is no user"), ("tenant", "only one")],
)
def test_an_empty_name_is_refused_with_the_fix_for_its_kind(what: str, fix: str) -> None:
    with pytest.raises(InvalidId, match=f"{what} is empty: leave it out .*{fix}, or give 1 to 1024 bytes"):
        check_id("", what)


@pytest.mark.parametrize("reserved", ["~user/ada", "~user/", "~app", "~app/x"])
def test_records_of_wider_state_are_no_sessions(reserved: str) -> None:
    assert check_id(reserved) == reserved
    with pytest.raises(InvalidId, match="reserved"):
        check_session_id(reserved)


def test_fresh_ids_are_never_the_same() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend([new_id() for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2000
    assert len({new_session_id() for _ in range(100)}) == 100
    assert all(len(new_session_id()) == 32 and int(new_session_id(), 16) >= 0 for _ in range(10))
    assert all(0 < new_incarnation() < 2**48 for _ in range(100))
    assert all(check_session_id(it) for it in (*found[:10], new_session_id()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_draws_other_ids() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 200).decode()
    os.close(read)
    os.close(write)
    assert theirs[:18] != new_id()[:18]
