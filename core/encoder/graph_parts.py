"""What the graph of an encoder is made of, by name: for who makes one and who asks whether one can be made."""

from dataclasses import dataclass

INPUT, OUTPUT = "tokens", "vector"
PER_LAYER, BESIDE = 16, 5  # tensors of a layer, and beside the layers


@dataclass(frozen=True)
class Shape:
    """What the weights do not say: layers, heads, and the number that a norm adds to the variance."""

    layers: int
    heads: int
    epsilon: float


def names_of(layers: int) -> set[str]:
    """The tensors such a graph is made of, the embeddings' among them; a file with others is another architecture."""
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down", "layer_output_norm")
    of_layers = {f"blk.{at}.{part}.{kind}" for at in range(layers) for part in parts for kind in ("weight", "bias")}
    embeddings = {"token_embd.weight", "position_embd.weight", "token_types.weight"}
    return of_layers | embeddings | {"token_embd_norm.weight", "token_embd_norm.bias"}
