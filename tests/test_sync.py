"""The blocking form: the same names and arguments as the asynchronous one, on the calling thread and through the portal."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import Conflict, Metrics, SessionBusy, SessionNotFound, UsageError, agents, assistant, sync, user
from holdfast.backend import Capabilities
from holdfast.store import backend_for
from holdfast.wrappers.base import Wrapper

PAIRS: dict[str, tuple[type, type]] = {
    "Store": (holdfast.Store, sync.Store),
    "Session": (holdfast.Session, sync.Session),
    "State": (holdfast.State, sync.State),
    "Run": (holdfast.Run, sync.Run),
    "SessionManager": (holdfast.SessionManager, sync.SessionManager),
    "Agent": (holdfast.Agent, sync.Agent),
    "Runner": (agents.Runner, sync.Runner),
    "RunStream": (agents.RunStream, sync.RunStream),
    "Team": (agents.Team, sync.Team),
    "Workflow": (agents.Workflow, sync.Workflow),
}
ENGINE = {
    "Store": {"handle", "tidy", "touch"},
    "Session": {
        "all_beside",
        "attach",
        "attached",
        "backend",
        "beat",
        "beside",
        "blobs",
        "cells",
        "change",
        "fence_of",
        "forget_claim",
        "held_by",
        "holding",
        "begins_with",
        "running_here",
        "standing",
        "key",
        "folded",
        "hides",
        "life",
        "look",
        "of_scope",
        "look_who_waits",
        "of_record",
        "passed_on",
        "record_run",
        "run_log",
        "take",
        "twin",
        "write",
    },
    **{name: {"crew", "keeps", "on"} for name in ("Agent", "Team", "Workflow")},
    "RunStream": {"aclose"},
    "Run": {
        "add",
        "again",
        "begin",
        "counted",
        "drops",
        "end",
        "ending",
        "fail",
        "metrics",
        "more",
        "place",
        "queue",
        "record",
        "root",
        "start",
        "telling",
        "under_way",
        "unsaved",
        "window",
    },
}
"""What is public for the engine's own modules and the adapters, which are asynchronous themselves."""
ONLY_BLOCKING = {
    "Store": {"aio", "call", "each"},
    "Session": {"aio", "call", "form_of", "of", "taken"},
    "State": {"aio"},
    "Run": {"aio"},
    "Agent": {"aio"},
    "Team": {"aio"},
    "Workflow": {"aio"},
    "RunStream": {"aio", "close"},
}
"""The way from the blocking form to the asynchronous one and back."""
CONSTRUCTED = {"Store", "State", "Run", "SessionManager", "RunStream"}
"""Made by others, or from their asynchronous form: only `Session` is constructed alike."""


def public(cls: type) -> dict[str, Any]:
    return {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}


def parameters(member: Any) -> list[tuple[Any, ...]]:
    """Names, kinds and defaults: what a caller writes."""
    function = getattr(member, "__func__", member)
    return [(it.name, it.kind, it.default, it.annotation) for it in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", PAIRS)
def test_every_public_member_is_there_in_both_forms(name: str) -> None:
    aio, blocking = PAIRS[name]
    assert public(aio).keys() - ENGINE.get(name, set()) - public(blocking).keys() == set()
    assert public(blocking).keys() - ONLY_BLOCKING.get(name, set()) - public(aio).keys() - instance_members(name) == set()
    assert ENGINE.get(name, set()) <= public(aio).keys() | instance_members(name)
    assert ONLY_BLOCKING.get(name, set()) <= public(blocking).keys() | {"aio"}


def instance_members(name: str) -> set[str]:
    """Public names that instances of the asynchronous form set in `__init__`."""
    session = holdfast.Session("s")
    store = holdfast.Store.open("memory://")
    agent = holdfast.Agent("test", store=store)
    made: dict[str, Any] = {"Store": store, "Session": session, "State": session.state, "Run": holdfast.Run(session, "r", None)}
    made |= {"Team": agents.Team("test", members=[holdfast.Agent("test", name="a")], store=store), "Workflow": agents.Workflow([repr])}
    made |= {"Agent": agent, "Runner": agent.runner, "RunStream": agent.run("hello", stream=True)}
    it: object = made.get(name, store.session_manager)
    return {member for member in vars(it) if not member.startswith("_")}


@pytest.mark.parametrize("name", ["Store", "Session", "Run"])
def test_what_instances_have_is_there_in_both_forms(name: str) -> None:
    store = sync.Store.open("memory://")
    session = store.session("s")
    with session.run(agent="helper") as run:
        blocking: Any = {"Store": store, "Session": session, "Run": run}[name]
        for member in instance_members(name) - ENGINE.get(name, set()):
            assert hasattr(blocking, member), member


@pytest.mark.parametrize("name", PAIRS)
def test_every_method_takes_the_same_arguments(name: str) -> None:
    aio, blocking = PAIRS[name]
    names = public(aio).keys() & public(blocking).keys() | ({"__init__"} - ({"__init__"} if name in CONSTRUCTED else set()))
    for member in sorted(names):
        theirs, ours = inspect.getattr_static(aio, member), inspect.getattr_static(blocking, member)
        assert isinstance(theirs, property) == isinstance(ours, property), member
        assert isinstance(theirs, classmethod) == isinstance(ours, classmethod), member
        if not isinstance(theirs, property):
            assert parameters(theirs) == parameters(ours), f"{name}.{member}"
        else:
            assert (theirs.fset is None) == (ours.fset is None), member


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_of_the_blocking_form_has_to_be_awaited(name: str) -> None:
    for member, it in public(PAIRS[name][1]).items():
        function = getattr(it, "__func__", it)
        assert not inspect.iscoroutinefunction(function), member
        assert not inspect.isasyncgenfunction(function), member


class Elsewhere(Wrapper):
    """As a database over a network: it may suspend, so that the portal has to run it."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(self.inner.capabilities, in_place=False)


@pytest.fixture(params=["in place", "portal", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[sync.Store]:
    backend = backend_for("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db")
    with sync.Store(holdfast.Store(backend if request.param != "portal" else Elsewhere(backend), cache=4)) as opened:
        yield opened


def texts(session: sync.Session) -> list[str]:
    return [message.text for message in session.get_messages()]


def test_the_verbs_of_a_store(store: sync.Store) -> None:
    session = store.session("s", user_id="ada", kind="team")
    assert isinstance(session, sync.Session)
    assert (session.id, session.session_id, session.user_id, session.info.kind) == ("s", "s", "ada", "team")
    found = store.get("s", user_id="ada")
    assert isinstance(found, sync.Session)
    assert store.get("s") is None
    assert (store.has("s", user_id="ada"), store.has("s")) == (True, False)
    with pytest.raises(SessionNotFound):
        store.session("s", user_id="bob")
    store.session("t")
    assert [item.id for item in store.list(limit=1).items] == ["t"]
    assert [item.id for item in store.sessions()] == ["t", "s"]
    assert [item.id for item in store.sessions(user_id="ada")] == ["s"]
    session.append(user("hi"))
    lines = list(store.export("s", user_id="ada"))
    assert texts(store.import_(lines, session_id="copy")) == ["hi"]
    assert store.delete("copy", user_id="ada")
    assert not store.delete("copy", user_id="ada")
    assert store.sweep() == 0
    assert store.cache_stats.misses > 0
    assert (store.tenant, store.as_admin, store.ttl) == ("default", False, None)
    assert store.backend is store.aio.backend
    manager = store.session_manager
    assert manager.get_or_create_session("m", user_id="ada").id == "m"
    assert manager.has_session("m", user_id="ada")
    assert manager.delete_session("m", user_id="ada")


def test_the_verbs_of_a_session(store: sync.Store) -> None:
    session = store.session("s")
    session.set("k", {"a": 1})
    session.get("k")["b"] = 2
    session.get_non_volatile_cache().set("c", 1)
    session.get_volatile_cache()["v"] = object()
    assert (session.has_key("k"), session.get_all_keys()) == (True, ["k"])
    version = session.commit()
    assert session.append(user("q"), assistant("a"), expect=version) == version + 1 == session.version
    with pytest.raises(Conflict):
        session.append(user("x"), expect=version)
    session.rename("Planning")
    session.update_metadata(ticket=7)
    session.set_ttl(100)
    session.service_session_id = "t1"
    session.commit()
    later = store.session("s")
    assert (later.name, later.metadata, later.service_session_id) == ("Planning", {"ticket": 7}, "t1")
    assert (later.get("k"), later.get_non_volatile_cache()["c"]) == ({"a": 1, "b": 2}, 1)
    assert (texts(later), [m.text for m in later.get_chat_history(last=1)], len(later.entries(after=1))) == (["q", "a"], ["a"], 1)
    fork = session.fork("copy", at=1, name="branch")
    assert isinstance(fork, sync.Session)
    assert (texts(fork), fork.name) == (["q"], "branch")
    assert fork.append(user("goes on")) == fork.version
    assert session.pop() == assistant("a")
    assert session.rewind(to=0) == 1
    session.replace([user("anew")])
    later.refresh()
    assert texts(later) == ["anew"]
    session.clear()
    session.commit()
    assert texts(store.session("s")) == []
    session.delete()
    assert not store.has("s")


def test_the_verbs_of_the_state(store: sync.Store) -> None:
    session = store.session("s")
    assert [session.state.increment("n"), session.state.increment("n", by=2)] == [1, 3]
    assert session.state.append("log", 1, 2) == [1, 2]
    assert [session.state.set_if("lock", 1), session.state.set_if("lock", 2), session.state.set_if("lock", 2, expected=1)] == [
        True,
        False,
        True,
    ]
    assert session.get_non_volatile_cache().increment("n") == 1
    session.state["x"] = 1
    del session.state["x"]
    session.state.set("y", 2)
    session.state.delete("y")
    assert (dict(session.state), len(session.state), session.state.has("n")) == ({"n": 3, "log": [1, 2], "lock": 2}, 3, True)
    assert dict(store.session("s").state) == dict(session.state)
    assert session.state.get("n", as_=int) == 3


def test_a_run(store: sync.Store) -> None:
    session = store.session("s")
    with session.run(user("q"), run_id="r1", agent="helper", wait=0) as run:
        assert (run.id, run.agent, run.attempt, run.ended, run.session) == ("r1", "helper", 1, False, session)
        assert texts(store.session("s")) == ["q"]
        run.append(assistant("thinking"))
        with pytest.raises(SessionBusy), store.session("s").run(wait=0):
            raise AssertionError("not reached")
        run.finish(assistant("a"), metrics=Metrics(input_tokens=3))
        assert run.ended
    assert [(it.id, it.status, it.metrics.input_tokens) for it in session.runs()] == [("r1", "completed", 3)]
    assert texts(session) == ["q", "thinking", "a"]


def test_a_run_that_fails(store: sync.Store) -> None:
    session = store.session("s")
    with pytest.raises(LookupError, match="mine"), session.run(user("q")):
        raise LookupError("mine")
    assert [(it.status, it.error) for it in session.runs(last=5)] == [("error", "LookupError")]
    with pytest.raises(KeyboardInterrupt), session.run(user("q")):
        raise KeyboardInterrupt
    assert [it.status for it in session.runs()] == ["error", "cancelled"]
    assert not store.session("s").info.running


def test_a_claim(store: sync.Store) -> None:
    first, second = store.session("s"), store.session("s")
    with first.claim(lease=5, holder="me") as fence:
        assert fence > 0
        with pytest.raises(SessionBusy), second.claim(wait=0):
            raise AssertionError("not reached")
    with second.claim(wait=0) as later:
        assert later > fence


def test_a_session_of_no_store(store: sync.Store) -> None:
    session = sync.Session("s", user_id="ada")
    session.set("k", (1, 2))
    used: list[Callable[[], object]] = [session.commit, session.get_messages, session.fork, session.claim().__enter__]
    for use in used:
        with pytest.raises(UsageError, match=r"store\.session"):
            use()
    taken = store.session(sync.Session.from_dict(session.to_dict()))
    taken.commit()
    again = store.get("s", user_id="ada")
    assert again is not None
    assert again.get("k") == (1, 2)
    assert "'s'" in repr(session)


def test_the_way_between_the_two_forms(store: sync.Store) -> None:
    session = store.session("s")
    assert isinstance(session.aio, holdfast.Session)
    assert store.call(store.aio.session("s")).id == "s"
    assert session.call(session.aio.append(user("hi"))) == session.version
