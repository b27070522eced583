"""What a model's weight matrices are given while it reads text: the statistics of an importance matrix, by torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from transformers.pytorch_utils import Conv1D

from core.gguf.imatrix import Statistic
from core.tasks.context import TaskError

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


def collect(
    model: Any, sequences: Sequence[Sequence[int]], device: torch.device, on_sequence: Callable[[int], None]
) -> dict[str, Statistic]:
    """Run the sequences of token ids through the model; statistics by module name.

    Every linear layer of the transformer is watched by a hook on its input; the output head, whose logits over every
    token would cost more than all the rest, is not run: it is given the transformer's last hidden state, which is
    returned under the head's own name. Sums are kept in float64 on the device.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, hidden: torch.Tensor) -> None:
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        squares = rows.float().square().sum(0, dtype=torch.float64)
        sums[name] = sums[name] + squares if name in sums else squares
        counts[name] = counts.get(name, 0) + len(rows)

    def watch(name: str) -> Any:
        return lambda _module, inputs: add(name, inputs[0])

    head = model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    hooks = [module.register_forward_pre_hook(watch(name)) for module, name in names.items() if module is not head]
    transformer = getattr(model, model.base_model_prefix)
    try:
        with torch.inference_mode():
            for done, sequence in enumerate(sequences, start=1):
                ids = torch.tensor([list(sequence)], device=device)
                add(names[head], transformer(input_ids=ids, use_cache=False).last_hidden_state)
                on_sequence(done)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Statistic(sums[name].cpu().numpy().astype(np.float32), counts[name]) for name in sums}


def gguf_names(
    statistics: Mapping[str, Statistic], architecture: str, layers: int, tensors: Mapping[str, tuple[int, ...]]
) -> dict[str, Statistic]:
    """The same statistics by GGUF tensor name, for a file of these tensors (name to shape, innermost first).

    A head that shares its weights with the embedding is the embedding in the file. Raises TaskError for a module that
    has no tensor in the file: its weights would be quantized blindly, and nobody would know.
    """
    number = next((number for number, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if number is None:
        raise TaskError(f"no tensor names are known for the architecture {architecture}", "quantize without a matrix")
    known = get_tensor_name_map(number, layers)
    named: dict[str, Statistic] = {}
    for module, statistic in statistics.items():
        tensor = known.get_name(module)
        if tensor is None:
            raise TaskError(f"{module} of the base has no name in GGUF files", "quantize without a matrix")
        name = f"{tensor}.weight"
        if name == OUTPUT and OUTPUT not in tensors:
            name = EMBEDDING
        if name not in tensors or tensors[name][0] != len(statistic.sums):
            raise TaskError(
                f"{module} of the base has no tensor of its size in its GGUF file ({name})", "convert again"
            )
        named[name] = statistic
    return named
