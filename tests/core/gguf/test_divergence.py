"""The bounded divergence: a lower bound and an estimate of what the whole vocabulary says, on numbers and on models."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import InvalidInput, TaraError
from core.files import sha256_of
from core.gguf.divergence import (
    Comparing,
    Comparison,
    ReferenceWriter,
    divergences,
    estimate,
    keep,
    keep_at,
    read_reference,
    whole_divergences,
)
from core.gguf.header import read_header
from core.gguf.inspect import inspect_gguf
from core.gguf.quantizer import quantize
from core.gguf.runtime import EngineError, Runtime
from core.gguf.scoring import Text, kept_beside, kept_of_reference, windows
from core.tasks.context import TaskError
from core.training.calibration import first_within
from tests.core.gguf.conftest import Task
from tests.models import build_tiny

DATA = Path("configs/starter_data/healthcare.jsonl").absolute()
PROSE = Path("docs/architecture.md")
POSITIONS, VOCABULARY = 600, 3000


def random_pair(noise: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(3)
    p = random.normal(0, 3, (POSITIONS, VOCABULARY)).astype(np.float32)
    q = (p + random.normal(0, noise, p.shape)).astype(np.float32)
    return p, q, random.integers(0, VOCABULARY, POSITIONS)


@pytest.mark.parametrize("noise", [0.05, 0.5, 4.0])
def test_the_bound_is_never_above_and_the_estimate_is_right_within_its_error(noise: float) -> None:
    p, q, targets = random_pair(noise)
    kept = keep(p, targets, np.random.default_rng(0))
    bound, estimated = divergences(kept, keep_at(q, targets, kept))
    exact = whole_divergences(p, q)
    assert (exact - bound).min() > -1e-5
    assert (estimated - bound).min() >= 0
    difference = estimated - exact
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(POSITIONS)
    assert difference.std() > 0
    assert abs(difference.mean()) < 0.05 * exact.mean()
    assert bound.mean() < 0.98 * exact.mean()  # what the estimate is needed for


def test_a_model_is_at_no_distance_from_itself_and_a_small_vocabulary_is_kept_whole() -> None:
    p, q, targets = random_pair(0.5)
    kept = keep(p, targets, np.random.default_rng(0))
    assert not np.any(divergences(kept, keep_at(p, targets, kept)))
    small, other = p[:, :200], q[:, :200]
    kept = keep(small, targets % 200, np.random.default_rng(0))
    assert np.isneginf(kept.rest).all()
    for found in divergences(kept, keep_at(other, targets % 200, kept)):
        np.testing.assert_allclose(found, whole_divergences(small, other), atol=1e-5)


def test_logits_far_apart_keep_their_tail_and_broken_ones_are_refused() -> None:
    p, q, targets = random_pair(0.5)
    kept = keep(p * 1000, targets, np.random.default_rng(0))  # beyond what exp can hold
    bound, estimated = divergences(kept, keep_at(q * 1000, targets, kept))
    assert np.isfinite(bound).all()
    assert np.isfinite(estimated).all()
    q[5, 7] = np.nan
    with pytest.raises(InvalidInput, match="no numbers"):
        keep_at(q, targets, kept)


def test_errors_are_taken_over_texts_where_there_are_enough() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 20), 50)  # within a text all positions are alike
    blocks = np.repeat(np.arange(20), 50)
    over_texts = estimate(values, list(blocks))
    assert over_texts.over == "texts"
    assert over_texts.se == pytest.approx(values[::50].std(ddof=1) / math.sqrt(20))
    few = estimate(values, [0] * 1000)
    assert few.over == "positions"
    assert few.se is not None
    assert few.se < over_texts.se / 5
    assert estimate(values[:1], [0]).se is None


def test_the_file_of_the_reference_is_bounded_and_reads_back(tmp_path: Path) -> None:
    p, _, targets = random_pair(0.5)
    kept = keep(p, targets, np.random.default_rng(0))
    path = tmp_path / ".tmp-1-report.json"
    with ReferenceWriter(path) as file:
        file.add(kept.rows(0, 100))
        file.add(kept.rows(100, POSITIONS))
    assert path.stat().st_size < 2400 * POSITIONS < p.nbytes / 4
    one, two = read_reference(path)
    assert (len(one), len(two)) == (100, POSITIONS - 100)
    assert np.array_equal(two.logs, kept.logs[100:])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TaraError, match="cannot be read"):
        list(read_reference(path))
    with pytest.raises(InvalidInput, match="no position"):
        Comparing().result()


def test_windows_score_their_second_half() -> None:
    cut = windows(range(100, 1200), 512, beginning=1)
    assert [(text.tokens[:2], text.positions) for text in cut] == [((1, 101), 255), ((1, 613), 255)]
    assert cut[0].targets.index(True) == 257  # as llama-perplexity: the first prediction is made at position 256

    def within(most: int) -> list[Text]:
        return first_within(cut, most, lambda text: text.positions)

    assert len(within(300)) == len(within(1)) == 1
    assert len(within(510)) == 2


def both(reference: Path, other: Path, text: Text) -> tuple[Comparison, npt.NDArray[np.float64]]:
    """The bounded figures of two files, and the exact divergences over the whole vocabulary."""
    logits: list[npt.NDArray[np.float32]] = []
    wanted: Sequence[bool] = [*text.targets[1:], False]
    with Runtime(reference, n_ctx=512, threads=2, outputs=64) as runtime:
        kept = kept_of_reference(runtime, text, np.random.default_rng(0))
        logits.append(np.concatenate([part.copy() for _, part in runtime.scored(text.tokens, wanted)]))
    with Runtime(other, n_ctx=512, threads=2, outputs=64) as runtime:
        comparing = Comparing()
        comparing.add(kept, kept_beside(runtime, text, kept))
        logits.append(np.concatenate([part.copy() for _, part in runtime.scored(text.tokens, wanted)]))
    return comparing.result(), whole_divergences(*logits)


def agrees(found: Comparison, exact: npt.NDArray[np.float64]) -> None:
    assert found.kl.se is not None
    assert abs(found.kl.mean - exact.mean()) < found.kl.se
    assert found.kl_bound.mean <= exact.mean() + 1e-6
    assert found.positions == len(exact)


def prose(gguf: Path, length: int) -> Text:
    with Runtime(gguf, n_ctx=64) as runtime:
        return windows(runtime.tokenize(PROSE.read_text("utf-8"), special=False), length)[0]


def test_on_the_embedded_model_it_agrees_with_the_whole_vocabulary(f16: Path, tmp_path: Path) -> None:
    quantize(f16, tmp_path / "q.gguf", "Q4_K_M", threads=2)
    found, exact = both(f16, tmp_path / "q.gguf", prose(f16, 320))
    agrees(found, exact)
    assert 0.01 < found.kl.mean < 0.3
    assert 0.6 < found.same_top.mean < 1
    assert found.perplexity == pytest.approx(found.reference_perplexity, rel=0.3)
    assert found.loss_difference.se is not None
    assert found.loss.se is not None
    assert found.loss_difference.se < found.loss.se / 4  # what pairing is for


def test_scored_logits_are_those_that_generation_sees(f16: Path) -> None:
    text = prose(f16, 80)
    with Runtime(f16, n_ctx=128, threads=2, outputs=8) as many:
        parts = [(where, part.copy()) for where, part in many.scored(text.tokens, [*text.targets[1:], False])]
        assert max(len(part) for _, part in parts) == 8  # no more are ever held
        assert [where.start for where, _ in parts] == list(range(0, text.positions, 8))
        scored = np.concatenate([part for _, part in parts])
        written = many.generate(list(text.tokens), max_tokens=8).finish().tokens
        with pytest.raises(EngineError, match="the context holds 256"):
            next(many.scored([1] * (many.context_length + 1), [False] * (many.context_length + 1)))
        assert not list(many.scored([1] * many.context_length, [False] * many.context_length))
    with Runtime(f16, n_ctx=128, threads=2) as one:
        at = text.targets.index(True)
        np.testing.assert_allclose(one.logits(text.tokens[:at]), scored[0], atol=0.1)
        assert one.generate(list(text.tokens), max_tokens=8).finish().tokens == written


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random models of the same shape: the first one's folder, and F16 files of both."""
    from tests.core.gguf.conftest import run_task

    folder = tmp_path_factory.mktemp("tiny")
    model = build_tiny("llama", folder / "one")
    one, two = folder / "one-F16.gguf", folder / "two-F16.gguf"
    run_task(folder / "runs" / "one", "convert", one, {"name": "one"}, {"model": model})
    header, data = read_header(one), bytearray(one.read_bytes())
    random = np.random.default_rng(9)
    for tensor in header.tensors:
        if tensor.type == "F16":
            start = header.data_start + tensor.offset
            weights = np.frombuffer(data, np.float16, tensor.elements, start)
            weights[:] = random.permutation(weights)  # the same values, each elsewhere
    two.write_bytes(data)
    return {"one": one, "two": two, "one-model": model}


def asked(inputs: dict[str, object], **params: object) -> tuple[dict[str, object], dict[str, object]]:
    facts = {"name": "it", "seed": 42, "held_out_fraction": 0.2, "sequence_length": 512, "max_tokens": 40}
    domains = {"healthcare": {"system_prompt": "You are a careful health guide."}}
    return {**facts, "domains": domains, **params}, inputs


def test_on_random_models_it_agrees_and_a_broken_file_is_far_away(
    tiny: dict[str, Path], tmp_path: Path, task: Task
) -> None:
    found, exact = both(tiny["one"], tiny["two"], prose(tiny["one"], 256))
    agrees(found, exact)
    inputs = {"reference": tiny["one"], "model": tiny["one-model"], "data": {"healthcare": str(DATA)}}
    itself = task("measure", tmp_path / "a.json", *asked({**inputs, "gguf": tiny["one"]}))
    assert itself.measurements["kl_mean", ""] == itself.measurements["kl_bound", ""] == 0
    assert itself.measurements["same_top", ""] == 1
    assert itself.measurements["perplexity", ""] == itself.measurements["reference_perplexity", ""]
    broken = task("measure", tmp_path / "b.json", *asked({**inputs, "gguf": tiny["two"]}))
    quantize(tiny["one"], tmp_path / "q.gguf", "Q8_0", threads=2)
    good = task("measure", tmp_path / "c.json", *asked({**inputs, "gguf": tmp_path / "q.gguf"}))
    assert broken.measurements["same_top", ""] < 0.2
    assert broken.measurements["kl_mean", ""] > 1000 * good.measurements["kl_mean", ""] > 0
    assert broken.measurements["kl_mean", ""] > broken.measurements["kl_bound", ""] > 0


def test_what_cannot_be_measured_is_said_and_leaves_nothing(tiny: dict[str, Path], tmp_path: Path, task: Task) -> None:
    def fails(words: str, inputs: dict[str, object]) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises((TaskError, TaraError), match=words):
            task("measure", tmp_path / "out" / "a.json", *asked(inputs))
        assert not list((tmp_path / "out").iterdir())

    files = {"gguf": tiny["one"], "reference": tiny["one"]}
    (tmp_path / "short.txt").write_text("Too short.")
    fails("nothing to measure with", dict(files))
    fails("no model folder", {**files, "data": {"healthcare": str(DATA)}})
    fails("shorter than one window", {**files, "text": tmp_path / "short.txt"})
    fails("not a usable GGUF", {**files, "gguf": tmp_path / "short.txt", "text": PROSE.absolute()})


def test_the_report_says_what_was_measured_and_how(tiny: dict[str, Path], tmp_path: Path, task: Task) -> None:
    quantize(tiny["one"], tmp_path / "q.gguf", "Q2_K", threads=2)
    inputs = {
        "gguf": tmp_path / "q.gguf", "reference": tiny["one"], "model": tiny["one-model"],
        "data": {"healthcare": str(DATA)}, "text": PROSE.absolute(),
    }  # fmt: skip
    made = task("measure", tmp_path / "report.json", *asked(inputs, sequence_length=128, build_s=2.5))
    report, found = json.loads((tmp_path / "report.json").read_text()), made.measurements
    assert {"report.json", "q.gguf", "runs"} == {path.name for path in tmp_path.iterdir()}  # what was kept is gone
    info = inspect_gguf(tmp_path / "q.gguf")
    assert (found["bytes", ""], found["build_s", ""]) == (info.bytes, 2.5)
    assert found["fallback_tensors", ""] == info.fallback_tensors > 0
    assert found["types", ""] == ", ".join(f"{count} {kind}" for kind, count in info.types.items())
    for name in ("prompt_tokens_per_s", "generation_tokens_per_s", "load_s"):
        assert found[name, ""] > 0
    assert found["peak_rss_bytes", ""] > found["bytes", ""]  # its pages were all read
    assert found["kl_mean", ""] > found["kl_bound", ""] > 0
    assert found["held_out_loss", "healthcare"] == pytest.approx(math.log(found["perplexity", "healthcare"]))
    assert ("held_out_loss", "text") not in found  # plain text has no answers
    assert report["domains"]["text"]["positions"] == 63  # one window's second half is more than 40 tokens
    assert report["whole"]["positions"] == sum(one["positions"] for one in report["domains"].values())
    assert made.progress[-1]["step"] == made.progress[-1]["total"] == 2 * report["whole"]["texts"]
    assert made.artifact["meta"]["gguf_sha256"] == report["gguf"]["sha256"] == sha256_of(info.path)
