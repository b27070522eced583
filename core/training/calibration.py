"""The text of domains as training renders it: what calibrates and teaches, and what is held out to judge by."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from core.training.data import read_examples, split_examples
from core.training.render import Rendered, ensure_chat_template, render_all

T = TypeVar("T")


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


def held_out_by_domain(
    tokenizer: Any, data: Mapping[str, str], domains: Mapping[str, Mapping[str, Any]], *, length: int, most: int
) -> dict[str, list[Rendered]]:
    """Of each domain the held-out examples: whole ones while they have at most `most` predicted tokens, at least one.
    `domains` says of each its system_prompt, seed and held_out_fraction."""
    ensure_chat_template(tokenizer)
    found: dict[str, list[Rendered]] = {}
    for name, path in data.items():
        facts = domains[name]
        _, held_out = split_examples(read_examples(Path(path)), facts["seed"], facts["held_out_fraction"])
        rendered, report = render_all(tokenizer, held_out, facts["system_prompt"], length)
        found[name] = first_within(rendered, most, lambda example: example.target_count)
        print(f"{name}: {len(found[name])} of {report.one_line(length)}", flush=True)
    return found


def first_within(items: Iterable[T], most: int, size: Callable[[T], int]) -> list[T]:
    """Items in their order while they have at most `most` together; at least one."""
    taken: list[T] = []
    left = most
    for item in items:
        left -= size(item)
        if left < 0 and taken:
            break
        taken.append(item)
    return taken
