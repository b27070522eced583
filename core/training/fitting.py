"""How much of a model may stay: the numbers of layers and feed-forward channels that fit a bound. Standard library
only: what would fit is also asked before anything is built."""

from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 256  # weights that the K types pack together; rows of another length fall back to larger types
SMALL_BLOCK = 32  # of the other types
WIDTHS = 4  # numbers of channels that are tried, the whole among them
NARROWEST = 0.5  # share of the channels that stay at least


@dataclass(frozen=True)
class Anatomy:
    """Layers and feed-forward channels of a model. `cuttable`: its feed-forward parts are of a kind whose channels can
    be taken out; `block_weights` counts the weights of all layers, `channel_weights` those of a channel of a layer."""

    layers: int
    channels: int
    cuttable: bool
    block_weights: int
    channel_weights: int


@dataclass(frozen=True)
class Choice:
    """How many layers and channels stay."""

    layers: int
    width: int


def protected(layers: int) -> int:
    """How many of the first and of the last layers always stay: two, of a model with few layers fewer."""
    return 2 if layers >= 8 else 1 if layers >= 3 else 0


def fewest(layers: int) -> int:
    """The least number of layers that can stay."""
    return max(1, 2 * protected(layers))


def widths(about: Anatomy) -> tuple[tuple[int, ...], int]:
    """Numbers of channels to try, from all of them down to half, and the block they are multiples of (0: the channels
    cannot be taken out). Rows that are no multiple of 256 would make K types fall back to larger ones."""
    inner = about.channels
    block = next((size for size in (BLOCK, SMALL_BLOCK) if about.cuttable and inner % size == 0), 0)
    if not block:
        return (inner,), 0
    blocks, least = inner // block, max(1, -(-int(inner * NARROWEST) // block))
    steps = sorted({round(blocks + (least - blocks) * at / (WIDTHS - 1)) for at in range(WIDTHS)}, reverse=True)
    return tuple(count * block for count in steps), block


def choices_within(about: Anatomy, fits: Callable[[Choice], bool]) -> list[Choice]:
    """For each number of channels the most layers with which a model fits; widths with which none does, or no more
    than with more channels, are left out. More layers must never fit where fewer do not."""
    found: list[Choice] = []
    for width in widths(about)[0]:
        low, high = fewest(about.layers) - 1, about.layers
        while low < high:
            middle = (low + high + 1) // 2
            if fits(Choice(middle, width)):
                low = middle
            else:
                high = middle - 1
        if low >= fewest(about.layers) and (not found or low > found[-1].layers):
            found.append(Choice(low, width))
    return found


def weights_of(about: Anatomy, choice: Choice) -> int:
    """Weights of the layers of a model cut to a choice; layers are taken as equally large."""
    return round(choice.layers * (about.block_weights / about.layers - _missing(about, choice) * about.channel_weights))


def _missing(about: Anatomy, choice: Choice) -> int:
    return about.channels - choice.width if about.cuttable else 0
