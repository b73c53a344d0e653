"""Messages that others wrote to a session, as LangChain's: from their neutral projection, which is all that is read here.

A message made from entries names them in its `additional_kwargs`, so that the session shows what was said once. Left out is what no model
would take from another one: reasoning, compactions, parts of unknown types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from ...entries import Entry
from ...messages import Blob, File, Message, Part, Text, ToolCall, ToolResult, Uri

_ENTRIES = "holdfast_entries"
INTERRUPT = "langgraph/1+interrupt"
"""The format of a message that stands for an interrupt of a graph, as calls whose results it goes on with: no message of the graph."""


def entries_behind(message: BaseMessage) -> list[str]:
    """The ids of the entries that the message was made from; none for a message that began here."""
    ids = message.additional_kwargs.get(_ENTRIES)
    return cast("list[str]", ids) if isinstance(ids, list) else []


def unseen(entries: Iterable[Entry], channel: Any) -> list[BaseMessage]:
    """The messages of `entries`, without those that the channel's messages were made from."""
    return as_theirs(((entry.id, entry.message()) for entry in entries), channel)


def as_theirs(said: Iterable[tuple[str, Message]], channel: Any) -> list[BaseMessage]:
    """What was said, each message with the id of its entry, without what the channel's messages were made from."""
    values = cast("list[Any]", channel) if isinstance(channel, list) else []
    seen = {id for value in values if isinstance(value, BaseMessage) for id in (*entries_behind(value), value.id)}
    asked: set[str | None] = set()
    messages: list[BaseMessage] = []
    for entry_id, said_there in said:
        if said_there.native is not None and said_there.native.format == INTERRUPT:
            asked |= {part.id for part in said_there.parts if isinstance(part, ToolCall)}
        elif entry_id not in seen and not any(part.id in asked for part in said_there.parts if isinstance(part, ToolResult)):
            for number, message in enumerate(_messages(said_there)):
                _add(messages, message, entry_id, number)
    return messages


def _add(messages: list[BaseMessage], message: BaseMessage, entry_id: str, number: int) -> None:
    """Calls belong to the assistant's message right before them: the answers to all of them follow together."""
    last = messages[-1] if messages else None
    if isinstance(last, AIMessage) and isinstance(message, AIMessage) and message.tool_calls:
        last.content = last.text + message.text
        last.tool_calls += message.tool_calls
        last.additional_kwargs[_ENTRIES].append(entry_id)
        return
    message.id = f"{entry_id}-{number}" if number else entry_id
    message.additional_kwargs[_ENTRIES] = [entry_id]
    messages.append(message)


def _messages(message: Message) -> Iterator[BaseMessage]:
    for part in message.parts:
        if isinstance(part, ToolResult):
            text = part.response if isinstance(part.response, str) else json.dumps(part.response, ensure_ascii=False)
            yield ToolMessage(content=text, tool_call_id=part.id or "unknown")
    content = _content(message.parts)
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if not content and not calls:
        return
    if message.role == "assistant":
        yield AIMessage(content, name=message.name, tool_calls=[_call(part) for part in calls])
    elif message.role in ("user", "tool"):
        yield HumanMessage(content, name=message.name)
    elif message.role in ("system", "developer"):
        yield SystemMessage(content, name=message.name)
    else:
        yield ChatMessage(content=content, role=message.role, name=message.name)


def _call(part: ToolCall) -> Any:
    given: Any = {} if part.arguments is None else part.arguments
    args = cast("dict[str, Any]", given) if isinstance(given, dict) else {"input": given}
    return {"name": part.name, "args": args, "id": part.id, "type": "tool_call"}


def _content(parts: Iterable[Part]) -> Any:
    """A text, or standard content blocks where there is more than text."""
    blocks = [block for block in map(_block, parts) if block is not None]
    return "".join(it["text"] for it in blocks) if all(it["type"] == "text" for it in blocks) else blocks


def _block(part: Part) -> dict[str, Any] | None:
    if isinstance(part, Text):
        return {"type": "text", "text": part.content}
    if not isinstance(part, Blob | Uri | File):
        return None
    kind = part.modality if part.modality in ("image", "audio", "video") else "file"
    mime = {} if part.mime_type is None else {"mime_type": part.mime_type}
    if isinstance(part, Blob):
        return {"type": kind, "base64": part.content, **mime}
    return {"type": kind, "url": part.uri, **mime} if isinstance(part, Uri) else {"type": kind, "file_id": part.file_id, **mime}
