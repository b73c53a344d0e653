"""Search the past, by words and by meaning: `Recall` over any store, with an index of its own that can be made anew at any time."""

from .index import Document, Found, Index, Standing, Wanted
from .minilm import MiniLM
from .recall import Embed, Hit, Recall
from .sqlite import SQLiteIndex, open

__all__ = ["Document", "Embed", "Found", "Hit", "Index", "MiniLM", "Recall", "SQLiteIndex", "Standing", "Wanted", "open"]
