"""The held-out examples of domains as texts to be scored.

Imports the engine: for worker processes only.
"""

from collections.abc import Mapping
from typing import Any

from core.gguf.scoring import Text
from core.training.calibration import held_out_by_domain

WINDOW = 512  # tokens of an example at most: what a context of the engine is made for


def held_out_texts(
    tokenizer: Any, data: Mapping[str, str], domains: Mapping[str, Mapping[str, Any]], *, length: int, most: int
) -> dict[str, list[Text]]:
    """Of each domain the held-out examples (`core.training.calibration.held_out_by_domain`), whose answers are scored;
    none is longer than 512 tokens."""
    found = held_out_by_domain(tokenizer, data, domains, length=min(WINDOW, length), most=most)
    return {name: [Text(one.input_ids, one.targets) for one in examples] for name, examples in found.items()}
