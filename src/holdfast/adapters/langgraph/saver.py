"""The checkpointer: LangGraph's calls, turned into reads and commits of a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from typing import Any, Self, TypeAlias, TypeVar, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from ... import Message, Store, sync
from ...entries import NewEntry
from ...errors import InvalidId, InvalidValue
from ...ids import check_session_id
from .chunks import Chunks, Inline, Ref, refer, resolve
from .elsewhere import unseen
from .memo import remembering
from .records import FORM, Found, Place, Record, Write
from .sealed import new_seals, steady
from .threads import Draft, Threads
from .transcript import FORMAT, entry_of, shown
from .turns import Turn, Turns, calling_loop

UserId: TypeAlias = str | Callable[[RunnableConfig], str | None] | None
T = TypeVar("T")
OWNER = "holdfast_agent"
"""In a checkpoint's metadata: the agent that runs the graph."""
_BATCH = 32


class HoldfastSaver(BaseCheckpointSaver[Any]):
    """A LangGraph checkpointer in a Holdfast store; a `thread_id` is a session id.

    `store`: a `Store`, or a URL; one store per URL serves the whole process. `serde`: LangGraph's serializer by default. `user_id`: whose
    threads these are, or a function of a call's config that says so (a call without a config then names nobody); to anybody else a thread
    doesn't exist. `transcript`: the channel whose messages the session shows in plain text; None for none, and none with LangGraph's
    encrypting serializer.

    `exclusive`: one run of a thread at a time, whichever process it is in. The next one waits for up to `wait` seconds, then it raises
    `SessionBusy`; of a process that died it waits for `lease` seconds. A run that was taken over stores nothing any more (`Fenced`), and
    neither does an update of what isn't the newest checkpoint any more (`Conflict`), unless it named its checkpoint. Without it runs of
    one thread that overlap end on branches of their own, as LangGraph has it.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        serde: SerializerProtocol | None = None,
        user_id: UserId = None,
        transcript: str | None = "messages",
        exclusive: bool = False,
        wait: float = 60.0,
        lease: float = 30.0,
    ) -> None:
        super().__init__(serde=serde)
        self.store = Store.shared(store)
        self._threads = Threads(self.store, None if isinstance(self.serde, EncryptedSerializer) else transcript)
        self._seals = new_seals()
        self._blocking = sync.Store(self.store)
        self._user_id = user_id
        self._turns = Turns(self.store, wait, lease) if exclusive else None
        self._fence: int | None = None
        self._owner: str | None = None
        self._lane = ""

    def under(self, fence: int | None, owner: str) -> Self:
        """This checkpointer for a run of agent `owner` that holds the session's claim.

        It waits for nobody, and stores nothing once that claim has ended. The checkpoints, and what follows on them, are the agent's.
        """
        other = copy(self)
        other._turns, other._fence, other._owner = None, fence, owner
        return other

    def lane(self, agent: str) -> Self:
        """This checkpointer for the checkpoints of `agent` in sessions where another agent's graph has the thread itself."""
        other = copy(self)
        other._lane = f"@{agent}|"
        return other

    @property
    def format(self) -> str:
        """The `Native.format` of messages that stem from here."""
        return FORMAT + self._lane.removesuffix("|")

    def shown(self, thread_id: str, message: BaseMessage) -> Message:
        """A message of a graph as its session shows it."""
        return shown(message, refer(message, self._steady(thread_id), {}), self.format)

    # --- reading ---

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the newest of its namespace; None where there is none for this user."""
        if self._turns is not None and (loop := calling_loop()) is not None:
            await self._turns.begin(loop, _thread(config), self._user(config))
        return await self._load(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of one thread, newest first, in one namespace or (where `config` names none) in all; of all threads without a config.

        `filter`: metadata that must be equal, key by key. `before`: only checkpoints with a smaller id than this one's.
        """
        user = self._user(config or {})
        left = limit
        ns = None if _named(config, "checkpoint_ns") is None else self._place(config or {}).ns
        async for thread in _one(_thread(config)) if config else self._threads.marked(user):
            there = [at for at in await self._threads.places(thread, ns, user) if at.ns.startswith(self._lane)]
            places = _listed(there, config, before)
            while places and (left is None or left > 0):
                size = _BATCH if left is None or filter else min(left, _BATCH)
                batch, places = places[:size], places[size:]
                for found in await self._threads.several(batch, user):
                    it = self._tuple(*found)
                    if (left is None or left > 0) and _matches(it.metadata, filter):
                        left = None if left is None else left - 1
                        yield it

    async def aunseen(self, config: RunnableConfig) -> Sequence[BaseMessage]:
        """What others have said in this session and the thread doesn't have yet, in order: input for the graph, before one's own.

        So a conversation that another framework began goes on here. The session shows these messages once, as their authors wrote them.
        """
        found = await self._load(self._config(self._place(config)._replace(id="")))
        channel = found.checkpoint["channel_values"].get(self._threads.channel or "") if found else None
        return unseen(await self._threads.said_elsewhere(_thread(config), self._user(config)), channel)

    # --- writing ---

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """Store a checkpoint, with the values that changed since its parent (the checkpoint `config` names), in one commit."""
        async with self._turn(config) as turn:
            return await self._put(config, checkpoint, metadata, new_versions, turn)

    async def aput_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Store a task's writes: ordinary ones once, those to the special channels in place of what is there."""
        async with self._turn(config) as turn:
            await self._put_writes(config, writes, task_id, task_path, turn)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Numbers; where another checkpointer has begun with strings (`"0...05.RANDOM"`), strings that sort after them."""
        if isinstance(current, str):
            return f"{int(current.partition('.')[0]) + 1:032}"
        return super().get_next_version(current, channel)

    # --- channels that are the sum of their writes ---

    async def aget_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """For each channel the writes that made it, oldest first, since the nearest ancestor of the checkpoint that has a value of it.

        That value is the `seed`, left out where no ancestor has one. The checkpoint's own writes are pending and not among them.
        """
        writes: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        async for found, chunks in self._threads.ancestors(self._place(config), self._user(config)):
            for write in reversed(found.writes):
                if write.channel in writes and write.channel not in seeds:
                    writes[write.channel].append((write.task, write.channel, resolve(write.value, self.serde, chunks)))
            for channel in writes.keys() & found.record.values.keys() - seeds.keys():
                seeds[channel] = resolve(found.record.values[channel], self.serde, chunks)
            if seeds.keys() == writes.keys():
                break
        return {channel: _history(writes[channel][::-1], seeds, channel) for channel in channels}

    # --- removing ---

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete the session with everything it holds; a thread that isn't there is no error."""
        await self._threads.delete(check_session_id(thread_id), self._user({}))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs (`run_id` in their metadata) in every thread, and what only they refer to."""
        runs = set(run_ids)

        def doomed(records: dict[Place, Record]) -> set[Place]:
            return {at for at, record in records.items() if self._metadata(record).get("run_id") in runs}

        user = self._user({})
        async for thread in self._threads.marked(user):
            await self._threads.remove(thread, user, doomed, self._entry)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Fork the session, everything it holds. `SessionNotFound` without a source, `SessionExists` where the target is taken."""
        await self._threads.copy(check_session_id(source_thread_id), check_session_id(target_thread_id), self._user({}))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`keep_latest`: keep the newest checkpoint of each namespace, and those before it that its `DeltaChannel`s are made of.

        `delete`: as `delete_thread`.
        """
        if strategy not in ("keep_latest", "delete"):
            raise InvalidValue(f"strategy {strategy!r}: there are 'keep_latest' and 'delete'")
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
            else:
                await self._threads.remove(check_session_id(thread), self._user({}), self._superseded, self._entry)

    def _superseded(self, records: dict[Place, Record]) -> set[Place]:
        kept: set[Place] = set()
        for ns in {at.ns for at in records}:
            kept |= self._needed(max(at for at in records if at.ns == ns), records)
        return records.keys() - kept

    def _needed(self, newest: Place, records: dict[Place, Record]) -> set[Place]:
        """The checkpoint itself and, for each channel that is the sum of writes since its last snapshot, those back to the snapshot."""
        kept = {newest}
        record = records[newest]
        open = {*self._metadata(record).get("counters_since_delta_snapshot", ())} - record.values.keys()
        while open and record.parent and (at := newest._replace(id=record.parent)) in records and at not in kept:
            kept.add(at)
            record = records[at]
            open -= record.values.keys()
        return kept

    # --- the same, blocking ---

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """`aget_delta_channel_history`, blocking."""
        return self._wait(self.aget_delta_channel_history(config=config, channels=channels))

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`aget_tuple`, blocking."""
        if self._turns is not None and (loop := calling_loop()) is not None:
            self._turns.begin_blocking(loop, _thread(config), self._user(config))
        return self._wait(self._load(config))

    def unseen(self, config: RunnableConfig) -> Sequence[BaseMessage]:
        """`aunseen`, blocking."""
        return self._wait(self.aunseen(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """`alist`, blocking."""
        found = self.alist(config, filter=filter, before=before, limit=limit)
        while (it := self._wait(_next(found))) is not None:
            yield it

    def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """`aput`, blocking."""
        with self._turn_blocking(config) as turn:
            return self._wait(self._put(config, checkpoint, metadata, new_versions, turn))

    def put_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """`aput_writes`, blocking."""
        with self._turn_blocking(config) as turn:
            self._wait(self._put_writes(config, writes, task_id, task_path, turn))

    def delete_thread(self, thread_id: str) -> None:
        """`adelete_thread`, blocking."""
        self._wait(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`adelete_for_runs`, blocking."""
        self._wait(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`acopy_thread`, blocking."""
        self._wait(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`aprune`, blocking."""
        self._wait(self.aprune(thread_ids, strategy=strategy))

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._blocking.call(coroutine)

    # --- one call ---

    async def _load(self, config: RunnableConfig) -> CheckpointTuple | None:
        at = self._place(config)
        found = await self._threads.find(at, self._user(config))
        if found is None:
            return None
        if self._turns is not None:
            self._turns.loaded(found[0].place, None if at.id else self._threads.version(at.thread))
        return self._tuple(*found)

    async def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        turn: Turn | None,
    ) -> RunnableConfig:
        parent = self._place(config)
        at = parent._replace(id=checkpoint["id"])

        def draft(before: Record | None) -> Draft:
            return self._draft(config, checkpoint, metadata, new_versions, before)

        user = self._user(config)
        if turn is not None and turn.loaded_at is not None:
            await self._threads.check_newest(parent, user, turn.loaded_at)
        await self._threads.put(at, parent.id, user, draft, self._entry, turn and turn.fence)
        return self._config(at)

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str, turn: Turn | None
    ) -> None:
        at = self._place(config)
        chunks: Chunks = {}
        serde = self._steady(at.thread)
        stored = [
            Write(task_id, WRITES_IDX_MAP.get(channel, n), channel, task_path, refer(value, serde, chunks))
            for n, (channel, value) in enumerate(writes)
        ]
        await self._threads.put_writes(at, self._user(config), stored, chunks, turn and turn.fence)

    @asynccontextmanager
    async def _turn(self, config: RunnableConfig) -> AsyncGenerator[Turn | None]:
        if self._turns is None:
            yield self._held(config)
        else:
            async with self._turns.turn(config, self._place(config), self._user(config)) as turn:
                yield turn

    @contextmanager
    def _turn_blocking(self, config: RunnableConfig) -> Generator[Turn | None]:
        if self._turns is None:
            yield self._held(config)
        else:
            with self._turns.turn_blocking(config, self._place(config), self._user(config)) as turn:
                yield turn

    def _held(self, config: RunnableConfig) -> Turn | None:
        return None if self._fence is None else Turn(_thread(config), self._fence)

    # --- between LangGraph's values and ours ---

    def _place(self, config: RunnableConfig) -> Place:
        return Place(_thread(config), self._lane + (_named(config, "checkpoint_ns") or ""), _named(config, "checkpoint_id") or "")

    def _config(self, at: Place) -> RunnableConfig:
        return {"configurable": {"thread_id": at.thread, "checkpoint_ns": at.ns.removeprefix(self._lane), "checkpoint_id": at.id}}

    def _user(self, config: RunnableConfig) -> str | None:
        return self._user_id(config) if callable(self._user_id) else self._user_id

    def _draft(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        before: Record | None,
    ) -> Draft:
        """A channel whose version is its parent's has its parent's value; every other one has what the checkpoint brings, or none."""
        chunks: Chunks = {}
        serde = self._steady(_thread(config))
        versions = checkpoint["channel_versions"]
        inherited = self._inherited(before, versions, new_versions)
        brought = {name: value for name, value in checkpoint["channel_values"].items() if name not in inherited}
        channel = self._threads.channel
        values = inherited | {name: refer(value, serde, chunks, split=name == channel) for name, value in brought.items()}
        bare = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        owner = self._owner or (before and owner_of(self._metadata(before)))
        if owner is not None:
            metadata = cast("CheckpointMetadata", {**metadata, OWNER: owner})
        record = Record(
            FORM,
            self._place(config).id or None,
            Inline(*serde.dumps_typed(bare)),
            Inline(*serde.dumps_typed(get_checkpoint_metadata(config, metadata))),
            values,
        )
        return Draft(record, chunks)

    def _inherited(self, before: Record | None, versions: ChannelVersions, new_versions: ChannelVersions) -> dict[str, Ref]:
        if before is None:
            return {}
        old = self._loads(before.checkpoint)["channel_versions"]
        same = (name for name, version in versions.items() if name not in new_versions and old.get(name) == version)
        return {name: before.values[name] for name in same if name in before.values}

    def _entry(self, ref: Ref, chunks: Chunks) -> NewEntry | None:
        return entry_of(resolve(ref, self.serde, chunks), ref)

    def _steady(self, thread: str) -> SerializerProtocol:
        return remembering(steady(self.serde, thread, self._seals))

    def _loads(self, typed: Inline) -> Any:
        return self.serde.loads_typed((typed.type, typed.data))

    def _metadata(self, record: Record) -> CheckpointMetadata:
        return self._loads(record.metadata)

    def _tuple(self, found: Found, chunks: Chunks) -> CheckpointTuple:
        at, record, writes = found
        serde = self._steady(at.thread)
        values = {name: resolve(ref, serde, chunks) for name, ref in record.values.items()}
        return CheckpointTuple(
            config=self._config(at),
            checkpoint=cast("Checkpoint", {**self._loads(record.checkpoint), "channel_values": values}),
            metadata=self._metadata(record),
            parent_config=self._config(at._replace(id=record.parent)) if record.parent else None,
            pending_writes=[(write.task, write.channel, resolve(write.value, serde, chunks)) for write in writes],
        )


async def _one(thread: str) -> AsyncIterator[str]:
    yield thread


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


def owner_of(metadata: Mapping[str, Any] | None) -> str | None:
    """The agent whose checkpoint this is; None where nobody's agent made it."""
    return (metadata or {}).get(OWNER)


def _named(config: RunnableConfig | None, name: str) -> Any:
    return (config or {}).get("configurable", {}).get(name)


def _thread(config: RunnableConfig) -> str:
    thread = _named(config, "thread_id")
    if thread is None:
        raise InvalidId("the config names no thread: pass config={'configurable': {'thread_id': ...}}")
    return check_session_id(thread if isinstance(thread, str) else str(thread))


def _listed(places: Sequence[Place], config: RunnableConfig | None, before: RunnableConfig | None) -> Sequence[Place]:
    id, bound = _named(config, "checkpoint_id"), _named(before, "checkpoint_id")
    return [at for at in places if (not id or at.id == id) and (not bound or at.id < bound)]


def _history(writes: Sequence[PendingWrite], seeds: dict[str, Any], channel: str) -> DeltaChannelHistory:
    history: DeltaChannelHistory = {"writes": [*writes]}
    if channel in seeds:
        history["seed"] = seeds[channel]
    return history


def _matches(metadata: CheckpointMetadata, filter: dict[str, Any] | None) -> bool:
    return all(cast("dict[str, Any]", metadata).get(key) == value for key, value in (filter or {}).items())
