"""The models of the hybrid benchmark: the embedded base off the grid of its file, and one that knows nothing.

The embedded base comes from a Q4_1 file, so its weights lie on that type's grid and Q4_1 costs it almost nothing. Off
the grid it is the same function in other weights: RMSNorm's weights are folded into the matrices behind them, and the
residual stream is turned by a random orthogonal matrix, which RMSNorm without weights does not notice (Ashkboos et al.,
SliceGPT, arXiv:2401.15024, section 3).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from core.training.base import load_model, load_tokenizer


def off_the_grid(base: Path, folder: Path, seed: int) -> float:
    """Write the llama model of the folder `base` with turned weights into `folder`; the largest difference of a logit
    from the original's on a sentence, over the spread of its logits."""
    model = load_model(base, torch.float32)
    ids = torch.tensor([load_tokenizer(base)("The heart pumps blood through the body, and").input_ids])
    with torch.inference_mode():
        before = model(ids).logits.double()
    untie(model)
    turn(model, seed)
    with torch.inference_mode():
        after = model(ids).logits.double()
    save(model, base, folder)
    return float((after - before).abs().max() / before.std())


def untie(model: Any) -> None:
    """Give a model an output head of its own: turned, it is no longer the embedding."""
    head = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.lm_head.weight = head


def turn(model: Any, seed: int) -> None:
    """Fold the norms' weights of a llama model into what follows them and turn its residual stream, in place."""
    size = model.config.hidden_size
    gauss = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, _ = torch.linalg.qr(gauss)

    def reads(linear: Any, norm: Any) -> None:
        linear.weight.copy_((linear.weight.double() * norm.weight.double()) @ q)

    def writes(linear: Any) -> None:
        linear.weight.copy_(q.T @ linear.weight.double())

    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.double() @ q)
        for layer in model.model.layers:
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                reads(linear, layer.input_layernorm)
            for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
                reads(linear, layer.post_attention_layernorm)
            writes(layer.self_attn.o_proj)
            writes(layer.mlp.down_proj)
            layer.input_layernorm.weight.fill_(1)
            layer.post_attention_layernorm.weight.fill_(1)
        reads(model.lm_head, model.model.norm)
        model.model.norm.weight.fill_(1)


def random_weights(base: Path, folder: Path, seed: int) -> None:
    """Write a model of the same shape into `folder`, its matrices normal numbers with the spread the base's have."""
    model = load_model(base, torch.float32)
    untie(model)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                spread = float(parameter.std())
                parameter.copy_(torch.randn(parameter.shape, generator=numbers) * spread)
            else:
                parameter.fill_(1)
    save(model, base, folder)


def initialised(base: Path, folder: Path, seed: int) -> None:
    """Write a model of the same shape into `folder` as the library makes it before any training, its head the
    embedding."""
    torch.manual_seed(seed)
    save(AutoModelForCausalLM.from_config(load_model(base, torch.float32).config).float(), base, folder)


def save(model: Any, base: Path, folder: Path) -> None:
    """Write a model and the tokenizer of `base` as a folder."""
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
