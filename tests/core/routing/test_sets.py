"""The evaluation sets of benchmarks/data: shape, counts, and that nothing of them is trained on or configured.

The last is what makes a figure from them worth something, so it is held by a test and not by good intentions. Texts
are compared as sets of words, which finds copies that differ in case, punctuation or order.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "benchmarks" / "data"
CONFIGS = ROOT / "configs"
KINDS = {"direct", "oblique", "long", "typo", "terse"}
CRISES = {"suicide", "self-harm", "abuse", "medical emergency"}
# Above this share of common words (Jaccard) two texts count as one.
NEAR = 0.6


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@cache
def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def near(ones: list[str], others: list[str]) -> list[tuple[str, str]]:
    """Pairs of one and other that are nearly the same; texts without words (an emoji) are compared as they are.

    Prefix filter (Chaudhuri, Ganti, Kaushik 2006): two sets of words, sorted by rarity, can share more than NEAR of
    their union only if the first (1 - NEAR) of each meet. So nearly all pairs are never looked at.
    """
    found = [(text, text) for text in set(ones) & set(others) if not words(text)]
    rarity = Counter(word for text in [*ones, *others] for word in words(text))

    def prefix(text: str) -> list[str]:
        ranked = sorted(words(text), key=lambda word: (rarity[word], word))
        return ranked[: len(ranked) - math.ceil(NEAR * len(ranked)) + 1]

    holders: dict[str, list[str]] = defaultdict(list)
    for other in dict.fromkeys(others):
        for word in prefix(other):
            holders[word].append(other)
    for one in ones:
        mine = words(one)
        for other in dict.fromkeys(other for word in prefix(one) for other in holders.get(word, [])):
            theirs = words(other)
            if len(mine & theirs) > NEAR * len(mine | theirs):
                found.append((one, other))
    return found


def texts(name: str) -> list[str]:
    return [turn["text"] for row in rows(name) for turn in row.get("turns", [row])]


def domains() -> set[str]:
    mapping = yaml.safe_load((CONFIGS / "universal_domains.yaml").read_text(encoding="utf-8"))
    return set(list(mapping)[:28])


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def configured() -> list[str]:
    """Every string of every file below configs/, training conversations included."""
    found: list[str] = []
    for path in sorted(CONFIGS.rglob("*")):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if path.suffix == ".yaml":
            found += strings(yaml.safe_load(text))
        elif path.suffix == ".json":
            found += strings(json.loads(text))
        elif path.suffix == ".jsonl":
            found += [one for line in text.splitlines() for one in strings(json.loads(line))]
    return found


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("routing.jsonl", 16),
        ("routing_develop.jsonl", 5),
        ("routing_develop_second.jsonl", 17),
        ("routing_develop_calibrate.jsonl", 19),
    ],
)
def test_messages_of_each_domain(name: str, each: int) -> None:
    known = domains()
    inside = [row for row in rows(name) if row["domain"] is not None]
    for row in inside:
        assert set(row) == {"text", "domain", "acceptable", "kind"}, row
        assert row["kind"] in KINDS, row
        assert {row["domain"], *row["acceptable"]} <= known, row
        assert row["domain"] not in row["acceptable"], row
        assert len(set(row["acceptable"])) == len(row["acceptable"]) <= 3, row
    counts = Counter(row["domain"] for row in inside)
    assert set(counts) == known
    assert min(counts.values()) >= each
    for domain in known:
        assert {row["kind"] for row in inside if row["domain"] == domain} == KINDS, domain
    # A neighbour counts as right in the accuracy: few messages may have one.
    assert sum(bool(row["acceptable"]) for row in inside) <= 0.15 * len(inside)


def test_messages_outside_of_all_domains() -> None:
    outside = rows("routing_outside.jsonl")
    assert all(set(row) == {"text", "kind"} for row in outside)
    assert len(outside) >= 150
    assert sum(row["kind"] == "near_miss" for row in outside) >= 30
    develop = [row for row in rows("routing_develop.jsonl") if row["domain"] is None]
    assert len(develop) >= 40
    assert all(row["acceptable"] == [] for row in develop)


def test_conversations_follow_and_change_their_topic() -> None:
    talks = [[turn["domain"] for turn in row["turns"]] for row in rows("routing_conversations.jsonl")]
    assert len(talks) >= 40
    assert all(3 <= len(talk) <= 6 for talk in talks)
    assert {domain for talk in talks for domain in talk} == domains()
    assert sum(len(set(talk)) > 1 for talk in talks) >= 20
    # A change comes in the middle, after at least one message that followed up.
    assert all(talk[0] == talk[1] for talk in talks)


def test_conversations_of_development() -> None:
    talks = [row["turns"] for row in rows("routing_conversations_develop.jsonl")]
    assert all(3 <= len(talk) <= 6 for talk in talks)
    turns = [turn for talk in talks for turn in talk]
    assert {turn["domain"] for turn in turns} == {*domains(), None}
    assert all(set(turn) == {"text", "domain", "acceptable"} and {*turn["acceptable"]} <= domains() for turn in turns)
    after = [(one["domain"], two["domain"]) for talk in talks for one, two in pairwise(talk)]
    assert len(after) >= 200
    assert sum(one != two for one, two in after) >= 30


@pytest.mark.parametrize(
    ("name", "real", "harmless"),
    [("crisis.jsonl", 120, 180), ("crisis_second.jsonl", 110, 150), ("crisis_develop.jsonl", 80, 110)],
)
def test_crises_and_what_only_sounds_like_them(name: str, real: int, harmless: int) -> None:
    cases = rows(name)
    for row in cases:
        assert set(row) == {"text", "crisis", "kind", "twin"}, row
        assert (row["kind"] in CRISES) if row["crisis"] else (row["kind"] is None), row
        assert not (row["crisis"] and row["twin"]), row
    assert sum(row["crisis"] for row in cases) >= real
    assert sum(not row["crisis"] for row in cases) >= harmless
    assert {row["kind"] for row in cases if row["crisis"]} == CRISES


def test_everyday_messages_of_development() -> None:
    stories = rows("everyday_develop.jsonl")
    assert all(set(row) == {"text"} for row in stories)
    assert len(stories) >= 390
    assert sum(len(row["text"].split()) >= 30 for row in stories) >= 120


def test_every_text_is_there_once() -> None:
    for path in sorted(DATA.glob("*.jsonl")):
        counts = Counter(" ".join(text.lower().split()) for text in texts(path.name))
        assert max(counts.values(), default=0) == 1, (path.name, counts.most_common(1))
        assert all(text == text.strip() and text for text in texts(path.name)), path.name


def test_development_and_test_are_apart() -> None:
    develop = [text for path in DATA.glob("*_develop*.jsonl") for text in texts(path.name)]
    tests = [text for path in DATA.glob("*.jsonl") if "_develop" not in path.name for text in texts(path.name)]
    assert near(tests, develop) == []


def test_what_confidence_is_fitted_to_is_apart_from_all_that_weights_and_examples_know() -> None:
    own = texts("routing_develop_calibrate.jsonl")
    developing = [text for name in ("", "_second") for text in texts(f"routing_develop{name}.jsonl")]
    assert near(own, configured() + developing) == []


def test_what_is_nearly_the_same_is_found() -> None:
    text = "my knees click every time I go down to the basement"
    assert near([text], ["Every time I go down to the BASEMENT, my knees click!", "my knees are fine"])[0][0] == text
    assert near([text, "🔥"], ["my elbows click whenever they like", "my knees are fine"]) == []
    assert near(["🔥"], ["🔥"]) == [("🔥", "🔥")]


def test_nothing_of_the_test_sets_is_trained_on_or_configured() -> None:
    kept = [
        "routing.jsonl",
        "routing_outside.jsonl",
        "routing_conversations.jsonl",
        "crisis.jsonl",
        "crisis_second.jsonl",
    ]
    known = configured()
    assert len(known) > 500  # What is compared with was found.
    assert near([text for name in kept for text in texts(name)], known) == []
