"""The held-out examples of domains as texts to be scored.

Imports the engine: for worker processes only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.gguf.scoring import Text, first_of
from core.training.data import read_examples, split_examples
from core.training.render import ensure_chat_template, render_all


def held_out_texts(
    tokenizer: Any, data: Mapping[str, str], domains: Mapping[str, Mapping[str, Any]], *, length: int, most: int
) -> dict[str, list[Text]]:
    """Of each domain the held-out examples, as training renders them, whose answers are scored: whole ones while they
    have at most `most` scored positions. `domains` says of each its system_prompt, seed and held_out_fraction."""
    ensure_chat_template(tokenizer)
    found: dict[str, list[Text]] = {}
    for name, path in data.items():
        facts = domains[name]
        _, held_out = split_examples(read_examples(Path(path)), facts["seed"], facts["held_out_fraction"])
        rendered, report = render_all(tokenizer, held_out, facts["system_prompt"], length)
        found[name] = first_of([Text(one.input_ids, one.targets) for one in rendered], most)
        print(f"{name}: {len(found[name])} of {report.one_line(length)}", flush=True)
    return found
