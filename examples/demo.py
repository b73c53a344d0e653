"""`make demo`: an agent app is killed with SIGKILL in the middle of a turn, started again, and has lost nothing.

No key and no network are needed: the model is a local server that answers from a script, and says so. With OPENAI_API_KEY set, the same
app talks to the real API through a relay in this process, which lets us see and hold its requests.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request as Fetch
from urllib.request import urlopen

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holdfast import Entry, Message, Part, Reasoning, RunInfo, Store, ToolCall, ToolResult
from holdfast import Text as Said
from holdfast.backend import Maintenance
from holdfast.testing.model_server import Answer, ModelServer, Request, Rule, call

APP = Path(__file__).with_name("agent_app.py")
QUESTIONS = (
    "Where is my order 1007?",
    "Which city did you say?",
    "It came broken. Please refund it.",
    "Which refund did you start for me?",
)
WIDE = 100
PATIENCE = 60.0

console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


# --- the model -------------------------------------------------------------------------------------------------------


def scripted(request: Request) -> Answer | str:
    """The stand-in for a model. What it says comes from the conversation it is sent, so a lost item would show."""
    last = request.input[-1]
    told = [str(item["output"]) for item in request.input if item.get("type") == "function_call_output"]
    if last.get("type") == "function_call_output":
        return f"[scripted] {last['output']}"
    question = str(last.get("content"))
    if "Where" in question:
        return call("find_order", order_id="1007")
    if "Please refund" in question:
        return call("start_refund", order_id=told[0].split()[1].rstrip(":"), reason="broken")
    if "city" in question:
        return f"[scripted] {'Leipzig' if any('Leipzig' in it for it in told) else 'I remember no city'}."
    refunds = [it for it in told if it.startswith("Refund")]
    return f"[scripted] {refunds[-1] if refunds else 'I remember no refund.'}"


def relayed(key: str, base_url: str) -> Rule:
    """The real API, asked with this very request."""

    def rule(request: Request) -> Answer:
        url = base_url.rstrip("/") + request.path.removeprefix("/v1")
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        try:
            with urlopen(Fetch(url, json.dumps(request.body).encode(), headers), timeout=PATIENCE) as response:
                return Answer(raw=json.load(response))
        except HTTPError as error:
            return Answer(status=error.code, raw=json.load(error))

    return rule


class Stall:
    """A rule that lets requests through until it is armed; then the one after a tool's result is never answered."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.armed = False
        self.reached = threading.Event()

    def __call__(self, request: Request) -> Answer | str:
        if not self.armed or request.input[-1].get("type") != "function_call_output":
            return self._rule(request)
        self.reached.set()
        return Answer(hold=threading.Event())


# --- the app, a process of its own -----------------------------------------------------------------------------------


class App:
    """The child process: questions go in by its standard input, answers come out line by line."""

    def __init__(self, store: str, base_url: str) -> None:
        env = {**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "local", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, APP, store], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        self._limit = threading.Timer(PATIENCE, self.process.kill)
        self._limit.daemon = True
        self._limit.start()

    def ask(self, question: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("desk> "):
                return line.removeprefix("desk> ").strip()
        assert self.process.stderr
        raise SystemExit(f"the app ended early:\n{self.process.stderr.read()[-2000:]}")

    def kill(self) -> int:
        """SIGKILL, and what the process ended with."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait()

    def close(self) -> None:
        self._limit.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def running(store: str, base_url: str) -> Generator[App]:
    app = App(store, base_url)
    try:
        yield app
    finally:
        app.close()


# --- what there is to see --------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One thing that was said or done, whether it comes from the store or from a request to the model."""

    role: str
    what: str
    style: str = ""

    @property
    def text(self) -> Text:
        return Text(self.what, style=self.style)


async def look(url: str) -> tuple[list[Entry], list[RunInfo], list[str]]:
    """The session's messages and runs as the store has them, and what an integrity check finds."""
    async with Store.open(url) as store:
        session = await store.session("ada-1")
        problems = await store.backend.check() if isinstance(store.backend, Maintenance) else []
        return await session.entries(kinds=("message",)), await session.runs(), problems


def lines_of(message: Message) -> list[Line]:
    """A stored message, a line for each part."""
    return [_line(message.role, part) for part in message.parts]


def _line(role: str, part: Part) -> Line:
    match part:
        case ToolCall(name, _, arguments):
            return _call(name, arguments)
        case ToolResult(response):
            return Line("tool", str(response))
        case Reasoning():
            return _REASONING
        case Said(content):
            return Line(role, content)
        case _:
            return Line(role, f"({type(part).__name__})")


def sent(items: Iterable[dict[str, Any]]) -> list[Line]:
    """The input items of a request to the Responses API."""
    return [_item(item) for item in items]


def _item(item: dict[str, Any]) -> Line:
    match item.get("type"):
        case "function_call":
            return _call(item["name"], json.loads(item["arguments"]))
        case "function_call_output":
            return Line("tool", str(item["output"]))
        case "reasoning":
            return _REASONING
        case _:
            content = item.get("content") or ""
            return Line(str(item.get("role")), content if isinstance(content, str) else "".join(part.get("text", "") for part in content))


_REASONING = Line("assistant", "(reasoning)", "dim")


def _call(name: str, arguments: dict[str, Any]) -> Line:
    return Line("assistant", f"{name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})", "yellow")


def heading(number: int, text: str) -> None:
    console.print()
    console.print(Text(f"{number}  {text}", style="bold"))


def show(what: Table | Text) -> None:
    console.print(Padding(what, (0, 0, 0, 3), expand=False))


def say(who: str, text: str) -> None:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=5, style="cyan" if who == "ada" else "green")
    row.add_column()
    row.add_row(who, Text(text))
    show(row)


def plain_table(*columns: str) -> Table:
    """Columns of a fixed width but for `what`, which gives way where there is no room."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        wide = {"seq": 3, "role": 9, "what": None, "before": 7, "after": 7}[name]
        table.add_column(name, no_wrap=True, width=wide, justify="right" if name == "seq" else "left")
    table.columns[columns.index("what")].max_width = console.width - 42
    return table


def show_stored(entries: list[Entry]) -> None:
    table = plain_table("seq", "role", "what")
    for entry in entries:
        for line in lines_of(entry.message()):
            table.add_row(str(entry.seq), line.role, line.text)
    show(table)
    show(Text("The interrupted turn is there up to its last finished step: question, tool call and result.", style="dim"))


def show_sent(stored: list[Line], before: list[Line], after: list[Line]) -> None:
    """The two requests beside each other, one stored thing a line, then what the new one adds."""
    table = plain_table("role", "what", "before", "after")
    there, new, missing = Text("sent", style="green"), Text("new", style="cyan"), Text("MISSING", style="bold red")
    for line in stored:
        table.add_row(line.role, line.text, there if line in before else missing, there if line in after else missing)
    for line in after[len(stored) :]:
        table.add_row(line.role, line.text, "", new)
    show(table)


# --- the demo --------------------------------------------------------------------------------------------------------


def demo() -> int:
    key = os.environ.get("OPENAI_API_KEY")
    upstream = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    store = f"sqlite:///{Path(tempfile.mkdtemp(prefix='holdfast-')) / 'chat.db'}"
    rule = Stall(relayed(key, upstream) if key else scripted)
    with ModelServer(rule) as server:
        introduce(
            f"the real one at {upstream}, relayed"
            if key
            else "none: a local server answers from a script; OPENAI_API_KEY=... takes a real one",
            store,
        )
        code = tell(server, rule, store)
        if code == 0 and sys.stdout.isatty():
            look_around(store, server.base_url)
        return code


def look_around(store: str, base_url: str) -> None:
    """The conversations in the inbox, until Ctrl-C: for somebody who sits there."""
    os.environ |= {
        "PYDANTIC_AI_NO_BANNER": "1",
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": "local",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        from demo_inbox import serve
    except ImportError as error:
        console.print(Text(f"The inbox needs {error.name}: pip install 'holdfast[serve]'", style="dim"))
        return
    heading(5, "The inbox: this conversation and some more, one of them waiting for your decision")
    serve(store, lambda url: show(Text.assemble((url, "bold cyan"), ("   Ctrl-C ends it", "dim"))))


def introduce(model: str, store: str) -> None:
    console.print("An agent app is killed in the middle of a turn, and started again. What did it lose?", style="bold")
    console.print()
    for name, text in (
        ("model", Text(model)),
        ("store", Text(store)),
        ("app", Text(f"examples/{APP.name}, fifty lines; these two do it:")),
        ("", Text('desk = Agent("openai:gpt-5.2", tools=[...], store=store, session_id="ada-1")', style="green")),
        ("", Text("reply = await desk.run(question, lease=3)", style="green")),
    ):
        console.print(Text.assemble((f"   {name:6} ", "dim"), text), soft_wrap=True)


def tell(server: ModelServer, rule: Stall, store: str) -> int:
    with running(store, server.base_url) as app:
        heading(1, f"The app runs (process {app.process.pid})")
        for question in QUESTIONS[:2]:
            turn(app, question)
        before = sent(interrupted_turn(app, server, rule, QUESTIONS[2]))

    entries, _, _ = asyncio.run(look(store))
    stored = [line for entry in entries for line in lines_of(entry.message())]
    heading(2, "What the store holds now")
    show_stored(entries)

    rule.armed = False
    asked = len(server.requests)
    with running(store, server.base_url) as app:
        heading(3, f"The app runs again (process {app.process.pid})")
        show(Text("      the session is the dead process's until that has given no sign of life for 3 seconds ...", style="dim"))
        turn(app, QUESTIONS[3])
    after = sent(server.requests[asked].input)

    heading(4, "What the model was sent: the last request before the kill, the first after the restart")
    show_sent(stored, before, after)
    _, runs, problems = asyncio.run(look(store))
    return verdict(store, stored, before, after, [run.status for run in runs], problems)


def turn(app: App, question: str) -> None:
    say("ada", question)
    app.ask(question)
    say("desk", app.answer())


def interrupted_turn(app: App, server: ModelServer, rule: Stall, question: str) -> list[dict[str, Any]]:
    """Ask, kill the app while it waits for the model's second answer, and return what it had sent the model."""
    rule.armed = True
    say("ada", question)
    app.ask(question)
    if not rule.reached.wait(PATIENCE / 2):
        raise SystemExit("the model asked for no tool in the third turn, so there is nothing to interrupt: try again")
    show(Text("      the refund has been started, its result is stored; the app waits for the model ...", style="dim"))
    status = app.kill()
    show(Text(f"      kill -9 {app.process.pid}: ended by signal {-status} ({signal.Signals(-status).name})", style="bold red"))
    return server.requests[-1].input


def verdict(store: str, stored: list[Line], before: list[Line], after: list[Line], runs: list[str], problems: list[str]) -> int:
    """Nothing is lost when all that the model had seen is stored, and all that is stored is sent again, in order."""
    again = sum(line in after for line in stored)
    whole = bool(stored) and before == stored == after[: len(stored)] and not problems
    console.print()
    for name, text in (
        ("runs", ", ".join(runs)),
        ("integrity check", "; ".join(problems) or "clean"),
        ("look further", f"{command()} sessions show ada-1 --store {store}"),
    ):
        console.print(Text.assemble((f"   {name:15}  ", "dim"), text), soft_wrap=True)
    console.print()
    if whole:
        console.print(f"Nothing lost: {again} of {len(stored)} stored messages were sent again after the restart.", style="bold green")
        return 0
    console.print(f"Something is wrong: {len(before)} sent before the kill, {len(stored)} stored, {again} sent again.", style="bold red")
    return 1


def command() -> str:
    """How to call the terminal of this very installation from here."""
    here = Path(sys.executable).with_name("holdfast")
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)


if __name__ == "__main__":
    sys.exit(demo())
