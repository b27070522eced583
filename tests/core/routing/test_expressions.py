"""Many expressions at once find what one joined expression finds."""

import json
import random
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from core.routing import crisis_wording, urgency
from core.routing.crisis_model import CASES
from core.routing.expressions import Expressions, needed
from tests.conftest import ROOT

_parser, _kinds = import_module("re._parser"), import_module("re._constants")
SETS = {
    **{f"crisis, {name}": lines for name, lines in crisis_wording._sections(crisis_wording._EXPRESSIONS).items()},
    **{f"languages, {name}": lines for name, lines in crisis_wording._sections(crisis_wording._LANGUAGES).items()},
    **{f"urgency {level}": lines for level, lines in urgency.LEVELS},
    "urgency denied": urgency.DENIED,
    "urgency present": urgency.PRESENT,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789.,!?'"


def _texts() -> list[str]:
    data = ROOT / "benchmarks" / "data"
    files = ("routing_develop.jsonl", "everyday_develop.jsonl", "crisis_develop.jsonl")
    said = [json.loads(line)["text"] for name in files for line in (data / name).read_text("utf-8").splitlines()]
    said += CASES.read_text("utf-8").splitlines()[::10]
    return [" ".join(text.lower().split()) for text in said]


TEXTS = _texts()


def _matching(parsed: Any, chance: random.Random) -> str:
    """A text that an expression might match: one of the ways in which its parts can be taken."""
    return "".join(_of_part(kind, value, chance) for kind, value in parsed)


def _of_part(kind: Any, value: Any, chance: random.Random) -> str:
    if kind is _kinds.LITERAL:
        return chr(value)
    if kind is _kinds.BRANCH:
        return _matching(chance.choice(value[1]), chance)
    if kind is _kinds.SUBPATTERN:
        return _matching(value[3], chance)
    if kind is _kinds.ATOMIC_GROUP:
        return _matching(value, chance)
    if kind is _kinds.ASSERT:
        return _matching(value[1], chance) if value[0] > 0 else ""
    if kind in (_kinds.MAX_REPEAT, _kinds.MIN_REPEAT, _kinds.POSSESSIVE_REPEAT):
        times = chance.randint(value[0], min(value[1], value[0] + 2))
        return "".join(_matching(value[2], chance) for _ in range(times))
    if kind in (_kinds.IN, _kinds.ANY, _kinds.NOT_LITERAL):
        one = re._compiler.compile(_parser.SubPattern(_parser.State(), [(kind, value)]))  # type: ignore[attr-defined]
        return chance.choice([letter for letter in LETTERS if one.fullmatch(letter)] or [" "])
    return ""  # without a letter of its own


def _made(lines: list[str], chance: random.Random) -> Iterator[str]:
    for line in lines:
        parsed = _parser.parse(line)
        for _ in range(20):
            around = chance.choice(["{}", "well, {}", "{} and so on.", "i said: {}! {}", "x{}y"])
            yield around.replace("{}", _matching(parsed, chance))


@pytest.mark.parametrize("name", SETS)
def test_they_find_and_replace_what_the_joined_expression_does(name: str) -> None:
    lines = list(SETS[name])
    joined, apart = re.compile("|".join(lines)), Expressions(lines)
    made = list(_made(lines, random.Random(7)))
    assert sum(joined.search(text) is not None for text in made) >= len(lines)  # else they test nothing
    for text in TEXTS + made:
        expected, found = joined.search(text), apart.search(text)
        assert (found and (found.span(), found.group())) == (expected and (expected.span(), expected.group())), text
        assert apart.sub(" ~ ", text) == joined.sub(" ~ ", text), text
        assert apart.fullmatch(text) == (joined.fullmatch(text) is not None), text


@pytest.mark.parametrize("name", SETS)
def test_each_expression_matches_in_a_text_made_from_it(name: str) -> None:
    """So that no line of them can be without effect for what is looked for first."""
    for line in SETS[name]:
        chance, alone = random.Random(3), Expressions([line])
        parsed = _parser.parse(line)
        assert any(alone.search(_matching(parsed, chance)) for _ in range(300)), line


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("want to (?:die|be dead)", [{"be dead", "die"}, {"want to "}]),
        (r"\bi (?:really )?hate\b it", [{"hate it"}, {"i "}]),
        ("(?:ab|cd)?x+", [{"x"}]),
        ("(?:ab){2,3}", [{"ab"}]),
        ("(?:abc|)d", [{"d"}]),
        ("(?:a.*|)", []),
        ("(?i:a)b", [{"b"}]),
        ("(?<=so )sad(?<!not sad)", [{"so "}, {"sad"}]),
        ("(?>one|two) more", [{" more"}, {"one", "two"}]),
        ("(?:one|two)++ more(?:never)*+", [{" more"}, {"one", "two"}]),
        ("gone(?!)", [{"gone"}]),
        ("", []),
        (r"\w+[ab]", []),
        ("hot(?= water)(?! bottle)", [{" water"}, {"hot"}]),
        ("(?:in|into|inside) here", [{" here"}, {"in"}]),
        ("(?:kill|harm) (?:me|my self)", [{"kill", "harm"}, {" m"}, {"e"}]),  # it is read as m(?:e|y self)
    ],
)
def test_what_a_text_needs(expression: str, holds: list[set[str]]) -> None:
    assert sorted(map(sorted, needed(expression))) == sorted(map(sorted, holds))


def test_the_leftmost_counts_and_of_those_the_first() -> None:
    for lines in (["b+c", "a?b"], ["a?b", "b+c"], ["ab", "abc"], ["abc", "ab"], ["x", "y|ab"]):
        joined, apart = re.compile("|".join(lines)), Expressions(lines)
        for text in ("abc", "xxabbbc", "bbcab", "", "none"):
            expected, found = joined.search(text), apart.search(text)
            assert (found and found.span()) == (expected and expected.span())


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(re.error):
        Expressions(["fine", "(unclosed"])
    for line in ("(?i)Shout", "(?P<name>a)"):
        with pytest.raises(ValueError, match="flags or names of its own"):
            Expressions(["fine", line])
    for line in (r"(a)\1", "(a)?(?(1)b|c)"):
        with pytest.raises(ValueError, match="refers to a group"):
            Expressions(["fine", line])
