"""PEFT adapters made ready for llama.cpp: what it cannot carry is refused, what it would get wrong is rewritten.

The engine computes `W x + (alpha / rank) B A x` and nothing else, and its converter looks at `lora_alpha` only. Worker
processes only: tensors are read with torch.
"""

import json
import math
from pathlib import Path
from typing import Any

from core.errors import InvalidInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Layers that gpt2 stores as (in, out). The converter turns their weights around, and with them an adapter's matrices,
# which PEFT keeps as (out, in) for every layer.
_TURNED = {"GPT2LMHeadModel": ("c_attn", "c_proj", "c_fc")}

# Initialisations that leave the base as it is; the others (pissa, olora, corda, loftq) change its weights, so their
# adapters fit no base but the changed one.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")


def read_config(adapter: Path) -> dict[str, Any]:
    """An adapter's configuration. Raises InvalidInput when it is not a LoRA stored as safetensors."""
    try:
        config = json.loads((adapter / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{adapter / CONFIG} cannot be read: {error}", "give a PEFT adapter folder") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidInput(f"{adapter} is not a LoRA adapter", "train a LoRA; the runtime carries no other kind")
    if not (adapter / WEIGHTS).is_file():
        raise InvalidInput(f"{adapter} has no {WEIGHTS}", "save the adapter as safetensors; pickles are not read")
    return config


def check_convertible(adapter: Path, config: dict[str, Any]) -> None:
    """Refuse what a GGUF adapter cannot say, before any work. Raises InvalidInput naming the setting."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    faults = {
        "DoRA (use_dora)": config.get("use_dora"),
        "quantization-aware LoRA (use_qalora)": config.get("use_qalora"),
        "a scale of its own for some layers (alpha_pattern)": alphas,
        "rank-stabilised LoRA with several ranks (use_rslora, rank_pattern)": config.get("use_rslora") and ranks,
        f"trained biases (bias: {config.get('bias')})": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"layers trained whole (modules_to_save: {config.get('modules_to_save')})": config.get("modules_to_save"),
        "trained token embeddings (trainable_token_indices)": config.get("trainable_token_indices"),
        "adapted parameters outside layers (target_parameters)": config.get("target_parameters"),
        "an invocation sequence (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        f"a changed base (init_lora_weights: {config.get('init_lora_weights')})": config.get("init_lora_weights", True)
        not in _PLAIN_INITIALISATIONS,
    }
    found = [name for name, present in faults.items() if present]
    if found:
        raise InvalidInput(
            f"{adapter} uses {'; '.join(found)}, which a GGUF adapter cannot carry", "train a plain LoRA"
        )
    if not isinstance(config.get("lora_alpha"), int | float) or not isinstance(config.get("r"), int):
        raise InvalidInput(f"{adapter / CONFIG} lacks lora_alpha or r", "save the adapter with PEFT again")


def ready_adapter(adapter: Path, base: Path, scratch: Path) -> Path:
    """The folder to convert: `adapter` itself, or a rewritten copy of it in `scratch` where the converter would err.

    Rank-stabilised LoRA (arXiv:2312.03732) scales by alpha / sqrt(r): its alpha becomes alpha * sqrt(r), which the
    engine divides by r. For gpt2, A and B are exchanged and transposed, which its converter undoes.
    """
    config = read_config(adapter)
    check_convertible(adapter, config)
    turned = _turned_layers(base)
    if not config.get("use_rslora") and not turned:
        return adapter
    from safetensors.torch import load_file, save_file

    if config.get("use_rslora"):
        config["lora_alpha"] *= math.sqrt(config["r"])
        config["use_rslora"] = False
    tensors = load_file(adapter / WEIGHTS)
    rewritten = {}
    for name, tensor in tensors.items():
        exchanged = any(f".{layer}.lora_" in name for layer in turned)
        rewritten[name] = tensors[_other(name)].T.contiguous() if exchanged else tensor
    folder = scratch / adapter.name  # the same name: the converter writes it into the file
    folder.mkdir()
    save_file(rewritten, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")
    return folder


def count_pairs(adapter: Path) -> int:
    """How many layers an adapter changes. Raises InvalidInput when its tensors are not pairs of A and B."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter / WEIGHTS, framework="pt") as stream:
            names = set(stream.keys())
    except SafetensorError as error:
        raise InvalidInput(f"{adapter / WEIGHTS} is not readable safetensors: {error}", "save it again") from error
    strange = sorted(name for name in names if ".lora_A.weight" not in name and ".lora_B.weight" not in name)
    if strange:
        raise InvalidInput(f"{adapter} holds {strange[0]}, which a GGUF adapter cannot carry", "train a plain LoRA")
    lonely = sorted(name for name in names if _other(name) not in names)
    if lonely or not names:
        raise InvalidInput(
            f"{adapter} lacks the other half of {lonely[0] if lonely else 'everything'}", "save it again"
        )
    return len(names) // 2


def _other(name: str) -> str:
    return name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")


def _turned_layers(base: Path) -> tuple[str, ...]:
    try:
        architectures = json.loads((base / "config.json").read_text("utf-8")).get("architectures") or [""]
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{base / 'config.json'} cannot be read: {error}", "make the base again") from error
    return _TURNED.get(architectures[0], ())
