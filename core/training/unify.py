"""Several adapters of one base combined into one change of each of its weights, in float32.

What is combined are the true changes, scale * B @ A, never their factors: the product of averaged factors holds cross
terms B_i @ A_j of adapters that have nothing to do with each other. A weight that an adapter does not change is changed
by zero. In the formulas w_i are the domains' weights, D_i their changes and s the recipe's scale.

- `cat`: s * sum of w_i D_i, exactly: the factors are laid side by side (rank: the sum of the ranks). With `rank` the
  sum is brought to that rank, in the best way there is (Eckart and Young 1936).
- `linear`: s * sum of w_i D_i / sum of w_i, the mean.
- `ties`: trim, elect signs, disjoint mean (Yadav et al. 2023, arXiv:2306.01708).
- `dare`: drop at random and rescale, then the sum of w_i D_i (Yu et al. 2023, arXiv:2311.03099).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core.tasks.context import TaskError
from core.training.merge import Change, Update, rows_at_once


@dataclass(frozen=True)
class Recipe:
    """How changes are combined. `weights` by domain; `density` is the share that ties keeps of a change, `drop` the
    probability with which dare drops a value, `rank` that of the sum for cat, 0 for all of it."""

    method: str
    weights: Mapping[str, float]
    scale: float = 1.0
    density: float = 0.2
    drop: float = 0.5
    rank: int = 0
    seed: int = 0

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Recipe":
        """A recipe as a job's parameters say it; other parameters are left alone."""
        known = ("method", "weights", "scale", "density", "drop", "rank", "seed")
        return cls(**{name: params[name] for name in known if name in params})


def combine(
    weight: str, updates: Mapping[str, Update], recipe: Recipe, block_bytes: int, on_energy: Callable[[float], None]
) -> Change:
    """One change of the weight `weight` from those of some domains, at least one.

    `on_energy` hears what share of the squared sum a `rank` kept. Raises TaskError where the shapes differ, and for a
    method that is not known.
    """
    _same_shape(weight, updates)
    if recipe.method == "ties":
        parts = [(recipe.weights[domain], update) for domain, update in updates.items()]
        return Ties(parts, recipe.density, recipe.scale, block_bytes)
    if recipe.method == "dare":
        return Dare(weight, updates, recipe)
    if recipe.method not in ("cat", "linear"):
        raise TaskError(f"unknown merge method {recipe.method!r}", "cat, ties, dare or linear")
    whole = sum(recipe.weights.values()) if recipe.method == "linear" else 1.0
    added = concatenated([(recipe.weights[domain], update) for domain, update in updates.items()], recipe.scale / whole)
    if recipe.method == "cat" and recipe.rank:
        added, energy = recompressed(added, recipe.rank)
        on_energy(energy)
    return added


def _same_shape(weight: str, updates: Mapping[str, Update]) -> None:
    (first, one), *others = updates.items()
    for domain, other in others:
        if (other.shape, other.transposed) != (one.shape, one.transposed):
            raise TaskError(
                f"the adapters of {first} and {domain} do not fit each other: they change {weight} in shapes "
                f"{one.shape} and {other.shape}",
                "train both on the same base",
            )


def concatenated(parts: Sequence[tuple[float, Update]], scale: float = 1.0) -> Update:
    """The weighted sum of changes as one, exactly: factors side by side, `a` (sum of ranks, in), `b` (out, sum)."""
    a = torch.cat([update.a.float() for _, update in parts])
    b = torch.cat([update.b.float() * (weight * update.scale) for weight, update in parts], dim=1)
    return Update(a, b, scale, parts[0][1].transposed)


def recompressed(update: Update, rank: int) -> tuple[Update, float]:
    """The change of rank `rank` that is nearest to another one, and the share of its squared values that it keeps.

    The singular values of B @ A are those of the small core R_b @ R_a^T of both factors' QR decompositions, so that the
    product itself, (out, in), is never made.
    """
    q_b, r_b = torch.linalg.qr(update.b.double())
    q_a, r_a = torch.linalg.qr(update.a.double().T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    b, a = q_b @ (u[:, :kept] * root), (root[:, None] * v[:kept]) @ q_a.T
    squares = values.square()
    energy = float(squares[:kept].sum() / squares.sum()) if squares.any() else 1.0
    return Update(a.float(), b.float(), update.scale, update.transposed), energy


class Ties:
    """Of each change the largest `density` of its values is kept; each place takes the sign that the kept values' sum
    has there, and the mean of the values of that sign. Where the sum is zero nothing is changed."""

    def __init__(self, parts: Sequence[tuple[float, Update]], density: float, scale: float, block_bytes: int) -> None:
        self._parts = parts
        self._scale = scale
        rows = rows_at_once(self.shape, block_bytes)
        self._bounds = [smallest_kept(update, density, rows) for _, update in parts]

    @property
    def shape(self) -> list[int]:
        """The shape of the weight it changes, as that is stored."""
        return self._parts[0][1].shape

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the changed weight from number `first` on, in their own dtype."""
        kept = []
        for (weight, update), bound in zip(self._parts, self._bounds, strict=True):
            delta = update.delta(first, first + rows.shape[0])
            kept.append((weight, delta.masked_fill_(delta.abs() < bound, 0.0)))
        total = torch.zeros_like(kept[0][1])
        for weight, delta in kept:
            total.add_(delta, alpha=weight)
        sign = total.sign_()
        mean, count = torch.zeros_like(sign), torch.zeros_like(sign)
        for weight, delta in kept:
            agrees = (delta.sign() == sign) & (delta != 0)
            mean.add_(delta * agrees, alpha=weight)
            count.add_(agrees, alpha=weight)
        mean.div_(count.masked_fill_(count == 0, 1.0)).mul_(self._scale)
        return mean.add_(rows).to(rows.dtype)


def smallest_kept(update: Update, density: float, rows: int) -> float:
    """The magnitude from which on a change's values are among its largest share `density`, at least one of them.

    The change is made in blocks of `rows` as when it is applied: the bound is one of its values to the last bit.
    """
    count, width = update.shape
    magnitudes = np.empty(count * width, np.float32)
    for first in range(0, count, rows):
        block = update.delta(first, min(count, first + rows)).abs_()
        magnitudes[first * width : first * width + block.numel()] = block.flatten().numpy()
    place = magnitudes.size - max(1, round(density * magnitudes.size))
    magnitudes.partition(place)
    return float(magnitudes[place])


class Dare:
    """Of each change every value is dropped with probability `drop`, the others are divided by 1 - drop, which keeps
    the mean. What is dropped follows from seed, domain and weight alone, whatever the blocks are."""

    def __init__(self, weight: str, updates: Mapping[str, Update], recipe: Recipe) -> None:
        self._updates = updates
        self._recipe = recipe
        self._chance = {domain: chance(recipe.seed, domain, weight) for domain in updates}

    @property
    def shape(self) -> list[int]:
        """The shape of the weight it changes, as that is stored."""
        return next(iter(self._updates.values())).shape

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the changed weight from number `first` on, in their own dtype."""
        drop = self._recipe.drop
        total = torch.zeros(rows.shape, dtype=torch.float32)
        for domain, update in self._updates.items():
            delta = update.delta(first, first + rows.shape[0])
            kept = self._chance[domain].random(tuple(delta.shape), dtype=np.float32) >= np.float32(drop)
            total.add_(delta.mul_(torch.from_numpy(kept)), alpha=self._recipe.weights[domain])
        return total.mul_(self._recipe.scale / (1 - drop)).add_(rows).to(rows.dtype)


def chance(seed: int, domain: str, weight: str) -> np.random.Generator:
    """The random numbers of a domain's change of a weight, row by row of the weight as it is stored."""
    digest = hashlib.sha256(f"{seed}/{domain}/{weight}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
