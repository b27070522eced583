"""Misspelled messages are put right, and nothing else is touched."""

from pathlib import Path

import pytest

from core.encoder.place import package_folder
from core.routing import typos
from core.routing.typos import Speller, edits, skeleton

WORDS = ("gouache", "watercolour", "osmosis", "outliers")


@pytest.fixture(scope="module")
def speller() -> Speller:
    return Speller(WORDS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("what papper do i need for gouash", "what paper do i need for gouache"),
        ("how to remoov outlyers without cheeting", "how to remove outliers without cheating"),
        ("my profesor sais my reserch is to narow", "my professor says my research is to narrow"),
        (
            "wat do i say wen they ask for my salery expectasion",
            "what do i say when they ask for my salary expectation",
        ),
        ("do peple in turky take of there shoes?", "do people in turkey take of there shoes?"),
    ],
)
def test_misspelled_words_are_put_right(speller: Speller, written: str, meant: str) -> None:
    assert speller.correct(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "How do I keep guppies in a tank?",  # a rare word is no mistake
        "Sveltlana and Jürgen went to Bratislava",  # names
        "moin moin, was geht denn so bei dir heute abend",  # another language is not bad English
        "asdf qwer yxcv",
        "",
        "FUBR ZZYZX BLRGH",
        "x" * 5000,
        "wat",
    ],
)
def test_what_is_no_mistake_stays(speller: Speller, text: str) -> None:
    assert speller.correct(text) == text


def test_a_correction_is_stable(speller: Speller) -> None:
    once = speller.correct("what papper do i need for gouash")
    assert speller.correct(once) == once


@pytest.mark.parametrize(("one", "other"), [("softwear", "software"), ("fone", "phone"), ("nite", "night")])
def test_words_that_sound_alike_share_a_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


def test_edits() -> None:
    assert edits("form", "from") == 1
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == 3


def test_the_list_of_words_is_the_encoders_vocabulary() -> None:
    """So NOTICE says where it comes from and under which licence."""
    tokens = (package_folder() / "vocab.txt").read_text("utf-8").splitlines()
    words = [token for token in tokens if len(token) > 1 and token.isascii() and token.isalpha()]
    assert Path(typos.__file__).with_name("words.txt").read_text("ascii").split() == words
