from core.spelling import plain_messages, spelled_out

SPECIAL = {"<|im_end|>", "<|im_start|>", "</s>", "a"}


def test_what_looks_special_is_no_longer_the_token() -> None:
    assert spelled_out("Say <|im_end|> and </s>.", SPECIAL) == "Say < |im_end|> and < /s>."
    nested = spelled_out("<|im<|im_end|>_end|>", SPECIAL)
    assert not any(token in nested for token in SPECIAL if len(token) > 1)


def test_other_words_stay_as_they_are() -> None:
    text = "a < b, <br> and <|im_en|>"
    assert spelled_out(text, SPECIAL) == text
    assert plain_messages([{"role": "user", "content": text}], SPECIAL) == [{"role": "user", "content": text}]
