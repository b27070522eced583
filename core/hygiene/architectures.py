"""What a config of each known architecture must say, and the tensors it implies.

Names and shapes are those of the `transformers` classes; a weight is [out, in], except GPT-2's Conv1D, [in, out].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.hygiene.findings import shown
from core.hygiene.reading import Malformed

Shape = tuple[int, ...]
_MAX_LAYERS = 4096
_MAX_WIDTH = 1 << 24
_PREFIXES = ("model.", "transformer.")

BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # what tensors end in that are no weights
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Family:
    """One `model_type`: its class, the config keys without which sizes are unknown, and its tensors."""

    class_name: str
    required: tuple[str, ...]
    embedding: str  # the token embedding's tensor, without prefix
    width_key: str
    layers_key: str
    heads_key: str
    layer_prefix: str  # "layers." or "h."
    positions_key: str
    tensors: Callable[[dict[str, Any]], dict[str, Shape]]
    conv1d: bool = False


_LLAMA_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_GPT2_KEYS = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")


def _number(config: dict[str, Any], key: str, default: int | None = None, limit: int = _MAX_WIDTH) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
        raise Malformed(f"gives {key} as {shown(value)}, not a positive whole number")
    return value


def _llama(config: dict[str, Any], *, qkv_bias: bool = False, qk_norm: bool = False) -> dict[str, Shape]:
    vocabulary, width, inner = (_number(config, key) for key in _LLAMA_KEYS[:3])
    layers = _number(config, "num_hidden_layers", limit=_MAX_LAYERS)
    heads = _number(config, "num_attention_heads")
    head = _number(config, "head_dim", max(1, width // heads))
    query, key_value = heads * head, _number(config, "num_key_value_heads", heads) * head
    all_bias = config.get("attention_bias") is True
    tensors: dict[str, Shape] = {"embed_tokens.weight": (vocabulary, width), "norm.weight": (width,)}
    for index in range(layers):
        at = f"layers.{index}."
        for name, rows, columns, bias in (
            ("self_attn.q_proj", query, width, all_bias or qkv_bias),
            ("self_attn.k_proj", key_value, width, all_bias or qkv_bias),
            ("self_attn.v_proj", key_value, width, all_bias or qkv_bias),
            ("self_attn.o_proj", width, query, all_bias),
            ("mlp.gate_proj", inner, width, config.get("mlp_bias") is True),
            ("mlp.up_proj", inner, width, config.get("mlp_bias") is True),
            ("mlp.down_proj", width, inner, config.get("mlp_bias") is True),
        ):
            tensors[f"{at}{name}.weight"] = (rows, columns)
            if bias:
                tensors[f"{at}{name}.bias"] = (rows,)
        tensors[at + "input_layernorm.weight"] = tensors[at + "post_attention_layernorm.weight"] = (width,)
        if qk_norm:
            tensors[at + "self_attn.q_norm.weight"] = tensors[at + "self_attn.k_norm.weight"] = (head,)
    return tensors


def _phi3(config: dict[str, Any]) -> dict[str, Shape]:
    vocabulary, width, inner = (_number(config, key) for key in _LLAMA_KEYS[:3])
    heads = _number(config, "num_attention_heads")
    head = _number(config, "head_dim", max(1, width // heads))
    key_value = _number(config, "num_key_value_heads", heads) * head
    tensors: dict[str, Shape] = {"embed_tokens.weight": (vocabulary, width), "norm.weight": (width,)}
    for index in range(_number(config, "num_hidden_layers", limit=_MAX_LAYERS)):
        at = f"layers.{index}."
        tensors |= {
            at + "self_attn.qkv_proj.weight": (heads * head + 2 * key_value, width),
            at + "self_attn.o_proj.weight": (width, heads * head),
            at + "mlp.gate_up_proj.weight": (2 * inner, width),
            at + "mlp.down_proj.weight": (width, inner),
            at + "input_layernorm.weight": (width,),
            at + "post_attention_layernorm.weight": (width,),
        }
    return tensors


def _gpt2(config: dict[str, Any]) -> dict[str, Shape]:
    vocabulary, width = _number(config, "vocab_size"), _number(config, "n_embd")
    _number(config, "n_head")
    inner = _number(config, "n_inner", 4 * width)
    tensors: dict[str, Shape] = {
        "wte.weight": (vocabulary, width),
        "wpe.weight": (_number(config, "n_positions"), width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }
    for index in range(_number(config, "n_layer", limit=_MAX_LAYERS)):
        at = f"h.{index}."
        for norm in ("ln_1", "ln_2"):
            tensors[f"{at}{norm}.weight"] = tensors[f"{at}{norm}.bias"] = (width,)
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            tensors[f"{at}{name}.weight"], tensors[f"{at}{name}.bias"] = (rows, columns), (columns,)
    return tensors


def _llama_like(class_name: str, tensors: Callable[[dict[str, Any]], dict[str, Shape]]) -> Family:
    return Family(
        class_name, _LLAMA_KEYS, "embed_tokens.weight", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "layers.", "max_position_embeddings", tensors,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    "llama": _llama_like("LlamaForCausalLM", _llama),
    "mistral": _llama_like("MistralForCausalLM", _llama),
    "qwen2": _llama_like("Qwen2ForCausalLM", lambda config: _llama(config, qkv_bias=True)),
    "qwen3": _llama_like("Qwen3ForCausalLM", lambda config: _llama(config, qk_norm=True)),
    "phi3": _llama_like("Phi3ForCausalLM", _phi3),
    "gpt2": Family(
        "GPT2LMHeadModel", _GPT2_KEYS, "wte.weight", "n_embd", "n_layer", "n_head", "h.", "n_positions", _gpt2,
        conv1d=True,
    ),
}  # fmt: skip
_NOT_ADAPTABLE = ("embed_tokens.weight", "wte.weight", "wpe.weight")


def family_of(config: dict[str, Any]) -> Family | None:
    """The family a config names by `model_type`, else by its class; None when it is not one of those known here."""
    named = config.get("model_type")
    if named is not None:
        return FAMILIES.get(named) if isinstance(named, str) else None
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    return next((family for family in FAMILIES.values() if family.class_name == first), None)


def plain_name(tensor: str) -> str:
    """A tensor's name without the class's own prefix, as `Family.tensors` gives it."""
    for prefix in _PREFIXES:
        if tensor.startswith(prefix):
            return tensor[len(prefix) :]
    return tensor


def expected_tensors(config: dict[str, Any]) -> dict[str, Shape] | None:
    """Every tensor the config implies, by plain name; None for an architecture not known here.

    The output head is left out: whether it is stored depends on tying. Raises Malformed naming a config value that
    is missing or makes no sense.
    """
    family = family_of(config)
    return family.tensors(config) if family else None


def head_shape(config: dict[str, Any], family: Family) -> Shape:
    """The output head's shape, [vocabulary, width]."""
    return (_number(config, "vocab_size"), _number(config, family.width_key))


def linear_modules(config: dict[str, Any]) -> dict[str, tuple[int, int]] | None:
    """The linear layers by plain module path (`layers.0.self_attn.q_proj`) with (in, out) sizes; None when unknown."""
    family = family_of(config)
    if family is None:
        return None
    modules: dict[str, tuple[int, int]] = {}
    for name, shape in family.tensors(config).items():
        if len(shape) == 2 and name not in _NOT_ADAPTABLE:
            rows, columns = shape
            modules[name.removesuffix(".weight")] = (rows, columns) if family.conv1d else (columns, rows)
    vocabulary, width = head_shape(config, family)
    modules["lm_head"] = (width, vocabulary)
    return modules
