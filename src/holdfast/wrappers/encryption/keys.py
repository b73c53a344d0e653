"""Keys and sealed bytes: how a value is sealed for one session, and what it takes to open it.

A sealed value is

    mark (2 bytes) | key id (4) | home (12) | nonce (12) | AES-256-GCM ciphertext | its tag (16)

The key is derived from the master key that `key id` tells of and from `home`, a hash of the tenant and session it was written in.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ...backend import Key
from ...errors import InvalidValue, MissingExtra

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ModuleNotFoundError as error:
    raise MissingExtra('encryption needs cryptography, which is not installed: pip install "holdfast[encryption]"') from error

_MARK = b"\xd7\x01"
"""No UTF-8 text and no JSON begins so."""
_ID, HOME, _NONCE, _TAG = 4, 12, 12, 16
_HEADER = len(_MARK) + _ID + HOME + _NONCE
OVERHEAD = _HEADER + _TAG
"""How many bytes longer a sealed value is."""
RESERVED = "~holdfast."
"""Names and metadata keys that begin so are ours."""


@lru_cache(4096)
def home_of(key: Key) -> bytes:
    """The home of what is written in this session."""
    return hashlib.sha256(joined(b"home", key.tenant, key.session_id)).digest()[:HOME]


def joined(*parts: str | bytes) -> bytes:
    """The parts as one value, no two lists of parts as the same."""
    encoded = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return b"".join([len(part).to_bytes(8, "big") + part for part in encoded])


class Keys:
    """The master keys, and what is derived from them. The first one seals, all of them open."""

    def __init__(self, masters: Sequence[bytes]) -> None:
        self._masters = {_derived(master, b"id", _ID): master for master in masters}
        self.ids = tuple(self._masters)
        self.of = lru_cache(4096)(self._of)

    def _of(self, key_id: bytes, home: bytes) -> tuple[AESGCM, bytes]:
        """The cipher of one session, and the key that its nonces are made with."""
        both = _derived(self._masters[key_id], b"session" + home, 64)
        return AESGCM(both[:32]), both[32:]

    def seal(self, key_id: bytes, home: bytes, commit_id: str, place: bytes, plain: bytes) -> bytes:
        """The nonce is made of all that is sealed, and of the commit: the same commit again is the same bytes, anything else is not."""
        cipher, secret = self.of(key_id, home)
        nonce = hmac.digest(secret, joined(b"nonce", commit_id, place, plain), "sha256")[:_NONCE]
        return _MARK + key_id + home + nonce + cipher.encrypt(nonce, plain, place)

    def name(self, key_id: bytes, home: bytes, name: str) -> str:
        """What stands for `name` where it must not be read but must be found again."""
        return text_of(hmac.digest(self.of(key_id, home)[1], joined(b"name", name), "sha256")[:_NONCE])

    def open(self, sealed: bytes, place: bytes, homes: frozenset[bytes]) -> bytes:
        """What was sealed; `Unreadable` says why it can't be had."""
        key_id, home, nonce = parts(sealed)
        if key_id not in self._masters:
            raise Unreadable(f"it was sealed with key {key_id.hex()}, and the keys given are {self}: give that one too, after the newest")
        if home not in homes:
            raise Unreadable(f"it was sealed with key {key_id.hex()} for another session, and has been moved here")
        try:
            return self.of(key_id, home)[0].decrypt(nonce, sealed[_HEADER:], place)
        except InvalidTag:
            raise Unreadable(f"its bytes or its place are not those that were sealed with key {key_id.hex()}") from None

    def __str__(self) -> str:
        return ", ".join(key_id.hex() for key_id in self.ids)


class Unreadable(Exception):
    """Why a sealed value can't be opened."""


def parts(sealed: bytes) -> tuple[bytes, bytes, bytes]:
    """The key id, the home and the nonce."""
    home, nonce = len(_MARK) + _ID, len(_MARK) + _ID + HOME
    return sealed[len(_MARK) : home], sealed[home:nonce], sealed[nonce:_HEADER]


def is_sealed(value: bytes) -> bool:
    return value.startswith(_MARK) and len(value) >= OVERHEAD


def _derived(master: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, None, b"holdfast " + info).derive(master)


def checked_keys(keys: Sequence[bytes]) -> list[bytes]:
    if isinstance(keys, (bytes, str)) or not keys or not all(isinstance(key, bytes) and len(key) >= 32 for key in keys):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue("keys: give a list of keys of 32 random bytes or more, such as secrets.token_bytes(32), the newest first")
    return list(keys)


def text_of(data: bytes) -> str:
    return RESERVED + urlsafe_b64encode(data).decode()


def sealed_text(text: Any) -> bytes:
    """The sealed bytes that `text` stands for; none where it stands for none."""
    if not isinstance(text, str) or not text.startswith(RESERVED):
        return b""
    try:
        return urlsafe_b64decode(text.removeprefix(RESERVED))
    except ValueError:
        return b""
