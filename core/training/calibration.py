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
    found = calibration_by_domain(tokenizer, data, domains, tokens=tokens, sequence_length=sequence_length)
    return [example for examples in found.values() for example in examples]


def calibration_by_domain(
    tokenizer: Any,
    data: Mapping[str, str],
    domains: Mapping[str, Mapping[str, Any]],
    *,
    tokens: int,
    sequence_length: int,
) -> dict[str, list[Rendered]]:
    """The same by domain."""
    ensure_chat_template(tokenizer)
    share = max(1, tokens // len(data))
    chosen: dict[str, list[Rendered]] = {}
    for domain, path in data.items():
        taught = domains[domain]
        train, _ = split_examples(read_examples(Path(path)), taught["seed"], taught["held_out_fraction"])
        rendered, _ = render_all(tokenizer, train, taught["system_prompt"], sequence_length)
        mine, taken = chosen.setdefault(domain, []), 0
        for example in rendered:
            if taken >= share:
                break
            mine.append(example)
            taken += len(example.input_ids)
    return chosen
