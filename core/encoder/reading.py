"""How much of a text an encoder reads, and its vector from what was read, whichever engine reads it."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from core.encoder.protocol import EncoderError

MOST_TOKENS = 256  # of a text, the rest is not read: what all-MiniLM-L6-v2 was trained on; a context costs memory
# What is read at once under an adapter: a context of llama.cpp costs memory as it grows. Longer texts are read piece by
# piece, and their vector is the mean, as it would be of all their tokens.
PIECE_TOKENS = 56

Floats = npt.NDArray[np.float32]


def pieces(tokens: list[int]) -> list[list[int]]:
    """Tokens in pieces of at most PIECE_TOKENS, each between the first and the last, which begin and end a text."""
    if len(tokens) <= PIECE_TOKENS:
        return [tokens]
    inside, size = tokens[1:-1], PIECE_TOKENS - 2
    return [[tokens[0], *inside[at : at + size], tokens[-1]] for at in range(0, len(inside), size)]


def unit_mean(read: Callable[[list[int]], Floats], texts: Sequence[list[int]]) -> Floats:
    """The mean over the tokens of some pieces at length 1, [d]; `read` gives the mean of one.

    Raises EncoderError for a mean without a length.
    """
    vector = np.sum([np.float32(len(tokens) / len(texts[0])) * read(tokens) for tokens in texts], axis=0)
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise EncoderError("the encoder made a vector without a length", "name another encoder")
    return np.asarray(vector / np.float32(length), np.float32)
