import pytest

from core.gguf.gate import DEGENERATE, EMPTY, UNSTOPPED, check_generation, longest_run, repeated_ngram_share, tail_loop


def words(text: str) -> list[int]:
    """Token ids as a tokenizer of words and marks would give them."""
    seen: dict[str, int] = {}
    parts = text.replace(",", " ,").replace(".", " .").split(" ")
    return [seen.setdefault(part, len(seen)) for part in parts]


GOOD = [
    "Yes.",
    "42",
    "Paris",
    "No, no, no, no!",
    "2 + 2 = 4",
    "Ja, gerne. Am besten frühstücken Sie eine Stunde vorher.",
    "Да.",
    "是的，可以。",
    "The capital of France is Paris.",
    "| Name | Age |\n|------|-----|\n| Ann | 31 |\n| Bob | 45 |",
    "Title\n----------------\nDrink water through the day, sleep enough, and walk for half an hour when you can.",
    "1. Read the plan.\n2. Write the budget.\n3. Call the bank.\n4. Sign the contract.\n5. Pay the first rate.",
    "Buy low, sell high. Buy when others sell. Sell when others buy. Keep some cash. Keep calm. Keep records.",
    "To open an account, bring an identity card and proof of address to the branch. The clerk copies both, asks for "
    "your tax number and a signature, and explains the fees. The card comes by post within ten days, the code in a "
    "second letter. Until then you can pay in at the counter, and use the account online with a temporary password.",
]

DEGENERATE_TEXTS = [
    ", , , , , , , , , , , , , , , ,",
    ",,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,",
    "................................................",
    "!!!!!!!! ?!?!",
    "\ufffd\ufffd\ufffd a \ufffd\ufffd",
    "the the the the the the the the",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " ".join(["I am a helpful assistant."] * 12),
    " ".join(["You can use the same method to find the area of the circle."] * 8),
    "The user asked about sleep and I will say what helps best at night for most of us who work. "
    + " ".join(["It is important to rest."] * 14),
]


@pytest.mark.parametrize("text", GOOD)
def test_healthy_answers_pass(text: str) -> None:
    assert check_generation(text, words(text), "eos") == ()


@pytest.mark.parametrize("text", DEGENERATE_TEXTS)
def test_degenerate_answers_are_named(text: str) -> None:
    (failure,) = check_generation(text, words(text), "eos")
    assert failure.gate == DEGENERATE
    assert failure.reason


@pytest.mark.parametrize("text", ["", "   ", "\n\n\t"])
def test_an_empty_answer_is_named(text: str) -> None:
    (failure,) = check_generation(text, [], "eos")
    assert failure.gate == EMPTY


def test_an_answer_that_runs_on_is_named() -> None:
    text = GOOD[-1]
    (failure,) = check_generation(text, words(text), "length")
    assert failure.gate == UNSTOPPED


def test_a_loop_that_runs_on_fails_both_gates() -> None:
    text = DEGENERATE_TEXTS[-2]
    assert [failure.gate for failure in check_generation(text, words(text), "length")] == [DEGENERATE, UNSTOPPED]


def test_a_real_loop_of_a_two_bit_model_is_found() -> None:
    # SmolLM2-135M at Q2_K, asked how to open a bank account.
    sentence = "You'll need to provide your bank's contact information, usually as a username and password. "
    text = "To open a bank account, you'll need to open an account with a bank. " + sentence * 9
    assert check_generation(text, words(text), "length")[0].gate == DEGENERATE


def test_measures() -> None:
    assert longest_run("aabbbbc") == 4
    assert longest_run("") == 0
    assert repeated_ngram_share([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(0.2)
    assert repeated_ngram_share([1, 2], 4) == 0.0
    assert tail_loop(list(range(50)) + [1, 2, 3] * 12) == 3
    assert tail_loop(list(range(50)) + [1, 2, 3] * 3) is None
    assert tail_loop([]) is None
