"""Retry: every acknowledged commit is there once, whatever gets lost on the way, and what was refused is not asked again."""

import asyncio
import random
import time
from collections import Counter
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import Store
from holdfast.backend import Backend, ClaimAct, Commit, Create, Erase, Filter, Key, Outcome, Put, ReadPlan
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.redis import from_url
from holdfast.errors import (
    Conflict,
    InvalidValue,
    OutcomeUnknown,
    SessionExists,
    SessionGone,
    SessionNotFound,
    StoreClosed,
    StoreError,
    StoreUnavailable,
)
from holdfast.ids import new_incarnation
from holdfast.sync import Store as BlockingStore
from holdfast.testing import BackendSuite, Opener
from holdfast.testing.tools import bodies, check_gapless, created, creating, fresh, listed, notes, read, refused, values, writing
from holdfast.wrappers import RetriedBackend
from holdfast.wrappers.base import Wrapper

from ..servers.proxy import TO_CLIENT, TO_SERVER, Proxy
from ..servers.redis import redis8, server
from .faults import ANSWER_LOST, FINE, LOST, REFUSED, Faulty

FATES = (FINE, REFUSED, LOST, ANSWER_LOST)


def retried(*fates: str, deadline: float = 30.0) -> tuple[RetriedBackend, Faulty]:
    """A backend whose first requests meet `fates`; all is well after them."""
    faulty = Faulty(MemoryBackend(), chain(fates, repeat(FINE)))
    return RetriedBackend(faulty, deadline=deadline, first=0.0001, longest=0.001), faulty


class TestRetriedOverAbsence(BackendSuite):
    """The whole suite over a database that is away every other time: nobody notices. (A touch is not repeated, and would be noticed.)"""

    capabilities = MemoryBackend.capabilities

    @pytest.fixture
    def opener(self) -> Opener:
        luck = random.Random(7)
        fates = iter(lambda: luck.choice((REFUSED, FINE)), None)
        backend = RetriedBackend(Faulty(MemoryBackend(), fates, touches=False), first=1e-6, longest=1e-6)
        return lambda: backend


# --- exactly once ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from((FINE, *FATES)), max_size=400), st.integers(1, 6))
def test_an_acknowledged_commit_is_there_once(fates: list[str], writers: int) -> None:
    asyncio.run(_write_through(retried(*fates), writers, 20))


def test_thousands_of_commits_are_each_there_once() -> None:
    luck = random.Random(20)

    backend, faulty = retried(deadline=60)
    faulty.fates = iter(lambda: luck.choice(FATES), None)
    asyncio.run(_write_through((backend, faulty), 8, 150))
    met = Counter(faulty.met)
    assert min(met[fate] for fate in FATES) > 1000


async def _write_through(through: tuple[RetriedBackend, Faulty], writers: int, number: int) -> None:
    """Entries by all writers, and a counter that each raises with `if_version`: nothing is missing, nothing is there twice."""
    backend, faulty = through
    key = fresh()
    head = await created(backend, key)

    async def write(name: str) -> None:
        for n in range(number):
            await backend.commit(key, writing(head, base=head.version, entries=notes(f"{name}.{n}")))
            await _increment(backend, key)

    await asyncio.gather(*(write(str(name)) for name in range(writers)))
    faulty.fates = repeat(FINE)
    snapshot = await read(backend, key)
    check_gapless(snapshot)
    assert Counter(await bodies(backend, key)) == Counter(f"{name}.{n}" for name in range(writers) for n in range(number))
    assert values(snapshot) == {"count": str(writers * number)}


async def _increment(backend: RetriedBackend, key: Key) -> None:
    while True:
        snapshot = await read(backend, key, ReadPlan(state_since=0))
        row = (snapshot.state or {}).get("count")
        put = Put("count", b"%d" % (1 + int(row.value or 0) if row else 1), row.version if row else 0)
        try:
            await backend.commit(key, writing(snapshot.head, puts=(put,)))
        except Conflict:
            continue
        return


async def test_a_connection_that_is_cut_loses_and_doubles_nothing() -> None:
    """A Redis behind a proxy that breaks connections after any byte: of a request, or of an answer."""
    luck, key = random.Random(3), fresh()
    with server(redis8()) as it, Proxy(it.port) as proxy:
        failing = Failing(from_url(f"redis://127.0.0.1:{proxy.port}/0?appendfsync=always"))
        backend = RetriedBackend(failing, first=0.001, longest=0.02)
        head = await created(backend, key)

        async def write(name: str) -> None:
            for n in range(40):
                await backend.commit(key, writing(head, base=0, entries=notes(f"{name}.{n}")))
                if n % 3 == 0:
                    proxy.cut_after(luck.randrange(1500), luck.choice((TO_SERVER, TO_CLIENT)))

        await asyncio.gather(*(write(name) for name in "abcd"))
        proxy.go_on()
        assert Counter(await bodies(backend, key)) == Counter(f"{name}.{n}" for name in "abcd" for n in range(40))
        await backend.close()
    assert failing.failures[OutcomeUnknown] > 5


class Failing(Wrapper):
    """Counts the failures of commits by their kind."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.failures: Counter[type[StoreError]] = Counter()

    async def commit(self, key: Key, commit: Commit) -> Outcome:
        try:
            return await self.inner.commit(key, commit)
        except StoreError as error:
            self.failures[type(error)] += 1
            raise


async def test_acknowledging_too_soon_is_found() -> None:
    """The sabotage of the tests above: a retry that draws a new id for each try writes twice."""
    backend, faulty = retried(FINE, ANSWER_LOST)
    key = fresh()
    head = await created(backend, key)
    with refused(OutcomeUnknown):
        await faulty.commit(key, writing(head, entries=notes("a")))
    await faulty.commit(key, writing(head, entries=notes("a")))
    assert await bodies(backend, key) == ["a", "a"]


# --- what is repeated, and how ---------------------------------------------------------------------------------------


async def test_a_commit_of_unknown_outcome_is_looked_for_everywhere() -> None:
    """It is repeated under the same id, without the version its author had seen: it may have been applied before that."""
    backend, faulty = retried(FINE, REFUSED, ANSWER_LOST, LOST)
    key = fresh()
    head = await created(backend, key)
    commit = writing(head, entries=notes("a"))
    outcome = await backend.commit(key, commit)
    assert outcome.repeated
    assert [(it.id, it.base) for it in faulty.sent[1:]] == [(commit.id, 1), (commit.id, 1), (commit.id, 0), (commit.id, 0)]
    assert await bodies(backend, key) == ["a"]


async def test_a_refused_commit_is_not_repeated() -> None:
    backend, faulty = retried()
    key = fresh()
    head = await created(backend, key)
    for kind, commit in (
        (Conflict, writing(head, expect=9, entries=notes("a"))),
        (SessionExists, creating(create=Create(new_incarnation(), exclusive=True))),
        (SessionGone, writing(head, incarnation=5, entries=notes("a"))),
    ):
        before = len(faulty.sent)
        with refused(kind):
            await backend.commit(key, commit)
        assert len(faulty.sent) == before + 1


async def test_a_refusal_after_an_unknown_outcome_stands() -> None:
    """The request was lost, and meanwhile somebody wrote: the repetition is judged as the commit it is."""
    backend, faulty = retried(FINE, LOST)
    key = fresh()
    head = await created(backend, key)
    task = asyncio.create_task(backend.commit(key, writing(head, expect=head.version, entries=notes("late"))))
    await faulty.inner.commit(key, writing(head, entries=notes("other")))
    with refused(Conflict):
        await task
    assert await bodies(backend, key) == ["other"]


async def test_a_begin_with_a_lost_answer_takes_one_claim() -> None:
    backend, _ = retried(FINE, ANSWER_LOST, ANSWER_LOST)
    key = fresh()
    head = await created(backend, key)
    outcome = await backend.commit(key, writing(head, entries=notes("input"), claim=ClaimAct("take", "run-1")))
    assert (outcome.head and outcome.head.fence) == head.fence + 1


async def test_a_touch_is_not_repeated() -> None:
    """What only puts off expiry waits for nobody."""
    backend, faulty = retried(FINE, REFUSED)
    key = fresh()
    head = await created(backend, key)
    with refused(StoreUnavailable):
        await backend.commit(key, writing(head))
    assert faulty.met == [FINE, REFUSED]


async def test_every_other_verb_is_repeated() -> None:
    for fate in (REFUSED, LOST, ANSWER_LOST):
        backend, faulty = retried(*[FINE, fate] * 5)
        key, target = fresh(), fresh()
        await created(backend, key, entries=notes("a"))
        assert await backend.read(key, ReadPlan()) is not None
        assert await listed(backend, Filter(tenant=key.tenant)) == [key.session_id]
        assert (await backend.copy(key, None, target, creating())).seq == 1
        assert await backend.sweep(10) == 0
        assert faulty.met[:10].count(fate) >= 4
        assert await bodies(backend, target) == ["a"]


async def test_a_watch_goes_on_where_it_broke() -> None:
    backend, faulty = retried(FINE, FINE, LOST, FINE, REFUSED)
    key = fresh()
    head = await created(backend, key)
    seen = list[int]()
    async for version in backend.watch(key, 0):
        seen.append(version)
        if version == 4:
            break
        await faulty.inner.commit(key, writing(head, base=0, entries=notes("a")))
    assert (seen, faulty.watched) == ([1, 2, 3, 4], [0, 1, 2])


# --- deletions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
async def test_a_deletion_with_a_lost_answer_has_happened(named: bool) -> None:
    """No session is left that could remember the commit: that there is none says it was applied."""
    backend, _ = retried(FINE, ANSWER_LOST, REFUSED)
    key = fresh()
    head = await created(backend, key)
    outcome = await backend.commit(key, writing(head, incarnation=head.incarnation if named else None, erase=Erase("session")))
    assert (outcome.head, outcome.version) == (None, head.version + 1)
    assert await backend.read(key, ReadPlan()) is None


async def test_a_deletion_that_another_s_session_refuses_stays_refused() -> None:
    backend, _ = retried(FINE, LOST)
    key = fresh()
    head = await created(backend, key, user_id="ada")
    with refused(SessionNotFound):
        await backend.commit(key, writing(head, incarnation=None, user_id="bob", erase=Erase("session")))
    assert await backend.read(key, ReadPlan()) is not None


async def test_what_came_after_a_deletion_is_left_alone() -> None:
    """The answer is lost and the session made anew: the repetition names the old life and deletes nothing of the new."""
    backend, faulty = retried(FINE, ANSWER_LOST)
    key = fresh()
    head = await created(backend, key)
    task = asyncio.create_task(backend.commit(key, writing(head, erase=Erase("session"))))
    await asyncio.sleep(0)  # the first try, as far as its pause
    assert await faulty.inner.read(key, ReadPlan()) is None
    await created(faulty.inner, key, entries=notes("new"))
    assert (await task).head is None
    assert await bodies(backend, key) == ["new"]


# --- the end of patience ---------------------------------------------------------------------------------------------


async def test_it_gives_up_at_its_deadline() -> None:
    backend, faulty = retried(*[REFUSED] * 100_000, deadline=0.05)
    began = time.monotonic()
    with refused(StoreUnavailable) as caught:
        await backend.read(fresh(), ReadPlan())
    assert 0.05 <= time.monotonic() - began < 15
    assert len(faulty.met) > 3
    assert caught.error.__notes__[0].startswith(f"tried {len(faulty.met)} times in 0.")


async def test_an_unknown_outcome_stays_unknown() -> None:
    """When the database is only away afterwards, nobody may say that the commit did not happen."""
    backend, _ = retried(FINE, ANSWER_LOST, *[REFUSED] * 100_000, deadline=0.01)
    key = fresh()
    head = await created(backend, key)
    with refused(OutcomeUnknown):
        await backend.commit(key, writing(head, entries=notes("a")))


async def test_other_failures_are_not_repeated() -> None:
    backend, faulty = retried()
    await backend.close()
    with refused(StoreClosed):
        await backend.read(fresh(), ReadPlan())
    assert faulty.met == [FINE]


async def test_waiting_can_be_cancelled() -> None:
    backend, _ = retried(*[REFUSED] * 100_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await backend.read(fresh(), ReadPlan())


def test_without_a_loop_the_thread_waits() -> None:
    """What works in place goes on doing so: a blocking store over a bad connection never suspends."""
    backend, faulty = retried(REFUSED, LOST, ANSWER_LOST, FINE, ANSWER_LOST)
    assert backend.capabilities.in_place
    with BlockingStore(Store(backend)) as store:
        session = store.session("s")
        session.state["a"] = 1
        session.commit()
    assert faulty.met[:5] == [REFUSED, LOST, ANSWER_LOST, FINE, ANSWER_LOST]


@pytest.mark.parametrize("bad", [{"deadline": -1}, {"deadline": float("nan")}, {"first": 0}, {"first": 3.0}, {"longest": float("nan")}])
def test_bad_times_are_refused(bad: dict[str, Any]) -> None:
    with refused(InvalidValue):
        RetriedBackend(MemoryBackend(), **bad)
