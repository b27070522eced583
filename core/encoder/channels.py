"""How far the channels reach that a BERT's layers multiply with their weights, read from some texts in floats.

A few channels behind a norm are ten times as large as the others, and a scale for all of them leaves the others few
steps. Dividing each by a power of what it reaches, and multiplying its weights by the same, changes nothing but that
(Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from core.encoder.graph_parts import Shape
from core.encoder.reading import Floats

_LEAST = 1e-4  # of a channel that was never used
_SHARE = 0.65  # of the unevenness that the weights take; the exponent of equation 4


def reached(weights: Mapping[str, Floats], shape: Shape, texts: Iterable[Floats]) -> dict[str, Floats]:
    """The least and the most of each channel, [2, d], of what a layer's attention, the end of its attention and its
    feed-forward part read, by name (`blk.0.attn`, `blk.0.attn_output`, `blk.0.ffn`); `texts` are embedded tokens
    [n, d]."""
    found: dict[str, Floats] = {}

    def seen(name: str, x: Floats) -> None:
        least, most = found.get(name, (x[0], x[0]))
        found[name] = np.stack([np.minimum(least, x.min(axis=0)), np.maximum(most, x.max(axis=0))])

    for text in texts:
        x = _norm(text, weights, "token_embd_norm", shape)
        for layer in range(shape.layers):
            name = f"blk.{layer}."
            seen(f"{name}attn", x)
            y = _attention(x, weights, name, shape)
            seen(f"{name}attn_output", y)
            x = _norm(_linear(y, weights, f"{name}attn_output") + x, weights, f"{name}attn_output_norm", shape)
            seen(f"{name}ffn", x)
            y = _linear(_gelu(_linear(x, weights, f"{name}ffn_up")), weights, f"{name}ffn_down")
            x = _norm(y + x, weights, f"{name}layer_output_norm", shape)
    return found


def divisors(reached: Floats, weight: Floats) -> Floats:
    """What to divide each channel by, [d], and to multiply `weight` [out, d] by; `reached` [2, d] is what is least and
    most in each."""
    heaviest = np.maximum(np.abs(weight).max(axis=0), _LEAST)
    found = np.maximum(np.abs(reached).max(axis=0), _LEAST) ** _SHARE / heaviest ** (1 - _SHARE)
    return np.asarray(found / found.mean(), np.float32)


def _linear(x: Floats, weights: Mapping[str, Floats], name: str) -> Floats:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x: Floats, weights: Mapping[str, Floats], name: str, shape: Shape) -> Floats:
    centred = x - x.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + shape.epsilon)
    return np.asarray(unit * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _gelu(x: Floats) -> Floats:
    """By the tanh: how far a channel reaches does not hang on the difference."""
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _attention(x: Floats, weights: Mapping[str, Floats], name: str, shape: Shape) -> Floats:
    parts = (_linear(x, weights, f"{name}attn_{part}") for part in "qkv")
    query, key, value = (part.reshape(len(x), shape.heads, -1).swapaxes(0, 1) for part in parts)
    likeness = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[2])
    shares = np.exp(likeness - likeness.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return np.asarray((shares @ value).swapaxes(0, 1).reshape(x.shape))
