"""Small real folders for the hygiene tests: tiny tensors, true shapes, a tokenizer of a few words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WIDTH, INNER, LAYERS, HEADS, WORDS, RANK = 8, 16, 2, 2, 12, 2
LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
SIZES = {  # module -> (in, out)
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, 4),
    "self_attn.v_proj": (WIDTH, 4),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (WIDTH, INNER),
    "mlp.up_proj": (WIDTH, INNER),
    "mlp.down_proj": (INNER, WIDTH),
}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value), "utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; a value of ... removes the key."""
    value = json.loads(path.read_text("utf-8")) | changes
    write_json(path, {key: entry for key, entry in value.items() if entry is not ...})


def llama_tensors() -> dict[str, np.ndarray]:
    """The tensors of a llama of the sizes above, with tied head."""
    tensors = {"model.embed_tokens.weight": numbers(WORDS, WIDTH), "model.norm.weight": numbers(WIDTH)}
    for layer in range(LAYERS):
        for module, (columns, rows) in SIZES.items():
            tensors[f"model.layers.{layer}.{module}.weight"] = numbers(rows, columns, seed=layer + 1)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = numbers(WIDTH)
    return tensors


def write_tokenizer(folder: Path) -> None:
    """A word tokenizer with end, pad and unknown tokens and a chat template."""
    words = ["<unk>", "</s>", "<pad>", *(f"word{number}" for number in range(WORDS - 3))]
    added = [{"id": number, "content": words[number], "special": True} for number in range(3)]
    model = {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}, "unk_token": "<unk>"}
    write_json(folder / "tokenizer.json", {"version": "1.0", "added_tokens": added, "model": model})
    write_json(
        folder / "tokenizer_config.json",
        {
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": 64,
            "chat_template": "{{ messages[0].content }}",
        },
    )


def write_model(folder: Path) -> Path:
    """A whole, valid llama folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(llama_tensors(), folder / "model.safetensors")
    write_json(folder / "config.json", LLAMA_CONFIG)
    write_tokenizer(folder)
    return folder


def write_sharded(folder: Path, *, index: bool = True) -> Path:
    """The same model in two shards."""
    write_model(folder)
    (folder / "model.safetensors").unlink()
    tensors = llama_tensors()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if index:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    return folder


def adapter_tensors(modules: tuple[str, ...] = ("self_attn.q_proj", "self_attn.v_proj")) -> dict[str, np.ndarray]:
    """lora_A and lora_B for the modules in every layer."""
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            columns, rows = SIZES[module]
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = numbers(RANK, columns, seed=layer)
            tensors[f"{name}.lora_B.weight"] = numbers(rows, RANK, seed=layer + 5)
    return tensors


def write_adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A whole, valid PEFT folder; `config` overrides its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "owner/tiny-llama",
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        **config,
    }
    write_json(folder / "adapter_config.json", {key: value for key, value in settings.items() if value is not ...})
    return folder


def snapshot(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Everything in a folder, to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): ("link", str(path.readlink()).encode())
        if path.is_symlink()
        else ("file", path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
