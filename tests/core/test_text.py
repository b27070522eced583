"""Text from elsewhere cannot steer a terminal once it was cleaned."""

import random
import unicodedata

import pytest

from core.text import StreamCleaner, clean

HARMFUL_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> bool:
    return not any(
        (unicodedata.category(letter) in HARMFUL_CATEGORIES and letter not in "\n\t") or letter in BIDI
        for letter in text
    )


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("plain text\n\twith tabs", "plain text\n\twith tabs"),
        ("été 中文 😀 👩\u200d🚀", "été 中文 😀 👩\u200d🚀"),
        ("\x1b[31mred\x1b[0m", "␛red␛"),
        ("\x1b]0;title\x07after", "␛after"),
        ("\x1b]8;;http://x\x1b\\link", "␛link"),
        ("\x9b2Jgone", "␛gone"),
        ("\x1bcreset", "␛reset"),
        ("lone \x1b", "lone ␛"),
        ("bell\x07 null\x00 del\x7f", "bell␇ null␀ del␡"),
        ("c1\x85x", "c1\ufffdx"),
        ("\u202eevil", "\ufffdevil"),
        ("a\u2028b", "a␤b"),
        ("\ud800", "\ufffd"),
        ("10%\r50%\r100%\nnext\r\nlast\r", "100%\nnext\nlast"),
        ("\r", ""),
        ("back\x08space", "back␈space"),
    ],
)
def test_controls_become_visible(dirty: str, cleaned: str) -> None:
    assert clean(dirty) == cleaned


def test_any_text_is_harmless_once_cleaned_and_cleaning_twice_changes_nothing() -> None:
    rng = random.Random(6)
    alphabet = [chr(code) for code in range(0xA0)] + list(
        "\x1b\x1b[]m;\\\r\n\t\u202e\u2066\u2029é中😀\ud812\U000e0041"
    ) * 4
    for _ in range(2000):
        cleaned = clean("".join(rng.choice(alphabet) for _ in range(rng.randint(0, 60))))
        assert harmless(cleaned)
        assert clean(cleaned) == cleaned
        cleaned.encode()


def test_lines_are_kept_apart() -> None:
    rng = random.Random(7)
    alphabet = "ab\x1b[]\r\n\x07;m"
    for _ in range(500):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 60)))
        assert clean(text).count("\n") == text.count("\n")


def test_printable_text_is_returned_as_it_is() -> None:
    text = "nothing to do " * 100
    assert clean(text) is text


def pieces_of(text: str, rng: random.Random) -> list[str]:
    """The text cut at random places."""
    cuts = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, 6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_text_in_pieces_is_as_harmless_as_in_one_piece_and_reads_the_same() -> None:
    rng = random.Random(8)
    alphabet = [chr(code) for code in range(0xA0) if chr(code) != "\r"] + list("\x1b\x1b\x1b[]m;0\\\x07\n\u202eé😀") * 4
    for _ in range(3000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 40)))
        cleaner = StreamCleaner()
        shown = [cleaner.feed(piece) for piece in pieces_of(text, rng)] + [cleaner.finish()]
        assert all(harmless(piece) for piece in shown)
        assert "".join(shown) == clean(text)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a\x1b", "[3", "1mred"], ["a", "", "␛red", ""]),
        (["\x1b]0;own", "ed\x07after"], ["", "␛after", ""]),
        (["\x1b]8;;x\x1b", "\\link"], ["", "␛link", ""]),
        (["end\x1b["], ["end", "␛"]),
        (["\x9b", "2Jx"], ["", "␛x", ""]),
        (["50%\r", "100%\r\n", "x"], ["50%", "100%\n", "x", ""]),
    ],
)
def test_a_sequence_cut_in_two_is_held_back_until_it_is_whole(pieces: list[str], shown: list[str]) -> None:
    cleaner = StreamCleaner()
    assert [cleaner.feed(piece) for piece in pieces] + [cleaner.finish()] == shown


def test_an_endless_sequence_is_not_waited_for() -> None:
    cleaner = StreamCleaner()
    shown = [cleaner.feed("\x1b]" + "a" * 3000), cleaner.feed("b" * 3000), cleaner.feed("\x07c")]
    assert shown[0] == ""
    assert shown[1].startswith("␛")
    assert all(map(harmless, shown))
