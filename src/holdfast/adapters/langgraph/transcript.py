"""What a thread's session shows: the messages of its newest checkpoint, as message entries.

An entry holds the neutral parts for every reader and refers to the chunk that holds the message itself. What the newest checkpoint no
longer has (removed, replaced, or said on a branch that was left) is hidden: it stays in the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import msgspec
from langchain_core.messages import BaseMessage, ChatMessage, ToolMessage, convert_to_messages

from ...backend import Range
from ...entries import MESSAGE, Entry, NewEntry
from ...ids import new_id, now
from ...messages import File, Message, Native, Other, Part, Reasoning, Text, ToolCall, ToolResult, Uri, encode_message
from .chunks import Ref, name_of
from .elsewhere import entries_behind

FORMAT = "langgraph/1"
"""`Native.data` is `{"chunk": NAME}`: blob `k/NAME` of namespace `langgraph` holds the message, serialized.

Of an agent whose graph isn't the one that has the thread, it is this with `@` and the agent's name: to the thread, somebody else's.
"""
_ROLES = {"human": "user", "ai": "assistant", "function": "tool"}
_SHORT = 256


def fitting(entries: Iterable[Entry], names: Sequence[str]) -> tuple[int, tuple[Range, ...]]:
    """How the messages of `names` come to be shown, in order: so many of the first ones are, these entries have to be hidden."""
    shown = 0
    hidden: list[int] = []
    for entry in entries:
        if (name := _name(entry)) is None:
            continue
        if shown < len(names) and name == names[shown]:
            shown += 1
        else:
            hidden.append(entry.seq)
    return shown, tuple(_ranges(hidden))


def _name(entry: Entry) -> str | None:
    """The name of the message that an entry shows; None for an entry that isn't a thread's."""
    native = entry.message().native
    return cast("dict[str, str]", msgspec.json.decode(native.data))["chunk"] if native and native.format == FORMAT else None


def foreign(entry: Entry) -> bool:
    """Whether somebody else has written the entry. The thread neither shows nor hides it."""
    return _name(entry) is None


def _ranges(seqs: list[int]) -> Iterator[Range]:
    """The same seqs, which are in order, as ranges without gaps."""
    for _, run in groupby(enumerate(seqs), lambda it: it[1] - it[0]):
        together = [seq for _, seq in run]
        yield Range(together[0], together[-1])


# --- a message as everybody reads it ---------------------------------------------------------------------------------


def entry_of(value: Any, ref: Ref) -> NewEntry | None:
    """The entry that shows `value`, a message or what LangChain takes for one; its id is the message's own. None for what has one."""
    message = _message(value)
    if message is not None and entries_behind(message):
        return None
    return NewEntry((message and message.id) or new_id(), MESSAGE, encode_message(shown(value, ref, FORMAT)), time=now())


def shown(value: Any, ref: Ref, format: str) -> Message:
    """`value` as everybody reads it, with where it is itself."""
    message = _message(value)
    native = Native(format, msgspec.Raw(msgspec.json.encode({"chunk": name_of(ref)})))
    if message is None:
        return Message("other", (Other(type(value).__name__, {}),), native=native)
    return msgspec.structs.replace(plain(message), native=native, id=message.id)


def plain(message: BaseMessage) -> Message:
    """A message as everybody reads it."""
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, message.type)
    return Message(role, tuple(_parts(message)), message.name)


def _message(value: Any) -> BaseMessage | None:
    if isinstance(value, BaseMessage):
        return value
    try:
        return convert_to_messages([value])[0]
    except (NotImplementedError, TypeError, ValueError):
        return None


def _parts(message: BaseMessage) -> Iterator[Part]:
    blocks = cast("list[dict[str, Any]]", message.content_blocks)
    if isinstance(message, ToolMessage):
        yield ToolResult("".join(block["text"] for block in blocks if block["type"] == "text"), message.tool_call_id)
        blocks = [block for block in blocks if block["type"] != "text"]
    for block in blocks:
        yield _part(block)


def _part(block: dict[str, Any]) -> Part:
    """The part for a standard content block. Inline media stay with the message: the part says what they are."""
    kind = str(block["type"])
    if kind in ("text", "text-plain") and isinstance(block.get("text"), str):
        return Text(block["text"])
    if kind == "reasoning":
        return Reasoning(str(block.get("reasoning") or ""))
    if kind == "tool_call":
        return ToolCall(str(block["name"]), block.get("id"), block.get("args"))
    if kind in ("image", "audio", "video", "file"):
        modality, mime = "document" if kind == "file" else kind, block.get("mime_type")
        if isinstance(id := block.get("file_id"), str):
            return File(modality, id, mime)
        if isinstance(url := block.get("url"), str) and not url.startswith("data:"):
            return Uri(modality, url, mime)
    short = {
        key: value for key, value in block.items() if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _SHORT)
    }
    return Other(kind, {key: value for key, value in short.items() if key != "type"})
