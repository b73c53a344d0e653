"""LangGraph's encrypting serializer, made to say the same of the same value.

It seals a value differently each time, so that nothing it makes could be recognised as stored already. Within one thread this one gives
back what it, or whoever wrote what it has read, made of a value before. Nothing is sealed alike in two threads.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from .recent import Recent

Seals: TypeAlias = Recent[tuple[str, bytes]]
_BYTES = 32 * 1024 * 1024


def new_seals() -> Seals:
    return Recent(_BYTES, lambda sealed: len(sealed[1]) + 100)


def steady(serde: SerializerProtocol, thread: str, seals: Seals) -> SerializerProtocol:
    """`serde` itself, unless it is LangGraph's encrypting one."""
    return _Sealed(serde, thread, seals) if isinstance(serde, EncryptedSerializer) else serde


class _Sealed:
    def __init__(self, serde: EncryptedSerializer, thread: str, seals: Seals) -> None:
        self._serde = serde
        self._thread = thread
        self._seals = seals

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        type, plain = self._serde.serde.dumps_typed(obj)
        known = self._key(type, plain)
        sealed = self._seals.get(known)
        if sealed is None:
            cipher, data = self._serde.cipher.encrypt(plain)
            sealed = f"{type}+{cipher}", data
            self._seals.put(known, sealed)
        return sealed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        type, _, cipher = data[0].partition("+")
        if not cipher:
            return self._serde.loads_typed(data)
        plain = self._serde.cipher.decrypt(cipher, data[1])
        self._seals.put(self._key(type, plain), data)
        return self._serde.serde.loads_typed((type, plain))

    def _key(self, type: str, plain: bytes) -> tuple[str, bytes]:
        return self._thread, blake2b(type.encode() + b"\0" + plain, digest_size=16).digest()
