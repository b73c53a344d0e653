"""OpenAI Agents SDK: its sessions, kept by a Holdfast store.

    session = HoldfastSession("ada-1", "sqlite:///chat.db")
    result = await Runner.run(agent, "Where is my order?", session=session)

Each item is one message of the session: its JSON verbatim for the SDK, and beside it the neutral parts every other reader understands.
Messages that somebody else wrote become items of the Responses API on the way out.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from .. import Session, Store
from ..backend import Range
from ..entries import MESSAGE, Entry, NewEntry
from ..errors import Conflict, Corrupt, InvalidValue, MissingExtra, SessionGone
from ..ids import new_id, now
from ..messages import (
    Blob,
    Compaction,
    File,
    Message,
    Native,
    Other,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Uri,
    encode_message,
)

try:
    from agents.memory import SessionSettings
    from agents.memory.session_settings import coerce_session_settings, resolve_session_limit
except ImportError as error:
    raise MissingExtra('the OpenAI Agents SDK is not installed: pip install "holdfast[openai-agents]"') from error

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem

__all__ = ["HoldfastSession"]

FORMAT = "openai-agents/1"
"""`Native.data` is the item."""
FORMAT_TEXT = "openai-agents/1+text"
"""`Native.data` is a string that holds the item's JSON: for lone surrogates, which UTF-8 can't carry."""

T = TypeVar("T")
UserId: TypeAlias = "str | Callable[[RunContextWrapper[Any]], str | None] | None"


class HoldfastSession:
    """A session of the SDK (`agents.memory.Session`) in a Holdfast store.

    `session_id`: None makes one. `store`: a `Store`, or a URL; one store per URL serves the whole process and is closed at its end.
    `user_id`: whose the session is, or a function of the run's context that says so; a call outside a run then names nobody.
    To a caller who isn't its owner the session doesn't exist: no items, and adding some raises `SessionNotFound`.

    Any number of tasks, threads, event loops and processes may share a session, through one object or many. A batch of `add_items` is
    one atomic commit. When somebody else clears or deletes the session, an addition of a run that had begun before raises
    `SessionGone`, so that nothing comes back; the next call finds what is there then, or begins anew.
    """

    session_id: str
    session_settings: SessionSettings | None

    def __init__(
        self,
        session_id: str | None,
        store: Store | str,
        *,
        user_id: UserId = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self.session_id = Session(session_id).id
        self.session_settings = SessionSettings() if session_settings is None else coerce_session_settings(session_settings)
        self.store = _shared(store) if isinstance(store, str) else store
        self._user_id = user_id
        self._free: list[Session] = []  # open handles; whoever takes one has it alone
        self._closed = False

    def __repr__(self) -> str:
        return f"HoldfastSession({self.session_id!r})"

    async def get_items(self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None) -> list[TResponseInputItem]:
        """The newest `limit` items in order, by default `session_settings.limit` or all; 0 and less is none.

        `Corrupt` where a stored item is unreadable: it is not passed over.
        """
        self._check_open()
        most = resolve_session_limit(limit, self.session_settings)
        if most is not None and most <= 0:
            return []
        found = await self._on(self._user(wrapper), lambda handle: _items(handle, most))
        newest = found if found is None or most is None else _valid(found[-most:])
        return [cast("TResponseInputItem", item.value) for item in newest or ()]

    async def add_items(self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Add `items` in order, all or none, next to each other. `InvalidValue` names the one that isn't JSON."""
        self._check_open()
        messages = _messages(items)
        if not messages:
            return
        user_id = self._user(wrapper)
        while True:
            free = self._free
            handle = _taken(free, user_id) or await self.store.session(self.session_id, user_id=user_id)
            try:
                await handle.append(*messages)
            except SessionGone:
                if free is self._free:
                    self._free = []
                    raise
            else:
                free.append(handle)
                return

    async def pop_item(self, *, wrapper: RunContextWrapper[Any] | None = None) -> TResponseInputItem | None:
        """Take the newest item out; None where there is none. It stays in the record, hidden."""
        self._check_open()
        return cast("TResponseInputItem | None", await self._on(self._user(wrapper), _pop))

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Remove everything the session holds, its state too. The id and the owner stay."""
        self._check_open()
        await self._on(self._user(wrapper), self._clear)

    def close(self) -> None:
        """Every call after it raises `RuntimeError`. The store stays open: it is yours, or the process's."""
        self._closed = True
        self._free = []

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Asked by the SDK's compaction: the history becomes `items` in one commit. What they stand for stays in the record, hidden."""
        if type(self) is not HoldfastSession:
            return False  # a subclass may keep more, or something else, than these items
        self._check_open()
        messages = _messages(items)
        await self._on(self._user(None), lambda handle: handle.replace(messages))
        return True

    # --- handles ---

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("HoldfastSession is closed")

    def _user(self, wrapper: RunContextWrapper[Any] | None) -> str | None:
        if callable(self._user_id):
            return None if wrapper is None else self._user_id(wrapper)
        return self._user_id

    async def _on(self, user_id: str | None, work: Callable[[Session], Awaitable[T]]) -> T | None:
        """What `work` makes of the session as it is now; None where there is none. Nothing is created."""
        while True:
            free = self._free
            handle = _taken(free, user_id) or await self.store.get(self.session_id, user_id=user_id)
            if handle is None:
                return None
            try:
                done = await work(handle)
            except SessionGone:
                self._free = []
            else:
                free.append(handle)
                return done

    async def _clear(self, handle: Session) -> None:
        handle.clear()
        self._free = []  # before: who is busy with an older handle will see that it was we who ended that life
        await handle.commit()
        self._free = []  # after: what was opened meanwhile has ended too


_stores: dict[str, Store] = {}


def _shared(url: str) -> Store:
    return _stores.get(url) or _stores.setdefault(url, Store.open(url))


def _taken(free: list[Session], user_id: str | None) -> Session | None:
    """An open handle of this user, out of `free`."""
    while free:
        try:
            handle = free.pop()
        except IndexError:  # another thread was faster
            return None
        if handle.user_id == user_id:
            return handle
    return None


# --- items of a log --------------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    value: Any
    entry: Entry
    native: bool


async def _items(handle: Session, most: int | None) -> list[_Item]:
    """The items of the newest entries: every item, or at least `most` where there are so many."""
    last = most
    while True:
        entries = await handle.entries(last=last, kinds=(MESSAGE,))
        found = _valid(_expanded(entries))
        if last is None or most is None or len(found) >= most or len(entries) < last:
            return found
        last *= 2


async def _pop(handle: Session) -> Any:
    while True:
        found = await _items(handle, 1)
        if not found:
            return None
        newest = found[-1]
        seq = newest.entry.seq
        rest = [item.value for item in found[:-1] if item.entry is newest.entry]  # what else somebody else's message held
        entries = tuple(NewEntry(new_id(), MESSAGE, encode_message(message), time=now()) for message in _messages(rest))
        try:
            await handle.write(hide=(Range(seq, seq),), entries=entries, expect=handle.version)
        except Conflict:
            continue
        return newest.value


def _expanded(entries: Iterable[Entry]) -> list[_Item]:
    found: list[_Item] = []
    unnamed: deque[str] = deque()  # ids given to calls that had none, until their results come
    for entry in entries:
        native = _native(entry)
        if native is not None and native.format in (FORMAT, FORMAT_TEXT):
            found.append(_Item(_verbatim(entry, native), entry, native=True))
        else:
            found.extend(_Item(value, entry, native=False) for value in _converted(entry.message(), entry.id, unnamed))
    return found


class _Body(msgspec.Struct):
    """Of a message's stored form only what the SDK wrote: reading the parts too would take twice the time."""

    native: Native | None = None


_body = msgspec.json.Decoder(_Body)


def _native(entry: Entry) -> Native | None:
    try:
        return _body.decode(entry.body).native
    except msgspec.DecodeError:
        return entry.message().native  # says what is wrong


def _verbatim(entry: Entry, native: Native) -> Any:
    try:
        item = json.loads(bytes(native.data))
        return json.loads(item) if native.format == FORMAT_TEXT else item
    except (ValueError, TypeError) as error:
        raise Corrupt(f"entry {entry.id} (seq {entry.seq}) holds an item of the OpenAI Agents SDK that is not readable: {error}") from error


def _valid(items: list[_Item]) -> list[_Item]:
    """Without the converted calls that have no result, and the converted results that have no call."""
    if all(item.native for item in items):
        return items
    ids = {kind: {_call_id(item.value) for item in items if _is(item.value, kind)} for kind in ("function_call", "function_call_output")}
    paired = ids["function_call"] & ids["function_call_output"]
    return [item for item in items if item.native or not item.value.get("call_id") or item.value["call_id"] in paired]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, dict) and cast("dict[str, Any]", value).get("type") == kind


def _call_id(value: dict[str, Any]) -> str:
    return str(value.get("call_id"))


# --- from the SDK: an item as a message ------------------------------------------------------------------------------

_LONE = re.compile("[\ud800-\udfff]")
_SHORT = 256


def _messages(items: Sequence[Any]) -> list[Message]:
    return [_message(item, place) for place, item in enumerate(items)]


def _message(item: Any, place: int) -> Message:
    try:
        text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        kind = cast("dict[str, Any]", item).get("type", "message") if isinstance(item, dict) else type(item).__name__
        raise InvalidValue(f"items[{place}] ({kind}) is not JSON, nothing was added: {error}") from error
    clean = _LONE.sub("\ufffd", text)
    if clean == text:
        native = Native(FORMAT, msgspec.Raw(text.encode()))
    else:
        native = Native(FORMAT_TEXT, msgspec.Raw(json.dumps(json.dumps(item, separators=(",", ":"))).encode()))
    role, parts = _projected(msgspec.json.decode(clean))
    return Message(role, tuple(parts), native=native)


def _projected(item: Any) -> tuple[str, Iterable[Part]]:
    """Role and neutral parts of an item. They leave out what only the SDK can use; the item itself is kept beside them."""
    if not isinstance(item, dict):
        return "user", ()
    fields = cast("dict[str, Any]", item)
    kind, call_id = str(fields.get("type") or "message"), fields.get("call_id")
    if kind == "message":
        role = str(fields.get("role") or "user")
        return "system" if role == "developer" else role, _content(fields.get("content"))
    if kind == "reasoning":
        return "assistant", _thoughts(fields)
    if kind.startswith("compaction"):
        return "assistant", (Compaction(_text_or_none(fields.get("id"))),)
    if isinstance(call_id, str) and kind.endswith("_output"):
        return "tool", (ToolResult(fields.get("output"), call_id),)
    if isinstance(call_id, str) and kind.endswith("_call"):
        return "assistant", (ToolCall(str(fields.get("name") or kind.removesuffix("_call")), call_id, _arguments(fields)),)
    return "assistant", (_other(kind, fields),)


def _arguments(call: dict[str, Any]) -> Any:
    """A function's arguments are JSON in a string; a custom tool's input is text, a hosted tool's action an object."""
    given = call.get("arguments", call.get("input", call.get("action")))
    if call.get("type") != "function_call" or not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given)
    except msgspec.MsgspecError:
        return given


def _thoughts(item: dict[str, Any]) -> Iterator[Part]:
    for field in ("summary", "content"):
        for part in _objects(item.get(field)):
            if isinstance(text := part.get("text"), str):
                yield Reasoning(text)


def _content(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        yield Text(content)
    for part in _objects(content):
        yield _content_part(part)


def _content_part(part: dict[str, Any]) -> Part:
    kind = str(part.get("type") or "text")
    if isinstance(text := part.get("text", part.get("refusal")), str):
        return Text(text)
    if kind == "input_audio" and isinstance(audio := part.get("input_audio"), dict):
        given = cast("dict[str, Any]", audio)
        return Blob("audio", str(given.get("data") or ""), f"audio/{given.get('format')}")
    if kind in ("input_image", "input_file"):
        return _media("image" if kind == "input_image" else "document", part) or _other(kind, part)
    return _other(kind, part)


def _media(modality: str, part: dict[str, Any]) -> Part | None:
    if isinstance(id := part.get("file_id"), str):
        return File(modality, id)
    data = part.get("image_url") or part.get("file_url") or part.get("file_data")
    if not isinstance(data, str):
        return None
    if data.startswith("data:"):
        head, _, content = data.removeprefix("data:").partition(",")
        return Blob(modality, content, head.partition(";")[0] or None)
    return Blob(modality, data) if data == part.get("file_data") else Uri(modality, data)


def _other(kind: str, fields: dict[str, Any]) -> Other:
    """What has no neutral form: its type and its short fields, so that nothing big is stored twice."""
    short = {
        key: value for key, value in fields.items() if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _SHORT)
    }
    return Other(kind, {key: value for key, value in short.items() if key != "type"})


def _objects(value: Any) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", it) for it in cast("list[Any]", value) if isinstance(it, dict)] if isinstance(value, list) else []


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# --- to the SDK: somebody else's message as items --------------------------------------------------------------------


def _converted(message: Message, entry_id: str, unnamed: deque[str]) -> Iterator[dict[str, Any]]:
    """Input items of the Responses API for what `message` says.

    Left out is what no model would take from us: another model's reasoning, media said by an assistant, parts of unknown types.
    """
    role = {"developer": "system", "tool": "user"}.get(message.role, message.role)
    said: list[Part] = []
    for place, part in enumerate(message.parts):
        if isinstance(part, ToolCall | ToolResult):
            yield from _spoken(role, said)
            said = []
            yield _as_call(part, f"call_{entry_id}_{place}", unnamed) if isinstance(part, ToolCall) else _as_output(part, unnamed)
        else:
            said.append(part)
    yield from _spoken(role, said)


def _as_call(part: ToolCall, made: str, unnamed: deque[str]) -> dict[str, Any]:
    if part.id is None:
        unnamed.append(made)
    arguments = part.arguments if isinstance(part.arguments, str) else _json({} if part.arguments is None else part.arguments)
    return {"type": "function_call", "call_id": part.id or made, "name": part.name, "arguments": arguments}


def _as_output(part: ToolResult, unnamed: deque[str]) -> dict[str, Any]:
    call_id = part.id or (unnamed.popleft() if unnamed else "unknown")
    output = part.response if isinstance(part.response, str) else _json(part.response)
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _spoken(role: str, parts: list[Part]) -> Iterator[dict[str, Any]]:
    content = [piece for piece in (_input_part(part) for part in parts) if piece is not None]
    if role not in ("user", "assistant", "system"):
        role = "user"
    if role != "user":
        content = [piece for piece in content if "text" in piece]
    if content and all("text" in piece for piece in content):
        yield {"role": role, "content": "".join(piece["text"] for piece in content)}
    elif content:
        yield {"role": role, "content": content}


def _input_part(part: Part) -> dict[str, Any] | None:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.content}
    if isinstance(part, Compaction):
        return {"type": "input_text", "text": part.content} if part.content else None
    if isinstance(part, Blob):
        return _input_blob(part)
    if isinstance(part, Uri):
        return _image(image_url=part.uri) if part.modality == "image" else {"type": "input_file", "file_url": part.uri}
    if isinstance(part, File):
        return _image(file_id=part.file_id) if part.modality == "image" else {"type": "input_file", "file_id": part.file_id}
    return None


def _input_blob(part: Blob) -> dict[str, Any]:
    mime = part.mime_type or {"image": "image/png", "audio": "audio/wav"}.get(part.modality, "application/octet-stream")
    if part.modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": part.content, "format": mime.rpartition("/")[2]}}
    url = f"data:{mime};base64,{part.content}"
    return _image(image_url=url) if part.modality == "image" else {"type": "input_file", "filename": "file", "file_data": url}


def _image(**source: str) -> dict[str, Any]:
    return {"type": "input_image", "detail": "auto", **source}
