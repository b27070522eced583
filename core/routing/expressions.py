"""Many regular expressions looked for in one text, of which most need not be tried.

An expression can only match a text that holds certain letters: "want to (?:die|be dead)" needs "want to " and one of
"die" and "be dead". A text is asked for those first, which takes a small part of the time of trying the expression (as
RE2's FilteredRE2 does; Cox, "Regular Expression Matching with a Trigram Index", 2012).
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

# How the standard library reads an expression; without a name of its own, but the same since Python 3.11.
_parser, _kinds = import_module("re._parser"), import_module("re._constants")
_REPEATED = (_kinds.MAX_REPEAT, _kinds.MIN_REPEAT, _kinds.POSSESSIVE_REPEAT)
_AHEAD_OR_BEHIND = (_kinds.AT, _kinds.ASSERT_NOT)  # without a letter of their own

Needles = frozenset[str]  # one of them is in every text that matches


class Expressions:
    """Alternatives, in the order in which they are tried, as `re.compile("|".join(lines))` has them. Their groups
    cannot be asked for."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Raises re.error for what cannot be read as an expression, ValueError for one that would be another among
        others: with flags for the whole, named groups, references to groups."""
        self._lines = tuple(_Line(line) for line in lines)
        self._first: dict[str, list[int]] = {}  # by a needle of those looked for first, the lines that it may be for
        for at, line in enumerate(self._lines):
            for one in line.first:
                self._first.setdefault(one, []).append(at)
        self._always = [at for at, line in enumerate(self._lines) if not line.first]

    def search(self, text: str) -> re.Match[str] | None:
        """The first match: the leftmost, of those that begin there that of the first expression."""
        best: re.Match[str] | None = None
        for line in self._possible(text):
            match = line.expression.search(text)
            if match is not None and (best is None or match.start() < best.start()):
                best = match
        return best

    def sub(self, replacement: str, text: str) -> str:
        """The text with every match replaced."""
        possible = tuple(line.source for line in self._possible(text))
        return _joined(possible).sub(replacement, text) if possible else text

    def fullmatch(self, text: str) -> bool:
        """Whether an expression matches the whole text."""
        return any(line.expression.fullmatch(text) for line in self._possible(text))

    def _possible(self, text: str) -> list["_Line"]:
        places = {at for one in [one for one in self._first if one in text] for at in self._first[one]}
        lines = [self._lines[at] for at in sorted([*places, *self._always])]
        return [line for line in lines if all(any(one in text for one in needles) for needles in line.others)]


class _Line:
    def __init__(self, source: str) -> None:
        self.source = source
        self.first, *self.others = needed(source) or (Needles(),)  # `first` is empty where a text needs none

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """Compiled when a text might match: for most no text ever does."""
        return re.compile(self.source)


@lru_cache(maxsize=256)
def _joined(lines: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(lines))


def needed(expression: str) -> tuple[Needles, ...]:
    """What a text must hold for an expression to match, one of each; what is rarest, probably, first.

    Raises as `Expressions`.
    """
    parsed = _parser.parse(expression)
    if parsed.state.flags & ~re.UNICODE or parsed.state.groupdict:
        raise ValueError(f"an expression with flags or names of its own: {expression}")
    found = {_shortest(needles) for needles in _of_sequence(parsed)}
    return tuple(sorted(found, key=_commonness))


def _of_sequence(parsed: Any) -> list[Needles]:
    found: list[Needles] = []
    run = ""
    for kind, value in parsed:
        if kind is _kinds.LITERAL:
            run += chr(value)
            continue
        if kind in _AHEAD_OR_BEHIND:
            continue
        if run:
            found.append(frozenset([run]))
            run = ""
        found += _of_part(kind, value)
    return [*found, frozenset([run])] if run else found


def _of_part(kind: Any, value: Any) -> list[Needles]:
    if kind in (_kinds.GROUPREF, _kinds.GROUPREF_EXISTS):
        raise ValueError("an expression that refers to a group, whose number is another among others")
    if kind is _kinds.SUBPATTERN:
        _, flags, _, inside = value
        return _of_sequence(inside) if not flags else []
    if kind is _kinds.ASSERT:
        return _of_sequence(value[1])
    if kind is _kinds.ATOMIC_GROUP:
        return _of_sequence(value)
    if kind in _REPEATED and value[0] > 0:
        return _of_sequence(value[2])
    if kind is _kinds.BRANCH:
        each = [_of_sequence(branch) for branch in value[1]]
        if all(each):
            return [frozenset().union(*(min(sets, key=_commonness) for sets in each))]
    return []


def _shortest(needles: Needles) -> Needles:
    """Without those that hold another."""
    return frozenset(one for one in needles if not any(other != one and other in one for other in needles))


def _commonness(needles: Needles) -> tuple[int, int, list[str]]:
    """Short ones are in many texts, so are any of many."""
    return -min(len(one.strip()) for one in needles), len(needles), sorted(needles)
