"""Caches: bounded, the least recently used goes, and a key is everything a value depends on."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.chat.caches import AnswerCache, Cache, EmotionCache
from core.chat.client import Done, Engine
from core.chat.holdings import Adapter, Base
from core.chat.protocol import SamplingOptions
from core.files import sha256_of
from core.routing.emotion import Emotion, read_emotion
from core.routing.vectors import Embedding
from core.routing.words import Word, normalise, split_words
from tests.core.chat.conftest import FIVE, GREEDY, SEEDED, answer, user, write_bundle
from tests.core.chat.tiny import write_model

QUESTION = user("What is the capital of France?")


def test_the_one_not_used_for_longest_goes() -> None:
    cache: Cache[str, int] = Cache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("b"), cache.get("a"), cache.get("c")) == (None, 1, 3)
    assert (cache.figures.hits, cache.figures.misses, cache.figures.held) == (3, 1, 2)
    assert cache.figures.rate == pytest.approx(0.75)
    cache.clear()
    assert cache.figures.held == 0
    assert Cache(1).figures.rate is None


def test_answers_are_bounded_by_their_length_too() -> None:
    cache: Cache[str, str] = Cache(100, 10, len)
    for number in range(5):
        cache.put(str(number), "four")
    assert [cache.get(str(number)) for number in range(5)] == [None, None, None, "four", "four"]
    cache.put("4", "longer than ten")
    assert cache.figures.held == 0  # nothing is kept that is too long by itself


def test_a_key_is_all_an_answer_depends_on(tmp_path: Path) -> None:
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    file = Base("base", tmp_path / "base.gguf", "sha", "identity")
    asked = (file, None, QUESTION, SEEDED, 512, 0)
    others = (
        replace(file, sha256="other"), Adapter("base", tmp_path / "base.gguf", "sha"),
        user("What is the capital of Spain?"), replace(SEEDED, seed=6), 1024, 256,
    )  # fmt: skip
    keys = {AnswerCache.key(*asked)}
    for at, other in enumerate(others):
        keys.add(AnswerCache.key(*asked[:at], other, *asked[at + 1 :]))  # type: ignore[arg-type]
    assert len(keys) == 7
    (tmp_path / "base.gguf").write_bytes(b"GGUF, changed")
    assert AnswerCache.key(*asked) not in keys
    greedy = [AnswerCache.key(file, None, QUESTION, replace(GREEDY, seed=seed), 512, 0) for seed in (0, 1)]
    assert greedy[0] == greedy[1]  # no draw is made
    assert not replace(SEEDED, seed=-1).repeatable
    assert SamplingOptions(temperature=0, seed=-1).repeatable


def test_an_answer_is_kept_and_a_changed_adapter_or_base_is_another(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    answers = AnswerCache()
    with Engine(folder, n_ctx=512, threads=1, answers=answers) as engine:
        first = answer(engine, QUESTION, "business", SEEDED)
        again = answer(engine, QUESTION, "business", SEEDED)
        assert (first.cached, again.cached, again.text, again.ids) == (False, True, first.text, first.ids)
        assert not answer(engine, QUESTION, "business", SEEDED, cached=False).cached
        assert not answer(engine, QUESTION, "creative", SEEDED).cached
        assert not answer(engine, QUESTION, "business", replace(SEEDED, seed=-1)).cached
        assert not answer(engine, QUESTION, "business", replace(SEEDED, seed=-1)).cached
        events = engine.ask(QUESTION, "education", SEEDED)
        next(events)
        engine.cancel()
        cancelled = list(events)[-1]
        assert isinstance(cancelled, Done)
        assert cancelled.stopped_by == "cancelled"
        assert not answer(engine, QUESTION, "education", SEEDED).cached
    os.utime(folder / "adapters" / "business.gguf", (1, 1))  # a file that was written again, though with the same
    with Engine(folder, n_ctx=512, threads=1, answers=answers) as engine:
        assert not answer(engine, QUESTION, "business", SEEDED).cached
        assert answer(engine, QUESTION, "creative", SEEDED).cached
    model = write_model(tmp_path / "other.gguf", seed=1)
    rebuilt = write_bundle(tmp_path / "rebuilt", ("tiny",), FIVE, model)
    with Engine(rebuilt, n_ctx=512, threads=1, answers=answers) as engine:
        assert sha256_of(rebuilt / "base-tiny.gguf") != sha256_of(folder / "base-tiny.gguf")
        other = answer(engine, QUESTION, "creative", SEEDED)
        assert not other.cached


def test_a_reading_is_remembered_by_text_and_encoder() -> None:
    cache, read = EmotionCache(), list[str]()

    def counted(text: str, words: list[Word], embedding: Embedding | None = None, /) -> Emotion:
        read.append(text)
        return read_emotion(text, words, embedding)

    remembering = cache.reading(counted)
    plain = normalise("I am so happy!")
    assert remembering(plain, split_words(plain)) == remembering(plain, split_words(plain))
    assert len(read) == 1
    other = Embedding(np.ones(384, np.float32) / 384**0.5, "f" * 64)
    assert remembering(plain, split_words(plain), other).note
    assert len(read) == 2
    assert cache.figures.hits == 1
