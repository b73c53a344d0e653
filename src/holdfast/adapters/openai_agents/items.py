"""Items of the SDK as messages, and messages as items.

An item becomes one message: its JSON verbatim for the SDK, and beside it the neutral parts every other reader understands. A message that
somebody else wrote becomes items of the Responses API.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec

from ...errors import InvalidValue
from ...messages import Blob, Compaction, File, Message, Native, Other, Part, Reasoning, Text, ToolCall, ToolResult, Uri

FORMAT = "openai-agents/1"
"""`Native.data` is the item."""
FORMAT_TEXT = "openai-agents/1+text"
"""`Native.data` is a string that holds the item's JSON: for lone surrogates, which UTF-8 can't carry."""
FORMAT_ITEMS = "openai-agents/1+items"
"""`Native.data` is a list of items: a model's answer, which is one message of ours."""

# --- from the SDK: an item as a message ------------------------------------------------------------------------------

_LONE = re.compile("[\ud800-\udfff]")
_SHORT = 256


def messages_of(items: Sequence[Any]) -> list[Message]:
    return [_message(item, place) for place, item in enumerate(items)]


def _message(item: Any, place: int) -> Message:
    native, plain = _encoded(item) or _encoded_slowly(item, place)
    role, parts = _projected(plain)
    return Message(role, tuple(parts), native=native)


def answer_of(items: Sequence[Any]) -> Message:
    """The items of one answer of a model as one message."""
    each = messages_of(items)
    if len(each) == 1:
        return each[0]
    natives = [it.native for it in each if it.native is not None and it.native.format == FORMAT]
    data = b"[" + b",".join(bytes(it.data) for it in natives) + b"]"
    whole = Native(FORMAT_ITEMS, msgspec.Raw(data)) if len(natives) == len(each) else None
    return Message("assistant", tuple(part for it in each for part in it.parts), native=whole)


def _encoded(item: Any) -> tuple[Native, Any] | None:
    """The item's JSON and what that says; None where it says something else (msgspec writes dates as strings) or nothing."""
    try:
        data = msgspec.json.encode(item)
        plain = msgspec.json.decode(data)
    except (TypeError, ValueError, RecursionError):
        return None
    return (Native(FORMAT, msgspec.Raw(data)), plain) if plain == item else None


def _encoded_slowly(item: Any, place: int) -> tuple[Native, Any]:
    """As the SDK's own sessions write it: tuples as lists, keys as strings, lone surrogates. `InvalidValue` for what isn't JSON."""
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
    return native, msgspec.json.decode(clean)


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


def input_of(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages, which are valid for any provider, as the input of a run."""
    unnamed: deque[str] = deque()
    found: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        verbatim = verbatim_of(message.native.format, message.native.data) if message.native else None
        found += list(items_of(message, message.id or str(place), unnamed)) if verbatim is None else verbatim
    return found


def verbatim_of(format: str, data: Any) -> list[Any] | None:
    """The items that the SDK wrote in one message; None where it wrote nothing. `ValueError` where they are not readable."""
    if format not in (FORMAT, FORMAT_TEXT, FORMAT_ITEMS):
        return None
    value = msgspec.json.decode(data) if isinstance(data, msgspec.Raw) else data
    if format == FORMAT_TEXT:
        return [json.loads(value)]
    return list(cast("list[Any]", value)) if format == FORMAT_ITEMS else [value]


def items_of(message: Message, entry_id: str, unnamed: deque[str]) -> Iterator[dict[str, Any]]:
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
