"""The terminal: through Typer's runner for what each command says, as a real process where pipes, signals and terminals matter."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner, Result

import holdfast
from holdfast import Message, Metrics, Reasoning, ToolCall, assistant, tool, user
from holdfast.cli.app import app
from holdfast.ids import now
from holdfast.sync import Store

EXECUTABLE = Path(sys.executable).with_name("holdfast")
EVIL = "[red]not red[/red] \x1b[31mnor this\x1b[0m \x1b]0;title\x07 \x9b2J \u202eabc"
STEERING = {chr(code) for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x202E)}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOLDFAST_STORE", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a run with tools, a long session, one that means harm, and one of nobody."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    with Store.open(url, as_admin=True) as store:
        ada = store.session("ada-1", user_id="ada")
        with ada.run(user("Where is my order?"), agent="desk") as run:
            run.append(Message("assistant", (Reasoning("I should look."), ToolCall("get_order", "call_1", {"id": "A-17"}))))
            run.append(tool({"log": [f"step {number}" for number in range(100)]}, call_id="call_1"))
            run.finish(assistant("On its way."), metrics=Metrics(1200, 34, 2, 1, 1.5))
        ada.rename("Order A-17")
        ada.update_metadata(plan="pro", seats=3)
        ada.state["total"] = Decimal("12.50")
        ada.get_non_volatile_cache()["token"] = "secret"
        ada.commit()
        bob = store.session("bob-1", user_id="bob")
        for number in range(30):
            bob.append(user(f"question {number}"))
        bob.pop()
        evil = store.session("evil")
        evil.append(user(EVIL), tool({"x": EVIL}), Message("assistant", (ToolCall(EVIL, "c", {EVIL: EVIL}),), name=EVIL))
        evil.rename(EVIL)
        evil.state["s"] = EVIL
        evil.commit()
    return url


def cli(*words: str, input: str | None = None, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(app, words, input=input, env=env)


def said(*words: str, input: str | None = None) -> str:
    """What a command that succeeds writes to stdout."""
    result = cli(*words, input=input)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def answered(*words: str, input: str | None = None) -> Any:
    """The JSON document a command that succeeds writes to stdout."""
    return json.loads(said(*words, "--json", input=input))


def refused(*words: str, code: int = 2, input: str | None = None) -> str:
    """The one line a command that fails writes to stderr; with --json the same as an object."""
    result, as_json = cli(*words, input=input), cli(*words, "--json", input=input)
    assert (result.exit_code, as_json.exit_code) == (code, code), result.output
    assert result.stderr.startswith("holdfast: ")
    assert result.stderr.count("\n") == 1
    error = json.loads(as_json.stderr)
    assert set(error) == {"error", "message"}
    assert error["message"].split() == result.stderr.removeprefix("holdfast: ").split()
    return result.stderr


def ids(*words: str) -> list[str]:
    return [it["id"] for it in answered("sessions", "list", *words)["sessions"]]


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--version",), ("--json", "--version")])
def test_version(words: tuple[str, ...]) -> None:
    assert holdfast.__version__ in said(*words)


@pytest.mark.parametrize("words", [(), ("--help",), ("sessions",), ("db",), ("sessions", "list", "--help")])
def test_help(words: tuple[str, ...]) -> None:
    assert said(*words).startswith("Usage: holdfast")


def test_the_store_may_be_named_before_or_after_the_command_in_the_environment_or_be_the_default_file(url: str) -> None:
    everything = ["evil", "bob-1", "ada-1"]
    assert ids("-s", url) == everything
    before = cli("--store", url, "--json", "sessions", "list")
    assert [it["id"] for it in json.loads(before.stdout)["sessions"]] == everything
    named = cli("sessions", "list", env={"HOLDFAST_STORE": url})
    assert "ada-1" in named.stdout
    said("db", "migrate", "-s", "sqlite:///holdfast.db")
    assert ids() == []


def test_a_session_of_another_user_or_tenant_does_not_exist(url: str) -> None:
    assert ids("-s", url, "--user", "ada") == ["ada-1"]
    assert ids("-s", url, "--tenant", "other") == []
    assert "'bob-1' for user 'ada'" in refused("sessions", "show", "bob-1", "-s", url, "--user", "ada")
    assert "'bob-1'" in refused("sessions", "show", "bob-1", "-s", url, "--tenant", "other")
    assert "leave out --user" in refused("sessions", "list", "--user-id", "bob", "-s", url, "--user", "ada")
    refused("sessions", "delete", "ada-1", "bob-1", "--yes", "-s", url, "--user", "ada")
    assert ids("-s", url) == ["evil", "bob-1", "ada-1"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("sessions", "list"), 2, "--store URL"),
        (("sessions", "list", "-s", "oracle://x"), 2, "memory://, postgres://"),
        (("sessions", "list", "-s", "sqlite:///missing.db"), 2, "missing.db: there is no such file"),
        (("sessions", "list", "-s", "sqlite:///notes.txt"), 1, "notes.txt: this file is not a SQLite database"),
        (("db", "status", "-s", "sqlite:///notes.txt"), 1, "notes.txt: this file is not a SQLite database"),
        (("sessions", "list", "-s", "sqlite:///chat.db", "--meta", "plan"), 2, "--meta 'plan': write KEY=VALUE"),
        (("sessions", "list", "-s", "sqlite:///chat.db", "--limit", "0"), 2, "'--limit'"),
        (("sessions", "list", "-s", "sqlite:///chat.db", "--cursor", "x"), 2, "cursor 'x'"),
        (("sessions", "show", "ada-1", "-s", "sqlite:///chat.db", "--last", "many"), 2, "'--last'"),
        (("sessions", "show", "nobody", "-s", "sqlite:///chat.db"), 2, "'nobody'; `holdfast sessions list`"),
        (("sessions", "show", "\x1b[2J", "-s", "sqlite:///chat.db"), 2, r"'\x1b[2J'"),
        (("sessions", "show"), 2, "'ID'"),
        (("sessions", "rename", "nobody", "x", "-s", "sqlite:///chat.db"), 2, "'nobody'"),
        (("sessions", "fork", "ada-1", "--at", "end", "-s", "sqlite:///chat.db"), 2, "'--at'"),
        (("sessions", "fork", "ada-1", "--at", "0", "-s", "sqlite:///chat.db"), 2, "'--at'"),
        (("sessions", "fork", "ada-1", "bob-1", "-s", "sqlite:///chat.db"), 2, "exists already; choose another id"),
        (("sessions", "delete", "ada-1", "-s", "sqlite:///chat.db"), 2, "--yes"),
        (("sessions", "delete", "ada-1", "nobody", "--yes", "-s", "sqlite:///chat.db"), 2, "'nobody'"),
        (("sessions", "export", "ada-1", "nobody", "-o", "x", "-s", "sqlite:///chat.db"), 2, "'nobody'"),
        (("sessions", "export", "ada-1", "-o", "no/such/folder", "-s", "sqlite:///chat.db"), 1, "no/such/folder"),
        (("sessions", "import", "missing.jsonl", "-s", "sqlite:///chat.db"), 2, "missing.jsonl"),
        (("sessions", "tail", "nobody", "-s", "sqlite:///chat.db"), 2, "'nobody'"),
        (("sessions", "sing"), 2, "'sing'"),
        (("db", "check", "--loud"), 2, "--loud"),
    ],
)
@pytest.mark.usefixtures("url")
def test_what_can_go_wrong_is_one_line_and_a_code(words: tuple[str, ...], code: int, message: str) -> None:
    Path("notes.txt").write_text("just some notes, no database\n" * 50)
    assert message in refused(*words, code=code)
    assert {path.name.split(".db")[0] for path in Path().iterdir()} == {"notes.txt", "chat"}
    assert ids("-s", "sqlite:///chat.db") == ["evil", "bob-1", "ada-1"]


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_stored_can_steer_the_terminal(url: str, as_json: bool) -> None:
    form = ("-s", url, *(("--json",) if as_json else ()))
    for words in (("list",), ("show", "evil", "--full", "--state"), ("rename", "evil", EVIL)):
        shown = said("sessions", *words, *form)
        assert "[red]not red[/red]" in shown
        assert STEERING & set(shown) == set()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_list_shows_one_line_for_each_session(url: str) -> None:
    head, *rows = said("sessions", "list", "-s", url).splitlines()
    assert head.split() == ["id", "name", "user", "agent", "messages", "size", "updated", "status"]
    assert rows[2].split()[:4] == ["ada-1", "Order", "A-17", "ada"]
    assert rows[2].split()[-1] == "-"


def test_list_filters_and_pages(url: str) -> None:
    assert ids("-s", url, "--user-id", "bob") == ["bob-1"]
    assert ids("-s", url, "--name", "ORDER") == ["ada-1"]
    assert ids("-s", url, "--meta", "plan=pro", "--meta", "seats=3") == ["ada-1"]
    assert ids("-s", url, "--meta", 'seats="3"') == []
    assert ids("-s", url, "--waiting") == []
    first = answered("sessions", "list", "-s", url, "--limit", "2")
    assert [it["id"] for it in first["sessions"]] == ["evil", "bob-1"]
    assert ids("-s", url, "--limit", "2", "--cursor", first["cursor"]) == ["ada-1"]
    assert f"--cursor {first['cursor']}" in cli("sessions", "list", "-s", url, "--limit", "2").stderr
    assert cli("sessions", "list", "-s", url, "--waiting").stderr == "no sessions\n"


def test_list_by_time_of_update(url: str) -> None:
    with Store.open(url, as_admin=True) as store:
        bob = store.session("bob-1").info.updated_at
    assert ids("-s", url, "--since", bob.isoformat()) == ["evil"]
    assert ids("-s", url, "--until", bob.isoformat()) == ["ada-1"]
    assert ids("-s", url, "--until", bob.astimezone().replace(tzinfo=None).isoformat(" ")) == ["ada-1"]
    assert ids("-s", url, "--since", "2020-01-01", "--until", "9999-12-01T00:00Z") == ["evil", "bob-1", "ada-1"]
    for words in (("--since", "yesterday"), ("--until", "0001-01-01")):
        assert f"{words[0]} '{words[1]}': write a time such as" in refused("sessions", "list", "-s", url, *words)


def test_list_says_which_sessions_run(url: str) -> None:
    with Store.open(url, as_admin=True) as store, store.session("ada-1").run(user("and now?")):
        assert said("sessions", "list", "--name", "Order", "-s", url).split()[-1] == "running"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_list_fits_its_terminal_and_keeps_ids_whole(url: str, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    long = "0123456789abcdef" * 2
    said("sessions", "fork", "ada-1", long, "-s", url)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = said("sessions", "list", "-s", url).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith(long)


def test_show_tells_what_was_said(url: str) -> None:
    shown = said("sessions", "show", "ada-1", "-s", url)
    for words in ("Order A-17", "4 messages, 1 run", "2 model calls, 1 tool call, 1.5 s", "1,200 + 34", '{"plan": "pro", "seats": 3}'):
        assert words in shown
    for words in ("   2  user  20", "   3  assistant  desk  20", "(thinking) I should look.", '→ get_order(id="A-17")', "← get_order: {"):
        assert words in shown
    assert "--full shows it" in shown
    assert "step 99" not in shown
    assert "step 99" in said("sessions", "show", "ada-1", "--full", "-s", url)
    assert "above" not in shown


def test_show_can_tell_of_state_and_runs(url: str) -> None:
    shown = said("sessions", "show", "ada-1", "--state", "--runs", "-s", url)
    for words in ('{"$": ["decimal", "12.50"]}', 'token  "secret"', "completed", "1,200+34"):
        assert words in shown
    told = answered("sessions", "show", "ada-1", "--state", "--runs", "-s", url)
    assert told["state"] == {"total": {"$": ["decimal", "12.50"]}}
    assert told["cache"] == {"token": "secret"}
    assert told["runs"][0]["metrics"]["input_tokens"] == 1200
    used = {"input_tokens": 1200, "output_tokens": 34, "model_calls": 2, "tool_calls": 1, "micros": 1_500_000}
    assert told["session"]["counts"] == {"runs": 1, "messages": 4, "bytes": ANY} | used


def test_show_begins_near_the_end_and_says_so(url: str) -> None:
    shown = said("sessions", "show", "bob-1", "-s", url, "--last", "3")
    assert "... 26 entries above" in shown
    assert "question 25" not in shown
    assert "question 28" in shown
    assert "question 29" not in shown
    assert "hidden\n      question 29" in said("sessions", "show", "bob-1", "-s", url, "--hidden")
    told = answered("sessions", "show", "bob-1", "-s", url, "--hidden", "--last", "1")
    assert [(it["seq"], it["hidden"]) for it in told["entries"]] == [(30, True)]
    assert told["entries"][0]["message"] == {"role": "user", "parts": [{"type": "text", "content": "question 29"}]}
    assert datetime.fromisoformat(told["entries"][0]["time"]).tzinfo == UTC


def test_rename(url: str) -> None:
    assert said("sessions", "rename", "ada-1", "Late", "-s", url) == "ada-1 is named Late\n"
    assert answered("sessions", "rename", "ada-1", "", "-s", url)["name"] is None


def test_fork(url: str) -> None:
    assert said("sessions", "fork", "bob-1", "bob-2", "--at", "5", "-s", url) == "forked bob-1 to bob-2\n"
    assert len(answered("sessions", "show", "bob-2", "-s", url)["entries"]) == 5
    made = answered("sessions", "fork", "bob-1", "-s", url)
    assert made["origin"]["session_id"] == "bob-1"
    assert made["id"] in ids("-s", url)


def test_delete(url: str) -> None:
    assert answered("sessions", "delete", "ada-1", "evil", "--yes", "-s", url) == {"deleted": ["ada-1", "evil"]}
    assert ids("-s", url) == ["bob-1"]


@pytest.mark.parametrize(("reply", "code", "left"), [(b"n\n", 1, ["evil", "bob-1", "ada-1"]), (b"y\n", 0, ["evil", "bob-1"])])
def test_delete_asks_on_a_terminal(url: str, reply: bytes, code: int, left: list[str]) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, reply)
    done = subprocess.run([EXECUTABLE, "sessions", "delete", "ada-1", "-s", url], stdin=theirs, capture_output=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert b"Delete ada-1 for good?" in done.stderr
    assert done.returncode == code
    assert ids("-s", url) == left


def test_ctrl_c_answers_the_question(url: str) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([EXECUTABLE, "sessions", "delete", "ada-1", "-s", url], stdin=theirs, stderr=subprocess.PIPE) as delete:
        assert delete.stderr
        assert delete.stderr.read(6) == b"Delete"
        delete.send_signal(signal.SIGINT)
        assert delete.wait() == 130
        assert b"Traceback" not in delete.stderr.read()
    os.close(ours)
    os.close(theirs)
    assert "ada-1" in ids("-s", url)


# --- moving ----------------------------------------------------------------------------------------------------------


def test_what_is_exported_can_be_imported(url: str) -> None:
    new = "sqlite:///new.db"
    lines = said("sessions", "export", "ada-1", "bob-1", "-s", url)
    imported = said("sessions", "import", "-", "-s", new, input=lines)
    assert imported == "imported ada-1: 4 messages\nimported bob-1: 30 messages\n"
    assert len(said("sessions", "export", "ada-1", "bob-1", "-s", new).splitlines()) == len(lines.splitlines())
    told = [answered("sessions", "show", "ada-1", "--state", "-s", it) for it in (url, new)]
    assert told[0]["state"] == told[1]["state"]
    assert [it["message"] for it in told[0]["entries"]] == [it["message"] for it in told[1]["entries"]]


def test_export_to_a_file_and_import_under_another_id(url: str) -> None:
    written = answered("sessions", "export", "ada-1", "-o", "ada.jsonl", "-s", url)
    assert written == {"file": "ada.jsonl", "sessions": ["ada-1"], "lines": len(Path("ada.jsonl").read_text().splitlines())}
    assert answered("sessions", "import", "ada.jsonl", "--id", "ada-2", "-s", url)["sessions"][0]["id"] == "ada-2"
    assert "exists already" in refused("sessions", "import", "ada.jsonl", "-s", url)
    assert answered("sessions", "import", "ada.jsonl", "--id", "mine", "--user", "eve", "-s", url)["sessions"][0]["user_id"] == "eve"


def broken_exports(good: str) -> Iterator[str | bytes]:
    yield ""
    yield "hello\n"
    yield good + "{}\n"
    yield good.replace('"seq":2', '"seq":9')
    yield good + good  # the second is there already
    yield good.encode() + b"\xff\n"


@pytest.mark.parametrize("number", range(6))
def test_a_broken_import_leaves_nothing(url: str, number: int) -> None:
    good = said("sessions", "export", "ada-1", "-s", url)
    broken = [*broken_exports(good)][number]
    Path("broken").write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    refused("sessions", "import", "broken", "-s", "sqlite:///new.db")
    assert not Path("new.db").exists() or ids("-s", "sqlite:///new.db") == []


# --- as a real process -----------------------------------------------------------------------------------------------


def append(url: str, session_id: str, text: str) -> None:
    """Another process adds a message."""
    code = (
        "import sys; from holdfast import user; from holdfast.sync import Store; "
        "Store.open(sys.argv[1], as_admin=True).session(sys.argv[2]).append(user(sys.argv[3]))"
    )
    subprocess.run([sys.executable, "-c", code, url, session_id, text], check=True)


def test_tail_follows_what_another_process_adds_until_it_is_interrupted(url: str) -> None:
    with subprocess.Popen(
        [EXECUTABLE, "sessions", "tail", "evil", "--last", "1", "--json", "-s", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tail:
        assert tail.stdout
        assert tail.stderr
        assert json.loads(tail.stdout.readline())["seq"] == 3
        append(url, "evil", "news")
        assert json.loads(tail.stdout.readline())["message"]["parts"] == [{"type": "text", "content": "news"}]
        tail.send_signal(signal.SIGINT)
        assert (tail.wait(), tail.stdout.read(), tail.stderr.read()) == (130, b"", b"")


def test_tail_ends_when_the_session_does(url: str) -> None:
    with subprocess.Popen(
        [EXECUTABLE, "sessions", "tail", "evil", "--last", "1", "-s", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tail:
        assert tail.stdout
        assert tail.stderr
        assert b"assistant" in tail.stdout.readline()
        said("sessions", "delete", "evil", "--yes", "-s", url)
        assert tail.stderr.readline() == b"holdfast: session 'evil' was deleted or has expired\n"
        assert tail.wait() == 2


@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("show", "bob-1"), ("export", "bob-1")])
def test_a_reader_that_has_gone_is_no_error(url: str, words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([EXECUTABLE, "sessions", *words, "-s", url], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(("form", "shown"), [((), r"\u65e5"), (("--json",), "日")])
def test_a_locale_without_the_letters_is_no_error(url: str, form: tuple[str, ...], shown: str) -> None:
    append(url, "bob-1", "日")
    command = [EXECUTABLE, "sessions", "show", "bob-1", "-s", url, *form]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert shown in done.stdout.decode()


# --- db --------------------------------------------------------------------------------------------------------------


def test_db_status(url: str) -> None:
    told = answered("db", "status", "-s", url)
    assert (told["sessions"], told["schema"]) == (3, told["library_schema"])
    shown = said("db", "status", "-s", url)
    assert "library schema" in shown
    assert told["sqlite"] in shown


def test_db_migrate_makes_a_store_and_says_when_there_is_nothing_to_do() -> None:
    made = answered("db", "migrate", "-s", "sqlite:///new.db")
    assert made["before"] == 0
    assert answered("db", "migrate", "-s", "sqlite:///new.db") == {"before": made["after"], "after": made["after"]}
    assert said("db", "migrate", "-s", "sqlite:///new.db") == f"schema {made['after']}: up to date\n"


def test_db_sweep_removes_what_has_expired_of_every_tenant(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said("db", "sweep", "-s", url) == "removed 0 expired sessions\n"
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.handle.now", lambda: now() - 60_000_000)
        for tenant in ("default", "other"):
            with Store.open(url, tenant=tenant) as store:
                for number in range(3):
                    store.session(f"old-{number}").set_ttl(1)
    monkeypatch.setattr("holdfast.cli.db._BATCH", 2)
    assert answered("db", "status", "-s", url)["sessions"] == 9
    assert said("db", "sweep", "--limit", "1", "-s", url) == "removed 1 expired session\n"
    assert answered("db", "sweep", "-s", url) == {"removed": 5}
    assert answered("db", "status", "-s", url)["sessions"] == 3
    assert "'--limit'" in refused("db", "sweep", "--limit", "0", "-s", url)


def test_db_check(url: str, tmp_path: Path) -> None:
    assert said("db", "check", "-s", url) == "ok\n"
    assert answered("db", "check", "-s", url) == {"ok": True, "problems": []}
    with sqlite3.connect(tmp_path / "chat.db") as database:
        database.execute("DELETE FROM entries WHERE id & 4294967295 = 2")
    database.close()
    result, as_json = cli("db", "check", "-s", url), cli("db", "check", "-s", url, "--json")
    assert (result.exit_code, as_json.exit_code) == (1, 1)
    assert "session 'ada-1' of tenant 'default': its log has" in result.stdout
    assert json.loads(as_json.stdout)["problems"] == result.stdout.splitlines()


def test_chat_keeps_to_an_agents_own_store_in_redis(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    own = "RedisBackend(redis.asyncio.Redis(host='127.0.0.1', port=1))"
    (tmp_path / "desk.py").write_text(
        f"import redis.asyncio\nfrom holdfast import Agent, Store\nfrom holdfast.backends.redis import RedisBackend\n"
        f"desk = Agent('test', name='desk', store=Store({own}))\n",
        "utf-8",
    )
    assert "127.0.0.1:1: can't connect" in cli("chat", "desk.py:desk", input="hello\n").stderr
    assert not (tmp_path / "holdfast.db").exists()
