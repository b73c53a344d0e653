"""Which lines of a lock pip needs for what it was asked to install: its report on stdin, `python locked.py requirements.lock`.

Nothing but the standard library: it runs before anything is installed. What is in the report and not in the lock ends it, but for what was
named by a file.
"""

import json
import re
import sys


def locked(report: dict, lock: str) -> str:
    """The lock's blocks of those packages, each with its hashes."""
    blocks = {name(block): block for block in re.split(r"\n(?=[a-z0-9])", lock) if not block.startswith("#")}
    wanted = [it["metadata"]["name"] for it in report["install"] if not it["is_direct"]]
    return "\n".join(blocks[name(it)].rstrip() for it in wanted) + "\n"


def name(block: str) -> str:
    """A package's name, as indexes compare them."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]*", block)[0]).lower()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(locked(json.load(sys.stdin), file.read()), end="")
