"""What a new API key is, and what is kept of it."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "hf_"


def new_key() -> str:
    """A new key: 32 random bytes in base64url, after a prefix by which leaked ones can be searched for."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What the configuration holds of a key. A fast hash will do: there is nothing to guess in 256 random bits."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
