"""How large the channels become that a BERT's layers multiply with their weights, read from some texts in floats.

A few channels behind a norm are ten times as large as the others, and a scale for all of them leaves the others few
steps. Dividing each by a power of what it reaches, and multiplying its weights by the same, changes nothing but that
(Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4, with an exponent of a half).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from core.encoder.graph_parts import Shape
from core.encoder.reading import Floats

_LEAST = 1e-4  # of a channel that was never used


def reached(weights: Mapping[str, Floats], shape: Shape, texts: Iterable[Floats]) -> dict[str, Floats]:
    """The largest absolute value of each channel, [d], of what each layer's attention and feed-forward part read, by
    their prefix (`blk.0.attn`, `blk.0.ffn`); `texts` are embedded tokens [n, d]."""
    found: dict[str, Floats] = {}

    def seen(name: str, x: Floats) -> None:
        most = np.abs(x).max(axis=0)
        found[name] = np.maximum(found[name], most) if name in found else most

    for text in texts:
        x = _norm(text, weights, "token_embd_norm", shape)
        for layer in range(shape.layers):
            name = f"blk.{layer}."
            seen(f"{name}attn", x)
            x = _norm(_attention(x, weights, name, shape) + x, weights, f"{name}attn_output_norm", shape)
            seen(f"{name}ffn", x)
            y = _linear(_gelu(_linear(x, weights, f"{name}ffn_up")), weights, f"{name}ffn_down")
            x = _norm(y + x, weights, f"{name}layer_output_norm", shape)
    return found


def divisors(most: Floats, weight: Floats) -> Floats:
    """What to divide each channel by, [d], which reaches `most`; `weight` [out, d] is multiplied by the same."""
    heaviest = np.maximum(np.abs(weight).max(axis=0), _LEAST)
    found = np.sqrt(np.maximum(most, _LEAST) / heaviest)
    return np.asarray(found / found.mean(), np.float32)


def _linear(x: Floats, weights: Mapping[str, Floats], name: str) -> Floats:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x: Floats, weights: Mapping[str, Floats], name: str, shape: Shape) -> Floats:
    centred = x - x.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + shape.epsilon)
    return np.asarray(unit * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _gelu(x: Floats) -> Floats:
    """By the tanh: how large a channel becomes does not hang on the difference."""
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _attention(x: Floats, weights: Mapping[str, Floats], name: str, shape: Shape) -> Floats:
    parts = (_linear(x, weights, f"{name}attn_{part}") for part in "qkv")
    query, key, value = (part.reshape(len(x), shape.heads, -1).swapaxes(0, 1) for part in parts)
    likeness = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[2])
    shares = np.exp(likeness - likeness.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return _linear((shares @ value).swapaxes(0, 1).reshape(x.shape), weights, f"{name}attn_output")
