"""What a domain is asked when its build is verified."""

from pathlib import Path

from core.training.data import read_examples

FROM_DATA = 2


def verification_prompts(question: str, data: Path) -> list[str]:
    """The domain's example question, and the first questions of its data. All are asked, and most must be answered as a
    sound model does: a small one may run on at one question."""
    asked = [one.messages[0]["content"] for one in read_examples(data)[:FROM_DATA]]
    return list(dict.fromkeys([question, *asked]))
