"""How much memory a model of some shape takes to train or to run: arithmetic only, for plans made without torch."""

from dataclasses import dataclass

LORA_BYTES = 16  # a trained parameter in float32 with its gradient and Adam's two moments
LOADING_SLACK = 1.1  # buffers of the loader and the allocator's rounding
HEAD_ROWS, HEAD_BYTES = 64, 32 * 10**6  # logits held at once: of so many target positions, more while so small
# Values kept for the backward pass of one layer, a token, as multiples of the hidden and of the feed-forward size:
# counted with torch's saved-tensor hooks on llama, qwen2, phi3 and gpt2 (tests/core/training/test_memory.py holds the
# plan against that count) and rounded up. gpt2's activation function is made of many steps, each of which is kept.
HIDDEN_COPIES = 13
GATED_COPIES = 4
PLAIN_COPIES = 9
# Dropout before an adapter keeps a copy of its input and a mask: of six hidden-sized and one feed-forward input.
DROPOUT_COPIES = 1.5
ALLOCATOR = 1.7  # gradients on their way back, and holes between blocks of changing size: measured on the embedded base
LOGIT_COPIES = 3  # a chunk's logits in float32, its probabilities, and a temporary


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory. `inner` is the feed-forward size; `gated`: it has a gate beside it."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    gated: bool = True


def activation_bytes(shape: Shape, *, tokens: int, dropout: float) -> int:
    """Bytes kept for the backward pass over `tokens` tokens, in float32. Attention is not in it: its fused form keeps
    no scores."""
    values = HIDDEN_COPIES * shape.hidden + (GATED_COPIES if shape.gated else PLAIN_COPIES) * shape.inner
    if dropout:
        values += int(DROPOUT_COPIES * (6 * shape.hidden + shape.inner))
    return int(tokens * shape.layers * values * 4 * ALLOCATOR)


def head_rows(vocabulary: int) -> int:
    """Target positions whose logits are held at once: with few of them the head is read from memory too often."""
    return max(HEAD_ROWS, HEAD_BYTES // (4 * max(1, vocabulary)))  # 0: not known


def logit_bytes(shape: Shape, rows: int) -> int:
    """Bytes of the logits of `rows` positions."""
    return rows * shape.vocabulary * 4 * LOGIT_COPIES


def most_lora_parameters(shape: Shape, r: int) -> int:
    """At most so many parameters are trained by rank-`r` LoRA on all linear layers: r * (in + out) of each."""
    feed_forward = (3 if shape.gated else 2) * (shape.hidden + shape.inner)
    return r * shape.layers * (8 * shape.hidden + feed_forward)
