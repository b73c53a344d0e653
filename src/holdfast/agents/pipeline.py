"""The engine of a workflow: it tells its steps as calls and results, so that they are stored, resumed and decided on like a tool's.

The call's id is the step's path. On another try the steps are gone through from the start: a path that has its result is not done again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec

from ..errors import InvalidValue
from ..messages import Message, Native, Text, ToolCall, ToolResult
from ..requirements import Requirement
from ..session import Session
from ..values import decode, encode
from .agent import Agent
from .before import said_or_done
from .engine import Answered, Done, Held, Said, Turn
from .engine import Step as Told
from .history import results_of
from .members import work
from .output import content_of, shown_of, text_of, typed_of
from .steps import Condition, Loop, Parallel, Part, Router, Step, StepInput, StepOutput
from .tools import Waits, as_model_sees, executing

FORMAT = "holdfast-step/1"
FAILED = "failed"


class _Waiting(Exception):
    """A step can't go on: it waits for consent, or for what others wait for."""


class _Stopped(Exception):
    """A step has ended the workflow."""

    def __init__(self, content: Any) -> None:
        super().__init__("stopped")
        self.content = content


class Pipeline:
    """The engine: `parts` one after the other. `session_of` gives the session that a step's agent has."""

    holds = True

    def __init__(self, parts: Sequence[Part], session_of: Callable[[Step, Session], Awaitable[Session]]) -> None:
        self.parts = parts
        self.session_of = session_of

    async def run(self, turn: Turn) -> AsyncGenerator[Told]:
        """As `Engine.run`."""
        flow = Flow(self, turn)
        task = asyncio.create_task(flow.go())
        try:
            while (told := await flow.queue.get()) is not None:
                step, stored = told
                yield step
                if not stored.done():
                    stored.set_result(None)
            last = await task
            if isinstance(last, Done):
                yield Said(message=Message("assistant", (Text(as_text(last)),)), asked=False)
            yield last
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what it raised has been raised above
                await task

    def check_changed(self, call: ToolCall, changed: Mapping[str, Any], tools: Sequence[Any]) -> None:
        """As `Engine` says: all but an agent's task is what people can't change of a step."""
        if other := changed.keys() - call.arguments.keys():
            fixed = "what a function is given can't be changed, deny it to do otherwise"
            can = "only its message can be changed" if call.arguments else fixed
            raise InvalidValue(f"approve({min(other)}=...): step {call.name!r} takes no such argument, {can}")
        if not isinstance(changed["message"], str):
            raise InvalidValue(f"approve(message={changed['message']!r:.80}): what step {call.name!r} is told is text")


class Flow:
    """One run through the pipeline."""

    def __init__(self, pipeline: Pipeline, turn: Turn) -> None:
        self.queue: asyncio.Queue[tuple[Told, asyncio.Future[None]] | None] = asyncio.Queue()
        self._pipeline = pipeline
        self._turn = turn
        past, own = turn.messages[: len(turn.messages) - turn.own], turn.messages[len(turn.messages) - turn.own :]
        self._results = {result.id: message for message in own for result in results_of(message)}
        self._calls = {part.id: part.arguments for message in own for part in message.parts if isinstance(part, ToolCall)}
        self._input = _text_of([it for it in own if not said_or_done(it)])
        self._history = _as_text(past)
        self._outputs: dict[str, Any] = {}
        self._confirm: list[str] = []
        self._others: dict[str, tuple[Requirement, ...]] = {}

    async def go(self) -> Told:
        """Go through the steps; the last step told: the answer, or what it waits for."""
        try:
            content = await self._each(self._pipeline.parts, "", None)
        except _Stopped as stopped:
            content = stopped.content
        except _Waiting:
            return Held(confirm=tuple(self._confirm), others=self._others)
        finally:
            self.queue.put_nowait(None)
        return _answer(content)

    async def _tell(self, step: Told) -> None:
        """Tell a step, and wait until it is stored."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((step, stored))
        await stored

    # --- parts ---

    async def _each(self, parts: Sequence[Part], path: str, content: Any) -> Any:
        for part in parts:
            content = await self._part(part, f"{path}{part.name}", content)
        return content

    async def _part(self, part: Part, path: str, content: Any) -> Any:
        if isinstance(part, Step):
            return await self._leaf(part, path, content)
        if isinstance(part, Parallel):
            return await self._parallel(part, path, content)
        if isinstance(part, Condition):
            steps = part.steps if await self._decided(part.test, f"{path}?", content) else part.otherwise
            return await self._each(steps, f"{path}/", content)
        if isinstance(part, Loop):
            return await self._loop(part, path, content)
        return await self._route(part, path, content)

    async def _parallel(self, part: Parallel, path: str, content: Any) -> dict[str, Any]:
        """All at once; whoever has to wait lets the others end first. An error comes before a stop, a stop before a wait."""
        done = await asyncio.gather(*(self._part(it, f"{path}/{it.name}", content) for it in part.steps), return_exceptions=True)
        errors = [it for it in done if isinstance(it, BaseException)]
        for error in sorted(errors, key=lambda it: (isinstance(it, _Waiting), isinstance(it, _Stopped))):
            raise error
        return dict(zip([it.name for it in part.steps], done, strict=True))

    async def _loop(self, part: Loop, path: str, content: Any) -> Any:
        for time in range(1, part.times + 1):
            content = await self._each(part.steps, f"{path}/{time}/", content)
            if part.until is not None and await self._decided(part.until, f"{path}/{time}?", content):
                break
        return content

    async def _route(self, part: Router, path: str, content: Any) -> Any:
        names = _chosen(part, await self._decided(part.choose, f"{path}?", content))
        for place, name in enumerate(names):
            again = names[:place].count(name) + 1  # a step that is chosen again has a path of its own
            content = await self._part(part.choices[name], f"{path}{f'#{again}' if again > 1 else ''}/{name}", content)
        return content

    async def _decided(self, step: Step, path: str, content: Any) -> Any:
        """What a function that decides gives; None, which is no and nothing, where people did not let it decide."""
        given = await self._leaf(step, path, content, keep=False)
        return None if self._try_of(path) in self._turn.denied else given

    # --- one step ---

    async def _leaf(self, step: Step, path: str, content: Any, *, keep: bool = True) -> Any:
        """What the step gives: stored, or done now."""
        path = self._try_of(path)
        given = StepInput(
            input=self._input,
            previous_step_content=content,
            previous_step_outputs=dict(self._outputs),
            session=self._turn.session,
            history=self._history,
        )
        output = _stored(self._results[path]) if path in self._results else await self._do(step, path, given)
        if keep:
            self._outputs[step.name] = output.content
        if output.stop:
            raise _Stopped(output.content)
        return output.content

    def _try_of(self, path: str) -> str:
        """The path of the newest try: one that failed is not done again under its own."""
        number, place = 1, path
        while place in self._results and _failed(self._results[place]):
            number += 1
            place = f"{path}#{number}"
        return place

    async def _do(self, step: Step, path: str, given: StepInput) -> StepOutput:
        arguments = self._turn.rerun.get(path) or self._calls.get(path) or _arguments(step, given)
        if path not in self._calls:
            call = ToolCall(step.name, path, arguments)
            await self._tell(Said(message=Message("assistant", (call,)), acts=True, asked=False))
        if step.options.confirm and path not in self._turn.rerun:
            self._confirm.append(path)
            raise _Waiting
        try:
            with executing(self._turn.execution(path)):
                output = await self._watched(step, path, given, arguments)
        except Waits as waits:
            self._others[path] = waits.requirements
            raise _Waiting from None
        except Exception as error:
            if not step.options.delegates:  # an agent goes on in its own run, which has recorded it
                await self._tell(Answered(_failure(step, path, error)))
            raise
        await self._tell(Answered(_success(step, path, output)))
        return output

    async def _watched(self, step: Step, path: str, given: StepInput, arguments: dict[str, Any]) -> StepOutput:
        """The step's work, with middleware around it as around a tool call: its `result` is the content."""
        if self._turn.watched is None:
            return await self._work(step, path, given, arguments)
        done: list[StepOutput] = []

        async def execute(arguments: dict[str, Any]) -> Any:
            done.append(await self._work(step, path, given, arguments))
            return done[-1].content

        content = await self._turn.watched.tool(path, step.name, arguments, execute)
        return done[-1] if done and content is done[-1].content else StepOutput(content=content)

    async def _work(self, step: Step, path: str, given: StepInput, arguments: dict[str, Any]) -> StepOutput:
        if isinstance(step.work, Agent):
            session = await self._pipeline.session_of(step, self._turn.session)
            made: Any = (await work(step.work, arguments.get("message", ""), session, self._turn.execution(path))).content
        elif inspect.iscoroutinefunction(step.work):
            made = await as_model_sees(step.work)(given)
        else:
            made = await asyncio.to_thread(_called, as_model_sees(step.work), given, path)
            made = await made if inspect.isawaitable(made) else made
        if not isinstance(made, StepOutput):
            return StepOutput(content=content_of(made, f"step {path!r}"))
        return msgspec.structs.replace(made, content=content_of(made.content, f"step {path!r}"))


def _chosen(part: Router, chosen: Any) -> list[str]:
    """The names of the choices; `ValueError` for what names none."""
    several = not isinstance(chosen, str) and (not chosen or isinstance(chosen, Iterable))
    names: list[Any] = list(cast("Iterable[Any]", chosen or ())) if several else [chosen]
    if wrong := [name for name in names if not (isinstance(name, str) and name in part.choices)]:
        fix = "" if isinstance(wrong[0], str) else ": give the name of one, or a list of names"
        raise ValueError(f"router {part.name!r} chose {wrong[0]!r:.80}, which is none of {', '.join(part.choices)}{fix}")
    return names


def _called(work: Callable[..., Any], given: StepInput, path: str) -> Any:
    try:
        return work(given)
    except StopIteration as error:  # no future takes it: whoever waits for the thread would wait for ever
        raise RuntimeError(f"step {path!r} raised StopIteration") from error


def _arguments(step: Step, given: StepInput) -> dict[str, Any]:
    """What is recorded of what the step is given: an agent's task."""
    return {"message": given.message} if isinstance(step.work, Agent) else {}


def _answer(content: Any) -> Done:
    if type(content) is str:
        return Done(content)
    plain = shown_of(content)
    return Done(content, plain, typed_of(content, plain))


def as_text(done: Done) -> str:
    """The workflow's answer, for whoever reads the conversation."""
    return text_of(done.content if isinstance(done.content, str) else done.plain)


def _success(step: Step, path: str, output: StepOutput) -> Message:
    """What is stored of a step; `InvalidValue` names the one whose content can't be."""
    try:
        content = msgspec.Raw(encode(output.content))
    except InvalidValue as error:
        raise InvalidValue(f"step {path!r} gave what can't be stored: {error}") from error
    return _message(step, path, output.content, {"stop": output.stop, "content": content})


def _failure(step: Step, path: str, error: Exception) -> Message:
    told = f"{type(error).__name__}: {error}"
    return _message(step, path, told, {FAILED: told})


def _message(step: Step, path: str, content: Any, native: Mapping[str, Any]) -> Message:
    data = msgspec.Raw(msgspec.json.encode(native))
    return Message("tool", (ToolResult(shown_of(content), path),), step.name, Native(FORMAT, data))


class _Result(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"")
    stop: bool = False
    failed: str | None = None


def _read(message: Message) -> _Result | None:
    native = message.native
    return msgspec.json.decode(native.data, type=_Result) if native is not None and native.format == FORMAT else None


def _stored(message: Message) -> StepOutput:
    """What a stored step gave; a result that a person supplied is its content."""
    it = _read(message)
    if it is None:
        return StepOutput(content=results_of(message)[0].response)
    return StepOutput(content=decode(bytes(it.content)), stop=it.stop)


def _failed(message: Message) -> bool:
    it = _read(message)
    return it is not None and it.failed is not None


def _text_of(input: Sequence[Message]) -> str:
    """What people said, as one text; `InvalidValue` for anything that steps can't be given: they would go on without it."""
    for it in input:
        if wrong := [part for part in it.parts if not isinstance(part, Text)]:
            kind = getattr(wrong[0], "modality", type(wrong[0]).__name__.lower())
            fix = "keep it with the session, put_file(name, data), and say its name"
            raise InvalidValue(f"a workflow's input is text, its steps can't be given this {kind}: {fix}")
        if it.role != "user":
            raise InvalidValue(f"a workflow's input is what users say, its steps can't be given a message of role {it.role!r}")
    return "\n\n".join([it.text for it in input])


def _as_text(past: Sequence[Message]) -> str:
    """Earlier runs, for steps that are to know of them."""
    said = [f"{it.role}: {it.text}" for it in past if it.role in ("user", "assistant") and it.text]
    return "\n".join(["Earlier runs:", *said]) if said else ""
