"""Combined changes against plain references in numpy, and against what averaging factors would make."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from core.tasks.context import TaskError
from core.training.margin import Kept, kept_of
from core.training.merge import Update
from core.training.unify import Recipe, combine, concatenated, recompressed, smallest_kept

ROWS, COLUMNS = 48, 40
Array = npt.NDArray[np.float64]


def update(seed: int, *, rank: int = 4, scale: float = 2.0, transposed: bool = False) -> Update:
    random = torch.Generator().manual_seed(seed)
    return Update(
        torch.randn(rank, COLUMNS, generator=random), torch.randn(ROWS, rank, generator=random), scale, transposed
    )


def delta(one: Update) -> Array:
    """The true change in double precision, as the weight is stored."""
    product = one.scale * (one.b.double().numpy() @ one.a.double().numpy())
    return product.T if one.transposed else product


def changed(updates: dict[str, Update], recipe: Recipe, block_bytes: int = 1 << 20) -> Array:
    """The change of a weight of zeros, applied in blocks of rows."""
    change = combine("w", updates, recipe, block_bytes, lambda _energy: None)
    rows, columns = change.shape
    step = max(1, block_bytes // (4 * columns))
    parts = [change.apply(torch.zeros(min(step, rows - at), columns), at) for at in range(0, rows, step)]
    return torch.cat(parts).double().numpy()


def recipe(method: str, **values: Any) -> Recipe:
    return Recipe(method, {"first": 1.0, "second": 1.0, "third": 1.0}, **values)


UPDATES = {"first": update(1), "second": update(2, rank=7), "third": update(3, scale=0.5)}
BLOCKS = (1 << 20, 4 * COLUMNS * 7, 1)  # whole, seven rows with a rest, one row


@pytest.mark.parametrize("block", BLOCKS)
def test_cat_is_the_weighted_sum_of_the_true_changes(block: int) -> None:
    weighted = Recipe("cat", {"first": 1.0, "second": 0.5, "third": 2.0}, scale=1.5)
    wanted = 1.5 * (delta(UPDATES["first"]) + 0.5 * delta(UPDATES["second"]) + 2.0 * delta(UPDATES["third"]))
    assert np.allclose(changed(UPDATES, weighted, block), wanted, atol=1e-4)


def test_linear_is_the_mean_and_what_is_missing_is_zero() -> None:
    wanted = sum(map(delta, UPDATES.values())) / 3
    assert np.allclose(changed(UPDATES, recipe("linear")), wanted, atol=1e-4)
    two = {name: UPDATES[name] for name in ("first", "third")}
    wanted = (delta(two["first"]) + delta(two["third"])) / 3  # the second does not change this weight: by zero
    assert np.allclose(changed(two, recipe("linear")), wanted, atol=1e-4)


def test_averaged_factors_are_something_else() -> None:
    pair = {"first": update(1), "second": update(2)}
    true = changed(pair, Recipe("linear", {"first": 1.0, "second": 1.0}))
    a, b = ((getattr(pair["first"], half) + getattr(pair["second"], half)).double().numpy() / 2 for half in "ab")
    trap = 2.0 * (b @ a)
    assert np.linalg.norm(trap - true) > 0.5 * np.linalg.norm(true)


def reference_ties(deltas: list[Array], density: float, weights: list[float], scale: float) -> Array:
    """Trim, elect, disjoint mean, value by value."""
    kept = []
    for one in deltas:
        order = np.argsort(-np.abs(one), axis=None)[: max(1, round(density * one.size))]
        mask = np.zeros(one.size, bool)
        mask[order] = True
        kept.append(np.where(mask.reshape(one.shape), one, 0.0))
    found = np.zeros_like(deltas[0])
    for place in np.ndindex(*found.shape):
        values = [(weight, one[place]) for weight, one in zip(weights, kept, strict=True) if one[place] != 0]
        total = sum(weight * value for weight, value in values)
        agreeing = [(weight, value) for weight, value in values if value * total > 0]
        if agreeing:
            share = sum(weight for weight, _ in agreeing)
            found[place] = scale * sum(weight * value for weight, value in agreeing) / share
    return found


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_ties_is_trim_elect_and_disjoint_mean(block: int, density: float, transposed: bool) -> None:
    updates = {name: Update(one.a, one.b, one.scale, transposed) for name, one in UPDATES.items()}
    weights = {"first": 1.0, "second": 0.7, "third": 1.3}
    found = changed(updates, Recipe("ties", weights, density=density, scale=1.1), block)
    wanted = reference_ties([delta(one) for one in updates.values()], density, list(weights.values()), 1.1)
    assert np.allclose(found, wanted, atol=1e-4)
    assert np.any(wanted != 0)


def test_ties_keeps_the_largest_values_and_at_least_one() -> None:
    one = update(5)
    magnitudes = np.sort(np.abs(delta(one)), axis=None)
    assert smallest_kept(one, 0.25, 7) == pytest.approx(magnitudes[-round(0.25 * magnitudes.size)], rel=1e-5)
    assert smallest_kept(one, 1e-9, 7) == pytest.approx(magnitudes[-1], rel=1e-5)


def reference_dare(updates: dict[str, Update], weights: dict[str, float], drop: float, seed: int) -> Array:
    """Whole masks from the documented seeds: SHA-256 of seed/domain/weight, PCG64, single precision."""
    total = np.zeros((ROWS, COLUMNS))
    for name, one in updates.items():
        start = int.from_bytes(hashlib.sha256(f"{seed}/{name}/w".encode()).digest()[:16], "big")
        drawn = np.random.Generator(np.random.PCG64(start)).random((ROWS, COLUMNS), dtype=np.float32)
        total += weights[name] * np.where(drawn < drop, 0.0, delta(one)) / (1 - drop)
    return total


@pytest.mark.parametrize("block", BLOCKS)
def test_dare_drops_and_rescales_whatever_the_blocks_are(block: int) -> None:
    weights = {"first": 1.0, "second": 0.5, "third": 2.0}
    found = changed(UPDATES, Recipe("dare", weights, drop=0.6, seed=11), block)
    assert np.allclose(found, reference_dare(UPDATES, weights, 0.6, 11), atol=1e-4)
    other = changed(UPDATES, Recipe("dare", weights, drop=0.6, seed=12), block)
    assert not np.allclose(found, other, atol=1e-2)
    none_dropped = changed(UPDATES, Recipe("dare", weights, drop=0.0))
    assert np.allclose(none_dropped, changed(UPDATES, Recipe("cat", weights)), atol=1e-4)


def test_recompression_is_the_best_of_its_rank() -> None:
    whole = concatenated([(1.0, one) for one in UPDATES.values()])
    u, values, v = np.linalg.svd(delta(whole))
    for rank in (1, 5, 15, 99):
        small, energy = recompressed(whole, rank)
        kept = min(rank, 15)
        assert small.a.shape == (kept, COLUMNS)
        assert np.allclose(delta(small), (u[:, :kept] * values[:kept]) @ v[:kept], atol=1e-3)
        assert energy == pytest.approx((values[:kept] ** 2).sum() / (values**2).sum(), abs=1e-5)
    energies: list[float] = []
    combine("w", UPDATES, recipe("cat", rank=5), 1 << 20, energies.append)
    assert energies == [pytest.approx(recompressed(whole, 5)[1])]


def test_shapes_that_differ_are_refused_with_both_names() -> None:
    wide = Update(torch.ones(2, COLUMNS + 1), torch.ones(ROWS, 2), 1.0, False)
    with pytest.raises(TaskError, match=r"first and second do not fit each other.*\[48, 40\] and \[48, 41\]"):
        combine("w", {"first": update(1), "second": wide}, recipe("ties"), 1, lambda _energy: None)
    with pytest.raises(TaskError, match="unknown merge method 'soup'"):
        combine("w", UPDATES, recipe("soup"), 1, lambda _energy: None)


def test_the_margin_is_relative_to_the_own_adapter() -> None:
    row = Kept("music", 4.0, 2.0, 2.04, 0.1, 0.5, 0.49, 3, 30)
    assert row.change == pytest.approx(0.02)
    assert (row.within(0.0201), row.within(0.0199)) == (True, False)
    assert row.one_line(0.01) == "music base 4.000, own adapter 2.000, unified 2.040 (+2.0%, loses)"
    assert kept_of([row.as_dict(0.01)]) == [row]
