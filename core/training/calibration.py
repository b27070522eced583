"""The text that calibrates quantization: what the domains are trained on, never what is held out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.training.data import read_examples, split_examples
from core.training.render import Rendered, ensure_chat_template, render_all


def calibration_examples(
    tokenizer: Any,
    data: Mapping[str, str],
    domains: Mapping[str, Mapping[str, Any]],
    *,
    tokens: int,
    sequence_length: int,
) -> list[Rendered]:
    """Training examples of all domains, as training renders them: of each in its order until its equal share of
    `tokens` is there, at least one. `domains` says of each its system_prompt, seed and held_out_fraction."""
    ensure_chat_template(tokenizer)
    share = max(1, tokens // len(data))
    chosen: list[Rendered] = []
    for domain, path in data.items():
        taught = domains[domain]
        train, _ = split_examples(read_examples(Path(path)), taught["seed"], taught["held_out_fraction"])
        rendered, _ = render_all(tokenizer, train, taught["system_prompt"], sequence_length)
        taken = 0
        for example in rendered:
            if taken >= share:
                break
            chosen.append(example)
            taken += len(example.input_ids)
    return chosen
