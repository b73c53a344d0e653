"""Embeddings made on this machine: the tokens the model was taught, and vectors that do not depend on their company."""

from __future__ import annotations

import asyncio
import math

import pytest

from holdfast import InvalidValue
from holdfast.recall import MiniLM
from holdfast.recall.wordpiece import tokens, vocabulary

TOKENS = {
    "": "",
    "Hello, World! don't": "hello , world ! don ' t",
    "Ünïcode façade": "unicode facade",
    "unaffable embeddings": "una ##ffa ##ble em ##bed ##ding ##s",
    "日本 kettle": "日 本 kettle",
    "tab\tnew\nline\u200b\x00 end": "tab new line end",
    "A-1007 [MASK]": "a - 100 ##7 [ mask ]",
    "🎉": "[UNK]",
    "x" * 101: "[UNK]",
}
"""As the tokenizer that the model was trained with has them."""


@pytest.mark.parametrize("text", TOKENS, ids=lambda text: repr(text[:12]))
def test_texts_become_the_tokens_the_model_knows(text: str) -> None:
    numbers = tokens(text, 256)
    names = {number: token for token, number in vocabulary().items()}
    assert [names[it] for it in numbers] == ["[CLS]", *TOKENS[text].split(), "[SEP]"]


def test_long_texts_are_cut() -> None:
    assert len(tokens("word " * 1000, 256)) == 256
    assert len(vocabulary()) == 30_522


async def test_a_vector_does_not_depend_on_its_company(minilm: MiniLM) -> None:
    texts = [f"number {n} " * (n % 7 + 1) for n in range(40)]
    together = await minilm(texts)
    alone = [(await minilm([text]))[0] for text in texts]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) and len(vector) == 384 for vector in together)
    assert all(math.dist(one, other) < 1e-4 for one, other in zip(together, alone, strict=True))
    assert await minilm([]) == []


async def test_the_event_loop_goes_on_meanwhile(minilm: MiniLM) -> None:
    working, ticks = asyncio.create_task(minilm(["some words " * 50] * 16)), 0
    while not working.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 10


def test_threads_are_a_number() -> None:
    with pytest.raises(InvalidValue, match="threads=0"):
        MiniLM(threads=0)
