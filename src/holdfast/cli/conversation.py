"""A conversation on the terminal: lines in, answers out, and what becomes of a run that doesn't go well."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from .. import HoldfastError, Session, SessionGone, Store, ToolCall
from ..agents.events import RunEnded, RunStarted, TextDelta
from . import slash
from .answers import TICK, Drawn, Plain, Shown, Silent, Tools
from .command import Terminal
from .deciding import decided, told
from .lines import Interrupted, Lines, interruptible, unechoed
from .output import ago, console, counted, failed, one_line
from .transcript import Transcript

if TYPE_CHECKING:
    from .. import Agent, RunOutput
    from ..agents import RunStream
    from ..requirements import Decision, Requirement

_PROMPT = "> "
_RECALLED = 50
_ERROR = 400


class Conversation:
    """One person, one agent, one session at a time. `words` begin the command that comes back to a session."""

    session: Session

    def __init__(self, terminal: Terminal, store: Store, agent: Agent, title: str, words: Sequence[str]) -> None:
        self.terminal = terminal
        self.store = store
        self.agent = agent
        self.title = title
        self.lines = Lines()
        self.listed: list[str] = []
        """The sessions that were listed last, by which a number is understood."""
        self.over = False
        self.failed = False
        self._words = words
        self._run_id: str | None = None
        self._released: list[ToolCall] = []
        """Calls that were decided on, and are executed when the run goes on."""

    async def talk(self) -> bool:
        """Take lines until there are no more; whether every turn of it went well."""
        if self.lines.asks:
            self.remark("/help lists what else there is, Ctrl-D leaves\n")
        while not self.over and (line := self._next()) is not None:
            if line.startswith("/"):
                await self._command(line)
            elif line.strip():
                await self.say(line.strip())
            if self.lines.asks and line.strip() and not self.over:
                self.remark("")
        if self.lines.asks:
            self._leave()
        return not self.failed

    def _next(self) -> str | None:
        try:
            return self.lines.read(_PROMPT)
        except KeyboardInterrupt:
            if not self.lines.asks:
                raise
            self.remark("\nCtrl-D leaves")
            return ""

    async def _command(self, line: str) -> None:
        try:
            await slash.obey(self, line)
        except Interrupted:
            self.remark("stopped")
        except (HoldfastError, OSError) as error:
            self._tell(error, one_line(str(error)))

    # --- the session ---

    async def enter(self, session_id: str | None) -> None:
        """Go on in this session, or in a new one; say which, and where it stands."""
        found = None if session_id is None else await self.store.get(session_id, user_id=self.terminal.user)
        self.session = found or self.store.handle(session_id, user_id=self.terminal.user)
        self.remark(f"{self.title}, {self._where(found)}")
        if found is not None:
            await self._recall(found)

    def _where(self, found: Session | None) -> str:
        if found is None:
            return f"new session {self.session.id}"
        info = found.info
        name = f" ({one_line(info.name)})" if info.name else ""
        return f"session {info.id}{name}: {counted(info.counts.messages, 'message')}, last used {ago(info.updated_at)}"

    async def _recall(self, session: Session) -> None:
        """Show the end of what was said, and give the arrow keys what the person said."""
        if not self.lines.asks:
            return
        said = await session.get_chat_history(last=_RECALLED)
        self.lines.remember(message.text for message in said if message.role == "user")
        await self.show_last(1)
        last = await session.runs(last=1)
        if last and last[0].status in slash.UNFINISHED:
            self.remark(f"run {last[0].id} is {last[0].status}: /retry goes on with it")

    async def show_last(self, exchanges: int) -> None:
        """Show the newest exchanges."""
        transcript = Transcript(self.terminal.out, full=False)
        for entry in await slash.exchanges(self.session, exchanges):
            for line in transcript.lines(entry):
                self.terminal.out.print(line)

    # --- turns ---

    async def say(self, text: str) -> None:
        """One turn."""
        await self._turn(self.agent.run(text, session=self.session, stream=True))

    async def go_on(self, run_id: str, decisions: Iterable[Decision] = ()) -> None:
        """Another try at a run, or what comes of decisions."""
        await self._turn(self.agent.continue_run(run_id, decisions, session=self.session, stream=True))

    async def _turn(self, stream: RunStream) -> None:
        self._run_id = None
        shown, self._released = self._shown(), []
        try:
            output = await interruptible(self._followed(stream, shown))
        except Interrupted:
            self.remark("cancelled; what was said until then is kept" + self._retry())
        except Exception as error:  # whatever a model's client or an engine raises: the person decides what comes next
            self._tell(error, _short(error) + self._retry())
            self._lost(error)
        else:
            await self._ended(output)

    async def _followed(self, stream: RunStream, shown: Shown) -> RunOutput:
        spoke = False
        async with stream:
            with unechoed(), shown, _ticking(shown):
                async for event in stream:
                    spoke = spoke or bool(event.text)
                    if isinstance(event, RunStarted):
                        self._run_id = event.run_id
                    if isinstance(event, RunEnded) and not spoke:
                        shown.take(TextDelta(event.output.text))
                    shown.take(event)
            return await stream.output()

    def _shown(self) -> Shown:
        if self.terminal.json:
            return Silent()
        tools = Tools(self._released)
        return Drawn(self.terminal.out, tools) if self.terminal.out.is_terminal else Plain(self.terminal.note, tools)

    async def _ended(self, output: RunOutput) -> None:
        if self.terminal.json:
            self.terminal.answer(_record(output), "")
        if output.status != slash.PAUSED:
            return
        decisions = {it.requirement: it for asked in output.requirements if (it := self._decided(asked)) is not None}
        if decisions:
            self._released = [it.call for it in output.requirements if it.id in decisions and decisions[it.id].executes]
            await self.go_on(output.run_id, decisions.values())
        else:
            self.failed = not self.lines.asks
            self.remark(f"run {output.run_id} waits for a decision: /retry asks again")

    def _decided(self, it: Requirement) -> Decision | None:
        """Ask for a decision; None leaves it for later."""
        if not self.terminal.json:
            console(stderr=True).print(told(it), style="yellow")
        try:
            return decided(it, self.ask) if self.lines.asks else None
        except HoldfastError as error:  # what was typed doesn't fit
            self._tell(error, one_line(str(error)))
            return None

    def _lost(self, error: Exception) -> None:
        """A session whose life has ended is begun anew."""
        if isinstance(error, SessionGone):
            self.session = self.store.handle(self.session.id, user_id=self.terminal.user)

    def _retry(self) -> str:
        return "" if self._run_id is None else f"; run {self._run_id} is stored, /retry goes on with it"

    # --- words to the person ---

    def ask(self, question: str) -> str:
        """A person's answer; empty at Ctrl-C or the end."""
        try:
            return (self.lines.read(question) or "").strip()
        except KeyboardInterrupt:
            self.remark("")
            return ""

    def remark(self, text: str) -> None:
        """A word beside the conversation."""
        self.terminal.note(text)

    def _tell(self, error: Exception, message: str) -> None:
        """An error, in one line."""
        self.failed = self.failed or not self.lines.asks
        if self.terminal.json:
            failed(type(error).__name__, message, as_json=True)
        else:
            console(stderr=True).print(f"holdfast: {message}", style="red")

    def _leave(self) -> None:
        if not self.over:
            self.remark("")
        if self.session.version:
            words = shlex.join([*self._words, "--session", self.session.id])
            self.terminal.note(f"session {self.session.id}: come back with\n  {words}", wrap=False)


@contextmanager
def _ticking(shown: Shown) -> Generator[None]:
    """Let it tick meanwhile."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK)
            shown.tick()

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()


def _short(error: Exception) -> str:
    """What an error says, in one line; of a refused request its status and what the service said."""
    body: Any = getattr(error, "body", None)
    status = getattr(error, "status_code", None)
    said = body.get("message") if isinstance(body, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    if status and said:
        text = f"the model's service answered {status}: {said}"
    else:
        text = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
    return one_line(text)[:_ERROR]


def _record(output: RunOutput) -> dict[str, Any]:
    names = ("run_id", "session_id", "user_id", "agent", "status", "requirements", "metrics")
    content: Any = output.content if isinstance(output.content, str | None) else output.text
    return {"content": content} | {name: msgspec.to_builtins(getattr(output, name)) for name in names}
