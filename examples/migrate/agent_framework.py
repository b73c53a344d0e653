"""Sessions of the Agent Framework into a Holdfast store: `AgentSession.to_dict()` in JSON files, and the files of `FileHistoryProvider`.

python -m examples.migrate.agent_framework sqlite:///holdfast.db FILE.json|FILE.jsonl ...

`.json` is one session as `to_dict()` gives it, or as `FileSessionStore` writes it; `.jsonl` is the history of the session the file is named
after. Times, owners and runs are not in them: the sessions are as old as their files, their turns have no runs, and each becomes the first
user's that names itself. MessagePack files and names made of a digest are not read: save such sessions as JSON first.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from holdfast import Blob, File, Message, Other, Part, Reasoning, Store, Text, ToolCall, ToolResult, Uri

from .moving import Conversation, Record, Turn, arguments, move

ENCODED, DIGEST = "~session-", "~session-sha256-"
MODALITIES = {"image": "image", "audio": "audio", "video": "video"}


def read(paths: Iterable[str]) -> Iterator[Conversation]:
    """The sessions in these files."""
    for path in map(Path, paths):
        time = path.stat().st_mtime
        if path.suffix == ".jsonl":
            messages = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
            yield Conversation(id=named(path.stem), turns=[_turn(messages, time)], created=time)
        else:
            yield conversation(json.loads(path.read_text("utf-8")), time)


def conversation(session: Record, time: float) -> Conversation:
    """One `AgentSession.to_dict()`. In its state every provider's `messages` are history, and all else stays state."""
    state: Record = dict(session.get("state") or {})
    said = [message for value in state.values() for message in _history(value)]
    rest = {key: value for key, value in state.items() if not _history(value)}
    return Conversation(
        id=session["session_id"],
        turns=[_turn(said, time)],
        state=rest,
        service_session_id=session.get("service_session_id"),
        created=time,
    )


def named(stem: str) -> str:
    """The session id in a file's name: as it is, or in base32 where it is not fit for one."""
    if stem.startswith(DIGEST):
        raise ValueError(f"{stem}: this name is a digest, which does not tell the session's id: save the session as JSON")
    if not stem.startswith(ENCODED):
        return stem
    text = stem.removeprefix(ENCODED).upper()
    return base64.b32decode(text + "=" * (-len(text) % 8)).decode()


class _Kept(msgspec.Struct):
    messages: list[Record]


def _history(value: Any) -> list[Record]:
    """The messages in one provider's part of the state; none where it is something else."""
    try:
        found = msgspec.convert(value, _Kept).messages
    except msgspec.ValidationError:
        return []
    return found if all(it.get("type") == "message" for it in found) else []


def _turn(messages: list[Record], time: float) -> Turn:
    return Turn(messages=[it for it in map(_message, messages) if it.parts and it.role != "system"], time=time)


def _message(it: Record) -> Message:
    parts = tuple(part for content in it["contents"] if (part := _part(content)) is not None)
    return Message(it["role"], parts, it.get("author_name") if it["role"] == "user" else None)


def _part(it: Record) -> Part | None:
    match it["type"]:
        case "text":
            return Text(it.get("text") or "")
        case "text_reasoning":
            return Reasoning(it.get("text") or "")
        case "function_call":
            return ToolCall(it["name"], it.get("call_id"), arguments(it.get("arguments")))
        case "function_result":
            return ToolResult(it.get("result"), it.get("call_id"))
        case "data" | "uri":
            return _media(it)
        case "hosted_file":
            return File("document", it["file_id"])
        case "usage":
            return None
        case kind:
            return Other(kind, {key: value for key, value in it.items() if key not in ("type", "additional_properties")})


def _media(it: Record) -> Part:
    """What a URI holds or points to."""
    kind = str(it.get("media_type") or "")
    modality = MODALITIES.get(kind.partition("/")[0], "document")
    if not it["uri"].startswith("data:"):
        return Uri(modality, it["uri"], kind or None)
    head, _, content = it["uri"].removeprefix("data:").partition(",")
    return Blob(modality, content, kind or head.partition(";")[0] or None)


async def main(url: str, *paths: str) -> None:
    async with Store.open(url, as_admin=True) as store:
        print(await move(read(paths), store))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
