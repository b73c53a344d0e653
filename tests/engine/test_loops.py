"""One store, used from everywhere: tasks, threads, event loops, forked processes; closed, cancelled, left open at the end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import holdfast.sync
from holdfast import Session, Store, StoreClosed, assistant, user

from .conftest import Database, script, texts

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_threads(*jobs: Callable[[], object]) -> None:
    """Run all at once, each in a thread of its own; the first error is raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


# --- loops and threads ---


def test_one_store_in_loop_after_loop(any_store: Store) -> None:
    async def turn(number: int) -> list[str]:
        session = await any_store.session("s")
        async with session.run(user(f"q{number}")):
            pass
        return await texts(session)

    for number in range(3):
        assert asyncio.run(turn(number)) == [f"q{n}" for n in range(number + 1)]


def test_one_store_in_many_loops_at_once(any_store: Store) -> None:
    async def work(name: str) -> None:
        session = await any_store.session("s")
        await asyncio.gather(*(session.append(user(f"{name}{number}")) for number in range(5)))
        await session.state.increment("n")
        assert len(await texts(await any_store.session(name))) == 0

    in_threads(*(lambda name=name: asyncio.run(work(name)) for name in "abcd"))
    session = holdfast.sync.Store(any_store).session("s")
    assert sorted(message.text for message in session.get_messages()) == [f"{name}{number}" for name in "abcd" for number in range(5)]
    assert session.get("n") == 4


def test_the_blocking_form_from_many_threads(any_store: Store) -> None:
    store = holdfast.sync.Store(any_store)

    def work(name: str) -> None:
        session = store.session("s")
        for number in range(5):
            session.append(user(f"{name}{number}"))
            session.state.increment("n")
            assert session.get_messages(last=1)

    in_threads(*(lambda name=name: work(name) for name in "abcd"))
    session = store.session("s")
    found = [message.text for message in session.get_messages()]
    assert sorted(found) == [f"{name}{number}" for name in "abcd" for number in range(5)]
    assert all(found.index(f"{name}{n}") < found.index(f"{name}{n + 1}") for name in "abcd" for n in range(4))
    assert session.get("n") == 20


def test_blocking_runs_from_many_threads_never_mix(any_store: Store) -> None:
    store = holdfast.sync.Store(any_store)

    def work(name: str) -> None:
        session = store.session("s")
        with session.run(user(f"q{name}"), wait=20) as run:
            run.append(assistant(f"a{name}"))

    in_threads(*(lambda name=name: work(name) for name in "abcd"))
    found = [message.text for message in store.session("s").get_messages()]
    assert [text[1:] for text in found[::2]] == [text[1:] for text in found[1::2]]
    assert "".join(text[0] for text in found) == "qa" * 4


async def test_the_blocking_form_inside_a_running_loop(db: Database) -> None:
    store = holdfast.sync.Store(db.store())
    session = store.session("s", user_id="ada")
    session.set("k", 1)
    session.append(user("hi"))
    with session.run(user("q")) as run:
        run.append(assistant("a"))
    assert [message.text for message in session.get_messages()] == ["hi", "q", "a"]
    assert [item.id for item in store.sessions()] == ["s"]
    assert await texts(await store.aio.session("s", user_id="ada")) == ["hi", "q", "a"]


async def test_tasks_of_one_loop_lose_nothing(store: Store) -> None:
    sessions = [await store.session(f"s{number % 3}") for number in range(12)]
    await asyncio.gather(*(session.append(user(f"m{number}")) for number, session in enumerate(sessions)))
    for number in range(3):
        assert sorted(await texts(await store.session(f"s{number}"))) == sorted(f"m{n}" for n in range(number, 12, 3))


# --- closed ---


async def test_a_closed_store_says_so_and_closes_again(db: Database) -> None:
    store = db.store()
    session = await store.session("s")
    await session.append(user("hi"))
    await store.close()
    await store.close()
    asked: list[Any] = [
        session.append(user("late")),
        session.get_messages(),
        session.state.increment("n"),
        session.fork(),
        store.session("s"),
        store.get("s"),
        store.has("s"),
        store.delete("s"),
        store.list(),
        store.sweep(),
        store.__aenter__(),
    ]
    for it in asked:
        with pytest.raises(StoreClosed, match=r"Store\.open"):
            await it
    with pytest.raises(StoreClosed):
        holdfast.sync.Store(store).session("s")
    with pytest.raises(StoreClosed):
        await session.run(user("late")).__aenter__()


async def test_what_is_under_way_at_a_close_is_stored_or_told(file_db: Database) -> None:
    for turns in range(8):
        store = file_db.store()
        session = await store.session(f"s{turns}")
        handles = [await store.session(session.id) for _ in range(5)]
        tasks = [asyncio.create_task(handle.append(user(f"m{number}"))) for number, handle in enumerate(handles)]
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await store.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(it, int | StoreClosed) for it in results)
        stored = await texts(await file_db.store().session(session.id))
        assert sorted(stored) == [f"m{number}" for number, it in enumerate(results) if isinstance(it, int)]


async def test_async_with_opens_and_closes(db: Database) -> None:
    async with db.store() as store:
        await store.session("s")
    with pytest.raises(StoreClosed):
        await store.session("s")


# --- cancelled ---


async def test_a_cancelled_append_is_withdrawn_or_complete(store: Store) -> None:
    first = await store.session("s")
    written = 0
    for turns in range(10):
        session: Session = await store.session("s")
        session.set("k", turns)
        before = (await store.session("s")).version
        task = asyncio.create_task(session.append(user(f"q{turns}"), assistant(f"a{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        later = await store.session("s")
        found = await texts(later)
        assert found[written:] in ([], [f"q{turns}", f"a{turns}"])
        assert (later.version, later.get("k") == turns) == ((before + 1, True) if len(found) > written else (before, False))
        written = len(found)
    await first.append(user("last"))
    assert (await texts(first))[-1] == "last"


async def test_of_many_appends_only_the_cancelled_one_may_be_missing(store: Store) -> None:
    handles = [await store.session("s") for _ in range(6)]
    tasks = [asyncio.create_task(handle.append(user(f"m{number}"))) for number, handle in enumerate(handles)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    found = sorted(await texts(await store.session("s")))
    assert set(found) >= {f"m{number}" for number in (0, 1, 2, 4, 5)}
    assert all(isinstance(it, int) for number, it in enumerate(results) if number != 3)


async def test_a_waiter_that_is_cancelled_takes_no_claim(store: Store) -> None:
    first, second = await store.session("s"), await store.session("s")
    async with first.claim():
        task = asyncio.create_task(second.claim(wait=30).__aenter__())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with first.run(user("hi"), wait=0):
        pass


# --- processes ---


@needs_fork
def test_a_store_goes_on_in_parent_and_child_after_a_fork(tmp_path: Path) -> None:
    done = script(
        """
        import os, sys
        from holdfast import sync, user

        store = sync.Store.open(sys.argv[1], cache=int(sys.argv[2]))
        session = store.session("s")
        with session.run(user("before")):  # starts the portal and its thread
            pass
        with session.claim():  # a child that leaves this block gives back nothing: it is the parent's
            child = os.fork()
        who = "parent" if child else "child"
        for number in range(5):
            session.append(user(f"{who}{number}"))
        with session.run(user(f"{who} ran"), wait=20):
            pass
        session.state.increment("n")
        if not child:
            store.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        session.refresh()
        texts = [message.text for message in session.get_messages()]
        assert texts[0] == "before" and len(texts) == len(set(texts)) == 13, texts
        assert session.get("n") == 2
        assert {run.status for run in session.runs()} == {"completed"}
        """,
        f"sqlite:///{tmp_path}/chat.db",
        "16",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_fork
def test_sessions_in_memory_say_that_they_stayed_behind(tmp_path: Path) -> None:
    done = script(
        """
        import os
        from holdfast import StoreClosed, sync, user

        store = sync.Store.open("memory://")
        session = store.session("s")
        child = os.fork()
        if not child:
            try:
                session.append(user("hi"))
            except StoreClosed as error:
                os._exit(7 if "sqlite:///" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        session.append(user("hi"))
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LEFT_OPEN = {
    "async": """
        import asyncio, sys
        from holdfast import Store, user

        async def main():
            session = await Store.open(sys.argv[1], cache=16).session("s")
            await session.append(user("kept"))
            session.set("k", 1)
            await session.commit()

        asyncio.run(main())
    """,
    "blocking": """
        import sys
        from holdfast import sync, user

        session = sync.Store.open(sys.argv[1]).session("s")
        with session.run(user("kept")):
            session.set("k", 1)
    """,
    "in a run": """
        import sys
        from holdfast import sync, user

        session = sync.Store.open(sys.argv[1]).session("s")
        running = session.run(user("kept"))
        running.__enter__()
        session.set("k", 1)
        session.commit()
    """,
    "between two lists": """
        import sys
        from holdfast import sync, user

        store = sync.Store.open(sys.argv[1])
        session = store.session("s")
        session.append(user("kept"))
        session.set("k", 1)
        session.commit()
        pages, lines = store.sessions(), store.export("s")
        next(pages), next(lines)
    """,
    "in a thread of its own": """
        import sys, threading
        from holdfast import sync, user

        session = sync.Store.open(sys.argv[1]).session("s")
        ended = threading.main_thread().join

        def work():
            ended()
            session.set("k", 1)
            session.append(user("kept"))

        threading.Thread(target=work).start()
    """,
}


@pytest.mark.parametrize("how", LEFT_OPEN)
def test_a_store_left_open_at_the_end_prints_nothing_and_loses_nothing(tmp_path: Path, how: str) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    done = script(LEFT_OPEN[how], url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with holdfast.sync.Store.open(url) as store:
        session = store.session("s")
        assert ([message.text for message in session.get_messages()], session.get("k")) == (["kept"], 1)
        assert [run.status for run in session.runs()] == {"blocking": ["completed"], "in a run": ["cancelled"]}.get(how, [])


async def test_a_generator_left_half_way_does_no_harm(db: Database) -> None:
    store = db.store()
    for number in range(3):
        await store.session(f"s{number}")
    async for item in store.sessions():
        assert item.id == "s2"
        break
    blocking = holdfast.sync.Store(store)
    assert next(blocking.sessions()).id == "s2"
    assert [item.id for item in blocking.sessions()] == ["s2", "s1", "s0"]
