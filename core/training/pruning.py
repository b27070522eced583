"""Which layers and feed-forward channels a model misses least, measured on text.

A layer's influence is how far it turns the hidden state: one less the cosine before and after it (ShortGPT,
arXiv:2403.03853, section 2.2). It only chooses which layers are tried: of those that turn it least each is left out in
turn and the loss measured, and the one missed least goes, one layer after the other. A channel's score is its mean size
over the text (Minitron, arXiv:2407.14679, section 2.2) times the length of the column it is multiplied with, as Wanda
weighs (arXiv:2306.11695): a loud channel that nobody listens to can go.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from core.tasks.context import TaskError
from core.training.cut import Cut
from core.training.fitting import Anatomy, Choice, protected
from core.training.render import Rendered
from core.training.riders import Riders
from core.training.scoring import score_examples, total

Lessons = Sequence[tuple[str, Rendered]]  # texts, each with its domain
TRIED = 6  # layers of least influence that are tried in a round


@dataclass(frozen=True)
class Statistics:
    """Of each layer: its influence (0: it turns nothing), and of each of its channels the score."""

    influence: tuple[float, ...]
    channels: tuple[torch.Tensor, ...]  # of each layer [channels], empty where they cannot be taken out


def layer_list(model: Any) -> tuple[Any, str]:
    """Where a model keeps its layers: the module and the attribute's name. Raises TaskError where it is not known."""
    for name in ("layers", "h"):
        if isinstance(getattr(model.base_model, name, None), nn.ModuleList):
            return model.base_model, name
    raise TaskError(f"{type(model).__name__} keeps its layers in an unknown place", "build it as standard")


@contextmanager
def only_layers(model: Any, kept: Sequence[int]) -> Iterator[None]:
    """Inside, the model has these of its layers alone, by their numbers, in order."""
    owner, name = layer_list(model)
    whole, types = getattr(owner, name), getattr(model.config, "layer_types", None)
    setattr(owner, name, nn.ModuleList(whole[at] for at in kept))
    if types is not None:
        model.config.layer_types = [types[at] for at in kept]
    try:
        yield
    finally:
        setattr(owner, name, whole)
        if types is not None:
            model.config.layer_types = types


@contextmanager
def only_channels(model: Any, channels: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Inside, all other channels of these layers are zero, which is what taking them out does."""
    hooks = []
    for layer, kept in channels.items():
        used = _used(model, layer)
        mask = torch.zeros(_inputs(used), device=used.weight.device)
        mask[torch.tensor(list(kept), device=mask.device)] = 1.0
        hooks.append(used.register_forward_pre_hook(_masking(mask)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _masking(mask: torch.Tensor) -> Any:
    return lambda _module, inputs: (inputs[0] * mask.to(inputs[0].dtype),)


def _used(model: Any, layer: int) -> Any:
    """The matrix whose inputs are the channels of a layer."""
    owner, name = layer_list(model)
    part = getattr(owner, name)[layer].mlp
    return part.down_proj if hasattr(part, "down_proj") else part.c_proj


def _inputs(matrix: Any) -> int:
    return int(matrix.weight.shape[0 if isinstance(matrix, Conv1D) else 1])


def loss_of(model: Any, riders: Riders, lessons: Lessons, device: torch.device) -> float:
    """Mean cross entropy of the texts' answers, nats a token, each with its domain's adapter on."""
    scores = []
    for domain, example in lessons:
        with riders.riding(domain):
            scores += score_examples(model, [example], device, lambda _done: None)
    return total(scores).loss


def measure(model: Any, riders: Riders, lessons: Lessons, about: Anatomy, device: torch.device) -> Statistics:
    """One pass over the texts: the influence of each layer and the score of each channel."""
    owner, name = layer_list(model)
    layers = getattr(owner, name)
    turned, tokens = torch.zeros(len(layers), dtype=torch.float64), 0
    sums: dict[int, torch.Tensor] = {}
    hooks = []

    def watch_layer(layer: int) -> Any:
        def see(_module: Any, inputs: Any, output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            alike = torch.cosine_similarity(inputs[0].float(), after.float(), dim=-1)
            turned[layer] += float((1 - alike).sum())

        return see

    def watch_channels(layer: int) -> Any:
        def see(_module: Any, inputs: Any) -> None:
            values = inputs[0].float().abs().reshape(-1, inputs[0].shape[-1]).sum(0)
            sums[layer] = sums[layer] + values if layer in sums else values

        return see

    for layer, module in enumerate(layers):
        hooks.append(module.register_forward_hook(watch_layer(layer)))
        if about.cuttable:
            hooks.append(_used(model, layer).register_forward_pre_hook(watch_channels(layer)))
    model.eval()
    try:
        with torch.inference_mode():
            for domain, example in lessons:
                ids = torch.tensor([list(example.input_ids)], device=device)
                with riders.riding(domain):
                    model.base_model(input_ids=ids, use_cache=False)
                tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    scores = []
    for layer in range(len(layers)):
        if not about.cuttable:
            scores.append(torch.empty(0))
            continue
        used = _used(model, layer)
        lengths = used.weight.detach().float().norm(dim=1 if isinstance(used, Conv1D) else 0)
        scores.append((sums[layer] / tokens * lengths).cpu())
    return Statistics(tuple((turned / tokens).tolist()), tuple(scores))


def removal_order(
    model: Any,
    riders: Riders,
    lessons: Lessons,
    influence: Sequence[float],
    most: int,
    device: torch.device,
    on_try: Callable[[], None] = lambda: None,
) -> list[int]:
    """The `most` layers that are missed least, in the order in which they go."""
    count, edge = len(influence), protected(len(influence))
    gone: list[int] = []
    for _ in range(most):
        free = [layer for layer in range(edge, count - edge) if layer not in gone]
        tried = sorted(free, key=lambda layer: influence[layer])[:TRIED]
        losses = {}
        for layer in tried:
            with only_layers(model, [at for at in range(count) if at not in (*gone, layer)]):
                losses[layer] = loss_of(model, riders, lessons, device)
            on_try()
        gone.append(min(losses, key=lambda layer: losses[layer]))
    return gone


def tries(layers: int, most: int) -> int:
    """How many losses `removal_order` measures."""
    free = layers - 2 * protected(layers)
    return sum(min(TRIED, free - gone) for gone in range(most))


def cut_of(about: Anatomy, choice: Choice, order: Sequence[int], statistics: Statistics) -> Cut:
    """The cut that a choice means: the layers first in `order` go, and in each that stays the channels that score
    least."""
    gone = set(order[: about.layers - choice.layers])
    layers = tuple(layer for layer in range(about.layers) if layer not in gone)
    channels: dict[int, tuple[int, ...]] = {}
    if about.cuttable and choice.width < about.channels:
        for layer in layers:
            best = torch.topk(statistics.channels[layer], choice.width).indices
            channels[layer] = tuple(sorted(best.tolist()))
    return Cut(layers, channels, about.layers, about.channels)


@contextmanager
def as_cut(model: Any, cut: Cut) -> Iterator[None]:
    """Inside, the model computes what it would if it were cut so."""
    with ExitStack() as stack:
        stack.enter_context(only_channels(model, cut.channels))  # by their numbers in the whole model: before the next
        stack.enter_context(only_layers(model, cut.layers))
        yield
