"""Adapters on a plain model, one domain's at a time: low-rank terms added to the outputs of its layers by hooks.

With PEFT's own wrapping a model holds one set of adapters that is trained or not trained as a whole. Here those of the
domains are fixed, and a model that carries them can be pruned, read from, or trained with another adapter on top.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from core.tasks.context import TaskError
from core.training.merge import Update


class Riders:
    """The adapters of some domains on one model; none is on until `riding` says which.

    `updates` holds of each domain its changes by the name of the weight. Raises TaskError where the model lacks one.
    """

    def __init__(self, model: Any, updates: Mapping[str, Mapping[str, Update]]) -> None:
        self._on: str | None = None
        self._domains = frozenset(updates)
        modules = dict(model.named_modules())
        by_module: dict[str, dict[str, Update]] = {}
        for domain, changes in updates.items():
            for weight, update in changes.items():
                by_module.setdefault(weight.removesuffix(".weight"), {})[domain] = update
        missing = sorted(by_module.keys() - modules.keys())
        if missing:
            raise TaskError(f"an adapter changes {missing[0]}, which the model does not have", "train it on this base")
        device = next(model.parameters()).device
        for name, of in by_module.items():
            pairs = {domain: (one.a.to(device), one.b.to(device), one.scale) for domain, one in of.items()}
            modules[name].register_forward_hook(self._hook(pairs))

    def _hook(self, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]) -> Any:
        def add(_module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            pair = pairs.get(self._on) if self._on is not None else None
            if pair is None:
                return output
            a, b, scale = pair
            inner = functional.linear(inputs[0], a.to(inputs[0].dtype))
            return output + scale * functional.linear(inner, b.to(inner.dtype))

        return add

    @contextmanager
    def riding(self, domain: str) -> Iterator[None]:
        """Inside, a domain's adapter is on, where it has one."""
        self._on = domain if domain in self._domains else None
        try:
            yield
        finally:
            self._on = None
