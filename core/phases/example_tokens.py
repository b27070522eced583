"""How many tokens the examples of a domain have, before any tokenizer is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import InvalidInput
from core.training.data import Example, split_examples

# Counted on the starter data with the embedded base's tokenizer: 139 tokens an example of about 545 characters in three
# messages. Other tokenizers and languages differ; a job that has run of the same kind corrects for it.
CHARACTERS_A_TOKEN = 4.0
TOKENS_A_MESSAGE = 2.0  # of the template


def part(params: Mapping[str, Any], examples: Sequence[Example], *, held_out: bool) -> Sequence[Example]:
    """The examples of a domain that are held out, or the others, by its `seed` and `held_out_fraction`."""
    try:
        return split_examples(examples, params["seed"], params["held_out_fraction"])[held_out]
    except InvalidInput:
        return ()  # planning itself refuses data that cannot be divided


def tokens_of(examples: Sequence[Example], params: Mapping[str, Any], most: int) -> list[float]:
    """The tokens of each example as it is taught: under the domain's system prompt, cut to `most`."""
    system = str(params.get("system_prompt") or "")
    found = []
    for example in examples:
        characters = len(system) + sum(len(message["content"]) for message in example.messages)
        messages = len(example.messages) + bool(system)
        found.append(min(float(most), characters / CHARACTERS_A_TOKEN + messages * TOKENS_A_MESSAGE))
    return found


def answer_tokens(example: Example) -> float:
    """The tokens of an example's answers, which alone are scored."""
    answers = [message["content"] for message in example.messages if message["role"] == "assistant"]
    return sum(map(len, answers)) / CHARACTERS_A_TOKEN + len(answers)
