"""Rebuilding the emotion heads: what is planted is learned, by the same code, in the same file."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import InvalidInput
from core.routing.emotion import EMOTIONS, read_emotion
from core.routing.emotion_data import FOLDS, Row, held_out, read_rows
from core.routing.emotion_figures import area_under_curve, best_threshold, calibration_error, f1_scores, micro_f1
from core.routing.heads import load_heads
from core.routing.logistic import Sparse, calibrate, fit, minimise, sigmoid
from core.routing.train_emotion import Inputs, main, make_heads
from core.routing.vectors import Embedding
from core.routing.words import split_words

ENCODER = "e" * 64


def planted(count: int) -> tuple[list[Row], np.ndarray]:
    """Rows whose vector and one word say the emotion; every ninth is neutral; some are comments."""
    rng = np.random.default_rng(3)
    rows, vectors = [], []
    for number in range(count):
        at = number % 9
        word = "stone" if at == 8 else f"word{EMOTIONS[at]}"
        emotions = frozenset() if at == 8 else frozenset((EMOTIONS[at],))
        rows.append(Row(f"It is {word} number {number}", emotions, at == 8, "go" if number % 5 == 0 else "xed"))
        vector = rng.normal(0, 0.4, 12)
        vector[at] += 1
        vectors.append(vector / np.linalg.norm(vector))
    return rows, np.array(vectors, np.float32)


def test_planted_feelings_are_learned_and_read_from_the_file(tmp_path: Path) -> None:
    rows, vectors = planted(1350)
    made = make_heads(Inputs(rows, vectors), ENCODER)
    assert made["measured"]["macro_f1"] > 0.9
    assert made["measured"]["neutral_called_neutral"] > 0.9
    given = [row.source for row in rows if row.fold is not None]
    assert made["trained_on"] == {"xed": given.count("xed"), "go": given.count("go")}
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(made), "utf-8")
    heads = load_heads(path)
    assert heads.suits(ENCODER)
    hits = 0
    tried = [at for at, row in enumerate(rows) if row.fold is None and row.source == "xed" and not row.neutral][:100]
    for at in tried:
        text = rows[at].text
        reading = read_emotion(text, split_words(text), Embedding(vectors[at], ENCODER), heads)
        hits += reading.dominant in rows[at].emotions
    assert hits >= 95
    assert make_heads(Inputs(rows, vectors), ENCODER) == made  # nothing is drawn


def test_the_split_keeps_equal_texts_together_and_holds_a_fifth_out() -> None:
    rows = [Row(f"text {number}", frozenset(("joy",)), False, "xed") for number in range(4000)]
    assert 0.18 < len(held_out(rows)) / len(rows) < 0.22
    assert {row.fold for row in rows} == {None, *range(FOLDS)}
    again = Row("text 7", frozenset(), True, "go")
    assert again.fold == rows[7].fold
    assert all(Row(row.text, frozenset(), True, "own").fold is not None for row in rows[:50])


def test_data_is_read_with_its_labels(tmp_path: Path) -> None:
    folder = tmp_path / "emotion"
    folder.mkdir()
    (folder / "xed_en_train.tsv").write_text("You !\t1, 5\nTab\there\t8\n", "utf-8")
    (folder / "xed_en_neutral_train.txt").write_text("9\tTwo o'clock.\n\t\t\t\n", "utf-8")
    (folder / "goemotions_labels.txt").write_text("neutral\ncuriosity\nremorse\nembarrassment\n", "utf-8")
    (folder / "goemotions_train.tsv").write_text("# a\t1\tx\nb\t2,3\ty\nc\t3\tz\n", "utf-8")
    found = [
        (row.text, set(row.emotions), row.neutral, row.source) for row in read_rows(tmp_path) if row.source != "own"
    ]
    assert found == [
        ("You !", {"anger", "joy"}, False, "xed"),
        ("Tab\there", {"trust"}, False, "xed"),
        ("Two o'clock.", set(), True, "xed"),
        ("# a", set(), True, "go"),
        ("b", {"sadness"}, False, "go"),
        ("c", set(), False, "go"),
    ]
    (folder / "xed_en_train.tsv").write_text("fine\t1\nwrong\t12\n", "utf-8")
    with pytest.raises(InvalidInput, match="line 2"):
        read_rows(tmp_path)
    assert main(["--data", str(tmp_path / "nowhere")]) == 3


def test_a_fit_finds_the_least_loss() -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(0, 1, (400, 3)).astype(np.float32)
    columns = [np.array([number % 4]) for number in range(400)]
    sparse = Sparse(columns, [np.ones(1, np.float32)] * 400, 4)
    logits = dense[:, :1] * 2 - 1 + (np.arange(400) % 4 == 2)[:, None] * 3
    labels = (rng.random((400, 1)) < sigmoid(logits.astype(np.float32))).astype(np.float32)
    weights = np.ones((400, 1), np.float32)
    w, v, bias = fit(dense, sparse, labels, weights, l2_dense=0.1, l2_sparse=0.1, rounds=100)
    assert w[0, 0] == pytest.approx(2, abs=0.6)
    assert abs(w[1:]).max() < 0.5
    assert v[2, 0] - v[[0, 1, 3], 0].mean() == pytest.approx(3, abs=0.9)
    off = sigmoid(dense @ w + sparse.times(v) + bias) - labels  # the slope is nought where the loss is least
    assert abs(dense.T @ off + 0.1 * w).max() < 0.5
    assert abs(sparse.transposed_times(off) + 0.1 * v).max() < 0.5
    found = minimise(lambda x: (float(((x - 3) ** 2).sum()), 2 * (x - 3)), np.zeros(2), 50)
    assert found == pytest.approx([3, 3], abs=1e-3)


def test_figures() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)
    chosen = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    assert f1_scores(chosen, labels).tolist() == pytest.approx([0.5, 0])
    assert micro_f1(chosen, labels) == pytest.approx(1 / 3)
    assert area_under_curve(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(0.875)
    rng = np.random.default_rng(0)
    chances = rng.random(20000).astype(np.float32)
    truth = (rng.random(20000) < chances).astype(np.float32)
    assert calibration_error(chances, truth) < 0.02
    assert calibration_error(chances**3, truth) > 0.15
    assert best_threshold(chances, truth) == pytest.approx(0.38, abs=0.06)  # of 2 p hits / (chosen + true), p uniform
    logits = np.log(chances / (1 - chances)).astype(np.float32)
    assert calibrate(logits / 2 + 1, truth) == pytest.approx((2, -2), abs=0.15)
