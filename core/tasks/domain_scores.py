"""A GGUF file's losses and hits on the held-out answers of domains, each domain with its adapter on.

Imports the engine: for worker processes only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.gguf.divergence import Doubles, log_softmax
from core.gguf.runtime import Runtime
from core.gguf.scoring import OUTPUTS, Text, predictions


@dataclass(frozen=True)
class Scored:
    """A file on the held-out text of the domains: the loss at each position, nats, and whether the token that follows
    was the most likely one, by domain and text."""

    name: str
    bytes: int
    losses: Mapping[str, list[Doubles]]
    hits: Mapping[str, list[Doubles]]

    def loss(self, domain: str) -> float:
        """Mean cross entropy of a domain's answers."""
        return float(np.concatenate(self.losses[domain]).mean())

    def accuracy(self, domain: str) -> float:
        """Share of a domain's tokens that were the most likely one."""
        return float(np.concatenate(self.hits[domain]).mean())

    def positions(self, domain: str) -> int:
        """How many tokens of a domain were scored."""
        return sum(map(len, self.losses[domain]))


def score(
    name: str,
    path: Path,
    adapters: Mapping[str, str],
    texts: Mapping[str, Sequence[Text]],
    *,
    threads: int,
    on_text: Callable[[str], None],
) -> Scored:
    """Run a file over the texts of each domain; a domain without an adapter is read by the file alone. `on_text` is
    called after each with its domain."""
    losses: dict[str, list[Doubles]] = {}
    hits: dict[str, list[Doubles]] = {}
    longest = max(len(text.tokens) for some in texts.values() for text in some)
    with Runtime(path, n_ctx=longest, threads=threads, outputs=OUTPUTS) as runtime:
        for domain, some in texts.items():
            runtime.attach(Path(adapters[domain]) if domain in adapters else None)
            losses[domain], hits[domain] = [], []
            for text in some:
                found = [_position(logits, following) for logits, following in predictions(runtime, text)]
                losses[domain].append(np.concatenate([loss for loss, _ in found]))
                hits[domain].append(np.concatenate([hit for _, hit in found]))
                on_text(domain)
    return Scored(name, path.stat().st_size, losses, hits)


def _position(logits: Any, following: Any) -> tuple[Doubles, Doubles]:
    logs = log_softmax(logits)
    return -logs[np.arange(len(logs)), following], (logs.argmax(axis=1) == following).astype(np.float64)
