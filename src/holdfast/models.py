"""Models by name: what an `Agent` is told of the model it speaks to. Nothing is imported or connected until an agent uses it."""

from __future__ import annotations

from typing import Any

import msgspec


class _OpenAI(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is the provider's name of the model. `base_url` is any service that speaks the same protocol, `api_key` its key.

    Without them the client reads `OPENAI_BASE_URL` and `OPENAI_API_KEY`. `settings` go with every request (`{"temperature": 0.2}`).
    """

    id: str
    base_url: str | None = None
    api_key: str | None = None
    settings: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, base_url={self.base_url!r})"


class OpenAIResponses(_OpenAI, frozen=True, kw_only=True):
    """A model behind OpenAI's Responses protocol."""


class OpenAIChat(_OpenAI, frozen=True, kw_only=True):
    """A model behind OpenAI's Chat Completions protocol, which most services and local servers speak."""
