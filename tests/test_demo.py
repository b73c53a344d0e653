"""`make demo` as a newcomer runs it: no key, no terminal, to its end."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from examples import demo
from holdfast.testing.model_server import ModelServer

DEMO = Path(demo.__file__)
LINE = demo.Line("user", "hi")
OTHER = demo.Line("user", "still there?")


def run(**env: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run([sys.executable, DEMO], env=clean | env, capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_kills_its_app_and_shows_that_nothing_is_lost() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert "none: a local server answers from a script" in out
    pids = re.findall(r"process (\d+)", out)
    assert len(set(pids)) == 2
    assert f"kill -9 {pids[0]}: ended by signal 9 (SIGKILL)" in out
    assert re.search(r"14 +tool +Refund R-1007 started", out)
    assert re.search(r"desk +\[scripted\] Refund R-1007 started for order 1007", out)
    assert re.search(r"runs +completed, completed, interrupted, completed\n", out)
    assert re.search(r"integrity check +clean", out)
    assert "MISSING" not in out
    assert out.endswith("\n\nNothing lost: 9 of 9 stored messages were sent again after the restart.\n")
    assert all(len(line) <= demo.WIDE for line in out.splitlines() if "sqlite:///" not in line)
    line = re.search(r"look further +(.+)", out)
    assert line
    shown = subprocess.run(line[1].split(), capture_output=True, text=True, check=True)
    assert "It came broken. Please refund it." in shown.stdout


def test_with_a_key_it_relays_to_the_real_api() -> None:
    with ModelServer(demo.scripted) as upstream:
        done = run(OPENAI_API_KEY="not-to-be-shown", OPENAI_BASE_URL=upstream.base_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"the real one at {upstream.base_url}, relayed" in done.stdout
        assert "Nothing lost: 9 of 9" in done.stdout
        assert "not-to-be-shown" not in done.stdout
        assert len(upstream.requests) == 5


@pytest.mark.parametrize(
    ("before", "stored", "after", "problems"),
    [
        ([LINE], [LINE], [OTHER], []),
        ([LINE, OTHER], [LINE], [LINE, OTHER], []),
        ([LINE, OTHER], [LINE, OTHER], [OTHER, LINE], []),
        ([LINE], [LINE], [LINE, OTHER], ["row 3 missing from index"]),
        ([], [], [OTHER], []),
    ],
    ids=["not-sent-again", "not-stored", "order-changed", "file-broken", "nothing-stored"],
)
def test_it_does_not_say_so_when_something_is_lost(
    before: list[demo.Line],
    stored: list[demo.Line],
    after: list[demo.Line],
    problems: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert demo.verdict("sqlite:///chat.db", stored, before, after, ["completed"], problems) == 1
    assert "Nothing lost" not in capsys.readouterr().out


def test_it_says_so_when_nothing_is() -> None:
    assert demo.verdict("sqlite:///chat.db", [LINE], [LINE], [LINE, OTHER], ["completed"], []) == 0


def test_on_a_terminal_it_ends_with_the_inbox() -> None:
    pytest.importorskip("fastapi")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, DEMO], env=clean | {"COLUMNS": "120", "TERM": "dumb"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        url = _told(ours, rb"(http://127\.0\.0\.1:\d+/) +Ctrl-C ends it")
        listed = httpx.get(f"{url}sessions", trust_env=False).json()["items"]
        assert {it["id"]: it["waiting"] for it in listed} == {"ada-1": False, "ada-2": False, "ada-3": True, "bob-1": False, "bob-2": False}
        assert "Holdfast" in httpx.get(url, trust_env=False).text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _told(terminal: int, wanted: bytes) -> str:
    """What the program says on its terminal, once it does."""
    told = b""
    while (found := re.search(wanted, told)) is None:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, told.decode(errors="replace")
        told += os.read(terminal, 4096)
    return found[1].decode()
