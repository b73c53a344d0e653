"""What may be put around runs, model calls and tool calls: middleware, and its two thin forms, hooks and context providers.

Everything here happens inside the run: the input is stored before, what is set on the session's state is stored with the run's next
commit, and an exception ends the run as an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from ..errors import InvalidValue
from ..messages import Message, assistant
from ..session import Session
from .output import RunOutput

Next = Callable[[], Awaitable[None]]
Reply = str | Message
Purpose = Literal["answer", "name", "summary"]


class RunContext:
    """One run, as hooks, providers and middleware see it. Change it before the model is called; afterwards, change the `answer`.

    `input`: what the model is to answer (the session keeps what was really said). `past`: what is sent of the session's history.
    `context`: messages sent between the two, by the name of who added them. `answer`: None until the model has answered; set before,
    the model is not called. `metadata`: anything, for this run alone. In a run that goes on, after a pause or a crash, `input` ends with
    what was `said` before; `asked` is the input without it.
    """

    def __init__(
        self,
        agent: Any,
        session: Session,
        run_id: str,
        input: Sequence[Message],
        past: Sequence[Message],
        said: Sequence[Message] = (),
    ) -> None:
        self.agent = agent
        self.session = session
        self.run_id = run_id
        self.input = list(input)
        self.past = list(past)
        self.said = tuple(said)
        self.context: dict[str, list[Message]] = {}
        self.instructions: list[str] = []
        self.tools: list[Any] = []
        self.metadata: dict[str, Any] = {}
        self.answer: Any = None

    @property
    def asked(self) -> list[Message]:
        """What stands for the input in what hooks and middleware have left of it and of what was said since: all before the latter."""
        if not self.said:
            return list(self.input)
        places = range(len(self.input) - 1, -1, -1)
        first = next((place for place in places if self.input[place] == self.said[0]), len(self.input) - len(self.said))
        return self.input[: max(first, 0)]

    def extend_messages(self, source: str, messages: Sequence[Message]) -> None:
        """Send these messages too, before the input."""
        self.context.setdefault(source, []).extend(messages)

    def extend_instructions(self, source: str, text: str) -> None:
        """Add to the instructions of this run."""
        self.instructions.append(text)

    def extend_tools(self, source: str, tools: Sequence[Any]) -> None:
        """Give the model more tools for this run."""
        self.tools.extend(tools)


class RunInvocation(msgspec.Struct, kw_only=True):
    """One call of `run` or `continue_run`, with its waiting and storing: to look on, for nothing that is changed in it has an effect.

    After `call_next()`: `output` (None where it raised), and which `attempt` at the run it was.
    """

    agent: Any
    session: Session
    run_id: str
    input: tuple[Message, ...]
    output: RunOutput | None = None
    attempt: int = 1


class ModelCall(msgspec.Struct):
    """One request to the model: its place in the run (from 1), what is sent, and the `answer` once there is one.

    What comes after it is as far as it is known, for looking on: who asks (`agent`) and what of whom; from `response_model` on, once the
    model has answered. `failure` is the type of an error that the caller is told elsewhere: one that breaks a stream off is no exception
    here, but a cancellation. `purpose`: "answer" in a run; a session's "name" and a "summary" are asked for outside of any, under a
    `run_id` that no session knows.
    """

    session: Session
    run_id: str
    number: int
    messages: list[Message]
    answer: Message | None = None
    provider: str | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool = False
    response_model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    failure: str | None = None
    agent: str | None = None
    purpose: Purpose = "answer"


class ToolInvocation(msgspec.Struct):
    """One execution of a tool, or of a workflow's step. `arguments` may be changed before it; a `result` that is set before stands for the
    execution. `agent`: the name of whose tool it is."""

    session: Session
    run_id: str
    id: str | None
    name: str
    arguments: dict[str, Any]
    result: Any = msgspec.UNSET
    agent: str | None = None


class Middleware:
    """Put around runs, model calls and tool calls: override what you want to be around, and `await call_next()` in it.

    Not calling it skips what is inside: set `context.answer`, `call.answer` or `call.result` then.
    """

    async def on_invocation(self, invocation: RunInvocation, call_next: Next) -> None:
        """Around a whole call of `run` or `continue_run`, the waiting for its turn and every commit included; also where nothing is left
        to do. It can't stand for it: `call_next()` has to be awaited."""
        await call_next()

    async def on_run(self, context: RunContext, call_next: Next) -> None:
        """Around what happens between the run's first commit and its last."""
        await call_next()

    async def on_model_call(self, call: ModelCall, call_next: Next) -> None:
        """Around one request to the model."""
        await call_next()

    async def on_tool_call(self, call: ToolInvocation, call_next: Next) -> None:
        """Around one execution of a tool."""
        await call_next()


class Prehook:
    """Code before a run: what it returns is sent to the model in place of the input, or is the answer."""

    async def on_run(self, session: Session, agent: Any, requests: list[Message]) -> list[Message] | Reply:
        """The messages the model is to answer; or a text or an assistant's message, which ends the run with it."""
        return requests

    def name(self) -> str:
        return type(self).__name__


class Posthook:
    """Code after a run: what it returns is the answer, for the caller and in the session."""

    async def on_run(self, session: Session, requests: list[Message], agent: Any, reply: Any) -> Any:
        """The answer: the one given, or another: text, a message, whose text it is, or anything that has a form in JSON."""
        return reply

    def name(self) -> str:
        return type(self).__name__


class ContextProvider:
    """Adds context to a run, and learns from it. `state` is this provider's own part of the session's state, a dict to change."""

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        """Before the model is called; in the order of the list."""

    async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        """After it has answered (`context.answer`); in reverse order."""


class HistoryProvider(ContextProvider):
    """A history of your own, for the model instead of the session's: implement `get_messages` and `save_messages`.

    With `load_messages` it is the one source of what the model is sent of the past; the session keeps its record all the same. What is
    saved is chosen by `store_inputs`, `store_outputs` and `store_context_messages` (of `store_context_from`, or of everyone).
    """

    def __init__(
        self,
        source_id: str,
        *,
        load_messages: bool = True,
        store_inputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
        store_outputs: bool = True,
    ) -> None:
        super().__init__(source_id)
        self.load_messages = load_messages
        self.store_inputs = store_inputs
        self.store_context_messages = store_context_messages
        self.store_context_from = store_context_from
        self.store_outputs = store_outputs

    async def get_messages(self, session_id: str, *, state: dict[str, Any]) -> list[Message]:
        """What is sent of the past, in order."""
        raise NotImplementedError

    async def save_messages(self, session_id: str, messages: Sequence[Message], *, state: dict[str, Any]) -> None:
        """Keep what this run added."""
        raise NotImplementedError

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        if self.load_messages:
            context.past.extend(await self.get_messages(session.id, state=state))

    async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        kept: list[Message] = []
        if self.store_context_messages:
            sources = context.context.keys() if self.store_context_from is None else self.store_context_from
            kept += [message for source in sources for message in context.context.get(source, [])]
        if self.store_inputs:
            kept += context.asked
        if self.store_outputs and context.answer is not None:
            kept.append(assistant(str(context.answer)))
        if kept:
            await self.save_messages(session.id, kept, state=state)


BaseContextProvider = ContextProvider
BaseHistoryProvider = HistoryProvider


class InMemoryHistoryProvider(HistoryProvider):
    """The session's own history, under the name it has elsewhere: what an agent does without any provider."""

    def __init__(self, source_id: str = "in_memory", *, load_messages: bool = True) -> None:
        super().__init__(source_id, load_messages=load_messages)

    async def before_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        """Nothing: the run has it already."""

    async def after_run(self, *, agent: Any, session: Session, context: RunContext, state: dict[str, Any]) -> None:
        """Nothing: the session keeps everything."""


def check_around(**given: Sequence[Any]) -> None:
    """`InvalidValue` for something in one of the lists that does not belong there."""
    for name, items in given.items():
        kind = _KINDS[name]
        if isinstance(items, (str, *_KINDS.values())) or not isinstance(items, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValue(f"{name}={items!r:.80}: give a list of {kind.__name__} objects")
        for it in items:
            if isinstance(it, type) or not isinstance(it, kind):
                fix = f"{it.__name__}()" if isinstance(it, type) else f"an object of a class made from {kind.__name__}"
                raise InvalidValue(f"{name}: {it!r:.80} is no {kind.__name__}: give {fix}")


_KINDS: dict[str, type] = {"middleware": Middleware, "prehooks": Prehook, "posthooks": Posthook, "context_providers": ContextProvider}


def loads_history(providers: Sequence[ContextProvider]) -> bool:
    """Whether one of the providers is the source of the past, instead of the session."""
    mine = [it for it in providers if isinstance(it, HistoryProvider)]
    return any(it.load_messages and not isinstance(it, InMemoryHistoryProvider) for it in mine)


def halts_history(providers: Sequence[ContextProvider]) -> bool:
    """Whether the session's own history was switched off by its name."""
    return any(isinstance(it, InMemoryHistoryProvider) and not it.load_messages for it in providers)


# --- how it is done --------------------------------------------------------------------------------------------------


async def through_middleware(layers: Sequence[Callable[[Any, Next], Awaitable[None]]], it: Any, last: Next) -> None:
    """`last`, with every layer around it, the first one outermost."""
    if not layers:
        await last()
        return
    first, *rest = layers
    await first(it, lambda: through_middleware(rest, it, last))


async def with_context(
    context: RunContext, providers: Sequence[ContextProvider], prehooks: Sequence[Prehook], posthooks: Sequence[Posthook], ask: Next
) -> None:
    """The run's body with what comes before and after it; `ask` calls the model, and is left out once there is an answer."""
    for hook in prehooks:
        if context.answer is None:
            _take(context, await hook.on_run(context.session, context.agent, list(context.input)), hook)
    if context.answer is not None:
        return
    states = [_state_of(context.session, it) for it in providers]
    for provider, state in zip(providers, states, strict=True):
        await provider.before_run(agent=context.agent, session=context.session, context=context, state=state)
    await ask()
    if context.answer is None:
        return
    for provider, state in reversed(list(zip(providers, states, strict=True))):
        await provider.after_run(agent=context.agent, session=context.session, context=context, state=state)
    for hook in posthooks:
        made = await hook.on_run(context.session, context.asked, context.agent, context.answer)
        context.answer = made.text if isinstance(made, Message) else made


def _take(context: RunContext, made: Any, hook: Prehook) -> None:
    """What a prehook returned: other requests, or the answer."""
    if isinstance(made, str | Message):
        context.answer = made if isinstance(made, str) else made.text
    elif isinstance(made, list) and made and all(isinstance(it, Message) for it in made):  # pyright: ignore[reportUnknownVariableType]
        context.input = list(made)  # pyright: ignore[reportUnknownArgumentType]
    else:
        raise InvalidValue(f"prehook {hook.name()} returned {made!r:.80}: it has to return the messages to send, or a text to answer with")


def _state_of(session: Session, provider: ContextProvider) -> dict[str, Any]:
    """The provider's part of the session's state: changes in it are stored like any other."""
    found = session.state.get(provider.source_id)
    if not isinstance(found, dict):
        session.state[provider.source_id] = {}
        found = session.state[provider.source_id]
    return found  # pyright: ignore[reportUnknownVariableType]
