"""Messages: parts of the OpenTelemetry schema, what is unknown kept whole, a framework's own bytes untouched."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from holdfast import (
    Blob,
    Compaction,
    Corrupt,
    File,
    InvalidValue,
    Message,
    Native,
    Other,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Uri,
    assistant,
    system,
    tool,
    user,
)
from holdfast.messages import decode_message, encode_message, part_from, to_otel

PARTS: dict[str, tuple[Part, dict[str, Any]]] = {
    "text": (Text("naïve \x00 \U0001f600"), {"type": "text", "content": "naïve \x00 \U0001f600"}),
    "reasoning": (Reasoning("hm"), {"type": "reasoning", "content": "hm"}),
    "tool call": (
        ToolCall("look", "c1", {"q": [1, None]}),
        {"type": "tool_call", "name": "look", "id": "c1", "arguments": {"q": [1, None]}},
    ),
    "bare tool call": (ToolCall("look"), {"type": "tool_call", "name": "look"}),
    "tool result": (ToolResult({"r": [1]}, "c1"), {"type": "tool_call_response", "response": {"r": [1]}, "id": "c1"}),
    "empty tool result": (ToolResult(None), {"type": "tool_call_response", "response": None}),
    "blob": (Blob("image", "AP8=", "image/png"), {"type": "blob", "modality": "image", "content": "AP8=", "mime_type": "image/png"}),
    "uri": (Uri("video", "https://x/y"), {"type": "uri", "modality": "video", "uri": "https://x/y"}),
    "file": (File("audio", "f1"), {"type": "file", "modality": "audio", "file_id": "f1"}),
    "compaction": (Compaction("c", "short"), {"type": "compaction", "id": "c", "content": "short"}),
    "other": (
        Other("refusal", {"reason": "no", "deep": [{"type": "text"}]}),
        {"type": "refusal", "reason": "no", "deep": [{"type": "text"}]},
    ),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_goes_through_the_stored_form_and_the_schemas(kind: str) -> None:
    part, data = PARTS[kind]
    for message in (Message("assistant", (part,)), Message("assistant", (Text("a"), part, Other("x", {})), "helper")):
        stored = encode_message(message)
        assert decode_message(stored) == message
        assert encode_message(decode_message(stored)) == stored
    assert part_from(data) == part
    assert to_otel(Message("assistant", (part,))) == {"role": "assistant", "parts": [data]}
    assert json.loads(encode_message(Message("assistant", (part,)))) == {"v": 1, "role": "assistant", "parts": [data]}


def test_shorthands_make_what_they_say() -> None:
    assert user("hi", name="ada") == Message("user", (Text("hi"),), "ada")
    assert assistant("hello") == Message("assistant", (Text("hello"),))
    assert system("be kind") == Message("system", (Text("be kind"),))
    assert tool({"r": 1}, call_id="c1", name="look") == Message("tool", (ToolResult({"r": 1}, "c1"),), "look")
    assert to_otel(user("hi", name="ada")) == {"role": "user", "parts": [{"type": "text", "content": "hi"}], "name": "ada"}


def test_the_text_of_a_message_is_its_text_parts() -> None:
    assert Message("assistant", (Reasoning("hm"), Text("a"), ToolCall("look"), Text("b"))).text == "ab"
    assert Message("tool", (ToolResult("r"),)).text == ""


@pytest.mark.parametrize(
    "part",
    [
        {"type": "hologram", "depth": 3, "content": {"a": [1]}},
        {"type": "text", "content": {"a": "future form of text"}},
        {"type": "tool_call", "nome": "misspelt"},
        {"type": "x"},
    ],
)
def test_parts_of_a_later_version_are_kept_whole(part: dict[str, Any]) -> None:
    body = json.dumps({"v": 1, "role": "assistant", "parts": [{"type": "text", "content": "known"}, part], "name": "helper"}).encode()
    message = decode_message(body, "e1", "r1")
    assert (message.text, message.name, message.id, message.run_id) == ("known", "helper", "e1", "r1")
    assert message.parts[1] == Other(part["type"], {key: value for key, value in part.items() if key != "type"})
    assert json.loads(encode_message(message)) == json.loads(body)
    assert to_otel(message)["parts"][1] == part


def test_fields_of_a_later_version_do_no_harm() -> None:
    body = b'{"v":1,"role":"user","parts":[{"type":"text","content":"hi","language":"en"}],"mood":"good"}'
    assert decode_message(body) == user("hi")


@pytest.mark.parametrize("parts", [(Text("shown"),), (Text("shown"), Other("x", {"a": 1}))])
def test_a_frameworks_own_payload_is_kept_to_the_byte(parts: tuple[Part, ...]) -> None:
    data = b'{"b": 1.0,  "a":[ 1e3, "\\u00fc" ], "b": 2, "big": 123456789012345678901234567890}'
    stored = encode_message(Message("user", parts, native=Native("theirs/1", msgspec.Raw(data))))
    native = decode_message(stored).native
    assert native is not None
    assert (native.format, bytes(native.data)) == ("theirs/1", data)
    assert encode_message(decode_message(stored)) == stored


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("hi", "str.*user"),
        ({"role": "user"}, "dict"),
        (Message("user", (Text("\ud800"),)), "user message.*surrogates"),
        (Message("tool", (ToolResult(object()),)), "tool message.*object"),
        (Message("tool", (ToolResult({1j: 1}),)), "tool message"),
        (Message("assistant", (ToolCall("look", "c", {"f": len}),)), "assistant message"),
        (Message("user", ("hi",)), "user message.*str"),  # type: ignore[arg-type]
        ([user("hi")], "list: unpack it with \\*"),
        (Message("", (Text("hi"),)), "role ''.*isn't empty"),
        (Message(5, (Text("hi"),)), "5 message.*role"),  # type: ignore[arg-type]
        (Message("user", (Text(5),)), "user message"),  # type: ignore[arg-type]
        (Message("user", (Text("hi"),), 5), "user message"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(message: Any, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        encode_message(message)


@pytest.mark.parametrize("make", [user, assistant, system])
@pytest.mark.parametrize("text", [5, None, b"hi", ["hi"]])
def test_shorthands_take_text(make: Any, text: Any) -> None:
    with pytest.raises(InvalidValue, match=f"takes text, not {type(text).__name__}"):
        make(text)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"v":1}', b'{"role":5}', b'{"role":"user","parts":5}', b"\xff", b'{"role":"u","parts":[5]}']
)
def test_bytes_that_are_no_message_are_corrupt_and_say_whose(body: bytes) -> None:
    with pytest.raises(Corrupt, match="message e1"):
        decode_message(body, "e1")


def test_messages_are_equal_by_what_they_say() -> None:
    stored = decode_message(encode_message(user("hi")), "e1", "r1")
    assert stored == user("hi")
    assert user("hi") != user("ho")
    assert user("hi") != assistant("hi")
    assert user("hi") != user("hi", name="ada")
    assert user("hi") != "hi"
    assert Message("user", (Text("h"), Text("i"))) != user("hi")
    with pytest.raises(TypeError, match="unhashable"):
        hash(user("hi"))
