"""`holdfast copy`: what it says, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holdfast import user
from holdfast.cli.app import app
from holdfast.sync import Store as SyncStore


@pytest.fixture
def urls(tmp_path: Path) -> tuple[str, str]:
    """A store with two sessions, and where there is none yet."""
    source, target = (f"sqlite:///{tmp_path / name}.db" for name in ("source", "target"))
    with SyncStore.open(source) as store:
        for name in ("ada-1", "ada-2"):
            store.session(name, user_id="ada").append(user("hi"))
    return source, target


def cli(*words: str) -> Result:
    return CliRunner().invoke(app, ["copy", *words])


def test_the_terminal_copies_tells_and_finishes(urls: tuple[str, str]) -> None:
    first = cli(*urls)
    assert (first.exit_code, first.stdout) == (
        0,
        "2 sessions in 1 pass: 2 made, 0 brought up to date, 0 taken away\nverified: 2 sessions the same on both sides\n",
    )
    assert first.stderr == "pass 1: 2 of 2 sessions\nverifying: 2 of 2 sessions\n"
    with SyncStore.open(urls[0]) as store:
        store.session("ada-1", user_id="ada").append(user("more"))
    told = json.loads(cli(*urls, "--finish", "--json").stdout)
    assert (told["copied"]["brought"], told["verified"]["same"], told["finished"], told["tenant"]) == (1, 2, 2, "default")
    assert cli(*urls, "--no-verify", "--tenant", "other").stdout.startswith("0 sessions in 1 pass: ")


def test_the_terminal_names_what_it_left_alone(urls: tuple[str, str]) -> None:
    with SyncStore.open(urls[1]) as store:
        store.session("ada-1").append(user("mine"))
    done = cli(*urls, "--finish")
    assert done.exit_code == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[2:] == ["1 session not copied, or different:", "id why", "ada-1 there already, and not made by a copy: left as it is"]
    assert done.stderr.endswith("not finished: copy again\n")
    with SyncStore.open(urls[1], as_admin=True) as store:
        assert [it.text for it in store.session("ada-1").get_messages()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("{0}", "{0}"), "the two stores are one and the same"),
        (("{1}", "{0}"), "there is no such file"),
        (("{0}", "{1}", "--user", "ada"), "leave out --user and --store"),
        (("{0}", "{1}", "-s", "{0}"), "leave out --user and --store"),
        (("{0}", "mysql://x"), "must begin with one of"),
        (("{0}",), "Missing argument"),
    ],
)
def test_the_terminal_refuses(urls: tuple[str, str], words: tuple[str, ...], why: str) -> None:
    done = cli(*(word.format(*urls) for word in words))
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
    assert not Path(urls[1].removeprefix("sqlite:///")).exists()


def test_a_bar_is_shown_on_a_terminal(urls: tuple[str, str]) -> None:
    primary, secondary = pty.openpty()
    command = [Path(sys.executable).with_name("holdfast"), "copy", *urls]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=secondary, env=os.environ | {"TERM": "xterm"}, check=True)
    os.close(secondary)
    shown = os.read(primary, 65536).decode()
    os.close(primary)
    assert "verifying" in shown
    assert "2/2" in shown
    assert b"2 sessions in 1 pass" in done.stdout
