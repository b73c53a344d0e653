"""The `holdfast` terminal: sessions and databases from a shell."""

from .app import main

__all__ = ["main"]
