import random

import pytest

from core.gguf.sampling import TextAssembler


def assemble(data: bytes, sizes: list[int], stop: tuple[str, ...] = ()) -> tuple[str, TextAssembler]:
    assembler, text, at = TextAssembler(stop), "", 0
    for size in sizes:
        text += assembler.feed(data[at : at + size])
        at += size
        if assembler.stopped:
            break
    return text, assembler


def test_characters_come_whole_however_the_bytes_are_cut() -> None:
    said = "Grüße — 你好 🙂!"
    data, chance = said.encode(), random.Random(3)
    for _ in range(200):
        sizes: list[int] = []
        while sum(sizes) < len(data):
            sizes.append(chance.randint(1, 4))
        text, assembler = assemble(data, sizes)
        assert "\ufffd" not in text
        assert text + assembler.finish(whole=True) == said


def test_a_character_cut_off_by_the_limit_is_dropped_and_a_broken_one_shown() -> None:
    text, assembler = assemble("ab🙂".encode()[:-1], [1] * 5)
    assert text + assembler.finish(whole=False) == "ab"
    text, assembler = assemble("ab🙂".encode()[:-1], [1] * 5)
    assert text + assembler.finish(whole=True) == "ab\ufffd"


@pytest.mark.parametrize("sizes", [[1] * 40, [7] * 10, [40]])
def test_a_stop_word_ends_the_text_and_is_not_shown(sizes: list[int]) -> None:
    text, assembler = assemble(b"Hello there.\nUser: more", sizes, ("\nUser:", "###"))
    assert text == "Hello there."
    assert assembler.stopped
    assert assembler.finish(whole=True) == ""


def test_text_that_only_begins_like_a_stop_word_is_not_lost() -> None:
    text, assembler = assemble(b"a\nUs", [1] * 4, ("\nUser:",))
    assert text == "a"
    assert text + assembler.finish(whole=False) == "a\nUs"
    text, _ = assemble(b"a\nUsing", [1] * 8, ("\nUser:",))
    assert text == "a\nUsing"
