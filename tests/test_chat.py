"""`holdfast chat` and `CLI.main()`: through pipes in this process, and as a person on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from holdfast import UsageError
from holdfast.agents import ReasoningDelta, TextDelta, ToolAnswered, ToolCalled
from holdfast.cli.answers import Drawn, Tools, split
from holdfast.cli.app import app
from holdfast.runtime import loading
from holdfast.sync import Session, Store
from holdfast.testing.model_server import Answer, Call, ModelServer, Request

BIN = Path(sys.executable).parent
DESK = '''
import os
from holdfast import Agent, Session
from holdfast.agents import tool
from holdfast.models import OpenAIChat

def look(order: str, session: Session) -> str:
    """Where an order is."""
    session.state["order"] = order
    return f"{order} has shipped"

def crash() -> str:
    """The process does not survive it."""
    os.kill(os.getpid(), 9)

@tool(confirm=True)
def refund(order: str) -> str:
    """Give the money back."""
    return f"{order} refunded"

agent = Agent(OpenAIChat(id="gpt-5.2", base_url="URL", api_key="none"), name="desk", tools=[look, crash, refund], instructions="Be brief.")

if __name__ == "__main__":
    from holdfast.cli import CLI
    CLI.main()
'''
MARKDOWN = "# Orders\n\nThe order **A-17** is on its way:\n\n- packed\n- sent\n\nGood *bye*, [there](https://example.com/x)."
ORDERS = "\nOrders\n\nThe order A-17 is on its way:\n\n • packed\n • sent\n\nGood bye, there (https://example.com/x)."


class Desk:
    """A model that answers by what it is asked, and the agent that asks it, in a file."""

    def __init__(self, folder: Path) -> None:
        self.hold = Event()
        self.failing = True
        self.server = ModelServer(self._rule).__enter__()
        self.file = folder / "desk.py"
        self.file.write_text(DESK.replace("URL", self.server.base_url))
        self.url = f"sqlite:///{folder / 'chat.db'}"
        self.store = Store.open(self.url, as_admin=True)

    def _rule(self, request: Request) -> Answer | str:
        last = request.input[-1]
        text = str(last.get("content"))
        if last["role"] == "tool":
            return "So it is."
        if "Name the conversation" in str(request.input[0]):
            return "Orders under way"
        if "Sum up a conversation" in str(request.input[0]):
            return "Questions, and echoes."
        if "where" in text:
            return Answer(text="Let me see.", calls=(Call("look", {"order": "A-17"}), Call("look", {"order": "A-18"})))
        if "refund" in text:
            return Answer(calls=(Call("refund", {"order": "A-17"}),))
        if "crash" in text:
            return Answer(calls=(Call("crash"),))
        if "fail" in text and self.failing:
            return Answer(status=400, text="too hot")
        if "hold" in text:
            return Answer(text="at last", hold=self.hold)
        return MARKDOWN if "markdown" in text else f"You said: {text}"

    def ask(self, *lines: str, words: Sequence[str] = ()) -> Result:
        """What comes of lines from a pipe."""
        given = ["chat", f"{self.file}:agent", "-s", self.url, *words]
        return CliRunner().invoke(app, given, input="".join(f"{line}\n" for line in lines))

    def session(self, number: int = 0) -> Session:
        """The session that was made last, or one before."""
        return self.store.session(self.store.list().items[number].id)

    def said(self, number: int = 0) -> list[str]:
        return [message.text for message in self.session(number).get_chat_history()]

    def inputs(self) -> list[str]:
        """What people said in the last request."""
        return [item["content"] for item in self.server.requests[-1].input if item["role"] == "user"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    for name in ("HOLDFAST_STORE", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYDANTIC_AI_NO_BANNER"):
        monkeypatch.delenv(name, raising=False)
    it = Desk(tmp_path)
    yield it
    it.hold.set()
    it.store.close()
    it.server.close()


# --- from a pipe -----------------------------------------------------------------------------------------------------


def test_a_line_is_a_turn_and_stdout_holds_the_answers_alone(desk: Desk) -> None:
    result = desk.ask("hello", "", "and again", "")
    assert (result.exit_code, result.stdout) == (0, "You said: hello\nYou said: and again\n")
    assert re.fullmatch(r"desk, new session \w+\n", result.stderr)
    assert desk.said() == ["hello", "You said: hello", "and again", "You said: and again"]
    assert desk.server.requests[-1].streamed


def test_tools_are_told_beside_the_answer_in_one_line_each(desk: Desk) -> None:
    result = desk.ask("where?")
    assert result.stdout == "Let me see.\nSo it is.\n"
    assert sorted(result.stderr.splitlines()[1:]) == [f'→ look(order="A-{n}")  ← A-{n} has shipped' for n in (17, 18)]


def test_it_goes_on_in_a_session_that_is_named_or_was_used_last(desk: Desk) -> None:
    desk.ask("one", words=("--session", "a"))
    desk.ask("two", words=("--session", "b", "--user", "ada"))
    desk.ask("three", words=("--session", "a"))
    result = desk.ask("four", words=("--last",))
    assert desk.inputs() == ["one", "three", "four"]
    assert "session a: 4 messages, last used just now" in result.stderr
    desk.ask("five", words=("--last", "--user", "ada"))
    assert desk.inputs() == ["two", "five"]
    other = desk.ask("six", words=("--session", "b", "--user", "eve"))
    assert (other.exit_code, "there is no" in other.stderr, len(desk.server.requests)) == (1, True, 5)


def test_an_error_is_one_line_with_the_run_and_retry_goes_on_with_it(desk: Desk) -> None:
    result = desk.ask("fail", "still there?")
    assert (result.exit_code, result.stdout) == (1, "You said: still there?\n")
    error = result.stderr.splitlines()[1]
    run_id = desk.session().runs()[0].id
    assert error == f"holdfast: the model's service answered 400: too hot; run {run_id} is stored, /retry goes on with it"
    desk.ask("fail", words=("--session", "x"))
    desk.failing = False
    assert desk.ask("/retry", words=("--session", "x")).stdout == "You said: fail\n"
    (run,) = desk.session().runs()
    assert (run.status, run.attempt) == ("completed", 2)
    assert "nothing to go on with" in desk.ask("/retry", words=("--session", "x")).stderr


def test_json_is_a_line_for_each_turn(desk: Desk) -> None:
    result = desk.ask("hello", "fail", "where?", words=("--json",))
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["content"], first["status"], first["metrics"]["model_calls"]) == ("You said: hello", "completed", 1)
    assert (second["content"], second["session_id"]) == ("So it is.", desk.session().id)
    assert set(json.loads(result.stderr)) == {"error", "message"}


def test_nothing_a_model_says_can_steer_the_terminal(desk: Desk) -> None:
    result = desk.ask("\x1b[31mred\x1b]0;title\x07")
    assert result.stdout == "You said: \\x1b[31mred\\x1b]0;title\\x07\n"


def test_a_pause_that_nobody_can_decide_is_told_and_is_no_success(desk: Desk) -> None:
    result = desk.ask("refund")
    assert result.exit_code == 1
    assert 'refund(order="A-17") waits for your approval' in result.stderr
    assert desk.session().runs()[0].status == "paused"


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_for_sessions(desk: Desk) -> None:
    desk.ask("one", "/name First", words=("--session", "aa-1"))
    result = desk.ask(
        "two", "/sess", "/switch 2", "three", "/name", "/new", "/switch bb", "/fork Copy", "four", words=("--session", "bb-1")
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"1 +bb-1 +2 +just now +here\n2 +aa-1 +First +2 ", result.stdout)
    assert "named: Orders under way" in result.stdout
    assert desk.said() == ["two", "You said: two", "four", "You said: four"]
    names = {it.id: (it.name, it.counts.messages) for it in desk.store.list().items}
    assert (names["aa-1"], names["bb-1"]) == (("Orders under way", 4), (None, 2))
    assert ("Copy", 4) in names.values()


def test_a_session_is_summed_up_where_there_is_something_to_sum_up(desk: Desk) -> None:
    result = desk.ask("/compact", *"abcde", "/compact", "/compact", words=("--session", "s"))
    assert "nothing was said in this session yet" in result.stderr
    assert result.stdout.splitlines()[-2:] == ["Questions, and echoes.", "nothing to sum up: the newest exchanges are sent as they are"]
    assert desk.session().get_summary() == "Questions, and echoes."
    assert len(desk.said()) == 10


def test_an_exchange_is_taken_back_with_its_run(desk: Desk) -> None:
    result = desk.ask("one", "where?", "three", "/rewind 2", "four", words=("--session", "s"))
    assert "took back 2 exchanges" in result.stdout
    assert desk.inputs() == ["one", "four"]
    assert [run.status for run in desk.session().runs()] == ["completed", "completed"]
    everything = desk.ask("/rewind 100", "/rewind", words=("--session", "s"))
    assert "took back 2 exchanges" in everything.stdout
    assert "nothing to take back" in everything.stderr
    assert desk.session().entries() == []


def test_state_history_and_clear(desk: Desk) -> None:
    result = desk.ask("where?", "/state", "/history 1", "/clear", "/clear yes", "/state", "anew", words=("--session", "s"))
    shown = result.stdout
    assert re.search(r'order +"A-1[78]"', shown)
    assert "← look: A-17 has shipped" in shown
    assert "say /clear yes" in result.stderr
    assert "cleared s\n(empty)\nYou said: anew" in shown
    assert desk.said() == ["anew", "You said: anew"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "there is no /nope: /help lists"),
        ("/s", "there is no /s:"),
        ("/switch", "say which one"),
        ("/switch zz", "there is no session 'zz'"),
        ("/rewind none", "'none' is no number"),
        ("/history", "nothing was said in this session yet"),
        ("/name", "nothing was said in this session yet"),
        ("/state now", "/state takes nothing more"),
    ],
)
def test_a_command_that_makes_no_sense_says_what_would(desk: Desk, line: str, message: str) -> None:
    result = desk.ask(line)
    assert (result.exit_code, message in result.stderr, result.stderr.count("\n")) == (1, True, 2), result.stderr
    assert desk.server.requests == []


def test_help_lists_every_command_and_a_space_sends_a_slash(desk: Desk) -> None:
    result = desk.ask("/help", " /etc/passwd", "/quit", "never said")
    for name in ("/sessions", "/switch ID", "/fork [NAME]", "/rewind [N]", "/retry", "/quit"):
        assert name in result.stdout
    assert desk.inputs() == ["/etc/passwd"]


# --- whom to talk to, and where it is kept ---------------------------------------------------------------------------


def test_a_model_without_an_agent(desk: Desk) -> None:
    for model, path in (("llama", "/v1/chat/completions"), ("openai:gpt-5.2", "/v1/responses")):
        words = ["--model", model, "--base-url", desk.server.base_url, "--instructions", "Be kind."]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", "none")
            result = CliRunner().invoke(app, ["chat", *words], input="hello\n")
        assert (result.exit_code, result.stdout) == (0, "You said: hello\n"), result.output
        assert desk.server.requests[-1].path == path
    assert desk.server.requests[-1].body["instructions"] == "Be kind."
    assert Path("holdfast.db").exists()


def test_the_store_is_the_one_named_the_agents_own_or_the_default(desk: Desk) -> None:
    desk.file.write_text(desk.file.read_text().replace('name="desk"', 'name="desk", store="sqlite:///desks-own.db"'))
    assert CliRunner().invoke(app, ["chat", str(desk.file)], input="mine\n").exit_code == 0
    assert (Path("desks-own.db").exists(), Path("holdfast.db").exists(), Path("chat.db").exists()) == (True, False, False)
    desk.ask("theirs")
    assert desk.said() == ["theirs", "You said: theirs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say whom to talk to"),
        (("desk.py", "--model", "x"), "say whom to talk to"),
        (("desk.py", "--instructions", "x"), "go with --model"),
        (("missing.py:agent",), "missing.py: there is no such file"),
        (("missing_module:agent",), "there is no module 'missing_module' here"),
        (("desk.py:nobody",), "desk.py:nobody is not there; its agents: agent (desk)"),
        (("desk.py:look",), "desk.py:look is a function, no Agent"),
        (("broken.py:agent",), "broken.py can't be imported: ZeroDivisionError: division by zero"),
        (("empty.py",), "empty.py has no Agent: make one there"),
        (("two.py",), "which one? its agents: one, two (deux)"),
        (("two.py", "--agent", "three"), "two.py has no agent 'three'; its agents: one, two (deux)"),
        (("desk.py:agent", "--last", "--session", "s"), "either --session or --last"),
        (("desk.py:agent", "--last"), "there is no session to go on in"),
        (("--model", "nonsense:x"), "nonsense"),
    ],
)
@pytest.mark.usefixtures("desk")
def test_what_can_be_wrong_is_one_line(words: tuple[str, ...], message: str) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("empty.py").write_text("")
    Path("two.py").write_text("from holdfast.sync import Agent\none, two = Agent('test'), Agent('test', name='deux')\n")
    result = CliRunner().invoke(app, ["chat", *words])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert message in result.stderr


def test_a_module_on_the_path_and_one_of_several_agents(desk: Desk) -> None:
    Path("shop.py").write_text(desk.file.read_text() + "\nother = Agent('test', name='other')\n")
    for words in (("shop:agent",), ("shop", "--agent", "desk"), ("shop.py", "--agent", "agent")):
        result = CliRunner().invoke(app, ["chat", *words, "-s", desk.url], input="hello\n")
        assert (result.exit_code, result.stdout) == (0, "You said: hello\n"), result.output


def test_the_agents_of_a_module_are_found_once(desk: Desk) -> None:
    agent = loading.found("desk.py:agent")
    assert loading.agents_in({"a": agent, "b": agent, "json": json, "n": 1}) == {"a": agent}
    with pytest.raises(UsageError, match="has no Agent"):
        loading.chosen({}, None, "this module")


# --- the program of a module -----------------------------------------------------------------------------------------


def test_cli_main_talks_to_the_agent_of_its_module(desk: Desk) -> None:
    done = subprocess.run([sys.executable, "desk.py", "--session", "s"], input=b"hello\n", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"You said: hello\n", b"desk, new session s\n")
    refused = subprocess.run([sys.executable, "desk.py", "--agent", "nobody"], capture_output=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, b"holdfast: desk.py has no agent 'nobody'; its agents: agent (desk)\n")


def test_the_terminal_and_its_help_are_cheap() -> None:
    code = "import sys; from holdfast.cli import CLI; print([m for m in ('typer', 'rich', 'pydantic', 'pydantic_ai') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
    code = (
        "import sys; from typer.testing import CliRunner; from holdfast.cli.app import app; "
        "assert 'MODULE:OBJECT' in CliRunner().invoke(app, ['chat', '--help']).stdout; "
        "print([m for m in ('pydantic', 'pydantic_ai', 'openai', 'apsw', 'psycopg', 'redis', 'boto3') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


# --- on a terminal ---------------------------------------------------------------------------------------------------

TOKEN = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<code>[a-zA-Z])|\x1b\][^\x07]*\x07|(?P<char>[\s\S])")


def screen(raw: str) -> str:
    """What a terminal shows of it: lines written over and lines that were cleared are gone."""
    lines, row, column = [""], 0, 0
    for token in TOKEN.finditer(raw):
        code, char = token["code"], token["char"]
        if code == "A":
            row = max(row - int(token["number"] or 1), 0)
        elif code == "K":
            lines[row] = "" if token["number"] == "2" else lines[row][:column]
        elif char == "\r":
            column = 0
        elif char == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif char == "\x08":
            column -= 1
        elif char is not None and char >= " ":
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
    return "\n".join(lines)


def _sit_down() -> None:
    """Make the terminal the one that Ctrl-C comes from."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Person:
    """Somebody at a terminal, who types and reads."""

    def __init__(self, desk: Desk, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        command = [BIN / "holdfast", "chat", "desk.py:agent", "-s", desk.url, *words]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, preexec_fn=_sit_down
        )
        os.close(theirs)
        self.raw = ""
        self._read = 0

    @property
    def screen(self) -> str:
        """All that is shown by now."""
        return screen(self.raw)

    def sees(self, text: str, *, within: float = 10.0) -> str:
        """What is shown once it ends with `text`, from what was typed last."""
        deadline = time.monotonic() + within
        while not self.screen[self._read :].endswith(text):
            assert time.monotonic() < deadline, f"{text!r} is not in {self.screen[self._read :]!r}"
            self._take(deadline)
        return self.screen[self._read :]

    def interrupts(self, text: str) -> str:
        """What is shown after Ctrl-C, once it ends with `text`.

        As a person would, it presses again where nothing happens: a signal that comes while Python's readline is busy with the key before
        is seen with the next key.
        """
        for _ in range(4):
            self.types("\x03")
            with contextlib.suppress(AssertionError):
                return self.sees(text, within=3)
        return self.sees(text)

    def _take(self, deadline: float) -> None:
        if select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))[0]:
            try:
                self.raw += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # the program has left
                time.sleep(0.01)

    def types(self, text: str) -> None:
        self._read = len(self.screen)
        os.write(self._ours, text.encode())

    def leaves(self) -> int:
        """The exit code, after Ctrl-D."""
        self.types("\x04")
        code, deadline = self.process.wait(10), time.monotonic() + 0.2
        while time.monotonic() < deadline:
            self._take(deadline)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def person(desk: Desk) -> Iterator[Callable[..., Person]]:
    """Sits somebody down at `holdfast chat` with some more words."""
    there: list[Person] = []

    def sit(*words: str) -> Person:
        there.append(Person(desk, *words))
        return there[-1]

    yield sit
    for it in there:
        it.close()


Sit = Callable[..., Person]


def test_a_person_sees_markdown_tools_and_how_to_come_back(desk: Desk, person: Sit) -> None:
    it = person("--session", "s")
    assert it.sees("> ") == "desk, new session s\n/help lists what else there is, Ctrl-D leaves\n\n> "
    it.types("markdown\r")
    shown = it.sees("\n\n> ")
    assert shown == "markdown" + ORDERS + "\n\n> "
    assert "\x1b[1mA-17" in it.raw
    it.types("where?\r")
    shown = it.sees("So it is.\n\n> ")
    assert shown.startswith("where?\nLet me see.\n\n→ look(order=")
    assert '→ look(order="A-17")  ← A-17 has shipped\n' in shown
    assert it.leaves() == 0
    assert it.screen.endswith(f"\nsession s: come back with\n  holdfast chat desk.py:agent --store {desk.url} --session s\n")
    assert "Pydantic" not in it.raw


def test_ctrl_c_cancels_the_run_and_nothing_else(desk: Desk, person: Sit) -> None:
    it = person("--session", "s")
    it.sees("> ")
    it.types("hold on\r")
    desk.server.wait_for(1)
    it.types("\x03")
    run_id = desk.session().runs()[0].id
    assert f"cancelled; what was said until then is kept; run {run_id}" in it.sees("/retry goes on with it\n\n> ").replace(
        "is stored,\n", "is stored, "
    )
    assert [(run.status, run.attempt) for run in desk.session().runs()] == [("cancelled", 1)]
    it.types("half a li")
    it.sees("half a li")
    it.interrupts("Ctrl-D leaves\n> ")
    desk.hold.set()
    it.types("/retry\r")
    it.sees("at last\n\n> ")
    assert [(run.status, run.attempt) for run in desk.session().runs()] == [("completed", 2)]
    assert it.leaves() == 0


def test_what_a_run_waits_for_is_decided_in_place(desk: Desk, person: Sit) -> None:
    it = person("--session", "s")
    it.sees("> ")
    it.types("refund it\r")
    assert 'refund(order="A-17") waits for your approval\ny: do it, n: don\'t' in it.sees("Enter: later > ")
    it.types("y\r")
    assert it.sees("So it is.\n\n> ") == 'y\n→ refund(order="A-17")  ← A-17 refunded\n\nSo it is.\n\n> '
    it.types("refund it\r")
    it.sees("Enter: later > ")
    it.types("n\r")
    it.sees("why, for the model (or Enter) > ")
    it.types("too much\r")
    it.sees("So it is.\n\n> ")
    assert "too much" in json.dumps(desk.server.requests[-1].input[-1])


def test_a_call_that_a_crash_left_in_doubt_is_decided_by_the_person_who_comes_back(desk: Desk, person: Sit) -> None:
    code = "import asyncio, sys, desk; asyncio.run(desk.agent.run('crash', session_id='s', lease=0.05))"
    desk.file.write_text(desk.file.read_text().replace('name="desk"', f'name="desk", store={desk.url!r}'))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    back = person("--last")
    assert "is interrupted: /retry goes on with it" in back.sees("\n> ")
    back.types("/retry\r")
    shown = back.sees("Enter: later > ")
    assert "was under way when its process ended: nobody knows whether it has happened" in " ".join(shown.split())
    back.types("g\r")
    back.sees("its result, as JSON or text > ")
    back.types('{"left": 3}\r')
    back.sees("So it is.\n\n> ")
    assert desk.server.requests[-1].input[-1]["content"] == '{"left":3}'


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_thoughts_are_folded_and_what_comes_apart_is_drawn_apart() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, markup=False, emoji=False, _environ={"TERM": "xterm"})
    with Drawn(console, Tools()) as drawn:
        drawn.take(ReasoningDelta("The order is **A-17**, so I look "))
        drawn.take(ReasoningDelta("for it.\n" + "Carefully. " * 20))
        drawn.take(TextDelta("# One\n\nLet me see.\n"))
        drawn.take(ToolCalled("1", "look", {"order": "A-17", "note": "\x1b[2J"}))
        drawn.take(ToolAnswered("1", "look", {"at": "sea"}))
        drawn.take(TextDelta("It is at **sea**."))
    shown = [line.rstrip() for line in screen(file.getvalue()).split("\n")]
    assert shown == [
        "(thought, 29 words) The order is **A-17**, so I look for it…",
        *("", "One", "", "Let me see.", ""),
        '→ look(order="A-17", note="\\u001b[2J")  ← {"at": "sea"}',
        *("", "It is at sea.", ""),
    ]


# --- Markdown in pieces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole", "rest"),
    [
        ("one", "", "one"),
        ("one\n\n", "", "one\n\n"),
        ("one\n\ntwo", "one", "two"),
        ("one\n\n- a\n\n- b", "", "one\n\n- a\n\n- b"),
        ("- a\n\n  more of a\n\nend", "- a\n\n  more of a", "end"),
        ("```\none\n\ntwo", "", "```\none\n\ntwo"),
        ("```\none\n\ntwo\n```\n\nend", "```\none\n\ntwo\n```", "end"),
        ("1. a\n\n2. b\n\nend\n\nof", "1. a\n\n2. b\n\nend", "of"),
    ],
)
def test_a_block_is_printed_when_nothing_to_come_can_change_it(text: str, whole: str, rest: str) -> None:
    assert split(text) == (whole, rest)
