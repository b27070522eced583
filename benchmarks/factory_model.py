"""A synthetic base of real shape for the factory benchmark, and an adapter on it: random weights, written by shards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

from core.files import MANIFEST, hash_json
from core.training.base import EMBEDDED_GGUF, PROVENANCE
from tests.models import embedded_gguf

RANK = 16
SPREAD = 0.02  # of the weights, as models are initialised


@dataclass(frozen=True)
class Size:
    """A shape of the llama architecture with tied embeddings."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    layers_a_shard: int

    def linear(self) -> dict[str, tuple[int, int]]:
        """Shapes of a layer's linear weights, by name."""
        keys = self.hidden // self.heads * self.key_heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }

    @property
    def parameters(self) -> int:
        """All weights, the tied ones once."""
        a_layer = sum(rows * columns for rows, columns in self.linear().values()) + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * a_layer + self.hidden


# The shape of Qwen2.5-3B; llama's tensors differ from it by the biases of query, key and value alone. The converter
# knows the embedded base's tokenizer under llama, and fills the vocabulary up.
SIZES = {
    "3b": Size(2048, 11008, 36, 16, 2, 151936, 3),
    "small": Size(576, 1536, 30, 9, 3, 49152, 30),  # the embedded base's
}


def build_model(folder: Path, size: Size, seed: int) -> None:
    """Write a finished base: config, tokenizer, bf16 shards with an index, and the marks of a base's job."""
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(embedded_gguf().parent, gguf_file=EMBEDDED_GGUF)
    tokenizer.save_pretrained(folder)
    config: Any = LlamaConfig(
        hidden_size=size.hidden, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.key_heads, vocab_size=size.vocabulary,
        max_position_embeddings=2048, tie_word_embeddings=True, dtype="bfloat16",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    names: dict[str, str] = {}

    def write(number: int, tensors: dict[str, torch.Tensor]) -> None:
        shard = f"model-{number:05d}-of-{-(-size.layers // size.layers_a_shard) + 1:05d}.safetensors"
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        names.update(dict.fromkeys(tensors, shard))

    def weight(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, SPREAD, generator=generator)

    ones = torch.ones(size.hidden, dtype=torch.bfloat16)
    write(1, {"model.embed_tokens.weight": weight(size.vocabulary, size.hidden), "model.norm.weight": ones})
    for number, first in enumerate(range(0, size.layers, size.layers_a_shard), start=2):
        tensors: dict[str, torch.Tensor] = {}
        for layer in range(first, min(first + size.layers_a_shard, size.layers)):
            prefix = f"model.layers.{layer}"
            for name, shape in size.linear().items():
                tensors[f"{prefix}.{name}.weight"] = weight(*shape)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}.{norm}.weight"] = ones.clone()
        write(number, tensors)
    index = {"metadata": {"total_size": 2 * size.parameters}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    about = {"name": "synthetic", "kind": "local", "sha256": hash_json([size.__dict__, seed])}
    (folder / PROVENANCE).write_text(json.dumps(about), "utf-8")
    (folder / MANIFEST).write_text(json.dumps({"files": {}}), "utf-8")


def build_adapter(folder: Path, size: Size, seed: int) -> None:
    """Write a random adapter of rank 16 on all linear layers, as peft stores it."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(size.layers):
        for name, (rows, columns) in size.linear().items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.empty(RANK, columns).normal_(0, SPREAD, generator=generator)
            tensors[f"{module}.lora_B.weight"] = torch.empty(rows, RANK).normal_(0, SPREAD, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.0,
        "bias": "none", "target_modules": sorted(name.rpartition(".")[2] for name in size.linear()),
        "base_model_name_or_path": "synthetic", "fan_in_fan_out": False, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
