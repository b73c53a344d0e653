"""Between our messages and those of pydantic-ai.

What the engine says is stored as it serialises it, with the tag `FORMAT`, beside the projection. What it can't read back (written by
another version, or by another framework) is built anew from the projection.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import ValidationError
from pydantic_ai import messages as ai
from pydantic_core import PydanticSerializationError

from ..errors import InvalidValue
from ..messages import Blob, Compaction, File, Message, Native, Other, Part, Reasoning, Text, ToolCall, ToolResult, Uri
from .history import calls_of

FORMAT = "pydantic-ai/2"
_REMEMBERED = 8192
"""Messages up to this many bytes are parsed once and kept: they never change."""

# --- from the engine -------------------------------------------------------------------------------------------------


def said(response: ai.ModelResponse) -> Message:
    """The model's answer as a message."""
    raw, data = _dumped(response)
    return Message("assistant", tuple(_said(part) for part in data["parts"]), native=Native(FORMAT, raw))


def answered(part: ai.ToolReturnPart[Any]) -> Message:
    """A tool's result as a message of its own; `InvalidValue` names the tool of one that has no JSON."""
    try:
        raw, data = _dumped(ai.ModelRequest(parts=[part]))
    except PydanticSerializationError as error:
        raise InvalidValue(f"tool {part.tool_name!r} gave what can't be stored: {error}") from error
    it = data["parts"][0]
    return Message("tool", (ToolResult(it.get("content"), it.get("tool_call_id")),), it.get("tool_name"), Native(FORMAT, raw))


def noted(part: ai.ModelRequestPart) -> Message:
    """What the engine itself added to a request: kept for replay, shown as instructions."""
    raw, data = _dumped(ai.ModelRequest(parts=[part]))
    it = data["parts"][0]
    text = it.get("content")
    return Message("system", (Text(text) if isinstance(text, str) else Other(str(it.get("part_kind")), it),), native=Native(FORMAT, raw))


def shown(messages: Sequence[ai.ModelMessage]) -> list[Message]:
    """The engine's messages as ours, one for each part of a request."""
    found: list[Message] = []
    for message in messages:
        if isinstance(message, ai.ModelResponse):
            found.append(said(message))
        else:
            found += [_asked(part) for part in message.parts]
    return found


def _asked(part: ai.ModelRequestPart) -> Message:
    if isinstance(part, ai.ToolReturnPart):
        return answered(part)
    if isinstance(part, ai.UserPromptPart):
        raw, _ = _dumped(ai.ModelRequest(parts=[part]))
        texts = [part.content] if isinstance(part.content, str) else [it for it in part.content if isinstance(it, str)]
        return Message("user", tuple(Text(text) for text in texts), native=Native(FORMAT, raw))
    return noted(part)


def response(message: Message) -> ai.ModelResponse:
    """An answer that somebody else than the model gave."""
    built = _native(message) or _built(message, {})
    return built if isinstance(built, ai.ModelResponse) else ai.ModelResponse(parts=[ai.TextPart(message.text)])


def _dumped(message: ai.ModelMessage) -> tuple[msgspec.Raw, dict[str, Any]]:
    raw = ai.ModelMessagesTypeAdapter.dump_json([message], exclude_none=True)[1:-1]
    return msgspec.Raw(raw), msgspec.json.decode(raw)


def _said(part: dict[str, Any]) -> Part:
    kind = part["part_kind"]
    if kind == "text":
        return Text(part["content"])
    if kind == "thinking":
        return Reasoning(part.get("content", ""))
    if kind == "tool-call":
        return ToolCall(part["tool_name"], part.get("tool_call_id"), _arguments(part.get("args")))
    if kind == "compaction":
        return Compaction(part.get("id"), part.get("content"))
    if kind == "file":
        return _file(part["content"])
    return Other(kind, part)


def _arguments(args: Any) -> Any:
    """Arguments as JSON; text that isn't JSON stays text."""
    if not isinstance(args, str):
        return args or {}
    try:
        return msgspec.json.decode(args)
    except msgspec.DecodeError:
        return args


def _file(content: dict[str, Any]) -> Part:
    media = str(content.get("media_type", "application/octet-stream"))
    return Blob(_modality(media), str(content.get("data", "")), media)


def _modality(media: str) -> str:
    kind = media.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "document"


# --- to the engine ---------------------------------------------------------------------------------------------------


def requests(messages: Sequence[Message]) -> list[ai.ModelMessage]:
    """Our messages as the engine's."""
    names = {call.id: call.name for message in messages for call in calls_of(message)}
    return [it for message in messages if (it := _native(message) or _built(message, names)) is not None]


def _native(message: Message) -> ai.ModelMessage | None:
    native = message.native
    if native is None or native.format != FORMAT:
        return None
    data = bytes(native.data)
    return _parsed(data) if len(data) > _REMEMBERED else _remembered(data)


def _parsed(data: bytes) -> ai.ModelMessage | None:
    try:
        return ai.ModelMessagesTypeAdapter.validate_json(b"[" + data + b"]")[0]
    except ValidationError:
        return None  # by a newer version: the projection says what it can


_remembered = lru_cache(maxsize=2048)(_parsed)


def _built(message: Message, names: dict[str | None, str]) -> ai.ModelMessage | None:
    """The message from its projection; None when nothing in it can be sent."""
    if message.role == "assistant":
        parts = [part for it in message.parts if (part := _response_part(it)) is not None]
        return ai.ModelResponse(parts=parts) if parts else None
    if message.role == "tool":
        results = [it for it in message.parts if isinstance(it, ToolResult)]
        return ai.ModelRequest(parts=[_result(it, message, names) for it in results]) if results else None
    if message.role == "user":
        content = prompt([message])
        return ai.ModelRequest(parts=[ai.UserPromptPart(content)]) if content else None
    return ai.ModelRequest(parts=[ai.SystemPromptPart(message.text)]) if message.text else None


def _response_part(part: Part) -> ai.ModelResponsePart | None:
    match part:
        case Text(content) if content:
            return ai.TextPart(content)
        case Compaction(_, content) if content:
            return ai.TextPart(content)
        case ToolCall(name, id, arguments):
            text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            return ai.ToolCallPart(name, text, tool_call_id=id or name)
        case _:
            return None  # another model's reasoning is not this one's, and media of an answer can't be sent back


def _result(result: ToolResult, message: Message, names: dict[str | None, str]) -> ai.ToolReturnPart:
    name = names.get(result.id) or message.name or "tool"
    return ai.ToolReturnPart(name, result.response, tool_call_id=result.id or name)


def prompt(messages: Iterable[Message]) -> str | list[ai.UserContent]:
    """What a person said, as the engine takes it: text alone where there is nothing else."""
    content = [it for message in messages for part in message.parts if (it := _content(part)) is not None]
    return content[0] if len(content) == 1 and isinstance(content[0], str) else content


_URLS = {"image": ai.ImageUrl, "audio": ai.AudioUrl, "video": ai.VideoUrl}


def _content(part: Part) -> ai.UserContent | None:
    match part:
        case Text(content):
            return content or None
        case Uri(modality, uri, media):
            return _URLS.get(modality, ai.DocumentUrl)(url=uri, media_type=media)
        case Blob(_, content, media):
            return ai.BinaryContent(base64.b64decode(content), media_type=media or "application/octet-stream")
        case File(_, file_id, media):
            return ai.UploadedFile(file_id=file_id, provider_name="openai", media_type=media)
        case _:
            return None
