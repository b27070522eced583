"""The mixture under a budget: never over it, and within a hair of the best there is."""

import itertools
import random

import pytest

from core.errors import Refused
from core.gguf.budget import Choice, solve


def tensors(seed: int, count: int = 5) -> dict[str, list[Choice]]:
    order = random.Random(seed)
    found = {}
    for number in range(count):
        weights, sensitivity = order.randint(1, 50), order.lognormvariate(0, 2)
        found[f"blk.{number}"] = [
            Choice(f"Q{bits}", weights * bits, sensitivity * weights * 4.0**-bits * order.uniform(0.8, 1.2))
            for bits in (2, 3, 4, 5, 6, 8)
        ]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_it_comes_near_the_best_of_all_mixtures(seed: int) -> None:
    choices = tensors(seed)
    ways = itertools.product(*choices.values())
    every = [(sum(one.bytes for one in way), sum(one.error for one in way)) for way in ways]
    jump = max(of[-1].bytes - of[0].bytes for of in choices.values())
    sizes = sorted({size for size, _ in every})
    for budget in (sizes[len(sizes) // 4], sizes[len(sizes) // 2], sizes[-2]):
        found = solve(choices, budget)
        assert found.bytes <= budget
        best = min(error for size, error in every if size <= budget)
        assert best <= found.error * (1 + 1e-9)
        # One tensor's jump is what a single price for all can miss the budget by.
        assert found.error <= min((error for size, error in every if size <= budget - jump), default=float("inf"))
        assert found.error <= 2 * best
        chosen = [next(one for one in choices[name] if one.type == kind) for name, kind in found.types.items()]
        assert found.types.keys() == choices.keys()
        assert (sum(one.bytes for one in chosen), pytest.approx(sum(one.error for one in chosen))) == (
            found.bytes, found.error,
        )  # fmt: skip


def test_enough_room_takes_the_best_of_each_and_too_little_is_refused() -> None:
    choices = tensors(1)
    most = sum(of[-1].bytes for of in choices.values())
    assert set(solve(choices, most).types.values()) == {"Q8"}
    least = sum(of[0].bytes for of in choices.values())
    assert set(solve(choices, least).types.values()) == {"Q2"}
    with pytest.raises(Refused, match="in their smallest types"):
        solve(choices, least - 1)


def test_a_type_that_is_larger_and_worse_is_never_taken() -> None:
    choices = {"a": [Choice("small", 10, 1.0), Choice("worse", 20, 2.0), Choice("good", 30, 0.5)]}
    assert [solve(choices, budget).types["a"] for budget in (10, 25, 30)] == ["small", "small", "good"]
