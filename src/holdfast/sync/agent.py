"""The blocking form of agents."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast, overload

from .. import session as aio_session
from ..agents import agent as aio
from ..agents import stream as aio_stream
from ..agents.agent import Input
from ..agents.around import ContextProvider, Middleware, Posthook, Prehook
from ..agents.events import Event
from ..agents.history import DEFAULT, History
from ..agents.orders import Instructions
from ..agents.output import RunOutput
from ..backend import Counts
from ..messages import Message
from ..requirements import Decision
from ..runs import LEASE, WAIT
from .sessions import Bridge, Session, Store, portal, waited

T = TypeVar("T")


class Agent:
    """`holdfast.Agent`, blocking. A run needs an event loop: it goes on in the portal thread, and the caller waits for it."""

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
        made = aio.Agent(
            model,
            name=name,
            instructions=instructions,
            tools=tools,
            store=store.aio if isinstance(store, Store) else store,
            session_id=session_id,
            cache_session=cache_session,
            add_history_to_context=add_history_to_context,
            history=history,
            context_providers=context_providers,
            middleware=middleware,
            prehooks=prehooks,
            posthooks=posthooks,
        )
        self._adopt(made)

    def _adopt(self, agent: aio.Agent) -> None:
        self.aio = agent
        self.store = Store(agent.store)
        self.runner = Runner()

    def __repr__(self) -> str:
        return repr(self.aio)

    @property
    def name(self) -> str | None:
        return self.aio.name

    @property
    def session_id(self) -> str | None:
        return self.aio.session_id

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
    ) -> RunOutput: ...
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
    ) -> RunOutput | RunStream:
        how: dict[str, Any] = {"stream": stream, "detached": detached, "wait": wait, "lease": lease}
        it = cast("Any", self.aio).run(input, session=_inner(session), session_id=session_id, user_id=user_id, run_id=run_id, **how)
        return self._given(it, session)

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
    ) -> RunOutput: ...
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
    ) -> RunOutput | RunStream:
        how: dict[str, Any] = {"stream": stream, "detached": detached, "wait": wait, "lease": lease}
        it = cast("Any", self.aio).continue_run(run, decisions, session=_inner(session), session_id=session_id, user_id=user_id, **how)
        return self._given(it, session)

    def _given(self, it: Any, session: Session | None) -> RunOutput | RunStream:
        if session is not None:
            session.taken(Bridge(session.aio.backend))
        return RunStream(it) if isinstance(it, aio_stream.RunStream) else _call(it)

    def create_session(self, session_id: str | None = None, *, user_id: str | None = None) -> Session:
        return self._form(self.aio.create_session(session_id, user_id=user_id))

    def get_session(self, session_id: str | None = None, *, user_id: str | None = None) -> Session | None:
        found = self.store.call(self.aio.get_session(session_id, user_id=user_id))
        return found and self._form(found)

    def get_chat_history(self, session_id: str | None = None, *, user_id: str | None = None, last: int | None = None) -> list[Message]:
        return self.store.call(self.aio.get_chat_history(session_id, user_id=user_id, last=last))

    def set_session_name(
        self,
        session_id: str | None = None,
        session_name: str | None = None,
        *,
        autogenerate: bool = False,
        user_id: str | None = None,
    ) -> Session:
        return self._form(_call(self.aio.set_session_name(session_id, session_name, autogenerate=autogenerate, user_id=user_id)))

    def compact(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        return _call(self.aio.compact(session_id, user_id=user_id))

    def get_session_summary(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        return self.store.call(self.aio.get_session_summary(session_id, user_id=user_id))

    def get_session_name(self, session_id: str | None = None, *, user_id: str | None = None) -> str | None:
        return self.store.call(self.aio.get_session_name(session_id, user_id=user_id))

    def enqueue(
        self,
        input: Input,
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        it = self.aio.enqueue(input, session=_inner(session), session_id=session_id, user_id=user_id, run_id=run_id)
        return _call(it)

    def follow(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None, after: int = 0) -> Iterator[Event]:
        return self.store.each(self.aio.follow(run_id, session_id, user_id=user_id, after=after))

    def cancel_run(self, run_id: str, session_id: str | None = None, *, user_id: str | None = None) -> bool:
        return _call(self.aio.cancel_run(run_id, session_id, user_id=user_id))

    def get_session_metrics(self, session_id: str | None = None, *, user_id: str | None = None) -> Counts:
        return self.store.call(self.aio.get_session_metrics(session_id, user_id=user_id))

    def _form(self, session: aio_session.Session) -> Session:
        return Session.of(session, Bridge(session.backend))


class Runner:
    """`holdfast.agents.Runner`, blocking."""

    def run(self, agent: Agent, session: Session, prompt: Input) -> RunOutput:
        return agent.run(prompt, session=session)


class RunStream(Iterator[Event]):
    """`holdfast.agents.RunStream`, blocking."""

    def __init__(self, stream: aio_stream.RunStream) -> None:
        self.aio = stream

    def __enter__(self) -> Self:
        _call(self.aio.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __next__(self) -> Event:
        try:
            return _call(self.aio.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def output(self) -> RunOutput:
        return _call(self.aio.output())

    def close(self) -> None:
        _call(self.aio.aclose())


def _call(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, run where there is an event loop."""
    return portal.get().call(waited, coroutine)


def _inner(session: Session | None) -> aio_session.Session | None:
    return session.aio if isinstance(session, Session) else session
