"""The scripts, by their digest: a server that doesn't know one yet is sent its text."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from .connections import Packed
from .errors import refused
from .nodes import Nodes


class Script:
    """A Lua script: the files of these names beside this module, in this order."""

    def __init__(self, *names: str) -> None:
        folder = files(__package__ or "")
        self.text = "\n".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names).encode()
        self._digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Packed:
        return [b"EVALSHA", self._digest, b"%d" % len(keys), *keys, *arguments]

    async def run(
        self,
        nodes: Nodes,
        slot: int,
        keys: Sequence[bytes],
        arguments: Sequence[bytes],
        *,
        writing: bool,
        then: Sequence[Packed] = (),
    ) -> list[Any]:
        """The script's answer and those of the commands sent along, errors of theirs as values. A refused script is raised as our error."""
        call = self.call(keys, arguments)
        answers = await nodes.send(slot, [call, *then], writing=writing)
        if isinstance(answers[0], NoScriptError):
            answers = await nodes.send(slot, [[b"EVAL", self.text, *call[2:]], *then], writing=writing)
        if isinstance(answers[0], ResponseError):
            raise refused(nodes.where, answers[0])
        return answers


READ = Script("answer", "read")
COMMIT = Script("answer", "commit")
SWEEP = Script("sweep")
TIDY = Script("tidy")
PROBE = Script("probe")
