"""LoRA on a causal language model (Hu et al. 2021, arXiv:2106.09685), as PEFT stores it."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from core.errors import InvalidInput
from core.files import check_manifest, sha256_of
from core.tasks.context import TaskError
from core.training.base import name_and_sha256, read_provenance

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def linear_targets(model: Any) -> list[str]:
    """Short names of all linear layers of a causal model, without its output head (q_proj, …; gpt2: c_attn, …)."""
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    head_names = {name.rpartition(".")[2] for name, module in model.named_modules() if module is head}
    if not found - head_names:
        raise TaskError(f"{type(model).__name__} has no linear layers to adapt", "use another base")
    return sorted(found - head_names)


def lora_config(model: Any, *, base_name: str, r: int, alpha: int, dropout: float) -> LoraConfig:
    """LoRA of rank `r` on all linear layers; its product is scaled by `alpha / r`."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=linear_targets(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # gpt2 stores (in, out)
        bias="none",
    )


def add_lora(model: Any, config: LoraConfig) -> PeftModel:
    """Wrap a model: its weights are frozen, the adapter's are float32 whatever the base computes in."""
    model.name_or_path = config.base_model_name_or_path  # else peft stores the folder the model was loaded from
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's weights by their names in adapter_model.safetensors, contiguous, on the CPU."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def save_adapter(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    """Write adapter_config.json and adapter_model.safetensors into `folder`; returns what was written."""
    tensors = adapter_tensors(model)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"]
    values = config.to_dict() | {"inference_mode": True}
    values["target_modules"] = sorted(values["target_modules"])  # a set in memory, whose order would vary
    text = json.dumps({key: values[key] for key in sorted(values)}, indent=2, default=_plain)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", "utf-8")
    return tensors


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", str(value))


def check_saved_adapter(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Read the saved weights back: equal to `expected`, finite, and not the zero adapter they began as."""
    saved = load_file(folder / ADAPTER_WEIGHTS)
    if saved.keys() != expected.keys() or any(not torch.equal(saved[name], expected[name]) for name in saved):
        raise TaskError(f"{folder / ADAPTER_WEIGHTS} differs from the trained weights", "check the disk, then retry")
    broken = [name for name, tensor in saved.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise TaskError(f"training ended with values that are not numbers in {broken[0]}", "lower the learning rate")
    if not any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name):
        raise TaskError("training changed nothing: every lora_B is zero", "raise the learning rate or the steps")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a LoRA adapter. Raises TaskError when there is none, or it is another method's."""
    path = folder / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} cannot be read: {error}", "give a PEFT adapter's folder") from error
    if config.get("peft_type") != "LORA":
        raise TaskError(f"{folder} holds a {config.get('peft_type')} adapter, not LoRA", "train it as LoRA")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise TaskError(f"{folder} has no {ADAPTER_WEIGHTS}", "pickled adapters are not read; save it as safetensors")
    return config


def read_adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's weights. Raises TaskError when the file is damaged."""
    try:
        return load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise TaskError(f"{folder / ADAPTER_WEIGHTS} is damaged: {error}", "train the adapter again") from error


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Put a saved adapter onto its base, for inference. Raises TaskError when the weights do not match the model
    name for name: PEFT only warns, and an adapter that half applies looks like a bad one."""
    read_adapter_config(folder)
    stored = read_adapter_tensors(folder)
    try:
        loaded = PeftModel.from_pretrained(model, folder, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise TaskError(f"the adapter in {folder} does not fit its base: {error}", "train it on this base") from error
    applied = adapter_tensors(loaded)
    odd = sorted(stored.keys() ^ applied.keys())
    if odd:
        raise TaskError(f"the adapter in {folder} does not fit its base: {odd[0]}", "train it on this base")
    return loaded


def adapter_identity(folder: Path) -> str:
    """SHA-256 that names an adapter folder: its manifest's, checked, else that of its weights (made elsewhere).

    Raises TaskError when a file is missing or differs from the manifest.
    """
    read_adapter_config(folder)
    if (folder / "MANIFEST.json").is_file():
        try:
            check_manifest(folder)
        except InvalidInput as error:
            raise TaskError(error.message, "train the adapter again") from error
        return sha256_of(folder / "MANIFEST.json")
    return sha256_of(folder / ADAPTER_WEIGHTS)


def refuse_other_base(adapter: Path, base: Path) -> None:
    """Refuse an adapter that says it was trained on another base: shapes alone do not tell two bases apart.

    An adapter from elsewhere that says nothing is let through; what does not fit is found by its names and shapes.
    """
    read_adapter_config(adapter)
    claimed = (read_provenance(adapter) or {}).get("base")
    if not isinstance(claimed, dict) or not claimed.get("sha256"):
        print(f"{adapter.name} does not say by hash which base it was trained on", flush=True)
        return
    name, sha256 = name_and_sha256(base)
    if claimed["sha256"] != sha256:
        raise TaskError(
            f"{adapter.name} was trained on {claimed.get('name')} ({str(claimed['sha256'])[:12]}),"
            f" not on {name} ({sha256[:12]})",
            f"train it again on {name}, or give its domain the base it was trained on",
        )


def scale_of(config: dict[str, Any], r: int) -> float:
    """Factor on `B @ A`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
    return float(config["lora_alpha"]) / (math.sqrt(r) if config.get("use_rslora") else r)
