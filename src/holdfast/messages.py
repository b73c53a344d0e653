"""Messages: role and parts, the neutral form every reader understands.

Part types and their fields follow the OpenTelemetry GenAI message schema (`gen_ai.input.messages`): `text`, `reasoning`,
`tool_call`, `tool_call_response`, `blob`, `uri`, `file`, `compaction`; any other type is kept whole in `Other`.
A framework's own payload travels verbatim beside the projection in `native`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from .errors import Corrupt, InvalidValue

FORM = 1
"""Version of the stored form of a message body."""
LIGHT = 2
"""The form of a body whose large values are kept elsewhere: in their places are strings that begin with `LEFT_OUT`."""
LEFT_OUT = "\0holdfast:"
"""`LEFT_OUT` + KIND:KEY:SIZE stands for a value of that kind, `text` or `json`, and of so many bytes; `:` and how it begins may follow."""


class _Part(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    pass


class Text(_Part, frozen=True, gc=False, tag="text"):
    """What was said."""

    content: str


class Reasoning(_Part, frozen=True, gc=False, tag="reasoning"):
    """What the model thought, as far as the provider shows it."""

    content: str


class ToolCall(_Part, frozen=True, tag="tool_call"):
    """The model asks for a tool; `arguments` is any JSON value."""

    name: str
    id: str | None = None
    arguments: Any = None


class ToolResult(_Part, frozen=True, tag="tool_call_response"):
    """What the tool answered; `id` is the call's."""

    response: Any
    id: str | None = None


class Blob(_Part, frozen=True, gc=False, tag="blob"):
    """Inline media, base64."""

    modality: str
    content: str
    mime_type: str | None = None


class Uri(_Part, frozen=True, gc=False, tag="uri"):
    """Media by address."""

    modality: str
    uri: str
    mime_type: str | None = None


class File(_Part, frozen=True, gc=False, tag="file"):
    """Media by the provider's file id."""

    modality: str
    file_id: str
    mime_type: str | None = None


class Compaction(_Part, frozen=True, gc=False, tag="compaction"):
    """Where a provider or a summary stands for what came before."""

    id: str | None = None
    content: str | None = None


class Other(msgspec.Struct, frozen=True):
    """A part of a type this version doesn't know: kept whole, written back as it came."""

    type: str
    data: dict[str, Any]


_Known: TypeAlias = Text | Reasoning | ToolCall | ToolResult | Blob | Uri | File | Compaction
Part: TypeAlias = _Known | Other


class Native(msgspec.Struct, frozen=True, array_like=True):
    """A framework's own payload: the `format` tag says whose (`openai-agents/1`), `data` is its JSON to the byte."""

    format: str
    data: msgspec.Raw


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored form. Fields are only ever added, each with a default."""

    v: int
    role: str
    parts: tuple[_Known, ...] = ()
    name: str | None = None
    native: Native | None = None


class Message(msgspec.Struct, frozen=True, eq=False):
    """One message. `id` and `run_id` are set once it is stored; two messages are equal when role, parts and name are.

    `role` is any text that isn't empty, as in the OpenTelemetry schema, which names `system`, `user`, `assistant` and `tool`.
    `light`: large values were left out when it was read; `await session.whole([message])` brings them in.
    """

    role: str
    parts: tuple[Part, ...] = ()
    name: str | None = None
    native: Native | None = None
    id: str | None = None
    run_id: str | None = None
    light: bool = False

    @property
    def text(self) -> str:
        """The text parts, joined. Of a light message: what was left out is said in brackets."""
        texts = [part.content for part in self.parts if isinstance(part, Text)]
        return "".join([described(text) for text in texts] if self.light else texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.role, self.parts, self.name) == (other.role, other.parts, other.name)

    __hash__ = None  # type: ignore[assignment]  # parts may hold unhashable JSON


def user(text: str, *, name: str | None = None) -> Message:
    """What a person said."""
    return _plain("user", text, name)


def assistant(text: str, *, name: str | None = None) -> Message:
    """What an agent said."""
    return _plain("assistant", text, name)


def system(text: str) -> Message:
    """Instructions."""
    return _plain("system", text, None)


def tool(response: object, *, call_id: str | None = None, name: str | None = None) -> Message:
    """A tool's answer, as a message of role `tool`; `response` is any JSON value."""
    return Message("tool", (ToolResult(response, call_id),), name)


def _plain(role: str, text: str, name: str | None) -> Message:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(f"{role}(...) takes text, not {type(text).__name__}: pass str(value) or build a Message with parts")
    return Message(role, (Text(text),), name)


def described(text: str) -> str:
    """A text of a light message for people: `[16,384 bytes of text]` where it was left out."""
    if not text.startswith(LEFT_OUT):
        return text
    _, kind, _, size, *_ = text.split(":")
    return f"[{int(size):,} bytes of {kind}]"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Body)


def encode_message(message: Message) -> bytes:
    """The stored body of `message`; `InvalidValue` names what JSON can't hold."""
    if not isinstance(message, Message):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        fix = "unpack it with *" if isinstance(message, (list, tuple)) else "use user(...), assistant(...) or Message(role, parts)"
        raise InvalidValue(f"expected a Message, got {type(message).__name__}: {fix}")
    if message.light:
        raise InvalidValue("this message was read without its large values: store what `await session.whole([message])` gives")
    if not message.role:
        raise InvalidValue(f"a message has role {message.role!r}: give any text that isn't empty, such as 'user' or 'assistant'")
    try:
        if any(type(part) is Other for part in message.parts):
            body = _encoder.encode(_loose(message))
            msgspec.json.decode(body, type=_LooseBody)
        else:
            body = _encoder.encode(_Body(FORM, message.role, message.parts, message.name, message.native))  # type: ignore[arg-type]
            if not _is_plain(message) and _decoder.decode(body).parts != message.parts:
                raise InvalidValue(
                    f"a {message.role} message would come back as something else: "
                    "arguments and results of tools are plain JSON, so convert dates, decimals, tuples and NaN first"
                )
    except (TypeError, ValueError, UnicodeEncodeError) as error:
        raise InvalidValue(f"a {message.role} message holds something that can't be stored: {error}") from error
    return body


def _is_plain(message: Message) -> bool:
    """Whether this is text by all its types, as nearly every message is: nothing to check."""
    if type(message.role) is not str or message.name is not None or message.native is not None:
        return False
    return all(type(part) is Text and type(part.content) is str for part in message.parts)


def decode_message(body: bytes, id: str | None = None, run_id: str | None = None) -> Message:
    """The message in a stored body; unknown part types come back as `Other`, unreadable bytes raise `Corrupt`."""
    try:
        it = _decoder.decode(body)
    except msgspec.ValidationError:
        return _decode_loose(body, id, run_id)
    except msgspec.DecodeError as error:
        raise Corrupt(f"message {id or '?'} is not readable: {error}") from error
    return Message(it.role, it.parts, it.name, it.native, id, run_id, it.v == LIGHT)


def _loose(message: Message) -> dict[str, object]:
    parts = [part.data | {"type": part.type} if isinstance(part, Other) else part for part in message.parts]
    body: dict[str, object] = {"v": FORM, "role": message.role, "parts": parts, "name": message.name, "native": message.native}
    return {key: value for key, value in body.items() if value is not None}


class _LooseBody(msgspec.Struct):
    role: str
    parts: list[dict[str, Any]] = []
    name: str | None = None
    native: Native | None = None
    v: int = FORM


def _decode_loose(body: bytes, id: str | None, run_id: str | None) -> Message:
    try:
        it = msgspec.json.decode(body, type=_LooseBody)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"message {id or '?'} is not readable: {error}") from error
    return Message(it.role, tuple(part_from(part) for part in it.parts), it.name, it.native, id, run_id, it.v == LIGHT)


def part_from(data: Mapping[str, Any]) -> Part:
    """The part in a JSON object of the OpenTelemetry schema; what it doesn't know becomes `Other`."""
    try:
        return msgspec.convert(dict(data), _Known)
    except msgspec.ValidationError:
        return Other(str(data.get("type", "")), {key: value for key, value in data.items() if key != "type"})


def to_otel(message: Message) -> dict[str, Any]:
    """The message as the OpenTelemetry GenAI schema writes it: `{role, parts, name?}`."""
    plain = msgspec.to_builtins(_loose(message)["parts"])
    return {"role": message.role, "parts": plain} | ({"name": message.name} if message.name else {})
