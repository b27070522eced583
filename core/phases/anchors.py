"""What a type costs in quality where nothing was measured of a model: figures of other models, scaled to it.

A figure that is taken from here is an estimate and is shown as one, with its source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from core.phases.choices import ESTIMATED, Figure


@dataclass(frozen=True)
class Anchor:
    """A model on which all four types were measured, with an importance matrix: KL divergence from F16 (nats a token)
    and share of same top tokens by type. `mixed`: by type, the KL of a mixture of types of the same size, as a share of
    the plain file's."""

    model: str
    parameters: float
    kl: Mapping[str, float]
    same_top: Mapping[str, float]
    source: str
    mixed: Mapping[str, float]


ANCHORS: Sequence[Anchor] = (
    Anchor(
        "SmolLM2 135M",
        135e6,
        {"Q2_K": 0.660, "Q4_K_M": 0.0885, "Q5_K_M": 0.0742, "Q8_0": 0.00505},
        {"Q2_K": 0.483, "Q4_K_M": 0.794, "Q5_K_M": 0.818, "Q8_0": 0.931},
        "TARA, docs/phases.md",
        {"Q2_K": 0.28, "Q4_K_M": 0.57, "Q5_K_M": 0.46, "Q8_0": 1.0},
    ),
    Anchor(
        "Llama 3 8B",
        8.03e9,
        {"Q2_K": 0.33222, "Q4_K_M": 0.02815, "Q5_K_M": 0.01076, "Q8_0": 0.00136},
        {"Q2_K": 0.711, "Q4_K_M": 0.919, "Q8_0": 0.977},
        "llama.cpp, tools/perplexity/README.md",
        {},
    ),
)


def anchor_for(parameters: float) -> Anchor:
    """The anchor nearest in size, as a ratio."""
    return min(ANCHORS, key=lambda one: abs(math.log(one.parameters / max(parameters, 1.0))))


@dataclass(frozen=True)
class Known:
    """What was measured of a model's plain files: KL by type."""

    kl: Mapping[str, float]

    def scale(self, anchor: Anchor) -> float:
        """How much more this model loses than the anchor: the geometric mean over the types measured of both."""
        both = [self.kl[name] / anchor.kl[name] for name in self.kl if self.kl[name] > 0 and name in anchor.kl]
        return math.exp(sum(map(math.log, both)) / len(both)) if both else 1.0


def plain_kl(quantization: str, anchor: Anchor, known: Known) -> Figure:
    """The KL of a plain file that was not measured: the anchor's, scaled by what was measured of the model's others."""
    says = f"{anchor.model} ({anchor.source})"
    if known.kl:
        says += f", scaled by this model's {', '.join(sorted(known.kl))}"
    return Figure(anchor.kl[quantization] * known.scale(anchor), ESTIMATED, says)


def mixed_kl(quantization: str, plain: Figure, anchor: Anchor) -> Figure:
    """The KL of a mixture of types as large as a plain file: the share the anchor's mixture had of its plain file's;
    where none was measured, no better than the plain file."""
    share = anchor.mixed.get(quantization, 1.0)
    how = f"{share:.2f} times {quantization}'s" if share != 1.0 else f"taken as no better than {quantization}"
    return Figure(plain.value * share, ESTIMATED, f"{how}; {plain.source}")


def budget_kl(target: float, sizes: Mapping[str, float], kl: Mapping[str, Figure]) -> Figure:
    """The KL of a mixture of `target` bytes, from those of mixtures as large as the plain types: on a straight line
    between logarithms, along bytes; beyond them the nearest."""
    points = sorted((sizes[name], math.log(max(kl[name].value, 1e-9)), name) for name in sizes)
    value = math.exp(interpolated(target, [(at, log) for at, log, _ in points]))
    near = min(points, key=lambda point: abs(point[0] - target))[2]
    return Figure(value, ESTIMATED, f"between mixtures of the plain types' sizes; {kl[near].source}")


def top_share(kl: Figure, anchor: Anchor) -> Figure:
    """The share of same top tokens that goes with a KL divergence, along the anchor's own pairs."""
    if kl.value <= 0:
        return Figure(1.0, kl.by, kl.source)
    pairs = sorted((math.log(anchor.kl[name]), share) for name, share in anchor.same_top.items())
    least = math.exp(pairs[0][0])
    if kl.value < least:  # towards no divergence every top token is the same; disagreement grows with its square root
        share = 1 - (1 - pairs[0][1]) * math.sqrt(kl.value / least)
    else:
        share = interpolated(math.log(kl.value), pairs)
    return Figure(share, ESTIMATED, f"from its KL, as for {anchor.model}")


def interpolated(at: float, points: Sequence[tuple[float, float]]) -> float:
    """The value at a place on straight lines between points in order; beyond them the nearest point's."""
    if at <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1]
