"""Examples of domains as texts to be scored: held-out ones, and training text by which types are chosen.

Imports the engine: for worker processes only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.gguf.scoring import Text
from core.training.calibration import calibration_examples, held_out_by_domain

PROBED = 256  # positions of calibration text at most, on which a group's cost is measured
WINDOW = 512  # tokens of an example at most: what a context of the engine is made for


def held_out_texts(
    tokenizer: Any, data: Mapping[str, str], domains: Mapping[str, Mapping[str, Any]], *, length: int, most: int
) -> dict[str, list[Text]]:
    """Of each domain the held-out examples (`core.training.calibration.held_out_by_domain`), whose answers are scored;
    none is longer than 512 tokens."""
    found = held_out_by_domain(tokenizer, data, domains, length=min(WINDOW, length), most=most)
    return {name: [Text(one.input_ids, one.targets) for one in examples] for name, examples in found.items()}


def calibration_texts(
    tokenizer: Any, data: Mapping[str, str], domains: Mapping[str, Mapping[str, Any]], length: int
) -> list[Text]:
    """Training examples spread evenly over the domains, whose answers are scored: about 256 positions."""
    examples = calibration_examples(tokenizer, data, domains, tokens=2 * PROBED, sequence_length=length)
    texts = [Text(one.input_ids, one.targets) for one in examples]
    share = PROBED / max(PROBED, sum(text.positions for text in texts))
    chosen = np.linspace(0, len(texts) - 1, max(1, round(share * len(texts))))
    return [texts[round(at)] for at in chosen]
