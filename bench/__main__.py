"""`python -m bench [--quick] [turns|writers|bytes|openai|agent|recall ...]`: the tables of docs/benchmarks.md, measured here and now."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import holdfast

from . import agent, langgraph, openai_agents, recall, serve, tails
from .flushes import counting_vfs, flushes, seconds
from .subjects import ANSWER, QUESTION, SUBJECTS, Async, Blocking, Raw, Subject, async_turn

console = Console()
WARM_UP = 40


@contextmanager
def folder(kind: str) -> Generator[Path]:
    """An empty folder on the RAM disk or on the real one."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir="/dev/shm" if kind == "RAM disk" else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Timed:
    """One subject on one database, its turns timed one by one."""

    def __init__(self, make: Callable[[], Subject]) -> None:
        self.subject = make()
        self.loop = asyncio.new_event_loop()
        self.times: list[float] = []
        self.number = 0

    def open(self, path: Path, turns: int) -> None:
        self.loop.run_until_complete(self.subject.open(path, turns))

    def go(self, count: int, *, keep: bool = True) -> None:
        times = self._blocking(count) if isinstance(self.subject, Blocking) else self.loop.run_until_complete(self._async(count))
        if keep:
            self.times += times

    async def _async(self, count: int) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            self.number += 1
            start = time.perf_counter()
            await self.subject.turn(self.number)
            times.append(time.perf_counter() - start)
        return times

    def _blocking(self, count: int) -> list[float]:
        assert isinstance(self.subject, Blocking)
        times: list[float] = []
        for _ in range(count):
            self.number += 1
            start = time.perf_counter()
            self.subject.one_turn("bench", self.number)
            times.append(time.perf_counter() - start)
        return times

    def close(self) -> float:
        self.loop.run_until_complete(self.subject.close())
        self.loop.close()
        return statistics.median(self.times)


def measure(kind: str, turns: int, rounds: int, per_round: int) -> dict[str, float]:
    """The median turn of every subject at one length, in seconds; short rounds take turns so that all see the same machine."""
    with folder(kind) as path:
        timed = [Timed(make) for make in SUBJECTS]
        for number, it in enumerate(timed):
            it.open(path / f"{number}.db", turns)
            it.go(WARM_UP, keep=False)
        for number in range(rounds):
            for it in timed[number % len(timed) :] + timed[: number % len(timed)]:
                it.go(per_round)
        return {it.subject.name: it.close() for it in timed}


def bar(ratio: float, scale: float = 2.0) -> str:
    """A ratio as something to see: two marks are once raw."""
    return "▇" * max(1, min(round(ratio * scale), 40))


def turns_table(quick: bool) -> None:
    """What a turn costs, at every length, on both disks."""
    lengths = [0, 1_000] if quick else [0, 1_000, 10_000, 100_000]
    rounds, per_round = (10, 20) if quick else (20, 40)
    for kind in ("RAM disk", "real disk"):
        results = {turns: measure(kind, turns, rounds, per_round) for turns in track(lengths, f"turns on the {kind}", transient=True)}
        table = Table(title=f"One turn on the {kind}, microseconds (times raw)", title_justify="left")
        table.add_column("subject")
        for turns in lengths:
            table.add_column(f"{turns:,} turns", justify="right")
        table.add_column("at the longest, beside raw")
        for name in results[lengths[0]]:
            cells = [f"{results[t][name] * 1e6:,.0f} ({results[t][name] / results[t][Raw.name]:.2f})" for t in lengths]
            last = results[lengths[-1]]
            table.add_row(name, *cells, bar(last[name] / last[Raw.name]))
        console.print(table)


async def concurrent(path: Path, writers: int, sessions: int, seconds: float) -> tuple[float, float]:
    """Turns a second and flushes per commit of `writers` tasks on `sessions` sessions."""
    subject = Async()
    with counting_vfs() as vfs:
        subject.options = f"?synchronous=full&vfs={vfs}"
        await subject.open(path, 0)
        deadline = time.perf_counter() + seconds

        async def writer(number: int) -> int:
            done = 0
            while time.perf_counter() < deadline:
                await async_turn(subject.store, f"s{(number + done * writers) % sessions}", done)
                done += 1
            return done

        for number in range(sessions):
            await subject.store.session(f"s{number}")
        before, start = flushes(vfs), time.perf_counter()
        done = sum(await asyncio.gather(*(writer(number) for number in range(writers))))
        spent = time.perf_counter() - start
        per_commit = (flushes(vfs) - before) / done
        await subject.close()
    return done / spent, per_commit


def raw_one_by_one(path: Path, sessions: int, seconds: float) -> float:
    """Turns a second of raw sqlite3, one commit after the other."""
    raw = Raw()
    asyncio.run(raw.open(path, 0))
    deadline, done, start = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < deadline:
        raw.one_turn(f"s{done % sessions}", done)
        done += 1
    asyncio.run(raw.close())
    return done / (time.perf_counter() - start)


def writers_table(quick: bool) -> None:
    """Many writers on the real disk with FULL flushes."""
    seconds, rounds = (1.0, 1) if quick else (3.0, 3)
    table = Table(title="Concurrent writers on 200 sessions, real disk, FULL", title_justify="left")
    for column in ("subject", "turns per second", "flushes per commit", "beside raw one by one"):
        table.add_column(column, justify="right" if "per" in column else "left")
    raw: list[float] = []
    ours: dict[int, list[tuple[float, float]]] = {1: [], 8: [], 64: []}
    for number in track(range(rounds), "writers", transient=True):
        with folder("real disk") as path:
            raw.append(raw_one_by_one(path / "raw.db", 200, seconds))
            for writers, results in ours.items():
                results.append(asyncio.run(concurrent(path / f"{writers}-{number}.db", writers, 200, seconds)))
    base = statistics.median(raw)
    table.add_row("raw sqlite3, one by one", f"{base:,.0f}", "1.00", bar(1))
    for writers, results in ours.items():
        speed, flushed = (statistics.median(values) for values in zip(*results, strict=True))
        table.add_row(f"holdfast, {writers} tasks", f"{speed:,.0f} ({speed / base:.2f})", f"{flushed:.2f}", bar(speed / base))
    console.print(table)


async def lone(path: Path, count: int) -> tuple[float, float]:
    """Median seconds of a lone commit beside its flush, and flushes per commit."""
    beside: list[float] = []
    with counting_vfs() as vfs:
        async with holdfast.Store.open(f"sqlite:///{path}?vfs={vfs}") as store:
            session = await store.session("lone")
            before = flushes(vfs)
            for _ in range(count):
                flushed, start = seconds(vfs), time.perf_counter()
                await session.append(holdfast.user(QUESTION), holdfast.assistant(ANSWER))
                beside.append(time.perf_counter() - start - (seconds(vfs) - flushed))
            return statistics.median(beside), (flushes(vfs) - before) / count


def lone_table(quick: bool) -> None:
    """One writer alone on the real disk."""
    with folder("real disk") as path:
        beside, per_commit = asyncio.run(lone(path / "lone.db", 200 if quick else 1000))
    console.print(f"A lone commit on the real disk, FULL: {beside * 1e3:.3f} ms beside its flush, {per_commit:.2f} flushes per commit")


def written_bytes() -> int:
    """Bytes this process has given to write calls so far."""
    with Path("/proc/self/io").open() as facts:
        return next(int(line.split()[1]) for line in facts if line.startswith("wchar"))


async def bytes_per_turn(subject: Subject, path: Path, turns: int, count: int) -> float:
    await subject.open(path, turns)
    before = written_bytes()
    for number in range(count):
        await subject.turn(number)
    result = (written_bytes() - before) / count
    await subject.close()
    return result


def bytes_table(quick: bool) -> None:
    """Bytes given to the operating system per turn, checkpoints included."""
    lengths = [0, 1_000] if quick else [0, 1_000, 10_000, 100_000]
    table = Table(title="Bytes written per turn (times raw)", title_justify="left")
    table.add_column("subject")
    for turns in lengths:
        table.add_column(f"{turns:,} turns", justify="right")
    rows: dict[str, list[float]] = {Raw.name: [], Async.name: []}
    for turns in lengths:
        with folder("RAM disk") as path:
            for make in (Raw, Async):
                rows[make.name].append(asyncio.run(bytes_per_turn(make(), path / f"{make.__name__}.db", turns, 2000)))
    for name, values in rows.items():
        table.add_row(name, *(f"{value:,.0f} ({value / raw:.2f})" for value, raw in zip(values, rows[Raw.name], strict=True)))
    console.print(table)


def openai_table(quick: bool) -> None:
    """The adapter of the OpenAI Agents SDK beside the SDK's own sessions, each with its defaults (both flush every commit)."""
    for kind in ("RAM disk", "real disk"):
        with folder(kind) as path:
            results = openai_agents.measure(path, 200 if quick else 1000)
        table = Table(title=f"A session of the OpenAI Agents SDK, {openai_agents.ITEMS} items, {kind}, microseconds", title_justify="left")
        for column in ("call", "HoldfastSession", "SQLiteSession", "beside SQLiteSession"):
            table.add_column(column, justify="left" if column == "call" else "right")
        for name, (ours, theirs) in results.items():
            table.add_row(name, f"{ours * 1e6:,.0f}", f"{theirs * 1e6:,.0f}", f"{ours / theirs:.2f}")
        console.print(table)


def langgraph_table(quick: bool) -> None:
    """A turn of a LangGraph app, and what it leaves in the database."""
    for rich in (False, True):
        with folder("RAM disk") as path:
            times = asyncio.run(langgraph.conversations(path, 1 if quick else 4, rich=rich))
        about = "with usage metadata" if rich else "text only"
        table = Table(title=f"A turn of LangGraph with 2 messages of 1 KB, {about}, RAM disk, milliseconds", title_justify="left")
        for column in ("saver", "turn 10", "turn 100", "turn 200", "200 beside 10"):
            table.add_column(column, justify="right" if column != "saver" else "left")
        for name, it in times.items():
            table.add_row(name, *(f"{it[mark] * 1e3:.2f}" for mark in (10, 100, 200)), f"{it[200] / it[10]:.2f}")
        console.print(table)
    with folder("RAM disk") as path:
        for name, size in langgraph.stored(path).items():
            console.print(f"{name}: {size:,} bytes after {langgraph.TURNS} turns, {2 * langgraph.TURNS * langgraph.SIZE:,} of them said")


def agent_table(quick: bool) -> None:
    """What a run of an `Agent` costs above its engine's own, at every length, and in every form."""
    lengths, rounds = ([10, 1_000], 60) if quick else ([10, 1_000, 10_000], 300)
    for about, history in (("History(runs=10)", holdfast.History(runs=10)), ("the default history", holdfast.History())):
        runs = {past: agent_runs("awaited", past, rounds, history) for past in track(lengths, about, transient=True)}
        table = Table(title=f"A run with {about}, real disk, the fastest runs, milliseconds above the engine's own", title_justify="left")
        table.add_column("sessions")
        for past, it in runs.items():
            table.add_column(f"{past:,} past runs ({it.sent} sent)", justify="right")
        table.add_row(agent.ENGINE, *(f"({it.engine * 1e3:.2f})" for it in runs.values()))
        for name in agent.STORES:
            table.add_row(name, *(f"{it.above(name) * 1e3:.2f}" for it in runs.values()))
        console.print(table)
    table = Table(title="1,000 past runs, History(runs=10), the fastest runs, milliseconds above the engine's own", title_justify="left")
    for column in ("run", agent.ENGINE, *agent.STORES):
        table.add_column(column, justify="left" if column == "run" else "right")
    for kind in agent.KINDS:
        it = agent_runs(kind, 1_000, rounds, holdfast.History(runs=10))
        table.add_row(kind, f"({it.engine * 1e3:.2f})", *(f"{it.above(name) * 1e3:.2f}" for name in agent.STORES))
    console.print(table)


def agent_runs(kind: str, past: int, rounds: int, history: holdfast.History) -> agent.Measured:
    with folder("real disk") as path:
        return asyncio.run(agent.measure(path, kind, past, rounds, history))


def recall_table(quick: bool) -> None:
    """What a search in the past costs, and what it finds."""
    count = 1_000 if quick else 10_000
    with folder("real disk") as path:
        found, made = asyncio.run(recall.measure(path, count))
    table = Table(title=f"A search among {count:,} messages; answers that come first / among five", title_justify="left")
    for column in ("by", "median, ms", "95%, ms", "paraphrased", "look-alikes", "names"):
        table.add_column(column, justify="left" if column == "by" else "right")
    for name, it in found.items():
        table.add_row(name, f"{it.median * 1e3:.1f}", f"{it.slow * 1e3:.1f}", str(it.paraphrased), str(it.beside), str(it.exact))
    console.print(table)
    for name, it in made.items():
        console.print(f"index by {name}: {count / it.seconds:,.0f} messages a second, {it.size / 1e6:.1f} MB")


def serve_table(quick: bool) -> None:
    """`POST /run` beside agno's AgentOS: one request alone, and how many a second from four callers of one session."""
    lengths, rounds = ([10, 500], 40) if quick else ([10, 5_000], 200)
    for past in lengths:
        with folder("real disk") as path:
            it = serve.measure(path, past, rounds)
        table = Table(title=f"POST /run, a session of {past:,} runs, SQLite, a model that answers at once", title_justify="left")
        for column in ("server", "alone, ms", "beside agno", "a second", "times agno"):
            table.add_column(column, justify="left" if column == "server" else "right")
        for name, alone in it.alone.items():
            many, theirs = it.together[name], it.together[serve.THEIRS]
            table.add_row(name, f"{alone * 1e3:.2f}", f"{alone / it.alone[serve.THEIRS]:.2f}", f"{many:.0f}", f"{many / theirs:.2f}")
        console.print(table)


def tails_table(quick: bool) -> None:
    """Live tails of one worker, and the first page of the inbox."""
    many = 200 if quick else 1_000
    for sessions in (1, many):
        with folder("real disk") as path:
            it = asyncio.run(tails.measure(path, many, sessions, 5 if quick else 20))
        late = (
            f"the last has a run's end {statistics.median(it.delays) * 1e3:.0f} ms after its answer ({max(it.delays) * 1e3:.0f} at worst)"
        )
        console.print(f"{many:,} tails of {sessions:,} sessions: open in {it.opened:.1f} s; {late}; {it.wrong} missed or were told twice")
    count = 2_000 if quick else 100_000
    with folder("real disk") as path:
        times = asyncio.run(tails.first_page(path, count, 20 if quick else 100))
    told = f"{statistics.median(times) * 1e3:.1f} ms, {max(times) * 1e3:.1f} at worst"
    console.print(f"first page of the inbox, 50 of {count:,} sessions with their last lines, over HTTP: {told}")


TABLES = {
    "agent": agent_table,
    "turns": turns_table,
    "bytes": bytes_table,
    "lone": lone_table,
    "writers": writers_table,
    "openai": openai_table,
    "langgraph": langgraph_table,
    "recall": recall_table,
    "serve": serve_table,
    "tails": tails_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("tables", nargs="*", default=[], help=f"which: {', '.join(TABLES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="short lengths and few rounds")
    chosen = parser.parse_args()
    console.print(f"[dim]{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of alternated rounds; read the ratios[/dim]")
    for name in chosen.tables or TABLES:
        TABLES[name](chosen.quick)


main()
