"""An agent: a model, instructions and tools, whose conversations are sessions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from copy import copy
from itertools import count
from typing import Any, Literal, Self, overload

import msgspec

from .. import entries as kinds
from ..backend import Counts
from ..entries import COMPLETED, LIVE, Entry
from ..errors import Conflict, HoldfastError, InvalidValue, MissingExtra, SessionNotFound
from ..ids import check_id, check_session_id, new_id
from ..messages import Message, user
from ..requirements import Decision
from ..running import Run, cancel
from ..runs import LEASE, WAIT, Patience
from ..session import Session
from ..store import Store
from . import naming
from .around import ContextProvider, Middleware, Posthook, Prehook, check_around
from .asking import asked
from .before import check_same
from .compaction import Compaction
from .driving import Driving
from .engine import Engine, by_name, check_holds
from .events import Event
from .following import follow
from .history import DEFAULT, History
from .live import unstored
from .orders import Crew, Instructions, Orders
from .output import RunOutput
from .sequence import broken_off
from .stream import RunStream
from .summaries import Summaries
from .tale import Emit
from .tools import checked_tools
from .whole import invoked

log = logging.getLogger("holdfast")
Input = str | Message | Sequence[Message]
CACHED_SESSIONS = 256
_said_once = count()


class Agent:
    """An agent. Its runs belong to sessions: each run sends what was said before, and is stored as it goes.

    `model`: a name such as "openai:gpt-5.2", `holdfast.models.OpenAIResponses(id=...)` or `OpenAIChat(id=...)`, a model object or an agent
    of pydantic-ai, or an engine of your own. `instructions`: text, or a function of the session that gives it. `tools`: typed functions;
    a parameter typed `Session` is the run's session and hidden from the model. `store`: a `Store` or a URL, opened at first use; without
    one, sessions are kept in memory. `session_id`: the session of runs that name none; without it, each such run begins a new one.
    `cache_session`: keep sessions in memory, checked against the database at every use. `history`: how much of the past is sent.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        instructions: Instructions = None,
        tools: Sequence[Any] = (),
        store: Store | str | None = None,
        session_id: str | None = None,
        cache_session: bool = False,
        add_history_to_context: bool = True,
        history: History = DEFAULT,
        context_providers: Sequence[ContextProvider] = (),
        middleware: Sequence[Middleware] = (),
        prehooks: Sequence[Prehook] = (),
        posthooks: Sequence[Posthook] = (),
    ) -> None:
        check_around(context_providers=context_providers, middleware=middleware, prehooks=prehooks, posthooks=posthooks)
        if not isinstance(history, History):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"history={history!r:.80}: write History(runs=...), History(messages=...) or History(tokens=...)")
        if not (instructions is None or isinstance(instructions, str) or callable(instructions)):
            raise InvalidValue(f"instructions={instructions!r:.80}: give text, or a function of the session that returns it")
        self.name = None if name is None else check_id(name, "agent name")
        self.session_id = None if session_id is None else check_session_id(session_id)
        self.store = _store(store, cache=cache_session)
        self._forgets = store is None
        self.runner = Runner()
        self.instructions = instructions
        self._history = history if add_history_to_context else None
        self._compaction = _compaction(history.summaries or Summaries())
        own = checked_tools(tools)
        engine = _engine(model, own)
        self._crew = Crew(
            agent=self,
            name=self.name,
            store=self.store,
            engine=engine,
            model=_model_name(model),
            instructions=instructions,
            tools=own,
            by_name=by_name(engine, own),
            providers=tuple(context_providers),
            middleware=tuple(middleware),
            prehooks=tuple(prehooks),
            posthooks=tuple(posthooks),
        )

    @property
    def crew(self) -> Crew:
        """What its runs need of it; for what is made of agents."""
        return self._crew

    def on(self, store: Store, name: str | None = None) -> Self:
        """This agent over another store, under this name where it has none; the two share everything else."""
        other = copy(self)
        other.store, other._forgets, other.name = store, False, self.name or name
        other._crew = msgspec.structs.replace(self._crew, agent=other, store=store, name=self._crew.name or name)
        return other

    @property
    def keeps(self) -> bool:
        """Whether it was given a store: another's sessions are in memory."""
        return not self._forgets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._crew.model!r}, name={self.name!r})"

    # --- running ---

    @overload
    def run(
        self,
        input: Input,
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_id: str | None = None,
        stream: Literal[False] = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> Coroutine[Any, Any, RunOutput]: ...
    @overload
    def run(
        self,
        input: Input,
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_id: str | None = None,
        stream: Literal[True],
        detached: bool = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> RunStream: ...
    def run(
        self,
        input: Input,
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_id: str | None = None,
        stream: bool = False,
        detached: bool = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> Coroutine[Any, Any, RunOutput] | RunStream:
        """One run: `await` it for its output, or with `stream=True` iterate over its events.

        The input is stored before the model is called, every tool's result before the model is asked again. One run at a time on a
        session: another waits up to `wait` seconds, then raises `SessionBusy` (0: at once). `run_id`: your own, to make a call safe to
        repeat: a completed run is returned, a paused one as it waits, one under way is waited for, one that failed goes on from what is
        stored. `detached`: a stream that nobody reads any more goes on to its end, and `follow` tells of it in any process, also of what is
        not stored yet; otherwise it is cancelled with its reader. `lease`: if the process of this run gives no sign of life for so many
        seconds, others may take the session over. What the model's client raises is raised on, recorded as the run's error. Raises
        `SessionNotFound` on a session of another user.
        """
        orders = Orders(
            session=self._session(session, session_id, user_id),
            input=_messages(input),
            run_id=new_id() if run_id is None else check_id(run_id, "run id"),
            supplied=run_id is not None,
            wait=wait,
            lease=lease,
            stream=stream,
            detached=_detached(detached, stream),
            history=self._history,
        )
        return self._begun(orders)

    @overload
    def continue_run(
        self,
        run: RunOutput | str,
        decisions: Iterable[Decision] = (),
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        stream: Literal[False] = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> Coroutine[Any, Any, RunOutput]: ...
    @overload
    def continue_run(
        self,
        run: RunOutput | str,
        decisions: Iterable[Decision] = (),
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        stream: Literal[True],
        detached: bool = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> RunStream: ...
    def continue_run(
        self,
        run: RunOutput | str,
        decisions: Iterable[Decision] = (),
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        stream: bool = False,
        detached: bool = False,
        wait: float = WAIT,
        lease: float = LEASE,
    ) -> Coroutine[Any, Any, RunOutput] | RunStream:
        """Go on with a run that is paused, failed or was interrupted, in any process: its output, or its id and its session.

        `decisions` are those of its requirements (`requirement.approve()`, `.deny(reason)`, `.answer(...)`, `.supply(result)`,
        `.retry()`, `.cancel()`); while some are open it stays paused. A decision has its effect once: one that comes second is
        `AlreadyDecided`. What has expired counts as decided.
        """
        if isinstance(run, RunOutput):
            session_id = session_id or (None if session is not None else run.session_id)
            user_id = user_id or run.user_id
        orders = Orders(
            session=self._session(session, session_id, user_id),
            input=(),
            run_id=check_id(run.run_id if isinstance(run, RunOutput) else run, "run id"),
            supplied=True,
            resume=True,
            decisions=_decisions(decisions),
            wait=wait,
            lease=lease,
            stream=stream,
            detached=_detached(detached, stream),
            history=self._history,
        )
        return self._begun(orders)

    def _begun(self, orders: Orders) -> Coroutine[Any, Any, RunOutput] | RunStream:
        driving = Driving(self._crew, orders)
        if not orders.stream:
            return self._driven(driving, _nobody)
        return RunStream(lambda emit: self._driven(driving, emit), detached=orders.detached)

    async def _driven(self, driving: Driving, emit: Emit) -> RunOutput:
        """The run; what it leaves to be summed up is, after it."""
        output = await _explained(driving, emit)
        if output.status == COMPLETED and driving.long:
            self._compaction.begin(driving.session, self._crew)
        return output

    async def enqueue(
        self,
        input: Input,
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Store the input of a run that is to begin later, without waiting for anybody; its run id.

        It reads as `queued`, and is left out of other runs until `continue_run(run_id)` begins it, in any process. With a `run_id` of your
        own a second call changes nothing; with another input it is a `UsageError`, as in `run`.
        """
        it = self._session(session, session_id, user_id)
        run = Run(it, new_id() if run_id is None else check_id(run_id, "run id"), self.name)
        given, patience = _messages(input), Patience(WAIT)
        while True:
            seen = None if run_id is None else await _version_without(it, run_id, given)
            if run_id is not None and seen is None:
                return run_id
            try:
                await run.queue(given, expect=seen)
            except Conflict as conflict:  # somebody wrote since we looked, perhaps this very run
                await patience.again_after(conflict, it.key)
            else:
                return run.id

    async def follow(
        self, run_id: str, session_id: str | None = None, *, user_id: str | None = None, after: int = 0
    ) -> AsyncIterator[Event]:
        """The events of a run behind number `after`, whoever drives it and wherever: while it goes on, and after its end.

        Each comes once, in order, `RunEnded` last; of a run that isn't streamed `detached` they come as they are stored. Raises
        `SessionNotFound`, `UsageError` where there is no such run, `SessionGone` if its session goes meanwhile.
        """
        session = await self._there(session_id, user_id)
        async with aclosing(follow(session, check_id(run_id, "run id"), after)) as events:
            async for event in events:
                yield event

    async def cancel_run(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None) -> bool:
        """End a run that is under way or waits for people, in any process, as cancelled; False for one that is over.

        The process that drives it stops at its next write or heartbeat. What is stored of the run stays, and of a detached one what was
        told of an answer. Raises `SessionNotFound`, `UsageError` where there is no such run.
        """
        session = await self._there(session_id, user_id)

        async def said(log: list[Entry]) -> Message | None:
            return broken_off(session.id, log, unstored([it for it in await session.blobs(LIVE, prefix=run_id) if it.key == run_id]))

        return await cancel(session, check_id(run_id, "run id"), said)

    def _session(self, session: Session | None, session_id: str | None, user_id: str | None) -> Session:
        """The handle of a call; nothing is read yet."""
        if session is not None and session_id is not None:
            raise InvalidValue(f"give either session= or session_id={session_id!r}, not both")
        if session is not None and not isinstance(session, Session):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValue(f"session={session!r:.80} is no Session: write session_id={session!r:.80}, or agent.create_session()")
        if self._forgets and not (session is not None and session.attached) and not next(_said_once):
            log.warning("no store was given: sessions are kept in memory and end with this process; pass store='sqlite:///chat.db'")
        named = self.session_id if session_id is None else session_id
        return self.store.handle(named if session is None else session, user_id=user_id)

    # --- sessions ---

    def create_session(self, session_id: str | None = None, *, user_id: str | None = None) -> Session:
        """A session of this agent's store, for its runs. Nothing is stored before the first of them, or a commit."""
        return self.store.handle(session_id, user_id=user_id)

    async def get_session(self, session_id: str | None = None, *, user_id: str | None = None) -> Session | None:
        """The session, or None where there is none for this caller."""
        return await self.store.get(self._id(session_id), user_id=user_id)

    async def get_chat_history(
        self, session_id: str | None = None, *, user_id: str | None = None, last: int | None = None
    ) -> list[Message]:
        """What user and assistant said to each other in a session; `SessionNotFound` where there is none."""
        return await (await self._there(session_id, user_id)).get_chat_history(last=last)

    async def set_session_name(
        self,
        session_id: str | None = None,
        session_name: str | None = None,
        *,
        autogenerate: bool = False,
        user_id: str | None = None,
    ) -> Session:
        """Name a session, or have the model name it in at most five words from its first messages; the session.

        If the model can't be reached, or says nothing of use, the name is the beginning of the first message.
        """
        if (session_name is None) != autogenerate:
            raise InvalidValue("set_session_name takes either session_name=... or autogenerate=True")
        session = await self._there(session_id, user_id)
        await session.rename(await self._name_for(session) if autogenerate else session_name)
        return session

    async def get_session_name(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        """The session's name, or None while it has none; `SessionNotFound` where there is no session."""
        return (await self._there(session_id, user_id)).name

    async def get_session_metrics(self, session_id: str | None = None, *, user_id: str | None = None) -> Counts:
        """What all runs of a session have used so far, every try of them; `SessionNotFound` where there is no session."""
        return (await self._there(session_id, user_id)).metrics

    async def compact(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        """Sum up a session now, all but its newest runs (`Summaries(keep=...)`): the summary, or None where there is nothing to sum up.

        The record stays as it is: from now on a history with `summaries` sends the summary in place of what it covers. Raises what the
        model's client raises, and `SessionNotFound` where there is no session.
        """
        session = await self._there(session_id, user_id)
        return await self._compaction.now(session, self._crew)

    async def get_session_summary(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        """What the newest summary of a session says, or None; `SessionNotFound` where there is no session."""
        return await (await self._there(session_id, user_id)).get_summary()

    async def _name_for(self, session: Session) -> str:
        first = await session.entries(first=4 * naming.FIRST, kinds=(kinds.MESSAGE,))
        spoken = [it for it in (entry.message() for entry in first) if it.role in ("user", "assistant") and it.text][: naming.FIRST]
        if not spoken:
            return naming.fallback([], session.id)
        try:
            name = naming.tidy(await self._name_of(session, naming.question(spoken)))
        except Exception as error:  # whatever a model's client raises, a name is not worth failing for
            log.warning("no name from the model, the first words are taken: session_id=%s error=%s", session.id, type(error).__name__)
            name = ""
        return name or naming.fallback(spoken, session.id)

    async def _name_of(self, session: Session, question: str) -> str:
        """The model's name for a session."""
        said, _ = await asked(session, question, naming.INSTRUCTIONS, crew=self._crew, purpose="name")
        return said

    async def _there(self, session_id: str | None, user_id: str | None) -> Session:
        found = await self.get_session(session_id, user_id=user_id)
        if found is None:
            raise SessionNotFound(f"there is no session {self._id(session_id)!r}" + (f" for user {user_id!r}" if user_id else ""))
        return found

    def _id(self, session_id: str | None) -> str:
        if session_id is None and self.session_id is None:
            raise InvalidValue("give session_id=..., or give the agent one when you make it")
        return (self.session_id or "") if session_id is None else session_id


def asynchronous(it: Any) -> Any:
    """The agent of this module behind a blocking one (its `aio`); anything else is given back as it is."""
    inner = getattr(it, "aio", None)
    return inner if isinstance(inner, Agent) else it


class Runner:
    """Runs an agent on a session: the long form of `agent.run(prompt, session=session)`."""

    async def run(self, agent: Agent, session: Session, prompt: Input) -> RunOutput:
        """As `Agent.run`."""
        return await agent.run(prompt, session=session)


def _store(store: Store | str | None, *, cache: bool) -> Store:
    if store is None:
        store = Store.open("memory://")
    elif isinstance(store, str):
        store = Store.shared(store)
    elif not isinstance(store, Store):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(f"store={store!r:.80}: give a Store or a URL such as 'sqlite:///chat.db'")
    return store.cached(CACHED_SESSIONS) if cache else store


def _engine(model: Any, tools: tuple[Any, ...]) -> Engine:
    if isinstance(model, Agent | type):
        raise InvalidValue(f"model={model!r:.80}: give a model or an engine, not an agent of ours and not a class")
    if isinstance(model, Engine) and not hasattr(model, "iter"):
        check_holds(model, tools)
        return model
    try:
        from .pydantic import PydanticEngine
    except ModuleNotFoundError as error:
        raise MissingExtra('an Agent needs its engine, which is not installed: pip install "holdfast[openai]"') from error
    engine = PydanticEngine(model)
    engine.prepare(tools)
    return engine


def _compaction(summaries: Summaries) -> Compaction:
    model = summaries.model
    return Compaction(summaries, None if model is None else _engine(model, ()), "" if model is None else _model_name(model))


def _model_name(model: Any) -> str:
    """The model as a run records it."""
    if isinstance(model, str):
        return model
    found = getattr(model, "id", None) or getattr(model, "model_id", None) or getattr(model, "model_name", None)
    return str(found or type(model).__name__)


def _messages(input: Input) -> tuple[Message, ...]:
    """The input as messages; `InvalidValue` for one with nothing in it."""
    given = (user(input),) if isinstance(input, str) else (input,) if isinstance(input, Message) else input
    if not isinstance(given, Sequence) or not all(isinstance(it, Message) for it in given):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"input={input!r:.80}: give text, a Message, or a list of messages")
    if all(_blank(it) for it in given):
        raise InvalidValue("input is empty: say something, for the model would be paid for nothing")
    return tuple(given)


def _detached(detached: bool, stream: bool) -> bool:
    if detached and not stream:
        raise InvalidValue("detached=True is for stream=True: a run that is awaited ends with whoever awaits it")
    return detached


def _decisions(given: Iterable[Decision]) -> tuple[Decision, ...]:
    decided = tuple(given) if isinstance(given, Iterable) else (given,)  # pyright: ignore[reportUnnecessaryIsInstance]
    for it in decided:
        if not isinstance(it, Decision):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"decisions={given!r:.80}: give a list of what requirement.approve() and its like return")
    return decided


def _blank(message: Message) -> bool:
    """Whether there is nothing in it."""
    return all(getattr(part, "content", None) == "" for part in message.parts)


async def _explained(driving: Driving, emit: Emit) -> RunOutput:
    """The run; an error tells who catches it where it is."""
    try:
        return await invoked(driving.crew, driving.orders, driving.run, lambda: driving.go(emit))
    except Exception as error:
        if not isinstance(error, HoldfastError):
            error.add_note(
                f"The run is stored: run_id={driving.run.id!r}, session_id={driving.session.id!r}."
                " Call run again with this run_id to go on from what is stored."
            )
        raise


async def _version_without(session: Session, run_id: str, input: tuple[Message, ...]) -> int | None:
    """The version of the session at which there is no such run; None where there is, with this input. `UsageError` for another input."""
    try:
        run, log = await session.run_log(run_id, light=True)
    except SessionNotFound:  # none yet, or another's: then the commit says so
        return session.version
    if run is None:
        return session.version
    check_same(session, run, await session.whole(log), input)
    return None


def _nobody(event: Event) -> None:
    """Who listens to a run that is not streamed."""
