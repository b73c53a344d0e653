"""The `holdfast` terminal: sessions and databases from a shell, and conversations with agents."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["CLI", "main"]


class CLI:
    """A terminal for the agents of a module.

    agent = Agent("openai:gpt-5.2", instructions="Be brief.")

    if __name__ == "__main__":
        CLI.main()
    """

    @staticmethod
    def main() -> None:
        """Talk to the agent of the calling module, in a session that is made and kept; with several, `--agent NAME` says which."""
        from .app import alone
        from .chat import own

        names = sys._getframe(1).f_globals  # pyright: ignore[reportPrivateUsage]  # the way to the caller's names
        alone(own(names), Path(sys.argv[0]).name)


def main() -> None:
    """The `holdfast` executable."""
    from .app import main

    main()
